"""What a score is worth: intervals by bootstrap over people, and the score corrected for having chosen the epochs.

People are the unit throughout: the photographs of a person are right or wrong together, so that they tell less than as
many people would. What a score is computed from is a sum over people (`person_tallies`), so that many resamples of
the people cost one product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metrics import age_groups
from tasks import TASKS

RESAMPLES = 2000
LEVEL = 0.95
FRACTIONS = ("macro_f1", "accuracy")  # the scores that cannot be higher than 1


@dataclass(frozen=True)
class Estimate:
    """A score and its interval of 95 %."""

    value: float
    low: float
    high: float


def person_tallies(task: str, probabilities: np.ndarray, labels: np.ndarray, people: np.ndarray) -> np.ndarray:
    """What the answers on each person's photographs add to the scores.

    Args:
        task: one of TASKS.
        probabilities: `(..., N, C)` class probabilities, or `(..., N, 1)` years for age.
        labels: `(N,)` true classes, or ages in years.
        people: `(N,) int64`, whose photograph each is, 0 to P - 1.

    Returns:
        `(..., P, T) float64`: for each class how often it was answered rightly, answered, and true; for age then the
        sums of errors in years, without sign, and of their squares. NaN where an answer of the person is not finite.
    """
    record = TASKS[task]
    count = len(record.classes)
    truth = labels
    answers = probabilities.argmax(axis=-1)
    more = []
    if record.regression:
        truth, answers = age_groups(labels), age_groups(probabilities[..., 0])
        error = probabilities[..., 0].astype(np.float64) - labels
        more = [np.abs(error), error**2]
    truth = np.broadcast_to(truth, answers.shape)
    classes = np.arange(count)
    said, true = answers[..., None] == classes, truth[..., None] == classes
    rows = np.concatenate([said & true, said, true, *(each[..., None] for each in more)], axis=-1).astype(np.float64)
    rows[~np.isfinite(probabilities).all(axis=-1)] = np.nan
    order = np.argsort(people, kind="stable")
    first = np.searchsorted(people[order], np.arange(people.max() + 1))
    return np.add.reduceat(rows[..., order, :], first, axis=-2)


def scores_of(task: str, sums: np.ndarray) -> dict[str, np.ndarray]:
    """The scores that tallies come to, summed over people: as `metrics.score`, for `(..., T)` of them `(...)` each."""
    record = TASKS[task]
    count = len(record.classes)
    images = sums[..., 2 * count : 3 * count].sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = {
            "macro_f1": class_f1(task, sums).mean(axis=-1),
            "accuracy": sums[..., :count].sum(axis=-1) / images,
        }
        if record.regression:
            scores |= {"mae": sums[..., -2] / images, "rmse": np.sqrt(sums[..., -1] / images)}
    return scores


def class_f1(task: str, sums: np.ndarray) -> np.ndarray:
    """F1 of each class, `(..., C)`, 0 where it is neither answered nor true."""
    count = len(TASKS[task].classes)
    right, said, true = (sums[..., i * count : (i + 1) * count] for i in range(3))
    return 2 * right / np.maximum(said + true, np.finfo(np.float64).tiny)


def resampled(sizes: Sequence[int], *, seed: int, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """How often each person is drawn when the people of each fold are drawn anew: `(resamples, P)` for each fold."""
    generator = np.random.default_rng(seed)
    return [generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64) for size in sizes]


def with_intervals(task: str, tallies: Sequence[np.ndarray], draws: Sequence[np.ndarray]) -> dict[str, Estimate]:
    """Every score over all people with its interval.

    Args:
        tallies: of each fold, `(P, T)`. draws: of each fold, from `resampled`.
    """
    sums = sum(each.sum(axis=0) for each in tallies)
    drawn = scores_of(task, sum(draw @ each for draw, each in zip(draws, tallies, strict=True)))
    return _estimates(scores_of(task, sums), drawn)


def corrected_for_selection(
    task: str, tallies: Sequence[np.ndarray], draws: Sequence[np.ndarray]
) -> dict[str, Estimate]:
    """Every score over all people of checkpoints that were chosen on these very people, without what that flatters.

    Bootstrap bias-corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018, doi
    10.1007/s10994-018-5714-4): the epoch of each fold is chosen anew on each resample of its people, and scored on
    those who were not drawn. Their tallies are added up over all resamples before the score is taken, since macro F1 of
    so few is lower by itself. The interval has the width of what the chosen epochs score on the resamples.

    Args:
        tallies: of each fold, `(E, P, T)` for its epochs. draws: of each fold, from `resampled`.
    """
    record = TASKS[task]
    size = tallies[0].shape[-1]
    outside, inside = np.zeros(size), np.zeros((len(draws[0]), size))
    for draw, each in zip(draws, tallies, strict=True):
        drawn = np.stack([scores_of(task, draw @ epoch)[record.monitor] for epoch in each], axis=-1)  # (resamples, E)
        chosen = _best(drawn, higher_is_better=record.higher_is_better)
        missed = draw == 0
        for epoch in np.unique(chosen):
            rows = chosen == epoch
            inside[rows] += draw[rows] @ each[epoch]
            outside += missed[rows].sum(axis=0) / np.maximum(missed.sum(axis=0), 1) @ each[epoch]
    return _estimates(scores_of(task, outside), scores_of(task, inside))


def _best(values: np.ndarray, *, higher_is_better: bool) -> np.ndarray:
    values = values if higher_is_better else -values
    return np.where(np.isfinite(values), values, -np.inf).argmax(axis=-1)


def _estimates(values: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """Intervals as wide as the scores of the resamples, `(resamples,)` each, spread.

    They are moved by what the resamples lie off in the mean: these miss people of scarce classes, which lowers macro
    F1.
    """
    found = {}
    for name, value in values.items():
        ends = np.quantile(drawn[name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + value - drawn[name].mean()
        low, high = np.clip(ends, 0, 1 if name in FRACTIONS else None)
        found[name] = Estimate(float(value), float(low), float(high))
    return found
