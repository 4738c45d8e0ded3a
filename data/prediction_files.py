"""Read the list of images to predict and the files of answers."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.tables import EXTENSIONS, Report, read_csv_rows, same_name, visible_entries
from utils import UserError, shorten_list

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
    files = {entry.name: Path(entry.path) for entry in visible_entries(root) if entry.name.lower().endswith(EXTENSIONS)}
    if not files:
        raise UserError(f"{root} holds no photographs ({', '.join(EXTENSIONS)}).")
    info = root.absolute().parent / "info.csv"
    if not os.path.lexists(info):
        ids = sorted(files)
        broken = [name for name in ids if name.encode(errors="replace").decode() != name]
        if broken:
            raise UserError(
                f"{len(broken)} images in {root} have a name that is not Unicode; rename {shorten_list(broken)}."
            )
        return PredictionList(
            ids, [files[name] for name in ids], [f"There is no {info}: rows are ordered by file name."]
        )
    rows = read_csv_rows(info, ("ImageID",))
    ids = [row["ImageID"] for _, row in rows]
    if not ids:
        raise UserError(f"{info} lists no images; delete it to predict all of {root} in the order of their names.")
    report = Report()
    found = _find_files(ids, files)
    blank = [f"line {number}" for number, row in rows if not row["ImageID"].strip()]
    outside = [name for name in ids if Path(name).is_absolute() or ".." in Path(name.replace("\\", "/")).parts]
    missing = [name for name in ids if name.strip() and name not in found and name not in outside]
    named = Counter(found[name] for name in set(ids) if name in found)
    report.error(blank, "row", f"of {info} without an ImageID")
    report.error(outside, "id", f"of {info} that leave {root}")
    counts = Counter(name for name in ids if name.strip())
    report.error([name for name, count in counts.items() if count > 1], "id", f"listed twice in {info}")
    report.error([path.name for path, count in named.items() if count > 1], "image", f"that two ids of {info} mean")
    report.error(missing, "id", f"of {info} without an image in {root}")
    report.raise_errors()
    differ = [name for name in ids if found[name].name != name]
    report.note(differ, "id", "that the file spells otherwise (case of the extension, spaces, composed letters)")
    used = {path.name for path in found.values()}
    report.note(sorted(set(files) - used), "image", f"in {root} that {info} does not list, left out")
    return PredictionList(ids, [found[name] for name in ids], report.notes)


def _find_files(ids: Iterable[str], files: Mapping[str, Path]) -> dict[str, Path]:
    """The file of each id that has one: that of its name, or the only one whose name differs in spelling alone."""

    def spelled(name: str) -> str:
        stem, extension = os.path.splitext(same_name(name))
        return stem + extension.lower()

    alike: dict[str, list[str]] = defaultdict(list)
    for name in files:
        alike[spelled(name)].append(name)
    found = {}
    for name in ids:
        names = [name] if name in files else alike.get(spelled(name), [])
        if len(names) == 1:
            found[name] = files[names[0]]
    return found


# ------------------------------------------------------------------------------------------------ answers


def read_answers(path: str | Path) -> dict[str, float]:
    """The `ImageID,ans` rows of a submission or of true answers.

    Raises:
        UserError: no such file, a column is missing, an id stands twice or an answer is not a number.
    """
    rows = read_csv_rows(Path(path), ("ImageID", "ans"))
    if not rows:
        raise UserError(f"{path} holds no rows.")
    twice = [name for name, count in Counter(row["ImageID"] for _, row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{path} lists images twice: {shorten_list(twice)}.")
    try:
        return {row["ImageID"]: float(row["ans"]) for _, row in rows}
    except ValueError as error:
        raise UserError(f"{path} holds an answer that is not a number ({error}).") from None
