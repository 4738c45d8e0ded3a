"""Draw sheets of what a network sees: python -m tools show_views --transform-type facecrop"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cli.checks import own_data, train_size
from cli.choices import TRANSFORMS
from config import SHOWN_HIGH, ShowConfig
from data.face_layout import read_training_table
from data.faces import FACES
from data.image_cache import load_images
from data.images import find_unreadable, needed_side
from data.prepare import read_labels
from data.split import split_people
from data.tables import EXTENSIONS
from data.tasks import Tasks
from utils import UserError, atomic_write, make_folder, shorten_list

FOLD = 0  # whose training images are shown


def run(config: ShowConfig) -> None:
    """Write a sheet for each transform, and one of MixUp, and print their paths."""
    tasks, table, rows, count = choose_images(config)
    shown = readable_rows(table, rows, count, config.max_megapixels)
    print(f"Showing {shorten_list(table['image'][shown], SHOWN_HIGH)}.")
    folder = make_folder(Path(config.save_path))
    from analysis.view_sheets import ViewSheets  # imports torch, once the images are chosen
    from backbones.create import expected_pixels

    expected = expected_pixels(config.model_type, config.backbone)
    pixels = {name: expected[name] for name in ("interpolation", "crop_share") if name in expected}
    limits = {"side": needed_side(config.image_size, config.crop_scale), "max_megapixels": config.max_megapixels}
    reader, _ = load_images(table["path"][shown].tolist(), cache="ram", **limits)
    sheets = ViewSheets(
        table,
        tasks,
        reader,
        image_size=config.image_size,
        train_size=train_size(config.train_side, config.image_size),
        cuts=config.cuts() | pixels,
        seed=(config.seed, FOLD),
        about=f"seed {config.seed}, fold {FOLD}" + ("" if config.images else f" of --cv {config.cv}"),
    )
    names = TRANSFORMS if config.transform_type == "all" else (config.transform_type,)
    for name in names if config.images else (*names, "mixup"):
        if name == "mixup":
            page = sheets.mixup_sheet(names[0], count=config.count)
        else:
            page = sheets.transform_sheet(name, shown, draws=config.draws)
        path = folder / f"{name}.jpg"
        atomic_write(path, lambda file, page=page: page.save(file, "JPEG", quality=90))
        print(path)


def choose_images(config: ShowConfig) -> tuple[Tasks, pd.DataFrame, Iterator[int], int]:
    """Return the tasks, a table with one row per image, rows in the order to show them, and the number to show.

    Raises:
        UserError: there are no images, or training could not start.
    """
    tasks = FACES
    if config.images:
        table = named_images(config.images)
        if not Path(config.images).is_dir():
            return tasks, table, iter(range(len(table))), len(table)
    else:
        if config.data:
            tasks, whole, report = read_labels(**own_data(config))
        else:
            whole, report = read_training_table(config.train_root, config.corrections)
        report.raise_errors()
        cv = whole["fold"].nunique() if "fold" in whole else config.cv
        fold = split_people(whole, tasks, cv=cv, seed=config.seed).folds[FOLD]
        table = whole[whole["person"].isin(fold.train)].reset_index(drop=True)
    return tasks, table, spread(table, tasks, config.seed), config.count


def named_images(names: str) -> pd.DataFrame:
    """Return a table of the files that --images names, or of the folder that it names, without labels.

    Raises:
        UserError: a file does not exist, or there are none or too many.
    """
    # A single name may contain a comma.
    paths = [names] if os.path.exists(names) else [name.strip() for name in names.split(",") if name.strip()]
    missing = [name for name in paths if not os.path.exists(name)]
    if missing:
        raise UserError(f"--images names files that do not exist: {shorten_list(missing)}.")
    if len(paths) == 1 and Path(paths[0]).is_dir():
        files = sorted(Path(paths[0]).iterdir())
        paths = [str(f) for f in files if f.suffix.lower() in EXTENSIONS and not f.name.startswith(".")]
        if not paths:
            raise UserError(
                f"{names} contains no images ({', '.join(EXTENSIONS)}). Pass a folder with one folder per person as "
                "--train-root."
            )
    elif len(paths) > SHOWN_HIGH:
        raise UserError(f"--images names {len(paths)} files. Pass at most {SHOWN_HIGH}, or a folder.")
    if not paths:
        raise UserError("--images names no files. Pass images, as in a.jpg,b.jpg, or a folder.")
    table = pd.DataFrame({"path": paths, "image": [Path(path).name for path in paths]})
    return table.assign(person=table["path"], **dict.fromkeys(FACES, 0), label=-1)


def spread(table: pd.DataFrame, tasks: Tasks, seed: int) -> Iterator[int]:
    """Yield all row numbers, first ones that cover many groups and classes; the seed decides between equals."""
    names = ["person", *(part.name for part in tasks.default.parts if not part.of_group), "label"]
    kinds = list(zip(*([(name, value) for value in table[name]] for name in names), strict=True))
    rows = np.random.default_rng(seed).permutation(len(table)).tolist()
    seen: Counter = Counter()
    while rows:
        row = min(rows, key=lambda row: [seen[kind] for kind in kinds[row]])
        rows.remove(row)
        seen.update(kinds[row])
        yield row


def readable_rows(table: pd.DataFrame, rows: Iterator[int], count: int, max_megapixels: float) -> list[int]:
    """Return the first `count` rows whose images can be read, or all if there are fewer, and print the others.

    Raises:
        UserError: no image can be read.
    """
    readable, unreadable = [], {}
    for row in rows:
        found = find_unreadable([table["path"][row]], max_megapixels)
        unreadable |= found
        readable += [] if found else [row]
        if len(readable) == count:
            break
    if not readable:
        raise UserError(f"There is no readable image: {shorten_list(unreadable.values(), 1)}")
    if unreadable:
        print(f"Left out: {shorten_list(why.rstrip('.') for why in unreadable.values())}.")
    if len(readable) < count:
        print(f"Only {len(readable)} of {count} images can be shown.")
    return readable
