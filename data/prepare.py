"""Read, check and split the images of a run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from config import TrainConfig
from data.image_cache import look_at_pictures
from data.images import needed_side, skip_or_stop
from data.pseudo_labels import PseudoLabels, read_pseudo_labels
from data.split import Data, Split, split_people
from data.tables import read_training_tables
from data.tasks import AGE_BOUNDS, AGE_GROUPS, MAX_AGE
from utils import UserError, make_folder, shorten_list

# ------------------------------------------------------------------------------------------------ before training


def read_tables(config: TrainConfig) -> tuple[pd.DataFrame, pd.DataFrame | None, Split, list[str]]:
    """The tables of the photographs to train on and, with --valid-root, to validate on, the split, and notes on them.

    Raises:
        UserError: everything that stands in the way, one line each; or too few people.
    """
    roots = {"--train-root": config.train_root}
    if config.valid_root:
        roots["--valid-root"] = config.valid_root
    (table, *rest), report = read_training_tables(roots, config.corrections)
    report.raise_errors()
    valid = rest[0] if rest else None
    if valid is not None:
        both = sorted(set(table["person"]) & set(valid["person"]))
        if both:
            raise UserError(
                f"People of --valid-root are also in --train-root, so the score would flatter: {shorten_list(both)}."
            )
    return table, valid, _split(config, table, valid), report.notes


def look_at_data(
    config: TrainConfig, table: pd.DataFrame, valid: pd.DataFrame | None, split: Split, notes: list[str]
) -> Data:
    """Look at every photograph, and split the people anew where some are left out, saying what is worth knowing.

    Raises:
        UserError: photographs that cannot be read, or too few people without them.
    """
    pseudo = read_pseudo_labels(config.pseudo_labels, validated=config.validated_root) if config.pseudo_labels else None
    paths = [*table["path"], *(valid["path"] if valid is not None else ()), *(pseudo.paths if pseudo else ())]
    folder, roots = Path(config.save_path), (config.train_root, config.valid_root, config.pseudo_labels)
    pictures, unreadable = look_at_pictures(
        paths,
        cache=config.cache,
        side=needed_side(config.image_size),
        max_megapixels=config.max_megapixels,
        folder=make_folder(folder) if config.cache == "disk" else folder,
        name=" ".join(os.path.abspath(root) for root in roots if root),
    )
    skip_or_stop(unreadable, config.on_bad_image)
    if unreadable:
        for option, part in (("--train-root", table), ("--valid-root", valid)):
            if part is not None and part["path"].isin(list(unreadable)).all():
                raise UserError(f"None of the {len(part)} photographs of {option} can be read: {min(unreadable)}.")
        table, valid = (_without(part, unreadable) for part in (table, valid))
        print(
            f"{len(unreadable)} of {len(paths)} photographs cannot be read and are left out: {shorten_list(unreadable)}."
        )
    split = _split(config, table, valid) if unreadable else split
    for note in [*notes, *split.notes]:
        print(note)
    data = Data(table, valid, split, unreadable, pictures, _pseudo_tables(config, pseudo, table, split, unreadable))
    for number, fold in enumerate(split.folds):
        if len(data.fold_tables(fold)[0]) < 2:
            raise UserError(f"Fold {number} would be trained on a single photograph; there must be two for a batch.")
    return data


def _pseudo_tables(
    config: TrainConfig, pseudo: PseudoLabels | None, table: pd.DataFrame, split: Split, unreadable: dict[str, str]
) -> list[pd.DataFrame]:
    """What each fold is trained on beside its people, for all folds or none."""
    if pseudo is None:
        return []
    medians = table.groupby("ageg")["age"].median()
    edges = (0, AGE_BOUNDS[0], config.age_filter or AGE_BOUNDS[1], MAX_AGE + 1)
    # Years that stay in their age group, with --age-filter too.
    ages = {k: float(np.clip(medians.get(k, edges[k]), edges[k], edges[k + 1] - 1)) for k in range(len(AGE_GROUPS))}
    tables = []
    for number in range(len(split.folds)):
        own = pseudo.fold_table(split.fingerprint, number, task=config.task, share=config.pseudo_share, ages=ages)
        tables.append(_without(own, unreadable))
        print(
            f"fold {number}: {len(tables[-1])} photographs are trained on with the labels that its members predicted."
        )
    return tables


def _split(config: TrainConfig, table: pd.DataFrame, valid: pd.DataFrame | None) -> Split:
    elsewhere = None if valid is None else sorted(set(valid["person"]))
    return split_people(table, cv=config.cv, seed=config.seed, valid_people=elsewhere)


def _without(table: pd.DataFrame | None, unreadable: dict[str, str]) -> pd.DataFrame | None:
    return None if table is None else table[~table["path"].isin(list(unreadable))].reset_index(drop=True)
