"""The labels of the face layout: mask, gender and age group of people, and their age in years."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data.tasks import Task, Tasks

MASKS = ("worn", "wrong", "bare")
GENDERS = ("male", "female")
AGE_GROUPS = ("<30", "30-59", ">=60")
AGE_BOUNDS = (30, 60)  # years at which the second and the third age group begin
MAX_AGE = 120
# File stems and the label of each; how many images a person has does not matter.
SHOTS = {**{f"mask{i}": "worn" for i in range(1, 6)}, "incorrect_mask": "wrong", "normal": "bare"}
MAIN_CLASSES = tuple(f"{mask} {gender} {group}" for mask in MASKS for gender in GENDERS for group in AGE_GROUPS)

PEOPLE = {"noun": "people", "coded": True}

MASK = Task("mask", "mask", MASKS, **PEOPLE)
GENDER = Task("gender", "gender", GENDERS, of_group=True, **PEOPLE)
AGE_GROUP = Task("ageg", "age group", AGE_GROUPS, of_group=True, **PEOPLE)
MAIN = Task("main", "mask, gender and age group", MAIN_CLASSES, parts=(MASK, GENDER, AGE_GROUP), **PEOPLE)
AGE = Task(
    "age", "age in years", AGE_GROUPS, bounds=AGE_BOUNDS, ranges=AGE_GROUP, regression=True, of_group=True, **PEOPLE
)
FACES = Tasks(MAIN, MASK, GENDER, AGE_GROUP, AGE)


def find_task(labels: Sequence[Mapping[str, Any]] | None, name: str, metric: str | None = None) -> Task:
    """Return a task of `find_tasks` with the metric that ranks its checkpoints; None for the default."""
    task = find_tasks(labels)[name]
    return replace(task, metric=metric) if metric else task


def find_tasks(labels: Sequence[Mapping[str, Any]] | None) -> Tasks:
    """Return the tasks that `Tasks.as_plain` described, or those of faces for None."""
    return FACES if labels is None else Tasks.from_plain(labels)


class Labelled:
    """Base of the records of a task: `task` is its name, and `labels` describes all tasks of the labels."""

    labels: Sequence[Mapping[str, Any]] | None = None  # see `Tasks.as_plain`; None for those of faces
    metric = None  # see `Task.metric`; not annotated, since it is an option of some records

    @property
    def tasks(self) -> Tasks:
        """Return the tasks of the labels."""
        return find_tasks(self.labels)

    @property
    def record(self) -> Task:
        """Return the named task."""
        return find_task(self.labels, self.task, self.metric)
