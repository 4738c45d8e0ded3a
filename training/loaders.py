"""Load batches with processes that are shared by all folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from augmentation import build_transform
from cli.checks import train_size
from cli.interrupts import ignore_signals
from config import TrainConfig
from data.label_math import make_targets
from data.prepare import Data
from data.tasks import TASKS
from dataset import EpochSampler, TrainDataset, ViewBatches, ViewDataset, balanced_weights
from training.device import count_workers
from training.distributed import ALONE, Processes
from utils import derive_seed


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
    dataset: ViewDataset, *, batch_size: int, workers: int, device: torch.device, dist: Processes = ALONE
) -> Loader:
    """A loader of `(views (B, V, 3, S, S), {task: (B,)})`, in order; the batch size counts photographs."""
    batches = ViewBatches(len(dataset), batch_size, dist.rank, dist.world_size)
    return loaders([(dataset, batches)], workers=workers, device=device)[0]


def _channels_last(items: list[tuple[Tensor | list[Tensor], dict]]) -> tuple[Tensor | list[Tensor], dict[str, Tensor]]:
    """A batch in the layout that decoded reader have and networks want, so that no pixel is moved on the way."""

    def each(images: Tensor | list[Tensor], source: int, destination: int) -> Tensor | list[Tensor]:
        if isinstance(images, list):
            return [each(kind, source, destination) for kind in images]
        return images.movedim(source, destination)

    images, targets = default_collate([(each(images, -3, -1), target) for images, target in items])
    return each(images, -1, -3), targets


class FoldLoaders(NamedTuple):
    """What loads the training images of a fold, its validation images, and training images as validation sees them.

    The last are for --precise-bn, and None without it.
    """

    train: Loader
    valid: Loader
    plain: Loader | None


def fold_loaders(
    config: TrainConfig, data: Data, numbers: Sequence[int], device: torch.device, dist: Processes = ALONE
) -> dict[int, FoldLoaders]:
    """What loads the images of each fold, by processes that start once in a run."""
    transforms = [
        build_transform(config.transform_type, phase, size, **config.cuts())
        for phase, size in (("train", train_size(config.train_side, config.image_size)), ("valid", config.image_size))
    ]
    ranks = dist.rank, dist.world_size
    train_parts: list[tuple[Dataset, Sampler]] = []
    valid_parts: list[tuple[Dataset, Sampler]] = []
    plain_parts: list[tuple[Dataset, Sampler]] = []
    for number in numbers:
        train_table, valid_table = data.fold_tables(data.split.folds[number])
        seed = (config.seed, number)
        train_set = TrainDataset(
            train_table,
            transforms[0],
            seed=seed,
            reader=data.reader,
            age_filter=config.age_filter,
            oversample=config.oversample,
        )
        valid_set = ViewDataset(
            valid_table["path"].tolist(),
            valid_table["image"].tolist(),
            transforms[1],
            reader=data.reader,
            targets=make_targets(valid_table),
        )
        weights = (
            balanced_weights(train_set.classes[TASKS[config.task].class_task], config.balance)
            if config.balance
            else None
        )
        sampler = EpochSampler(
            len(train_set), config.batch_size, seed=seed, rank=dist.rank, world_size=dist.world_size, weights=weights
        )
        train_parts.append((train_set, sampler))
        valid_parts.append((valid_set, ViewBatches(len(valid_set), 2 * config.batch_size, *ranks)))
        if config.precise_bn:
            plain = train_table.iloc[_some_rows(len(train_table), config, seed)]
            plain_set = ViewDataset(plain["path"].tolist(), plain["image"].tolist(), transforms[1], reader=data.reader)
            plain_parts.append((plain_set, ViewBatches(len(plain), config.batch_size)))
    workers = count_workers(config.num_workers, device, sharing=dist.local_size)
    train = loaders(train_parts, workers=workers, device=device)
    steady = loaders([*valid_parts, *plain_parts], workers=workers, device=device)
    valid, plain = steady[: len(numbers)], steady[len(numbers) :] or [None] * len(numbers)
    return dict(zip(numbers, map(FoldLoaders, train, valid, plain), strict=True))


def _some_rows(count: int, config: TrainConfig, seed: tuple[int, int]) -> np.ndarray:
    """The numbers of --precise-bn rows out of `count`, in whole batches if there is one: all count the same."""
    wanted = min(count, config.precise_bn)
    wanted -= wanted % config.batch_size if wanted > config.batch_size else 0
    return np.sort(np.random.default_rng(derive_seed("statistics", *seed)).permutation(count)[:wanted])
