"""Test intervals over people, and the correction for the choice of epochs, on data with known scores."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from analysis.intervals import (
    FEWEST_PLAIN,
    LAST,
    FoldPredictions,
    compute_scores,
    correct_sums,
    describe_difference,
    describe_intervals,
    describe_run,
    draw_resamples,
    estimate_differences,
    estimate_run,
    estimate_scores,
    sum_predictions,
    sum_run,
    sum_tallies,
    tally_people,
)
from analysis.metrics import score
from data.faces import AGE, AGE_GROUP, FACES, GENDER, MASK
from data.label_math import SMALLEST
from data.tasks import Task, find_metric


def estimate(task, tallies, draws):
    return estimate_scores(FACES[task], sum_tallies(tallies, draws))


def estimate_corrected(task, tallies, draws):
    return estimate_scores(FACES[task], correct_sums(FACES[task], tallies, draws))


def draw_predictions(task, rows, random=0):
    """Return random predictions `(N, C)` and labels `(N,)` of a task; `random` is a seed or a generator."""
    random = np.random.default_rng(random)
    if FACES[task].regression:
        return random.uniform(10, 80, (rows, 1)).astype(np.float32), random.integers(10, 80, rows).astype(np.float32)
    count = FACES[task].outputs
    return random.dirichlet(np.ones(count), rows), random.integers(0, count, rows)


@pytest.mark.parametrize("task", FACES)
def test_tallies_of_people_give_the_scores_of_all_images(task):
    random = np.random.default_rng(0)
    probabilities, labels = draw_predictions(task, 70, random)
    tallies = tally_people(FACES[task], probabilities, labels, random.permutation(np.arange(70) % 10))
    assert tallies.shape[0] == 10
    found, wanted = compute_scores(FACES[task], tallies.sum(axis=0)), score(FACES[task], probabilities, labels)
    assert set(wanted) - set(found) == (set() if FACES[task].regression else {"auc", "average_precision"})
    assert found == pytest.approx({name: wanted[name] for name in found})


def test_tallies_by_hand():
    # Person 0: true 0 and 2, predicted 0 and 0. Person 1: true 1, predicted 1.
    tallies = tally_people(MASK, np.eye(3)[[0, 1, 0]], np.array([0, 1, 2]), np.array([0, 1, 0]))
    #                                   correct   predicted     true
    assert tallies[:, :9].tolist() == [[1, 0, 0, 2, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 0, 0, 1, 0]]
    # Squared distances of the numbers of the classes, and log losses, of which that of a probability of 0 is limited.
    assert tallies[:, 9:].tolist() == [[4, -np.log(SMALLEST)], [0, 0]]


def test_more_people_narrow_an_interval_but_more_images_of_them_do_not():
    random = np.random.default_rng(0)
    right = random.random(100) < 0.7
    labels = np.arange(100) % 3
    predicted = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]

    def width(people, shots):
        rows = np.tile(np.repeat(np.arange(100), shots), people // 100)
        tallies = tally_people(MASK, predicted[rows], labels[rows], np.arange(len(rows)) // shots)
        found = estimate("mask", [tallies], draw_resamples([people], seed=0))["accuracy"]
        assert found.value == pytest.approx(right.mean())
        assert found.low < found.value < found.high
        return found.high - found.low

    one = width(100, 1)
    assert one == pytest.approx(2 * 1.98 * np.sqrt(right.mean() * (1 - right.mean()) / 100), rel=0.1)  # binomial
    assert width(100, 7) == pytest.approx(one)
    assert width(400, 7) == pytest.approx(one / 2, rel=0.1)


def draw_fair_predictions(task, people, shots=2):
    """Return predictions that fit the labels of most images, their labels, and the people on them."""
    random = np.random.default_rng(0)
    _, labels = draw_predictions(task, people, random)
    labels, people = np.repeat(labels, shots), np.repeat(np.arange(people), shots)
    if FACES[task].regression:
        return (labels + random.normal(0, 9, len(labels)))[:, None], labels, people
    count = FACES[task].outputs
    return 0.7 * random.dirichlet(np.ones(count), len(labels)) + 0.3 * np.eye(count)[labels], labels, people


@pytest.mark.parametrize(
    ("task", "name"),
    [
        *(("ageg", name) for name in ("balanced_accuracy", "qwk", "log_loss", "auc")),
        *(("gender", "average_precision"), ("age", "r2"), ("age", "mae")),
    ],
)
def test_an_interval_of_any_score_holds_it_and_narrows_with_more_people(task, name):
    task, widths = replace(FACES[task], metric=name), []
    for people in (60, 240):
        part = draw_fair_predictions(task.name, people)
        found = estimate_scores(task, sum_predictions(task, [part], draw_resamples([people], seed=0)))[name]
        assert found.value == pytest.approx(score(task, *part[:2])[name])
        assert find_metric(name).low <= found.low < found.value < found.high <= find_metric(name).high
        widths.append(found.high - found.low)
    assert widths[1] < 0.75 * widths[0]  # half of it, if the spread is the same


def test_the_interval_of_a_score_of_ranks_is_that_of_its_resamples():
    """Compare with the score of each resample of the images of two folds, one image a person."""
    task, random = replace(GENDER, metric="auc"), np.random.default_rng(0)
    parts = [(*draw_predictions("gender", people, random), np.arange(people)) for people in (15, 20)]
    draws = draw_resamples([15, 20], seed=0)
    sums = sum_predictions(task, parts, draws)
    predictions, labels, _ = (np.concatenate(each) for each in zip(*parts, strict=True))
    weights = [np.ones(35), *np.concatenate(draws, axis=1)[:20]]
    wanted = [roc_auc_score(labels, predictions[:, 1], sample_weight=each) for each in weights]
    assert sums.plain[:21] == pytest.approx(wanted)
    found = estimate_scores(task, sums)["auc"]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(sums.plain[1:], [0.025, 0.975])))
    assert list(sum_run(task, [FoldPredictions(labels, np.arange(35), predictions, predictions[None])])) == [
        "best_epochs",
        "last_epochs",  # the choice of epochs is not corrected for
    ]


@pytest.mark.parametrize("people", [FEWEST_PLAIN - 1, FEWEST_PLAIN])
def test_a_score_of_ranks_has_no_interval_of_few_people(people):
    task = replace(GENDER, metric="auc")
    found = estimate_scores(
        task, sum_predictions(task, [draw_fair_predictions("gender", people)], draw_resamples([people], seed=0))
    )["auc"]
    assert np.isfinite([found.value, found.low]).tolist() == [True, people >= FEWEST_PLAIN]


@pytest.mark.parametrize("name", ["auc", "log_loss", "qwk"])
def test_equal_predictions_differ_by_0_in_any_score(name):
    task = replace(AGE_GROUP, metric=name)
    sums = sum_predictions(task, [draw_fair_predictions("ageg", 24)], draw_resamples([24], seed=0))
    assert vars(estimate_differences(task, sums, sums)[name]) == {"value": 0, "low": 0, "high": 0}


def test_an_interval_stays_between_0_and_1():
    labels = np.repeat([0, 1, 2], 10)
    predicted = np.where(np.arange(30) == 0, 1, labels)
    tallies = tally_people(MASK, np.eye(3)[predicted], labels, np.arange(30))
    found = estimate("mask", [tallies], draw_resamples([30], seed=0))["accuracy"]
    assert found.value < found.high == 1


def test_the_same_seed_gives_the_same_interval():
    tallies = [tally_people(AGE_GROUP, *draw_predictions("ageg", 40, seed), np.arange(40)) for seed in range(2)]
    first, second, other = (estimate("ageg", tallies, draw_resamples([40, 40], seed=seed)) for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize("task", ["ageg", "age"])
def test_a_single_epoch_needs_no_correction(task):
    tallies = [tally_people(FACES[task], *draw_predictions(task, 40, seed), np.arange(40)) for seed in range(2)]
    draws = draw_resamples([40, 40], seed=0)
    corrected = estimate_corrected(task, [each[None] for each in tallies], draws)
    for name, found in estimate(task, tallies, draws).items():
        assert vars(corrected[name]) == pytest.approx(vars(found))


def test_an_epoch_with_nan_predictions_is_never_chosen():
    probabilities, labels = draw_predictions("age", 40)
    good = tally_people(AGE, probabilities, labels, np.arange(40))
    probabilities[3] = np.nan
    bad = tally_people(AGE, probabilities, labels, np.arange(40))
    draws = draw_resamples([40], seed=0)
    corrected = estimate_corrected("age", [np.stack([bad, good])], draws)
    assert vars(corrected["rmse"]) == pytest.approx(vars(estimate("age", [good], draws)["rmse"]))
    assert np.isnan(estimate("age", [bad], draws)["mae"].value)


# RMSE of two independent ages, uniform from 10 to 80: the root of twice their variance.
@pytest.mark.parametrize(("task", "truth"), [("gender", 0.5), ("age", np.sqrt(2 * 70**2 / 12))])
def test_the_optimism_of_the_best_of_many_random_epochs_is_corrected(task, truth):
    """Compare scores of predictions that are independent of the labels with their expectation."""
    optimism, corrected, covered = [], [], []
    monitor, gain = FACES[task].monitor, 1 if FACES[task].higher_is_better else -1
    for seed in range(60):
        random = np.random.default_rng(seed)
        tallies = []
        for _ in range(3):
            labels = np.repeat(draw_predictions(task, 40, random)[1], 5)
            predicted = np.stack([np.repeat(draw_predictions(task, 40, random)[0], 5, axis=0) for _ in range(8)])
            tallies.append(tally_people(FACES[task], predicted, labels, np.repeat(np.arange(40), 5)))
        best = [each[(gain * compute_scores(FACES[task], each.sum(axis=1))[monitor]).argmax()] for each in tallies]
        draws = draw_resamples([40] * 3, seed=seed, resamples=400)
        found = estimate_corrected(task, tallies, draws)[monitor]
        optimism.append(gain * (estimate(task, best, draws)[monitor].value - truth) / truth)
        corrected.append(gain * (found.value - truth) / truth)
        covered.append(found.low <= truth <= found.high)
    assert np.mean(optimism) > 0.05
    assert abs(np.mean(corrected)) < 0.02
    assert np.mean(covered) > 0.8  # of 60 intervals; 95 % expected


def test_the_interval_of_a_paired_difference_is_narrow():
    """Compare two runs of which the second is right wherever the first is, and for some more people."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    right = random.random(120) < 0.6
    more = right | (random.random(120) < 0.15)
    draws = draw_resamples([120], seed=0)
    predicted = [np.eye(2)[np.where(each, labels, 1 - labels)] for each in (right, more)]
    first, second = (sum_tallies([tally_people(GENDER, p, labels, np.arange(120))], draws) for p in predicted)
    found = estimate_differences(GENDER, first, second)["accuracy"]
    assert found.value == pytest.approx(more.mean() - right.mean())
    assert 0 < found.low < found.value < found.high
    apart = estimate_scores(GENDER, first)["accuracy"]
    assert found.high - found.low < 0.7 * (apart.high - apart.low)
    none = estimate_differences(GENDER, first, first)["accuracy"]
    assert none.low == none.value == none.high == 0
    corrected = estimate_differences(GENDER, first, replace(first, value=second.value))["accuracy"]
    assert corrected.low == 0 < corrected.value  # the correction alone proves no difference


