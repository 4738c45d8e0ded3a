"""Select an ensemble from out-of-fold predictions: mixing, greedy selection and calibration.

A selection scores too high on the predictions that it was made from. So everything here is also scored on people that
took no part in it (`cross_select`). No network and no image is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from analysis.intervals import Estimate, Sums, draw_resamples, estimate_differences, estimate_scores, sum_predictions
from analysis.metrics import fit_temperature, score_one, tempered
from data.label_math import SMALLEST
from data.tasks import Task, find_metric

MEANS = ("arithmetic", "geometric")
PICKS = 30  # of the greedy selection
GROUPS = 10  # of people, see `cross_select`
OFFSETS = np.array(sorted(np.linspace(-2, 2, 41).round(1), key=abs))  # the smallest first: it wins among equals
SWEEPS = 2  # over the classes, when offsets are fitted
Rows = np.ndarray | slice
Mix = Callable[[Rows], np.ndarray]  # returns `(n, C)` predictions for some rows


@dataclass(frozen=True)
class Measurement:
    """The scores of some predictions, the monitored one among them, and the sums that they are computed from."""

    scores: dict[str, Estimate]
    value: Estimate
    sums: Sums


class Scorer:
    """Scores predictions against labels `(N,)`, classes or years, of images of people `(N,)`.

    The seed is that of the resamples of the people and of their groups.
    """

    def __init__(self, task: Task, labels: np.ndarray, people: np.ndarray, *, seed: int) -> None:
        self.task, self.labels, self.seed = task, labels, seed
        names, self.people = np.unique(people, return_inverse=True)
        self.count = len(names)  # of the people
        self.draws = draw_resamples([self.count], seed=seed)
        self.groups = (np.random.default_rng(seed).permutation(len(names)) % GROUPS)[self.people]
        self.sign = 1 if task.higher_is_better else -1

    def goodness(self, predictions: np.ndarray, rows: Rows = slice(None)) -> float:
        """Return the monitored score of `(n, C)` predictions for some rows, negated if lower is better."""
        value = score_one(self.task, self.task.monitor, predictions, self.labels[rows])
        return self.sign * value if np.isfinite(value) else -np.inf

    def measure(self, predictions: np.ndarray) -> Measurement:
        """Return the scores of `(N, C)` predictions for all rows, with intervals."""
        sums = sum_predictions(self.task, [(predictions, self.labels, self.people)], self.draws)
        scores = estimate_scores(self.task, sums)
        return Measurement(scores, scores[self.task.monitor], sums)

    def gain(self, first: Measurement, second: Measurement) -> Estimate:
        """Return how much better the first is, with a 95 % interval over the same resamples of the people."""
        worse, better = (second, first) if self.sign > 0 else (first, second)
        return estimate_differences(self.task, worse.sums, better.sums)[self.task.monitor]


class Library:
    """The candidates of a selection, to be mixed by one of MEANS.

    The predictions of each are `(S, N, C)`, from the S of its members that predict each row.
    """

    def __init__(self, predictions: Sequence[np.ndarray], mean: str, *, years: bool) -> None:
        self.mean, self.years = mean, years
        floor = 1.0 if years else SMALLEST  # as in `voting.geometric_mean`
        values = (each.astype(np.float64) for each in predictions)
        scaled = (np.log(each.clip(floor)) if mean == "geometric" else each for each in values)
        self.values = np.stack([each.mean(axis=0) for each in scaled])  # (U, N, C)

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Return the probabilities or years of a weighted sum of `values`."""
        if self.mean == "arithmetic":
            return values
        return np.exp(values) if self.years else softmax(values, axis=-1)

    def mix(self, weights: np.ndarray, rows: Rows = slice(None)) -> np.ndarray:
        """Return the mean of all candidates, `(n, C)`, with weights `(U,)`."""
        return self.finish(np.tensordot(weights / weights.sum(), self.values[:, rows], axes=1))


def select_greedily(library: Library, scorer: Scorer, rows: Rows = slice(None)) -> np.ndarray:
    """Return how often greedy selection with replacement picks each candidate, `(U,) int64`.

    Each pick is the candidate that helps most. The result is the prefix of the picks that scores best, of equals the
    shortest (Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble selection from libraries of models", doi
    10.1145/1015330.1015432).
    """
    values = library.values[:, rows]
    total, counts, best, chosen = 0.0, np.zeros(len(values), np.int64), -np.inf, np.eye(len(values), dtype=np.int64)[0]
    for number in range(1, PICKS + 1):
        scores = [scorer.goodness(library.finish((total + each) / number), rows) for each in values]
        pick = int(np.argmax(scores))
        total = total + values[pick]
        counts[pick] += 1
        if scores[pick] > best:
            best, chosen = scores[pick], counts.copy()
    return chosen


def select_best(weights: np.ndarray, library: Library, scorer: Scorer, rows: Rows = slice(None)) -> np.ndarray:
    """Return the row of `weights (W, U)` that scores best, of equals the first."""
    return weights[np.argmax([scorer.goodness(library.mix(each, rows), rows) for each in weights])]


def cross_select(choose: Callable[[Rows], Mix], groups: np.ndarray) -> np.ndarray:
    """Return `(N, C)` predictions for each group of people by what was chosen on all other groups.

    `choose` gets the rows to choose by, and returns a function that predicts other rows; `groups (N,)` are those of the
    rows.
    """
    parts = [(np.flatnonzero(groups == group), np.flatnonzero(groups != group)) for group in np.unique(groups)]
    found = [choose(others)(rows) for rows, others in parts]
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return np.concatenate(found)[order]


def fit_offsets(probabilities: np.ndarray, scorer: Scorer, rows: Rows = slice(None)) -> np.ndarray:
    """Return offsets `(C,)` of the log probabilities of some rows that raise the score, fitted class by class."""
    logits = np.log(probabilities.clip(SMALLEST))
    hard = find_metric(scorer.task.monitor).of_classes  # which needs no probabilities
    offsets = np.zeros(logits.shape[1])
    for number in list(range(len(offsets))) * SWEEPS:
        tried = np.tile(offsets, (len(OFFSETS), 1))
        tried[:, number] = OFFSETS
        moved = (logits + each if hard else softmax(logits + each, axis=1) for each in tried)
        offsets = tried[np.argmax([scorer.goodness(each, rows) for each in moved])]
    return offsets


def fit_calibration(
    probabilities: np.ndarray, scorer: Scorer, rows: Rows, *, temper: bool, move: bool
) -> tuple[float, np.ndarray]:
    """Return the temperature (1 without `temper`) and the offsets (0 without `move`) that fit some rows."""
    temperature = fit_temperature(probabilities, scorer.labels[rows]) if temper else 1.0
    if not move:
        return temperature, np.zeros(probabilities.shape[1])
    return temperature, fit_offsets(tempered(probabilities, temperature, 0.0), scorer, rows)
