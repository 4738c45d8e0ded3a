"""Reading folders and tables: training photographs with their labels, and the photographs to predict.

Nothing here opens a picture, except `unreadable_images`, which tells which of them cannot be opened.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from PIL import Image, ImageOps

from config import UserError
from tasks import GENDERS, MASKS, MAX_AGE, SHOTS, age_group, encode_class
from utils import some

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
CORRECTION_COLUMNS = ("id", "gender", "age", "file", "mask")


@dataclass
class Report:
    """What was found wrong: `errors` stop training, `notes` do not. One sentence each."""

    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def error(self, names: Iterable[str], noun: str, what: str) -> None:
        """Add an error that names what it is about, unless there is nothing: "2 folders whose name is ...: a, b."."""
        self._add(self.errors, names, noun, what)

    def note(self, names: Iterable[str], noun: str, what: str) -> None:
        """Add a note in the same form."""
        self._add(self.notes, names, noun, what)

    @staticmethod
    def _add(sentences: list[str], names: Iterable[str], noun: str, what: str) -> None:
        names = list(names)
        if names:
            sentences.append(f"{len(names)} {noun}{'s' if len(names) > 1 else ''} {what}: {some(names)}.")

    def raise_errors(self) -> None:
        """Raise all errors at once as one `UserError`, one line each; does nothing when there are none."""
        if self.errors:
            raise UserError("\n".join(self.errors))


# ------------------------------------------------------------------------------------------------ training photographs


def read_training_table(root: str | Path, corrections: str | Path | None = None) -> tuple[pd.DataFrame, Report]:
    """All photographs below one folder with their labels, and what is wrong with them; see `read_training_tables`."""
    (table,), report = read_training_tables({"--train-root": root}, corrections)
    return table, report


def read_training_tables(
    roots: Mapping[str, str | Path], corrections: str | Path | None = None
) -> tuple[list[pd.DataFrame], Report]:
    """All photographs below each of some folders with their labels, and what is wrong with them.

    Labels come from the folder names `<id>_<gender>_<race>_<age>`, or from train.csv beside a root where it lists the
    folder, and from the file stems; `corrections` change them. Hidden files are ignored.

    Args:
        roots: the folders, by the option that names each, which a message may have to name.
        corrections: CSV of corrections to all of them.

    Returns:
        For each root a table with one row an image, ordered by folder and file: image (path below the root), path, id
        (of the folder), person (the id before a `-`: two folders of one person), gender, mask and ageg (numbers), age
        (years), label (class 0..17); and a report on all.

    Raises:
        UserError: there is no such folder, or a table has not the columns it needs.
    """
    report = Report()
    rows = [row for option, root in roots.items() for row in _read_folders(Path(root), option, report)]
    table = pd.DataFrame(rows, columns=["root", "image", "path", "id", "person", "gender", "age", "mask"])
    if corrections is not None:
        table = _correct(table, Path(corrections), report)
    table["ageg"] = [age_group(age) for age in table["age"]]
    table["label"] = [encode_class(*row) for row in zip(table["mask"], table["gender"], table["ageg"], strict=True)]
    tables = [table[table["root"] == option].drop(columns="root") for option in roots]
    return [part.reset_index(drop=True) for part in tables], report


def _read_folders(root: Path, option: str, report: Report) -> list[dict]:
    """The rows of one root, without what follows from others; what cannot be read goes into the report."""
    if not root.is_dir():
        raise UserError(
            f"There is no folder {root}. Put photographs there, pass another {option}, or make a sample set with: "
            "python make_sample.py"
        )
    listed = _read_train_csv(root.absolute().parent / "train.csv", report)
    rows: list[dict] = []
    unnamed, unknown, surplus, disagree, empty = [], [], [], [], []
    for folder in sorted(_visible(root), key=lambda entry: entry.name):
        if not folder.is_dir():
            surplus.append(folder.name)
            continue
        named, told = parse_person(folder.name), listed.pop(folder.name, None)
        person = told or named
        if person is None:
            unnamed.append(folder.name)
            continue
        if told and named and (told["gender"], told["age"]) != (named["gender"], named["age"]):
            disagree.append(folder.name)
        files = sorted(_visible(folder.path), key=lambda entry: entry.name)
        if not files:
            empty.append(folder.name)
        for file in files:
            stem, extension = os.path.splitext(file.name)
            if extension.lower() not in EXTENSIONS:
                surplus.append(f"{folder.name}/{file.name}")
            elif stem.lower() not in SHOTS:
                unknown.append(f"{folder.name}/{file.name}")
            else:
                mask = MASKS.index(SHOTS[stem.lower()])
                image = f"{folder.name}/{file.name}"
                rows.append({"root": option, **person, "image": image, "path": file.path, "mask": mask})
    report.error(unnamed, "folder", "whose name is not <id>_<gender>_<race>_<age> with gender male or female")
    report.error(unknown, "image", "whose name is none of the shots mask1..mask5, incorrect_mask, normal")
    report.note(surplus, "file", "that this toolkit does not read")
    report.note(empty, "folder", "without a photograph")
    report.note(disagree, "folder", "whose name and train.csv disagree, train.csv is used")
    report.note(listed, "row", "in train.csv without a folder")
    if not rows and not report.errors:
        report.errors.append(
            f"{root} holds no photographs; it should hold one folder a person, such as 000001_female_Asian_25."
        )
    return rows


def parse_person(folder: str) -> dict | None:
    """id, person, gender (number) and age (years) of a folder name `<id>_<gender>_<race>_<age>`, or None."""
    match = re.fullmatch(r"([^_]+)_([A-Za-z]+)_.+_(\d+)", folder)
    if match is None:
        return None
    identity, gender, age = match.groups()
    return _person(identity, gender, age)


def _person(identity: str, gender: str, age: str) -> dict | None:
    gender, age = gender.strip().lower(), age.strip().removesuffix(".0")
    if not identity or gender not in GENDERS or not age.isdecimal() or int(age) > MAX_AGE:
        return None
    return {
        "id": identity,
        "person": identity.split("-")[0],
        "gender": GENDERS.index(gender),
        "age": int(age),
    }


def _visible(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV as dicts of strings (missing cells are empty).

    Raises:
        UserError: no such file, or a needed column is not there.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            rows = [{key: value or "" for key, value in row.items() if key} for row in reader]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as CSV in UTF-8.") from None
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it needs {','.join(needed)} in its first line.")
    return rows


def _read_train_csv(path: Path, report: Report) -> dict[str, dict]:
    if not path.is_file():
        return {}
    people, wrong = {}, []
    for row in _read_rows(path, ("id", "gender", "age", "path")):
        person = _person(row["id"], row["gender"], row["age"])
        if person is None:
            wrong.append(row["path"] or row["id"])
        else:
            people[row["path"]] = person
    report.error(wrong, "row", "of train.csv whose id, gender or age cannot be read")
    return people


def _correct(table: pd.DataFrame, path: Path, report: Report) -> pd.DataFrame:
    """The table with the corrections applied; what was changed is noted, what cannot be applied is an error."""
    table = table.copy()
    folders = table.groupby("id").groups
    changed, unknown, wrong = 0, [], []
    for number, row in enumerate(_read_rows(path, ("id",)), start=2):
        gender, age, file, mask = (row.get(name, "").strip().lower() for name in CORRECTION_COLUMNS[1:])
        images = folders.get(row["id"].strip())
        if images is None:
            unknown.append(row["id"])
            continue
        named = [i for i in images if Path(table.at[i, "image"]).stem.lower() == file.rsplit(".", 1)[0]] if file else []
        fits = (
            gender in ("", *GENDERS)
            and (not age or (age.isdecimal() and int(age) <= MAX_AGE))
            and mask in ("", *MASKS)
            and bool(file) == bool(mask)
            and bool(file) == bool(named)
        )
        if not fits:
            wrong.append(f"line {number} ({row['id']})")
            continue
        before = table.loc[images, ["gender", "age", "mask"]].copy()
        if gender:
            table.loc[images, "gender"] = GENDERS.index(gender)
        if age:
            table.loc[images, "age"] = int(age)
        if mask:
            table.loc[named, "mask"] = MASKS.index(mask)
        changed += int((before != table.loc[images, ["gender", "age", "mask"]]).any(axis=1).sum())
    report.error(unknown, "row", f"of {path} about people who are not there")
    what = f"gender male or female, age in years, file with mask {', '.join(MASKS)}"
    report.error(wrong, "row", f"of {path} that cannot be applied ({what})")
    report.notes.append(f"Corrections of {path} changed the labels of {changed} image{'s' if changed != 1 else ''}.")
    return table


def describe_problems(table: pd.DataFrame, report: Report) -> None:
    """Note what training can do with, but a person should know: missing shots, and people with two labels."""
    shots = table.assign(shot=[Path(image).stem.lower() for image in table["image"]]).groupby("id")["shot"].agg(set)
    short = [f"{identity} ({some(sorted(set(SHOTS) - have))})" for identity, have in shots.items() if set(SHOTS) - have]
    report.note(short, "folder", "with missing shots")
    labels = table.groupby("person")[["gender", "age"]].nunique().max(axis=1)
    report.note([name for name, count in labels.items() if count > 1], "person", "with two labels")


# ------------------------------------------------------------------------------------------------ to be predicted


@dataclass(frozen=True)
class PredictionList:
    """The photographs to predict in the order of the submission: ids, their files, and sentences worth saying."""

    ids: list[str]
    paths: list[Path]
    notes: list[str]


def read_prediction_list(root: str | Path) -> PredictionList:
    """The photographs in `root`, in the order of info.csv beside it, or else of their sorted names.

    Raises:
        UserError: no such folder, nothing in it, or info.csv lists an id twice or one without a photograph.
    """
    root = Path(root)
    if not root.is_dir():
        other = root.parent / "eval" / "images"
        hint = f" There is one at {other}." if other.is_dir() else ""
        raise UserError(f"There is no folder {root}. Put the photographs to predict there or pass --data-root.{hint}")
    files = {entry.name: Path(entry.path) for entry in _visible(root) if entry.name.lower().endswith(EXTENSIONS)}
    if not files:
        raise UserError(f"{root} holds no photographs ({', '.join(EXTENSIONS)}).")
    info = root.absolute().parent / "info.csv"
    if not info.is_file():
        ids = sorted(files)
        return PredictionList(
            ids, [files[name] for name in ids], [f"There is no {info}: rows are ordered by file name."]
        )
    ids = [row["ImageID"] for row in _read_rows(info, ("ImageID",))]
    if not ids:
        raise UserError(f"{info} lists no images; delete it to predict all of {root} in the order of their names.")
    report = Report()
    report.error([name for name, count in Counter(ids).items() if count > 1], "id", f"listed twice in {info}")
    report.error([name for name in ids if name not in files], "id", f"of {info} without an image in {root}")
    report.raise_errors()
    report.note(sorted(set(files) - set(ids)), "image", f"in {root} that {info} does not list, left out")
    return PredictionList(ids, [files[name] for name in ids], report.notes)


# ------------------------------------------------------------------------------------------------ pictures


def read_image(path: str | Path) -> Image.Image:
    """A photograph as PIL RGB, turned the way its EXIF tag says.

    Raises:
        UserError: it is not there or cannot be decoded to the end.
    """
    with _opened(path) as image:
        turned = ImageOps.exif_transpose(image)
        # A palette may hold transparency that only RGBA can express.
        return (turned.convert("RGBA") if turned.mode == "P" else turned).convert("RGB")


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}).") from None


def unreadable_images(paths: Sequence[str | Path]) -> list[str]:
    """One sentence for each picture that cannot be decoded to the end.

    JPEGs are decoded at an eighth of their size, which reads every byte and is quicker.
    """

    def check(path: str | Path) -> str | None:
        try:
            with _opened(path) as image:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return [sentence for sentence in pool.map(check, paths, chunksize=16) if sentence]


def identical_files(paths: Sequence[str | Path]) -> list[list[str]]:
    """Groups of files with the same bytes, each of two or more; what is no file is left out."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        if Path(path).is_file():
            by_size[Path(path).stat().st_size].append(str(path))
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for group in by_size.values():
        for path in group if len(group) > 1 else ():
            with Path(path).open("rb") as file:
                by_digest[hashlib.file_digest(file, "sha256").digest()].append(path)
    return [group for group in by_digest.values() if len(group) > 1]


def read_answers(path: str | Path) -> dict[str, float]:
    """The `ImageID,ans` rows of a submission or of true answers.

    Raises:
        UserError: no such file, a column is missing, an id stands twice or an answer is not a number.
    """
    rows = _read_rows(Path(path), ("ImageID", "ans"))
    if not rows:
        raise UserError(f"{path} holds no rows.")
    twice = [name for name, count in Counter(row["ImageID"] for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{path} lists images twice: {some(twice)}.")
    try:
        return {row["ImageID"]: float(row["ans"]) for row in rows}
    except ValueError as error:
        raise UserError(f"{path} holds an answer that is not a number ({error}).") from None
