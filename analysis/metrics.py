"""Compute scores of predictions."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from runpy import run_path

import numpy as np
from scipy.special import softmax

from data.label_math import SMALLEST, class_numbers, predicted_classes
from data.tasks import METRICS, Task, find_metric
from utils import UserError, first_line, shorten_list

TEMPERATURES = np.geomspace(0.1, 10, 201)
BLOCK = 2**22  # weights of images at once, which limits memory
COLUMNS = ("fold", "epoch", "lr", "train_loss", "valid_loss", "images_per_s", "seconds")  # others of log.csv
FIELDS = ("best_epoch", "people", "images", "absent", "absent_predicted", "f1")  # others of summary.json


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """Return the confusion matrix of class numbers, `(count, count) int64`; rows are labels, columns predictions."""
    return np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)


def class_f1(counts: np.ndarray) -> np.ndarray:
    """Return F1 of each class, `(..., C) float64`; NaN for a class that is neither predicted nor true.

    `counts` `(3, ..., C)` has the number of correct predictions, of predictions and of labels of each class.
    """
    correct, predicted, true = counts
    with np.errstate(invalid="ignore"):
        return 2 * correct / (predicted + true)


def macro_f1(of_classes: np.ndarray) -> np.ndarray:
    """Return the mean `(...)` of F1 of the classes, `(..., C)`, that are predicted or true, as scikit-learn does."""
    with np.errstate(invalid="ignore"):
        return np.nansum(of_classes, axis=-1) / np.isfinite(of_classes).sum(axis=-1)


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Return the counts that `class_f1` takes, `(3, C)`, from a confusion matrix `(C, C)`."""
    return np.stack([confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)])


