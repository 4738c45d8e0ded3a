"""The face layout: a folder per person, labelled with mask, gender and age by the names of folders and files."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from data.faces import AGE, AGE_BOUNDS, AGE_GROUPS, GENDERS, MAIN, MASKS, MAX_AGE, SHOTS
from data.label_math import encode_classes, range_numbers, range_shares
from data.tables import EXTENSIONS, Report, normalize_name, read_csv_rows, visible_entries
from utils import UserError, shorten_list

FOLDER_NAME = re.compile(r"([^_]+)_([A-Za-z]+)_.+_(\d+)")  # <id>_<gender>_<race>_<age>
ANOTHER = re.compile(r"(.*\d)-[1-9]\d?")  # the id of another folder of a person, as in 001498-1
CORRECTION_COLUMNS = ("id", "gender", "age", "file", "mask")


def age_group(years: float | np.ndarray) -> int | np.ndarray:
    """Return the age group of an age in years, or of each: 0 under 30, 1 from 30 to 59, 2 from 60."""
    return range_numbers(AGE, years)


def soft_ages(sigma: float, age_filter: int | None) -> np.ndarray:
    """Return the probabilities of the age groups of ages known to `sigma` years, `(MAX_AGE + 1, 3) float64`.

    With `age_filter` the oldest group begins at this age.
    """
    return range_shares(np.arange(MAX_AGE + 1), sigma, (AGE_BOUNDS[0], age_filter or AGE_BOUNDS[1]))


def filter_ages(table: pd.DataFrame, age_filter: int | None) -> pd.DataFrame:
    """Return a table in which people from the age `age_filter` on count as the oldest age group; None changes none."""
    if age_filter is None:
        return table
    return table.assign(ageg=table["ageg"].where(table["age"] < age_filter, len(AGE_GROUPS) - 1))


def ages_of_groups(table: pd.DataFrame, age_filter: int | None) -> dict[int, float]:
    """Return an age for each age group: the median of its images, moved into the group if --age-filter changes it."""
    medians = table.groupby("ageg")["age"].median()
    edges = (0, AGE_BOUNDS[0], age_filter or AGE_BOUNDS[1], MAX_AGE + 1)
    return {k: float(np.clip(medians.get(k, edges[k]), edges[k], edges[k + 1] - 1)) for k in range(len(AGE_GROUPS))}


# ------------------------------------------------------------------------------------------------ folders


def read_training_table(root: str | Path, corrections: str | Path | None = None) -> tuple[pd.DataFrame, Report]:
    """Return the labels of the images in one folder, and a report; see `read_training_tables`."""
    (table,), report = read_training_tables({"--train-root": root}, corrections)
    return table, report


def read_training_tables(
    roots: Mapping[str, str | Path], corrections: str | Path | None = None
) -> tuple[list[pd.DataFrame], Report]:
    """Return the labels of the images in each folder, and a report on all of them.

    Labels come from the folder names `<id>_<gender>_<race>_<age>`, or from a train.csv next to the root if it lists the
    folder, and from the file names. Hidden files are ignored. No image is opened. `roots` are by the option that names
    each, for messages.

    Returns:
        For each root a table with one row per image, sorted by folder and file: image (path below the root), path, id
        (of the folder), person (the id without a last -1 to -99, which folders can share), gender, mask and ageg
        (numbers), age (years) and label (class 0..17).

    Raises:
        UserError: a folder or file is missing, or a CSV lacks a column.
    """
    report = Report()
    rows = [row for option, root in roots.items() for row in _read_root(Path(root), option, report)]
    table = pd.DataFrame(rows, columns=["root", "image", "path", "id", "person", "gender", "age", "mask"])
    if corrections is not None:
        table = _correct(table, Path(corrections), report)
    table["ageg"] = age_group(table["age"])
    table["label"] = encode_classes(MAIN, table)
    tables = [table[table["root"] == option].drop(columns="root") for option in roots]
    return [part.reset_index(drop=True) for part in tables], report


def _read_root(root: Path, option: str, report: Report) -> list[dict]:
    """Return the rows of the images of one root; unreadable names go into the report."""
    if not root.is_dir():
        raise UserError(
            f"There is no folder {root}. Create it, pass another {option}, or draw a sample set with: "
            "python -m tools make_sample"
        )
    listed = _read_train_csv(root.absolute().parent / "train.csv", report)
    found: dict[str, list[str]] = defaultdict(list)
    rows = []
    for folder in visible_entries(root):
        if not folder.is_dir():
            found["ignored"].append(folder.name)
            continue
        person = _identify(folder.name, listed.pop(normalize_name(folder.name), None), found)
        if person is not None:
            rows += [{"root": option, **person, **image} for image in _read_shots(folder, found)]
    report.error(found["unnamed"], "folder", "whose name is not <id>_<gender>_<race>_<age> with gender male or female")
    report.error(found["unaged"], "folder", f"whose age is not 0 to {MAX_AGE}")
    report.error(found["unknown"], "image", "whose name is none of the shots mask1..mask5, incorrect_mask, normal")
    report.note(found["ignored"], "file", "that this toolkit does not read")
    report.note(found["empty"], "folder", "without images")
    report.note(found["contradicted"], "folder", "whose name and train.csv disagree, train.csv is used")
    report.note(found["newborn"], "folder", "of people aged 0, which may mean an unknown age")
    report.note(listed, "row", "in train.csv without a folder")
    if not rows and not report.errors:
        report.errors.append(f"{root} holds no images. It needs one folder per person, such as 000001_female_Asian_25.")
    return rows


def _identify(folder: str, listed: dict | None, found: dict[str, list[str]]) -> dict | None:
    """Return the person of a folder by train.csv or by its name, or None; problems go into `found`."""
    named = parse_person(folder)
    person = listed or named
    if person is None:
        match = FOLDER_NAME.fullmatch(folder)
        found["unaged" if match and match[2].lower() in GENDERS else "unnamed"].append(folder)
        return None
    if person["age"] == 0:
        found["newborn"].append(folder)
    if listed and named and (listed["gender"], listed["age"]) != (named["gender"], named["age"]):
        found["contradicted"].append(folder)
    return person


def _read_shots(folder: os.DirEntry, found: dict[str, list[str]]) -> Iterator[dict]:
    """Yield the image, path and mask of each image of a person's folder; problems go into `found`."""
    files = visible_entries(folder.path)
    if not files:
        found["empty"].append(folder.name)
    for file in files:
        stem, extension = os.path.splitext(file.name)
        image = f"{folder.name}/{file.name}"
        if extension.lower() not in EXTENSIONS:
            found["ignored"].append(image)
        elif stem.lower() not in SHOTS:
            found["unknown"].append(image)
        else:
            yield {"image": image, "path": file.path, "mask": MASKS.index(SHOTS[stem.lower()])}


