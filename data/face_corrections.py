"""Suggest corrections of the labels of faces, as `face_layout.read_corrections` reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.face_layout import parse_person, read_corrections, read_training_table
from data.faces import AGE_BOUNDS, FACES, GENDERS, MASKS


def folder_ids(people: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the id of the folder of each image; `people` are the people of the images.

    If the folder is gone, the id comes from its name, or else from the person.
    """
    known: dict[str, str] = {}
    if root.is_dir():
        table, _ = read_training_table(root)  # train.csv may have another id than the folder's name
        known = dict(zip(table["image"], table["id"], strict=True))
    return {
        image: known.get(image) or (parse_person(image.rpartition("/")[0]) or {"id": person})["id"]
        for image, person in people.items()
    }


def suggest_corrections(
    suspects: Sequence[Mapping[str, Any]], checked: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Return suspects of `label_errors` with those of `face_layout.CORRECTION_COLUMNS` that are to be filled in.

    Labels that the rows of `read_corrections` in `checked` mention are left out, since a person has checked them.
    """
    known = {(row["id"], what, row["file"] if what == "mask" else "") for row in checked for what in row if row[what]}
    found = []
    for suspect in suspects:
        identity, file = suspect["group"], Path(suspect["image"]).stem
        fields = {"name": f"{identity} {file}".strip(), "id": identity, "file": file}
        labels = _correct_labels(suspect).items()
        kept = {what: word for what, word in labels if (identity, what, file.lower()) not in known}
        if kept:
            found.append({**suspect, **fields, **kept})
    return found


def _correct_labels(suspect: Mapping[str, Any]) -> dict[str, str]:
    """Return suspected labels; the age is the one of the suggested group that is nearest to the labelled group."""
    old, new = ({name: suspect.get(f"{kind} {name}") for name in FACES} for kind in ("label", "found"))
    words = {"gender": GENDERS, "mask": MASKS}
    labels = {name: classes[new[name]] for name, classes in words.items() if new[name] != old[name]}
    if new["ageg"] != old["ageg"]:
        group = new["ageg"]
        labels["age"] = str(AGE_BOUNDS[group - 1] if group > old["ageg"] else AGE_BOUNDS[group] - 1)
    return labels


def read_earlier_corrections(path: str | None) -> tuple[list[dict[str, str]], list[str]]:
    """Return the corrections that a run was trained with, and sentences to print."""
    if path is None:
        return [], []
    if not Path(path).is_file():
        return [], [f"The corrections of the training, {path}, are gone. Add them to the new file yourself."]
    return [row for _, row in read_corrections(Path(path))], []
