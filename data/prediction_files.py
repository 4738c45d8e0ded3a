"""Read the list of images to predict and the files of answers."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from data.csv_layout import read_csv_list
from data.tables import EXTENSIONS, PredictionList, Report, normalize_name, read_csv_rows
from utils import UserError, shorten_list


def read_prediction_list(
    root: str | Path, *, image_root: str | Path | None = None, image_column: str | None = None
) -> PredictionList:
    """Return the images in `root` in the order of an info.csv next to it, or sorted by name without one.

    The id of an image is its path from `root`, with `/`. A `root` that is a CSV is read by `csv_layout.read_csv_list`.

    Raises:
        UserError: the folder is missing or empty, or info.csv lists an id twice or one without an image.
    """
    root, report = Path(root), Report()
    if root.is_file() and root.suffix.lower() in EXTENSIONS:
        raise UserError(f"{root} is an image. Pass --data-root with its folder, or a CSV.")
    if root.is_file():
        return read_csv_list(root, image_root=image_root, image_column=image_column)
    if image_root or image_column:
        option = "--image-root" if image_root else "--image-column"
        raise UserError(f"{option} is for a CSV, and --data-root {root} is not one. Leave it out.")
    if not root.is_dir():
        other = root.parent / "eval" / "images"
        hint = f" There is one at {other}." if other.is_dir() else ""
        raise UserError(f"There is no folder {root}. Create it or pass another --data-root.{hint}")
    files = list_images(root, report)
    if (root / "images").is_dir() and ((root / "info.csv").is_file() or (root / "train").is_dir()):
        raise UserError(f"{root} holds a folder of images and more. Pass --data-root {root / 'images'}.")
    if not files:
        raise UserError(f"{root} holds no images ({', '.join(EXTENSIONS)}).")
    info = root.absolute().parent / "info.csv"
    if os.path.lexists(info):
        return _read_info(info, root, files, report)
    ids = sorted(files)
    broken = [name for name in ids if "\ufffd" in name.encode(errors="surrogateescape").decode(errors="replace")]
    if broken:
        raise UserError(f"{root} has names that are not Unicode. Rename {shorten_list(broken)}.")
    report.note([name for name in ids if "/" in name], "image", f"in subfolders of {root}, whose ids are paths")
    notes = [f"There is no {info}: rows are ordered by file name.", *report.notes]
    return PredictionList(ids, [files[name] for name in ids], notes)


def list_images(root: Path, report: Report) -> dict[str, Path]:
    """Return the images in a folder and its subfolders by id; hidden and system files and folders do not count."""
    files, others, above = {}, [], {str(root): frozenset()}

    def leave_out(error: OSError) -> None:
        if Path(error.filename) == root:
            raise error
        others.append(f"{Path(error.filename).relative_to(root).as_posix()} ({error.strerror})")

    for folder, subfolders, names in os.walk(root, onerror=leave_out, followlinks=True):
        place = os.path.realpath(folder)
        subfolders[:] = [] if place in above[folder] else sorted(name for name in subfolders if name[0] not in ".@$")
        if place in above[folder]:  # a link leads back
            continue
        above |= {os.path.join(folder, name): above[folder] | {place} for name in subfolders}
        for name in (*names, *(subfolders if folder == str(root) else ())):
            path = Path(folder, name)
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                files[path.relative_to(root).as_posix()] = path  # a folder, too, is an unreadable image
            elif name in names and not name.startswith("."):
                others.append(path.relative_to(root).as_posix())
    report.note(sorted(others), "file", f"in {root} left out", f"Names of images end in {', '.join(EXTENSIONS)}.")
    return files


def _read_info(info: Path, root: Path, files: Mapping[str, Path], report: Report) -> PredictionList:
    """Return the images that info.csv lists, in its order."""
    rows = read_csv_rows(info, ("ImageID",))
    ids = [row["ImageID"] for _, row in rows]
    if not ids:
        raise UserError(f"{info} lists no images. Delete it to predict all of {root} in the order of their names.")
    found = _find_files(ids, files)
    blank = [f"line {number}" for number, row in rows if not row["ImageID"].strip()]
    outside = [name for name in ids if Path(name).is_absolute() or ".." in Path(name.replace("\\", "/")).parts]
    missing = [name for name in ids if name.strip() and name not in found and name not in outside]
    report.error(blank, "row", f"of {info} without an ImageID")
    report.error(outside, "id", f"of {info} outside of {root}")
    report.error(_repeated(name for name in ids if name.strip()), "id", f"listed twice in {info}")
    report.error(_repeated(found[name] for name in set(ids) if name in found), "image", f"of two ids of {info}")
    report.error(missing, "id", f"of {info} without an image in {root}")
    report.raise_errors()
    differ = [name for name in ids if found[name] != name]
    report.note(differ, "id", "spelled differently from the file (case of the extension, spaces, composed letters)")
    report.note(sorted({*files} - {*found.values()}), "image", f"in {root} that {info} does not list, left out")
    return PredictionList(ids, [files[found[name]] for name in ids], report.notes)


def _find_files(ids: Sequence[str], files: Iterable[str]) -> dict[str, str]:
    """Return the file of each id that has one: with its name, or the only one whose name is spelled differently."""

    def spelled(name: str) -> str:
        stem, extension = os.path.splitext(normalize_name(name).replace("\\", "/"))
        return stem + extension.lower()

    alike: dict[str, list[str]] = defaultdict(list)
    for name in files:
        alike[spelled(name)].append(name)
    candidates = {name: [name] if name in files else alike.get(spelled(name), []) for name in ids}
    return {name: names[0] for name, names in candidates.items() if len(names) == 1}


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def read_answers(path: str | Path, *, proba: bool = False) -> pd.DataFrame:
    """Return a submission or true answers: text with the ImageID as index, and ans among its columns.

    With `proba` there may be a column for each of several classes instead of ans.

    Raises:
        UserError: the file is missing or damaged, has no rows or no answers, or lists an image twice.
    """
    path, needed = Path(path), ("ImageID", "ans")
    rows = read_csv_rows(path, (), needed)
    columns = rows[0][1] if rows else {}
    if not (proba and "ImageID" in columns and len(columns) > len(needed)):
        rows = read_csv_rows(path, needed)
    if not rows:
        raise UserError(f"{path} holds no rows.")
    twice = _repeated(row["ImageID"] for _, row in rows)
    if twice:
        raise UserError(f"{path} lists images twice: {shorten_list(twice)}.")
    table = pd.DataFrame([row for _, row in rows], dtype=object).set_index("ImageID")
    return table.apply(lambda cells: cells.str.strip())
