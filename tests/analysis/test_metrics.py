"""Test the scores against numbers computed by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from analysis.metrics import absent_classes, score
from data.faces import AGE, FACES, MAIN, MASK


@pytest.mark.parametrize(
    ("task", "true", "predicted", "macro_f1", "accuracy"),
    [
        # class 0: one correct of 2 predicted and 2 true   F1 = 2*1 / (2 + 2) = 1/2
        # class 1: two correct of 3 predicted and 2 true  F1 = 2*2 / (3 + 2) = 4/5
        # class 2: one correct of 1 predicted and 2 true   F1 = 2*1 / (1 + 2) = 2/3
        ("mask", [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0], (1 / 2 + 4 / 5 + 2 / 3) / 3, 4 / 6),
        ("mask", [0, 1, 1], [0, 1, 1], 1, 1),  # class 2 is neither true nor predicted: it is left out
        ("gender", [0, 0], [0, 1], 1 / 3, 1 / 2),  # class 0 has F1 2*1 / (1 + 2) = 2/3, class 1 is only predicted: 0
        ("main", [4], [4], 1, 1),
        ("main", range(18), range(18), 1, 1),
    ],
)
def test_macro_f1_by_hand(task, true, predicted, macro_f1, accuracy):
    got = score(FACES[task], np.eye(FACES[task].outputs)[predicted], np.array(true))
    assert got == {"macro_f1": pytest.approx(macro_f1), "accuracy": pytest.approx(accuracy)}
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("classes", [range(18), range(3, 18), [7], [0, 1, 8]])
def test_macro_f1_is_that_of_scikit_learn_whatever_classes_are_absent(classes):
    random = np.random.default_rng(0)
    for predicted_classes in (classes, range(18), [7, 8]):
        true, predicted = (random.choice(list(names), 40) for names in (classes, predicted_classes))
        got = score(MAIN, np.eye(18)[predicted], true)["macro_f1"]
        assert got == pytest.approx(f1_score(true, predicted, average="macro"))
        absent, zero = absent_classes(MAIN, true, np.eye(18)[predicted])
        known = f1_score(true, predicted, average=None, labels=range(18), zero_division=np.nan)
        assert len(absent) == 18 - len(set(true))
        assert len(zero) == np.isfinite(known).sum() - len(set(true))


def test_ages_by_hand():
    # errors -2, +1, 0, -3 years: MAE = 6/4, RMSE = sqrt(14/4)
    predicted, true = np.array([[28.0], [31.0], [60.0], [57.0]], np.float32), np.array([30, 30, 60, 60])
    # groups predicted 0 1 2 1, true 1 1 2 2: F1 of 0 is 0, of 1 2*1/(2+2) = 1/2, of 2 2*1/(1+2) = 2/3
    wanted = {"macro_f1": (0 + 1 / 2 + 2 / 3) / 3, "accuracy": 2 / 4, "mae": 1.5, "rmse": math.sqrt(3.5)}
    got = score(AGE, predicted, true)
    assert got == pytest.approx(wanted)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_of_predictions_that_are_not_finite_are_nan(bad):
    classes = score(MASK, np.array([[0.1, bad, 0.2], [1, 0, 0]]), np.array([0, 0]))
    ages = score(AGE, np.array([[bad], [20.0]]), np.array([20, 20]))
    assert set(classes) == {"macro_f1", "accuracy"}
    assert set(ages) == {"macro_f1", "accuracy", "mae", "rmse"}
    assert all(math.isnan(value) for value in [*classes.values(), *ages.values()])
