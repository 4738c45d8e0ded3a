"""Select ensembles by numbers alone: picks made by hand, scores on other people, calibration, and recipes."""

import json
from functools import partial

import numpy as np
import pytest

from analysis.intervals import Estimate, describe_difference
from analysis.metrics import fit_temperature, score, tempered
from data.faces import AGE, FACES, GENDER, MASK
from inference import voting
from inference.recipe import read_recipe
from inference.selection import (
    PICKS,
    Library,
    Scorer,
    cross_select,
    fit_calibration,
    fit_offsets,
    select_best,
    select_greedily,
)
from utils import UserError

RECIPE = {
    **{"format": 1, "task": "gender", "tta": 2, "mean": "arithmetic", "temperature": 1.0, "offsets": None},
    "members": [
        {"task": "gender", "file": "a.pt", "digest": "0", "fold": 0, "weight": 0.75},
        {"task": "gender", "file": "b.pt", "digest": "1", "fold": 1, "weight": 0.25},
    ],
}


def of_gender(labels, *kinds, mean="arithmetic"):
    """Return a scorer of one image per person, and candidates by their probabilities of class 1."""
    answers = [np.stack([1 - np.array(ones), np.array(ones)], axis=1)[None] for ones in kinds]
    return Scorer(GENDER, np.array(labels), np.arange(len(labels)), seed=0), Library(answers, mean, years=False)


