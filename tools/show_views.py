"""Draw sheets of what a network sees: python -m tools show_views"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from analysis.contact_sheet import ACROSS, Block, Cell, contact_sheet
from augmentation import VIEWS, FixedViews, build_transform, to_image
from cli.checks import train_size
from cli.choices import TRANSFORMS
from config import SHOWN_HIGH, ShowConfig
from data.face_box import face_crop_box
from data.image_cache import ImageReader, load_images
from data.images import find_unreadable, needed_side
from data.prepare import Data
from data.split import split_people
from data.tables import EXTENSIONS, read_training_table
from data.tasks import MAIN_CLASSES
from dataset import TrainDataset, ViewDataset
from utils import UserError, atomic_write, shorten_list

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
    train = Data(table, None, split, {}, ImageReader()).fold_tables(split.folds[FOLD])[0]
    return train, spread(train, config.seed), config.count


def _named(config: ShowConfig) -> tuple[pd.DataFrame, Iterator[int], int]:
    """The same of the files that --images names, or of the folder that it names, as a table that knows no labels."""
    whole = os.path.exists(config.images)  # a name may hold a comma
    paths = [config.images] if whole else [name.strip() for name in config.images.split(",") if name.strip()]
    missing = [name for name in paths if not os.path.exists(name)]
    if missing or not paths:
        raise UserError(
            f"--images names {f'what is not there: {shorten_list(missing)}' if missing else 'nothing'}; pass photographs as in "
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
    elif len(paths) > SHOWN_HIGH:
        raise UserError(f"--images must name {SHOWN_HIGH} files or less, or a folder. Got {len(paths)}.")
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
        unreadable = find_unreadable([table["path"][row]], config.max_megapixels)
        bad |= unreadable
        rows += [] if unreadable else [row]
        if len(rows) == count:
            break
    if not rows:
        raise UserError(f"There is no photograph to show: {shorten_list(bad.values(), 1)}")
    if bad:
        print(f"Left out: {shorten_list(why.rstrip('.') for why in bad.values())}.")
    if len(rows) < count:
        print(f"Photographs that can be shown: {len(rows)}, not {count}.")
    print(f"Showing {shorten_list(table['image'][rows], SHOWN_HIGH)}.")
    return rows


def write_sheets(config: ShowConfig, table: pd.DataFrame, rows: Sequence[int], folder: Path) -> None:
    """Write a sheet for each transform, and one of MixUp, and print their paths; the command of show_views.py.

    Args:
        table, rows: from `examples.choose_examples`. folder: where they are written, which must be there.

    Raises:
        DiskError: a sheet could not be written.
    """
    limits = {"side": needed_side(config.image_size, config.crop_scale), "max_megapixels": config.max_megapixels}
    reader, _ = load_images(table["path"][rows].tolist(), cache="ram", **limits)
    names = TRANSFORMS if config.transform_type == "all" else (config.transform_type,)
    sheets = {name: lambda name=name: transform_sheet(config, name, table, rows, reader) for name in names}
    if not config.images:
        sheets["mixup"] = lambda: mixup_sheet(config, names[0], table, reader)
    for name, draw in sheets.items():
        page = draw()
        path = folder / f"{name}.jpg"
        atomic_write(path, lambda file, page=page: page.save(file, "JPEG", quality=90))
        print(path)


def transform_sheet(
    config: ShowConfig, name: str, table: pd.DataFrame, rows: Sequence[int], reader: ImageReader
) -> Image.Image:
    """The sheet of one transform: of each photograph what training, validation and prediction make of it.

    The training draws are those of `dataset.TrainDataset` for the seed, the fold and the first epochs.

    Args:
        table: what the fold is trained on, one row an image.
        rows: the numbers of the rows to show.
    """
    chosen = table.iloc[list(rows)]
    train = _train_set(config, name, table, reader)
    valid, inference = (
        build_transform(name, phase, config.image_size, **config.cuts()) for phase in ("valid", "inference")
    )
    views = [view.name for view in VIEWS[: inference.max_views]] if inference.max_views else ["random"] * len(VIEWS)
    files = chosen["path"].tolist(), chosen["image"].tolist()
    valid_set = ViewDataset(*files, valid, reader=reader)
    view_set = ViewDataset(*files, inference, views=len(views), reader=reader)
    face = isinstance(inference, FixedViews) and inference.face
    blocks, missed = [], []
    for k, (row, path, image, label) in enumerate(zip(rows, *files, chosen["label"], strict=True)):
        photograph = Cell("photograph", reader.read(path))
        if face:
            box, found = face_crop_box(photograph.picture)
            told = "box: the face" if found else "no face found: box in the centre"
            photograph = Cell(told, photograph.picture, box, amiss=not found)
            missed += [] if found else [image]
        drawn = [Cell(f"training, epoch {epoch}", to_image(train[epoch, row][0])) for epoch in range(config.draws)]
        seen = [
            Cell(f"{number} {view}", to_image(pixels))
            for number, (view, pixels) in enumerate(zip(views, view_set[k][0], strict=True), 1)
        ]
        lines = [cells[at : at + ACROSS] for cells in (drawn, seen) for at in range(0, len(cells), ACROSS)]
        large = [photograph, Cell("validation", to_image(valid_set[k][0][0]))]
        blocks.append(Block(image if label < 0 else f"{image}: {MAIN_CLASSES[label]}", lines, large))
    notes = [
        f"Training draws: {_draws_of(config)}. With numbers: the test-time views, of which --tta N takes the first N"
        + ("." if inference.max_views else "; each is fixed by its number and its photograph's name.")
    ]
    if missed:
        print(f"{name}: no face was found in {len(missed)} of {len(rows)} photographs, the centre stands in.")
    return contact_sheet(f"{name}, {config.image_size} px", notes, blocks)


def mixup_sheet(config: ShowConfig, name: str, table: pd.DataFrame, reader: ImageReader) -> Image.Image:
    """The sheet of within-class MixUp: for some scarce classes the first image that --oversample adds, in epoch 0.

    Args:
        name: of the transform.
        table: what the fold is trained on, one row an image.
    """
    train = _train_set(config, name, table, reader, oversample=True)
    classes, first, added = np.unique(train.extra, return_index=True, return_counts=True)
    notes = [f"Training draws: {_draws_of(config)}, transform {name}."]
    people = table.groupby("label")["person"].nunique()
    alone = [MAIN_CLASSES[label] for label in people.index[people == 1]]
    if alone:
        notes.append(f"Not mixed, since they are of one person alone: {', '.join(alone)}.")
    if not len(classes):
        notes.append("--oversample adds no image: no class of several people is below the mean count of all classes.")
    for note in notes[1:]:
        print(f"mixup: {note}")
    blocks = []
    for k in np.random.default_rng(config.seed).permutation(len(classes)):
        try:
            mixture = train.mixture(0, len(table) + int(first[k]))
        except UserError as error:
            print(f"Left out of mixup: {error}")
            continue
        shares = mixture.share, 1 - mixture.share
        cells = []
        for row, image, share in zip(mixture.rows, mixture.images, shares, strict=True):
            cells.append(Cell(table["image"][row], reader.read(table["path"][row])))
            cells.append(Cell(f"as drawn, {share:.0%}", to_image(image)))
        cells.append(Cell("their mixture", to_image(mixture.image)))
        caption = f"{MAIN_CLASSES[classes[k]]}: {added[k]} of {len(train.extra)} mixed images"
        blocks.append(Block(caption, [cells]))
        if len(blocks) == config.count:
            break
    if len(classes):
        notes.insert(1, f"--oversample mixes images of {len(classes)} scarce classes; {len(blocks)} are shown.")
    return contact_sheet(f"MixUp within a class, {config.image_size} px", notes, blocks, cell=220)


def _train_set(
    config: ShowConfig, name: str, table: pd.DataFrame, reader: ImageReader, *, oversample: bool = False
) -> TrainDataset:
    transform = build_transform(name, "train", train_size(config.train_side, config.image_size), **config.cuts())
    return TrainDataset(table, transform, seed=(config.seed, FOLD), reader=reader, oversample=oversample)


def _draws_of(config: ShowConfig) -> str:
    """Which training it is whose draws are shown."""
    return f"seed {config.seed}, fold {FOLD}" + ("" if config.images else f" of --cv {config.cv}")


def run(config: ShowConfig) -> None:
    """See `views.write_sheets`. What is wrong is told before torch is imported, which takes seconds."""
    from tools.show_views import choose_examples
    from utils import make_folder

    table, rows = choose_examples(config)
    folder = make_folder(Path(config.save_path))
    from tools.show_views import write_sheets

    write_sheets(config, table, rows, folder)
