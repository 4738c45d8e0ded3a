"""Test the scores against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.metrics import score


def one_hot(classes, count):
    """Return probabilities `(N, count)` with 1 for these classes."""
    return np.eye(count)[classes]


def test_macro_f1_by_hand():
    # true 0 0 1 1 2 2, predicted 0 1 1 1 2 0:
    #   class 0: one correct of 2 predicted and 2 true   F1 = 2*1 / (2 + 2) = 1/2
    #   class 1: two correct of 3 predicted and 2 true  F1 = 2*2 / (3 + 2) = 4/5
    #   class 2: one correct of 1 predicted and 2 true   F1 = 2*1 / (1 + 2) = 2/3
    got = score("mask", one_hot([0, 1, 1, 1, 2, 0], 3), np.array([0, 0, 1, 1, 2, 2]))
    assert got["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    assert got["accuracy"] == pytest.approx(4 / 6)
    assert set(got) == {"macro_f1", "accuracy"}


def test_a_class_without_images_counts_0():
    # Class 2 is neither true nor predicted: it has F1 0, the others 1.
    got = score("mask", one_hot([0, 1, 1], 3), np.array([0, 1, 1]))
    assert got["macro_f1"] == pytest.approx(2 / 3)
    assert got["accuracy"] == 1


def test_macro_f1_of_main_is_the_mean_over_18_classes():
    assert score("main", one_hot([4], 18), np.array([4]))["macro_f1"] == pytest.approx(1 / 18)
    classes = np.arange(18)
    assert score("main", one_hot(classes, 18), classes) == {"macro_f1": 1, "accuracy": 1}


def test_a_class_that_is_only_predicted_counts_0():
    # true 0 0, predicted 0 1: class 0 F1 = 2*1 / (1 + 2) = 2/3, class 1 F1 = 0
    assert score("gender", one_hot([0, 1], 2), np.array([0, 0]))["macro_f1"] == pytest.approx(1 / 3)


def test_scores_are_python_floats():
    assert all(type(value) is float for value in score("gender", one_hot([0, 1], 2), np.array([0, 1])).values())
    assert all(type(value) is float for value in score("age", np.array([[20.0]]), np.array([20])).values())


def test_ages_by_hand():
    # errors -2, +1, 0, -3 years: MAE = 6/4, RMSE = sqrt(14/4)
    predicted, true = np.array([[28.0], [31.0], [60.0], [57.0]], np.float32), np.array([30, 30, 60, 60])
    got = score("age", predicted, true)
    assert got["mae"] == pytest.approx(1.5)
    assert got["rmse"] == pytest.approx(math.sqrt(3.5))
    # groups predicted 0 1 2 1, true 1 1 2 2: F1 of 0 is 0, of 1 2*1/(2+2) = 1/2, of 2 2*1/(1+2) = 2/3
    assert got["macro_f1"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert got["accuracy"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_of_predictions_that_are_not_finite_are_nan(bad):
    classes = score("mask", np.array([[0.1, bad, 0.2], [1, 0, 0]]), np.array([0, 0]))
    ages = score("age", np.array([[bad], [20.0]]), np.array([20, 20]))
    assert set(classes) == {"macro_f1", "accuracy"}
    assert set(ages) == {"macro_f1", "accuracy", "mae", "rmse"}
    assert all(math.isnan(value) for value in [*classes.values(), *ages.values()])
