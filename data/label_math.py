"""Convert between attributes, class numbers, numbers and class probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from data.tasks import Task, Tasks

# Smaller probabilities count as this in logarithms, so that one member alone cannot rule out a class.
SMALLEST = 1e-12


def range_numbers(task: Task, values: float | np.ndarray) -> int | np.ndarray:
    """Return the number of the range that a value of a task, or each value, falls into."""
    return np.digitize(values, task.bounds)


def class_numbers(task: Task, labels: np.ndarray) -> np.ndarray:
    """Return the class of each label, `(N,) int64`: the label itself, or the range of a number."""
    return range_numbers(task, labels) if task.regression else labels


def encode_classes(task: Task, attributes: Mapping[str, int | np.ndarray]) -> int | np.ndarray:
    """Return the classes of a task with parts from the numbers of its attributes, each an int or `(N,) int64`."""
    classes = 0
    for part in task.parts:
        classes = classes * part.outputs + attributes[part.name]
    return classes


def decode_classes(task: Task, classes: int | np.ndarray) -> dict[str, int | np.ndarray]:
    """Return the numbers of the attributes of the classes of a task, by name; {} if it has no parts."""
    numbers = {}
    for part in reversed(task.parts):
        classes, numbers[part.name] = divmod(classes, part.outputs)
    return {part.name: numbers[part.name] for part in task.parts}


def make_targets(table: pd.DataFrame, tasks: Tasks) -> dict[str, np.ndarray]:
    """Return the targets of every task, `{task: (N,)}`: classes as int64, numbers as float32.

    `table` has one row per image, with a column for each task without parts.
    """
    columns = {
        name: table[name].to_numpy(np.float32 if task.regression else np.int64)
        for name, task in tasks.items()
        if not task.parts
    }
    return {name: encode_classes(task, columns) if task.parts else columns[name] for name, task in tasks.items()}


def predicted_classes(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """Return the class of each row, `(..., N) int64`: the most probable one, or the range of the predicted number."""
    return range_numbers(task, probabilities[..., 0]) if task.regression else probabilities.argmax(axis=-1)


def marginals(task: Task, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probabilities of the attributes of a task by name, each `(N, its C)`, from `(N, C)` of the task."""
    parts = probabilities.reshape(-1, *(part.outputs for part in task.parts))
    return {part.name: parts.sum(axis=_other_axes(task, axis)) for axis, part in enumerate(task.parts, 1)}


def join_probabilities(task: Task, base: np.ndarray | None, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return probabilities of the classes of a task, `(N, C)`, from those of its attributes.

    Each attribute in `parts` replaces the marginal of `base`, `(N, C)`, the others stay as they are in `base`: a
    class's probability is multiplied by that of its attribute and divided by the marginal. Without a base, attributes
    count as independent, and all must be in `parts`.
    """
    from scipy.special import softmax  # imported here, since most commands need nothing of SciPy

    count, counts = len(next(iter(parts.values()))), [part.outputs for part in task.parts]
    logits = np.log((np.ones((count, *counts)) if base is None else base.reshape(-1, *counts)).clip(SMALLEST))
    before = {} if base is None else marginals(task, base)
    for axis, part in enumerate(task.parts, 1):
        if part.name in parts:
            change = np.log(parts[part.name].clip(SMALLEST))
            if part.name in before:
                change = change - np.log(before[part.name].clip(SMALLEST))
            logits = logits + np.expand_dims(change, _other_axes(task, axis))
    return softmax(logits.reshape(count, -1), axis=1)


def range_shares(values: np.ndarray, sigma: float, bounds: Sequence[float]) -> np.ndarray:
    """Return the probability of each range for values that are known to `sigma`, `(N, ranges) float64`.

    Values count full units, as ages count full years: 58 stands for the year from 58 to 59, so the normal distribution
    lies about its middle. Its shares of the ranges, of which the second and later ones begin at `bounds`, are a label
    distribution (Gao et al. 2017, https://arxiv.org/abs/1611.01731).
    """
    from scipy.special import erf

    steps = (np.asarray(bounds, np.float64)[:, None] - (values + 0.5)) / (sigma * np.sqrt(2))
    return np.diff((1 + erf(steps)) / 2, axis=0, prepend=0, append=1).T


def _other_axes(task: Task, axis: int) -> tuple[int, ...]:
    """Return the axes of `(N, *counts of the parts)` probabilities that belong to other attributes."""
    return tuple(other for other in range(1, len(task.parts) + 1) if other != axis)
