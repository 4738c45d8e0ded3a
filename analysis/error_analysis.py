"""Where a model fails: scores by class, confusions, what each attribute costs, calibration, age, confident mistakes.

All of it is counted on the answers of an out-of-fold table (oof.csv), as arrays; torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.intervals import binomial_interval
from analysis.metrics import confusion_counts
from data.label_math import age_group, decode_classes, encode_classes, marginals, predicted_class
from data.tasks import ATTRIBUTES, TASKS

BINS = 10  # of a reliability table
YEARS = 5  # width of a bin of true ages; 30 and 60, where the age groups part, begin one


@dataclass(frozen=True)
class Answers:
    """The answers to one question about N photographs: `task` tells which, and names its classes.

    `labels` and `predicted` are `(N,) int64` class numbers. `probabilities` are `(N, C)`, or None where age groups are
    those of predicted years.
    """

    task: str
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return TASKS[self.task].classes

    @property
    def wrong(self) -> np.ndarray:
        """Which photographs were answered wrongly, `(N,) bool`."""
        return self.predicted != self.labels


def answers_of(task: str, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Answers]:
    """The answers of a run to each question that its task holds, by the task that asks it, the whole one first.

    The 18 classes of main also answer mask, gender and ageg: the probability of an attribute is the sum over the
    classes that have it. Years answer the age group they lie in.

    Args:
        task: one of TASKS.
        labels: `(N,)` true classes, or ages in years.
        probabilities: `(N, C)` class probabilities, or `(N, 1)` years for age.
    """
    if TASKS[task].regression:
        return {"ageg": Answers("ageg", age_group(labels), predicted_class(task, probabilities))}
    parts = {task: (labels, probabilities)}
    if task == "main":
        true, told = decode_classes(labels), marginals(probabilities)
        parts |= {name: (true[name], told[name]) for name in ATTRIBUTES}
    return {name: Answers(name, true, told.argmax(axis=1), told) for name, (true, told) in parts.items()}


# ------------------------------------------------------------------------------------------------ classes


def confusion(answers: Answers) -> np.ndarray:
    """How often each class (row) was taken for each (column), `(C, C) int64`."""
    return confusion_counts(answers.labels, answers.predicted, len(answers.classes))


def class_scores(answers: Answers) -> pd.DataFrame:
    """Precision, recall and F1 of each class, and how many photographs are of it.

    A class that was never answered has precision 0, one without a photograph recall 0, as in the scores of a run.
    """
    counts = confusion(answers)
    right, said, true = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    return pd.DataFrame(
        {
            "class": answers.classes,
            "precision": right / np.maximum(said, 1),
            "recall": right / np.maximum(true, 1),
            "f1": 2 * right / np.maximum(said + true, 1),
            "count": true,
        }
    )


def attribute_costs(answers: Answers) -> pd.DataFrame:
    """What each attribute of the 18 classes costs: macro F1 as it is, and if that attribute were always right.

    Args:
        answers: those of task main.

    Returns:
        A row for each attribute: attribute, macro_f1 (the same in all rows), if_right (of the predicted classes with
        the attribute put right), and cost, the difference.
    """
    true, said = decode_classes(answers.labels), decode_classes(answers.predicted)
    real = float(class_scores(answers)["f1"].mean())
    rows = []
    for name in ATTRIBUTES:
        put_right = Answers(answers.task, answers.labels, encode_classes({**said, name: true[name]}))
        score = float(class_scores(put_right)["f1"].mean())
        rows.append({"attribute": name, "macro_f1": real, "if_right": score, "cost": score - real})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------ calibration


def reliability(answers: Answers, bins: int = BINS) -> pd.DataFrame:
    """Confidence against accuracy, in bins of equal count (Guo et al. 2017, arXiv 1706.04599).

    Returns:
        A row for each bin, the least confident first: low and high (confidence), confidence (its mean), accuracy and
        count. Photographs of the same confidence are in one bin, so that bins may be fewer or unequal.
    """
    confidence = answers.probabilities.max(axis=1)
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
    number = np.searchsorted(edges[1:-1], confidence, side="right")
    table = pd.DataFrame({"bin": number, "confidence": confidence, "right": ~answers.wrong})
    return (
        table.groupby("bin")
        .agg(
            low=("confidence", "min"),
            high=("confidence", "max"),
            confidence=("confidence", "mean"),
            accuracy=("right", "mean"),
            count=("right", "size"),
        )
        .reset_index(drop=True)
    )


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error of a reliability table: the mean distance of confidence from accuracy, a fraction of 1
    (Naeini, Cooper and Hauskrecht 2015, doi 10.1609/aaai.v29i1.9602)."""
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["count"]))


