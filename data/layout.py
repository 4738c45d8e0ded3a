"""Make the tasks and the table of any labelled images: what their layouts share."""

import itertools
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.label_math import encode_classes, range_numbers
from data.tables import Report
from data.tasks import Task, Tasks
from utils import shorten_list

COLUMNS = ("image", "path", "person", "label", "fold")  # of a table, apart from those of labels
MANY = 100  # classes of a joint task at most; of a label too, if more than half of the images have their own
WHOLE = re.compile(r"[+-]?\d{1,15}(\.0+)?")  # spreadsheets write 2 as 2.0 if cells of its column are empty
NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})+")
MISSING = {"nan", "null", "na", "n/a", "#n/a", "<na>"}  # as pandas, databases, R and spreadsheets write them
SERIES = re.compile(r"(.*\D)\d+\D*")  # a name up to its last number


class Labels(NamedTuple):
    """The labels of images: their tasks, a table with one row per image, and the problems found.

    The table is sorted by image and has image (path below the root, with slashes), path, person (name of the group),
    the class numbers of each label under its name, label (class number of the first task), fold (0..K-1, if given), and
    other columns as text.
    """

    tasks: Tasks
    table: pd.DataFrame
    report: Report


def make_labels(
    rows: pd.DataFrame, names: Sequence[str], report: Report, group_advice: str | None, *, regression: bool = False
) -> Labels:
    """Return the labels of rows with image, path (empty if missing), person, and a class name for each label.

    The report gets the problems of classes and groups. `group_advice` is for images that have no groups, else None.
    With `regression` the labels are numbers instead of names, and rows without numbers are only in the report.
    """
    rows = rows.sort_values("image", ignore_index=True)
    classes = names if len(rows) and not regression else ()
    for name in classes:  # pandas writes whole numbers so if a cell of the column is empty
        if rows[name].str.fullmatch(r"[+-]?\d{1,15}\.0+").all():
            rows[name] = rows[name].str.partition(".")[0]
    found = rows["path"] != ""
    for name in names if found.any() else ():  # else the images are wrong, perhaps by their column
        (_check_numbers if regression else _check_classes)(name, rows, report)
    if group_advice is None:
        _note_names(rows["person"], "group", report)
    else:
        _note_own_groups(rows["image"], rows[names[0]], group_advice, report)
    table = rows[found & rows[list(names)].apply(_is_number).all(axis=1)] if regression else rows[found]
    table = table.reset_index(drop=True)
    make = make_number_tasks if regression and len(table) else make_tasks
    tasks, numbers = make(names, table, table["person"])
    columns = [name for name in numbers if not tasks[name].parts]
    table = table.assign(
        **{name: numbers[name] for name in columns} | {"label": numbers[tasks.default.class_task.name]}
    )
    first = [name for name in dict.fromkeys(("image", "path", "person", *columns, "label", "fold")) if name in table]
    return Labels(tasks, table[[*first, *(name for name in table if name not in first)]], report)


def make_tasks(
    names: Sequence[str], values: Mapping[str, Sequence[str]], groups: Sequence[str]
) -> tuple[Tasks, dict[str, np.ndarray]]:
    """Return the tasks of labels, and the class numbers of each task, `{task: (N,) int64}`.

    Several labels also get a joint task, which comes first, unless it has more than 100 classes or two of one name.
    `values` are the class names of each label, `(N,)`, and `groups` the groups of the images.
    """
    parts, numbers = [], {}
    for name in names:
        classes = {each: number for number, each in enumerate(sort_names(values[name]))}
        shared = len(set(zip(groups, values[name], strict=True))) == len(set(groups))
        parts.append(Task(name, name, tuple(classes), of_group=shared))
        numbers[name] = np.array([classes[each] for each in values[name]], np.int64)
    if len(parts) > 1 and math.prod(part.outputs for part in parts) <= MANY:
        classes = tuple(" ".join(words) for words in itertools.product(*(part.classes for part in parts)))
        if len(set(classes)) == len(classes):
            title, shared = f"{', '.join(names[:-1])} and {names[-1]}", all(part.of_group for part in parts)
            joint = Task("+".join(names), title, classes, tuple(parts), of_group=shared)
            return Tasks(joint, *parts), {joint.name: encode_classes(joint, numbers), **numbers}
    return Tasks(*parts), numbers


def make_number_tasks(
    names: Sequence[str], values: Mapping[str, Sequence[str]], groups: Sequence[str]
) -> tuple[Tasks, dict[str, np.ndarray]]:
    """Return the tasks of labels that are numbers, then those of their ranges, and the labels of each task.

    The ranges are fifths of the images, by which groups are spread over folds and errors are shown. The arguments are
    those of `make_tasks`; the labels are numbers `(N,) float64`, of ranges class numbers `(N,) int64`.
    """
    tasks, ranges, labels = [], [], {}
    for name in names:
        numbers = labels[name] = _to_numbers(values[name])
        ordered = np.unique(numbers)
        places = np.unique(np.searchsorted(ordered, np.quantile(numbers, (0.2, 0.4, 0.6, 0.8), method="nearest")))
        places = places[places > 0] if places.any() else np.array([len(ordered) - 1])
        bounds = tuple(((ordered[places - 1] + ordered[places]) / 2).tolist())  # between numbers, which may be rounded
        found = ([f"{bound:.{digits}g}" for bound in bounds] for digits in range(3, 18))
        texts = next(each for each in found if len(set(each)) == len(each))
        classes = (f"<{texts[0]}", *map(" to ".join, itertools.pairwise(texts)), f">={texts[-1]}")
        shared = len(set(zip(groups, numbers, strict=True))) == len(set(groups))
        ranges.append(Task(f"{name}_range", f"range of {name}", classes, of_group=shared))
        about = {"center": float(numbers.mean()), "scale": float(numbers.std()), "of_group": shared}
        tasks.append(Task(name, name, classes, (), bounds, ranges[-1], regression=True, **about))
        labels[ranges[-1].name] = range_numbers(tasks[-1], numbers)
    return Tasks(*tasks, *ranges), labels


