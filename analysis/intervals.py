"""Compute intervals of scores by bootstrap over people, and scores corrected for the choice of epochs.

People are the unit of resampling, since the images of a person are correlated. Every score is computed from sums over
people (`tally_people`), so that all resamples together cost one matrix product.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaincinv, ndtri

from analysis.metrics import class_f1_of, class_recall_of, compute_scores, macro_f1, score_resamples, tally_images
from data.tasks import Task, find_metric, score_title

RESAMPLES = 2000
PLAIN_RESAMPLES = 500  # of a score that does not follow from sums
LEVEL = 0.95  # of the intervals
FEWEST, FEWEST_OF_CLASS = 12, 2  # people for an interval of a score, and of the F1 of a class
FEWEST_PLAIN = 24  # people for the plain bootstrap, which is too narrow with fewer
BEST, LAST, CORRECTED = "best_epochs", "last_epochs", "corrected"  # scores of a run, see `sum_run`
TITLES = {BEST: "best epochs", LAST: "last epochs", CORRECTED: "best, corrected"}
HOW = {  # the scores that can be reported, the first that a run has
    CORRECTED: "corrected for the choice of epochs",
    LAST: "of the last epochs",
    BEST: "of the best epochs, not corrected for their choice",
}


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores, with its 95 % interval; the ends are NaN if it has none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text(4)

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, -self.high, -self.low)

    def text(self, digits: int) -> str:
        """Return the value, and the interval if it has one, with this number of decimals, or "undefined"."""
        if np.isnan(self.value):
            return "undefined"
        value, low, high = (f"{each:.{digits}f}" for each in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if self.low < self.high else value


@dataclass(frozen=True)
class Sums:
    """Tallies summed over people, from which a score and its interval are computed."""

    value: np.ndarray  # (T,), for the score itself; of the corrected epochs if there is a correction
    total: np.ndarray  # (T,), of all people, without a correction
    without: np.ndarray  # (P, T), without each person
    drawn: np.ndarray  # (R, T), of each resample
    plain: np.ndarray | None = None  # (1 + PLAIN_RESAMPLES,), the monitored score and it on resamples, if not of sums


def tally_people(task: Task, predictions: np.ndarray, labels: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Return the sums of `metrics.tally_images` over the images of each person, `(..., P, T) float64`.

    `people` `(N,) int64` is the person on each image, 0 to P - 1; the other arguments are those of `tally_images`.
    """
    rows = tally_images(task, predictions, labels)
    order = np.argsort(people, kind="stable")
    first = np.searchsorted(people[order], np.arange(people.max() + 1))
    return np.add.reduceat(rows[..., order, :], first, axis=-2)


def _score_parts(task: Task, sums: Sums, *, labelled: bool = False) -> list[dict[str, np.ndarray]]:
    """Return the scores and the F1 of each class, by name, for the value, total, without and drawn of the sums.

    All are over the classes of the total, macro F1 with `labelled` over those of them that have images. A class that a
    resample neither has nor predicts is left out of its macro F1. One for which that is so without a person keeps its
    F1, since that person alone cannot say how much it varies; the same holds for recall and balanced accuracy.
    """
    whole, recalls, count = class_f1_of(task, sums.total), class_recall_of(task, sums.total), len(task.classes)
    counted = np.isfinite(whole) & (sums.total[2 * count : 3 * count] > 0 if labelled else True)
    found = []
    for part in (sums.value, sums.total, sums.without, sums.drawn):
        f1, recall = np.where(np.isfinite(whole), class_f1_of(task, part), np.nan), class_recall_of(task, part)
        if part is sums.without:
            f1, recall = np.where(np.isnan(f1), whole, f1), np.where(np.isnan(recall), recalls, recall)
        of_classes = dict(zip(task.classes, np.moveaxis(f1, -1, 0), strict=True))
        means = {"macro_f1": np.where(counted, f1, np.nan), "balanced_accuracy": recall}
        scores = compute_scores(task, part)
        found.append(scores | {name: macro_f1(each) for name, each in means.items() if name in scores} | of_classes)
    return found


