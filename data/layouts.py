"""Read the labels of images in any layout but that of faces."""

from collections.abc import Sequence
from pathlib import Path

from data.csv_layout import read_csv_layout
from data.folder_layout import read_folder_layout
from data.layout import Labels
from utils import UserError


def read_labels(
    data: str | Path,
    *,
    image_root: str | Path | None = None,
    label: Sequence[str] | None = None,
    group: str | None = None,
    group_regex: str | None = None,
    image_column: str | None = None,
    folds_from: str | None = None,
    regression: bool = False,
) -> Labels:
    """Return the labels of the images that a CSV lists, or that lie in a folder for each class.

    Raises:
        UserError: `data` does not exist, or an option does not fit it.
    """
    if Path(data).is_dir():
        options = {"image_root": image_root, "group": group, "image_column": image_column, "folds_from": folds_from}
        options["regression"] = regression or None
        typed = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
        if typed:
            raise UserError(f"{typed[0]} is for a CSV, and --data {data} is a folder. Leave it out.")
        if label and len(label) > 1:
            raise UserError(f"The folders of {data} are the classes of one label. Pass --label with one name.")
        return read_folder_layout(data, group_regex=group_regex, **({"label": label[0]} if label else {}))
    if group_regex is not None:
        raise UserError(f"--group-regex is for folders, and --data {data} is a file. Pass --group with a column.")
    if not Path(data).is_file():
        raise UserError(f"There is no file or folder {data}. Pass another --data.")
    options = {"image_column": image_column, "fold_column": folds_from, "regression": regression}
    return read_csv_layout(data, image_root=image_root, labels=label or (), group=group, **options)
