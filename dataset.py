"""Photographs as tensors: data sets, within-class MixUp, and loaders whose draws depend on the image alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from cache import Pictures
from machine import derive_seed, seeded
from metrics import attributes_of
from processes import ALONE, Processes
from stop import ignore_signals
from tasks import AGE_GROUPS, TASKS, encode_class


def targets_of(table: pd.DataFrame, *, age_filter: int | None = None) -> dict[str, np.ndarray]:
    """What each task is to answer for every image: `{task: (N,)}`, classes as int64, age in years as float32.

    Args:
        table: one row an image, with mask, gender and age.
        age_filter: people at least this old count as the oldest age group; for training only.
    """
    group = table["ageg"].to_numpy(np.int64)
    if age_filter is not None:
        group = np.where(table["age"].to_numpy() >= age_filter, len(AGE_GROUPS) - 1, group)
    mask, gender = table["mask"].to_numpy(np.int64), table["gender"].to_numpy(np.int64)
    age = table["age"].to_numpy(np.float32)
    return {"main": encode_class(mask, gender, group), "mask": mask, "gender": gender, "ageg": group, "age": age}


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
    ) -> None:
        self.paths, self.keys, self.views = list(paths), list(keys), views
        self.transforms = [transform, *others]
        self.targets, self.pictures = targets or {}, pictures or Pictures()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor | list[Tensor], dict[str, int | float]]:
        image, key = self.pictures.read(self.paths[index]), self.keys[index]
        kinds = [_stack([cut(image, view, key) for view in range(self.views)]) for cut in self.transforms]
        views = kinds if len(kinds) > 1 else kinds[0]
        return views, {task: values[index].item() for task, values in self.targets.items()}


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
        together: Processes = ALONE,
        weights: np.ndarray | None = None,
    ) -> None:
        self.size, self.batch_size, self.seed, self.epoch, self.start = size, batch_size, tuple(seed), 0, 0
        self.together = together
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
                yield self.together.mine(keys)

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest >= 2 * self.together.size)


def balanced_weights(labels: np.ndarray, power: float) -> np.ndarray:
    """How often each image is drawn: its class's count to the power of -`power`, `(N,) float64`.

    At 1 all classes are drawn equally often, at 0 all images; between, the sampling of Mahajan et al. 2018
    (https://arxiv.org/abs/1805.00932), who took 0.5.

    Args:
        labels: `(N,) int64` class of each image.
    """
    return np.bincount(labels)[labels].astype(np.float64) ** -power


class ViewBatches(Sampler):
    """Batches of indices in order; where several processes work `together`, the part that is this one's.

    No batch is another one for being worked on beside others, so that answers come out the same to the last bit.
    """

    def __init__(self, size: int, batch_size: int, together: Processes = ALONE) -> None:
        self.together = together
        self.batches = [range(size)[start : start + batch_size] for start in range(0, size, batch_size)]

    def __iter__(self) -> Iterator[range]:
        return iter(self.together.mine(self.batches))

    def __len__(self) -> int:
        return len(self.together.mine(self.batches))

    def join(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all images, in order, from those of this process's and what the others have."""
        if self.together.size == 1:
            return rows
        whole = np.empty((sum(map(len, self.batches)), *rows.shape[1:]), rows.dtype)
        for rank, part in enumerate(self.together.gather(rows)):
            whole[[index for batch in self.batches[rank :: self.together.size] for index in batch]] = part
        return whole


class Loader:
    """The batches of one data set, as often as it is gone through, by processes that may serve others; see `loaders`.

    Args:
        processes: what loads for all of them. number: which of the data sets this is.
        batch_sampler: gives its batches of keys; its length is that of the loader.
    """

    def __init__(self, processes: DataLoader, number: int, batch_sampler: Sampler) -> None:
        self.processes, self.number, self.batch_sampler = processes, number, batch_sampler

    @property
    def dataset(self) -> Dataset:
        """What is loaded."""
        return self.processes.dataset.parts[self.number]

    @property
    def started(self) -> bool:
        """Whether there is no process that still has to be started."""
        return self.processes.batch_sampler.started or not self.processes.num_workers

    def __iter__(self) -> Iterator:
        turn = self.processes.batch_sampler
        turn.number, turn.batches, turn.started = self.number, self.batch_sampler, True
        return iter(self.processes)

    def __len__(self) -> int:
        return len(self.batch_sampler)


class _Turn(Sampler):
    """The batches of the data set whose turn it is, as (its number, key)."""

    number, batches, started = 0, (), False

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        for batch in self.batches:
            yield [(self.number, key) for key in batch]


class _Parts(Dataset):
    """Several data sets as one, with keys that say of which."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = parts

    def __getitem__(self, key: tuple[int, Any]) -> tuple[Any, dict[str, int | float]]:
        number, inner = key
        return self.parts[number][inner]


def loaders(parts: Sequence[tuple[Dataset, Sampler]], *, workers: int, device: torch.device) -> list[Loader]:
    """A loader for each data set and its batches of keys.

    All are served by the same processes, which start at the first batch of all and go on from one to the next; only
    one of them may be gone through at a time.
    """
    processes = DataLoader(
        _Parts([dataset for dataset, _ in parts]),
        batch_sampler=_Turn(),
        collate_fn=_channels_last,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
        # A loader draws a seed at every pass, or with workers only at some: not from the generator that dropout uses.
        generator=torch.Generator(),
    )
    return [Loader(processes, number, batches) for number, (_, batches) in enumerate(parts)]


def train_loader(dataset: TrainDataset, sampler: EpochSampler, *, workers: int, device: torch.device) -> Loader:
    """A loader of `(images (B, 3, S, S), {task: (B,)})` in the sampler's order."""
    return loaders([(dataset, sampler)], workers=workers, device=device)[0]


def view_loader(
    dataset: ViewDataset, *, batch_size: int, workers: int, device: torch.device, together: Processes = ALONE
) -> Loader:
    """A loader of `(views (B, V, 3, S, S), {task: (B,)})`, in order; the batch size counts photographs."""
    batches = ViewBatches(len(dataset), batch_size, together)
    return loaders([(dataset, batches)], workers=workers, device=device)[0]


def _channels_last(items: list[tuple[Tensor | list[Tensor], dict]]) -> tuple[Tensor | list[Tensor], dict[str, Tensor]]:
    """A batch in the layout that decoded pictures have and networks want, so that no pixel is moved on the way."""

    def each(images: Tensor | list[Tensor], source: int, destination: int) -> Tensor | list[Tensor]:
        if isinstance(images, list):
            return [each(kind, source, destination) for kind in images]
        return images.movedim(source, destination)

    images, targets = default_collate([(each(images, -3, -1), target) for images, target in items])
    return each(images, -1, -3), targets
