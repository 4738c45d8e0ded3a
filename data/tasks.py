"""The labels and the tasks, once: class numbers, names, age groups, what each task answers and is judged by.

Standard library only, so that the command line can be checked before torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from loss import CLASSIFICATION_LOSSES, REGRESSION_LOSSES

MASKS = ("worn", "wrong", "bare")
GENDERS = ("male", "female")
AGE_GROUPS = ("<30", "30-59", ">=60")
AGE_BOUNDS = (30, 60)  # years at which the second and the third age group begin
MAX_AGE = 120
# The label of a photograph follows from its file stem alone, never from how many there are.
SHOTS = {**{f"mask{i}": "worn" for i in range(1, 6)}, "incorrect_mask": "wrong", "normal": "bare"}
MAIN_CLASSES = tuple(f"{mask} {gender} {group}" for mask in MASKS for gender in GENDERS for group in AGE_GROUPS)


def age_group(age: float) -> int:
    """The age group (0, 1 or 2) of an age in years: under 30, 30 to 59, 60 and over."""
    return sum(age >= bound for bound in AGE_BOUNDS)


def encode_class(mask: int, gender: int, group: int) -> int:
    """The class number 0..17 of three attribute numbers: 6 x mask + 3 x gender + age group."""
    return (mask * len(GENDERS) + gender) * len(AGE_GROUPS) + group


def decode_class(number: int) -> tuple[int, int, int]:
    """The attribute numbers (mask, gender, age group) of a class number 0..17."""
    rest, group = divmod(number, len(AGE_GROUPS))
    return (*divmod(rest, len(GENDERS)), group)


# What the classes of main are made of, in the order of `encode_class`, as people write them.
ATTRIBUTES = {"mask": "mask", "gender": "gender", "ageg": "age group"}
IN_YEARS = ("mae", "rmse")  # scores that are lower where it is better, and that can be above 1
SCORE_TITLES = {"macro_f1": "macro F1", "accuracy": "accuracy", "mae": "MAE", "rmse": "RMSE"}  # as people write them


@dataclass(frozen=True)
class Task:
    """What a task answers and how it is judged.

    `classes` are the class names; for the regression of age they are the age groups that an age implies.
    `losses` are those that fit, the default first. `monitor` is the score that checkpoints are ranked by.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    losses: tuple[str, ...] = tuple(CLASSIFICATION_LOSSES)
    monitor: str = "macro_f1"
    higher_is_better: bool = True
    regression: bool = False

    @property
    def outputs(self) -> int:
        """How many numbers a network answers with: one logit a class, or one value in years."""
        return 1 if self.regression else len(self.classes)

    @property
    def class_task(self) -> str:
        """The task whose classes an answer tells: its own, or the age groups that years imply."""
        return "ageg" if self.regression else self.name

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of the scores of this task, as they stand in log.csv and summary.json."""
        return ("macro_f1", "accuracy", "mae", "rmse") if self.regression else ("macro_f1", "accuracy")


TASKS = {
    task.name: task
    for task in (
        Task("main", "mask, gender and age group", MAIN_CLASSES),
        Task("mask", "how the mask is worn", MASKS),
        Task("gender", "gender", GENDERS),
        Task("ageg", "age group", AGE_GROUPS),
        Task(
            "age", "age in years", AGE_GROUPS, tuple(REGRESSION_LOSSES), "rmse", higher_is_better=False, regression=True
        ),
    )
}
