"""Sheets of what a network gets to see: training draws, validation view, test-time views, and MixUp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from augmentation import VIEWS, InferenceTransform, build_transform, face_crop_box, to_picture
from cache import Pictures, look_at_pictures
from config import TRANSFORMS, ShowConfig, UserError, cuts_of, train_size_of
from dataset import TrainDataset, ViewDataset
from examples import FOLD
from picture import needed_side
from sheet import ACROSS, Block, Cell, contact_sheet
from tasks import MAIN_CLASSES
from utils import atomic_write


def write_sheets(config: ShowConfig, table: pd.DataFrame, rows: Sequence[int], folder: Path) -> None:
    """Write a sheet for each transform, and one of MixUp, and print their paths; the command of show_views.py.

    Args:
        table, rows: from `examples.choose_examples`. folder: where they are written, which must be there.

    Raises:
        DiskError: a sheet could not be written.
    """
    limits = {"side": needed_side(config.image_size), "max_megapixels": config.max_megapixels}
    pictures, _ = look_at_pictures(table["path"][rows].tolist(), cache="ram", folder=folder, **limits)
    names = TRANSFORMS if config.transform_type == "all" else (config.transform_type,)
    sheets = {name: lambda name=name: transform_sheet(config, name, table, rows, pictures) for name in names}
    if not config.images:
        sheets["mixup"] = lambda: mixup_sheet(config, names[0], table, pictures)
    for name, draw in sheets.items():
        page = draw()
        path = folder / f"{name}.jpg"
        atomic_write(path, lambda file, page=page: page.save(file, "JPEG", quality=90))
        print(path)


def transform_sheet(
    config: ShowConfig, name: str, table: pd.DataFrame, rows: Sequence[int], pictures: Pictures
) -> Image.Image:
    """The sheet of one transform: of each photograph what training, validation and prediction make of it.

    The training draws are those of `dataset.TrainDataset` for the seed, the fold and the first epochs.

    Args:
        table: what the fold is trained on, one row an image.
        rows: the numbers of the rows to show.
    """
    chosen = table.iloc[list(rows)]
    train = _train_set(config, name, table, pictures)
    valid, inference = (
        build_transform(name, phase, config.image_size, **cuts_of(config)) for phase in ("valid", "inference")
    )
    views = [view.name for view in VIEWS[: inference.max_views]] if inference.max_views else ["random"] * len(VIEWS)
    files = chosen["path"].tolist(), chosen["image"].tolist()
    valid_set = ViewDataset(*files, valid, pictures=pictures)
    view_set = ViewDataset(*files, inference, views=len(views), pictures=pictures)
    face = isinstance(inference, InferenceTransform) and inference.face
    blocks, missed = [], []
    for k, (row, path, image, label) in enumerate(zip(rows, *files, chosen["label"], strict=True)):
        photograph = Cell("photograph", pictures.read(path))
        if face:
            box, found = face_crop_box(photograph.picture)
            told = "box: the face" if found else "no face found: box in the centre"
            photograph = Cell(told, photograph.picture, box, amiss=not found)
            missed += [] if found else [image]
        drawn = [Cell(f"training, epoch {epoch}", to_picture(train[epoch, row][0])) for epoch in range(config.draws)]
        seen = [
            Cell(f"{number} {view}", to_picture(pixels))
            for number, (view, pixels) in enumerate(zip(views, view_set[k][0], strict=True), 1)
        ]
        lines = [cells[at : at + ACROSS] for cells in (drawn, seen) for at in range(0, len(cells), ACROSS)]
        large = [photograph, Cell("validation", to_picture(valid_set[k][0][0]))]
        blocks.append(Block(image if label < 0 else f"{image}: {MAIN_CLASSES[label]}", lines, large))
    notes = [
        f"Training draws: {_draws_of(config)}. With numbers: the test-time views, of which --tta N takes the first N"
        + ("." if inference.max_views else "; each is fixed by its number and its photograph's name.")
    ]
    if missed:
        print(f"{name}: no face was found in {len(missed)} of {len(rows)} photographs, the centre stands in.")
    return contact_sheet(f"{name}, {config.image_size} px", notes, blocks)


def mixup_sheet(config: ShowConfig, name: str, table: pd.DataFrame, pictures: Pictures) -> Image.Image:
    """The sheet of within-class MixUp: for some scarce classes the first image that --oversample adds, in epoch 0.

    Args:
        name: of the transform.
        table: what the fold is trained on, one row an image.
    """
    train = _train_set(config, name, table, pictures, oversample=True)
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
            cells.append(Cell(table["image"][row], pictures.read(table["path"][row])))
            cells.append(Cell(f"as drawn, {share:.0%}", to_picture(image)))
        cells.append(Cell("their mixture", to_picture(mixture.image)))
        caption = f"{MAIN_CLASSES[classes[k]]}: {added[k]} of {len(train.extra)} mixed images"
        blocks.append(Block(caption, [cells]))
        if len(blocks) == config.count:
            break
    if len(classes):
        notes.insert(1, f"--oversample mixes images of {len(classes)} scarce classes; {len(blocks)} are shown.")
    return contact_sheet(f"MixUp within a class, {config.image_size} px", notes, blocks, cell=220)


def _train_set(
    config: ShowConfig, name: str, table: pd.DataFrame, pictures: Pictures, *, oversample: bool = False
) -> TrainDataset:
    transform = build_transform(name, "train", train_size_of(config), **cuts_of(config))
    return TrainDataset(table, transform, seed=(config.seed, FOLD), pictures=pictures, oversample=oversample)


def _draws_of(config: ShowConfig) -> str:
    """Which training it is whose draws are shown."""
    return f"seed {config.seed}, fold {FOLD}" + ("" if config.images else f" of --cv {config.cv}")
