"""The means and the vote against numbers worked out by hand. Members are (M members, N images, C classes)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inference.voting import geometric_mean, hard_vote, member_weights, weighted_mean

# Two members, two images, two classes.
A = [[0.9, 0.1], [0.5, 0.5]]
B = [[0.4, 0.6], [0.2, 0.8]]
PAIR = np.array([A, B])


def test_geometric_mean():
    # image 0: sqrt(0.9 * 0.4) = 0.6, sqrt(0.1 * 0.6) = 0.244949; scaled by their sum 0.844949
    # image 1: sqrt(0.5 * 0.2) = 0.316228, sqrt(0.5 * 0.8) = 0.632456: 1/3 and 2/3
    expected = [[0.6 / 0.8449490, 0.2449490 / 0.8449490], [1 / 3, 2 / 3]]
    assert geometric_mean(PAIR) == pytest.approx(np.array(expected), abs=1e-6)


def test_geometric_mean_of_years_is_not_scaled():
    # sqrt(20 * 45) = 30
    years = np.array([[[20.0], [60.0]], [[45.0], [60.0]]])
    assert geometric_mean(years, years=True) == pytest.approx(np.array([[30.0], [60.0]]))


def test_one_negative_age_does_not_drag_the_geometric_mean_to_nothing():
    # it counts as one year: (1 * 40 * 25) ** (1 / 3) = 10
    years = np.array([[[-3.0]], [[40.0]], [[25.0]]])
    assert geometric_mean(years, years=True) == pytest.approx(np.array([[10.0]]))


def test_geometric_mean_with_zeros():
    members = np.array([[[0.0, 1.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]])
    got = geometric_mean(members)
    assert np.isfinite(got).all()
    assert got.sum(axis=1) == pytest.approx(np.ones(2))
    assert got[:, 0] == pytest.approx(np.zeros(2), abs=1e-5)
    # A zero of one member is not the last word: the other one still prefers class 2 to class 1.
    split = geometric_mean(np.array([[[1.0, 0.0, 0.0]], [[0.0, 0.02, 0.98]]]))
    assert split[0, 2] > split[0, 1]


def test_geometric_mean_of_many_small_float32_numbers_does_not_vanish():
    members = np.full((50, 1, 18), 1e-7, np.float32)
    members[:, :, 3] = 0.9
    assert geometric_mean(members)[0].argmax() == 3
    assert np.isfinite(geometric_mean(members)).all()


def test_weighted_mean():
    # weights 3 : 1: (3 * 0.9 + 0.4) / 4 = 0.775, (3 * 0.5 + 0.2) / 4 = 0.425
    expected = np.array([[0.775, 0.225], [0.425, 0.575]])
    assert weighted_mean(PAIR, np.array([3, 1])) == pytest.approx(expected)
    assert weighted_mean(PAIR, np.array([0.75, 0.25])) == pytest.approx(expected)


def test_equal_weights_are_the_arithmetic_mean():
    # (0.9 + 0.4) / 2 = 0.65, (0.5 + 0.2) / 2 = 0.35
    assert weighted_mean(PAIR, np.ones(2)) == pytest.approx(np.array([[0.65, 0.35], [0.35, 0.65]]))


def test_weights_are_in_proportion_to_scores():
    # 0.6 / (0.6 + 0.2) = 0.75
    assert member_weights([0.6, 0.2], higher_is_better=True) == pytest.approx([0.75, 0.25])


def test_weights_are_in_proportion_to_the_inverse_of_errors():
    # 1/5 : 1/15 = 3 : 1
    assert member_weights([5.0, 15.0], higher_is_better=False) == pytest.approx([0.75, 0.25])


def test_an_error_of_nothing_takes_all_the_weight():
    assert member_weights([0.0, 5.0], higher_is_better=False) == pytest.approx([1, 0])


@pytest.mark.parametrize("scores", [[0.5, None], [None], [0.0, 0.0], [0.5, math.nan]])
def test_there_are_no_weights_without_scores(scores):
    assert member_weights(scores, higher_is_better=True) is None


def test_a_member_that_scored_0_has_no_weight():
    assert member_weights([0.0, 0.4], higher_is_better=True) == pytest.approx([0, 1])


def test_vote():
    # image 0: classes 0, 1, 1 are chosen: 1 wins with two votes, though 0 has the larger mean (1.7 to 1.3)
    # image 1: 2, 2, 2
    members = np.array(
        [
            [[0.9, 0.1, 0.0], [0.1, 0.1, 0.8]],
            [[0.4, 0.6, 0.0], [0.3, 0.2, 0.5]],
            [[0.4, 0.6, 0.0], [0.0, 0.0, 1.0]],
        ]
    )
    assert hard_vote(members).tolist() == [1, 2]


def test_a_tie_goes_to_the_tied_class_with_the_larger_mean_probability():
    # One vote each for class 0 and class 1. Means: 0 has (0.5 + 0.3) / 2 = 0.40, 1 has (0.1 + 0.4) / 2 = 0.25.
    assert hard_vote(np.array([[[0.5, 0.1, 0.4]], [[0.3, 0.4, 0.3]]])).tolist() == [0]
    # The same with the sides changed.
    assert hard_vote(np.array([[[0.1, 0.5, 0.4]], [[0.4, 0.3, 0.3]]])).tolist() == [1]


def test_only_tied_classes_take_part_in_a_tie():
    # Two votes each for classes 0 and 1. Means: 0 has 1.10 / 4, 1 has 1.04 / 4; 2 has 1.86 / 4 and no vote.
    members = np.array([[[0.55, 0.0, 0.45]], [[0.55, 0.0, 0.45]], [[0.0, 0.51, 0.49]], [[0.0, 0.53, 0.47]]])
    assert hard_vote(members).tolist() == [0]
    members[2, 0] = [0.0, 0.6, 0.4]  # now class 1 has 1.13 / 4
    assert hard_vote(members).tolist() == [1]


def test_a_tie_of_equal_means_goes_to_the_lower_class():
    assert hard_vote(np.array([[[0.25, 0.5, 0.25]], [[0.25, 0.25, 0.5]]])).tolist() == [1]


def test_a_vote_of_one_member_is_its_choice():
    assert hard_vote(PAIR[:1]).tolist() == [0, 0]


def test_every_method_agrees_with_members_that_agree():
    same = np.array([A, A, A])
    for got in (geometric_mean(same), weighted_mean(same, np.array([0.2, 0.5, 0.3]))):
        assert got == pytest.approx(np.array(A))
