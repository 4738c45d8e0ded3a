"""Define the labels and the tasks: class names, age groups, losses and scores."""

from dataclasses import dataclass

from loss import CLASSIFICATION_LOSSES, REGRESSION_LOSSES

MASKS = ("worn", "wrong", "bare")
GENDERS = ("male", "female")
AGE_GROUPS = ("<30", "30-59", ">=60")
AGE_BOUNDS = (30, 60)  # years at which the second and the third age group begin
MAX_AGE = 120
# File stems and the label of each; how many images a person has does not matter.
SHOTS = {**{f"mask{i}": "worn" for i in range(1, 6)}, "incorrect_mask": "wrong", "normal": "bare"}
MAIN_CLASSES = tuple(f"{mask} {gender} {group}" for mask in MASKS for gender in GENDERS for group in AGE_GROUPS)

# The attributes that make a class of main, in the order of `label_math.encode_class`, with their titles.
ATTRIBUTES = {"mask": "mask", "gender": "gender", "ageg": "age group"}
IN_YEARS = ("mae", "rmse")  # scores in years: lower is better
SCORE_TITLES = {"macro_f1": "macro F1", "accuracy": "accuracy", "mae": "MAE", "rmse": "RMSE"}


@dataclass(frozen=True)
class Task:
    """A question about an image, its possible answers and its scores."""

    name: str  # on the command line
    title: str  # in texts
    classes: tuple[str, ...]  # for the regression of age the age groups that an age implies
    losses: tuple[str, ...] = tuple(CLASSIFICATION_LOSSES)  # those that fit, the default first
    monitor: str = "macro_f1"  # the score that checkpoints are ranked by
    higher_is_better: bool = True
    regression: bool = False  # the answer is a number in years instead of a class

    @property
    def outputs(self) -> int:
        """Return the number of outputs of a network: one logit per class, or one value in years."""
        return 1 if self.regression else len(self.classes)

    @property
    def class_task(self) -> str:
        """Return the task with the classes of this one: itself, or ageg for ages in years."""
        return "ageg" if self.regression else self.name

    @property
    def scores(self) -> tuple[str, ...]:
        """Return the names of the scores, as in log.csv and summary.json."""
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
