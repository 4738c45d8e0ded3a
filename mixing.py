"""What is done to a batch of training before the network sees it: MixUp, CutMix, and age groups as shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from metrics import group_shares
from tasks import AGE_BOUNDS, MAX_AGE, TASKS

Targets = dict[str, Tensor]


class BatchMixing:
    """Callable on a batch, `(images (B, 3, S, S), {task: (B,)})`, that answers with one to be trained on.

    Where nothing is mixed and ages are as they are, it is the same batch. Else the targets of classes are shares,
    `{task: (B, C) float32}`, and ages in years are mixed as the pixels are. It draws from torch's global generator.

    Args:
        mixup: alpha of MixUp (Zhang et al. 2018, https://arxiv.org/abs/1710.09412), 0 for none.
        cutmix: alpha of CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899), 0 for none; where there are both,
            each batch gets the one or the other.
        age_sigma: see `metrics.group_shares`; 0 leaves age groups as they are.
        bounds: years at which the second and the third age group begin.
    """

    def __init__(
        self, *, mixup: float = 0.0, cutmix: float = 0.0, age_sigma: float = 0.0, bounds: Sequence[float] = AGE_BOUNDS
    ) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.kinds = [(kind, alpha) for kind, alpha in kinds if alpha]
        years = np.arange(MAX_AGE + 1)
        self.shares = torch.from_numpy(group_shares(years, age_sigma, bounds)).float() if age_sigma else None

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        if self.shares is not None or self.kinds:
            targets = {task: _shares(task, values) for task, values in targets.items()}
        if self.shares is not None:
            targets |= self._softened(targets)
        if self.kinds:
            kind, alpha = self.kinds[torch.randint(len(self.kinds), ()).item()]
            # Mixed are the numbers of the images in the batch: what that makes of each is what its targets are made of.
            count = len(images)
            images, parts = kind(alpha=alpha, num_classes=count)(images, torch.arange(count, device=images.device))
            targets = {task: parts @ values for task, values in targets.items()}
        return images, targets

    def _softened(self, targets: Targets) -> Targets:
        self.shares = self.shares.to(targets["age"].device)
        groups = self.shares[targets["age"].round().long()]
        mask, gender = targets["mask"], targets["gender"]
        main = torch.einsum("bm,bg,ba->bmga", mask, gender, groups).flatten(1)  # in the order of `tasks.encode_class`
        return {"ageg": groups, "main": main}


def _shares(task: str, values: Tensor) -> Tensor:
    return values if TASKS[task].regression else F.one_hot(values, TASKS[task].outputs).float()