def folds_of(labels, probabilities, parts):
    epochs = np.stack([probabilities, probabilities])
    return [FoldPredictions(labels[p], np.array(p), probabilities[p], epochs[:, p]) for p in parts]


def test_folds_of_one_person_are_drawn_from_together_and_have_no_correction():
    probabilities, labels = draw_predictions("gender", 24)
    sums = sum_run(GENDER, folds_of(labels, probabilities, [[k] for k in range(24)]))
    assert list(sums) == ["best_epochs", "last_epochs"]
    found = estimate_run(GENDER, sums)
    best, last = (found[what]["accuracy"] for what in sums)
    assert best.value == last.value == pytest.approx(np.mean(probabilities.argmax(axis=1) == labels))
    assert str(best) == f"{best.value:.4f}"  # chosen on single people: no interval would hold the truth
    whole = estimate_run(GENDER, sum_run(GENDER, folds_of(labels, probabilities, [range(24)])))["last_epochs"]
    assert last.high - last.low == pytest.approx(whole["accuracy"].high - whole["accuracy"].low, rel=0.05)
    mixed = estimate_run(GENDER, sum_run(GENDER, folds_of(labels, probabilities, [range(23), [23]])))
    assert list(mixed) == ["best_epochs", "last_epochs"]
    assert mixed["last_epochs"]["accuracy"].low < last.value < mixed["last_epochs"]["accuracy"].high


