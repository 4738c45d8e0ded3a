"""Read recipes of ensembles and mix predictions by them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from analysis.metrics import tempered
from data.faces import Labelled
from data.label_math import join_probabilities, range_shares
from data.tasks import Task
from inference import voting
from inference.selection import MEANS
from utils import UserError, read_json

RECIPE_FORMAT = 1
REMAKE = "Write the recipe again with design_ensemble."


@dataclass(frozen=True)
class Recipe(Labelled):
    """An ensemble as recipe.json describes it.

    Each member has at least task, file (relative to the recipe's folder), digest of the file, fold, and weight. Those
    with the same number under `joint` predict together: those of mask, gender, ageg and age their attribute, those of
    main the others. One of age has its error in years under `rmse`.
    """

    task: str  # to predict
    tta: int  # test-time views of each image
    mean: str  # one of MEANS
    temperature: float  # of the mean; 1 leaves it as it is
    offsets: list[float] | None  # of the log probabilities of each class
    members: list[dict[str, Any]]
    labels: list[dict[str, Any]] | None = None  # the tasks of the labels; None for those of faces

    def mix(self, predictions: Sequence[np.ndarray]) -> np.ndarray:
        """Return `(N, C)` from the predictions of each of the M members, `(N, C of its task)`."""
        voters: dict[Any, list[int]] = {}
        for number, member in enumerate(self.members):
            voters.setdefault(member.get("joint", f"alone {number}"), []).append(number)
        weights = np.array([sum(self.members[k]["weight"] for k in voter) for voter in voters.values()])
        votes = np.stack([self._join(voter, predictions) for voter in voters.values()])
        if self.mean == "arithmetic":
            mixed = voting.weighted_mean(votes, weights)
        else:
            mixed = voting.geometric_mean(votes, years=self.record.regression, weights=weights)
        if self.temperature == 1 and self.offsets is None:
            return mixed
        return tempered(mixed, self.temperature, np.array(self.offsets or 0.0))

    def _join(self, voter: Sequence[int], predictions: Sequence[np.ndarray]) -> np.ndarray:
        """Return the joint predictions of the members with these numbers."""
        if len(voter) == 1:
            return predictions[voter[0]]
        members = [(self.members[k], predictions[k]) for k in voter]
        parts = [make_part(self.tasks[each["task"]], own, each.get("rmse")) for each, own in members]
        return join_parts(self.record, parts)

    def mixing(self) -> dict[str, Any]:
        """Return how the members are mixed, for prediction.json."""
        weights = [member["weight"] for member in self.members]
        return {"mean": self.mean, "weights": weights, "temperature": self.temperature, "offsets": self.offsets}


def make_part(task: Task, predictions: np.ndarray, rmse: float | None = None) -> tuple[Task, np.ndarray]:
    """Return the task with classes that `(N, C)` predictions of a task are about, and its probabilities.

    Numbers become probabilities of their ranges, given that they are `rmse` off.
    """
    shares = range_shares(predictions[:, 0], rmse, task.bounds) if task.regression else predictions
    return task.class_task, shares


def join_parts(task: Task, parts: Sequence[tuple[Task, np.ndarray]]) -> np.ndarray:
    """Return `(N, C)` probabilities of a task from parts of `make_part`, the mean of those about the same thing."""
    means = {part: np.mean([each for other, each in parts if other == part], axis=0) for part, _ in parts}
    base = means.pop(task, None)
    return join_probabilities(task, base, {part.name: each for part, each in means.items()})


def covers(task: Task, tasks: Iterable[Task]) -> bool:
    """Return whether members of these tasks predict `task` together: one of it does, and those of all its parts."""
    covered = {each.class_task for each in tasks}
    return task in covered or (bool(task.parts) and covered >= set(task.parts))


def read_recipe(path: str | Path, task: str | None = None) -> Recipe:
    """Return the recipe in a file that design_ensemble wrote, which must be for `task` unless that is None.

    Raises:
        UserError: the file is missing, damaged or for another task.
    """
    names = [f.name for f in fields(Recipe) if f.name != "labels"]
    values = read_json(Path(path), ("format", *names))
    if values["format"] != RECIPE_FORMAT:
        raise UserError(f"{path} has recipe format {values['format']}; this toolkit reads {RECIPE_FORMAT}. {REMAKE}")
    recipe = Recipe(**{name: values[name] for name in names}, labels=values.get("labels"))
    try:
        wrong = _find_faults(recipe)
        others = sorted({member["task"] for member in recipe.members if member.get("joint") is None} - {recipe.task})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}). {REMAKE}") from None
    if wrong:
        raise UserError(f"{path} is damaged: invalid {', '.join(wrong)}. {REMAKE}")
    if others:
        raise UserError(f"{path} has members of task {', '.join(others)}, which cannot predict {recipe.task}. {REMAKE}")
    if task and task.lower() != recipe.task.lower():
        raise UserError(f"{path} is a recipe for task {recipe.task}, not {task}. Leave --task out.")
    return recipe


def _find_faults(recipe: Recipe) -> list[str]:
    """Return the names of the fields of a recipe with impossible values."""
    joints: dict[Any, list[dict[str, Any]]] = {}
    for member in recipe.members:
        if member.get("joint") is not None:
            joints.setdefault(member["joint"], []).append(member)
    weights = np.array([member["weight"] for member in recipe.members], np.float64)
    record = recipe.record
    sound = {
        "tta": isinstance(recipe.tta, int) and recipe.tta > 0,
        "mean": recipe.mean in MEANS,
        "temperature": recipe.temperature > 0 and not (record.regression and recipe.temperature != 1),
        "offsets": recipe.offsets is None or np.isfinite(np.reshape(recipe.offsets, record.outputs)).all(),
        "members": all(
            isinstance(m["file"], str) and isinstance(m["digest"], str) and isinstance(m["fold"], int)
            for m in recipe.members
        ),
        "joint": bool(record.parts) or not joints,
        "tasks": all(covers(record, [recipe.tasks[m["task"]] for m in members]) for members in joints.values()),
        "rmse": all(m["rmse"] > 0 for each in joints.values() for m in each if recipe.tasks[m["task"]].regression),
        "weights": len(weights) > 0 and np.isfinite(weights).all() and weights.min() >= 0 < weights.sum(),
    }
    return [name for name, good in sound.items() if not good]
