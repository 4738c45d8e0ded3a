"""Define tasks: questions about an image, their possible answers and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loss import CLASSIFICATION_LOSSES, REGRESSION_LOSSES


@dataclass(frozen=True)
class Metric:
    """A score of predictions; the defaults are those of a function of the user."""

    title: str  # in texts
    low: float = -math.inf  # the range of its values
    high: float = math.inf
    higher_is_better: bool = True
    summed: bool = False  # follows from sums over the images, see `analysis.metrics.compute_scores`
    of_classes: bool = True  # needs the predicted classes only, not their probabilities


CLASS_METRICS = {  # scores of classes, the default first
    "macro_f1": Metric("macro F1", 0, 1, summed=True),
    "accuracy": Metric("accuracy", 0, 1, summed=True),
    "balanced_accuracy": Metric("balanced accuracy", 0, 1, summed=True),
    "qwk": Metric("quadratic weighted kappa", -1, 1, summed=True),
    "log_loss": Metric("log loss", 0, higher_is_better=False, summed=True, of_classes=False),
    "auc": Metric("AUC", 0, 1, of_classes=False),
    "average_precision": Metric("average precision", 0, 1, of_classes=False),
}
NUMBER_METRICS = {  # scores of numbers, the default first
    "rmse": Metric("RMSE", 0, higher_is_better=False, summed=True),
    "mae": Metric("MAE", 0, higher_is_better=False, summed=True),
    "r2": Metric("R2", high=1, summed=True),
}
METRICS = CLASS_METRICS | NUMBER_METRICS


def find_metric(name: str) -> Metric:
    """Return the metric of a score; any other name is that of a function of the user."""
    return METRICS.get(name) or Metric(name, of_classes=False)


def score_title(name: str) -> str:
    """Return the name of a score in texts."""
    return find_metric(name).title


@dataclass(frozen=True)
class Task:
    """A question about an image."""

    name: str  # on the command line, of the head of a network, and of the column of labels
    title: str  # in texts
    classes: tuple[str, ...]  # in the order of their numbers
    parts: tuple[Task, ...] = ()  # the attributes whose combinations are the classes; the last one changes fastest
    bounds: tuple[float, ...] = ()  # if the answer is a number: where the second and the later classes begin
    ranges: Task | None = None  # then the task with these classes, if any
    regression: bool = False  # the answer is a number instead of a class
    center: float = 0.0  # networks predict (number - center) / scale
    scale: float = 1.0
    of_group: bool = False  # all images of a group have the same answer
    noun: str = "groups"  # what messages call the groups
    coded: bool = False  # submissions hold the numbers of the classes instead of their names
    metric: str | None = field(default=None, compare=False)  # that ranks checkpoints: its name, or file.py:function

    @property
    def one(self) -> str:
        """Return the singular of the noun."""
        return "person" if self.noun == "people" else self.noun.removesuffix("s")

    @property
    def outputs(self) -> int:
        """Return the number of outputs of a network: one logit per class, or one number."""
        return 1 if self.regression else len(self.classes)

    @property
    def class_task(self) -> Task:
        """Return the task with the classes of this one: itself, or that of the ranges of its numbers."""
        return self.ranges or self

    @property
    def has_geometric_mean(self) -> bool:
        """Return whether predictions can be combined by the geometric mean; numbers other than ages may be negative."""
        return not self.regression or self.coded

    @property
    def losses(self) -> tuple[str, ...]:
        """Return the names of the losses that fit, the default first."""
        return tuple(REGRESSION_LOSSES if self.regression else CLASSIFICATION_LOSSES)

    @property
    def monitor(self) -> str:
        """Return the name of the score that checkpoints are ranked by."""
        return self.metric.rpartition(":")[2] if self.metric else "rmse" if self.regression else "macro_f1"

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher value of the monitored score is better."""
        return find_metric(self.monitor).higher_is_better

    @property
    def scores(self) -> tuple[str, ...]:
        """Return the names of the scores, as in log.csv and summary.json."""
        of_ages = ("macro_f1", "accuracy", "mae") if self.coded else ()
        names = (*of_ages, *NUMBER_METRICS) if self.regression else tuple(CLASS_METRICS)
        return tuple(dict.fromkeys((*names, self.monitor)))

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the names of the scores in tables: the monitored one and the most common ones."""
        names = ("macro_f1", "accuracy", "mae", "rmse") if self.coded else ("macro_f1", "accuracy", *NUMBER_METRICS)
        first = (self.monitor,) if self.metric else ()
        return tuple(dict.fromkeys((*first, *(name for name in names if name in self.scores))))


class Tasks(dict[str, Task]):
    """The tasks of the labels of some images by name: first the one that has the others as its parts, if any."""

    def __init__(self, *tasks: Task) -> None:
        super().__init__((task.name, task) for task in tasks)

    @classmethod
    def from_plain(cls, rows: Sequence[Mapping[str, Any]]) -> Tasks:
        """Return the tasks that `as_plain` described; raise a KeyError or TypeError for anything else."""
        tasks: dict[str, Task] = {}
        for row in reversed(rows):  # parts first
            names = ("classes", "parts", *(("bounds",) if "ranges" in row else ()))
            words = {name: tuple(row[name]) for name in names}
            words["parts"] = tuple(tasks[name] for name in words["parts"])
            words["ranges"] = tasks[row["ranges"]] if "ranges" in row else None
            tasks[row["name"]] = Task(**{**row, **words})
        whole = all(
            len(each.classes) == math.prod(p.outputs for p in each.parts) for each in tasks.values() if each.parts
        )
        if not (tasks and whole and all(isinstance(name, str) for each in tasks.values() for name in each.classes)):
            raise TypeError("its labels are damaged")
        return cls(*reversed(tasks.values()))

    def as_plain(self) -> list[dict[str, Any]]:
        """Return the tasks as values for JSON files and checkpoints."""
        names, of_numbers = ("name", "title", "of_group", "noun", "coded"), ("regression", "center", "scale")
        return [
            {name: getattr(task, name) for name in (*names, *(of_numbers if task.regression else ()))}
            | {"classes": list(task.classes), "parts": [part.name for part in task.parts]}
            | ({"bounds": list(task.bounds), "ranges": task.ranges.name} if task.ranges else {})
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