@pytest.mark.parametrize(("people", "known"), [(11, False), (12, True)])
def test_too_few_people_have_no_interval(people, known):
    tallies = tally_people(GENDER, *draw_predictions("gender", people), np.arange(people))
    found = estimate("gender", [tallies], draw_resamples([people], seed=0))["accuracy"]
    assert np.isfinite([found.low, found.high]).tolist() == [known, known]
    assert ("95 %" in describe_intervals(people, "groups")) == known
    assert ("11, and 12 are needed" in describe_intervals(people, "groups")) == (not known)


def test_an_absent_class_is_left_out_of_all_resamples():
    labels = np.repeat([0, 1], 12)
    right = np.arange(24) % 6 > 0
    tallies = tally_people(MASK, np.eye(3)[np.where(right, labels, 1 - labels)], labels, np.arange(24))
    draws = draw_resamples([24], seed=0)
    found = estimate("mask", [tallies], draws)
    assert str(found["bare"]) == "undefined"
    assert found["macro_f1"].value == pytest.approx(np.mean([found["worn"].value, found["wrong"].value]))
    assert 0.5 < found["macro_f1"].low < found["macro_f1"].value < found["macro_f1"].high < 1
    perfect = estimate("mask", [tally_people(MASK, np.eye(3)[labels], labels, np.arange(24))], draws)
    assert str(perfect["macro_f1"]) == "1.0000"


