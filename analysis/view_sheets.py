"""Draw sheets of network inputs: training images, validation and test-time views, and MixUp within a class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from analysis.contact_sheet import ACROSS, Block, Cell, contact_sheet
from augmentation import VIEWS, FixedViews, build_transform, to_image
from data.face_box import face_crop_box
from data.image_cache import ImageReader
from data.tasks import Tasks
from dataset import TrainDataset, ViewDataset
from utils import UserError


@dataclass(frozen=True)
class ViewSheets:
    """Draw the sheets of one fold of a training."""

    table: pd.DataFrame  # one row per training image of the fold; label is -1 where it is unknown
    tasks: Tasks  # of the labels; the label is the class of the first one
    reader: ImageReader
    image_size: int  # side of the network's input in pixels
    train_size: int  # side of training images in pixels
    cuts: dict[str, Any]  # the other arguments of `augmentation.build_transform`
    seed: tuple[int, int]  # run seed and fold
    about: str  # description of the training for the notes of the sheets

    def transform_sheet(self, name: str, rows: Sequence[int], *, draws: int) -> Image.Image:
        """Draw `rows` of the table as `draws` epochs of training, validation and prediction load them."""
        chosen = self.table.iloc[list(rows)]
        paths, images = chosen["path"].tolist(), chosen["image"].tolist()
        inference = build_transform(name, "inference", self.image_size, **self.cuts)
        views = [view.name for view in VIEWS[: inference.max_views]] if inference.max_views else ["random"] * len(VIEWS)
        train = self._train_set(name)
        valid_transform = build_transform(name, "valid", self.image_size, **self.cuts)
        valid = ViewDataset(paths, images, valid_transform, reader=self.reader)
        predicted = ViewDataset(paths, images, inference, views=len(views), reader=self.reader)
        face = isinstance(inference, FixedViews) and inference.face
        blocks, missed = [], 0
        for k, (row, path, image, label) in enumerate(zip(rows, paths, images, chosen["label"], strict=True)):
            original = self._original(path, face=face)
            missed += original.highlight
            drawn = [Cell(f"training, epoch {e}", to_image(train[e, row][0])) for e in range(draws)]
            seen = [Cell(f"{n} {view}", to_image(predicted[k][0][n - 1])) for n, view in enumerate(views, 1)]
            lines = [cells[at : at + ACROSS] for cells in (drawn, seen) for at in range(0, len(cells), ACROSS)]
            caption = image if label < 0 else f"{image}: {self.tasks.default.classes[label]}"
            blocks.append(Block(caption, lines, [original, Cell("validation", to_image(valid[k][0][0]))]))
        if missed:
            print(f"{name}: no face was found in {missed} of {len(rows)} images; their centre is used.")
        numbers = "." if inference.max_views else "; each depends on its number and the image's name."
        notes = [f"Training images: {self.about}. Numbers: the test-time views; --tta N uses the first N{numbers}"]
        return contact_sheet(f"{name}, {self.image_size} px", notes, blocks)

    def _original(self, path: str, *, face: bool) -> Cell:
        """Return the whole image, with the box of its face if `face`."""
        picture = self.reader.read(path)
        if not face:
            return Cell("image", picture)
        box, found = face_crop_box(picture)
        return Cell("box: the face" if found else "no face found: the centre", picture, box, highlight=not found)

    def mixup_sheet(self, name: str, *, count: int) -> Image.Image:
        """Draw the first image that --oversample adds in epoch 0, of up to `count` scarce classes."""
        train = self._train_set(name, oversample=True)
        classes, counts = np.unique(train.extra, return_counts=True)
        people = self.table.groupby("label")["person"].nunique()
        task, notes = self.tasks.default, []
        if alone := [task.classes[label] for label in people.index[people == 1]]:
            notes.append(f"Not mixed, with images of one {task.one} only: {', '.join(alone)}.")
        if not len(classes):
            notes.append(f"--oversample adds nothing: every class of several {task.noun} has at least the mean count.")
        for note in notes:
            print(f"mixup: {note}")
        blocks = []
        for label, cells in islice(self._mixtures(train, classes), count):
            added = counts[classes == label].item()
            blocks.append(Block(f"{task.classes[label]}: {added} of {len(train.extra)} mixed images", [cells]))
        if len(classes):
            notes.insert(0, f"--oversample mixes images of {len(classes)} scarce classes; {len(blocks)} are shown.")
        notes.insert(0, f"Training images: {self.about}, transform {name}.")
        return contact_sheet(f"MixUp within a class, {self.image_size} px", notes, blocks, cell=220)

    def _mixtures(self, train: TrainDataset, classes: np.ndarray) -> Iterator[tuple[int, list[Cell]]]:
        """Yield classes in random order and, of each, two images, their crops and the mixture of these."""
        for label in np.random.default_rng(self.seed[0]).permutation(classes):
            try:
                mixture = train.mixture(0, len(self.table) + int(np.flatnonzero(train.extra == label)[0]))
            except UserError as error:
                print(f"Left out of mixup: {error}")
                continue
            cells, shares = [], (mixture.share, 1 - mixture.share)
            for row, image, share in zip(mixture.rows, mixture.images, shares, strict=True):
                cells.append(Cell(self.table["image"][row], self.reader.read(self.table["path"][row])))
                cells.append(Cell(f"as cropped, {share:.0%}", to_image(image)))
            yield int(label), [*cells, Cell("the mixture", to_image(mixture.image))]

    def _train_set(self, name: str, *, oversample: bool = False) -> TrainDataset:
        transform = build_transform(name, "train", self.train_size, **self.cuts)
        options = {"seed": self.seed, "reader": self.reader, "oversample": oversample}
        return TrainDataset(self.table, transform, self.tasks, **options)
