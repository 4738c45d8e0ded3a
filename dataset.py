"""Photographs as tensors: data sets, within-class MixUp, and loaders whose draws depend on the image alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data.image_cache import Pictures
from data.label_math import attributes_of, targets_of
from data.tasks import TASKS
from utils import UserError, derive_seed, seeded

BLANK = Image.new("RGB", (64, 64))  # takes the place of an unreadable image


@dataclass(frozen=True)
class Mixture:
    """Images `(3, S, S) float32` of two people of one class, their rows in the table, and the share of the first."""

    rows: tuple[int, int]
    images: tuple[Tensor, Tensor]
    share: float

    @property
    def image(self) -> Tensor:
        """Both in one, `(3, S, S) float32`."""
        return self.share * self.images[0] + (1 - self.share) * self.images[1]


class TrainDataset(Dataset):
    """Training photographs, augmented, and after them `extra` ones made by MixUp within a class.

    Items are asked for by (epoch, index), see `EpochSampler`, and answered with `(image (3, S, S) float32, {task:
    target})`. What is drawn for an item depends on seed, epoch and index alone, not on workers or order.

    Args:
        table: one row an image, of training people only.
        transform: PIL image to tensor, drawing from torch's global generator.
        seed: anything that names the run and fold.
        pictures: what reads the photographs.
        age_filter: see `targets_of`.
        oversample: add mixed images of the scarce classes, see `extra_classes`.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        transform: Callable,
        *,
        seed: Sequence[int],
        pictures: Pictures | None = None,
        age_filter: int | None = None,
        oversample: bool = False,
    ) -> None:
        self.paths, self.people = table["path"].tolist(), table["person"].to_numpy(str)
        self.targets = targets_of(table, age_filter=age_filter)
        self.transform, self.seed, self.pictures = transform, tuple(seed), pictures or Pictures()
        self.extra = extra_classes(self.targets["main"], self.people) if oversample else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.paths) + len(self.extra)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[str, int | float]]:
        epoch, index = key
        with seeded("train", *self.seed, epoch, index):
            if index < len(self.paths):
                return self._image(index), self._target(index)
            return self._mixed(int(self.extra[index - len(self.paths)]))

    def mixture(self, epoch: int, index: int) -> Mixture:
        """What the item (epoch, index), one of the extra ones, is mixed of."""
        with seeded("train", *self.seed, epoch, index):
            return self._mix(int(self.extra[index - len(self.paths)]))

    def name(self, index: int) -> str:
        """What an item is, for messages: its file, or the class that it is mixed within."""
        if index < len(self.paths):
            return self.paths[index]
        return f"a mixed image of class {self.extra[index - len(self.paths)]}"

    @property
    def classes(self) -> dict[str, np.ndarray]:
        """The class of every item, the extra ones too, for each task of classes: `{task: (len,) int64}`."""
        extra = {**attributes_of(self.extra), "main": self.extra}
        return {task: np.concatenate([self.targets[task], more]) for task, more in extra.items()}

    def counts(self) -> dict[str, Tensor]:
        """How many items each class has, for each task of classes: `{task: (C,) int64}`."""
        return {
            task: torch.bincount(torch.from_numpy(values), minlength=TASKS[task].outputs)
            for task, values in self.classes.items()
        }

    def _image(self, index: int) -> Tensor:
        return self.transform(self.pictures.read(self.paths[index]))

    def _target(self, index: int) -> dict[str, int | float]:
        return {task: values[index].item() for task, values in self.targets.items()}

    def _mix(self, label: int) -> Mixture:
        """Two people of the class, mixed with a share drawn evenly from 0 to 1 (MixUp with alpha 1, Zhang et al. 2018,
        https://arxiv.org/abs/1710.09412)."""
        members = np.flatnonzero(self.targets["main"] == label)
        first = members[torch.randint(len(members), ()).item()]
        others = members[self.people[members] != self.people[first]]
        second = others[torch.randint(len(others), ()).item()]
        share = torch.rand(()).item()
        return Mixture((int(first), int(second)), (self._image(first), self._image(second)), share)

    def _mixed(self, label: int) -> tuple[Tensor, dict[str, int | float]]:
        """A mixture; the labels are those of both, the age is mixed as the pixels are."""
        mixture = self._mix(label)
        target, other = (self._target(row) for row in mixture.rows)
        target["age"] = mixture.share * target["age"] + (1 - mixture.share) * other["age"]
        return mixture.image, target


def extra_classes(labels: np.ndarray, people: np.ndarray) -> np.ndarray:
    """The classes of the images that oversampling adds: each scarce class is filled up to the mean count of classes.

    A class of one person alone is left as it is: there are no two people to mix.

    Args:
        labels: `(N,) int64` class of each image. people: `(N,)` who is on it.

    Returns:
        `(E,) int64`, sorted.
    """
    counts = np.bincount(labels, minlength=TASKS["main"].outputs)
    goal = round(counts.sum() / np.count_nonzero(counts))
    mixable = [c for c in range(len(counts)) if len(set(people[labels == c])) > 1]
    return np.concatenate([np.empty(0, np.int64), *(np.full(max(0, goal - counts[c]), c) for c in mixable)])