def parse_person(folder: str) -> dict | None:
    """Return id, person, gender (number) and age (years) of a name `<id>_<gender>_<race>_<age>`, or None."""
    match = FOLDER_NAME.fullmatch(folder)
    return None if match is None else _make_person(*match.groups())


def _make_person(identity: str, gender: str, age: str) -> dict | None:
    identity, gender, years = normalize_name(identity), gender.strip().lower(), _parse_age(age)
    if not identity or gender not in GENDERS or years is None:
        return None
    another = ANOTHER.fullmatch(identity)
    person = another[1] if another else identity
    return {"id": identity, "person": person, "gender": GENDERS.index(gender), "age": years}


def _parse_age(text: str) -> int | None:
    """Return an age of 0 to MAX_AGE years, also if a spreadsheet wrote 25 as 25.0; None for anything else."""
    digits = text.strip().removesuffix(".0")
    return int(digits) if digits.isdecimal() and len(digits) <= 3 and int(digits) <= MAX_AGE else None


def _read_train_csv(path: Path, report: Report) -> dict[str, dict]:
    """Return the people of train.csv by the names of their folders; {} without such a file."""
    if not os.path.lexists(path):
        return {}
    people: dict[str, dict] = {}
    wrong, contradicting = [], []
    for number, row in read_csv_rows(path, ("id", "gender", "age", "path")):
        person, folder = _make_person(row["id"], row["gender"], row["age"]), normalize_name(row["path"])
        if person is None or not folder:
            wrong.append(row["path"] or row["id"] or f"line {number}")
        elif people.setdefault(folder, person) != person:
            contradicting.append(row["path"])
    report.error(wrong, "row", f"of train.csv whose id, gender, age (0 to {MAX_AGE}) or path cannot be read")
    report.error(contradicting, "row", "of train.csv that contradict an earlier row")
    return people