def draw_resamples(sizes: Sequence[int], *, seed: int, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """Return the weight of each person in resamples of the people: `(resamples, P)` for each fold.

    Each resample draws P - 1 people of a fold and rescales them: drawing P spreads too little for few people (Rao and
    Wu 1988, doi 10.1080/01621459.1988.10478591). Folds of one person are drawn from together, a single one with the
    smallest other fold ("collapsed strata").
    """
    generator = np.random.default_rng(seed)
    single = [k for k, size in enumerate(sizes) if size == 1]
    others = sorted((k for k in range(len(sizes)) if k not in single), key=lambda k: sizes[k])
    single += others[:1] if len(single) == 1 else []
    drawn: dict[int, np.ndarray] = {}
    for group in [single] * bool(single) + [[k] for k in range(len(sizes)) if k not in single]:
        size = sum(sizes[k] for k in group)
        n = max(size - 1, 1)
        weights = generator.multinomial(n, np.full(size, 1 / size), size=resamples) * (size / n)
        ends = np.cumsum([sizes[k] for k in group])[:-1]
        drawn |= dict(zip(group, np.split(weights, ends, axis=1), strict=True))
    return [drawn[k] for k in range(len(sizes))]


def sum_tallies(tallies: Sequence[np.ndarray], draws: Sequence[np.ndarray]) -> Sums:
    """Sum the tallies `(P, T)` of the folds; folds that validate the same people share one array of draws."""
    total = sum(each.sum(axis=0) for each in tallies)
    people: dict[int, np.ndarray] = {}
    for draw, each in zip(draws, tallies, strict=True):
        people[id(draw)] = people[id(draw)] + each if id(draw) in people else each
    drawn = sum(draw @ each for draw, each in zip(draws, tallies, strict=True))
    return Sums(total, total, total - np.concatenate([*people.values()]), drawn)


def sum_predictions(
    task: Task, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], draws: Sequence[np.ndarray]
) -> Sums:
    """Return the sums of predictions, labels and people of folds, which are arguments of `tally_people`."""
    sums = sum_tallies([tally_people(task, *part) for part in parts], draws)
    if find_metric(task.monitor).summed:
        return sums
    predictions, labels = (np.concatenate(each) for each in list(zip(*parts, strict=True))[:2])
    if not np.isfinite(predictions).all():
        return replace(sums, plain=np.full(1 + PLAIN_RESAMPLES, np.nan))
    weights = [draw[:PLAIN_RESAMPLES, people] for draw, (*_, people) in zip(draws, parts, strict=True)]
    weights = np.vstack([np.ones(len(labels)), np.concatenate(weights, axis=1)])
    return replace(sums, plain=score_resamples(task, task.monitor, predictions, labels, weights))


def correct_sums(task: Task, tallies: Sequence[np.ndarray], draws: Sequence[np.ndarray]) -> Sums:
    """Sum the tallies of chosen epochs, corrected for choosing them on the same people.

    Bootstrap bias-corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018, doi
    10.1007/s10994-018-5714-4): on each resample of its people a fold chooses its epoch again, and is scored on the
    people that were not drawn. Tallies are summed over all resamples before the score is computed, since macro F1 of
    few people is biased. The width of the interval is that of the chosen epochs on the resamples. `tallies` has
    `(E, P, T)` of each fold, for its epochs.
    """
    size = tallies[0].shape[-1]
    outside, inside, chosen_of_all = np.zeros(size), np.zeros((len(draws[0]), size)), []
    for draw, each in zip(draws, tallies, strict=True):
        whole = compute_scores(task, each.sum(axis=1))[task.monitor]
        chosen_of_all.append(each[_best_epochs(task, whole)])
        drawn = [compute_scores(task, draw @ epoch)[task.monitor] for epoch in each]
        chosen = _best_epochs(task, np.stack(drawn, axis=-1))
        missed = draw == 0
        for epoch in np.unique(chosen):
            rows = chosen == epoch
            inside[rows] += draw[rows] @ each[epoch]
            outside += missed[rows].sum(axis=0) / np.maximum(missed.sum(axis=0), 1) @ each[epoch]
    plain = sum_tallies(chosen_of_all, draws)
    return Sums(outside, plain.total, plain.without, inside)


