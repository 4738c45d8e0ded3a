"""Read recipes of ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from analysis.metrics import tempered
from data.tasks import TASKS
from inference import voting
from inference.selection import MEANS, is_enough, joint_answers, joint_part
from utils import UserError, read_json

RECIPE_FORMAT = 1
# ------------------------------------------------------------------------------------------------ recipes


@dataclass(frozen=True)
class Recipe:
    """What recipe.json says of a prediction: the members with their weights, in how many views, and how to mix them.

    Each of `members` holds at least task, file (below the recipe's folder, or elsewhere by ../), digest of the file,
    fold, and weight. Those with the same number under `joint` answer together: those of mask, gender, ageg and age
    about their attribute, those of main about the others; one of age says under `rmse` how far its years are off.
    """

    task: str
    tta: int
    mean: str
    temperature: float
    offsets: list[float] | None
    members: list[dict[str, Any]]

    @property
    def tasks(self) -> list[str]:
        """What each member answers."""
        return [member["task"] for member in self.members]

    def mix(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        """`(N, C)` from what each of the M members answers of its task, `(N, its C)`."""
        voters: dict[Any, list[int]] = {}
        for number, member in enumerate(self.members):
            voters.setdefault(member.get("joint", f"alone {number}"), []).append(number)
        weights = np.array([sum(self.members[k]["weight"] for k in voter) for voter in voters.values()])
        answers = np.stack([self._said(voter, answers) for voter in voters.values()])
        if self.mean == "arithmetic":
            mixed = voting.weighted_mean(answers, weights)
        else:
            mixed = voting.geometric_mean(answers, years=TASKS[self.task].regression, weights=weights)
        if self.temperature == 1 and self.offsets is None:
            return mixed
        return tempered(mixed, self.temperature, np.array(self.offsets or 0.0))

    def _said(self, voter: Sequence[int], answers: Sequence[np.ndarray]) -> np.ndarray:
        """What the members of these numbers answer together."""
        if len(voter) == 1:
            return answers[voter[0]]
        parts = [joint_part(self.members[k]["task"], answers[k], self.members[k].get("rmse")) for k in voter]
        return joint_answers(parts)

    def mixing(self) -> dict[str, Any]:
        """How the members are mixed, for prediction.json."""
        weights = [member["weight"] for member in self.members]
        return {"mean": self.mean, "weights": weights, "temperature": self.temperature, "offsets": self.offsets}


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a file that design_ensemble.py wrote.

    Raises:
        UserError: it is missing, damaged, or says what cannot be done.
    """
    names = [f.name for f in fields(Recipe)]
    values = read_json(Path(path), ("format", *names))
    if values["format"] != RECIPE_FORMAT:
        raise UserError(f"{path} is of recipe format {values['format']}; this toolkit reads {RECIPE_FORMAT}.")
    recipe = Recipe(**{name: values[name] for name in names})
    try:
        joints: dict[Any, list[dict[str, Any]]] = {}
        for member in recipe.members:
            joints.setdefault(member.get("joint"), []).append(member)
        others = sorted({member["task"] for member in joints.pop(None, [])} - {recipe.task})
        weights = np.array([member["weight"] for member in recipe.members], np.float64)
        outputs = TASKS[recipe.task].outputs
        sound = {
            "tta": isinstance(recipe.tta, int) and recipe.tta > 0,
            "mean": recipe.mean in MEANS,
            "temperature": recipe.temperature > 0 and not (TASKS[recipe.task].regression and recipe.temperature != 1),
            "offsets": recipe.offsets is None or np.isfinite(np.reshape(recipe.offsets, outputs)).all(),
            "members": all(
                isinstance(m["file"], str) and isinstance(m["digest"], str) and isinstance(m["fold"], int)
                for m in recipe.members
            ),
            "joint": recipe.task == "main" or not joints,
            "tasks": all(is_enough(member["task"] for member in members) for members in joints.values()),
            "rmse": all(m["rmse"] > 0 for members in joints.values() for m in members if m["task"] == "age"),
            "weights": len(weights) > 0 and np.isfinite(weights).all() and weights.min() >= 0 < weights.sum(),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); make it anew.") from None
    wrong = [name for name, good in sound.items() if not good]
    if wrong:
        raise UserError(f"{path} is damaged: its {', '.join(wrong)} cannot be; make it anew with design_ensemble.py.")
    if others:
        raise UserError(f"{path} has members of task {', '.join(others)}, which do not answer task {recipe.task}.")
    return recipe
