"""Choosing an ensemble by its out-of-fold answers: mixing, greedy selection, calibration, and what they are worth.

Whatever is chosen by answers is flattered by the same answers, so everything here is scored nested as well: chosen on
some people and scored on others (`nested`). No network and no photograph is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.intervals import Estimate, Sums, differences, estimates, person_tallies, resampled, scores_of, sums_of
from analysis.metrics import confusion_counts, fit_temperature, tempered
from data.label_math import SMALLEST, age_group_shares, join_probabilities
from data.tasks import ATTRIBUTES, TASKS

MEANS = ("arithmetic", "geometric")
PICKS = 30  # of the greedy selection
GROUPS = 10  # of people, for what is scored nested
OFFSETS = np.array(sorted(np.linspace(-2, 2, 41).round(1), key=abs))  # of equals the first is taken, the smallest
SWEEPS = 2  # of the coordinate ascent over the classes
Rows = np.ndarray | slice
Mix = Callable[[Rows], np.ndarray]  # `(N, C)` answers on some of the photographs
# ------------------------------------------------------------------------------------------------ what is right


@dataclass(frozen=True)
class Measured:
    """The scores of some answers with their intervals, the monitored one of them, and what they are computed from."""

    scores: dict[str, Estimate]
    value: Estimate
    sums: Sums


class Truth:
    """What answers on photographs are held against.

    Args:
        task: one of TASKS. labels: `(N,)` classes, or ages in years. people: `(N,)` who is on each.
        seed: of the resamples of the people and of their groups.
    """

    def __init__(self, task: str, labels: np.ndarray, people: np.ndarray, *, seed: int) -> None:
        self.task, self.record, self.labels = task, TASKS[task], labels
        names, self.people = np.unique(people, return_inverse=True)
        self.draws = resampled([len(names)], seed=seed)
        self.groups = (np.random.default_rng(seed).permutation(len(names)) % GROUPS)[self.people]
        self.sign = 1 if self.record.higher_is_better else -1

    def goodness(self, answers: np.ndarray, rows: Rows = slice(None)) -> float:
        """The monitored score of `(n, C)` answers on some of the photographs, turned so that higher is better."""
        labels = self.labels[rows]
        if self.record.regression:
            return -float(np.sqrt(np.mean((answers[:, 0] - labels) ** 2)))
        table = confusion_counts(labels, answers.argmax(axis=1), len(self.record.classes))
        sums = np.concatenate([table.diagonal(), table.sum(axis=0), table.sum(axis=1)])
        return float(scores_of(self.task, sums)[self.record.monitor])

    def measure(self, answers: np.ndarray) -> Measured:
        """What `(N, C)` answers on all photographs score."""
        sums = sums_of([person_tallies(self.task, answers, self.labels, self.people)], self.draws)
        scores = estimates(self.task, sums)
        return Measured(scores, scores[self.record.monitor], sums)

    def gain(self, first: Measured, second: Measured) -> Estimate:
        """By how much the first is better, with an interval of 95 % over the same resamples of the people."""
        worse, better = (second, first) if self.sign > 0 else (first, second)
        return differences(self.task, worse.sums, better.sums)[self.record.monitor]


# ------------------------------------------------------------------------------------------------ mixing and selection


class Library:
    """The kinds of members that may be picked, each by what it answers out of fold.

    Args:
        answers: of each kind `(S, N, C)` from its S members that answer every photograph. mean: one of MEANS.
        years: whether the answers are years.
    """

    def __init__(self, answers: Sequence[np.ndarray], mean: str, *, years: bool) -> None:
        self.mean, self.years = mean, years
        floor = 1.0 if years else SMALLEST  # as `voting.geometric_mean`
        values = (each.astype(np.float64) for each in answers)
        scaled = (np.log(each.clip(floor)) if mean == "geometric" else each for each in values)
        self.values = np.stack([each.mean(axis=0) for each in scaled])  # (U, N, C)

    def finished(self, values: np.ndarray) -> np.ndarray:
        """Probabilities, or years, of what `values` add up to."""
        if self.mean == "arithmetic":
            return values
        values = np.exp(values)
        return values if self.years else values / values.sum(axis=-1, keepdims=True)

    def mix(self, weights: np.ndarray, rows: Rows = slice(None)) -> np.ndarray:
        """`(n, C)`, the mean of all kinds with weights `(U,)`."""
        return self.finished(np.tensordot(weights / weights.sum(), self.values[:, rows], axes=1))


def greedy(library: Library, truth: Truth, rows: Rows = slice(None), *, picks: int = PICKS) -> np.ndarray:
    """How often each kind is picked, `(U,) int64`: one after another, with replacement, whatever helps most.

    Of all prefixes of the picks it is the best one, of equals the shortest. Ensemble selection from libraries of models
    (Caruana, Niculescu-Mizil, Crew and Ksikes 2004, doi 10.1145/1015330.1015432).
    """
    values = library.values[:, rows]
    total, counts, best, chosen = 0.0, np.zeros(len(values), np.int64), -np.inf, np.eye(len(values), dtype=np.int64)[0]
    for number in range(1, picks + 1):
        scores = [truth.goodness(library.finished((total + each) / number), rows) for each in values]
        pick = int(np.argmax(scores))
        total = total + values[pick]
        counts[pick] += 1
        if scores[pick] > best:
            best, chosen = scores[pick], counts.copy()
    return chosen


def best_of(candidates: np.ndarray, library: Library, truth: Truth, rows: Rows = slice(None)) -> np.ndarray:
    """The weights `(U,)` of `candidates (W, U)` that score best, of equals the first."""
    return candidates[np.argmax([truth.goodness(library.mix(weights, rows), rows) for weights in candidates])]


def nested(choose: Callable[[Rows], Mix], groups: np.ndarray) -> np.ndarray:
    """`(N, C)` answers on the people of each group, as chosen on the people of all others.

    Args:
        choose: gets the rows to choose by, and returns what answers other rows. groups: `(N,)`, that of each row.
    """
    parts = [(np.flatnonzero(groups == group), np.flatnonzero(groups != group)) for group in np.unique(groups)]
    found = [(rows, choose(others)(rows)) for rows, others in parts]
    answers = np.empty((len(groups), found[0][1].shape[1]))
    for rows, part in found:
        answers[rows] = part
    return answers


# ------------------------------------------------------------------------------------------------ calibration


def fit_offsets(probabilities: np.ndarray, truth: Truth, rows: Rows = slice(None)) -> np.ndarray:
    """Offsets `(C,)` of the log probabilities of some rows that raise the monitored score, one class after another."""
    logits = np.log(probabilities.clip(SMALLEST))
    offsets = np.zeros(logits.shape[1])
    for number in list(range(len(offsets))) * SWEEPS:
        tried = np.tile(offsets, (len(OFFSETS), 1))
        tried[:, number] = OFFSETS
        offsets = tried[np.argmax([truth.goodness(logits + each, rows) for each in tried])]
    return offsets


def fit_calibration(
    probabilities: np.ndarray, truth: Truth, rows: Rows, *, temper: bool, move: bool
) -> tuple[float, np.ndarray]:
    """The temperature (1 unless it is to `temper`) and the offsets (0 unless to `move`) of answers on some rows."""
    temperature = fit_temperature(probabilities, truth.labels[rows]) if temper else 1.0
    if not move:
        return temperature, np.zeros(probabilities.shape[1])
    return temperature, fit_offsets(tempered(probabilities, temperature, 0.0), truth, rows)


# ------------------------------------------------------------------------------------------------ several tasks


def joint_part(task: str, answers: np.ndarray, rmse: float | None = None) -> tuple[str, np.ndarray]:
    """What answers of a task, `(N, C)`, say for the 18 classes: of "main" or an attribute, with probabilities.

    Years become shares of the age groups, as likely as years that are `rmse` off make them.
    """
    shares = age_group_shares(answers[:, 0], rmse) if TASKS[task].regression else answers
    return TASKS[task].class_task, shares


def joint_answers(parts: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """`(N, 18)` from parts of `joint_part`: the mean of those of each task, joined by `metrics.join_probabilities`."""
    means = {task: np.mean([each for name, each in parts if name == task], axis=0) for task, _ in parts}
    return join_probabilities(means.pop("main", None), means)


def is_enough(tasks: Iterable[str]) -> bool:
    """Whether members of these tasks answer main together: one of main does, or those of all attributes."""
    told = {TASKS[task].class_task for task in tasks}
    return "main" in told or told >= set(ATTRIBUTES)