def estimate_scores(task: Task, sums: Sums) -> dict[str, Estimate]:
    """Return every score with its interval, and F1 of every class by its name.

    There is no interval from fewer than FEWEST people, nor one of the F1 of a class from fewer than FEWEST_OF_CLASS of
    the class.
    """
    found = _estimate_parts(task, sums, _score_parts(task, sums), scaled=True)
    return found | _estimate_plain(task, sums, sums.plain)


def estimate_run(task: Task, sums: Mapping[str, Sums]) -> dict[str, dict[str, Estimate]]:
    """Return the estimates of each of the scores that `sum_run` found, by name.

    The best epochs and their correction measure the same, so they share the interval of the correction, extended to the
    score of the best epochs. That score has none without a correction: it is too high for one.
    """
    found = {what: estimate_scores(task, each) for what, each in sums.items()}
    for name, each in found.get(BEST, {}).items():
        known = found[CORRECTED][name] if CORRECTED in found else Estimate(each.value, np.nan, np.nan)
        found[BEST][name] = Estimate(each.value, min(known.low, each.value), max(known.high, each.value))
    return found


def estimate_differences(task: Task, first: Sums, second: Sums) -> dict[str, Estimate]:
    """Return the difference of every score, second minus first, of the same people in the same draws.

    A class without images that only one run predicts changes its macro F1 by much, if by a single image. So the
    interval is that of the classes with images, extended to the difference itself.
    """
    parts = _subtract_parts(*(_score_parts(task, each, labelled=True) for each in (first, second)))
    alone = (replace(each, without=each.without[:0], drawn=each.drawn[:0]) for each in (first, second))
    values, totals, *_ = _subtract_parts(*(_score_parts(task, each) for each in alone))
    found = _estimate_parts(task, first, parts, scaled=False)
    for name, each in found.items():
        value, (least, greatest) = values[name], _limits(task, name)
        most = greatest - least
        # The interval covers the uncorrected difference too: the correction alone proves no difference.
        low, high = min(each.low, value, totals[name]), max(each.high, value, totals[name])
        if low == high != 0:  # all people differ alike, who may be few
            low = high = np.nan
        found[name] = Estimate(float(value), *np.clip([low, high], -most, most).tolist())
    plain = None if first.plain is None else second.plain - first.plain
    return found | _estimate_plain(task, first, plain)


def _estimate_plain(task: Task, sums: Sums, plain: np.ndarray | None) -> dict[str, Estimate]:
    """Return the monitored score with the interval of its plain bootstrap, if it does not follow from sums."""
    if plain is None:
        return {}
    value, drawn = float(plain[0]), plain[1:][np.isfinite(plain[1:])]
    if len(sums.without) < FEWEST_PLAIN or not len(drawn):
        return {task.monitor: Estimate(value, np.nan, np.nan)}
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {task.monitor: Estimate(value, float(min(low, value)), float(max(high, value)))}


def _subtract_parts(first: list[dict], second: list[dict]) -> list[dict[str, np.ndarray]]:
    return [{name: b[name] - a[name] for name in a} for a, b in zip(first, second, strict=True)]


def _estimate_parts(task: Task, sums: Sums, parts: list[dict[str, np.ndarray]], *, scaled: bool) -> dict[str, Estimate]:
    """Return an estimate for each name in the parts, those of `_score_parts` if `scaled`, else their differences."""
    people = len(sums.without)
    count = len(task.classes)
    of_class = (sums.total - sums.without)[:, 2 * count : 3 * count].astype(bool).sum(axis=0)
    enough = dict.fromkeys(parts[0], people >= FEWEST)
    enough |= dict(zip(task.classes, (of_class >= FEWEST_OF_CLASS) & (people >= FEWEST), strict=True))
    # The score of a class of one person may vary as much as one person of another class does on average.
    of_one = [people * parts[2][name].var() * n for name, n in zip(task.classes, of_class, strict=True) if n > 1]
    unseen = (of_class == 1).sum() * np.mean(of_one) / (of_class > 0).sum() ** 2 if of_one else 0.0
    found = {
        name: _estimate(
            [part[name] for part in parts],
            _limits(task, name) if scaled else (-np.inf, np.inf),
            enough=enough[name],
            unseen=unseen if name in ("macro_f1", "balanced_accuracy") else 0.0,
        )
        for name in parts[0]
        if not (scaled and name in task.classes)
    }
    if scaled:
        correct, predicted, true = sums.total[: 3 * count].reshape(3, count)
        for name, images, own in zip(task.classes, predicted + true - correct, of_class, strict=True):
            found[name] = _estimate_class([part[name] for part in parts], images, own, enough=enough[name])
    return found


