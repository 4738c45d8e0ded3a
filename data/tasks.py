"""Define tasks: questions about an image, their possible answers and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loss import CLASSIFICATION_LOSSES, REGRESSION_LOSSES

IN_YEARS = ("mae", "rmse")  # scores in years: lower is better
SCORE_TITLES = {"macro_f1": "macro F1", "accuracy": "accuracy", "mae": "MAE", "rmse": "RMSE"}


@dataclass(frozen=True)
class Task:
    """A question about an image."""

    name: str  # on the command line, of the head of a network, and of the column of labels
    title: str  # in texts
    classes: tuple[str, ...]  # in the order of their numbers
    parts: tuple[Task, ...] = ()  # the attributes whose combinations are the classes; the last one changes fastest
    bounds: tuple[float, ...] = ()  # if the answer is a number: where the second and the later classes begin
    ranges: Task | None = None  # then the task with these classes
    of_group: bool = False  # all images of a group have the same answer
    noun: str = "groups"  # what messages call the groups
    coded: bool = False  # submissions hold the numbers of the classes instead of their names

    @property
    def one(self) -> str:
        """Return the singular of the noun."""
        return "person" if self.noun == "people" else self.noun.removesuffix("s")

    @property
    def regression(self) -> bool:
        """Return whether the answer is a number instead of a class."""
        return self.ranges is not None

    @property
    def outputs(self) -> int:
        """Return the number of outputs of a network: one logit per class, or one number."""
        return 1 if self.regression else len(self.classes)

    @property
    def class_task(self) -> Task:
        """Return the task with the classes of this one: itself, or that of the ranges of its numbers."""
        return self.ranges or self

    @property
    def losses(self) -> tuple[str, ...]:
        """Return the names of the losses that fit, the default first."""
        return tuple(REGRESSION_LOSSES if self.regression else CLASSIFICATION_LOSSES)

    @property
    def monitor(self) -> str:
        """Return the name of the score that checkpoints are ranked by."""
        return "rmse" if self.regression else "macro_f1"

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher value of the monitored score is better."""
        return not self.regression

    @property
    def scores(self) -> tuple[str, ...]:
        """Return the names of the scores, as in log.csv and summary.json."""
        return ("macro_f1", "accuracy", "mae", "rmse") if self.regression else ("macro_f1", "accuracy")


class Tasks(dict[str, Task]):
    """The tasks of the labels of some images by name: first the one that has the others as its parts, if any."""

    def __init__(self, *tasks: Task) -> None:
        super().__init__((task.name, task) for task in tasks)

    @classmethod
    def from_plain(cls, rows: Sequence[Mapping[str, Any]]) -> Tasks:
        """Return the tasks that `as_plain` described; raise a KeyError or TypeError for anything else."""
        tasks: dict[str, Task] = {}
        for row in reversed(rows):  # parts first
            words = {name: tuple(row[name]) for name in ("classes", "parts")}
            words["parts"] = tuple(tasks[name] for name in words["parts"])
            tasks[row["name"]] = Task(**{**row, **words})
        whole = all(
            len(each.classes) == math.prod(p.outputs for p in each.parts) for each in tasks.values() if each.parts
        )
        if not (tasks and whole and all(isinstance(name, str) for each in tasks.values() for name in each.classes)):
            raise TypeError("its labels are damaged")
        return cls(*reversed(tasks.values()))

    def as_plain(self) -> list[dict[str, Any]]:
        """Return the tasks as values for JSON files and checkpoints; they must be tasks with classes."""
        names = ("name", "title", "of_group", "noun", "coded")
        return [
            {name: getattr(task, name) for name in names}
            | {"classes": list(task.classes), "parts": [part.name for part in task.parts]}
            for task in self.values()
        ]

    @property
    def default(self) -> Task:
        """Return the first task."""
        return next(iter(self.values()))

    @property
    def attributes(self) -> tuple[Task, ...]:
        """Return the tasks with classes that are not combinations of others."""
        return self.default.parts or tuple(task for task in self.values() if not task.regression)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of labels that the other ones follow from."""
        ranges = {task.ranges for task in self.values()}
        return tuple(name for name, task in self.items() if not task.parts and task not in ranges)

    @property
    def joint(self) -> Task | None:
        """Return the task whose classes are combinations of the others', if there is one."""
        return self.default if self.default.parts else None

    @property
    def heads(self) -> tuple[Task, ...]:
        """Return the attributes in the order of the heads of a network."""
        return tuple(sorted(self.attributes, key=lambda part: -part.outputs))  # the order decides the random weights
