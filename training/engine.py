"""The loops: one epoch of training, evaluation, and prediction by many networks in one pass over the images."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from data.tasks import TASKS
from model import predict_task
from optim import learning_rate
from training.device import free_memory
from training.distributed import ALONE, Processes
from training.heap import HELD_BYTES, trimming
from training.loaders import Loader
from utils import process_number

Criterion = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]


@dataclass
class EpochProgress:
    """How far the training of an epoch is; what it came to, once it is through.

    `losses` are those of each step, scalars on the device, summed over the step's images; `rates` the learning rates
    that the steps were made with; `seconds` those spent, over all parts of an epoch that was cut and taken up again.
    """

    images: int = 0
    seconds: float = 0.0
    losses: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    @property
    def step(self) -> int:
        """How many steps were made."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The mean loss over the images."""
        return _sum(self.losses) / self.images

    def first_bad_step(self) -> int | None:
        """The first step (from 0) whose loss is not a number, or None; a GPU is waited for."""
        bad = (~torch.stack(self.losses).cpu().isfinite()).nonzero() if self.losses else ()
        return int(bad[0]) if len(bad) else None


@dataclass(frozen=True)
class EvalResult:
    """What evaluation came to: mean loss over images, and `(N, C)` probabilities (or years) in the loader's order."""

    loss: float
    probabilities: np.ndarray


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What networks compute with in training; their weights stay float32.

    Args:
        precision: float32, bfloat16 or float16; auto takes, on a GPU, the first of bfloat16 and float16 that it
            computes in hardware, and elsewhere float32.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def inference_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What networks hold and compute with in inference; auto is float16 on a GPU, which tells more digits than bfloat16
    (11 bits and 8), and elsewhere float32."""
    if precision != "auto":
        return getattr(torch, precision)
    return torch.float16 if device.type == "cuda" else torch.float32


def gradient_scaler(dtype: torch.dtype, device: torch.device) -> GradScaler:
    """What keeps small gradients of float16 from becoming zero; does nothing for other numbers."""
    return GradScaler(device.type, enabled=dtype == torch.float16)


def prepare(network: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Move a network to the device, in the memory layout that convolutions are fastest in."""
    return network.to(device, dtype, memory_format=torch.channels_last)


def train_one_epoch(
    network: nn.Module,
    loader: Loader,
    criterion: Criterion,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    scaler: GradScaler | None = None,
    title: str = "train",
    progress: EpochProgress | None = None,
    mixing: Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]] = lambda *batch: batch,
    dist: Processes = ALONE,
    sizes: Sequence[int] | None = None,
    after_step: Callable[[EpochProgress], None] = lambda progress: None,
) -> EpochProgress:
    """Train on every batch of the loader once, stepping the schedule after each.

    Args:
        dtype: what to compute with where it does no harm (torch.autocast), see `training_dtype`.
        scaler: of the gradients, see `gradient_scaler`.
        progress: where an epoch that is taken up in the middle stands; the loader gives the batches that are left.
        mixing: makes of a batch the one to train on, see `mixing.BatchMixing`.
        dist: the processes that train, the network being `dist.wrap`.
        sizes: how many images each batch has over all of them; of one process alone those that the loader gives.
        after_step: called when a step is done and counted.
    """
    network.train()
    scaler = scaler or gradient_scaler(dtype, device)
    progress = progress or EpochProgress()
    first, told = progress.images, time.perf_counter()
    start = told - progress.seconds
    begun = told
    with _bar(loader, title, initial=progress.step) as bar, warnings.catch_warnings():
        # The scaler may leave out the first step of the optimizer, to try again with a smaller scale.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        # SequentialLR of older torch warns of what it does itself, where a warm-up ends.
        warnings.filterwarnings("ignore", message="The epoch parameter in `scheduler.step")
        for number, (batch, targets) in enumerate(bar):
            rate = learning_rate(optimizer)
            batch, targets = mixing(*_move(batch, targets, device))
            with _autocast(device, dtype):
                outputs = network(batch)
            loss = criterion(_floats(outputs), targets)
            total = len(batch) if sizes is None else sizes[number]
            # Gradients are averaged over the processes, of which each has its own number of images.
            part = loss if total == len(batch) else loss * (len(batch) * dist.world_size / total)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(part).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            progress.losses.append(dist.sum(loss.detach() * len(batch)))
            progress.rates.append(rate)
            progress.images += total
            progress.seconds = time.perf_counter() - start
            after_step(progress)
            if not bar.disable and time.perf_counter() - told > 0.5:  # reading the loss makes a GPU wait
                told = time.perf_counter()
                speed = (progress.images - first) / (told - begun)
                bar.set_postfix_str(f"loss {loss.item():.4f}, {speed:.0f} images/s", refresh=False)
    progress.seconds = time.perf_counter() - start
    return progress


