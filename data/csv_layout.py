"""The CSV layout: a row per image, with columns of its file, its labels and its group."""

import difflib
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PureWindowsPath

import pandas as pd

from data.layout import COLUMNS, Labels, check_label_names, make_labels, sort_names
from data.tables import EXTENSIONS, PredictionList, Report, normalize_name, read_csv_rows, visible_entries
from utils import UserError, shorten_list

IMAGE_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "image_id", "id", "imageid")
GROUP_LIKE = re.compile(
    r"patient|subject|person|group|site|plate|specimen|signer|(?<![a-z])id(?![a-z])|(?-i:[a-z]I[dD]$)", re.IGNORECASE
)
ENDINGS = (*EXTENSIONS, *(extension.upper() for extension in EXTENSIONS))


def read_csv_layout(
    path: str | Path,
    *,
    image_root: str | Path | None = None,
    labels: Sequence[str],
    group: str | None = None,
    image_column: str | None = None,
    fold_column: str | None = None,
    regression: bool = False,
) -> Labels:
    """Return the labels of the images that a CSV lists, with commas, semicolons or tabs. No image is opened.

    A file without extension gets the first of EXTENSIONS that exists. Rows without a label are left out. Columns that
    are not used stay in the table.

    Args:
        image_root: folder that the files are relative to; None is that of the CSV.
        group: column of groups; None makes each image its own group.
        image_column: column of files; None is the first of IMAGE_COLUMNS that names files.
        fold_column: column of the folds that validate the images, in any words.
        regression: the labels are numbers to predict.

    Raises:
        UserError: the CSV, the folder or a column is missing, a column has two uses, or no row has labels.
    """
    path, report = Path(path), Report()
    uses = {"--image-column": image_column, "--group": group, "--folds-from": fold_column}
    needed = list(dict.fromkeys([*labels, *filter(None, uses.values())]))
    cells, root = _read_cells(path, image_root, labels, uses)
    if not labels:
        raise UserError(f"{path} needs a column of labels. Pass --label with one of {shorten_list(cells, 20)}.")
    uses["--image-column"] = image_column or _find_image_column(path, cells, needed, root)
    for option, column in uses.items():
        if column in labels:
            raise UserError(f"The column {column} is used for both --label and {option}. Pass another --label.")
    lost = [name for name in cells if name in COLUMNS and name not in (*labels, *uses.values())]
    report.note(lost, "column", f"of {path.name} left out, whose name the toolkit uses", "Rename a column to keep it.")
    needed = list(dict.fromkeys([uses["--image-column"], *needed]))
    cells = _complete_rows(path, cells, needed, labels, report)
    images, paths = _find_images(path, cells, needed[0], root, report)
    table = cells[[name for name in cells if name not in COLUMNS or name in labels]].assign(image=images, path=paths)
    table["person"] = table["image"] if group is None else cells[group]
    if fold_column is not None:
        table["fold"] = _number_folds(cells[fold_column], table["person"], report)
    table = _merge_rows(path, table, [*labels, *(["person"] if group else [])], report)
    advice = None
    if group is None:
        unused = [name for name in cells if name not in {*COLUMNS, *needed} and GROUP_LIKE.search(name)]
        likely = [name for name in unused if 1 < table[name].nunique() < len(table)]
        advice = f"Pass --group {likely[0]}" if likely else "Pass --group with a column of groups"
        report.note(likely, "column", f"of {path.name} with repeated values, which may be groups")
    return make_labels(table, labels, report, advice, regression=regression)