def test_a_class_of_one_person_has_no_interval_but_macro_f1_has():
    labels = np.append(np.repeat([0, 1], 12), 2)
    predicted = np.where(np.arange(25) % 6 > 0, labels, 1)
    tallies = tally_people(MASK, np.eye(3)[predicted], labels, np.arange(25))
    found = estimate("mask", [tallies], draw_resamples([25], seed=0))
    assert str(found["bare"]) == f"{found['bare'].value:.4f}"
    assert found["worn"].low < found["worn"].high
    assert found["macro_f1"].low < found["macro_f1"].value < found["macro_f1"].high


@pytest.mark.parametrize("name", ["macro_f1", "balanced_accuracy"])
def test_a_class_that_is_gone_without_its_one_person_does_not_shift_the_interval(name):
    labels = np.append(np.repeat([0, 1], 12), 2)
    predicted = np.where(np.arange(25) % 6 > 0, labels, 0)
    tallies = tally_people(MASK, np.eye(3)[predicted], labels, np.arange(25))
    found = estimate("mask", [tallies], draw_resamples([25], seed=0))[name]
    assert found.high - found.value > 0.3 * (found.high - found.low)
    assert found.low > 0.2


def test_a_single_fold_of_one_person_is_drawn_from_with_the_smallest_other_one():
    large, small, single = draw_resamples([9, 3, 1], seed=0)
    assert large.sum(axis=1) == pytest.approx(9)
    assert single.std() > 0
    assert (small.sum(axis=1) + single.sum(axis=1)) == pytest.approx(4)


def test_a_class_that_only_one_of_two_runs_predicts_makes_no_clear_difference():
    """One image of 24 people is predicted as a class without images: macro F1 falls by a third."""
    labels, draws = np.repeat([0, 1], 12), draw_resamples([24], seed=0)
    predicted = np.where(np.arange(24) % 6 > 0, labels, 1 - labels)
    stray = np.where(np.arange(24) == 3, 2, predicted)
    tallies = [tally_people(MASK, np.eye(3)[each], labels, np.arange(24)) for each in (predicted, stray)]
    first, second = (sum_tallies([each], draws) for each in tallies)
    found = estimate_differences(MASK, first, second)["macro_f1"]
    assert found.value < -0.2
    assert found.low == found.value < found.high
    assert found.high >= 0


def test_people_who_all_differ_alike_prove_no_difference():
    labels, draws = np.append(np.repeat([0, 1], 12), [2, 2]), draw_resamples([26], seed=0)
    wrong = np.where(labels == 2, 0, labels)
    tallies = [tally_people(MASK, np.eye(3)[each], labels, np.arange(26)) for each in (wrong, labels)]
    first, second = (sum_tallies([each], draws) for each in tallies)
    found = estimate_differences(MASK, first, second)["bare"]
    assert (found.value, str(found), describe_difference(found)) == (1, "1.0000", "a difference of 1.0000")


