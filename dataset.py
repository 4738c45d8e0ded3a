"""Datasets and samplers. Every random draw depends on what it is for: the run, fold, epoch, image or view."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data.image_cache import ImageReader
from data.label_math import decode_classes, make_targets
from data.tasks import Tasks
from utils import UserError, derive_seed, seeded

BLANK = Image.new("RGB", (64, 64))  # takes the place of an unreadable image


@dataclass(frozen=True)
class Mixture:
    """Images `(3, S, S) float32` of two people of one class, their table rows, and the share of the first image."""

    rows: tuple[int, int]
    images: tuple[Tensor, Tensor]
    share: float

    @property
    def image(self) -> Tensor:
        """Return the mixed image, `(3, S, S) float32`."""
        return self.share * self.images[0] + (1 - self.share) * self.images[1]


class TrainDataset(Dataset):
    """Augmented training images, followed by `extra` ones that MixUp makes within a class.

    An item is requested by (epoch, index), see `EpochSampler`, and is `(image (3, S, S), {task: target})`. Its random
    draws depend on the seed of the run and the fold, the epoch and the index, not on workers or order. See
    `extra_classes` for `oversample`, which goes by the classes of the first task and needs images of float32.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        transform: Callable,
        tasks: Tasks,
        *,
        seed: Sequence[int],
        reader: ImageReader | None = None,
        oversample: bool = False,
    ) -> None:
        self.paths, self.people = table["path"].tolist(), table["person"].to_numpy(str)
        self.tasks, self.targets = tasks, make_targets(table, tasks)
        self.transforms, self.seed, self.reader = [transform], tuple(seed), reader or ImageReader()
        self.mixed = tasks.default.class_task  # the task whose classes are oversampled
        self.extra = np.empty(0, np.int64)
        if oversample:
            self.extra = extra_classes(self.targets[self.mixed.name], self.people, count=self.mixed.outputs)

    def __len__(self) -> int:
        return len(self.paths) + len(self.extra)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[str, int | float]]:
        epoch, index = key
        if index < len(self.paths):
            with seeded("train", *self.seed, epoch, index):
                return self._image(index), self._target(index)
        mixture = self.mixture(epoch, index)
        target, other = (self._target(row) for row in mixture.rows)  # of one class; numbers are mixed as the pixels are
        for name in (name for name, task in self.tasks.items() if task.regression):
            target[name] = mixture.share * target[name] + (1 - mixture.share) * other[name]
        return mixture.image, target

    def mixture(self, epoch: int, index: int) -> Mixture:
        """Return the parts of the item (epoch, index), one of the extra ones."""
        # Two people of a class and a share: MixUp with alpha 1 (Zhang et al. 2018, arXiv:1710.09412).
        members = np.flatnonzero(self.targets[self.mixed.name] == self.extra[index - len(self.paths)])
        with seeded("train", *self.seed, epoch, index):
            first = members[torch.randint(len(members), ()).item()]
            others = members[self.people[members] != self.people[first]]
            second = others[torch.randint(len(others), ()).item()]
            share = torch.rand(()).item()
            return Mixture((int(first), int(second)), (self._image(first), self._image(second)), share)

    def name(self, index: int) -> str:
        """Return the name of an item for messages: its file, or the class that it is mixed within."""
        if index < len(self.paths):
            return self.paths[index]
        return f"a mixed image of class {self.extra[index - len(self.paths)]}"

    @property
    def classes(self) -> dict[str, np.ndarray]:
        """Return the class of every item for each classification task, `{task: (len,) int64}`."""
        extra = {**decode_classes(self.mixed, self.extra), self.mixed.name: self.extra}
        names = [name for name, task in self.tasks.items() if not task.regression]
        return {name: np.concatenate([self.targets[name], extra.get(name, self.extra[:0])]) for name in names}

    def counts(self) -> dict[str, Tensor]:
        """Return the number of items of each class for each classification task, `{task: (C,) int64}`."""
        return {
            task: torch.bincount(torch.from_numpy(values), minlength=self.tasks[task].outputs)
            for task, values in self.classes.items()
        }

    def _image(self, index: int) -> Tensor:
        return self.transforms[0](self.reader.read(self.paths[index]))

    def _target(self, index: int) -> dict[str, int | float]:
        return {task: values[index].item() for task, values in self.targets.items()}


