"""Conversions between ages, attributes, class numbers and probabilities, against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from samples import decode_class, encode_class

from data.face_layout import age_group, filter_ages
from data.faces import AGE, AGE_GROUPS, FACES, GENDERS, MAIN, MAIN_CLASSES, MASK, MASKS
from data.label_math import (
    decode_classes,
    encode_classes,
    join_probabilities,
    make_targets,
    marginals,
    predicted_classes,
    range_shares,
)


@pytest.mark.parametrize("number", range(18))
def test_class_numbers_round_trip(number):
    mask, gender, group = decode_class(number)
    assert encode_class(mask, gender, group) == number
    assert MAIN_CLASSES[number] == f"{MASKS[mask]} {GENDERS[gender]} {AGE_GROUPS[group]}"


@pytest.mark.parametrize(
    ("gender", "mask", "numbers"),
    [
        ("male", "worn", (0, 1, 2)),
        ("male", "wrong", (6, 7, 8)),
        ("male", "bare", (12, 13, 14)),
        ("female", "worn", (3, 4, 5)),
        ("female", "wrong", (9, 10, 11)),
        ("female", "bare", (15, 16, 17)),
    ],
)
def test_class_table(gender, mask, numbers):
    named = tuple(MAIN_CLASSES.index(f"{mask} {gender} {group}") for group in ("<30", "30-59", ">=60"))
    encoded = tuple(encode_class(MASKS.index(mask), GENDERS.index(gender), group) for group in range(3))
    assert named == encoded == numbers


def test_arrays_of_classes_round_trip():
    classes = np.array([17, 0, 4, 4])
    attributes = decode_classes(MAIN, classes)
    assert {name: values.tolist() for name, values in attributes.items()} == {
        "mask": [2, 0, 0, 0],
        "gender": [1, 0, 1, 1],
        "ageg": [2, 0, 1, 1],
    }
    assert encode_classes(MAIN, attributes).tolist() == classes.tolist()


@pytest.mark.parametrize(("age", "group"), [(0, 0), (29, 0), (29.99, 0), (30, 1), (59, 1), (59.9, 1), (60, 2), (99, 2)])
def test_bounds_of_age_groups(age, group):
    assert age_group(age) == group
    assert age_group(np.array([[age]])).tolist() == [[group]]


def test_the_predicted_class_is_the_most_probable_one_or_the_age_group_of_the_years():
    assert predicted_classes(MASK, np.array([[0.2, 0.3, 0.25], [5.0, 1.0, 2.0]])).tolist() == [1, 0]
    years = np.array([[-4.0], [29.99], [30.0], [59.99], [60.0], [130.0]])
    assert predicted_classes(AGE, years).tolist() == [0, 0, 1, 1, 2, 2]


# ------------------------------------------------------------------------------------------------ targets


def people_table(ages) -> pd.DataFrame:
    """Rows without images: a man and a woman of each age, mask 0, 1, 2 in turn."""
    rows = [(age, gender) for age in ages for gender in (0, 1)]
    labels = {"gender": [gender for _, gender in rows], "age": [age for age, _ in rows]}
    return pd.DataFrame({"mask": np.arange(len(rows)) % 3, **labels, "ageg": [age_group(age) for age, _ in rows]})


def test_targets_of_every_task():
    targets = make_targets(people_table([18, 29, 30, 59, 60, 75]), FACES)
    assert set(targets) == {"main", "mask", "gender", "ageg", "age"}
    assert targets["ageg"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert targets["gender"].tolist() == [0, 1] * 6
    assert targets["mask"].tolist() == [0, 1, 2] * 4
    assert targets["age"].tolist() == [18, 18, 29, 29, 30, 30, 59, 59, 60, 60, 75, 75]
    by_hand = [6 * (k % 3) + 3 * (k % 2) + group for k, group in enumerate(targets["ageg"].tolist())]
    assert targets["main"].tolist() == by_hand
    assert all(targets[task].dtype == np.int64 for task in ("main", "mask", "gender", "ageg"))
    assert targets["age"].dtype == np.float32


@pytest.mark.parametrize("age_filter", [58, 59, 60, 31])
def test_the_age_filter_moves_people_into_the_oldest_group_and_keeps_their_years(age_filter):
    rows = people_table([20, 30, 31, 57, 58, 59, 60])
    before = rows.copy()
    targets, true = make_targets(filter_ages(rows, age_filter), FACES), make_targets(rows, FACES)
    for k, age in enumerate(rows["age"]):
        group = 2 if age >= age_filter else age_group(age)
        assert targets["ageg"][k] == group
        assert targets["main"][k] == encode_class(k % 3, k % 2, group)
    for task in ("age", "mask", "gender"):
        assert (targets[task] == true[task]).all()
    pd.testing.assert_frame_equal(rows, before)


# ------------------------------------------------------------------------------------------------ probabilities


def test_soft_age_groups_overlap_at_their_bounds():
    ages = np.array([20.0, 29.0, 30.0, 45.0, 58.0, 60.0, 80.0])
    shares = range_shares(ages, 2.0, AGE.bounds)
    assert shares.sum(axis=1) == pytest.approx(1)

    def below(bound, age):
        return 0.5 * (1 + math.erf((bound - age - 0.5) / 2 / math.sqrt(2)))

    assert shares[1].tolist() == pytest.approx([below(30, 29), 1 - below(30, 29), 0], abs=1e-9)
    assert shares[4].tolist() == pytest.approx([0, below(60, 58), 1 - below(60, 58)], abs=1e-9)
    assert shares.argmax(axis=1).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert range_shares(np.array([56.0]), 1.0, (30, 55)).argmax() == 2


def random_probabilities(outputs, count=7):
    values = np.random.default_rng(outputs).random((count, outputs))
    return values / values.sum(axis=1, keepdims=True)


def test_attributes_alone_are_independent():
    mask, gender, ageg = random_probabilities(3), random_probabilities(2), random_probabilities(3)[::-1]
    parts = {"mask": mask, "gender": gender, "ageg": ageg}
    joined = join_probabilities(MAIN, None, parts)
    for number in range(18):
        own = decode_class(number)
        expected = mask[:, own[0]] * gender[:, own[1]] * ageg[:, own[2]]
        assert joined[:, number] == pytest.approx(expected)


def test_an_attribute_replaces_its_marginal():
    base = random_probabilities(18)
    assert join_probabilities(MAIN, base, marginals(MAIN, base)) == pytest.approx(base)
    ages = random_probabilities(3)
    joined = join_probabilities(MAIN, base, {"ageg": ages})
    assert marginals(MAIN, joined)["ageg"] == pytest.approx(ages)
    # Within one age group the other attributes keep their proportions.
    before, after = (each.reshape(-1, 3, 2, 3)[..., 1] for each in (base, joined))
    before, after = (each / each.sum(axis=(1, 2), keepdims=True) for each in (before, after))
    assert after == pytest.approx(before)
