"""Optimizers, learning-rate schedules and the moving average of weights.

The command line reads the names from here, so torch is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.optim.swa_utils import AveragedModel


def torch_optimizer(name: str, **options: Any) -> Callable[..., Optimizer]:
    """Return a function that creates an optimizer of torch.optim with some options."""

    def create(groups: list[dict], *, lr: float) -> Optimizer:
        import torch

        return getattr(torch.optim, name)(groups, lr=lr, **options)

    return create


def adamp(groups: list[dict], *, lr: float) -> Optimizer:
    """Return AdamP (Heo et al. 2021, https://arxiv.org/abs/2006.08217) for weights in any memory layout.

    The package views weights as matrices, which fails for channels_last weights; reshaping copies them where needed.
    """
    from adamp import AdamP

    class AnyLayoutAdamP(AdamP):
        def _channel_view(self, x: Tensor) -> Tensor:
            return x.reshape(x.size(0), -1)

        def _layer_view(self, x: Tensor) -> Tensor:
            return x.reshape(1, -1)

    return AnyLayoutAdamP(groups, lr=lr)


OPTIMIZERS = {  # fused: all weights in one pass
    "adam": torch_optimizer("Adam", fused=True),
    "adamw": torch_optimizer("AdamW", fused=True),
    "adamp": adamp,
    "sgd": torch_optimizer("SGD", fused=True),
    "momentum": torch_optimizer("SGD", momentum=0.9, fused=True),
}
WEIGHT_DECAY = {"adamw": 5e-2, "adamp": 1e-2}  # 0 for the others
# Weights of transformers that do not decay, as in the recipes of their authors; those of timm name their own.
NO_WEIGHT_DECAY = ("*class_token", "*pos_embedding", "*relative_position_bias_table", "*logit_scale", "*cpb_mlp.*")


def create_optimizer(
    name: str,
    network: Module,
    *,
    lr: float,
    weight_decay: float | None = None,
    backbone_lr: float = 1.0,
    layer_decay: float = 1.0,
) -> Optimizer:
    """Return an optimizer of the trainable weights of a network.

    Biases, the weights of normalisation, and position embeddings and the like of transformers do not decay, as is usual
    (He et al. 2019, https://arxiv.org/abs/1812.01187), except with adamp, whose source decays all. A `weight_decay` of
    None takes the default of the optimizer. `backbone_lr` is the learning rate of `network.features` as a share of
    `lr`. A `layer_decay` other than 1 replaces it: a layer at depth d below the head learns at `lr x layer_decay^d`.
    """
    decay = WEIGHT_DECAY.get(name, 0.0) if weight_decay is None else weight_decay
    backbone, share = getattr(network, "features", None), backbone_lr
    depths, exempt = {}, set()  # of the weights of the backbone, by id
    if layer_decay != 1:
        depths, share = layer_depths(backbone), layer_decay
    elif backbone_lr != 1:
        depths = {id(weights): 1 for weights in backbone.parameters()}
    if backbone is not None:
        names = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else NO_WEIGHT_DECAY
        exempt = {id(w) for key, w in backbone.named_parameters() if any(fnmatchcase(key, each) for each in names)}
    groups: dict[tuple[int, bool], dict] = {}
    for weights in network.parameters():
        if not weights.requires_grad:
            continue
        depth = depths.get(id(weights), 0)
        kept = decay > 0 and name != "adamp" and (weights.ndim < 2 or id(weights) in exempt)
        options = {"params": [], "lr": lr * share**depth, "weight_decay": 0.0 if kept else decay}
        groups.setdefault((depth, kept), options)["params"].append(weights)
    return OPTIMIZERS[name]([groups[key] for key in sorted(groups)], lr=lr)  # the head first: its rate is logged


def layer_depths(backbone: Module) -> dict[int, int]:
    """Return the depth below the head of every weight of a backbone, by its id; that of the last layer is 1.

    A layer is a block, or a convolution or linear layer outside the blocks, each with the normalisation after it.
    Position embeddings belong to the first layer. Linear layers at the end belong to the head: their depth is 0.
    Networks of timm use timm's own groups, where they have them.
    """
    from torch import nn

    if hasattr(backbone, "group_matcher"):
        return _timm_depths(backbone)
    units = [unit for unit in _units(backbone) if next(unit.parameters(), None) is not None]
    head: list[Tensor] = []
    while units and isinstance(units[-1], nn.Linear):
        head += units.pop().parameters()
    layers: list[list[Tensor]] = [[]]
    for unit in units:
        if _count_matrices(unit) and any(weights.ndim > 1 for weights in layers[-1]):
            layers.append([])
        layers[-1] += unit.parameters()
    depths = {id(weights): len(layers) for weights in backbone.parameters()}
    depths |= {id(weights): len(layers) - number for number, layer in enumerate(layers) for weights in layer}
    return depths | {id(weights): 0 for weights in head}


def _timm_depths(backbone: Module) -> dict[int, int]:
    from timm.models import group_parameters

    # Weights that timm does not match belong to its head. So does ours, whether or not the backbone still has a head.
    weights, head = dict(backbone.named_parameters()), "\0"
    named = SimpleNamespace(named_parameters=lambda: [*weights.items(), (head, None)])
    numbers = group_parameters(named, backbone.group_matcher(coarse=False), reverse=True)
    return {id(each): numbers[head] - numbers[name] for name, each in weights.items()}


def _units(module: Module) -> Iterator[Module]:
    """Yield the blocks of a network and the layers between them, in order."""
    from torch import nn

    lists = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

    def is_stage(module: Module) -> bool:  # several blocks of one kind
        blocks = list(module.children()) if isinstance(module, lists) else []
        kinds = {type(block) for block in blocks}
        return len(blocks) > 1 and len(kinds) == 1 and all(_count_matrices(block) > 1 for block in blocks)

    for child in module.children():
        if type(child) in lists or any(is_stage(each) for each in child.modules()):
            yield from _units(child)
        else:
            yield child


def _count_matrices(module: Module) -> int:
    return sum(weights.ndim > 1 for weights in module.parameters())


def run_decay(amount: float, *, lr: float, steps: int) -> float:
    """Return the weight decay of adamw that shrinks weights by e^-amount over a run at the full learning rate.

    The weights of adamw are a running mean of their updates over about 1 / (lr x weight decay) steps. As data grow, the
    best span stays the same in epochs (Wang and Aitchison 2024, https://arxiv.org/abs/2405.13698), which for a fixed
    number of epochs is a share of the run: more steps need less weight decay.
    """
    return amount / (lr * steps)


def learning_rate(optimizer: Optimizer) -> float:
    """Return the current learning rate of the head."""
    return float(optimizer.param_groups[0]["lr"])


def cosine(optimizer: Optimizer, *, steps: int, cycle: int) -> LRScheduler:
    """Return a schedule that falls to zero over the run."""
    from torch.optim.lr_scheduler import CosineAnnealingLR

    return CosineAnnealingLR(optimizer, T_max=steps)


def cosine_restarts(optimizer: Optimizer, *, steps: int, cycle: int) -> LRScheduler:
    """Return a schedule that falls to zero in every cycle (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

    return CosineAnnealingWarmRestarts(optimizer, T_0=cycle)


def one_cycle(optimizer: Optimizer, *, steps: int, cycle: int, warmup: int = 0) -> LRScheduler:
    """Return a schedule that rises from a 25th and falls to nearly zero (Smith and Topin 2018, arXiv 1708.07120)."""
    from torch.optim.lr_scheduler import OneCycleLR

    if steps == 1:  # it would be the last one, with a rate of nearly zero
        return constant(optimizer, steps=steps, cycle=cycle)
    # Torch divides by the number of steps between the first and the highest, which must not be 0.
    rise = max(warmup, 1.5) / steps if warmup and steps > 2 else 0.3
    rates = [group["lr"] for group in optimizer.param_groups]
    # The momentum stays constant: some of the optimizers have none.
    return OneCycleLR(optimizer, rates, total_steps=steps, pct_start=rise, cycle_momentum=False)


def constant(optimizer: Optimizer, *, steps: int, cycle: int) -> LRScheduler:
    """Return a schedule that keeps the learning rate."""
    from torch.optim.lr_scheduler import ConstantLR

    return ConstantLR(optimizer, factor=1.0, total_iters=0)


SCHEDULES = {"cosine": cosine, "cosine_restarts": cosine_restarts, "onecycle": one_cycle, "none": constant}


def create_scheduler(
    name: str, optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, restart_epochs: int, warmup_epochs: float = 0
) -> LRScheduler:
    """Return a schedule to step after every batch; the optimizer has the peak learning rates.

    The learning rate first rises over `warmup_epochs` (Goyal et al. 2017, https://arxiv.org/abs/1706.02677); with 0,
    onecycle rises over 0.3 of the run. `restart_epochs` are those of a cycle of `cosine_restarts`.
    """
    steps, cycle, create = epochs * steps_per_epoch, restart_epochs * steps_per_epoch, SCHEDULES[name]
    warmup = min(round(warmup_epochs * steps_per_epoch), steps - 1)
    if not warmup:
        return create(optimizer, steps=steps, cycle=cycle)
    if create is one_cycle:
        return one_cycle(optimizer, steps=steps, cycle=cycle, warmup=warmup)
    from torch.optim.lr_scheduler import LinearLR, SequentialLR

    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rise, create(optimizer, steps=steps - warmup, cycle=cycle)], [warmup])


def step_average(network: Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of the weights and buffers of a network; its `module` is the network.

    Call `update_parameters(network)` after each step, which keeps the share `decay` of the average. The first weights
    are hardly trained, so it keeps at most (1 + n) / (10 + n) at step n, as in TensorFlow's ExponentialMovingAverage.
    """
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    class StepAverage(AveragedModel):
        """Unlike its base class it does not copy the number of steps to a GPU, which would wait for all work there."""

        def __init__(self, network: Module) -> None:
            super().__init__(network, use_buffers=True)
            means, now = ([*each.parameters(), *each.buffers()] for each in (self.module, network))
            dtypes = {each.dtype for each in means}
            self.pairs = [[[w.detach() for w in part if w.dtype == each] for part in (means, now)] for each in dtypes]

        def update_parameters(self, model: Module) -> None:  # the model is always the network
            made = int(self.n_averaged)
            kept = min(decay, (1 + made) / (10 + made)) if made else 0.0  # the first weights are copied
            for means, now in self.pairs:
                get_ema_multi_avg_fn(kept)(means, now, None)
            self.n_averaged += 1

    return StepAverage(network)
