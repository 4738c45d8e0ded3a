"""Losses, and their sum over the heads of a network.

A loss takes logits `(B, C) float` and class targets, which are class numbers `(B,) int64` or shares `(B, C) float` that
sum to 1, and returns the mean over B, a scalar. The command line reads the names from here, so torch is imported only
where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def label_smoothing_loss(logits: Tensor, target: Tensor, *, smoothing: float = 0.2) -> Tensor:
    """Return cross entropy with the target at 1 - smoothing and the rest spread over the *other* classes.

    Torch spreads it over all C classes, including the target, so its smoothing is scaled by C / (C - 1).
    """
    import torch.nn.functional as F

    classes = logits.shape[1]
    return F.cross_entropy(logits, target, label_smoothing=smoothing * classes / (classes - 1))


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Return the softmax focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002), weighted per sample.

    For shares it is the sum over the classes, weighted by their shares. `gamma` 0 is cross entropy.
    """
    log_p = logits.log_softmax(dim=1)
    if not target.is_floating_point():
        log_p = log_p.gather(1, target[:, None]).squeeze(1)  # (B,)
        return -((1 - log_p.exp()) ** gamma * log_p).mean()
    return -(target * (1 - log_p.exp()) ** gamma * log_p).sum(dim=1).mean()


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy."""
    import torch.nn.functional as F

    return F.cross_entropy(logits, target)


def mse_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of outputs `(B, 1) float` and numbers `(B,)`."""
    import torch.nn.functional as F

    return F.mse_loss(output.squeeze(1), target.to(output.dtype))


def smooth_l1_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the smooth L1 loss (Huber with delta 1) of outputs `(B, 1) float` and numbers `(B,)`."""
    import torch.nn.functional as F

    return F.smooth_l1_loss(output.squeeze(1), target.to(output.dtype))


# The names of --loss-type; the first of each kind is the default.
CLASSIFICATION_LOSSES = {
    "labelsmoothingloss": label_smoothing_loss,
    "focalloss": focal_loss,
    "crossentropyloss": cross_entropy_loss,
}
REGRESSION_LOSSES = {"mseloss": mse_loss, "smoothl1loss": smooth_l1_loss}
LOSSES = CLASSIFICATION_LOSSES | REGRESSION_LOSSES


def create_criterion(
    name: str,
    *,
    logit_adjustment: float = 0.0,
    counts: Mapping[str, Tensor] | None = None,
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]:
    """Return the loss called `name`, summed over heads.

    It takes the outputs of a network, `{head: (B, C)}`, and targets for at least these heads.

    Args:
        logit_adjustment: this times the log of each class's frequency is added to its logit, so that the logits
            themselves are those of equally frequent classes (Menon et al. 2021, https://arxiv.org/abs/2007.07314,
            who derive 1).
        counts: number of training images of each class, `{head: (C,)}`; needed for the adjustment. An absent class
            counts as one image.
        scales: center and scale of the numbers of some heads, see `data.tasks.Task`.
    """
    loss = LOSSES[name]
    shifts: dict[str, Tensor] = {}
    if logit_adjustment:
        sums = {head: each.double().clamp(min=1) for head, each in counts.items()}
        shifts = {head: (logit_adjustment * (each / each.sum()).log()).float() for head, each in sums.items()}

    def criterion(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        for head, shift in shifts.items():
            shifts[head] = shift.to(next(iter(outputs.values())).device)  # moved once
        for head in outputs.keys() & (scales or {}):
            center, scale = scales[head]
            targets = {**targets, head: (targets[head] - center) / scale}
        return sum(loss(output + shifts[head] if shifts else output, targets[head]) for head, output in outputs.items())

    return criterion
