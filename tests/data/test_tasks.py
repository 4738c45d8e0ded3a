"""Labels and the records of the tasks."""

from itertools import product

import pytest

from cli.choices import MODELS
from config import TrainConfig
from data.faces import AGE, AGE_GROUP, AGE_GROUPS, FACES, GENDER, GENDERS, MAIN, MAIN_CLASSES, MASK, MASKS, SHOTS
from data.tasks import Task, Tasks
from model import create_model

COLOUR, SIZE = Task("colour", "colour", ("red", "green")), Task("size", "size", ("small", "medium", "large"))
WEIGHT = Task("weight", "weight in g", SIZE.classes, bounds=(10, 20), ranges=SIZE, regression=True)


def test_main_has_18_classes_in_the_order_of_the_attributes():
    assert len(MAIN_CLASSES) == len(set(MAIN_CLASSES)) == 18
    assert (MASKS, GENDERS) == (("worn", "wrong", "bare"), ("male", "female"))
    assert [part.classes for part in MAIN.parts] == [MASKS, GENDERS, AGE_GROUPS]
    assert MAIN.classes == tuple(map(" ".join, product(*(part.classes for part in MAIN.parts))))


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
    record = FACES[task]
    found = record.outputs, record.losses[0], record.monitor, record.higher_is_better
    assert found == (outputs, loss, monitor, higher)
    assert set(record.shown) == {"macro_f1", "accuracy", *(("mae", "rmse") if task == "age" else ())}
    assert TrainConfig(task=task).loss_type == loss
    assert TrainConfig(task=task).record is record


def test_the_face_tasks_are_named_in_the_order_of_help():
    assert list(FACES) == ["main", "mask", "gender", "ageg", "age"]
    assert list(FACES.values()) == [MAIN, MASK, GENDER, AGE_GROUP, AGE]
    titles = ["mask, gender and age group", "mask", "gender", "age group", "age in years"]
    assert [task.title for task in FACES.values()] == titles


def test_what_follows_from_the_face_tasks():
    assert FACES.default is MAIN
    assert FACES.attributes == MAIN.parts == (MASK, GENDER, AGE_GROUP)
    assert FACES.columns == ("mask", "gender", "age")  # the age group and the classes of main follow from them
    assert {task.name for task in FACES.values() if task.of_group} == {"gender", "ageg", "age"}  # not the mask


def test_years_imply_the_classes_of_the_age_groups():
    assert [task.name for task in FACES.values() if task.regression] == ["age"]
    assert [task.class_task for task in FACES.values()] == [MAIN, MASK, GENDER, AGE_GROUP, AGE_GROUP]
    assert (AGE.classes, AGE.bounds) == (AGE_GROUPS, (30, 60))


def test_heads_have_the_order_that_seeds_their_weights():
    """Another order would give other random weights from the same seed, and so other results."""
    names = ["mask", "ageg", "gender", "main"]
    assert [task.name for task in (*FACES.heads, FACES.joint)] == names
    for model, expected in (("THANet_MK1", names), ("JointHeads", names), ("MultiLabelTHANet", names[:3])):
        assert MODELS[model].heads == ("attributes" if expected == names[:3] else "all")
        options = {"backbone": "resnet18", "image_size": 32, "pretrained": False}
        assert list(create_model(model, task=MAIN, tasks=FACES, **options).heads) == expected


def test_tasks_of_other_labels():
    single = Tasks(COLOUR)
    assert (single.default, single.attributes, single.columns, single.heads) == (
        COLOUR,
        (COLOUR,),
        ("colour",),
        (COLOUR,),
    )
    assert (single.joint, Tasks(COLOUR, SIZE).joint, Tasks(COLOUR, SIZE).attributes) == (None, None, (COLOUR, SIZE))
    numbers = Tasks(WEIGHT, SIZE)
    assert (numbers.default, numbers.attributes, numbers.columns) == (WEIGHT, (SIZE,), ("weight",))
    both = Task("both", "both", tuple(map(" ".join, product(COLOUR.classes, SIZE.classes))), parts=(COLOUR, SIZE))
    whole = Tasks(both, COLOUR, SIZE)
    assert (whole.attributes, whole.columns, whole.heads) == (
        (COLOUR, SIZE),
        ("colour", "size"),
        (SIZE, COLOUR),
    )
    assert whole.joint == both
    assert Tasks.from_plain(whole.as_plain()) == whole
