"""Split people, or other groups, into folds that are alike in their labels."""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass

import numpy as np
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
    """Split people, or other groups, into `cv` folds with different validation groups; `cv` 1 holds out a tenth.

    Groups are stratified over the attributes that all images of a group share. Without such attributes, each fold gets
    about the same number of images, and of images of each class of the first task.

    `table` has one row per image in any order, with image, person (the name of the group), the labels of the tasks, and
    label (the class of the first task; unused if an attribute is shared and no folds are fixed). A column fold (0 to
    `cv` - 1, the same for all images of a group) fixes the folds. With `valid_people`, those of a separate validation
    folder, every fold validates on them, and the people that it leaves out of training are unused.

    Raises:
        UserError: there are fewer groups than folds, or fewer than two, or `cv` is not the number of fixed folds.
    """
    people, notes, fixed = sorted(set(table["person"])), [], "fold" in table
    noun = tasks.default.noun
    if fixed and (found := table["fold"].nunique()) != cv:
        raise UserError(f"The column of folds has {found} folds, but --cv is {cv}. Pass --cv {found}.")
    if valid_people is not None and cv == 1:
        return Split(seed, [Fold(people, valid_people)], notes)
    if fixed and cv == 1:
        raise UserError("The column of folds has a single value. It needs at least two.")
    parts = min(HOLD_OUT, len(people)) if cv == 1 else cv
    if len(people) < max(parts, 2):
        joined = noun == "people" and "id" in table and table["id"].nunique() > len(people)
        rule = " Ids that differ only in a last -1 to -99 count as one person." if joined else ""
        needed = f"Each fold needs at least one {tasks.default.one}.{rule}"
        raise UserError(f"{len(people)} {noun} cannot be split into {max(parts, 2)} folds. {needed}")
    varies = not any(task.of_group for task in tasks.attributes)
    if varies or fixed:
        counts = table.groupby(["person", "label"]).size().unstack(fill_value=0).loc[people]
        counts.columns = [tasks.default.class_task.classes[k] for k in counts.columns]
    stratum = None if varies else strata(table, tasks)
    counted = [("Classes in", (counts > 0).sum()) if varies else ("Strata with", stratum.value_counts().sort_index())]
    for part in tasks.attributes:
        if not part.of_group and not (varies and (tasks.joint or part is tasks.default)):
            found = table.groupby(part.name)["person"].nunique()
            counted.append(("Classes in", found.rename(dict(enumerate(part.classes)))))
    for kind, groups in counted:
        scarce = [f"{name} ({count})" for name, count in groups.items() if count < parts]
        if scarce:
            notes.append(f"{kind} fewer {noun} than the {parts} parts of the split: {shorten_list(scarce, 6)}.")
    if fixed:
        numbers = table.groupby("person")["fold"].first().loc[people].to_numpy()
    else:
        numbers = _spread_classes(counts.to_numpy(), parts, seed) if varies else _stratify(stratum, parts, seed)
    if fixed or varies:
        why = "The folds are fixed" if fixed else f"Labels vary within {noun}"
        notes.append(f"{why}: {_describe_shares(counts, numbers, cv)}")
    folds = []
    for k in range(cv):
        train, valid = ([people[i] for i in np.flatnonzero(part)] for part in (numbers != k, numbers == k))
        folds.append(Fold(train, valid if valid_people is None else valid_people))
    return Split(seed, folds, notes)


def _stratify(stratum: pd.Series, parts: int, seed: int) -> np.ndarray:
    """Return the fold of each group, `(G,)`, so that each stratum is spread evenly over `parts` folds."""
    from sklearn.model_selection import StratifiedKFold  # a second to import, which errors do not need

    labels = stratum if stratum.value_counts().max() >= parts else [0] * len(stratum)
    numbers = np.empty(len(stratum), np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a note names them
        folder = StratifiedKFold(n_splits=parts, shuffle=True, random_state=seed)
        for k, (_, valid) in enumerate(folder.split(numbers, labels)):
            numbers[valid] = k
    return numbers


def _spread_classes(counts: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Return the fold of each group, `(G,)`, so that images of each class are spread evenly over `parts` folds.

    As scikit-learn's StratifiedGroupKFold, this takes groups from the largest to the smallest, and adds each to the
    fold that makes the standard deviation over folds of the shares of a class smallest, in the mean of all classes. All
    images count as one more class, so that folds also become equally large. A random factor on the size of each group
    makes the folds depend on the seed even if no two groups are alike. Fold 0 is the one closest to the whole table.

    `counts` are the images of each class in each group, `(G, C)`, with no empty class.
    """
    counts = np.column_stack([counts, counts.sum(axis=1)]).astype(float)  # exact, so that ties are the same everywhere
    total = counts.sum(axis=0)
    size = ((counts / total) ** 2).sum(axis=1) * np.random.default_rng(seed).uniform(0.5, 1.5, len(counts))
    folds, filled, squares = np.zeros((parts, len(total))), np.zeros_like(total), np.zeros_like(total)
    numbers = np.empty(len(counts), np.int64)
    for i in np.argsort(-size):
        filled += counts[i]
        after = squares + counts[i] * (2 * folds + counts[i])  # sums of squares with the group in each fold, (parts, C)
        deviation = np.sqrt(parts * after - filled**2) @ (1 / total) / (parts * len(total))
        near = deviation <= deviation.min() + 1e-9
        numbers[i] = best = np.where(near, folds[:, -1], np.inf).argmin()
        squares = after[best]
        folds[best] += counts[i]
    rank = np.abs(folds / total - 1 / parts).mean(axis=1).round(9).argsort(kind="stable").argsort()
    return rank[numbers]


def _describe_shares(counts: pd.DataFrame, numbers: np.ndarray, cv: int) -> str:
    """Return a sentence on the class whose share of the images of a fold differs most between folds.

    `counts` are the images of each class (columns) in each group (rows), `numbers` the fold of each group.
    """
    where = "two parts" if cv == 1 else "folds"  # which are then the held-out part and the rest
    images = counts.groupby(numbers.clip(max=1) if cv == 1 else numbers).sum()
    shares = images.div(images.sum(axis=1), axis=0)
    low, high = shares.min(), shares.max()
    name = (high - low).idxmax()
    span = f"{low[name]:.3f} to {high[name]:.3f}"
    return f"the share of class {shorten_list([name])} is {span} in the {where}, the widest range."
