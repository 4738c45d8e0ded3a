"""Score a submission whose true answers are known: python -m tools score_submission --submission FILE --answers FILE"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.metrics import absent_classes, describe_classes, score
from cli.choices import resolve_name
from config import ScoreConfig
from data.faces import MAIN, find_tasks
from data.label_math import decode_classes
from data.prediction_files import read_answers
from data.tasks import Task, score_title
from utils import UserError, read_json, shorten_list


def run(config: ScoreConfig) -> None:
    """Print the scores of a submission against the answers.

    Raises:
        UserError: a file is missing, or the two files do not fit each other or the task.
    """
    answers, submission = read_answers(config.answers), read_answers(config.submission)
    about = Path(config.submission).with_name("prediction.json")
    made = read_json(about) if about.is_file() else {}
    try:
        tasks = find_tasks(made.get("labels"))
        name = made["task"] if "labels" in made and not config.typed("task") else config.task
        name = resolve_name("--task", name, tasks)
    except (KeyError, TypeError):
        raise UserError(f"{about} is damaged. Predict again.") from None
    if made.get("task", name) != name:
        raise UserError(f"{config.submission} predicts task {made['task']}. Pass --task {made['task']}.")
    different = sorted(set(answers) ^ set(submission))
    if different:
        raise UserError(
            f"{config.submission} and {config.answers} do not list the same images: {shorten_list(different)}."
        )
    names, task = sorted(answers), tasks[name]
    files = {config.answers: answers, config.submission: submission}
    true, predicted = (_parse(task, [values[each] for each in names], path) for path, values in files.items())
    if task.regression and max(true) < len(MAIN.classes):
        raise UserError(f"{config.answers} contains class numbers. Task {task.name} needs ages in years.")
    answered = predicted[:, None] if task.regression else np.eye(len(task.classes))[predicted]
    scores, absent = score(task, answered, true), absent_classes(task, true, answered)
    of_true, of_predicted = (decode_classes(task, each) for each in (true, predicted))
    for part in task.parts:
        scores[f"{part.title} accuracy"] = float((of_true[part.name] == of_predicted[part.name]).mean())
    print(
        "  ".join(f"{score_title(name)} {value:.4f}" for name, value in scores.items()),
        f" {len(true)} images",
    )
    if absent[0]:
        print(describe_classes(task, *absent))


def _parse(task: Task, answers: Sequence[str], path: str) -> np.ndarray:
    """Return answers as numbers or class numbers, `(N,)`."""
    if not (task.coded or task.regression):
        known = {name: number for number, name in enumerate(task.classes)}
        unknown = shorten_list(dict.fromkeys(answer for answer in answers if answer not in known), 3)
        if unknown:
            classes = shorten_list(task.classes)
            raise UserError(f"{path} contains {unknown}. Task {task.name} has the classes {classes}.")
        return np.array([known[answer] for answer in answers])
    try:
        values = np.array([float(answer) for answer in answers])
    except ValueError as error:
        advice = "Names of classes need the prediction.json of the submission in its folder."
        raise UserError(f"{path} holds an answer that is not a number ({error}). {advice}") from None
    if task.regression:
        if not np.isfinite(values).all():
            raise UserError(f"{path} contains NaN or infinite values.")
        return values
    wrong = values[~np.isin(values, range(len(task.classes)))]
    if len(wrong):
        raise UserError(f"{path} contains {wrong[0]:g}. Task {task.name} has classes 0 to {len(task.classes) - 1}.")
    return values.astype(int)
