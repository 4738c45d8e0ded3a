"""Split people into folds, stratified over the labels that all images of a person share."""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass

import pandas as pd

from data.tasks import Tasks
from utils import UserError, as_text, shorten_list

HOLD_OUT = 10  # --cv 1 holds out a tenth of the people


@dataclass(frozen=True)
class Fold:
    """The people of one fold, sorted."""

    train: list[str]
    valid: list[str]


@dataclass(frozen=True)
class Split:
    """All folds of a run, the seed of the shuffle, and notes to print."""

    seed: int
    folds: list[Fold]
    notes: list[str]

    def as_dict(self) -> dict:
        """Return the content of split.json: seed, fingerprint and the people of each fold."""
        folds = [{"fold": k, "train": fold.train, "valid": fold.valid} for k, fold in enumerate(self.folds)]
        return {"seed": self.seed, "fingerprint": self.fingerprint, "folds": folds}

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that two splits share only if every person has the same place in both."""
        people = [[[as_text(name) for name in part] for part in (fold.train, fold.valid)] for fold in self.folds]
        return hashlib.sha256(json.dumps(people).encode()).hexdigest()[:16]


def label_fingerprint(tasks: Tasks, *tables: pd.DataFrame) -> str:
    """Return 16 hexadecimal digits that two runs share only if they have the same images with the same labels.

    Images are identified by their names below the root and their sizes in bytes.
    """
    labels = ["image", *tasks.columns]
    rows = [table[labels].assign(size=[os.stat(p).st_size for p in table["path"]]).to_csv() for table in tables]
    return hashlib.sha256("\n".join(rows).encode(errors="surrogateescape")).hexdigest()[:16]


def strata(table: pd.DataFrame, tasks: Tasks) -> pd.Series:
    """Return the stratum of each person, such as `female >=60`, indexed by person and sorted.

    A person with two labels, from two folders, counts by the first one.
    """
    people = table.sort_values("image").drop_duplicates("person").set_index("person").sort_index()
    shared = [task for task in tasks.attributes if task.of_group]
    labels = people[[task.name for task in shared]].to_numpy()
    names = [" ".join(task.classes[k] for task, k in zip(shared, row, strict=True)) for row in labels]
    return pd.Series(names, index=people.index, dtype=object)


def split_people(
    table: pd.DataFrame, tasks: Tasks, *, cv: int, seed: int, valid_people: list[str] | None = None
) -> Split:
    """Split people into `cv` folds with different validation people; `cv` 1 holds out a tenth of them.

    `table` has one row per image in any order, with image, person and the labels of the tasks. With `valid_people`,
    those of a separate validation folder, every fold validates on them, and the people that it leaves out of training
    are unused.

    Raises:
        UserError: there are fewer people than folds, or fewer than two.
    """
    stratum = strata(table, tasks)
    people, notes = list(stratum.index), []
    if valid_people is not None and cv == 1:
        return Split(seed, [Fold(people, valid_people)], notes)
    parts = min(HOLD_OUT, len(people)) if cv == 1 else cv
    if len(people) < max(parts, 2):
        joined = "id" in table and table["id"].nunique() > len(people)
        rule = " Ids that differ only in a last -1 to -99 count as one person." if joined else ""
        raise UserError(
            f"{len(people)} people cannot be split into {max(parts, 2)} folds. Each fold needs at least one person."
            f"{rule}"
        )
    counts = stratum.value_counts().sort_index()
    scarce = [f"{name} ({count})" for name, count in counts.items() if count < parts]
    if scarce:
        notes.append(f"Strata with fewer people than the {parts} parts of the split: {shorten_list(scarce, 6)}.")
    from sklearn.model_selection import StratifiedKFold  # a second to import, which errors above do not need

    folder = StratifiedKFold(n_splits=parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a note above names them
        pieces = list(folder.split(people, stratum if counts.max() >= parts else [0] * len(people)))
    folds = [
        Fold([people[i] for i in train], [people[i] for i in valid] if valid_people is None else valid_people)
        for train, valid in pieces
    ]
    return Split(seed, folds[:cv], notes)
