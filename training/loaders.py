"""Load batches with processes that all folds share."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from augmentation import build_transform, normalise
from cli.checks import train_size
from cli.interrupts import end_workers, ignore_signals, note_progress
from config import TrainConfig
from data.label_math import make_targets
from data.prepare import Data
from dataset import EpochSampler, TrainDataset, ViewBatches, ViewDataset, balanced_weights
from training.device import count_workers, has_shared_memory
from training.distributed import ALONE, Processes
from utils import UserError, derive_seed

Part = tuple[Dataset, Sampler]  # a data set and its batches of keys
PIXEL = 3  # bytes: three uint8
AHEAD = 2  # batches that a loader process prepares beyond the one in use
FIRST_BATCH = 600  # seconds until the first batch of a pass, before the loader processes count as hanging
Views = Tensor | list[Tensor]  # of an image or a batch; a list for several transforms
Targets = dict[str, np.ndarray | list[str]]  # of a batch: those of each task (B,), and reasons under "error"


class Loader:
    """The batches of one data set for a device, loaded by processes that may serve others too; see `create_loaders`.

    Its length is the number of batches of keys. The processes of the run share the batches. Images of uint8 become
    normalised float32 on the device, so that loader processes and transfers handle a quarter of the bytes.
    """

    def __init__(
        self, processes: DataLoader, number: int, batch_sampler: Sampler, device: torch.device, dist: Processes
    ) -> None:
        self.processes, self.number, self.batch_sampler = processes, number, batch_sampler
        self.device, self.dist = device, dist
        self.pixels: dict[int, list[Tensor]] = {}  # mean and std of each transform, on the device
        self.following: Loader | None = (
            None  # of the next pass, by other processes, which begin when these have no more to load
        )

    @property
    def dataset(self) -> Dataset:
        """Return the data set."""
        return self.processes.dataset.parts[self.number]

    @property
    def started(self) -> bool:
        """Return whether all loader processes are running."""
        return self.processes.batch_sampler.started or not self.processes.num_workers

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of all images in order, from those of the batches of each process."""
        return rows if self.dist.world_size == 1 else self.batch_sampler.join(self.dist.gather(rows))

    def __iter__(self) -> Iterator:
        with _ending_workers_without_batch(self.processes.num_workers) as came:
            yield from self._copy_ahead(came) if self.device.type == "cuda" else self._batches(came)

    def _begin(self) -> Iterator:
        turn = self.processes.batch_sampler
        turn.number, turn.batches, turn.started, turn.ended = self.number, self.batch_sampler, True, False
        return iter(self.processes)

    def _begin_ahead(self) -> None:
        turn = self.processes.batch_sampler
        if self.processes.num_workers and turn.started and turn.ahead is None:
            turn.ahead = self, self._begin()

    def _batches(self, came: threading.Event) -> Iterator:
        turn = self.processes.batch_sampler
        (owner, batches), turn.ahead = turn.ahead or (None, None), None
        for images, targets in batches if owner is self else self._begin():
            came.set()
            note_progress()
            if turn.ended and self.following is not None:
                self.following._begin_ahead()
            several = isinstance(images, list)
            arrays = {name: torch.from_numpy(each) for name, each in targets.items() if isinstance(each, np.ndarray)}
            yield [*map(self._finish, images, count())] if several else self._finish(images), targets | arrays

    def _copy_ahead(self, came: threading.Event) -> Iterator:
        """Yield batches of which the next one is copied to the GPU meanwhile, on a stream of its own."""
        stream, ready, done = _copy_stream(self.device), None, deque()
        batches = self._batches(came)
        while True:
            with torch.cuda.stream(stream):
                batch = next(batches, None)
            if ready is not None:
                yield ready
            if batch is None:
                return
            current = torch.cuda.current_stream(self.device)
            done.append(current.record_event())
            if len(done) > AHEAD:
                done.popleft().synchronize()  # else the memory fills with batches that wait for the network
            current.wait_stream(stream)
            for images in batch[0] if isinstance(batch[0], list) else batch[:1]:
                images.record_stream(current)  # so that its memory is not used again too early
            ready = batch

    def _finish(self, images: Tensor, kind: int = 0) -> Tensor:
        if images.dtype != torch.uint8:
            return images.to(self.device, non_blocking=True)
        if kind not in self.pixels:
            transform = self.dataset.transforms[kind]
            scales = (torch.tensor(each, device=self.device) for each in (transform.mean, transform.std))
            self.pixels[kind] = [scale[:, None, None] for scale in scales]
        return normalise(images.to(self.device, non_blocking=True), *self.pixels[kind])

    def __len__(self) -> int:
        return len(self.batch_sampler)


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def _ending_workers_without_batch(workers: int) -> Iterator[threading.Event]:
    """End the loader processes if the event that is returned is not set within FIRST_BATCH of the start of a block.

    The timeout of DataLoader would also delay the error of a process that dies.

    Raises:
        UserError: they were ended.
    """
    came, ended = threading.Event(), threading.Event()

    def watch() -> None:
        for _ in range(FIRST_BATCH):  # a job that is suspended for minutes does not hang, so count seconds
            if came.wait(1):
                return
        ended.set()
        end_workers()

    if workers:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield came
    except RuntimeError:
        if ended.is_set():
            raise UserError(
                f"The loader processes gave no batch in {FIRST_BATCH} s. They may hang: pass --num-workers 0. If "
                "the disk is that slow, copy the images to a faster one."
            ) from None
        raise
    finally:
        came.set()


