"""The folder layout: a folder of images for each class."""

import re
from pathlib import Path

import pandas as pd

from data.layout import Labels, check_label_names, make_labels
from data.prediction_files import list_images
from data.tables import EXTENSIONS, Report, normalize_name, visible_entries
from utils import UserError

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}


def read_folder_layout(root: str | Path, *, group_regex: str | None = None, label: str = "class") -> Labels:
    r"""Return the labels of the images in a folder for each class, directly in it or deeper. No image is opened.

    Args:
        root: the folder of the folders, whose names are the classes.
        group_regex: searched in the file name; its first group, or the whole match if it has none, names the group of
            the image, as `^(P\d+)` does. None makes each image its own group.
        label: the name of the label.

    Raises:
        UserError: `root` is missing or has no folders of classes, or the regex or the label cannot be used.
    """
    root, report = Path(root), Report()
    check_label_names([label], report)
    report.raise_errors()
    try:
        pattern = re.compile(group_regex or "")
    except re.error as error:
        raise UserError(f"--group-regex '{group_regex}' is not a regular expression ({error}). Correct it.") from None
    if not root.is_dir():
        raise UserError(f"There is no folder {root}. Pass another --data.")
    folders = [entry.name for entry in visible_entries(root) if entry.is_dir() and entry.name[0] not in "@$"]
    if not folders:
        raise UserError(f"{root} has no folders. Create one for each class, with its images.")
    if {name.lower() for name in folders} <= SPLITS:
        names = ", ".join(folders)
        raise UserError(f"The folders of {root} are not classes but parts: {names}. Pass --data {root / folders[-1]}.")
    files = list_images(root, report)
    report.note(sorted(str(path.relative_to(root)) for path in root.rglob(".*")), "hidden file", "left out")
    top = sorted(name for name in files if "/" not in name and name not in folders)
    report.note(top, "image", f"in {root} itself, left out", "Move images into the folder of their class.")
    rows, unmatched = [], []
    for name, path in files.items():
        match = pattern.search(path.name)
        group = (match[1] if pattern.groups else match[0]) if match else None
        if "/" in name and group_regex and not group:
            unmatched.append(name)
        elif "/" in name:
            person = normalize_name(group) if group_regex else name
            rows.append((name, str(path), person, normalize_name(name.partition("/")[0])))
    what = f"whose file name has no match of --group-regex '{group_regex}'"
    report.error(sorted(unmatched), "image", what, "Correct it or rename images.")
    empty = sorted({*folders} - {name.partition("/")[0] for name in files if "/" in name})
    what = f"of {root} without images ({', '.join(EXTENSIONS)})"
    report.error(empty, "folder", what, "Add images or delete the folder.")
    table = pd.DataFrame(rows, columns=["image", "path", "person", label], dtype=object)
    return make_labels(table, [label], report, None if group_regex else r"Pass --group-regex, such as '^(P\d+)',")
