"""Which photographs of a folder to show: some of many people, ways to wear the mask, and classes; without torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cache import Pictures
from config import MOST_SHOWN, ShowConfig, UserError
from picture import unreadable_images
from split import Data, split_people
from table import EXTENSIONS, read_training_table
from utils import some

FOLD = 0  # whose draws are shown


def choose_examples(config: ShowConfig) -> tuple[pd.DataFrame, list[int]]:
    """A table with one row an image, of all that fold 0 is trained on or that --images names, and the rows to show.

    Raises:
        UserError: there is nothing to show, or what would keep training from starting.
    """
    table, order, count = _named(config) if config.images else _of_training(config)
    return table, _readable(config, table, order, count)


def _of_training(config: ShowConfig) -> tuple[pd.DataFrame, Iterator[int], int]:
    """What the fold is trained on, its rows in the order in which to show them, and how many to show."""
    table, report = read_training_table(config.train_root, config.corrections)
    report.raise_errors()
    split = split_people(table, cv=config.cv, seed=config.seed)
    train = Data(table, None, split, {}, Pictures()).fold_tables(split.folds[FOLD])[0]
    return train, spread(train, config.seed), config.count


def _named(config: ShowConfig) -> tuple[pd.DataFrame, Iterator[int], int]:
    """The same of the files that --images names, or of the folder that it names, as a table that knows no labels."""
    whole = os.path.exists(config.images)  # a name may hold a comma
    paths = [config.images] if whole else [name.strip() for name in config.images.split(",") if name.strip()]
    missing = [name for name in paths if not os.path.exists(name)]
    if missing or not paths:
        raise UserError(
            f"--images names {f'what is not there: {some(missing)}' if missing else 'nothing'}; pass photographs as in "
            "a.jpg,b.jpg, or a folder."
        )
    folder = len(paths) == 1 and Path(paths[0]).is_dir()
    if folder:
        files = sorted(Path(paths[0]).iterdir())
        paths = [str(f) for f in files if f.suffix.lower() in EXTENSIONS and not f.name.startswith(".")]
        if not paths:
            raise UserError(
                f"{config.images} holds no photographs ({', '.join(EXTENSIONS)}); a folder with one folder a person is "
                "passed as --train-root."
            )
    elif len(paths) > MOST_SHOWN:
        raise UserError(f"--images must name {MOST_SHOWN} files or less, or a folder. Got {len(paths)}.")
    table = pd.DataFrame({"path": paths, "image": [Path(path).name for path in paths]})
    table = table.assign(person=table["path"], mask=0, gender=0, age=0, ageg=0, label=-1)
    return (table, spread(table, config.seed), config.count) if folder else (table, iter(range(len(table))), len(table))


def spread(table: pd.DataFrame, seed: int) -> Iterator[int]:
    """All row numbers in an order whose first ones are of many people, ways to wear the mask, and classes.

    Args:
        table: one row an image, with person, mask and label.
        seed: decides between equals.
    """
    kinds = list(zip(*([(name, value) for value in table[name]] for name in ("person", "mask", "label")), strict=True))
    rows = np.random.default_rng(seed).permutation(len(table)).tolist()
    seen: Counter = Counter()
    while rows:
        row = min(rows, key=lambda row: [seen[kind] for kind in kinds[row]])
        rows.remove(row)
        seen.update(kinds[row])
        yield row


def _readable(config: ShowConfig, table: pd.DataFrame, order: Iterator[int], count: int) -> list[int]:
    """The first rows, `count` if there are so many, whose photographs can be read; what was passed over is said."""
    rows, bad = [], {}
    for row in order:
        unreadable = unreadable_images([table["path"][row]], config.max_megapixels)
        bad |= unreadable
        rows += [] if unreadable else [row]
        if len(rows) == count:
            break
    if not rows:
        raise UserError(f"There is no photograph to show: {some(bad.values(), 1)}")
    if bad:
        print(f"Left out: {some(why.rstrip('.') for why in bad.values())}.")
    if len(rows) < count:
        print(f"Photographs that can be shown: {len(rows)}, not {count}.")
    print(f"Showing {some(table['image'][rows], MOST_SHOWN)}.")
    return rows