def read_csv_list(
    path: str | Path, *, image_root: str | Path | None = None, image_column: str | None = None
) -> PredictionList:
    """Return the images to predict that a CSV lists, in its order; their ids are its cells.

    The arguments are those of `read_csv_layout`.

    Raises:
        UserError: the CSV, the folder, the column or an image is missing, or a cell is empty or there twice.
    """
    path, report = Path(path), Report()
    cells, root = _read_cells(path, image_root, (), {"--image-column": image_column})
    column = image_column or _find_image_column(path, cells, (), root)
    ids = cells[column] = cells[column].str.strip()
    report.error(ids.index[ids == ""], "row", f"of {path.name} without {column}", "Fill in the cells.")
    report.error(ids[ids.duplicated() & (ids != "")].unique(), "image", f"listed twice in {path.name}")
    _, paths = _find_images(path, cells[ids != ""], column, root, report)
    report.raise_errors()
    return PredictionList(list(ids), [Path(each) for each in paths], report.notes)


def _read_cells(
    path: Path, image_root: str | Path | None, labels: Sequence[str], uses: Mapping[str, str | None]
) -> tuple[pd.DataFrame, Path]:
    """Return the cells of a CSV, indexed by their lines, and the folder of its images.

    Raise a UserError about used columns that do not exist, and labels that cannot be used.
    """
    root = Path(path.parent if image_root is None else image_root)
    rows = read_csv_rows(path, (), [*labels, *filter(None, uses.values())])
    if not rows:
        raise UserError(f"{path} has no rows below its first line. Add one for each image.")
    cells = pd.DataFrame([row for _, row in rows], index=[f"line {number}" for number, _ in rows], dtype=object)
    report, spellings = Report(), {name.lower(): name for name in cells}
    check_label_names(labels, report)
    for option, name in [*(("--label", name) for name in labels), *uses.items()]:
        if name is not None and name not in cells:
            near = difflib.get_close_matches(name.strip().lower(), spellings, n=1)
            hint = f" Did you mean '{spellings[near[0]]}'?" if near else ""
            advice = f"Pass {option} with one of {shorten_list(cells, 20)}.{hint}"
            report.errors.append(f"{path} has no column {name}. {advice}")
    report.raise_errors()
    if not root.is_dir():
        raise UserError(f"There is no folder {root}. Pass another --image-root.")
    return cells, root


def _find_image_column(path: Path, cells: pd.DataFrame, needed: Sequence[str], root: Path) -> str:
    """Return the first of IMAGE_COLUMNS that names files, or else the first one without another use."""
    spellings = {name.lower(): name for name in cells}
    columns = [spellings[name] for name in IMAGE_COLUMNS if name in spellings]
    with_files = (name for name in columns if any(_find_file(root, cell) for cell in cells[name].iloc[:100]))
    column = next(with_files, None) or next((name for name in columns if name not in needed), None)
    if column is None:
        advice = f"Pass --image-column with one of {shorten_list(cells, 20)}."
        raise UserError(f"{path} has no column {', '.join(IMAGE_COLUMNS[:-1])} or ImageID. {advice}")
    return column


def _complete_rows(
    path: Path, cells: pd.DataFrame, needed: Sequence[str], labels: Sequence[str], report: Report
) -> pd.DataFrame:
    """Return the rows that have all needed cells, of which files are the first, without outer spaces."""
    files = cells[needed[0]].str.strip()  # not composed, as names on the disk need not be
    cells = cells.assign(**{name: cells[name].map(normalize_name) for name in needed} | {needed[0]: files})
    empty = cells[needed] == ""
    names = pd.Series([name or line for line, name in files.items()], cells.index, dtype=object)
    unlabelled = empty[list(labels)].any(axis=1)
    if unlabelled.all():
        raise UserError(f"{path} has no row with {' and '.join(labels)}. Fill them in or pass another --label.")
    report.note(names[unlabelled], "row", f"of {path.name} without {' or '.join(labels)}, left out")
    for name in needed:
        report.error(names[empty[name] & ~unlabelled], "row", f"of {path.name} without {name}", "Fill in the cells.")
    return cells[~empty.any(axis=1)]