def noise(people, kinds, seed):
    """Return labels and unrelated predictions, four images per person."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.integers(2, size=people), 4)
    library = Library(random.dirichlet(np.ones(2), size=(kinds, 1, len(labels))), "arithmetic", years=False)
    return Scorer(GENDER, labels, np.repeat(np.arange(people), 4), seed=seed), library


@pytest.mark.parametrize("task", ["mask", "age"])
def test_goodness_is_the_monitored_score(task):
    random = np.random.default_rng(0)
    labels = random.integers(3, size=50) if task == "mask" else random.uniform(1, 90, size=50)
    answers = random.dirichlet(np.ones(3), size=50) if task == "mask" else random.uniform(1, 90, size=(50, 1))
    scorer, rows = Scorer(FACES[task], labels, np.arange(50), seed=0), np.arange(0, 50, 2)
    scores = score(FACES[task], answers[rows], labels[rows])
    expected = scores["macro_f1"] if task == "mask" else -scores["rmse"]
    assert scorer.goodness(answers[rows], rows) == pytest.approx(expected)


def test_fewer_years_of_error_are_a_gain():
    labels = np.linspace(10, 80, 40)
    scorer = Scorer(AGE, labels, np.arange(40), seed=0)
    near, far = (scorer.measure(labels[:, None] + off * (-1) ** np.arange(40)[:, None]) for off in (2, 5))
    assert vars(scorer.gain(near, far)) == pytest.approx({"value": 3, "low": 3, "high": 3})
    assert scorer.gain(far, near).high < 0


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.012, 0.003, 0.021), "better by 0.0120 (0.0030 to 0.0210)"),
        ((-0.012, -0.021, -0.003), "worse by 0.0120 (0.0030 to 0.0210)"),
        ((0.002, -0.01, 0.014), "no clear difference, 0.0020 (-0.0100 to 0.0140)"),
        ((0.0, 0.0, 0.0), "no clear difference, 0.0000"),
    ],
)
def test_a_gain_in_words(gain, words):
    assert describe_difference(Estimate(*gain)) == words


@pytest.mark.parametrize(
    ("kinds", "picks"),
    [
        # Two picks of the first candidate and one of the second get both images right; no candidate and no pair does.
        ([[0.3, 0.45], [0.8, 0.9], [0.9, 0.1]], [2, 1, 0]),
        ([[0.8, 0.2], [0.1, 0.9]], [0, 1]),  # of equal prefixes the shortest
    ],
)
def test_greedy_selection_by_hand(kinds, picks):
    scorer, library = of_gender([0, 1], *kinds)
    assert select_greedily(library, scorer).tolist() == picks
    assert scorer.goodness(library.mix(np.array(picks))) == 1


def test_the_best_prefix_is_taken_where_further_picks_do_harm(monkeypatch):
    scorer, library = of_gender([0, 1], [0.1, 0.9], [0.2, 0.8])
    scores = iter([0.5, 0.6, 0.9, 0.7] + [0.1, 0.2] * PICKS)  # the second candidate, then the first, then harmful ones
    monkeypatch.setattr(Scorer, "goodness", lambda self, answers, rows: next(scores))
    assert select_greedily(library, scorer).tolist() == [1, 1]


def test_greedy_selection_looks_at_its_rows_alone():
    scorer, library = of_gender([0, 1, 0, 1], [0.1, 0.9, 0.9, 0.1], [0.9, 0.1, 0.1, 0.9])
    assert select_greedily(library, scorer, np.array([0, 1])).tolist() == [1, 0]
    assert select_greedily(library, scorer, np.array([2, 3])).tolist() == [0, 1]
    candidates = np.array([[1.0, 1.0], [0.0, 1.0]])
    assert select_best(candidates, library, scorer, np.array([2, 3])).tolist() == [0, 1]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_mix_is_what_voting_makes_of_the_members(mean):
    random = np.random.default_rng(0)
    answers, weights = random.dirichlet(np.ones(3), size=(4, 1, 20)), np.array([3, 0, 1, 2])
    mixed = Library(answers, mean, years=False).mix(weights)
    by_voting = voting.geometric_mean if mean == "geometric" else voting.weighted_mean
    assert np.allclose(mixed, by_voting(answers[:, 0], weights=weights))


def test_years_are_mixed_as_years():
    library = Library(np.array([[[[10.0]]], [[[40.0]]]]), "geometric", years=True)
    assert library.mix(np.ones(2)).item() == pytest.approx(20)


def test_nobody_is_predicted_by_what_was_chosen_on_them():
    groups = np.array([2, 0, 1, 0, 2])
    seen = []

    def choose(rows):
        seen.append(set(rows))
        return lambda others: np.array([[row, len(rows)] for row in others])

    answers = cross_select(choose, groups)
    assert answers[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert seen == [{0, 2, 4}, {0, 1, 3, 4}, {1, 2, 3}]


def test_people_are_in_one_group_each():
    scorer = noise(40, 1, seed=0)[0]
    assert all(len(set(scorer.groups[scorer.people == person])) == 1 for person in range(40))
    assert len(set(scorer.groups)) == 10


def test_noise_gains_nothing_on_others():
    same, others = [], []
    for seed in range(30):
        scorer, library = noise(40, 6, seed)
        plain = scorer.goodness(library.mix(np.ones(6)))
        honest = cross_select(
            lambda rows, s=scorer, lib=library: partial(lib.mix, select_greedily(lib, s, rows)), scorer.groups
        )
        same.append(scorer.goodness(library.mix(select_greedily(library, scorer))) - plain)
        others.append(scorer.goodness(honest) - plain)
    assert np.mean(same) > 0.04
    assert abs(np.mean(others)) < 0.02


def test_the_temperature_that_was_taken_away_is_found():
    random = np.random.default_rng(0)
    right = random.dirichlet(np.full(3, 0.8), size=20000)
    labels = (random.random((len(right), 1)) > right.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(tempered(right, 1 / 3, 0.0), labels) == pytest.approx(3, rel=0.05)


def test_offsets_correct_a_class_that_is_predicted_too_often():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 100)
    logits = 2 * np.eye(3)[labels] + random.normal(size=(300, 3))
    probabilities = tempered(np.exp(logits), 1.0, np.array([1.5, 0, 0]))
    scorer = Scorer(MASK, labels, np.arange(300), seed=0)
    offsets = fit_offsets(probabilities, scorer)
    moved = tempered(probabilities, 1.0, offsets)
    assert offsets[0] < offsets[1:].min() - 0.7
    assert scorer.goodness(moved) > scorer.goodness(probabilities) + 0.05


def test_where_nothing_helps_offsets_are_zero():
    scorer, library = of_gender([0, 1], [0.1, 0.9])
    assert fit_offsets(library.mix(np.ones(1)), scorer).tolist() == [0, 0]
    temperature, offsets = fit_calibration(library.mix(np.ones(1)), scorer, slice(None), temper=False, move=False)
    assert (temperature, offsets.tolist()) == (1, [0, 0])


def written(tmp_path, **changes):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**RECIPE, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "raw"),
    [
        ({"mean": "arithmetic"}, [0.75 * 0.2 + 0.25 * 0.6, 0.75 * 0.8 + 0.25 * 0.4]),
        ({"mean": "geometric"}, [0.2**0.75 * 0.6**0.25, 0.8**0.75 * 0.4**0.25]),
        ({"temperature": 2.0, "offsets": [0.0, 1.0]}, [0.3**0.5, 0.7**0.5 * np.e]),
    ],
)
def test_a_recipe_mixes_by_its_weights_and_calibrates(changes, raw, tmp_path):
    mixed = read_recipe(written(tmp_path, **changes)).mix(np.array([[[0.2, 0.8]], [[0.6, 0.4]]]))
    assert np.allclose(mixed, np.array(raw) / np.sum(raw))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has recipe format 2; this toolkit reads 1"),
        ({"members": []}, "invalid weights"),
        ({"members": [{**RECIPE["members"][0], "weight": -1}]}, "invalid weights"),
        ({"members": [{**RECIPE["members"][0], "weight": "much"}]}, "is damaged (ValueError"),
        ({"members": [{"task": "gender", "weight": 1}]}, "is damaged (KeyError"),
        ({"members": [{**RECIPE["members"][0], "task": "mask"}]}, "has members of task mask"),
        ({"members": 5}, "is damaged (TypeError"),
        ({"mean": "harmonic"}, "invalid mean"),
        ({"tta": 0}, "invalid tta"),
        ({"temperature": 0}, "invalid temperature"),
        ({"temperature": None}, "is damaged (TypeError"),
        ({"offsets": [1.0]}, "is damaged (ValueError"),
        ({"offsets": [1.0, None]}, "is damaged (TypeError"),
        ({"task": "height"}, "is damaged (KeyError"),
    ],
)
def test_impossible_recipes_are_errors(changes, message, tmp_path):
    with pytest.raises(UserError) as caught:
        read_recipe(written(tmp_path, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