def tally(task: Task, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the sums `(T,) float64` that `compute_scores` takes.

    Args:
        predictions: `(N, C)` class probabilities, or `(N, 1)` numbers.
        labels: `(N,)` true classes, or true numbers.
    """
    further = _further_tallies(task, predictions, labels).sum(axis=0)
    if not task.classes:
        return further
    true, predicted = class_numbers(task, labels), predicted_classes(task, predictions)
    return np.concatenate([class_counts(confusion_counts(true, predicted, len(task.classes))).ravel(), further])


def tally_images(task: Task, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what each image adds to the sums that `compute_scores` takes, `(..., N, T) float64`.

    The arguments are those of `tally`, with `(..., N, C)` predictions. NaN if a prediction is not finite.
    """
    predicted, true = predicted_classes(task, predictions), class_numbers(task, labels)
    classes = np.arange(len(task.classes))
    predicted = predicted[..., None] == classes
    true = np.broadcast_to(true[..., None] == classes, predicted.shape)
    rows = [predicted & true, predicted, true, _further_tallies(task, predictions, labels)]
    rows = np.concatenate(rows, axis=-1).astype(np.float64)
    rows[~np.isfinite(predictions).all(axis=-1)] = np.nan
    return rows


def _further_tallies(task: Task, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what each image adds besides the counts of classes, `(..., N, F)`.

    For classes: the squared distance of the class numbers and the log loss. For numbers: 1, the absolute and the
    squared error, the label and its square.
    """
    if task.regression:
        labels = np.broadcast_to(labels.astype(np.float64), predictions.shape[:-1])
        error = predictions[..., 0].astype(np.float64) - labels
        return np.stack([np.ones_like(error), np.abs(error), error**2, labels, labels**2], axis=-1)
    true = np.broadcast_to(labels[..., None], (*predictions.shape[:-1], 1))
    of_true = np.take_along_axis(predictions, true, axis=-1)[..., 0].astype(np.float64)
    distance = predictions.argmax(axis=-1) - labels
    return np.stack([distance.astype(np.float64) ** 2, -np.log(of_true.clip(SMALLEST))], axis=-1)


def class_f1_of(task: Task, sums: np.ndarray) -> np.ndarray:
    """Return F1 of each class, `(..., C)`, from the sums `(..., T)` of `tally`."""
    return class_f1(_counts(task, sums))


def class_recall_of(task: Task, sums: np.ndarray) -> np.ndarray:
    """Return the recall of each class, `(..., C)`, from the sums `(..., T)` of `tally`; NaN without images."""
    correct, _, true = _counts(task, sums)
    with np.errstate(invalid="ignore"):
        return np.where(true > 0, correct / true, np.nan)


def _counts(task: Task, sums: np.ndarray) -> np.ndarray:
    count = len(task.classes)
    return np.moveaxis(sums[..., : 3 * count].reshape(*sums.shape[:-1], 3, count), -2, 0)


def compute_scores(task: Task, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores that follow from the sums `(..., T)` of `tally`, each `(...)`."""
    scores: dict[str, np.ndarray] = {}
    correct, predicted, true = counts = _counts(task, sums)
    further = np.moveaxis(sums[..., 3 * len(task.classes) :], -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if task.classes:
            images = true.sum(axis=-1)
            scores = {"macro_f1": macro_f1(class_f1(counts)), "accuracy": correct.sum(axis=-1) / images}
        if task.regression:
            images, absolute, squared, label, square = further
            spread = square - label**2 / images
            return scores | {
                "rmse": np.sqrt(squared / images),
                "mae": absolute / images,
                "r2": 1 - np.where(spread > 1e-12 * square, squared / spread, np.nan),
            }
        numbers = np.arange(len(task.classes))
        means = [each @ numbers / images for each in (true, predicted)]
        expected = sum(each @ numbers**2 / images for each in (true, predicted)) - 2 * means[0] * means[1]
        return scores | {
            "balanced_accuracy": macro_f1(class_recall_of(task, sums)),
            "qwk": np.round(1 - further[0] / images / np.where(expected > 0, expected, np.nan), 12) + 0.0,
            "log_loss": further[1] / images,
        }


def score(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the scores of a task by name: those of `task.scores`.

    They are scikit-learn's. Macro F1 is the mean over the classes that are predicted or true; balanced accuracy, AUC
    and average precision are means over the classes that have images. AUC and average precision compare each class with
    the rest; of two classes they are those of the second.

    Args:
        predictions: `(N, C)` class probabilities, or `(N, 1)` numbers.
        labels: `(N,)` true classes, or true numbers.

    Returns:
        Fractions, or for errors the unit of the numbers. Scores that are undefined are NaN, and all are NaN if a
        prediction is not finite.
    """
    if not np.isfinite(predictions).all():
        return dict.fromkeys(task.scores, float("nan"))
    scores = compute_scores(task, tally(task, predictions, labels))
    return {
        name: float(scores[name]) if name in scores else score_one(task, name, predictions, labels)
        for name in task.scores
    }


def score_one(task: Task, name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return one of the scores of `score`, the others of which it does not compute where it can."""
    if find_metric(name).summed:
        return float(compute_scores(task, tally(task, predictions, labels))[name])
    return float(score_resamples(task, name, predictions, labels, np.ones((1, len(labels))))[0])


def score_resamples(
    task: Task, name: str, predictions: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return a score that does not follow from sums over images, for each of R weightings of the images, `(R,)`.

    Args:
        name: auc, average_precision, or the function of the user that `task.metric` names.
        predictions, labels: as for `score`.
        weights: `(R, N)`; for a function of the user they become whole numbers of copies.
    """
    if name not in METRICS:
        copies = (np.repeat(np.arange(len(labels)), each.astype(np.int64)) for each in weights + 1e-9)
        return np.array([_score_rows(task, predictions, labels, rows) for rows in copies])
    positive = range(len(task.classes))[-1:] if len(task.classes) == 2 else range(len(task.classes))
    parts = np.array_split(weights, -(-weights.size // BLOCK))
    found = [[rank_scores(labels == k, predictions[:, k], each)[name] for each in parts] for k in positive]
    return macro_f1(np.array([np.concatenate(each) for each in found]).T)


def _score_rows(task: Task, predictions: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    """Return the score of the user's function for some rows; NaN if it fails without a label that they lack."""
    try:
        return load_metric(task.metric)(labels[rows], _for_user(task, predictions[rows]))
    except UserError:
        if np.array_equal(np.unique(labels[rows]), np.unique(labels)):
            raise
        return float("nan")


def rank_scores(true: np.ndarray, values: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return auc and average_precision of values `(N,)` against `true (N,) bool`, for R weightings `(R, N)` of them.

    Each is `(R,)`, and NaN where all or none are true.
    """
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # the last of equal values
    weights = weights[:, order]
    chosen, right = (np.cumsum(each, axis=1)[:, ends] for each in (weights, weights * true[order]))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, false = right / right[:, -1:], (chosen - right) / (chosen - right)[:, -1:]
        gained, precision = np.diff(recall, axis=1, prepend=0), right / np.where(chosen > 0, chosen, 1)
        areas = np.diff(false, axis=1, prepend=0) * (recall - gained / 2)
        both = np.isfinite(recall[:, -1]) & np.isfinite(false[:, -1])
    found = {"auc": areas, "average_precision": gained * precision}
    return {name: np.where(both, each.sum(axis=1), np.nan) for name, each in found.items()}


@cache
def load_metric(spec: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the function `spec`, FILE.py:FUNCTION, of labels `(N,)` and probabilities `(N, C)` or numbers `(N,)`.

    A higher value must be better. What it raises becomes a UserError.
    """
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise UserError(f"--metric must be the name of a score, or FILE.py:FUNCTION. Got '{spec}'.")
    if name in (*METRICS, *COLUMNS, *FIELDS):
        raise UserError(f"--metric {spec}: the toolkit has a score or a column of this name. Rename the function.")
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}. Pass --metric FILE.py:FUNCTION with an existing one.")
    try:
        function = run_path(path).get(name)
    except (Exception, SystemExit) as error:  # whatever the file of the user raises
        raise UserError(f"{path} cannot be imported ({_name_error(error)}). Correct it.") from error
    if not callable(function):
        raise UserError(f"{path} has no function {name}. Pass --metric FILE.py:FUNCTION with one that it has.")

    def checked(labels: np.ndarray, predictions: np.ndarray) -> float:
        try:
            return float(function(labels, predictions))
        except (Exception, SystemExit) as error:
            raise UserError(f"{name} of {path} failed ({_name_error(error)}). Correct it.") from error

    return checked


def try_metric(task: Task, labels: np.ndarray) -> None:
    """Compute the metric of a task, if it is not the default, for labels `(N,)` and random predictions.

    Raises:
        UserError: it fails, or is not finite, as AUC of a single class.
    """
    if not task.metric:
        return
    if ":" in task.metric:
        load_metric(task.metric)
    if task.monitor in task.classes:
        raise UserError(f"--metric {task.metric} has the name of a class. Rename the function.")
    rng = np.random.default_rng(0)
    predictions = rng.dirichlet(np.ones(task.outputs), len(labels))
    if task.regression:
        predictions = rng.permutation(labels)[:, None].astype(np.float64)
    value = score_one(task, task.monitor, predictions, labels)
    if not np.isfinite(value):
        raise UserError(
            f"--metric {task.metric} is {value} for random predictions of {len(labels)} validation images. Pass "
            "another one, or validate images of every class in each fold."
        )


def _for_user(task: Task, predictions: np.ndarray) -> np.ndarray:
    return predictions[:, 0] if task.regression else predictions


def _name_error(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


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
    if "macro_f1" not in task.scores:
        return f"Classes in reports are ranges of {task.title}."
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