def _is_number(texts: pd.Series) -> pd.Series:
    return texts.str.fullmatch(NUMBER) & ~texts.str.contains("e[+]?[3-9][0-9]{2}", case=False)


def _to_numbers(texts: Iterable[str]) -> np.ndarray:
    return np.array([float(text.replace(",", ".")) for text in texts])


def sort_names(names: Iterable[str]) -> list[str]:
    """Return the different names in order: as numbers if all are whole numbers, else as text."""
    different = sorted(set(names))
    return sorted(different, key=float) if all(WHOLE.fullmatch(name) for name in different) else different


def check_label_names(names: Sequence[str], report: Report) -> None:
    """Report names of labels that cannot be columns of a table or parts of a file name."""
    columns = [name for name in COLUMNS if [name] != [*names] or name != "label"]  # a single label may be called so
    unusable = [name for name in dict.fromkeys(names) if name in columns or re.search(r"[/\\]|^\.+$", name)]
    reserved = f"{', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
    what = f"whose name has a slash or only dots, or is {reserved}, which the toolkit uses"
    report.error(unusable, "label", what, "Use another name.")
    twice = sorted({name for name in names if names.count(name) > 1})
    report.error(twice, "label", "passed twice", "Pass each label once.")


def _check_classes(label: str, rows: pd.DataFrame, report: Report) -> None:
    """Report a label that is not one of several classes, and classes of a single group; note unusual names."""
    names = sort_names(rows[label])
    numbers = all(NUMBER.fullmatch(name) for name in names)
    decimals = [name for name in names if numbers and not WHOLE.fullmatch(name)]
    if decimals or (len(names) > MANY and 2 * len(names) > len(rows)):
        kind, advice = ("numbers", "--regression to predict them, or another") if numbers else ("texts", "another")
        example = f"{len(names)} different {kind} in {len(rows)} rows, such as {shorten_list((decimals or names)[:1])}"
        report.errors.append(f"The label {label} has {example}, which do not look like classes. Pass {advice} --label.")
    elif len(names) == 1:
        advice = "Add images of a second class or pass other labels."
        report.errors.append(f"All images have the same {label}, {shorten_list(names)}. {advice}")
    else:
        pairs = rows.drop_duplicates([label, "person"])
        groups = pairs[~pairs[label].duplicated(keep=False)].set_index(label)["person"]
        lonely = [f"{name} ({groups[name]})" for name in names if name in groups]
        what = f"of the label {label} in a single group, which no fold can both train on and validate"
        report.error(lonely, "class", what, "Add images of other groups or remove the class.")
        _note_names(names, "class", report)


def _check_numbers(label: str, rows: pd.DataFrame, report: Report) -> None:
    """Report a label whose cells are not different numbers."""
    is_number = _is_number(rows[label])
    names, separated = rows["image"] + " (" + rows[label] + ")", rows[label].str.contains("[,.]")
    is_certain = rows[label].str.contains(",").any() or not separated.all()  # 1.500 may have three decimals
    what, advice = f"whose {label} is not a number", "Correct the cells, leave them empty, or leave --regression out."
    report.error(names[~is_number], "image", what, advice)
    if separated.any() and is_certain and rows[label][separated].str.fullmatch(THOUSANDS).all():
        report.error(names[separated], "image", f"whose {label} may have a thousands separator", "Remove it.")
    elif is_number.all():
        numbers = _to_numbers(rows[label])
        if not numbers.std() > 1e-5 * abs(numbers.mean()):
            alike = "equal" if numbers.std() == 0 else "nearly equal"
            report.errors.append(f"All numbers of {label} are {alike}, as {rows[label].iloc[0]}. Pass another --label.")


def _note_names(names: Iterable[str], noun: str, report: Report) -> None:
    alike = defaultdict(list)
    for name in sort_names(names):
        alike[float(name) if WHOLE.fullmatch(name) else name.casefold()].append(name)
    several = [" / ".join(found) for found in alike.values() if len(found) > 1]
    report.note(several, noun, "in several spellings, kept apart", "Correct them if they mean the same.")
    missing = [name for name in sort_names(names) if name.casefold() in MISSING]
    advice = {"class": "Leave the cells empty to leave the images out.", "group": "Fill in the cells."}[noun]
    report.note(missing, noun, "named like a missing value", advice)


def _note_own_groups(images: Sequence[str], labels: Sequence[str], advice: str, report: Report) -> None:
    report.notes.append(f"Each image is its own group. {advice} if several images show the same person or object.")
    names = (image.removeprefix(f"{label}/") for image, label in zip(images, labels, strict=True))
    matches = (SERIES.fullmatch(os.path.splitext(name)[0]) for name in names)
    starts = Counter(match[1] for match in matches if match)
    series = [start for start, count in starts.items() if count > 1]
    # One series per class, or one of all images, is only a way of numbering.
    if 2 * sum(starts[start] for start in series) >= len(images) and len(series) > len(set(labels)):
        shown = shorten_list([f"{start}..." for start in series], 3)
        report.notes.append(f"Images seem to be numbered within groups: {shown}. {advice} if they are.")