def describe_intervals(people: int, noun: str) -> str:
    """Return a sentence on the intervals of scores over this number of people, or groups with another noun."""
    if people < FEWEST:
        return f"Too few {noun} for an interval: {people}, and {FEWEST} are needed."
    return f"In parentheses: 95 % intervals over {noun}."


def describe_run(task: Task, people: int, known: Container[str]) -> str:
    """Return sentences on the intervals and the choice of epochs, for the scores that `sum_run` found."""
    if LAST not in known:
        return "The best epochs have no interval and no correction, since predictions of some epochs are missing."
    choice = f"The best epochs were chosen on these {task.noun}; the corrected score removes that advantage."
    if not find_metric(task.monitor).summed:
        choice = (
            f"The best epochs were chosen on these {task.noun}, so their {score_title(task.monitor)} may be too high, "
            f"and has no interval. Go by the last epochs, whose interval needs {FEWEST_PLAIN} {task.noun}."
        )
    elif CORRECTED not in known:
        choice = (
            f"A fold validates a single {task.one}, which alone chooses its best epoch: the score of the best epochs "
            "is too high, and has no interval and no correction. Go by the last epochs."
        )
    return f"{describe_intervals(people, task.noun)} {choice}"


def describe_difference(gain: Estimate) -> str:
    """Return "better by 0.0120 (0.0030 to 0.0210)", "worse by ...", or "no clear difference" around zero.

    Without an interval it is "a difference of 0.0120" or "the same score".
    """
    if np.isnan(gain.low):
        return f"a difference of {gain}" if gain.value else "the same score"
    if gain.low > 0:
        return f"better by {gain}"
    return f"worse by {-gain}" if gain.high < 0 else f"no clear difference, {gain}"


@dataclass(frozen=True)
class FoldPredictions:
    """The predictions of a fold for the people it validates."""

    labels: np.ndarray  # (N,), true classes or years
    people: np.ndarray  # (N,), the person on each image
    best: np.ndarray  # (N, C), of the chosen epoch
    epochs: np.ndarray | None  # (E, N, C), of every epoch, if they are known


def sum_run(task: Task, folds: Iterable[FoldPredictions]) -> dict[str, Sums]:
    """Return the sums of a run's best epochs, last epochs, and best epochs corrected for the choice.

    The last two need the predictions of all epochs, and the correction more than one person per fold and a monitored
    score that follows from sums. Two runs over the same people draw the same resamples.
    """
    best, epochs, validated = [], [], []
    for fold in folds:
        people, own = np.unique(fold.people, return_inverse=True)
        validated.append(tuple(people))
        best.append((fold.best, fold.labels, own))
        epochs.append(None if fold.epochs is None else (fold.epochs, fold.labels, own))
    different = list(dict.fromkeys(validated))  # with a --valid-root all folds validate the same people
    drawn = dict(zip(different, draw_resamples([len(people) for people in different], seed=0), strict=True))
    draws = [drawn[people] for people in validated]
    found = {BEST: sum_predictions(task, best, draws)}
    if all(each is not None for each in epochs):
        found[LAST] = sum_predictions(task, [(each[-1], *others) for each, *others in epochs], draws)
        # A single person is drawn every time.
        if min(map(len, validated)) > 1 and find_metric(task.monitor).summed:
            found[CORRECTED] = correct_sums(task, [tally_people(task, *each) for each in epochs], draws)
    return found


def _best_epochs(task: Task, values: np.ndarray) -> np.ndarray:
    """Return the number of the best epoch, `(...)`, from scores `(..., E)`; NaN and infinity are the worst."""
    values = values if task.higher_is_better else -values
    return np.where(np.isfinite(values), values, -np.inf).argmax(axis=-1)


def _limits(task: Task, name: str) -> tuple[float, float]:
    """Return the range of the values of a score, or of the F1 of a class."""
    metric = find_metric("accuracy" if name in task.classes else name)
    return metric.low, metric.high