@torch.no_grad()
def renew_statistics(
    network: nn.Module,
    loader: Loader,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    title: str = "statistics",
) -> None:
    """Take the statistics that BatchNorm uses in inference anew, as their mean over the batches of a loader.

    The running ones are of augmented images and lag behind the weights: EfficientNet's by a hundred steps, each of
    which counts for a hundredth (precise BatchNorm: Wu and Johnson 2021, https://arxiv.org/abs/2105.07576). All else is
    in evaluation mode, and layers that training keeps in it, such as those of a frozen backbone, stay as they are.

    Args:
        loader: as a `dataset.view_loader`; its plain view is taken. None of its batches may be of one image.
        dtype: what to compute with where it does no harm (torch.autocast).
    """
    network.train()
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.training]
    network.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all
        norm.train()
    for views, _ in _bar(loader, title):
        batch, _ = _move(views[:, 0], {}, device)
        with _autocast(device, dtype):
            network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    loader: Loader,
    criterion: Criterion,
    task: str,
    device: torch.device,
    *,
    title: str = "valid",
    dist: Processes = ALONE,
    after_batch: Callable[[], None] = lambda: None,
) -> EvalResult:
    """Loss and answers of a network on the plain view of every image.

    Args:
        dist: the processes among which the batches of a `dataset.view_loader` are shared out; each gets the result.
        after_batch: called after each batch.
    """
    network.eval()
    losses, images, answers = [], 0, [torch.empty(0, TASKS[task].outputs)]
    for views, targets in _bar(loader, title):
        batch, targets = _move(views[:, 0], targets, device, _dtype(network))
        outputs = _floats(network(batch))
        losses.append(criterion(outputs, targets) * len(batch))
        images += len(batch)
        answers.append(predict_task(outputs, task).cpu())
        after_batch()
    probabilities = torch.cat(answers).numpy()
    if dist.world_size > 1:
        probabilities = loader.batch_sampler.join(dist.gather(probabilities))
    sums, counts = zip(*dist.gather((_sum(losses), images)), strict=True)
    return EvalResult(sum(sums) / sum(counts), probabilities)


