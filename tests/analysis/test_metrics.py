"""Scores against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.metrics import score
from data.label_math import age_group_shares, decode_class, join_probabilities, marginals, predicted_class


def sure_of(classes, count):
    """Probabilities (N, count) of a network that is sure of these classes."""
    return np.eye(count)[classes]


def test_macro_f1_by_hand():
    # true 0 0 1 1 2 2, told 0 1 1 1 2 0:
    #   class 0: one hit of 2 told and 2 true   F1 = 2*1 / (2 + 2) = 1/2
    #   class 1: two hits of 3 told and 2 true  F1 = 2*2 / (3 + 2) = 4/5
    #   class 2: one hit of 1 told and 2 true   F1 = 2*1 / (1 + 2) = 2/3
    got = score("mask", sure_of([0, 1, 1, 1, 2, 0], 3), np.array([0, 0, 1, 1, 2, 2]))
    assert got["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    assert got["accuracy"] == pytest.approx(4 / 6)
    assert set(got) == {"macro_f1", "accuracy"}


def test_a_class_without_an_image_counts_0():
    # Class 2 is neither true nor told: F1 0 of it, 1 of the other two.
    got = score("mask", sure_of([0, 1, 1], 3), np.array([0, 1, 1]))
    assert got["macro_f1"] == pytest.approx(2 / 3)
    assert got["accuracy"] == 1


def test_main_is_over_all_18_classes():
    assert score("main", sure_of([4], 18), np.array([4]))["macro_f1"] == pytest.approx(1 / 18)
    everything = np.arange(18)
    assert score("main", sure_of(everything, 18), everything) == {"macro_f1": 1, "accuracy": 1}


def test_a_class_that_is_only_told_counts_0():
    # true 0 0, told 0 1: class 0 F1 = 2*1 / (1 + 2) = 2/3, class 1 F1 = 0
    assert score("gender", sure_of([0, 1], 2), np.array([0, 0]))["macro_f1"] == pytest.approx(1 / 3)


def test_scores_are_plain_numbers():
    assert all(type(value) is float for value in score("gender", sure_of([0, 1], 2), np.array([0, 1])).values())
    assert all(type(value) is float for value in score("age", np.array([[20.0]]), np.array([20])).values())


def test_the_most_probable_class_is_told_whatever_the_scale():
    assert predicted_class("mask", np.array([[0.2, 0.3, 0.25], [5.0, 1.0, 2.0]])).tolist() == [1, 0]


def test_ages_by_hand():
    # errors -2, +1, 0, -3 years: MAE = 6/4, RMSE = sqrt(14/4)
    told, true = np.array([[28.0], [31.0], [60.0], [57.0]], np.float32), np.array([30, 30, 60, 60])
    got = score("age", told, true)
    assert got["mae"] == pytest.approx(1.5)
    assert got["rmse"] == pytest.approx(math.sqrt(3.5))
    # groups told 0 1 2 1, true 1 1 2 2: F1 of 0 is 0, of 1 2*1/(2+2) = 1/2, of 2 2*1/(1+2) = 2/3
    assert got["macro_f1"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert got["accuracy"] == pytest.approx(2 / 4)


def test_age_groups_change_at_30_and_60_years():
    years = np.array([[-4.0], [29.99], [30.0], [59.99], [60.0], [130.0]])
    assert predicted_class("age", years).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_of_what_is_not_a_number_are_nan(bad):
    classes = score("mask", np.array([[0.1, bad, 0.2], [1, 0, 0]]), np.array([0, 0]))
    ages = score("age", np.array([[bad], [20.0]]), np.array([20, 20]))
    assert set(classes) == {"macro_f1", "accuracy"}
    assert set(ages) == {"macro_f1", "accuracy", "mae", "rmse"}
    assert all(math.isnan(value) for value in [*classes.values(), *ages.values()])


# ------------------------------------------------------------------------------------------------ attributes joined


def test_age_groups_are_shared_about_their_bounds():
    ages = np.array([20.0, 29.0, 30.0, 45.0, 58.0, 60.0, 80.0])
    shares = age_group_shares(ages, 2.0)
    assert shares.sum(axis=1) == pytest.approx(1)

    def below(bound, age):
        return 0.5 * (1 + math.erf((bound - age - 0.5) / 2 / math.sqrt(2)))

    assert shares[1].tolist() == pytest.approx([below(30, 29), 1 - below(30, 29), 0], abs=1e-9)
    assert shares[4].tolist() == pytest.approx([0, below(60, 58), 1 - below(60, 58)], abs=1e-9)
    assert shares.argmax(axis=1).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert age_group_shares(np.array([56.0]), 1.0, (30, 55)).argmax() == 2


def some_answers(outputs, count=7):
    values = np.random.default_rng(outputs).random((count, outputs))
    return values / values.sum(axis=1, keepdims=True)


def test_attributes_alone_are_independent():
    parts = {"mask": some_answers(3), "gender": some_answers(2), "ageg": some_answers(3)[::-1]}
    joined = join_probabilities(None, parts)
    for number in range(18):
        mask, gender, group = decode_class(number)
        expected = parts["mask"][:, mask] * parts["gender"][:, gender] * parts["ageg"][:, group]
        assert joined[:, number] == pytest.approx(expected)


def test_an_attribute_takes_the_place_of_what_the_classes_said_of_it():
    base = some_answers(18)
    own = marginals(base)
    assert join_probabilities(base, own) == pytest.approx(base)
    ages = some_answers(3)
    joined = join_probabilities(base, {"ageg": ages})
    assert marginals(joined)["ageg"] == pytest.approx(ages)
    # and of people of one age group the others are what they were
    before, after = (each.reshape(-1, 3, 2, 3)[..., 1] for each in (base, joined))
    assert after / after.sum(axis=(1, 2), keepdims=True) == pytest.approx(
        before / before.sum(axis=(1, 2), keepdims=True)
    )
