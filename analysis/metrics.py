"""Compute scores of predictions."""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from data.label_math import SMALLEST, class_numbers, predicted_classes
from data.tasks import Task
from utils import shorten_list

TEMPERATURES = np.geomspace(0.1, 10, 201)


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """Return the confusion matrix of class numbers, `(count, count) int64`; rows are labels, columns predictions."""
    return np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)


def class_f1(counts: np.ndarray) -> np.ndarray:
    """Return F1 of each class, `(..., C) float64`; NaN for a class that is neither predicted nor true.

    `counts` `(..., 3, C)` has the number of correct predictions, of predictions and of labels of each class.
    """
    correct, predicted, true = np.moveaxis(counts, -2, 0)
    with np.errstate(invalid="ignore"):
        return 2 * correct / (predicted + true)


def macro_f1(of_classes: np.ndarray) -> np.ndarray:
    """Return the mean `(...)` of F1 of the classes, `(..., C)`, that are predicted or true, as scikit-learn does."""
    with np.errstate(invalid="ignore"):
        return np.nansum(of_classes, axis=-1) / np.isfinite(of_classes).sum(axis=-1)


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Return the counts that `class_f1` takes, `(3, C)`, from a confusion matrix `(C, C)`."""
    return np.stack([confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)])


def score(task: Task, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the scores of a task by name.

    Macro F1 is the mean over the classes that are predicted or true, as in scikit-learn's `f1_score`.

    Args:
        probabilities: `(N, C)` class probabilities, or `(N, 1)` years for age.
        labels: `(N,)` true classes, or true ages in years.

    Returns:
        macro_f1 and accuracy as fractions; for age also mae and rmse in years, with macro_f1 and accuracy of the age
        groups. All are NaN if a prediction is not finite.
    """
    if not np.isfinite(probabilities).all():
        return dict.fromkeys(task.scores, float("nan"))
    predicted = predicted_classes(task, probabilities)
    errors = {}
    if task.regression:
        error = probabilities[:, 0].astype(np.float64) - labels
        errors = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
    labels = class_numbers(task, labels)
    confusion = confusion_counts(labels, predicted, len(task.classes))
    f1 = float(macro_f1(class_f1(class_counts(confusion))))
    return {"macro_f1": f1, "accuracy": float(confusion.trace() / len(labels)), **errors}


def absent_classes(
    task: Task, labels: np.ndarray, probabilities: np.ndarray | None = None
) -> tuple[list[str], list[str] | None]:
    """Return the names of the classes without images, and of those among them that are predicted, None if unknown.

    The arguments are those of `score`.
    """
    true = set(class_numbers(task, labels))
    absent = [k for k in range(len(task.classes)) if k not in true]
    names = [task.classes[k] for k in absent]
    if probabilities is None:
        return names, None
    predicted = set(predicted_classes(task, probabilities))
    return names, [name for k, name in zip(absent, names, strict=True) if k in predicted]


def describe_classes(task: Task, absent: Sequence[str], predicted: Sequence[str] | None = None) -> str:
    """Return a sentence on the classes that macro F1 is the mean over.

    Args:
        absent: the classes without images.
        predicted: those among them that are predicted, or None if it is not known yet.
    """
    count = len(task.classes)
    if not absent:
        return f"Macro F1 is the mean over all {count} classes."
    names = shorten_list(absent, count)
    if predicted is None:
        return f"No image is of class {names}: macro F1 leaves such a class out, or counts it 0 where it is predicted."
    over = f"{count - len(absent) + len(predicted)} of {count} classes"
    zeros = f" Predicted all the same, so counted 0: {shorten_list(predicted, count)}." if predicted else ""
    return f"Macro F1 is the mean over {over}. No image is of class {names}.{zeros}"


def tempered(
    probabilities: np.ndarray, temperature: float, offsets: np.ndarray | float = 0.0, *, floor: float = SMALLEST
) -> np.ndarray:
    """Return probabilities `(N, C)` scaled by a temperature, with an offset added to the logarithm of each class.

    Probabilities below `floor` count as `floor`.
    """
    return softmax(np.log(probabilities.clip(floor)) / temperature + offsets, axis=1)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative logarithm of the probability of the true class `(N,)`."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(SMALLEST)).mean())


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray, *, floor: float = SMALLEST) -> float:
    """Return the temperature of TEMPERATURES with the lowest log loss.

    Temperature scaling of Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """
    return float(min(TEMPERATURES, key=lambda value: log_loss(tempered(probabilities, value, floor=floor), labels)))
