"""Combining the members of an ensemble: three means and the vote."""

from __future__ import annotations

import numpy as np

from data.label_math import SMALLEST


def arithmetic_mean(members: np.ndarray) -> np.ndarray:
    """The mean over members: `(M, N, C)` to `(N, C)`."""
    return members.mean(axis=0)


def geometric_mean(members: np.ndarray, *, years: bool = False, weights: np.ndarray | None = None) -> np.ndarray:
    """The geometric mean over members, with weights `(M,)` if given, which need not sum to 1: `(M, N, C)` to `(N, C)`.

    Probabilities are scaled so that each row sums to 1. Years are not, and those below one count as one.
    """
    floor = 1.0 if years else SMALLEST
    mean = np.exp(np.average(np.log(np.clip(members.astype(np.float64), floor, None)), axis=0, weights=weights))
    return mean if years else mean / mean.sum(axis=1, keepdims=True)


def weighted_mean(members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over members with weights `(M,)`, or `(M, N)` for each row, which need not sum to 1: `(M, N, C)` to
    `(N, C)`."""
    if weights.ndim == 2:
        weights = np.broadcast_to(weights[:, :, None], members.shape)
    return np.average(members, axis=0, weights=weights)


def member_weights(scores: list[float | None], *, higher_is_better: bool) -> np.ndarray | None:
    """Weights `(M,)` that sum to 1, in proportion to the validation scores (to their inverse when lower is better).

    None when a member's score is not known or all are zero: there is nothing to weigh by.
    """
    if any(score is None or not np.isfinite(score) for score in scores):
        return None
    values = np.array(scores, dtype=np.float64)
    if not higher_is_better:
        values = 1 / np.maximum(values, SMALLEST)
    return values / values.sum() if values.sum() > 0 else None


def hard_vote(members: np.ndarray) -> np.ndarray:
    """The class most members chose, `(M, N, C)` to `(N,) int64`.

    A tie goes to the tied class with the larger mean probability, then to the lower class number.
    """
    count, classes = members.shape[0], members.shape[2]
    votes = np.eye(classes, dtype=np.int64)[members.argmax(axis=2)].sum(axis=0)  # (N, C)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, members.sum(axis=0) / count, -1.0).argmax(axis=1)
