"""Combine the predictions of several members: two means and a vote."""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from data.label_math import SMALLEST


def geometric_mean(members: np.ndarray, *, years: bool = False, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the geometric mean over members, from `(M, N, C)` to `(N, C)`; weights are `(M,)`.

    The mean of probabilities is scaled to sum to 1 in each row. Of years, those below one count as one.
    """
    floor = 1.0 if years else SMALLEST
    mean = np.average(np.log(np.clip(members.astype(np.float64), floor, None)), axis=0, weights=weights)
    return np.exp(mean) if years else softmax(mean, axis=1)


def weighted_mean(members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean over members, from `(M, N, C)` to `(N, C)`.

    The weights are `(M,)`, or `(M, N)` for each row; they need not sum to 1.
    """
    if weights.ndim == 2:
        weights = np.broadcast_to(weights[:, :, None], members.shape)
    return np.average(members, axis=0, weights=weights)


def member_weights(scores: Sequence[float | None], *, higher_is_better: bool) -> np.ndarray | None:
    """Return weights `(M,)` in proportion to the validation scores, or to their inverse if lower is better.

    They sum to 1. Without a score for every member, or if all are zero, the result is None.
    """
    if any(score is None or not np.isfinite(score) for score in scores):
        return None
    values = np.array(scores, dtype=np.float64)
    values = values.clip(0) if higher_is_better else 1 / values.clip(SMALLEST)
    return values / values.sum() if values.sum() > 0 else None


def hard_vote(members: np.ndarray) -> np.ndarray:
    """Return the class that most members predict, from `(M, N, C)` to `(N,) int64`.

    Among tied classes the one with the larger mean probability wins, then the one with the lower number.
    """
    votes = np.eye(members.shape[2], dtype=np.int64)[members.argmax(axis=2)].sum(axis=0)  # (N, C)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, members.mean(axis=0), -1.0).argmax(axis=1)
