"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from adamp import AdamP
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler


class AnyLayoutAdamP(AdamP):
    """AdamP (Heo et al. 2021, https://arxiv.org/abs/2006.08217) for weights in any memory layout.

    The package views weights as matrices, which channels_last weights do not allow; reshaping copies them where needed.
    """

    def _channel_view(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0), -1)

    def _layer_view(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1)


OPTIMIZERS = {  # fused: all weights in one pass, where torch has it
    "adam": partial(Adam, fused=True),
    "adamp": partial(AnyLayoutAdamP, weight_decay=1e-2),
    "sgd": partial(SGD, fused=True),
    "momentum": partial(SGD, momentum=0.9, fused=True),
}


def create_optimizer(name: str, parameters: Iterable[Parameter], *, lr: float) -> Optimizer:
    """The optimizer called `name`, one of OPTIMIZERS, over the parameters that are trained (not frozen)."""
    return OPTIMIZERS[name]([p for p in parameters if p.requires_grad], lr=lr)


SCHEDULES = {
    "cosine": lambda optimizer, run, cycle: CosineAnnealingLR(optimizer, T_max=run),
    # SGDR: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    "cosine_restarts": lambda optimizer, run, cycle: CosineAnnealingWarmRestarts(optimizer, T_0=cycle),
    "none": lambda optimizer, run, cycle: ConstantLR(optimizer, factor=1.0, total_iters=0),
}


def create_scheduler(
    name: str, optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, restart_epochs: int
) -> LRScheduler:
    """The schedule called `name`, one of SCHEDULES, to be stepped after every batch.

    `cosine` falls to zero over the whole run; `cosine_restarts` falls to zero and starts again every
    `restart_epochs` epochs; `none` stays.
    """
    return SCHEDULES[name](optimizer, epochs * steps_per_epoch, restart_epochs * steps_per_epoch)


def learning_rate(optimizer: Optimizer) -> float:
    """The current learning rate, as a plain number."""
    return float(optimizer.param_groups[0]["lr"])
