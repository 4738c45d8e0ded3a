"""Convert between ages, attributes, class numbers and class probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.tasks import AGE_BOUNDS, AGE_GROUPS, ATTRIBUTES, GENDERS, TASKS

if TYPE_CHECKING:
    import pandas as pd

COUNTS = tuple(len(TASKS[name].classes) for name in ATTRIBUTES)
# Smaller probabilities count as this in logarithms, so that one member alone cannot rule out a class.
SMALLEST = 1e-12

# ------------------------------------------------------------------------------------------------ classes


def age_group(years: float | np.ndarray) -> int | np.ndarray:
    """Return the age group of an age in years, or of each: 0 under 30, 1 from 30 to 59, 2 from 60."""
    return sum(years >= bound for bound in AGE_BOUNDS)


def encode_class(mask: int, gender: int, group: int) -> int:
    """Return the class number 0..17 of three attribute numbers: 6 x mask + 3 x gender + age group."""
    return (mask * len(GENDERS) + gender) * len(AGE_GROUPS) + group


def decode_class(number: int) -> tuple[int, int, int]:
    """Return the attribute numbers (mask, gender, age group) of a class number 0..17."""
    rest, group = divmod(number, len(AGE_GROUPS))
    return (*divmod(rest, len(GENDERS)), group)


def encode_classes(attributes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the classes of main, `(N,) int64`, from the numbers of mask, gender and ageg."""
    return encode_class(*(attributes[name] for name in ATTRIBUTES))


def decode_classes(classes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the numbers of mask, gender and ageg of classes of main, each `(N,) int64`."""
    return dict(zip(ATTRIBUTES, decode_class(classes), strict=True))


def make_targets(table: pd.DataFrame, *, age_filter: int | None = None) -> dict[str, np.ndarray]:
    """Return the targets of every task, `{task: (N,)}`: classes as int64, age in years as float32.

    `table` has one row per image, with mask, gender, age and ageg. People from the age `age_filter` on count as the
    oldest age group; for training only.
    """
    group = table["ageg"].to_numpy(np.int64)
    if age_filter is not None:
        group = np.where(table["age"].to_numpy() >= age_filter, len(AGE_GROUPS) - 1, group)
    mask, gender = table["mask"].to_numpy(np.int64), table["gender"].to_numpy(np.int64)
    age = table["age"].to_numpy(np.float32)
    return {"main": encode_class(mask, gender, group), "mask": mask, "gender": gender, "ageg": group, "age": age}


# ------------------------------------------------------------------------------------------------ probabilities


def predicted_class(task: str, probabilities: np.ndarray) -> np.ndarray:
    """Return the class of each row, `(N,) int64`: the most probable one, or the age group of the predicted years."""
    return age_group(probabilities[:, 0]) if TASKS[task].regression else probabilities.argmax(axis=1)


def marginals(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probabilities of mask, gender and ageg, `(N, 3)`, `(N, 2)` and `(N, 3)`, from `(N, 18)` of main."""
    parts = probabilities.reshape(-1, *COUNTS)
    return {name: parts.sum(axis=_other_axes(axis)) for axis, name in enumerate(ATTRIBUTES, 1)}


def join_probabilities(base: np.ndarray | None, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return probabilities of the 18 classes, `(N, 18)`, from those of attributes.

    Each attribute in `parts` replaces the marginal of `base`, `(N, 18)`, the others stay as they are in `base`: a
    class's probability is multiplied by that of its attribute and divided by the marginal. Without a base, attributes
    count as independent, and all must be in `parts`.
    """
    from scipy.special import softmax  # imported here, since most commands need nothing of SciPy

    count = len(next(iter(parts.values())))
    logits = np.log((np.ones((count, *COUNTS)) if base is None else base.reshape(-1, *COUNTS)).clip(SMALLEST))
    before = {} if base is None else marginals(base)
    for axis, name in enumerate(ATTRIBUTES, 1):
        if name in parts:
            change = np.log(parts[name].clip(SMALLEST))
            if name in before:
                change = change - np.log(before[name].clip(SMALLEST))
            logits = logits + np.expand_dims(change, _other_axes(axis))
    return softmax(logits.reshape(count, -1), axis=1)


def age_group_shares(years: np.ndarray, sigma: float, bounds: Sequence[float] = AGE_BOUNDS) -> np.ndarray:
    """Return the probability of each age group for ages that are known to `sigma` years, `(N, 3) float64`.

    An age of 58 stands for the year from 58 to 59: the normal distribution lies about its middle. Its shares of the
    groups, of which the second and the third begin at `bounds`, are a label distribution (Gao et al. 2017,
    https://arxiv.org/abs/1611.01731).
    """
    from scipy.special import erf

    steps = (np.asarray(bounds, np.float64)[:, None] - (years + 0.5)) / (sigma * np.sqrt(2))
    return np.diff((1 + erf(steps)) / 2, axis=0, prepend=0, append=1).T


def _other_axes(axis: int) -> tuple[int, ...]:
    """Return the two axes of `(N, 3, 2, 3)` probabilities that belong to other attributes."""
    return tuple(other for other in (1, 2, 3) if other != axis)
