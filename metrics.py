"""Scores of predictions, computed once over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tasks import AGE_BOUNDS, ATTRIBUTES, TASKS

_COUNTS = tuple(len(TASKS[name].classes) for name in ATTRIBUTES)
# Probabilities below this count as this in logarithms, so that one member alone cannot rule a class out for good.
SMALLEST = 1e-12
TEMPERATURES = np.geomspace(0.1, 10, 201)


def age_groups(years: np.ndarray) -> np.ndarray:
    """The age group of each age in years, `int64` in the same shape."""
    return np.searchsorted(AGE_BOUNDS, years, side="right")


def predicted_class(task: str, probabilities: np.ndarray) -> np.ndarray:
    """The class of each row, `(N,) int64`: the most probable one, or for age the age group of the predicted years."""
    if TASKS[task].regression:
        return age_groups(probabilities[:, 0])
    return probabilities.argmax(axis=1)


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """How often each of `count` classes (row) was taken for each (column), `(count, count) int64`."""
    return np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)


def attributes_of(classes: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of mask, gender and ageg of each class of main, `(N,) int64`."""
    return dict(zip(ATTRIBUTES, np.unravel_index(classes, _COUNTS), strict=True))


def joined_classes(attributes: dict[str, np.ndarray]) -> np.ndarray:
    """The classes of main, `(N,) int64`, that numbers of mask, gender and ageg make: the reverse of `attributes_of`."""
    return np.ravel_multi_index([attributes[name] for name in ATTRIBUTES], _COUNTS)


def marginals(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """The probabilities of mask, gender and ageg, `(N, 3)`, `(N, 2)` and `(N, 3)`, from those of main, `(N, 18)`.

    Each is the sum over the classes that have the attribute.
    """
    parts = probabilities.reshape(-1, *_COUNTS)
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
    logits = np.log((np.ones((count, *_COUNTS)) if base is None else base.reshape(-1, *_COUNTS)).clip(SMALLEST))
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


def score(task: str, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scores of a task, by name.

    Macro F1 is over all classes of the task, those without a single image counting 0.

    Args:
        task: one of TASKS.
        probabilities: `(N, C)` class probabilities, or `(N, 1)` years for age.
        labels: `(N,)` true classes, or true ages in years.

    Returns:
        macro_f1 and accuracy (fractions of 1); for age also mae and rmse (years), with macro_f1 and accuracy those of
        the age groups. All are NaN when a prediction is not finite.
    """
    from sklearn.metrics import accuracy_score, f1_score  # takes a second to import: not for who only asks for names

    record = TASKS[task]
    if not np.isfinite(probabilities).all():
        return {name: float("nan") for name in record.scores}
    predicted = predicted_class(task, probabilities)
    scores = {}
    if record.regression:
        error = probabilities[:, 0].astype(np.float64) - labels
        scores = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
        labels = age_groups(labels)
    classes = range(len(record.classes))
    macro_f1 = float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0))
    return {"macro_f1": macro_f1, "accuracy": float(accuracy_score(labels, predicted)), **scores}


# ------------------------------------------------------------------------------------------------ calibration


def tempered(
    probabilities: np.ndarray, temperature: float, offsets: np.ndarray | float = 0.0, *, floor: float = SMALLEST
) -> np.ndarray:
    """Probabilities `(N, C)` whose logarithms are divided by a temperature and moved by an offset for each class.

    Those below `floor` count as that.
    """
    logits = np.log(probabilities.clip(floor)) / temperature + offsets
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of minus the logarithm of what the true class `(N,)` was given."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(SMALLEST)).mean())


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray, *, floor: float = SMALLEST) -> float:
    """The temperature of TEMPERATURES with the least log loss (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    return float(min(TEMPERATURES, key=lambda value: log_loss(tempered(probabilities, value, floor=floor), labels)))
