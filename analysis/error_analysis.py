"""Analyse errors of out-of-fold predictions: by class, attribute, confidence and age, and single mistakes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.intervals import binomial_interval
from analysis.metrics import class_counts, class_f1, confusion_counts
from data.label_math import class_numbers, decode_classes, encode_classes, marginals, predicted_classes
from data.tasks import Task

BINS = 10  # of a reliability table
YEARS = 5  # width of a bin of true ages; the bounds 30 and 60 begin one


@dataclass(frozen=True)
class Predictions:
    """Predictions of one task for N images."""

    task: Task  # names the classes
    labels: np.ndarray  # (N,) int64, true classes
    predicted: np.ndarray  # (N,) int64
    probabilities: np.ndarray | None = None  # (N, C); None for ranges of predicted numbers

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.task.classes

    @property
    def wrong(self) -> np.ndarray:
        """Whether each prediction is wrong, `(N,) bool`."""
        return self.predicted != self.labels


def split_predictions(task: Task, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Predictions]:
    """Return the predictions of a run for its task, then for the tasks that follow from it, by name.

    Classes that are combinations of attributes imply these: the probability of an attribute is the sum over the classes
    that have it. Numbers imply their range. `labels` and `probabilities` are those of `labels_and_predictions`.
    """
    classes, predicted = class_numbers(task, labels), predicted_classes(task, probabilities)
    whole = Predictions(task.class_task, classes, predicted, None if task.regression else probabilities)
    found = {whole.task.name: whole}
    if task.parts:
        true, shares = decode_classes(task, labels), marginals(task, probabilities)
        for part in task.parts:
            own = shares[part.name]
            found[part.name] = Predictions(part, true[part.name], own.argmax(axis=1), own)
    return found


def confusion(predictions: Predictions) -> np.ndarray:
    """Return the confusion matrix, `(C, C) int64`; rows are labels, columns predictions."""
    return confusion_counts(predictions.labels, predictions.predicted, len(predictions.classes))


def class_scores(predictions: Predictions) -> pd.DataFrame:
    """Return class, precision, recall, f1 and count (images) of each class; undefined precision and recall are 0."""
    counts = class_counts(confusion(predictions))
    correct, predicted, true = counts
    scores = {"precision": correct / np.maximum(predicted, 1), "recall": correct / np.maximum(true, 1)}
    return pd.DataFrame({"class": predictions.classes, **scores, "f1": class_f1(counts), "count": true})


def attribute_costs(predictions: Predictions) -> pd.DataFrame:
    """Return the loss of macro F1 that the errors of each attribute of a task cause.

    Returns:
        A row for each attribute: attribute, macro_f1 (of all), if_right (macro F1 with the attribute corrected in all
        predictions), and cost, the difference.
    """
    task = predictions.task
    true, predicted = (decode_classes(task, each) for each in (predictions.labels, predictions.predicted))
    macro_f1 = float(class_scores(predictions)["f1"].mean())
    rows = []
    for part in task.parts:
        corrected = encode_classes(task, {**predicted, part.name: true[part.name]})
        score = float(class_scores(Predictions(task, predictions.labels, corrected))["f1"].mean())
        rows.append({"attribute": part.title, "macro_f1": macro_f1, "if_right": score, "cost": score - macro_f1})
    return pd.DataFrame(rows)


def reliability(predictions: Predictions, bins: int = BINS) -> pd.DataFrame:
    """Return confidence and accuracy in bins of equal count (Guo et al. 2017, arXiv 1706.04599).

    Returns:
        A row for each bin, the least confident first: confidence (its mean), accuracy and count. Images of equal
        confidence share a bin, so there may be fewer bins.
    """
    confidence = predictions.probabilities.max(axis=1)
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
    number = np.searchsorted(edges[1:-1], confidence, side="right")
    table = pd.DataFrame({"bin": number, "confidence": confidence, "right": ~predictions.wrong})
    columns = {"confidence": ("confidence", "mean"), "accuracy": ("right", "mean"), "count": ("right", "size")}
    return table.groupby("bin").agg(**columns).reset_index(drop=True)


def calibration_error(table: pd.DataFrame) -> float:
    """Return the expected calibration error of a reliability table, a fraction of 1.

    Naeini, Cooper and Hauskrecht 2015, doi 10.1609/aaai.v29i1.9602.
    """
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["count"]))


def errors_by_age(predictions: Mapping[str, Predictions], ages: np.ndarray, people: Sequence[str]) -> pd.DataFrame:
    """Return the share of wrong predictions over the true ages `(N,)` in years, for each task.

    Returns:
        A row for each task and bin of YEARS years with people: task, age (the middle of the bin), wrong (mean over
        people of their share of wrong images), and low and high, its 95 % interval over people.
    """
    rows = []
    for task, each in predictions.items():
        for age, found in _by_age(ages, people, each.wrong):
            shares = found.groupby("person")["value"].mean()
            low, high = binomial_interval(shares.mean(), len(shares))
            rows.append({"task": task, "age": age, "wrong": shares.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def year_errors(oof: pd.DataFrame) -> pd.DataFrame:
    """Return the errors of predicted years over the true age, from oof.csv.

    Returns:
        A row for each bin of YEARS years with people: age (the middle of the bin), mean_error (years, positive if the
        predictions are too high) and mae (years).
    """
    return pd.DataFrame(
        {"age": age, "mean_error": found["value"].mean(), "mae": found["value"].abs().mean()}
        for age, found in _by_age(oof["label"], oof["person"], oof["p0"] - oof["label"])
    )


def _by_age(ages: np.ndarray, people: Sequence[str], values: np.ndarray) -> Iterable[tuple[float, pd.DataFrame]]:
    """Return the middle of each bin of ages, and its rows with the columns person and value."""
    middle = np.asarray(ages) // YEARS * YEARS + YEARS / 2
    return pd.DataFrame({"person": people, "value": values}).groupby(middle)


def confident_mistakes(predictions: Predictions, oof: pd.DataFrame) -> pd.DataFrame:
    """Return the wrong predictions of the images in oof.csv, one per person and pair of classes.

    Returns:
        ImageID (of the most confident image), person, label and pred (class numbers), confidence, and images, the
        number of the person's images with this mistake; the most confident first.
    """
    table = oof[["ImageID", "person"]].assign(
        label=predictions.labels, pred=predictions.predicted, confidence=predictions.probabilities.max(axis=1)
    )
    return _first_of_each(table[predictions.wrong], ["person", "label", "pred"], "confidence")


def largest_errors(oof: pd.DataFrame) -> pd.DataFrame:
    """Return the largest error of predicted years of each person in oof.csv, the largest first.

    Returns:
        ImageID, person, label and pred (years), and error (absolute, in years).
    """
    error = (oof["p0"] - oof["label"]).abs()
    return _first_of_each(oof[["ImageID", "person", "label"]].assign(pred=oof["p0"], error=error), ["person"], "error")


def _first_of_each(table: pd.DataFrame, columns: list[str], by: str) -> pd.DataFrame:
    """Return the row of each group with the highest `by`, the highest first, and the size of the group."""
    ranked = table.assign(images=table.groupby(columns)[by].transform("size"))
    ranked = ranked.sort_values([by, "ImageID"], ascending=[False, True], kind="stable")
    return ranked.drop_duplicates(columns).reset_index(drop=True)
