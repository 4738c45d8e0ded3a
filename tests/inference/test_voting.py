"""The means and the vote against numbers worked out by hand. Members are (M members, N images, C classes)."""

import math

import numpy as np
import pytest

from inference.voting import geometric_mean, hard_vote, member_weights, weighted_mean

# Two members, two images, two classes.
A = [[0.9, 0.1], [0.5, 0.5]]
B = [[0.4, 0.6], [0.2, 0.8]]
PAIR = np.array([A, B])


@pytest.mark.parametrize(
    ("members", "years", "expected"),
    [
        # image 0: sqrt(0.9 * 0.4) = 0.6, sqrt(0.1 * 0.6) = 0.244949; scaled by their sum 0.844949
        # image 1: sqrt(0.5 * 0.2) = 0.316228, sqrt(0.5 * 0.8) = 0.632456: 1/3 and 2/3
        (PAIR, False, [[0.6 / 0.8449490, 0.2449490 / 0.8449490], [1 / 3, 2 / 3]]),
        # years are not scaled: sqrt(20 * 45) = 30
        ([[[20.0], [60.0]], [[45.0], [60.0]]], True, [[30.0], [60.0]]),
        # a negative age counts as one year: (1 * 40 * 25) ** (1 / 3) = 10
        ([[[-3.0]], [[40.0]], [[25.0]]], True, [[10.0]]),
        # zeros
        ([[[0.0, 1.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]], False, [[0.0, 1.0], [0.0, 1.0]]),
    ],
)
def test_geometric_mean(members, years, expected):
    assert geometric_mean(np.array(members), years=years) == pytest.approx(np.array(expected), abs=1e-5)


def test_a_zero_of_one_member_does_not_decide_alone():
    split = geometric_mean(np.array([[[1.0, 0.0, 0.0]], [[0.0, 0.02, 0.98]]]))
    assert split[0, 2] > split[0, 1]


def test_geometric_mean_of_many_small_float32_numbers_does_not_vanish():
    members = np.full((50, 1, 18), 1e-7, np.float32)
    members[:, :, 3] = 0.9
    assert geometric_mean(members)[0].argmax() == 3
    assert np.isfinite(geometric_mean(members)).all()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([3, 1], [[0.775, 0.225], [0.425, 0.575]]),  # (3 * 0.9 + 0.4) / 4 = 0.775, (3 * 0.5 + 0.2) / 4 = 0.425
        ([0.75, 0.25], [[0.775, 0.225], [0.425, 0.575]]),
        ([1, 1], [[0.65, 0.35], [0.35, 0.65]]),  # the arithmetic mean
        ([[3, 1], [1, 3]], [[0.775, 0.225], [0.275, 0.725]]),  # for each image: (0.5 + 3 * 0.2) / 4 = 0.275
    ],
)
def test_weighted_mean(weights, expected):
    assert weighted_mean(PAIR, np.array(weights)) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("scores", "higher_is_better", "expected"),
    [
        ([0.6, 0.2], True, [0.75, 0.25]),  # 0.6 / (0.6 + 0.2) = 0.75
        ([5.0, 15.0], False, [0.75, 0.25]),  # 1/5 : 1/15 = 3 : 1
        ([0.0, 5.0], False, [1, 0]),
        ([0.0, 0.4], True, [0, 1]),
    ],
)
def test_weights_are_in_proportion_to_scores_or_to_the_inverse_of_errors(scores, higher_is_better, expected):
    assert member_weights(scores, higher_is_better=higher_is_better) == pytest.approx(expected)


@pytest.mark.parametrize("scores", [[0.5, None], [None], [0.0, 0.0], [0.5, math.nan]])
def test_there_are_no_weights_without_scores(scores):
    assert member_weights(scores, higher_is_better=True) is None


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        # Two votes win, though class 0 has the larger mean (1.7 to 1.3).
        ([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.4, 0.6, 0.0]], 1),
        ([[0.1, 0.1, 0.8], [0.3, 0.2, 0.5], [0.0, 0.0, 1.0]], 2),
        # One vote each for class 0 and class 1. Means: 0 has (0.5 + 0.3) / 2 = 0.40, 1 has (0.1 + 0.4) / 2 = 0.25.
        ([[0.5, 0.1, 0.4], [0.3, 0.4, 0.3]], 0),
        ([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3]], 1),  # the sides changed
        # Two votes each for classes 0 and 1. Means: 0 has 1.10 / 4, 1 has 1.04 / 4; 2 has 1.86 / 4 and no vote.
        ([[0.55, 0.0, 0.45], [0.55, 0.0, 0.45], [0.0, 0.51, 0.49], [0.0, 0.53, 0.47]], 0),
        ([[0.55, 0.0, 0.45], [0.55, 0.0, 0.45], [0.0, 0.6, 0.4], [0.0, 0.53, 0.47]], 1),  # now 1 has 1.13 / 4
        ([[0.25, 0.5, 0.25], [0.25, 0.25, 0.5]], 1),  # equal means: the lower class
        ([[0.9, 0.1]], 0),  # one member
        ([[0.5, 0.5]], 0),
    ],
)
def test_a_vote_and_its_ties(members, expected):
    assert hard_vote(np.array(members)[:, None]).tolist() == [expected]


def test_a_vote_has_an_answer_for_each_image():
    assert hard_vote(np.array([[A[0], B[1]]])).tolist() == [0, 1]