# ------------------------------------------------------------------------------------------------ corrections


def read_corrections(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a file of corrections as `read_csv_rows` does.

    A row has CORRECTION_COLUMNS, `file` without extension; all but the id are in lower case, missing cells are "".
    """
    rows = []
    for number, row in read_csv_rows(path, CORRECTION_COLUMNS[:1], CORRECTION_COLUMNS[1:]):
        cells = {name: normalize_name(row.get(name, "")).lower() for name in CORRECTION_COLUMNS}
        rows.append((number, {**cells, "id": normalize_name(row["id"]), "file": cells["file"].rsplit(".", 1)[0]}))
    return rows


def _correct(table: pd.DataFrame, path: Path, report: Report) -> pd.DataFrame:
    """Return the table with the corrections applied; the report gets the number of changes and the errors."""
    original, table = table, table.copy()
    folders = table.groupby("id").groups
    unknown, wrong, contradicting = [], [], []
    earlier: dict[tuple[str, ...], str] = {}
    for number, row in read_corrections(path):
        identity, gender, age, shot, mask = (row[name] for name in CORRECTION_COLUMNS)
        images = folders.get(identity)
        if images is None:
            unknown.append(identity or f"line {number}")
            continue
        values = {(identity, "gender"): gender, (identity, "age"): age, (identity, "mask", shot): mask}
        if any(value and earlier.setdefault(what, value) != value for what, value in values.items()):
            contradicting.append(f"line {number} ({identity})")
            continue
        named = [i for i in images if Path(table.at[i, "image"]).stem.lower() == shot] if shot else []
        fits = (
            gender in ("", *GENDERS)
            and (not age or _parse_age(age) is not None)
            and mask in ("", *MASKS)
            and bool(shot) == bool(mask) == bool(named)
        )
        if not fits:
            wrong.append(f"line {number} ({identity})")
            continue
        if gender:
            table.loc[images, "gender"] = GENDERS.index(gender)
        if age:
            table.loc[images, "age"] = _parse_age(age)
        if mask:
            table.loc[named, "mask"] = MASKS.index(mask)
    changed = int((table != original).any(axis=1).sum())
    padded = {identity.lstrip("0"): identity for identity in folders}
    meant = next((padded[identity.lstrip("0")] for identity in unknown if identity.lstrip("0") in padded), None)
    advice = f"Did you mean {meant}? Spreadsheets remove leading zeros unless the column is text." if meant else ""
    report.error(unknown, "row", f"of {path} for people that do not exist", advice)
    report.error(contradicting, "row", f"of {path} that contradict an earlier row")
    allowed = f"gender male or female, age in years, file with mask {', '.join(MASKS)}"
    report.error(wrong, "row", f"of {path} that cannot be applied ({allowed})")
    report.notes.append(f"Corrections of {path} changed the labels of {changed} image{'s' if changed != 1 else ''}.")
    return table


def check_people(table: pd.DataFrame, report: Report, *, two_genders: str) -> None:
    """Report people with several folders, and those with two genders: as an error if `two_genders` is "stop"."""
    table = table.assign(folder=[image.partition("/")[0] for image in table["image"]])
    folders = table.drop_duplicates("folder").groupby("person")
    several = {person: rows for person, rows in folders if len(rows) > 1}
    names = {person: f"{person} ({shorten_list(rows['folder'])})" for person, rows in several.items()}
    report.note(names.values(), "person", "with several folders, counted as one each")
    contradicting = [names[person] for person, rows in several.items() if rows["gender"].nunique() > 1]
    if two_genders == "stop":
        advice = "correct them, rename folders of other people, or pass --two-genders keep"
        report.error(contradicting, "person", f"with two genders ({advice})")
    else:
        report.note(contradicting, "person", "with two genders")


def describe_problems(table: pd.DataFrame, report: Report) -> None:
    """Add notes about problems that do not stop training: missing shots, and people with two ages."""
    shots = table.assign(shot=[Path(image).stem.lower() for image in table["image"]]).groupby("id")["shot"].agg(set)
    missing = {identity: sorted(set(SHOTS) - present) for identity, present in shots.items()}
    short = [f"{identity} ({shorten_list(names)})" for identity, names in missing.items() if names]
    report.note(short, "folder", "with missing shots")
    ages = table.groupby("person")["age"].nunique()
    report.note(ages.index[ages > 1], "person", "with two ages")
