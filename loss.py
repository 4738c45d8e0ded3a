"""The losses, and their sum over the heads of a network.

Targets of classes are class numbers `(B,) int64`, or shares `(B, C) float` that sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor


def label_smoothing_loss(logits: Tensor, target: Tensor, *, smoothing: float = 0.2) -> Tensor:
    """Cross entropy with the target class at 1 - smoothing and the rest spread over the *other* classes.

    Torch spreads it over all C classes, the target's included, so its smoothing is scaled by C / (C - 1).

    Args:
        logits: `(B, C) float`. target: classes or shares. Returns the mean over B, a scalar.
    """
    classes = logits.shape[1]
    return F.cross_entropy(logits, target, label_smoothing=smoothing * classes / (classes - 1))


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002) over softmax, its factor taken for each sample.

    Where the target is shares, it is the mean over the classes by their shares.

    Args:
        logits: `(B, C) float`. target: classes or shares. Returns the mean over B, a scalar.
    """
    log_p = F.log_softmax(logits, dim=1)
    if not target.is_floating_point():
        log_p = log_p.gather(1, target[:, None]).squeeze(1)  # (B,)
        return -((1 - log_p.exp()) ** gamma * log_p).mean()
    return -(target * (1 - log_p.exp()) ** gamma * log_p).sum(dim=1).mean()


def mse_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error in years squared. output: `(B, 1) float`, target: `(B,)` years."""
    return F.mse_loss(output.squeeze(1), target.to(output.dtype))


def smooth_l1_loss(output: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (Huber with delta 1) in years. output: `(B, 1) float`, target: `(B,)` years."""
    return F.smooth_l1_loss(output.squeeze(1), target.to(output.dtype))


LOSSES = {
    "labelsmoothingloss": label_smoothing_loss,
    "focalloss": focal_loss,
    "crossentropyloss": F.cross_entropy,
    "mseloss": mse_loss,
    "smoothl1loss": smooth_l1_loss,
}


def create_criterion(
    name: str, *, logit_adjustment: float = 0.0, counts: Mapping[str, Tensor] | None = None
) -> Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]:
    """The loss called `name`, one of LOSSES, summed over heads.

    It takes the outputs of a network, `{head: (B, C)}`, and targets that hold at least those heads, `{head: (B,)}` or
    for shares of classes `{head: (B, C)}`, and returns a scalar: the sum over heads of the mean over the batch.

    Args:
        logit_adjustment: this times the log of each class's frequency is added to its logit, so that the logits
            themselves are those of classes that are equally frequent (Menon et al. 2021,
            https://arxiv.org/abs/2007.07314; 1 is what they derive).
        counts: how often each class of each head is trained on, `{head: (C,)}`; needed for the adjustment. A class
            that is not there counts as once.
    """
    loss = LOSSES[name]
    shifts: dict[str, Tensor] = {}
    if logit_adjustment:
        sums = {head: each.double().clamp(min=1) for head, each in counts.items()}
        shifts = {head: (logit_adjustment * (each / each.sum()).log()).float() for head, each in sums.items()}

    def criterion(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        for head, shift in shifts.items():
            shifts[head] = shift.to(next(iter(outputs.values())).device)  # moved once
        return sum(loss(output + shifts[head] if shifts else output, targets[head]) for head, output in outputs.items())

    return criterion
