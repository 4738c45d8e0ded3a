"""Class numbers, names, bounds of the age groups, and the records of the tasks."""

from __future__ import annotations

import pytest

from config import TrainConfig
from data.label_math import age_group, decode_class, encode_class
from data.tasks import AGE_GROUPS, GENDERS, MAIN_CLASSES, MASKS, SHOTS, TASKS


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


def test_main_has_18_classes_in_the_order_of_the_attributes():
    assert len(MAIN_CLASSES) == len(set(MAIN_CLASSES)) == 18
    assert (MASKS, GENDERS) == (("worn", "wrong", "bare"), ("male", "female"))


@pytest.mark.parametrize(("age", "group"), [(0, 0), (29, 0), (29.99, 0), (30, 1), (59, 1), (59.9, 1), (60, 2), (99, 2)])
def test_bounds_of_age_groups(age, group):
    assert age_group(age) == group


def test_shots_are_the_stems_of_the_competition():
    assert [SHOTS[f"mask{i}"] for i in range(1, 6)] == ["worn"] * 5
    assert (SHOTS["incorrect_mask"], SHOTS["normal"], len(SHOTS)) == ("wrong", "bare", 7)


@pytest.mark.parametrize(
    ("task", "outputs", "loss", "monitor", "higher"),
    [
        ("main", 18, "labelsmoothingloss", "macro_f1", True),
        ("mask", 3, "labelsmoothingloss", "macro_f1", True),
        ("gender", 2, "labelsmoothingloss", "macro_f1", True),
        ("ageg", 3, "labelsmoothingloss", "macro_f1", True),
        ("age", 1, "mseloss", "rmse", False),
    ],
)
def test_tasks(task, outputs, loss, monitor, higher):
    record = TASKS[task]
    assert (record.outputs, record.losses[0], record.monitor, record.higher_is_better) == (
        outputs,
        loss,
        monitor,
        higher,
    )
    assert TrainConfig(task=task).loss_type == loss


def test_scores_of_age_and_of_classes():
    assert set(TASKS["age"].scores) == {"mae", "rmse", "macro_f1", "accuracy"}
    assert set(TASKS["main"].scores) == {"macro_f1", "accuracy"}
