"""Convert between attributes, class numbers and class probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from data.tasks import AGE_BOUNDS, AGE_GROUPS, ATTRIBUTES, TASKS, encode_class

COUNTS = tuple(len(TASKS[name].classes) for name in ATTRIBUTES)
# Smaller probabilities count as this in logarithms, so that one member alone cannot rule out a class.
SMALLEST = 1e-12


def age_groups(years: np.ndarray) -> np.ndarray:
    """The age group of each age in years, `int64` in the same shape."""
    return np.searchsorted(AGE_BOUNDS, years, side="right")


def predicted_class(task: str, probabilities: np.ndarray) -> np.ndarray:
    """The class of each row, `(N,) int64`: the most probable one, or for age the age group of the predicted years."""
    if TASKS[task].regression:
        return age_groups(probabilities[:, 0])
    return probabilities.argmax(axis=1)


def attributes_of(classes: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of mask, gender and ageg of each class of main, `(N,) int64`."""
    return dict(zip(ATTRIBUTES, np.unravel_index(classes, COUNTS), strict=True))


def joined_classes(attributes: dict[str, np.ndarray]) -> np.ndarray:
    """The classes of main, `(N,) int64`, that numbers of mask, gender and ageg make: the reverse of `attributes_of`."""
    return np.ravel_multi_index([attributes[name] for name in ATTRIBUTES], COUNTS)


def marginals(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """The probabilities of mask, gender and ageg, `(N, 3)`, `(N, 2)` and `(N, 3)`, from those of main, `(N, 18)`.

    Each is the sum over the classes that have the attribute.
    """
    parts = probabilities.reshape(-1, *COUNTS)
    axes = range(1, parts.ndim)
    return {
        name: parts.sum(axis=tuple(other for other in axes if other != axis))
        for axis, name in zip(axes, ATTRIBUTES, strict=True)
    }


def group_shares(years: np.ndarray, sigma: float, bounds: Sequence[float] = AGE_BOUNDS) -> np.ndarray:
    """How likely each age group is for people of `(N,)` years, known to `sigma` years: `(N, 3) float64`.

    An age of 58 stands for the year from 58 to 59, about whose middle a normal distribution with this deviation lies;
    its shares of the groups are what a label distribution learns (Gao et al. 2017, https://arxiv.org/abs/1611.01731).
    """
    steps = (np.asarray(bounds, np.float64)[:, None] - (years + 0.5)) / (sigma * np.sqrt(2))
    below = (1 + np.vectorize(math.erf, otypes=[float])(steps)) / 2
    return np.diff(np.concatenate([np.zeros((1, len(years))), below, np.ones((1, len(years)))]), axis=0).T


def joined_answers(base: np.ndarray | None, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The 18 classes, `(N, 18)`, from answers about attributes.

    Each attribute in `parts` takes the place of what `base` says of it, the others stay as `base` has them: a class's
    probability is multiplied by that of its attribute and divided by that which base gave the attribute. Without a
    base, attributes count as independent.

    Args:
        base: `(N, 18)` probabilities of main, or None where all attributes are in `parts`.
        parts: `(N, 3)`, `(N, 2)` and `(N, 3)` for mask, gender and ageg.
    """
    count = len(next(iter(parts.values())))
    logits = np.log((np.ones((count, *COUNTS)) if base is None else base.reshape(-1, *COUNTS)).clip(SMALLEST))
    before = {} if base is None else marginals(base)
    for axis, name in enumerate(ATTRIBUTES, 1):
        if name in parts:
            change = np.log(parts[name].clip(SMALLEST))
            if name in before:
                change = change - np.log(before[name].clip(SMALLEST))
            others = [each for each in (1, 2, 3) if each != axis]
            logits = logits + np.expand_dims(change, others)
    values = np.exp(logits - logits.max(axis=(1, 2, 3), keepdims=True)).reshape(count, -1)
    return values / values.sum(axis=1, keepdims=True)


def targets_of(table: pd.DataFrame, *, age_filter: int | None = None) -> dict[str, np.ndarray]:
    """What each task is to answer for every image: `{task: (N,)}`, classes as int64, age in years as float32.

    Args:
        table: one row an image, with mask, gender and age.
        age_filter: people at least this old count as the oldest age group; for training only.
    """
    group = table["ageg"].to_numpy(np.int64)
    if age_filter is not None:
        group = np.where(table["age"].to_numpy() >= age_filter, len(AGE_GROUPS) - 1, group)
    mask, gender = table["mask"].to_numpy(np.int64), table["gender"].to_numpy(np.int64)
    age = table["age"].to_numpy(np.float32)
    return {"main": encode_class(mask, gender, group), "mask": mask, "gender": gender, "ageg": group, "age": age}
