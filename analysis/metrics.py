"""Scores of predictions, computed once over all of them."""

from __future__ import annotations

import numpy as np

from data.label_math import SMALLEST, age_group, predicted_class
from data.tasks import TASKS

TEMPERATURES = np.geomspace(0.1, 10, 201)


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """How often each of `count` classes (row) was taken for each (column), `(count, count) int64`."""
    return np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)


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
        labels = age_group(labels)
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
