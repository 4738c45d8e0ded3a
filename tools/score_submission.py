"""Score a submission whose true answers are known: python -m tools score_submission --submission FILE --answers FILE"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.intervals import describe_intervals, draw_resamples, estimate_scores, sum_predictions
from analysis.metrics import absent_classes, describe_classes, score
from cli.checks import check_metric
from cli.choices import resolve_name
from config import ScoreConfig
from data.faces import MAIN, find_tasks
from data.label_math import decode_classes
from data.layout import MANY, NUMBER, WHOLE, sort_names
from data.prediction_files import read_answers
from data.tasks import METRICS, Task, Tasks, find_metric, score_title
from utils import UserError, read_json, shorten_list


def run(config: ScoreConfig) -> None:
    """Print the scores of a submission against the answers.

    Raises:
        UserError: a file is missing, or the two files do not fit each other or the task.
    """
    if not Path(config.answers).is_file():
        raise UserError(f"There is no file {config.answers}. Pass --answers.")
    answers, submission = read_answers(config.answers), read_answers(config.submission, proba=True)
    for table in (each for each in (answers, submission) if "ans" in each):
        table["ans"] = table["ans"].str.replace(r"^([+-]?\d+)\.0+$", r"\1", regex=True)  # 2.0 is 2
    if config.group is not None and config.group not in answers:
        raise UserError(f"{config.answers} has no column {config.group}. Pass --group with one of its columns.")
    if config.group is not None and (answers[config.group] == "").any():
        lost = shorten_list(answers.index[answers[config.group] == ""])
        raise UserError(f"{config.answers} has no {config.group} for {lost}. Fill in the cells.")
    groups = None if config.group is None else np.unique(answers[config.group], return_inverse=True)[1]  # (N,)
    task = _find_task(config, answers, submission)
    proba = "ans" not in submission
    if config.metric:
        task = replace(task, metric=check_metric(config.metric, task))
        if task.monitor in METRICS and not (proba or find_metric(task.monitor).of_classes or task.regression):
            raise UserError(f"--metric {task.monitor} needs probabilities. Predict with --proba.")
    different = sorted(set(answers.index) ^ set(submission.index))
    if different:
        raise UserError(
            f"{config.submission} and {config.answers} do not list the same images: {shorten_list(different)}."
        )
    true = _parse(task, answers["ans"], config.answers)
    submission = submission.loc[answers.index]
    if proba:
        answered = _parse_probabilities(task, submission, config.submission)
    else:
        predicted = _parse(task, submission["ans"], config.submission)
        answered = predicted[:, None] if task.regression else np.eye(len(task.classes))[predicted]
    if task.regression and task.coded and max(true) < len(MAIN.classes):
        raise UserError(f"{config.answers} contains class numbers. Task {task.name} needs ages in years.")
    scores = {name: f"{value:.4f}" for name, value in score(task, answered, true).items()}
    if groups is not None:
        sums = sum_predictions(task, [(answered, true, groups)], draw_resamples([groups.max() + 1], seed=0))
        scores |= {name: str(each) for name, each in estimate_scores(task, sums).items() if name in scores}
    line = {score_title(name): scores[name] for name in task.shown}
    of_true, of_predicted = (decode_classes(task, each) for each in (true, answered.argmax(axis=1)))
    for part in task.parts:
        line[f"{part.title} accuracy"] = f"{(of_true[part.name] == of_predicted[part.name]).mean():.4f}"
    others = [name for name in scores if name not in task.shown and (proba or find_metric(name).of_classes)]
    if not all(map(WHOLE.fullmatch, task.classes)):
        others = [name for name in others if name != "qwk"]  # of classes without an order
    print("  ".join(f"{title} {value}" for title, value in line.items()), f" {len(true)} images")
    if others:
        print("  ".join(f"{score_title(name)} {scores[name]}" for name in others))
    if groups is not None:
        print(describe_intervals(groups.max() + 1, "groups"))
    absent = absent_classes(task, true, answered)
    if absent[0]:
        print(describe_classes(task, *absent))


def _find_task(config: ScoreConfig, answers: pd.DataFrame, submission: pd.DataFrame) -> Task:
    """Return the task of a submission: of the prediction.json in its folder, else --task, else that of its answers."""
    about = Path(config.submission).with_name("prediction.json")
    made: dict[str, Any] = read_json(about) if about.is_file() else {}
    if not made and not config.typed("task"):
        return _guess_task(answers["ans"], submission)
    try:
        tasks: Tasks = find_tasks(made.get("labels"))
        name = made["task"] if "labels" in made and not config.typed("task") else config.task
        name = resolve_name("--task", name, tasks)
    except (KeyError, TypeError):
        raise UserError(f"{about} is damaged. Predict again.") from None
    if made.get("task", name) != name:
        raise UserError(f"{config.submission} predicts task {made['task']}. Pass --task {made['task']}.")
    return tasks[name]


def _guess_task(answers: pd.Series, submission: pd.DataFrame) -> Task:
    """Return a task with the classes that files name, or of numbers if some are not whole or there are very many."""
    names = {*answers, *submission.get("ans", submission)}
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    if "" in names or 0 < len(numbers) < len(names):
        raise UserError(f"Answers are empty, or names and numbers: {shorten_list(sorted(names))}. Correct them.")
    if "ans" in submission and numbers and (len(names) > MANY or not all(map(WHOLE.fullmatch, names))):
        return Task("number", "number", (), regression=True)
    return Task("class", "class", tuple(sort_names(names)))


def _parse(task: Task, answers: pd.Series, path: str) -> np.ndarray:
    """Return answers as numbers or class numbers, `(N,)`."""
    if not (task.coded or task.regression):
        known = {name: number for number, name in enumerate(task.classes)}
        unknown = shorten_list(dict.fromkeys(answer for answer in answers if answer not in known), 3)
        if unknown:
            classes = shorten_list(task.classes)
            raise UserError(f"{path} contains {unknown}. Task {task.name} has the classes {classes}.")
        return np.array([known[answer] for answer in answers])
    values = _parse_numbers(answers, path, finite=task.regression)
    if task.regression:
        return values
    wrong = values[~np.isin(values, range(len(task.classes)))]
    if len(wrong):
        raise UserError(f"{path} contains {wrong[0]:g}. Task {task.name} has classes 0 to {len(task.classes) - 1}.")
    return values.astype(int)


def _parse_probabilities(task: Task, table: pd.DataFrame, path: str) -> np.ndarray:
    """Return probabilities `(N, C)` in the order of the classes."""
    names = [str(name) for name in (range(len(task.classes)) if task.coded else task.classes)]
    if task.regression or sorted(names) != sorted(table):
        expected = "ans" if task.regression else f"ans, or {shorten_list(names)}"
        raise UserError(f"{path} has the columns {shorten_list(table)}. Task {task.name} needs {expected}.")
    values = np.stack([_parse_numbers(table[name], path, finite=True) for name in names], axis=1)
    sums = values.sum(axis=1)
    if values.min() < 0 or abs(sums - 1).max() > 0.01:
        worst = values.min() if values.min() < 0 else sums[abs(sums - 1).argmax()]
        raise UserError(f"{path} has probabilities that are negative or do not sum to 1, as {worst:g}. Correct them.")
    return values


def _parse_numbers(answers: pd.Series, path: str, *, finite: bool) -> np.ndarray:
    try:
        values = answers.to_numpy(np.float64)
    except ValueError:
        image = next(image for image, text in answers.items() if not NUMBER.fullmatch(text))
        advice = "Pass --task, or score in the folder of the prediction, whose prediction.json has the classes."
        raise UserError(
            f"{path} holds an answer that is not a number, '{answers[image]}' for {image}. {advice}"
        ) from None
    if finite and not np.isfinite(values).all():
        raise UserError(f"{path} contains NaN or infinite values.")
    return values