def test_the_best_epochs_have_the_interval_of_their_correction():
    """Each of the folds has an epoch of random predictions that happens to fit."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 40)
    epochs = random.dirichlet([1, 1], (8, 40))
    best = max(epochs, key=lambda each: np.mean(each.argmax(axis=1) == labels))
    found = estimate_run(GENDER, sum_run(GENDER, [FoldPredictions(labels, np.arange(40), best, epochs)]))
    chosen, corrected = found["best_epochs"]["accuracy"], found["corrected"]["accuracy"]
    assert chosen.value > corrected.value + 0.05
    assert (chosen.low, chosen.high) == (corrected.low, max(corrected.high, chosen.value))


def test_intervals_of_few_people_contain_the_truth():
    """The people over 60 are few, and each is right or wrong in all seven images with a probability of one half."""
    share, right = np.array([0.46, 0.46, 0.08]), np.array([0.8, 0.7, 0.5])
    held = []
    for seed in range(80):
        random = np.random.default_rng(seed)
        labels = random.choice(3, 24, p=share)
        predicted = np.where(random.random(24) < right[labels], labels, (labels + 1) % 3)
        rows = np.repeat(np.arange(24), 7)
        tallies = tally_people(AGE_GROUP, np.eye(3)[predicted[rows]], labels[rows], rows)
        found = estimate("ageg", [tallies], draw_resamples([24], seed=0))["macro_f1"]
        there = share * np.isin(range(3), labels)
        true, wrong = there / there.sum() * right, there / there.sum() * (1 - right)
        f1 = 2 * true / (there / there.sum() + true + np.roll(wrong, 1))
        scored = np.isin(range(3), [*labels, *predicted])
        held.append(found.low <= f1[scored].mean() <= found.high)
    assert np.mean(held) > 0.87  # of 80 intervals; 95 % expected


@pytest.mark.parametrize(("count", "widest"), [(14, 0.5), (36, 0.3)])
@pytest.mark.parametrize("right", [True, False])
def test_a_class_with_one_right_or_wrong_prediction_has_an_interval_of_finite_width(count, widest, right):
    people = np.arange(200)
    labels = (people >= count).astype(int)
    predicted = np.where(people == 0, labels, 1) if right else np.where(people == 0, 1, labels)
    predicted[-2:] = 0 if right else 1
    task, draws = Task("x", "x", ("rare", "other")), draw_resamples([len(people)], seed=0)
    found = estimate_scores(task, sum_predictions(task, [(np.eye(2)[predicted], labels, people)], draws))["rare"]
    assert 0 < found.low < found.value < found.high < 1
    assert found.high - found.low < widest


@pytest.mark.parametrize("right", [True, False])
def test_a_class_that_is_always_right_or_wrong_has_the_interval_of_as_many_images_as_people(right):
    people = np.repeat(np.arange(40), 3)
    labels = (people >= 10).astype(int)
    task, draws = Task("x", "x", ("rare", "other")), draw_resamples([40], seed=0)
    predicted = labels if right else np.ones_like(labels)
    found = estimate_scores(task, sum_predictions(task, [(np.eye(2)[predicted], labels, people)], draws))["rare"]
    end = 0.025 ** (1 / 10)  # of ten independent images, all right
    share = (end, 1) if right else (0, 1 - end)
    assert (found.low, found.high) == pytest.approx([2 * each / (1 + each) for each in share])


def test_people_whom_every_fold_validates_count_once():
    probabilities, labels = draw_predictions("gender", 60)
    one = FoldPredictions(labels, np.repeat(np.arange(30), 2), probabilities, probabilities[None])
    once, thrice = (sum_run(GENDER, [one] * count) for count in (1, 3))
    for what in ("best_epochs", "last_epochs", "corrected"):
        a, b = (estimate_scores(GENDER, sums[what])["accuracy"] for sums in (once, thrice))
        assert vars(a) == pytest.approx(vars(b))


@pytest.mark.parametrize(("task", "one"), [(MASK, "person"), (Task("kind", "kind", ("a", "b")), "group")])
def test_folds_of_one_group_are_described_in_its_words(task, one):
    assert f"A fold validates a single {one}, which alone chooses its best epoch" in describe_run(task, 12, {LAST})
