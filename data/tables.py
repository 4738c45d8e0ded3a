"""Reading folders and tables: training photographs with their labels, and the photographs to predict.

Nothing here opens a picture.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from data.label_math import age_group, encode_class
from data.tasks import GENDERS, MASKS, MAX_AGE, SHOTS
from utils import UserError, shorten_list

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FOLDER_NAME = re.compile(r"([^_]+)_([A-Za-z]+)_.+_(\d+)")  # <id>_<gender>_<race>_<age>
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
            sentences.append(f"{len(names)} {noun}{'s' if len(names) > 1 else ''} {what}: {shorten_list(names)}.")

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
    unnamed, unaged, unknown, surplus, disagree, empty, newborn = [], [], [], [], [], [], []
    for folder in sorted(visible_entries(root), key=lambda entry: entry.name):
        if not folder.is_dir():
            surplus.append(folder.name)
            continue
        named, told = parse_person(folder.name), listed.pop(same_name(folder.name), None)
        person = told or named
        if person is None:
            match = FOLDER_NAME.fullmatch(folder.name)
            (unaged if match and match[2].lower() in GENDERS else unnamed).append(folder.name)
            continue
        if person["age"] == 0:
            newborn.append(folder.name)
        if told and named and (told["gender"], told["age"]) != (named["gender"], named["age"]):
            disagree.append(folder.name)
        files = sorted(visible_entries(folder.path), key=lambda entry: entry.name)
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
    report.error(unaged, "folder", f"whose age is not 0 to {MAX_AGE}")
    report.error(unknown, "image", "whose name is none of the shots mask1..mask5, incorrect_mask, normal")
    report.note(surplus, "file", "that this toolkit does not read")
    report.note(empty, "folder", "without a photograph")
    report.note(disagree, "folder", "whose name and train.csv disagree, train.csv is used")
    report.note(newborn, "folder", "of people aged 0, which may stand for an age that is not known")
    report.note(listed, "row", "in train.csv without a folder")
    if not rows and not report.errors:
        report.errors.append(
            f"{root} holds no photographs; it should hold one folder a person, such as 000001_female_Asian_25."
        )
    return rows


def parse_person(folder: str) -> dict | None:
    """id, person, gender (number) and age (years) of a folder name `<id>_<gender>_<race>_<age>`, or None."""
    match = FOLDER_NAME.fullmatch(folder)
    if match is None:
        return None
    identity, gender, age = match.groups()
    return _person(identity, gender, age)


def _person(identity: str, gender: str, age: str) -> dict | None:
    identity, gender, years = same_name(identity), gender.strip().lower(), _age(age)
    if not identity or gender not in GENDERS or years is None:
        return None
    return {
        "id": identity,
        "person": identity.split("-")[0] or identity,
        "gender": GENDERS.index(gender),
        "age": years,
    }


def _age(text: str) -> int | None:
    """An age in years of 0 to MAX_AGE, also where a spreadsheet wrote 25 as 25.0; None for anything else."""
    digits = text.strip().removesuffix(".0")
    return int(digits) if digits.isdecimal() and len(digits) <= 3 and int(digits) <= MAX_AGE else None


def same_name(name: str) -> str:
    """A name as it is compared: without spaces around it, and composed, since macOS takes letters like é apart."""
    return unicodedata.normalize("NFC", name.strip())


def visible_entries(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def read_csv_rows(path: Path, needed: Sequence[str], also: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV, each with the line it ends on, as dicts of strings.

    Missing cells are empty, those beyond the last column are dropped. `needed` columns must be there, `also` ones may.

    Raises:
        UserError: no such file, it is no CSV in UTF-8, or a needed column is not there or there twice.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        if "\0" in text:
            raise UserError(f"{path} holds NUL characters, as UTF-16 does; save it as CSV in UTF-8.")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [(name or "").strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(reader.line_num, {key: value or "" for key, value in row.items() if key}) for row in reader]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV ({error}).") from None
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it needs {','.join(needed)} in its first line.")
    twice = [name for name in (*needed, *also) if columns.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the column {', '.join(twice)} more than once; keep the right one.")
    return rows


def _read_train_csv(path: Path, report: Report) -> dict[str, dict]:
    """The people of train.csv by the name of their folder; {} where there is no such file."""
    if not os.path.lexists(path):
        return {}
    people: dict[str, dict] = {}
    wrong, twice = [], []
    for number, row in read_csv_rows(path, ("id", "gender", "age", "path")):
        person, folder = _person(row["id"], row["gender"], row["age"]), same_name(row["path"])
        if person is None or not folder:
            wrong.append(row["path"] or row["id"] or f"line {number}")
        elif people.setdefault(folder, person) != person:
            twice.append(row["path"])
    report.error(wrong, "row", f"of train.csv whose id, gender, age (0 to {MAX_AGE}) or path cannot be read")
    report.error(twice, "row", "of train.csv that say of a folder what an earlier row does not")
    return people


def read_corrections(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a file of corrections, each with the line it ends on: CORRECTION_COLUMNS, `file` without extension.

    All but the id are in lower case; what is left empty is "". Other columns may be there.

    Raises:
        UserError: there is no such file, or it is no CSV with a column id.
    """
    rows = []
    for number, row in read_csv_rows(path, CORRECTION_COLUMNS[:1], CORRECTION_COLUMNS[1:]):
        cells = {name: same_name(row.get(name, "")).lower() for name in CORRECTION_COLUMNS}
        rows.append((number, {**cells, "id": same_name(row["id"]), "file": cells["file"].rsplit(".", 1)[0]}))
    return rows


