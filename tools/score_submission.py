"""Score a submission whose true answers are known: python -m tools score_submission --submission FILE --answers FILE"""

from pathlib import Path

import numpy as np

from analysis.metrics import absent_classes, describe_classes, score
from config import ScoreConfig
from data.faces import FACES, MAIN
from data.label_math import decode_classes
from data.prediction_files import read_answers
from data.tasks import SCORE_TITLES
from utils import UserError, read_json, shorten_list


def run(config: ScoreConfig) -> None:
    """Print the scores of a submission against the answers.

    Raises:
        UserError: a file is missing, or the two files do not fit each other or the task.
    """
    answers, submission = read_answers(config.answers), read_answers(config.submission)
    about = Path(config.submission).with_name("prediction.json")
    predicted_task = read_json(about).get("task") if about.is_file() else config.task
    if predicted_task != config.task:
        raise UserError(f"{config.submission} predicts task {predicted_task}. Pass --task {predicted_task}.")
    different = sorted(set(answers) ^ set(submission))
    if different:
        raise UserError(
            f"{config.submission} and {config.answers} do not list the same images: {shorten_list(different)}."
        )
    names, task = sorted(answers), FACES[config.task]
    true, predicted = (np.array([values[name] for name in names]) for values in (answers, submission))
    for path, values in ((config.answers, true), (config.submission, predicted)):
        if task.regression and not np.isfinite(values).all():
            raise UserError(f"{path} contains NaN or infinite values.")
        wrong = [] if task.regression else values[~np.isin(values, range(len(task.classes)))]
        if len(wrong):
            raise UserError(f"{path} contains {wrong[0]:g}. Task {task.name} has classes 0 to {len(task.classes) - 1}.")
    if task.regression:
        if max(true) < len(MAIN.classes):
            raise UserError(f"{config.answers} contains class numbers. Task {task.name} needs ages in years.")
        answered = predicted[:, None]
    else:
        true, predicted = true.astype(int), predicted.astype(int)
        answered = np.eye(len(task.classes))[predicted]
    scores, absent = score(task, answered, true), absent_classes(task, true, answered)
    of_true, of_predicted = (decode_classes(task, each) for each in (true, predicted))
    for part in task.parts:
        scores[f"{part.title} accuracy"] = float((of_true[part.name] == of_predicted[part.name]).mean())
    print(
        "  ".join(f"{SCORE_TITLES.get(name, name)} {value:.4f}" for name, value in scores.items()),
        f" {len(true)} images",
    )
    if absent[0]:
        print(describe_classes(task, *absent))