# ------------------------------------------------------------------------------------------------ age


def errors_by_age(answers: Mapping[str, Answers], ages: np.ndarray, people: np.ndarray) -> pd.DataFrame:
    """The share of wrong answers over the true age, for each question.

    Args:
        answers: from `answers_of`. ages: `(N,)` true ages in years. people: `(N,)` whose photograph each is.

    Returns:
        A row for each question and bin of YEARS years that holds somebody: task, low_age and high_age (years, both
        included), people, images, wrong (the mean over people of the share of their photographs), and low and high,
        its interval of 95 % as if each person were one answer: the photographs of a person are right or wrong together.
    """
    rows = []
    for task, each in answers.items():
        for place, found in _by_age(ages, people, each.wrong):
            share, count = found.groupby("person")["value"].mean().mean(), place["people"]
            low, high = binomial_interval(share, count)
            rows.append({"task": task, **place, "wrong": share, "low": low, "high": high})
    return pd.DataFrame(rows)


def year_errors(labels: np.ndarray, years: np.ndarray, people: np.ndarray) -> pd.DataFrame:
    """The error of predicted years over the true age.

    Returns:
        A row for each bin of YEARS years that holds somebody: low_age, high_age, people, images, mean_error (years,
        positive where people are taken for older than they are) and mae (years).
    """
    return pd.DataFrame(
        {**place, "mean_error": found["value"].mean(), "mae": found["value"].abs().mean()}
        for place, found in _by_age(labels, people, years - labels)
    )


def _by_age(ages: np.ndarray, people: np.ndarray, values: np.ndarray) -> list[tuple[dict[str, int], pd.DataFrame]]:
    table = pd.DataFrame({"bin": np.asarray(ages) // YEARS, "person": people, "value": values})
    found = []
    for number, rows in table.groupby("bin"):
        low = int(number) * YEARS
        place = {"low_age": low, "high_age": low + YEARS - 1, "people": rows["person"].nunique(), "images": len(rows)}
        found.append((place, rows))
    return found


# ------------------------------------------------------------------------------------------------ single mistakes


def confident_mistakes(answers: Answers, images: Sequence[str], people: Sequence[str]) -> pd.DataFrame:
    """The wrong answers, one for each person and pair of true and predicted class, the most confident first.

    Args:
        answers: with probabilities. images: `(N,)` names of the photographs. people: `(N,)` whose they are.

    Returns:
        ImageID (of the most confident photograph), person, label and pred (class numbers), confidence, and images, how
        many photographs of the person are taken so.
    """
    table = pd.DataFrame(
        {
            "ImageID": images,
            "person": people,
            "label": answers.labels,
            "pred": answers.predicted,
            "confidence": answers.probabilities.max(axis=1),
        }
    )[answers.wrong]
    return _first_of_each(table, ["person", "label", "pred"], "confidence")


def largest_errors(labels: np.ndarray, years: np.ndarray, images: Sequence[str], people: Sequence[str]) -> pd.DataFrame:
    """Predicted years that lie furthest off, one for each person, the furthest first.

    Returns:
        ImageID, person, label and pred (years), error (years, without sign), and images, how many there are of the
        person.
    """
    table = pd.DataFrame(
        {"ImageID": images, "person": people, "label": labels, "pred": years, "error": np.abs(years - labels)}
    )
    return _first_of_each(table, ["person"], "error")


def _first_of_each(table: pd.DataFrame, columns: list[str], by: str) -> pd.DataFrame:
    """The row of each group that is highest in `by`, the highest first, and how many the group has."""
    ranked = table.assign(images=table.groupby(columns)[by].transform("size"))
    ranked = ranked.sort_values([by, "ImageID"], ascending=[False, True], kind="stable")
    return ranked.drop_duplicates(columns).reset_index(drop=True)