def extra_classes(labels: np.ndarray, people: np.ndarray, *, count: int) -> np.ndarray:
    """Return the classes of the images that oversampling adds, `(E,) int64`, sorted.

    Each scarce class is filled up to the mean count of the classes. A class of a single person stays as it is, since
    there are no two people to mix. `labels` and `people`, both `(N,)`, are those of the images, and `count` is the
    number of classes.
    """
    counts = np.bincount(labels, minlength=count)
    goal = round(counts.sum() / np.count_nonzero(counts))
    mixable = [c for c in range(len(counts)) if len(set(people[labels == c])) > 1]
    return np.concatenate([np.empty(0, np.int64), *(np.full(max(0, goal - counts[c]), c) for c in mixable)])


def balanced_weights(labels: np.ndarray, power: float) -> np.ndarray:
    """Return the sampling weight of each image, its class's count to the power of -`power`, `(N,) float64`.

    At 1 all classes are drawn equally often, at 0 all images. Mahajan et al. 2018 (https://arxiv.org/abs/1805.00932)
    took 0.5.
    """
    return np.bincount(labels)[labels].astype(np.float64) ** -power


class EpochSampler(Sampler):
    """Batches of (epoch, index) keys in an order that depends on seed and epoch alone.

    A last batch of one image is left out, since BatchNorm cannot train on it; it is another image in every epoch. Of
    several processes each gets its part of every batch, which must be two images or more.

    `size` counts images and `batch_size` those of a batch, over all processes. With `weights`, `(size,)`, images are
    drawn with replacement at these relative frequencies; None takes each image once. A repeated draw has the key
    ((epoch, number of the draw), index), so that it is augmented differently.
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
        """Choose the epoch of the next pass, and its first batch when a pass is continued in the middle."""
        self.epoch, self.start = epoch, start

    def batches(self) -> list[list[int]]:
        """Return the indices of every batch of this epoch."""
        generator = torch.Generator().manual_seed(derive_seed("order", *self.seed, self.epoch))
        if self.weights is None:
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        return [order[start : start + self.batch_size] for start in range(0, self.size, self.batch_size)][: len(self)]

    def sizes(self) -> list[int]:
        """Return the number of images of each batch of the pass, over all processes."""
        return [len(chunk) for chunk in self.batches()[self.start :]]

    def __iter__(self) -> Iterator[list[tuple[int | tuple[int, int], int]]]:
        drawn: Counter[int] = Counter()
        for number, chunk in enumerate(self.batches()):
            keys = []
            for index in chunk:
                keys.append(((self.epoch, drawn[index]) if drawn[index] else self.epoch, index))
                drawn[index] += 1
            if number >= self.start:
                yield keys[self.rank :: self.world_size]

    def __len__(self) -> int:
        """Return the number of batches of a whole pass."""
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest >= 2 * self.world_size)


class ViewDataset(Dataset):
    """Images for validation and prediction: `(views (V, 3, S, S), {task: target})` for each index.

    Args:
        keys: the seeds of the views of each file, its path or id, so that views are the same in every run.
        transform: an inference transform, called as `transform(image, view, key)`.
        others: further transforms, for networks with other inputs; the views are then a list with one entry each.
        targets: `{task: (N,)}` or None.
        report_errors: return blank views for an unreadable image and the reason in the targets under "error", which is
            empty for other images, instead of raising.
    """

    def __init__(
        self,
        paths: Sequence[str],
        keys: Sequence[str],
        transform: Callable,
        *,
        others: Sequence[Callable] = (),
        views: int = 1,
        reader: ImageReader | None = None,
        targets: dict[str, np.ndarray] | None = None,
        report_errors: bool = False,
    ) -> None:
        self.paths, self.keys, self.views, self.report_errors = list(paths), list(keys), views, report_errors
        self.transforms = [transform, *others]
        self.targets, self.reader = targets or {}, reader or ImageReader()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor | list[Tensor], dict[str, int | float | str]]:
        key, error = self.keys[index], {"error": ""} if self.report_errors else {}
        try:
            image = self.reader.read(self.paths[index])
        except UserError as caught:
            if not self.report_errors:
                raise
            image, error = BLANK, {"error": str(caught)}
        # In channels-last memory, the layout that networks compute in.
        cuts = ([view.movedim(-3, -1) for view in self._cut(cut, image, key)] for cut in self.transforms)
        kinds = [torch.stack(views).movedim(-1, -3) for views in cuts]
        targets = {task: values[index].item() for task, values in self.targets.items()}
        return kinds if len(kinds) > 1 else kinds[0], targets | error

    def _cut(self, transform: Callable, image: Image.Image, key: str) -> list[Tensor]:
        views: list[Tensor] = []
        for view in range(self.views):
            mirrored = view % 2 and getattr(transform, "in_pairs", False)
            views.append(views[-1].flip(-1) if mirrored else transform(image, view, key))
        return views


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
