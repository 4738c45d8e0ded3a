"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from functools import partial

from adamp import AdamP
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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
    "adamw": partial(AdamW, fused=True),
    "adamp": AnyLayoutAdamP,
    "sgd": partial(SGD, fused=True),
    "momentum": partial(SGD, momentum=0.9, fused=True),
}
WEIGHT_DECAY = {"adamw": 5e-2, "adamp": 1e-2}  # of the others 0


def create_optimizer(
    name: str, network: Module, *, lr: float, weight_decay: float | None = None, backbone_lr: float = 1.0
) -> Optimizer:
    """The optimizer called `name`, one of OPTIMIZERS, over the weights of a network that are trained (not frozen).

    Biases and the weights of normalisation do not decay, as is usual (He et al. 2019, https://arxiv.org/abs/1812.01187),
    but for adamp, whose source lets all decay.

    Args:
        network: its backbone is called `features`.
        lr: learning rate.
        weight_decay: None leaves it to the optimizer.
        backbone_lr: learning rate of the backbone as a share of `lr`.
    """
    decay = WEIGHT_DECAY.get(name, 0.0) if weight_decay is None else weight_decay
    backbone = {id(weights) for weights in network.features.parameters()} if backbone_lr != 1 else set()
    groups: dict[tuple[bool, bool], dict] = {}
    for weights in network.parameters():
        if not weights.requires_grad:
            continue
        slow, kept = id(weights) in backbone, decay > 0 and weights.ndim < 2 and name != "adamp"
        about = {"params": [], "lr": lr * (backbone_lr if slow else 1), "weight_decay": 0.0 if kept else decay}
        groups.setdefault((slow, kept), about)["params"].append(weights)
    return OPTIMIZERS[name]([groups[key] for key in sorted(groups)], lr=lr)  # the head first: its rate is told


def run_decay(amount: float, *, lr: float, steps: int) -> float:
    """The weight decay of adamw with which a run of so many steps, all at the full rate, takes e^-amount off weights.

    Adamw's weights are a running mean of their updates over about 1 / (lr x weight decay) steps. As data grow, the best
    span stays the same in epochs (Wang and Aitchison 2024, https://arxiv.org/abs/2405.13698), which in runs of as many
    epochs is a share of the run: more steps want less weight decay.
    """
    return amount / (lr * steps)


def _one_cycle(optimizer: Optimizer, run: int, cycle: int, warmup: int = 0) -> LRScheduler:
    # Torch divides by the steps between the first and the highest, which must be more than none.
    rise = max(warmup, 1.5) / run if warmup and run > 2 else 0.3
    rates = [group["lr"] for group in optimizer.param_groups]
    # Momentum stays: of the optimizers here some have none.
    return OneCycleLR(optimizer, rates, total_steps=run, pct_start=rise, cycle_momentum=False)


SCHEDULES = {
    "cosine": lambda optimizer, run, cycle: CosineAnnealingLR(optimizer, T_max=run),
    # SGDR: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    "cosine_restarts": lambda optimizer, run, cycle: CosineAnnealingWarmRestarts(optimizer, T_0=cycle),
    "onecycle": _one_cycle,
    "none": lambda optimizer, run, cycle: ConstantLR(optimizer, factor=1.0, total_iters=0),
}


def create_scheduler(
    name: str,
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    restart_epochs: int,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """The schedule called `name`, one of SCHEDULES, to be stepped after every batch.

    `cosine` falls to zero over the whole run; `cosine_restarts` falls to zero and starts again every
    `restart_epochs` epochs; `none` stays. `onecycle` rises from a 25th and falls to nearly zero, both along a cosine
    (Smith and Topin 2018, https://arxiv.org/abs/1708.07120).

    Args:
        warmup_epochs: rise to the learning rate over so many epochs first (Goyal et al. 2017,
            https://arxiv.org/abs/1706.02677); onecycle rises over 0.3 of the run where this is 0.
    """
    run, cycle = epochs * steps_per_epoch, restart_epochs * steps_per_epoch
    warmup, make = min(round(warmup_epochs * steps_per_epoch), run - 1), SCHEDULES[name]
    if not warmup:
        return make(optimizer, run, cycle)
    if name == "onecycle":
        return make(optimizer, run, cycle, warmup)
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rise, make(optimizer, run - warmup, cycle)], [warmup])


def step_average(network: Module, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights and buffers over its steps; `module` is the network of it.

    Call `update_parameters(network)` after each step. The average begins with weights that are hardly trained, so what
    is kept of it after n steps is (1 + n) / (10 + n) at most, as in TensorFlow's ExponentialMovingAverage.

    Args:
        network: as it is before the first step.
        decay: the share of the average that each step keeps.
    """

    def update(means: list[Tensor], now: list[Tensor], steps: Tensor) -> None:
        made = int(average.n_averaged)  # the same as `steps`, but never on a GPU, which would be waited for
        get_ema_multi_avg_fn(min(decay, (1 + made) / (10 + made)))(means, now, steps)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    return average


def learning_rate(optimizer: Optimizer) -> float:
    """The current learning rate, as a plain number."""
    return float(optimizer.param_groups[0]["lr"])
