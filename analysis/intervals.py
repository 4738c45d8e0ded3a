"""What a score is worth: intervals by bootstrap over people, and the score corrected for having chosen the epochs.

People are the unit throughout: the photographs of a person are right or wrong together, so that they tell less than as
many people would. What a score is computed from is a sum over people (`tally_people`), so that many resamples of
the people cost one product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.metrics import class_f1
from data.label_math import age_group
from data.tasks import IN_YEARS, TASKS

RESAMPLES = 2000
LEVEL, Z = 0.95, 1.959964  # a normal variable lies between -Z and Z so often
BEST, LAST, CORRECTED = "best_epochs", "last_epochs", "corrected"  # what a run is scored by, see `sum_run`
NOT_CORRECTED = (
    "Not corrected for the choice of epochs: answers of some are missing, or a fold validates one person alone."
)
TITLES = {BEST: "best epochs", LAST: "last epochs", CORRECTED: "best, corrected"}


@dataclass(frozen=True)
class Estimate:
    """A score, or the difference of two, and its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text(4)

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, -self.high, -self.low)

    def text(self, digits: int) -> str:
        """The value and its interval, where there is one, to so many digits behind the point."""
        value, low, high = (f"{each:.{digits}f}" for each in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if self.low < self.high else value


@dataclass(frozen=True)
class Sums:
    """Tallies summed over people, of which a score and its interval are made.

    `value (T,)` is what the score is computed of, `told (T,)` the sum over all people as they answered, `without
    (P, T)` that without each of them, and `drawn (R, T)` the sum over each resample. Of answers that were not chosen
    by their score `value` and `told` are the same.
    """

    value: np.ndarray
    told: np.ndarray
    without: np.ndarray
    drawn: np.ndarray


def tally_people(task: str, probabilities: np.ndarray, labels: np.ndarray, people: np.ndarray) -> np.ndarray:
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
        truth, answers = age_group(labels), age_group(probabilities[..., 0])
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


def compute_scores(task: str, sums: np.ndarray) -> dict[str, np.ndarray]:
    """The scores that tallies come to, summed over people: as `metrics.score`, for `(..., T)` of them `(...)` each."""
    record = TASKS[task]
    count = len(record.classes)
    images = sums[..., 2 * count : 3 * count].sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = {
            "macro_f1": _class_f1(task, sums).mean(axis=-1),
            "accuracy": sums[..., :count].sum(axis=-1) / images,
        }
        if record.regression:
            scores |= {"mae": sums[..., -2] / images, "rmse": np.sqrt(sums[..., -1] / images)}
    return scores


def _parts(task: str, sums: Sums) -> list[dict[str, np.ndarray]]:
    """Of each part of sums the scores, and F1 of each class by the name of the class."""

    def named(part: np.ndarray) -> dict[str, np.ndarray]:
        return compute_scores(task, part) | dict(
            zip(TASKS[task].classes, np.moveaxis(_class_f1(task, part), -1, 0), strict=True)
        )

    return [named(part) for part in (sums.value, sums.told, sums.without, sums.drawn)]


def _class_f1(task: str, sums: np.ndarray) -> np.ndarray:
    count = len(TASKS[task].classes)
    return class_f1(sums[..., : 3 * count].reshape(*sums.shape[:-1], 3, count))


def draw_resamples(sizes: Sequence[int], *, seed: int, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """How much each person counts when the people of each fold are drawn anew: `(resamples, P)` for each fold.

    One person less is drawn than there are, and counts for more: as many as there are spread too little, the more so
    the fewer they are (Rao and Wu 1988, doi 10.1080/01621459.1988.10478591).
    """
    generator = np.random.default_rng(seed)
    draws = [(max(size - 1, 1), size) for size in sizes]
    return [generator.multinomial(n, np.full(size, 1 / size), size=resamples) * (size / n) for n, size in draws]


def sum_tallies(tallies: Sequence[np.ndarray], draws: Sequence[np.ndarray]) -> Sums:
    """Tallies `(P, T)` of each fold, summed; draws of each fold, from `draw_resamples`.

    Folds that validate the same people share one array of draws.
    """
    told = sum(each.sum(axis=0) for each in tallies)
    people: dict[int, np.ndarray] = {}
    for draw, each in zip(draws, tallies, strict=True):
        people[id(draw)] = people[id(draw)] + each if id(draw) in people else each
    drawn = sum(draw @ each for draw, each in zip(draws, tallies, strict=True))
    return Sums(told, told, told - np.concatenate([*people.values()]), drawn)


def correct_sums(task: str, tallies: Sequence[np.ndarray], draws: Sequence[np.ndarray]) -> Sums:
    """Tallies of checkpoints that were chosen on these very people, summed without what that flatters.

    Bootstrap bias-corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018, doi
    10.1007/s10994-018-5714-4): the epoch of each fold is chosen anew on each resample of its people, and scored on
    those who were not drawn. Their tallies are added up over all resamples before the score is taken, since macro F1 of
    so few is lower by itself. The interval is as wide as what the chosen epochs score on the resamples.

    Args:
        tallies: of each fold, `(E, P, T)` for its epochs. draws: of each fold, from `draw_resamples`.
    """
    record = TASKS[task]
    size = tallies[0].shape[-1]
    outside, inside, chosen_of_all = np.zeros(size), np.zeros((len(draws[0]), size)), []
    for draw, each in zip(draws, tallies, strict=True):
        whole = compute_scores(task, each.sum(axis=1))[record.monitor]
        chosen_of_all.append(each[_best(whole, higher_is_better=record.higher_is_better)])
        drawn = np.stack(
            [compute_scores(task, draw @ epoch)[record.monitor] for epoch in each], axis=-1
        )  # (resamples, E)
        chosen = _best(drawn, higher_is_better=record.higher_is_better)
        missed = draw == 0
        for epoch in np.unique(chosen):
            rows = chosen == epoch
            inside[rows] += draw[rows] @ each[epoch]
            outside += missed[rows].sum(axis=0) / np.maximum(missed.sum(axis=0), 1) @ each[epoch]
    plain = sum_tallies(chosen_of_all, draws)
    return Sums(outside, plain.told, plain.without, inside)


def estimate_scores(task: str, sums: Sums) -> dict[str, Estimate]:
    """Every score with its interval, and F1 of every class by the name of the class."""
    parts = _parts(task, sums)
    return {
        name: _estimate(*(part[name] for part in parts), least=0, most=np.inf if name in IN_YEARS else 1)
        for name in parts[0]
    }


def describe_difference(gain: Estimate) -> str:
    """'better by 0.0120 (0.0030 to 0.0210)', 'worse by ...', or 'not told apart' where the interval holds zero."""
    if gain.low > 0:
        return f"better by {gain}"
    if gain.high < 0:
        return f"worse by {-gain}"
    return f"not told apart, {gain}"


def estimate_differences(task: str, first: Sums, second: Sums) -> dict[str, Estimate]:
    """How much higher every score of the second is, of the same people in the same draws, with its interval."""
    one, other = _parts(task, first), _parts(task, second)
    found = {}
    for name in one[0]:
        most = np.inf if name in IN_YEARS else 1
        parts = [b[name] - a[name] for a, b in zip(one, other, strict=True)]
        each = _estimate(*parts, least=-most, most=most)
        # A difference that only the correction makes is none that an interval of no width makes sure of.
        found[name] = Estimate(
            each.value, float(np.minimum(each.low, parts[1])), float(np.maximum(each.high, parts[1]))
        )
    return found


@dataclass(frozen=True)
class FoldPredictions:
    """What a fold's networks answered of the people it validates.

    `labels (N,)` are the true classes or years and `people (N,)` whose photograph each is. `best (N, C)` is what the
    chosen epoch answered, `epochs (E, N, C)` what each one did, or None where that is not known.
    """

    labels: np.ndarray
    people: np.ndarray
    best: np.ndarray
    epochs: np.ndarray | None


def sum_run(task: str, folds: Iterable[FoldPredictions], *, seed: int = 0) -> dict[str, Sums]:
    """What a run is scored by: its best epochs as they stand, its last ones, and the best corrected for the choice.

    The last two are left out where answers of a fold's epochs are not known, and the correction where a fold validates
    one person alone. Two runs over the same people draw the same resamples.
    """
    best, epochs, validated = [], [], []
    for fold in folds:
        people, own = np.unique(fold.people, return_inverse=True)
        validated.append(tuple(people))
        best.append(tally_people(task, fold.best, fold.labels, own))
        epochs.append(None if fold.epochs is None else tally_people(task, fold.epochs, fold.labels, own))
    different = list(dict.fromkeys(validated))  # with a --valid-root all folds validate the same people
    drawn = dict(zip(different, draw_resamples([len(people) for people in different], seed=seed), strict=True))
    draws = [drawn[people] for people in validated]
    found = {BEST: sum_tallies(best, draws)}
    if all(each is not None for each in epochs):
        found[LAST] = sum_tallies([each[-1] for each in epochs], draws)
        if min(map(len, validated)) > 1:  # whoever is alone is drawn every time
            found[CORRECTED] = correct_sums(task, epochs, draws)
    return found


def _best(values: np.ndarray, *, higher_is_better: bool) -> np.ndarray:
    values = values if higher_is_better else -values
    return np.where(np.isfinite(values), values, -np.inf).argmax(axis=-1)


def _estimate(
    value: np.ndarray,
    told: np.ndarray,
    without: np.ndarray,
    drawn: np.ndarray,
    *,
    least: float,
    most: float,
) -> Estimate:
    """A value, its interval as wide as the scores of the resamples `(R,)` are spread, and made honest for few people.

    Macro F1 of few people is lower by itself, the resamples' more so: the interval lies around the value without that,
    as the jackknife finds it from the scores without each person `(P,)` (Efron and Tibshirani 1993, chapter 10). And
    how far the resamples spread is itself known only so well: as in Student's interval the quantile is that of t, whose
    degrees of freedom follow from the kurtosis of what each person changes (Satterthwaite's rule).
    """
    count = len(without)
    bias = (count - 1) * (without.mean() - told)
    changes = without - without.mean()
    spread = (changes**2).sum()
    wider = 1.0
    if spread > 0:
        kurtosis = count * (changes**4).sum() / spread**2
        wider = _student(min(2 * count / max(kurtosis - 1, 1e-9), count - 1)) / _student(np.inf)
        if np.ptp(drawn) == 0:  # one person in every fold, whom every resample draws
            return Estimate(float(value), np.nan, np.nan)
    ends = wider * (np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - drawn.mean()) + value - bias
    low, high = np.clip(ends, least, most)
    return Estimate(float(value), float(np.fmin(low, value)), float(np.fmax(high, value)))


def _student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5), of LEVEL."""
    z = Z
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def binomial_interval(share: float, count: int) -> tuple[float, float]:
    """The interval of 95 % of a share of `count` draws (Wilson 1927, doi 10.1080/01621459.1927.10502953)."""
    z = Z
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(max(0, middle - half)), float(min(1, middle + half))
