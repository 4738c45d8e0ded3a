"""Test the error analysis against cases counted by hand."""

import numpy as np
import pandas as pd
import pytest
from samples import decode_class, encode_class

from analysis import error_analysis as analysis
from analysis.error_analysis import Predictions, split_predictions
from data.faces import AGE, FACES, GENDER, MAIN


def make_predictions(labels, predicted, task="mask"):
    return Predictions(FACES[task], np.array(labels), np.array(predicted))


def predict_genders(labels, female):
    """Return predictions of gender with these probabilities of female."""
    return split_predictions(GENDER, np.array(labels), np.stack([1 - np.array(female), female], axis=1))["gender"]


def test_main_implies_its_attributes_by_their_marginal_probabilities():
    # "worn male <30" is the single most probable class, but the probabilities of female have the larger sum.
    probabilities = np.zeros((1, 18))
    probabilities[0, encode_class(0, 0, 0)] = 0.4
    probabilities[0, encode_class(0, 1, 1)] = probabilities[0, encode_class(1, 1, 2)] = 0.3
    predicted = split_predictions(MAIN, np.array([encode_class(2, 1, 1)]), probabilities)
    assert list(predicted) == ["main", "mask", "gender", "ageg"]
    assert predicted["main"].predicted == encode_class(0, 0, 0)
    assert predicted["mask"].probabilities[0] == pytest.approx([0.7, 0.3, 0])
    assert predicted["gender"].probabilities[0] == pytest.approx([0.4, 0.6])
    assert predicted["ageg"].probabilities[0] == pytest.approx([0.4, 0.3, 0.3])
    assert [int(each.labels[0]) for each in predicted.values()] == [encode_class(2, 1, 1), 2, 1, 1]
    assert [bool(each.wrong[0]) for each in predicted.values()] == [True, True, False, True]


def test_attributes_match_decode_class():
    labels = np.arange(18)
    predicted = split_predictions(MAIN, labels, np.eye(18))
    attributes = zip(*(predicted[name].labels.tolist() for name in ("mask", "gender", "ageg")), strict=True)
    assert list(attributes) == [decode_class(k) for k in range(18)]
    assert not any(each.wrong.any() for each in predicted.values())


def test_years_imply_the_age_group():
    predicted = split_predictions(AGE, np.array([29, 59, 60]), np.array([[31.0], [59.9], [60.0]]))
    assert list(predicted) == ["ageg"]
    assert analysis.confusion(predicted["ageg"]).tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("task", ["mask", "gender", "ageg"])
def test_other_tasks_imply_no_more_tasks(task):
    predicted = split_predictions(FACES[task], np.array([0, 1]), np.eye(3)[:2, : 2 if task == "gender" else 3])
    assert list(predicted) == [task]
    assert predicted[task].classes[0] in ("worn", "male", "<30")


def test_confusion_and_scores_of_each_class():
    each = make_predictions([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0])
    assert analysis.confusion(each).tolist() == [[2, 1, 0], [2, 1, 0], [0, 0, 0]]
    table = analysis.class_scores(each).set_index("class")
    assert table.loc["worn"].tolist() == pytest.approx([2 / 4, 2 / 3, 4 / 7, 3])
    assert table.loc["wrong"].tolist() == pytest.approx([1 / 2, 1 / 3, 2 / 5, 3])
    assert table.loc["bare"].tolist() == pytest.approx([0, 0, np.nan, 0], nan_ok=True)


def test_the_cost_of_an_attribute_is_the_gain_from_correcting_it_alone():
    labels = np.arange(18)
    genders_swapped = [encode_class(mask, 1 - gender, group) for mask, gender, group in map(decode_class, range(18))]
    table = analysis.attribute_costs(make_predictions(labels, genders_swapped, "main")).set_index("attribute")
    assert table["macro_f1"].tolist() == [0, 0, 0]
    assert table["if_right"].to_dict() == {"mask": 0, "gender": 1, "age group": 0}
    assert table["cost"].to_dict() == {"mask": 0, "gender": 1, "age group": 0}
    two_wrong = make_predictions([encode_class(0, 0, 0)], [encode_class(0, 1, 1)], "main")
    assert analysis.attribute_costs(two_wrong)["cost"].tolist() == [0, 0, 0]


def test_reliability_in_bins_of_equal_count():
    table = analysis.reliability(predict_genders([0, 0, 0, 1], [0.4, 0.7, 0.1, 1.0]), bins=2)
    assert table["count"].tolist() == [2, 2]
    assert table["confidence"].tolist() == pytest.approx([0.65, 0.95])
    assert table["accuracy"].tolist() == [0.5, 1]
    assert analysis.calibration_error(table) == pytest.approx((0.15 + 0.05) / 2)


def test_images_of_equal_confidence_share_a_bin_in_any_order():
    orders = ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    tables = [analysis.reliability(predict_genders(labels, [0.0] * 6), bins=3) for labels in orders]
    assert tables[0].equals(tables[1])
    assert tables[0]["accuracy"].tolist() == [0.5]
    assert analysis.calibration_error(tables[0]) == 0.5


def test_errors_by_age_are_means_over_people():
    # Person a, aged 30, has 3 wrong images; b, aged 34, has a right one; c, aged 29, has a right one.
    each = {"gender": make_predictions([0, 0, 0, 1, 1], [1, 1, 1, 1, 1], "gender")}
    table = analysis.errors_by_age(each, np.array([30, 30, 30, 34, 29]), np.array(["a", "a", "a", "b", "c"]))
    assert table[["task", "age"]].to_numpy().tolist() == [["gender", 27.5], ["gender", 32.5]]
    assert table["wrong"].tolist() == [0, 0.5]
    # Wilson's interval of 1 of 2: 0.095 to 0.905.
    assert table.loc[1, ["low", "high"]].tolist() == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert table.loc[0, "low"] == 0


def make_oof(people, labels, years):
    """Return rows of oof.csv with predicted years, images 0, 1, ..."""
    return pd.DataFrame({"ImageID": map(str, range(len(people))), "person": people, "label": labels, "p0": years})


def test_year_errors_by_hand():
    table = analysis.year_errors(make_oof(["a", "b", "c"], [30, 31, 60], [33.0, 30.0, 50.0]))
    assert table["age"].tolist() == [32.5, 62.5]
    assert table["mean_error"].tolist() == [1, -10]
    assert table["mae"].tolist() == [2, 10]


def test_confident_mistakes_have_one_row_per_person_and_pair_of_classes():
    each = predict_genders([0, 0, 1, 0, 1], [0.7, 0.9, 0.2, 0.6, 1.0])
    oof = pd.DataFrame({"ImageID": [*"vwxyz"], "person": [*"aabcd"]})
    table = analysis.confident_mistakes(each, oof)
    assert table["ImageID"].tolist() == ["w", "x", "y"]
    assert table[["label", "pred", "images"]].to_numpy().tolist() == [[0, 1, 2], [1, 0, 1], [0, 1, 1]]
    assert table["confidence"].tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert analysis.confident_mistakes(predict_genders([0] * 5, [0.0] * 5), oof).empty


def test_largest_errors_have_one_row_per_person():
    table = analysis.largest_errors(make_oof(["a", "a", "b"], [30, 30, 60], [33.0, 26.0, 50.0]))
    assert table[["ImageID", "pred", "error"]].to_numpy().tolist() == [["2", 50, 10], ["1", 26, 4]]