def _scale(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return scores on a scale where the spread of those from 0 to 1 depends less on them."""
    return np.arcsin(np.sqrt(np.clip(values, 0, 1))) if limits == (0, 1) else values


def _scale_back(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return np.sin(np.clip(values, 0, np.pi / 2)) ** 2 if limits == (0, 1) else np.clip(values, *limits)


def _estimate(parts: Sequence[np.ndarray], limits: tuple[float, float], *, enough: bool, unseen: float) -> Estimate:
    """Return a value within `limits` with the interval of its resamples `(R,)`, corrected for few people.

    Macro F1 of few people is biased downwards, that of resamples more so: the interval is centred on the value without
    the bias that the jackknife finds from the scores without each person `(P,)` (Efron and Tibshirani 1993, chapter
    10). It is at least as wide as the jackknife's standard error asks for, since resamples may lack rare classes;
    `unseen` is a variance that the jackknife does not see either. That spread is an estimate too: the interval widens
    as Student's t does, with degrees of freedom from the kurtosis of the people's influence (Satterthwaite's rule).
    """
    value, total, without, drawn = parts  # as those of `_score_parts`
    drawn = _scale(drawn[np.isfinite(drawn)], limits)
    if not enough or not drawn.size or not np.isfinite(value):
        return Estimate(float(value), np.nan, np.nan)
    count, seen = len(without), len(without) * without.var()
    without = _scale(without, limits)
    bias = (count - 1) * (without.mean() - _scale(total, limits))
    changes = without - without.mean()
    squares, spread, wider = (changes**2).sum(), drawn.std(), 1.0
    if seen > 0 and squares > 0 and spread > 0:
        kurtosis = count * (changes**4).sum() / squares**2
        wider = _student_quantile(min(2 * count / max(kurtosis - 1, 1e-9), count - 1)) / _student_quantile(np.inf)
        wider *= max(1, np.sqrt(squares * (1 + unseen / seen) * (count - 1) / count) / spread)
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - drawn.mean()
    low, high = _scale_back(wider * ends + _scale(value, limits) - bias, limits)
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))


def _estimate_class(parts: Sequence[np.ndarray], images: float, people: int, *, enough: bool) -> Estimate:
    """Return F1 of a class with an interval that follows from that of a share.

    F1 is 2 J / (1 + J), where J is the share of correct predictions among the `images` of the class or predicted as
    it (Hand, Christen and Kirielle 2021, doi 10.1007/s10994-021-05964-1). Resamples of the few people of a class
    say little about the ends of an interval. So it is the exact one (Clopper and Pearson 1934) of J, for the number
    of independent images that would vary as much as these people (Korn and Graubard 1998, Survey Methodology 24).
    The `people` of a class that is always right or always wrong do not vary, and count as one image each.
    """
    value = float(parts[0])
    share, total, without, drawn = (each / (2 - each) for each in parts)
    drawn = drawn[np.isfinite(drawn)]
    if not enough or not drawn.size or not np.isfinite(share):
        return Estimate(value, np.nan, np.nan)
    variance = max((len(without) - 1) * without.var(), drawn.var())  # of the jackknife and the bootstrap
    count = min(total * (1 - total) / max(variance, 1e-12), images) if 0 < total < 1 else people
    right, tail = share * count, (1 - LEVEL) / 2
    low = betaincinv(right, count - right + 1, tail) if share > 0 else 0
    high = betaincinv(right + 1, count - right, 1 - tail) if share < 1 else 1
    return Estimate(value, float(min(2 * low / (1 + low), value)), float(max(2 * high / (1 + high), value)))


def _student_quantile(freedom: float) -> float:
    """Return the upper quantile of Student's t at LEVEL (Abramowitz and Stegun 1964, 26.7.5).

    The exact quantile is larger by 0.1 % for 10 degrees of freedom and by 2 % for 4.
    """
    z = ndtri((1 + LEVEL) / 2)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def binomial_interval(share: float, count: int) -> tuple[float, float]:
    """Return the interval of a share of `count` draws (Wilson 1927, doi 10.1080/01621459.1927.10502953)."""
    z = ndtri((1 + LEVEL) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(max(0, middle - half)), float(min(1, middle + half))
