"""Read, check and split the images of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from data.csv_layout import read_csv_layout
from data.face_layout import ages_of_groups, check_people, filter_ages, read_training_tables
from data.faces import FACES
from data.folder_layout import read_folder_layout
from data.image_cache import ImageReader, load_images
from data.images import find_shared_images, stop_if_unreadable
from data.layout import Labels
from data.pseudo_labels import read_pseudo_labels
from data.split import Fold, Split, label_fingerprint, split_people
from data.tasks import Tasks
from utils import UserError, shorten_list


class Tables(NamedTuple):
    """The labels of a run before any image is opened."""

    tasks: Tasks  # of the labels
    train: pd.DataFrame  # one row per image
    valid: pd.DataFrame | None  # the same of --valid-root; None without it
    split: Split
    notes: list[str]  # sentences to print


@dataclass(frozen=True)
class Data:
    """The images that a run trains and validates on."""

    tasks: Tasks  # of the labels
    table: pd.DataFrame  # one row per image
    valid: pd.DataFrame | None  # the same of --valid-root; None if every fold validates on its own held-out people
    split: Split
    unreadable: dict[str, str]  # {path: reason} of the images that were left out
    reader: ImageReader  # of the others
    pseudo: Sequence[pd.DataFrame] = ()  # further training rows of each fold; empty without --pseudo-labels
    age_filter: int | None = None  # see `face_layout.filter_ages`; for training only

    @property
    def fingerprint(self) -> str:
        """Return digits that two runs share only if they have the same images with the same labels."""
        return label_fingerprint(self.tasks, self.table, *([] if self.valid is None else [self.valid]))

    @property
    def pseudo_fingerprint(self) -> str:
        """Return digits that two runs share only if they have the same pseudo labels, or none."""
        return label_fingerprint(self.tasks, *self.pseudo) if self.pseudo else ""

    def fold_tables(self, fold: Fold) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the training and the validation rows of a fold."""
        train = self.table[self.table["person"].isin(fold.train)]
        if self.pseudo:
            train = pd.concat([train, self.pseudo[self.split.folds.index(fold)]])
        valid = self.valid if self.valid is not None else self.table[self.table["person"].isin(fold.valid)]
        return filter_ages(train, self.age_filter).reset_index(drop=True), valid.reset_index(drop=True)


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
    """Return the labels of the images that a CSV lists, or that lie in a folder for each class. No image is opened.

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


def read_tables(
    *,
    train_root: str | Path,
    valid_root: str | Path | None = None,
    corrections: str | Path | None = None,
    two_genders: str = "keep",
    own: Mapping[str, Any] | None = None,
    cv: int,
    seed: int,
) -> Tables:
    """Read the labels and split the groups into folds; raise the errors in the data as a UserError, a line each.

    `own` are arguments of `read_labels`, for images that are not in the layout of faces.
    """
    if own:
        tasks, table, report = read_labels(**own)
        report.raise_errors()
        folds = table["fold"].nunique() if "fold" in table else cv
        return Tables(tasks, table, None, _split(tasks, table, None, folds, seed), report.notes)
    roots = {"--train-root": train_root, **({"--valid-root": valid_root} if valid_root else {})}
    (train, *rest), report = read_training_tables(roots, corrections)
    for table in (train, *rest):
        check_people(table, report, two_genders=two_genders)
    report.raise_errors()
    valid = rest[0] if rest else None
    both = sorted(set(train["person"]) & set(valid["person"])) if valid_root else []
    if both:
        raise UserError(
            f"--train-root and --valid-root share people, which would inflate the score: {shorten_list(both)}. "
            "Remove them from one of the two."
        )
    return Tables(FACES, train, valid, _split(FACES, train, valid, cv, seed), report.notes)


def prepare_images(
    tables: Tables,
    *,
    side: int,
    max_megapixels: float,
    on_bad_image: str,
    cache: str = "off",
    pseudo_labels: str | Path | None = None,
    pseudo_share: float = 1.0,
    validated_root: str | Path | None = None,
    task: str | None = None,
    age_filter: int | None = None,
) -> Data:
    """Decode every image once by `load_images`, split the people again if images are left out, and print notes.

    `pseudo_labels` is the folder of a prediction to train on too, the `pseudo_share` of it that is most confident, with
    the labels of `task` and `age_filter`; it must not be of the images in `validated_root`.

    Raises:
        UserError: images are unreadable, or too few people are left without them.
    """
    tasks, train, valid, split, notes = tables
    pseudo = read_pseudo_labels(pseudo_labels, validated=validated_root) if pseudo_labels else None
    paths = [*train["path"], *(valid["path"] if valid is not None else ()), *(pseudo.paths if pseudo else ())]
    reader, unreadable = load_images(paths, cache=cache, side=side, max_megapixels=max_megapixels)
    stop_if_unreadable(unreadable, on_bad_image)
    if unreadable:
        for option, part in (("--train-root", train), ("--valid-root", valid)):
            if part is not None and part["path"].isin(list(unreadable)).all():
                place = "--data" if tasks is not FACES else option
                raise UserError(f"None of the {len(part)} images of {place} can be read: {min(unreadable)}.")
        train, valid = (_without(part, unreadable) for part in (train, valid))
        print(f"Left out {len(unreadable)} of {len(paths)} images that cannot be read: {shorten_list(unreadable)}.")
        split = _split(tasks, train, valid, len(split.folds), split.seed)
    both = pd.concat([train, valid])
    shared = [set(names) for names in find_shared_images(both["path"], both["person"]) if len(names) > 1]
    leaks = [names for names in shared if any(names & {*fold.train} and names & {*fold.valid} for fold in split.folds)]
    if leaks:
        people = shorten_list(" and ".join(sorted(names)) for names in leaks)
        notes.append(f"Identical images are trained and validated on, as those of {people}.")
    for note in [*notes, *split.notes]:
        print(note)
    extra = []
    if pseudo is not None:
        ages = ages_of_groups(train, age_filter)
        extra = [
            _without(pseudo.fold_table(split.fingerprint, k, tasks[task], share=pseudo_share, ages=ages), unreadable)
            for k in range(len(split.folds))
        ]
        for number, rows in enumerate(extra):
            print(f"fold {number}: also trains on {len(rows)} images with the labels that its members predicted.")
    data = Data(tasks, train, valid, split, unreadable, reader, extra, age_filter)
    for number, fold in enumerate(split.folds):
        if len(data.fold_tables(fold)[0]) < 2:
            raise UserError(f"Fold {number} has a single training image. A batch needs two: add images or lower --cv.")
    return data


def _split(tasks: Tasks, table: pd.DataFrame, valid: pd.DataFrame | None, cv: int, seed: int) -> Split:
    valid_people = None if valid is None else sorted(set(valid["person"]))
    return split_people(table, tasks, cv=cv, seed=seed, valid_people=valid_people)


def _without(table: pd.DataFrame | None, unreadable: dict[str, str]) -> pd.DataFrame | None:
    return None if table is None else table[~table["path"].isin(list(unreadable))].reset_index(drop=True)