class _Turn(Sampler):
    """The batches of the data set that is being loaded, as (its number, key)."""

    number, batches, started = 0, (), False
    ended = False  # all keys were handed out
    ahead: tuple[Loader, Iterator] | None = None  # a pass that has begun and is not used yet

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        for batch in self.batches:
            yield [(self.number, key) for key in batch]
        self.ended = True


class _Parts(Dataset):
    """Several data sets as one, with keys that name the data set."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = parts

    def __getitem__(self, key: tuple[int, Any]) -> tuple[Any, dict[str, int | float]]:
        number, inner = key
        return self.parts[number][inner]


def create_loaders(
    parts: Sequence[Part],
    *,
    workers: int,
    device: torch.device,
    dist: Processes = ALONE,
    pin: bool = True,
    keep_memory: bool = False,
) -> list[Loader]:
    """Return a loader for each data set and its batches of keys.

    All use the same processes, which start at the first batch of all. Only one loader may be iterated at a time. For a
    GPU, batches are in pinned memory, which torch keeps; `pin` can turn it off. `keep_memory` is for items of one
    image, see `_CollateInPlace`.
    """
    processes = DataLoader(
        _Parts([dataset for dataset, _ in parts]),
        batch_sampler=_Turn(),
        collate_fn=_CollateInPlace() if keep_memory else _collate_channels_last,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin and device.type == "cuda",
        worker_init_fn=ignore_signals,
        # A loader draws a seed at every pass, or with workers only at some: not from the generator that dropout uses.
        generator=torch.Generator(),
    )
    return [Loader(processes, number, batches, device, dist) for number, (_, batches) in enumerate(parts)]


def view_loader(
    dataset: ViewDataset, *, batch_size: int, workers: int, device: torch.device, dist: Processes = ALONE
) -> Loader:
    """Return a loader of `(views (B, V, 3, S, S), {task: (B,)})` in order; B counts images."""
    batches = ViewBatches(len(dataset), batch_size, dist.rank, dist.world_size)
    return create_loaders([(dataset, batches)], workers=workers, device=device, dist=dist)[0]


def _collate_channels_last(items: list[tuple[Views, dict]]) -> tuple[Views, Targets]:
    """Collate in the layout of decoded images, which networks compute in too, so that no pixel is moved."""
    images = default_collate([_move_axis(images, -3, -1) for images, _ in items])
    return _move_axis(images, -1, -3), _collate_targets(items)


def _collate_targets(items: list[tuple[Views, dict]]) -> Targets:
    """Collate to arrays, since each tensor of a batch would take shared memory, a file and a socket of its own."""
    targets = default_collate([target for _, target in items])
    return {name: each.numpy() if isinstance(each, Tensor) else each for name, each in targets.items()}


class _CollateInPlace:
    """Collate images of bytes as `_collate_channels_last` does, into shared memory that the loader process keeps.

    New shared memory costs more time than the copy into it. DataLoader lets a process prepare AHEAD batches beyond the
    one in use, which `Loader` copies before it takes the next one.
    """

    def __init__(self) -> None:
        self.kept = deque([torch.empty(0, dtype=torch.uint8)] * (AHEAD + 1))

    def __call__(self, items: list[tuple[Tensor, dict]]) -> tuple[Tensor, Targets]:
        if items[0][0].dtype != torch.uint8 or get_worker_info() is None:
            return _collate_channels_last(items)
        images = [_move_axis(image, -3, -1) for image, _ in items]
        memory, size = self.kept.popleft(), sum(image.numel() for image in images)
        if len(memory) < size:
            memory = torch.empty(size, dtype=torch.uint8).share_memory_()
        self.kept.append(memory)
        whole = torch.stack(images, out=memory[:size].view(len(images), *images[0].shape))
        return _move_axis(whole, -1, -3), _collate_targets(items)


def _move_axis(images: Views, source: int, destination: int) -> Views:
    if isinstance(images, list):
        return [kind.movedim(source, destination) for kind in images]
    return images.movedim(source, destination)


class FoldLoaders(NamedTuple):
    """The loaders of a fold: training images, validation images, and for --precise-bn unaugmented training images."""

    train: Loader
    valid: Loader
    plain: Loader | None


def fold_loaders(
    config: TrainConfig,
    data: Data,
    numbers: Sequence[int],
    device: torch.device,
    dist: Processes = ALONE,
    *,
    pixels: dict[str, Any] | None = None,
) -> dict[int, FoldLoaders]:
    """Return the loaders of each fold, with processes that start once in a run.

    `pixels` is what the weights expect of images, see `backbones.create.expected_pixels`.
    """
    sizes = {"train": train_size(config.train_side, config.image_size), "valid": config.image_size}
    as_bytes = {"train": not config.oversample, "valid": True}  # oversampling mixes normalised images
    options = {**config.cuts(), **(pixels or {})}
    transforms = {
        phase: build_transform(config.transform_type, phase, size, as_bytes=as_bytes[phase], **options)
        for phase, size in sizes.items()
    }
    train, valid, plain = [], [], []
    for number in numbers:
        train_table, valid_table = data.fold_tables(data.split.folds[number])
        train_set = TrainDataset(
            train_table,
            transforms["train"],
            data.tasks,
            seed=(config.seed, number),
            reader=data.reader,
            oversample=config.oversample,
        )
        train.append((train_set, _epoch_sampler(config, train_set, dist)))
        valid_set = ViewDataset(
            valid_table["path"].tolist(),
            valid_table["image"].tolist(),
            transforms["valid"],
            reader=data.reader,
            targets=make_targets(valid_table, data.tasks),
        )
        valid.append((valid_set, ViewBatches(len(valid_set), 2 * config.batch_size, dist.rank, dist.world_size)))
        if config.precise_bn:
            rows = train_table.iloc[_draw_rows(len(train_table), config, number)]
            paths, keys = rows["path"].tolist(), rows["image"].tolist()
            plain_set = ViewDataset(paths, keys, transforms["valid"], reader=data.reader)
            plain.append((plain_set, ViewBatches(len(rows), config.batch_size)))
    bytes_per_value = 4 if config.oversample or config.erasing else 1
    batch_bytes = config.batch_size * PIXEL * bytes_per_value * sizes["train"] ** 2
    largest = max(batch_bytes, config.batch_size * PIXEL * 2 * sizes["valid"] ** 2)
    workers = count_workers(config.num_workers, device, sharing=dist.local_size, batch_bytes=largest)
    # Two passes hold their batches at once if one begins ahead, or if the memory of training batches is kept.
    enough = has_shared_memory((AHEAD + 2) * workers * (batch_bytes + largest) * dist.local_size)
    keep = enough and device.type in ("cpu", "cuda")  # copies to others may not be finished when it is used again
    train = create_loaders(train, workers=workers, device=device, dist=dist, keep_memory=keep)
    others = create_loaders([*valid, *plain], workers=workers, device=device, dist=dist)
    valid, plain = others[: len(numbers)], others[len(numbers) :] or [None] * len(numbers)
    for first, second, last in zip(train, plain if config.precise_bn else valid, valid, strict=True) if enough else ():
        first.following, last.following = second, first
    return dict(zip(numbers, map(FoldLoaders, train, valid, plain), strict=True))


def _epoch_sampler(config: TrainConfig, dataset: TrainDataset, dist: Processes) -> EpochSampler:
    classes = dataset.classes[config.record.class_task.name]
    return EpochSampler(
        len(dataset),
        config.batch_size,
        seed=dataset.seed,
        rank=dist.rank,
        world_size=dist.world_size,
        weights=balanced_weights(classes, config.balance) if config.balance else None,
    )


def _draw_rows(count: int, config: TrainConfig, number: int) -> np.ndarray:
    """Draw --precise-bn of `count` rows for a fold, in whole batches if there is one, so that all weigh the same."""
    wanted = min(count, config.precise_bn)
    wanted -= wanted % config.batch_size if wanted > config.batch_size else 0
    return np.sort(np.random.default_rng(derive_seed("statistics", config.seed, number)).permutation(count)[:wanted])
