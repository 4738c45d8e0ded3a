"""The loops: one epoch of training, evaluation, and prediction by many networks in one pass over the images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from model import predict_task

Criterion = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class TrainResult:
    """What one epoch of training came to: mean loss over images, number of images, seconds."""

    loss: float
    images: int
    seconds: float


@dataclass(frozen=True)
class EvalResult:
    """What evaluation came to: mean loss over images, and `(N, C)` probabilities (or years) in the loader's order."""

    loss: float
    probabilities: np.ndarray


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device, in the memory layout that convolutions are fastest in."""
    return network.to(device, memory_format=torch.channels_last)


def train_one_epoch(
    network: nn.Module,
    loader: DataLoader,
    criterion: Criterion,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    device: torch.device,
    *,
    title: str = "train",
) -> TrainResult:
    """Train on every batch of the loader once, stepping the schedule after each."""
    network.train()
    losses, images, start = [], 0, time.perf_counter()
    told = start
    with _bar(loader, title) as bar:
        for batch, targets in bar:
            batch, targets = _move(batch, targets, device)
            loss = criterion(network(batch), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.detach() * len(batch))
            images += len(batch)
            if not bar.disable and time.perf_counter() - told > 0.5:  # reading the loss makes a GPU wait
                told = time.perf_counter()
                speed = images / (told - start)
                bar.set_postfix_str(f"loss {loss.item():.4f}, {speed:.0f} images/s", refresh=False)
    return TrainResult(_sum(losses) / images, images, time.perf_counter() - start)


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    loader: DataLoader,
    criterion: Criterion,
    task: str,
    device: torch.device,
    *,
    title: str = "valid",
) -> EvalResult:
    """Loss and answers of a network on the plain view of every image of the loader."""
    network.eval()
    losses, images, answers = [], 0, []
    for views, targets in _bar(loader, title):
        batch, targets = _move(views[:, 0], targets, device)
        outputs = network(batch)
        losses.append(criterion(outputs, targets) * len(batch))
        images += len(batch)
        answers.append(predict_task(outputs, task).cpu())
    return EvalResult(_sum(losses) / images, torch.cat(answers).numpy())


@torch.inference_mode()
def predict(
    networks: Sequence[nn.Module], loader: DataLoader, task: str, device: torch.device, *, title: str = "predict"
) -> np.ndarray:
    """What each network answers, its mean over the views of an image: `(networks, N, C) float32`."""
    for network in networks:
        network.eval()
    answers: list[list[Tensor]] = [[] for _ in networks]
    for views, _ in _bar(loader, title):
        count, per_image = views.shape[:2]
        batch, _ = _move(views.flatten(0, 1), {}, device)  # (B * V, 3, S, S)
        for network, rows in zip(networks, answers, strict=True):
            rows.append(predict_task(network(batch), task).view(count, per_image, -1).mean(dim=1).cpu())
    return torch.stack([torch.cat(rows) for rows in answers]).numpy()


def _sum(losses: list[Tensor]) -> float:
    return torch.stack(losses).cpu().double().sum().item()


def _move(batch: Tensor, targets: dict[str, Tensor], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    batch = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
    return batch, {task: _narrow(values).to(device, non_blocking=True) for task, values in targets.items()}


def _narrow(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


def _bar(loader: DataLoader, title: str) -> tqdm:
    # disable=None: no bar where the output is no terminal
    return tqdm(loader, desc=title, leave=False, disable=None, dynamic_ncols=True, unit="batch")
