"""Labels and the records of the tasks."""

import pytest

from config import TrainConfig
from data.tasks import GENDERS, MAIN_CLASSES, MASKS, SHOTS, TASKS


def test_main_has_18_classes_in_the_order_of_the_attributes():
    assert len(MAIN_CLASSES) == len(set(MAIN_CLASSES)) == 18
    assert (MASKS, GENDERS) == (("worn", "wrong", "bare"), ("male", "female"))


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
    found = record.outputs, record.losses[0], record.monitor, record.higher_is_better
    assert found == (outputs, loss, monitor, higher)
    assert set(record.scores) == {"macro_f1", "accuracy", *(("mae", "rmse") if task == "age" else ())}
    assert TrainConfig(task=task).loss_type == loss