def _correct(table: pd.DataFrame, path: Path, report: Report) -> pd.DataFrame:
    """The table with the corrections applied; what was changed is noted, what cannot be applied is an error."""
    table = table.copy()
    folders = table.groupby("id").groups
    changed, unknown, wrong, twice = 0, [], [], []
    told: dict[tuple[str, ...], str] = {}
    for number, row in read_corrections(path):
        identity, gender, age, shot, mask = (row[name] for name in CORRECTION_COLUMNS)
        images = folders.get(identity)
        if images is None:
            unknown.append(identity or f"line {number}")
            continue
        said = {(identity, "gender"): gender, (identity, "age"): age, (identity, "mask", shot): mask}
        if any(value and told.setdefault(what, value) != value for what, value in said.items()):
            twice.append(f"line {number} ({identity})")
            continue
        named = [i for i in images if Path(table.at[i, "image"]).stem.lower() == shot] if shot else []
        fits = (
            gender in ("", *GENDERS)
            and (not age or _age(age) is not None)
            and mask in ("", *MASKS)
            and bool(shot) == bool(mask)
            and bool(shot) == bool(named)
        )
        if not fits:
            wrong.append(f"line {number} ({identity})")
            continue
        before = table.loc[images, ["gender", "age", "mask"]].copy()
        if gender:
            table.loc[images, "gender"] = GENDERS.index(gender)
        if age:
            table.loc[images, "age"] = _age(age)
        if mask:
            table.loc[named, "mask"] = MASKS.index(mask)
        changed += int((before != table.loc[images, ["gender", "age", "mask"]]).any(axis=1).sum())
    report.error(unknown, "row", f"of {path} about people who are not there")
    report.error(twice, "row", f"of {path} that say the opposite of an earlier row")
    what = f"gender male or female, age in years, file with mask {', '.join(MASKS)}"
    report.error(wrong, "row", f"of {path} that cannot be applied ({what})")
    report.notes.append(f"Corrections of {path} changed the labels of {changed} image{'s' if changed != 1 else ''}.")
    return table


def describe_problems(table: pd.DataFrame, report: Report) -> None:
    """Note what training can do with, but a person should know: missing shots, and people with two labels."""
    shots = table.assign(shot=[Path(image).stem.lower() for image in table["image"]]).groupby("id")["shot"].agg(set)
    short = [
        f"{identity} ({shorten_list(sorted(set(SHOTS) - have))})"
        for identity, have in shots.items()
        if set(SHOTS) - have
    ]
    report.note(short, "folder", "with missing shots")
    labels = table.groupby("person")[["gender", "age"]].nunique().max(axis=1)
    report.note([name for name, count in labels.items() if count > 1], "person", "with two labels")