def _relative(root: Path, text: str) -> str | None:
    """Return a path from a CSV below the root, with slashes, or None if it lies elsewhere."""
    text = text.strip().replace("\\", "/")
    if os.path.isabs(text):
        place, base = Path(os.path.abspath(text)), Path(os.path.abspath(root))  # without ..
        return place.relative_to(base).as_posix() if place.is_relative_to(base) else None
    name = posixpath.normpath(text)
    return None if PureWindowsPath(name).drive or name.split("/")[0] == ".." else name


def _find_file(root: Path, cell: str) -> str | None:
    """Return the image that a cell names, with one of EXTENSIONS if it has none, or None if there is no such file."""
    name = _relative(root, cell)
    endings = ("",) if cell.lower().endswith(EXTENSIONS) else ("", *ENDINGS)
    names = (f"{name}{ending}" for ending in endings if name)
    return next((name for name in names if os.path.isfile(os.path.join(root, name))), None)


def _find_images(
    path: Path, cells: pd.DataFrame, column: str, root: Path, report: Report
) -> tuple[list[str], list[str]]:
    """Return the image of each row, and its path, which is empty if there is no such file below the root."""
    files = {cell: _find_file(root, cell) for cell in dict.fromkeys(cells[column])}
    names = {cell: file or _relative(root, cell) for cell, file in files.items()}
    outside = [cell for cell, name in names.items() if name is None]
    report.error(outside, "image", f"of {path.name} outside of {root}", "Write paths relative to --image-root.")
    missing = [name for cell, name in names.items() if name and not files[cell]]
    advice = f"Pass another --image-root, or --image-column with one of {shorten_list(cells, 20)}."
    advice = next(filter(None, (_guess(root, name) for name in missing[:5])), advice)
    report.error(missing, "image", f"of {path.name} (column {column}) missing in {root}", advice)
    images = [names[cell] or cell for cell in cells[column]]
    return images, [str(root / files[cell]) if files[cell] else "" for cell in cells[column]]


def _guess(root: Path, name: str) -> str | None:
    """Return a question about where a missing file may lie: in a folder nearby, or spelled differently."""
    nearby = [*Path(os.path.abspath(root)).parents, *(Path(each) for each in visible_entries(root) if each.is_dir())]
    for folder in nearby:
        if _find_file(folder, name):
            return f"Did you mean --image-root {folder}?"
    for folder in dict.fromkeys((posixpath.dirname(name), "")):
        with suppress(OSError):
            for file in (entry.name for entry in visible_entries(root / folder) if entry.is_file()):
                if normalize_name(Path(file).stem).casefold() == normalize_name(Path(name).stem).casefold():
                    return f"Did you mean {posixpath.join(folder, file)}?"
    return None


def _number_folds(cells: pd.Series, groups: pd.Series, report: Report) -> pd.Series:
    """Return the number of the fold of each row, int64; report a single fold, and groups in several."""
    names = sort_names(cells)
    if len(names) == 1:
        report.errors.append(f"All images have the same {cells.name}, {names[0]}. Pass another --folds-from.")
    found = cells.groupby(groups.to_numpy()).unique()
    several = [f"{group} ({shorten_list(folds)})" for group, folds in found.items() if len(folds) > 1]
    report.error(several, "group", f"with several values of {cells.name}", "Give the images of a group one fold.")
    return cells.map({name: number for number, name in enumerate(names)}).astype("int64")


def _merge_rows(path: Path, table: pd.DataFrame, columns: list[str], report: Report) -> pd.DataFrame:
    """Return one row per image; report images with different cells in the columns, and note equal ones."""
    different = table.drop_duplicates(["image", *columns])
    several = different[different["image"].duplicated(keep=False)].groupby("image")[columns]
    names = [f"{image} ({', '.join(map(' '.join, rows.to_numpy()))})" for image, rows in several]
    report.error(names, "image", f"with different labels or groups in {path.name}", "Keep one row for each image.")
    twice = table["image"][table.duplicated(["image", *columns])].unique()
    report.note(twice, "image", f"in several equal rows of {path.name}, used once")
    return different.drop_duplicates("image")