@torch.inference_mode()
def predict(
    networks: Sequence[nn.Module],
    loader: Loader,
    tasks: str | Sequence[str],
    device: torch.device,
    *,
    kinds: Sequence[int] | None = None,
    at_once: int | None = None,
    title: str = "predict",
    apart: bool = False,
    dist: Processes = ALONE,
) -> np.ndarray:
    """What each network answers, its mean over the views of an image: `(networks, N, C) float32`.

    C is that of the task with the most; what is left of others is 0.

    Every network sees a batch before the next one is loaded, so that each image is decoded once.

    Args:
        tasks: what all are asked, or what each.
        networks: may make them when they are asked for; each one is, once, or in turns for every part of the images.
        kinds: which of several kinds of views that the loader gives each network sees; None where there is only one.
        at_once: hold so many of them at a time, in turns, and keep images for them, HELD_BYTES or a quarter of the
            memory that is free; None holds all.
        apart: keep the answers to each view, `(networks, N, V, C)`, instead of their mean.
        dist: the processes among which the batches of a `dataset.view_loader` are shared out; each gets the result.
    """
    at_once = at_once or len(networks)
    tasks = [tasks] * len(networks) if isinstance(tasks, str) else tasks
    width = max(TASKS[task].outputs for task in tasks)
    groups = [range(first, min(first + at_once, len(networks))) for first in range(0, len(networks), at_once)]
    answers: list[list[Tensor]] = [[] for _ in range(len(networks))]
    held: list[nn.Module] = []
    batches = (views if isinstance(views, list) else [views] for views, _ in _bar(loader, title))
    for part in _parts(batches, dist.local_size) if len(groups) > 1 else ([views] for views in batches):
        for group in groups:
            if not held or len(groups) > 1:
                held.clear()  # before the next ones are made
                held = [networks[k].eval() for k in group]
            seen = [kinds[k] if kinds else 0 for k in group]
            for views in part:
                asked = [tasks[k] for k in group]
                for k, answer in zip(group, _answers(held, seen, views, asked, device), strict=True):
                    answer = F.pad(answer, (0, width - answer.shape[2]))
                    answers[k].append(answer if apart else answer.mean(dim=1))
    if dist.world_size == 1:
        return torch.stack([torch.cat(rows) for rows in answers]).cpu().numpy()
    none = torch.empty(0, *([loader.dataset.views] if apart else ()), width)
    rows = torch.stack([torch.cat([none, *(part.cpu() for part in parts)]) for parts in answers], dim=1).numpy()
    return loader.batch_sampler.join(dist.gather(rows)).swapaxes(0, 1)  # there images come first


def _answers(
    networks: Sequence[nn.Module],
    kinds: Sequence[int],
    views: list[Tensor],
    tasks: Sequence[str],
    device: torch.device,
) -> list[Tensor]:
    """What each network answers its task on each of its kind of `views (B, V, 3, S, S)`, `(B, V, its C)`."""
    moved: dict[int, Tensor] = {}
    answers = []
    for network, kind, task in zip(networks, kinds, tasks, strict=True):
        if kind not in moved:
            moved[kind], _ = _move(views[kind].flatten(0, 1), {}, device, _dtype(network))
        answer = predict_task(network(moved[kind]), task)
        answers.append(answer.view(*views[kind].shape[:2], -1))
    return answers


def _parts(batches: Iterable[list[Tensor]], processes: int) -> Iterator[list[list[Tensor]]]:
    """As many batches together as may be kept while networks take turns; the memory is shared by so many processes."""
    free = free_memory(torch.device("cpu"))
    size = HELD_BYTES if free is None else min(HELD_BYTES, free // (4 * processes))
    part: list[list[Tensor]] = []
    for views in batches:
        # Loader processes hand over shared memory, of which a container may have little.
        part.append([kind.clone() for kind in views])
        if sum(kind.nbytes for kept in part for kind in kept) >= size:
            yield part
            part = []
    if part:
        yield part


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """A block that computes with a dtype where it does no harm; float32 needs none."""
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()


def _sum(losses: list[Tensor]) -> float:
    return torch.stack(losses).cpu().double().sum().item() if losses else 0.0


def _move(
    batch: Tensor, targets: dict[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor]]:
    batch = batch.to(device, dtype, memory_format=torch.channels_last, non_blocking=True)
    return batch, {task: _narrow(values).to(device, non_blocking=True) for task, values in targets.items()}


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _floats(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {head: logits.float() for head, logits in outputs.items()}


def _narrow(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


def _bar(loader: Loader, title: str, *, initial: int = 0) -> tqdm:
    # None: no bar where the output is no terminal
    batches, total = trimming(loader), len(loader)
    silent = True if process_number() else None
    bar = {
        "initial": initial,
        "total": total,
        "leave": False,
        "disable": silent,
        "dynamic_ncols": True,
        "unit": "batch",
    }
    return tqdm(batches, desc=title, **bar)
