"""The loops over batches: train one epoch, evaluate, and predict with many networks in one pass over the images."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from data.tasks import Task
from model import predict_task
from optim import learning_rate
from training.cuda_graph import Graphed
from training.device import free_memory
from training.freed_memory import HELD_BYTES, yield_batches
from training.loaders import Loader
from training.train_step import Criterion, TrainStep, autocast, move_batch, to_floats
from utils import process_number


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that networks compute with in training; their weights stay float32.

    `precision` is float32, bfloat16, float16 or auto: on a GPU the first of bfloat16 and float16 that its hardware
    supports, float32 elsewhere.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def inference_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of networks in inference.

    Auto is float16 on a GPU, whose 11 bits of precision bfloat16 does not have, and float32 elsewhere.
    """
    if precision != "auto":
        return getattr(torch, precision)
    return torch.float16 if device.type == "cuda" else torch.float32


def prepare(network: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Move a network to the device, in the memory layout in which convolutions are fastest."""
    return network.to(device, dtype, memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------------ training


@dataclass
class EpochProgress:
    """The progress of an epoch, and after it the result."""

    images: int = 0  # trained on
    seconds: float = 0.0  # over all parts of an interrupted epoch
    losses: list[Tensor] = field(default_factory=list)  # of each batch: the sum over its images, on the device
    rates: list[float] = field(default_factory=list)  # learning rate of each batch

    @property
    def step(self) -> int:
        """Return the number of batches trained on, of which a step of the optimizer may take several."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """Return the mean loss over the images."""
        return _sum(self.losses) / self.images

    def first_bad_step(self) -> int | None:
        """Return the first batch (from 0) with a loss that is not finite, or None; a GPU is waited for."""
        bad = (~torch.stack(self.losses).cpu().isfinite()).nonzero() if self.losses else ()
        return int(bad[0]) if len(bad) else None


def train_one_epoch(
    step: TrainStep,
    loader: Loader,
    *,
    sizes: Sequence[int] | None = None,
    accumulate: int = 1,
    progress: EpochProgress | None = None,
    title: str = "train",
    after_step: Callable[[EpochProgress], None] = lambda progress: None,
) -> EpochProgress:
    """Train on every batch of a loader once.

    Args:
        loader: the batches, of an interrupted epoch those that are left.
        sizes: images of each batch over all processes; by default those of the loader.
        accumulate: batches of a step of the optimizer; the last step of the loader may have fewer.
        progress: the progress of an interrupted epoch, which ended with a step.
        title: of the progress bar.
        after_step: called after each step of the optimizer with the progress.
    """
    step.network.train()
    progress = progress or EpochProgress()
    sizes = [len(keys) for keys in loader.batch_sampler] if sizes is None else sizes
    first, shown = progress.images, time.perf_counter()
    begun, start = shown, shown - progress.seconds
    with _bar(loader, title, initial=progress.step) as bar, warnings.catch_warnings():
        # The scaler may skip the first step of the optimizer, to try again with a smaller scale.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        # SequentialLR of older torch warns of its own call where a warm-up ends.
        warnings.filterwarnings("ignore", message="The epoch parameter in `scheduler.step")
        for number, (images, targets) in enumerate(bar):
            rate = learning_rate(step.optimizer)
            opened = number - number % accumulate
            group = sizes[opened : opened + accumulate]
            last = number + 1 == opened + len(group)
            loss, summed = step.run(images, targets, sum(group), last=last)
            progress.losses.append(summed)
            progress.rates.append(rate)
            progress.images += sizes[number]
            progress.seconds = time.perf_counter() - start
            if last:
                after_step(progress)
            if not bar.disable and time.perf_counter() - shown > 0.5:  # reading the loss makes a GPU wait
                shown = time.perf_counter()
                speed = (progress.images - first) / (shown - begun)
                bar.set_postfix_str(f"loss {loss.item():.4f}, {speed:.0f} images/s", refresh=False)
    for summed in progress.losses[-1:]:
        summed.item()  # waits for a GPU, which computes after the loop
    progress.seconds = time.perf_counter() - start
    return progress


@torch.no_grad()
def update_statistics(
    network: nn.Module,
    loader: Loader,
    *,
    dtype: torch.dtype = torch.float32,
    graphed: Graphed | None = None,
    title: str = "statistics",
) -> None:
    """Recompute the inference statistics of BatchNorm as their mean over the batches of a loader.

    The running ones are of augmented images and lag behind the weights: EfficientNet's by a hundred steps, each of
    which counts for a hundredth (precise BatchNorm: Wu and Johnson 2021, https://arxiv.org/abs/2105.07576). Everything
    else is in evaluation mode, and layers that training keeps in it, such as those of a frozen backbone, do not change.

    The loader is a `view_loader`, whose first views are taken. No batch may have a single image. On a GPU, `graphed`
    runs the network as a CUDA graph, always the same network.
    """
    network.train()
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.training]
    norms = [norm for norm in norms if norm.running_mean is not None]
    network.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None if graphed is None else 1.0  # the mean of all batches so far, or the last one
        norm.train()

    def run(tensors: Sequence[Tensor]) -> None:
        with autocast(loader.device, dtype):
            network(*tensors)

    # On a GPU, BatchNorm would wait for its own count of batches, so the mean is computed here.
    own = [each for norm in norms for each in (norm.running_mean, norm.running_var) if graphed is not None]
    means = [each.clone() for each in own]
    for number, (views, _) in enumerate(_bar(loader, title), 1):
        images, _ = move_batch(views[:, 0], {}, loader.device)
        if graphed is None:
            run([images])
        else:
            graphed(run, [images])
            get_ema_multi_avg_fn(1 - 1 / number)(means, own, None)
    for each, mean in zip(own, means, strict=True):
        each.copy_(mean)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


# ------------------------------------------------------------------------------------------------ inference


class EvalResult(NamedTuple):
    """The mean loss over N images, and their `(N, C) float32` probabilities, or numbers, in the order of the loader."""

    loss: float
    probabilities: np.ndarray


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    loader: Loader,
    criterion: Criterion,
    task: Task,
    *,
    title: str = "valid",
    after_batch: Callable[[], None] = lambda: None,
) -> EvalResult:
    """Return the loss and the predictions of a network for the first view of every image.

    The loader is a `view_loader` with targets. If several processes share it, each gets the whole result.
    """
    network.eval()
    losses, images, predictions = [], 0, [torch.empty(0, task.outputs)]
    for views, targets in _bar(loader, title):
        batch, targets = move_batch(views[:, 0], targets, loader.device, _dtype(network))
        outputs = to_floats(network(batch))
        losses.append(criterion(outputs, targets) * len(batch))
        images += len(batch)
        predictions.append(predict_task(outputs, task))
        after_batch()
    sums, counts = zip(*loader.dist.gather((_sum(losses), images)), strict=True)
    return EvalResult(sum(sums) / sum(counts), loader.gather(torch.cat([each.cpu() for each in predictions]).numpy()))


@torch.inference_mode()
def predict(
    networks: Sequence[nn.Module],
    loader: Loader,
    tasks: Task | Sequence[Task],
    *,
    kinds: Sequence[int] | None = None,
    at_once: int | None = None,
    apart: bool = False,
) -> np.ndarray:
    """Return the prediction of each network, its mean over the views of an image: `(M, N, C) float32`.

    C is the largest number of outputs of the tasks; shorter predictions are filled with 0. Every network sees a batch
    before the next one is loaded, so that each image is decoded once. If several processes share the loader, a
    `view_loader`, each gets the whole result.

    Args:
        networks: may create networks when they are indexed, which happens once, or for every part of the images if
            they take turns.
        tasks: the task of all networks, or of each.
        kinds: the index of the transform of each network, if the loader has several.
        at_once: number of networks to hold in memory; the images are kept for the others, up to HELD_BYTES or a quarter
            of the free memory. None holds all.
        apart: return the prediction for each view, `(M, N, V, C)`, instead of the mean.
    """
    at_once = at_once or len(networks)
    tasks = [tasks] * len(networks) if isinstance(tasks, Task) else tasks
    width = max(task.outputs for task in tasks)
    groups = [range(first, min(first + at_once, len(networks))) for first in range(0, len(networks), at_once)]
    predictions: list[list[Tensor]] = [[] for _ in range(len(networks))]
    held: list[nn.Module] = []
    batches = (views if isinstance(views, list) else [views] for views, _ in _bar(loader, "predict"))
    for part in _split_to_hold(batches, loader.dist.local_size) if len(groups) > 1 else ([views] for views in batches):
        for group in groups:
            if not held or len(groups) > 1:
                held.clear()  # before the next ones are created
                held = [networks[k].eval() for k in group]
            seen = [kinds[k] if kinds else 0 for k in group]
            for views in part:
                found = _predict_batch(held, seen, views, [tasks[k] for k in group], loader.device)
                for k, prediction in zip(group, found, strict=True):
                    prediction = F.pad(prediction, (0, width - prediction.shape[2]))
                    predictions[k].append(prediction if apart else prediction.mean(dim=1))
    if loader.dist.world_size == 1:
        return torch.stack([torch.cat(rows) for rows in predictions]).cpu().numpy()
    none = torch.empty(0, *([loader.dataset.views] if apart else ()), width)
    rows = torch.stack([torch.cat([none, *(part.cpu() for part in parts)]) for parts in predictions], dim=1)
    return loader.gather(rows.numpy()).swapaxes(0, 1)  # rows are images


def _predict_batch(
    networks: Sequence[nn.Module],
    kinds: Sequence[int],
    views: list[Tensor],
    tasks: Sequence[Task],
    device: torch.device,
) -> list[Tensor]:
    """Return the prediction of each network for its kind of `views (B, V, 3, S, S)`, `(B, V, its C)`."""
    moved: dict[int, Tensor] = {}
    predictions = []
    for network, kind, task in zip(networks, kinds, tasks, strict=True):
        if kind not in moved:
            moved[kind], _ = move_batch(views[kind].flatten(0, 1), {}, device, _dtype(network))
        prediction = predict_task(network(moved[kind]), task)
        predictions.append(prediction.view(*views[kind].shape[:2], -1))
    return predictions


def _split_to_hold(batches: Iterable[list[Tensor]], processes: int) -> Iterator[list[list[Tensor]]]:
    """Yield lists of batches that fit the memory, which this number of processes shares."""
    free = free_memory(torch.device("cpu"))
    size = HELD_BYTES if free is None else min(HELD_BYTES, free // (4 * processes))
    part: list[list[Tensor]] = []
    for views in batches:
        # Loader processes return shared memory, of which a container may have little.
        part.append([kind.to("cpu", copy=True) for kind in views])
        if sum(kind.nbytes for kept in part for kind in kept) >= size:
            yield part
            part = []
    if part:
        yield part


# ------------------------------------------------------------------------------------------------ helpers


def _sum(losses: list[Tensor]) -> float:
    return torch.stack(losses).cpu().double().sum().item() if losses else 0.0


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _bar(loader: Loader, title: str, *, initial: int = 0) -> tqdm:
    return tqdm(
        yield_batches(loader),
        desc=title,
        initial=initial,
        total=len(loader),
        leave=False,
        disable=True if process_number() else None,  # None: unless the output is a terminal
        dynamic_ncols=True,
        unit="batch",
    )
