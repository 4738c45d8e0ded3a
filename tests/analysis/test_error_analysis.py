"""Where a model fails, against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import error_analysis as mistakes
from analysis.error_analysis import Predictions, split_predictions
from data.label_math import decode_class, encode_class


def answers(labels, predicted, task="mask"):
    return Predictions(task, np.array(labels), np.array(predicted))


def sure(confidences, predicted, count=2):
    """Probabilities (N, count) whose highest is the confidence, of the predicted class."""
    rows = np.repeat(((1 - np.array(confidences)) / (count - 1))[:, None], count, axis=1)
    rows[np.arange(len(predicted)), predicted] = confidences
    return rows


# ------------------------------------------------------------------------------------------------ questions


def test_main_also_answers_its_attributes_by_their_marginal_probabilities():
    # "worn male <30" is the single most probable class, but female has more in sum.
    probabilities = np.zeros((1, 18))
    probabilities[0, encode_class(0, 0, 0)] = 0.4
    probabilities[0, encode_class(0, 1, 1)] = probabilities[0, encode_class(1, 1, 2)] = 0.3
    predicted = split_predictions("main", np.array([encode_class(2, 1, 1)]), probabilities)
    assert list(predicted) == ["main", "mask", "gender", "ageg"]
    assert predicted["main"].predicted == encode_class(0, 0, 0)
    assert predicted["mask"].probabilities[0] == pytest.approx([0.7, 0.3, 0])
    assert predicted["gender"].probabilities[0] == pytest.approx([0.4, 0.6])
    assert predicted["ageg"].probabilities[0] == pytest.approx([0.4, 0.3, 0.3])
    assert [int(each.labels[0]) for each in predicted.values()] == [encode_class(2, 1, 1), 2, 1, 1]
    assert [bool(each.wrong[0]) for each in predicted.values()] == [True, True, False, True]


def test_attributes_are_those_of_decode_class():
    labels = np.arange(18)
    predicted = split_predictions("main", labels, np.eye(18))
    attributes = zip(*(predicted[name].labels.tolist() for name in ("mask", "gender", "ageg")), strict=True)
    assert list(attributes) == [decode_class(k) for k in range(18)]
    assert not any(each.wrong.any() for each in predicted.values())


def test_years_answer_the_age_group():
    predicted = split_predictions("age", np.array([29, 59, 60]), np.array([[31.0], [59.9], [60.0]]))
    assert list(predicted) == ["ageg"]
    assert mistakes.confusion(predicted["ageg"]).tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("task", ["mask", "gender", "ageg"])
def test_other_tasks_are_one_question(task):
    predicted = split_predictions(task, np.array([0, 1]), np.eye(3)[:2, : 2 if task == "gender" else 3])
    assert list(predicted) == [task]
    assert predicted[task].classes[0] in ("worn", "male", "<30")


# ------------------------------------------------------------------------------------------------ classes


def test_confusion_and_scores_of_each_class():
    each = answers([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0])
    assert mistakes.confusion(each).tolist() == [[2, 1, 0], [2, 1, 0], [0, 0, 0]]
    table = mistakes.class_scores(each).set_index("class")
    assert table.loc["worn"].tolist() == pytest.approx([2 / 4, 2 / 3, 4 / 7, 3])
    assert table.loc["wrong"].tolist() == pytest.approx([1 / 2, 1 / 3, 2 / 5, 3])
    assert table.loc["bare"].tolist() == [0, 0, 0, 0]


def test_an_attribute_costs_what_putting_it_right_would_win():
    labels = np.arange(18)
    genders_swapped = [encode_class(mask, 1 - gender, group) for mask, gender, group in map(decode_class, range(18))]
    table = mistakes.attribute_costs(answers(labels, genders_swapped, "main")).set_index("attribute")
    assert table["macro_f1"].tolist() == [0, 0, 0]
    assert table["if_right"].to_dict() == {"mask": 0, "gender": 1, "ageg": 0}
    assert table["cost"].to_dict() == {"mask": 0, "gender": 1, "ageg": 0}


def test_two_wrong_attributes_cost_nothing_one_by_one():
    label, other = encode_class(0, 0, 0), encode_class(0, 1, 1)
    table = mistakes.attribute_costs(answers([label], [other], "main"))
    assert table["cost"].tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------------ calibration


def test_reliability_in_bins_of_equal_count():
    confidence, right = [0.6, 0.7, 0.9, 1.0], [True, False, True, True]
    predicted = np.array([0, 1, 0, 1])
    labels = np.where(right, predicted, 1 - predicted)
    table = mistakes.reliability(Predictions("gender", labels, predicted, sure(confidence, predicted)), bins=2)
    assert table["count"].tolist() == [2, 2]
    assert table["low"].tolist() == pytest.approx([0.6, 0.9])
    assert table["high"].tolist() == pytest.approx([0.7, 1.0])
    assert table["confidence"].tolist() == pytest.approx([0.65, 0.95])
    assert table["accuracy"].tolist() == [0.5, 1]
    assert mistakes.calibration_error(table) == pytest.approx((0.15 + 0.05) / 2)


def test_the_same_confidence_is_in_one_bin_whatever_the_order():
    predicted = np.zeros(6, dtype=int)
    labels = np.array([0, 0, 0, 1, 1, 1])
    tables = [
        mistakes.reliability(Predictions("gender", labels[order], predicted, sure([1.0] * 6, predicted)), bins=3)
        for order in (np.arange(6), np.arange(6)[::-1])
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["accuracy"].tolist() == [0.5]
    assert mistakes.calibration_error(tables[0]) == 0.5


# ------------------------------------------------------------------------------------------------ age


def test_errors_over_true_age_count_people():
    # One of 30 to 34 with all of 3 photographs wrong, one with its only one right; one of 29.
    each = {"gender": answers([0, 0, 0, 1, 1], [1, 1, 1, 1, 1], "gender")}
    table = mistakes.errors_by_age(each, np.array([30, 30, 30, 34, 29]), np.array(["a", "a", "a", "b", "c"]))
    assert table[["task", "low_age", "high_age", "people", "images"]].to_numpy().tolist() == [
        ["gender", 25, 29, 1, 1],
        ["gender", 30, 34, 2, 4],
    ]
    assert table["wrong"].tolist() == [0, 0.5]
    # Wilson's interval of 1 of 2: 0.095 to 0.905.
    assert table.loc[1, ["low", "high"]].tolist() == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert table.loc[0, "low"] == 0


def test_errors_in_years_over_true_age():
    table = mistakes.year_errors(np.array([30, 31, 60]), np.array([33.0, 30.0, 50.0]), np.array(["a", "b", "c"]))
    assert table["low_age"].tolist() == [30, 60]
    assert table["mean_error"].tolist() == [1, -10]
    assert table["mae"].tolist() == [2, 10]


# ------------------------------------------------------------------------------------------------ single mistakes


def test_the_most_confident_mistakes_are_one_row_a_person_and_pair():
    predicted = np.array([1, 1, 0, 1, 1])
    each = Predictions("gender", np.array([0, 0, 1, 0, 1]), predicted, sure([0.7, 0.9, 0.8, 0.6, 1.0], predicted))
    images = ["a/1", "a/2", "b/1", "c/1", "d/1"]
    table = mistakes.confident_mistakes(each, images, ["a", "a", "b", "c", "d"])
    assert table["ImageID"].tolist() == ["a/2", "b/1", "c/1"]
    assert table[["label", "pred", "images"]].to_numpy().tolist() == [[0, 1, 2], [1, 0, 1], [0, 1, 1]]
    assert table["confidence"].tolist() == pytest.approx([0.9, 0.8, 0.6])


def test_no_mistakes_are_an_empty_table():
    each = Predictions("gender", np.array([0]), np.array([0]), np.array([[1.0, 0.0]]))
    table = mistakes.confident_mistakes(each, ["a/1"], ["a"])
    assert isinstance(table, pd.DataFrame)
    assert table.empty
    assert "confidence" in table


def test_the_largest_errors_in_years():
    table = mistakes.largest_errors(
        np.array([30, 30, 60]), np.array([33.0, 26.0, 50.0]), ["a/1", "a/2", "b/1"], ["a", "a", "b"]
    )
    assert table["ImageID"].tolist() == ["b/1", "a/2"]
    assert table["error"].tolist() == [10, 4]