class ViewDataset(Dataset):
    """Photographs for validation and prediction: `(views (V, 3, S, S) float32, {task: target})` for each index.

    Args:
        paths: the files.
        keys: what the views of each file are seeded by, its path or id: the same view in every run.
        transform: an inference transform, called as `transform(image, view, key)`.
        others: more of them, for networks that see the same photographs otherwise; views are then a list, one for each.
        views: how many views of each image.
        pictures: what reads the photographs.
        targets: `{task: (N,)}` or None.
        report_errors: return blank views for an unreadable image, and in the targets under "error" the reason, instead
            of raising; it is empty for other images.
    """

    def __init__(
        self,
        paths: Sequence[str],
        keys: Sequence[str],
        transform: Callable,
        *,
        others: Sequence[Callable] = (),
        views: int = 1,
        pictures: Pictures | None = None,
        targets: dict[str, np.ndarray] | None = None,
        report_errors: bool = False,
    ) -> None:
        self.paths, self.keys, self.views, self.report_errors = list(paths), list(keys), views, report_errors
        self.transforms = [transform, *others]
        self.targets, self.pictures = targets or {}, pictures or Pictures()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor | list[Tensor], dict[str, int | float | str]]:
        key, error = self.keys[index], {"error": ""} if self.report_errors else {}
        try:
            image = self.pictures.read(self.paths[index])
        except UserError as caught:
            if not self.report_errors:
                raise
            image, error = BLANK, {"error": str(caught)}
        kinds = [_stack([cut(image, view, key) for view in range(self.views)]) for cut in self.transforms]
        views = kinds if len(kinds) > 1 else kinds[0]
        return views, {task: values[index].item() for task, values in self.targets.items()} | error


def _stack(views: list[Tensor]) -> Tensor:
    return torch.stack([view.movedim(-3, -1) for view in views]).movedim(-1, -3)  # the layout of `_channels_last`


class EpochSampler(Sampler):
    """Batches of (epoch, index) keys in an order that depends on seed and epoch alone.

    Call `set_epoch` before each pass, with the number of batches to leave out when one is taken up in the middle; the
    length is that of a whole pass. A last batch of one image is left out, since BatchNorm cannot train on it; the
    image left out is another one in every epoch.

    Where several processes train `together`, each gets its part of every batch, which must be two images or more.

    Args:
        weights: `(size,)`, how often each item is drawn, with replacement, beside the others; None takes each once.
            An item that is drawn again in an epoch is one of (epoch, how often before) instead of the epoch, so that
            it is augmented otherwise.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: Sequence[int],
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
    ) -> None:
        self.size, self.batch_size, self.seed, self.epoch, self.start = size, batch_size, tuple(seed), 0, 0
        self.rank, self.world_size = rank, world_size
        self.weights = None if weights is None else torch.from_numpy(weights)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the order of the next pass, and the batch it begins with."""
        self.epoch, self.start = epoch, start

    def batches(self) -> list[list[int]]:
        """The indices of every batch of this epoch."""
        generator = torch.Generator().manual_seed(derive_seed("order", *self.seed, self.epoch))
        if self.weights is None:
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        return [order[start : start + self.batch_size] for start in range(0, self.size, self.batch_size)][: len(self)]

    def sizes(self) -> list[int]:
        """How many images each batch of the pass has, over all processes."""
        return [len(chunk) for chunk in self.batches()[self.start :]]

    def __iter__(self) -> Iterator[list[tuple[int | tuple[int, int], int]]]:
        drawn: Counter[int] = Counter()
        for number, chunk in enumerate(self.batches()):
            keys = []
            for index in chunk:
                again = drawn[index]
                drawn[index] += 1
                keys.append(((self.epoch, again) if again else self.epoch, index))
            if number >= self.start:
                yield keys[self.rank :: self.world_size]

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest >= 2 * self.world_size)


def balanced_weights(labels: np.ndarray, power: float) -> np.ndarray:
    """How often each image is drawn: its class's count to the power of -`power`, `(N,) float64`.

    At 1 all classes are drawn equally often, at 0 all images; between, the sampling of Mahajan et al. 2018
    (https://arxiv.org/abs/1805.00932), who took 0.5.

    Args:
        labels: `(N,) int64` class of each image.
    """
    return np.bincount(labels)[labels].astype(np.float64) ** -power


class ViewBatches(Sampler):
    """Batches of indices in order; of several processes, each gets every `world_size`-th batch.

    The batches do not depend on the number of processes, so predictions are the same to the last bit.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self.batches = [range(size)[start : start + batch_size] for start in range(0, size, batch_size)]

    def __iter__(self) -> Iterator[range]:
        return iter(self.batches[self.rank :: self.world_size])

    def __len__(self) -> int:
        return len(self.batches[self.rank :: self.world_size])

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the rows of all images in order, from those of each process by rank."""
        if self.world_size == 1:
            return parts[0]
        whole = np.empty((sum(map(len, self.batches)), *parts[0].shape[1:]), parts[0].dtype)
        for rank, part in enumerate(parts):
            whole[[index for batch in self.batches[rank :: self.world_size] for index in batch]] = part
        return whole
