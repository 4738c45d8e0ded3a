"""Score a submission whose true answers are known: python -m tools score_submission --submission FILE --answers FILE"""

from __future__ import annotations

from pathlib import Path

from config import ScoreConfig
from data.tasks import SCORE_TITLES, TASKS
from utils import UserError


def run(config: ScoreConfig) -> None:
    """Print the scores of a submission against the answers.

    Raises:
        UserError: a file is missing or the two do not list the same images.
    """
    import numpy as np

    from analysis.metrics import score
    from data.label_math import decode_class
    from data.prediction_files import read_answers
    from utils import read_json, shorten_list

    answers, submission = read_answers(config.answers), read_answers(config.submission)
    made = Path(config.submission).with_name("prediction.json")
    if made.is_file() and read_json(made).get("task") != config.task:
        raise UserError(f"{config.submission} is a prediction of task {read_json(made).get('task')}; pass --task.")
    different = sorted(set(answers) ^ set(submission))
    if different:
        raise UserError(
            f"{config.submission} and {config.answers} do not list the same images: {shorten_list(different)}."
        )
    true, told = (np.array([values[name] for name in sorted(answers)]) for values in (answers, submission))
    task = TASKS[config.task]
    if task.regression:
        if not np.isfinite([true, told]).all():
            raise UserError(f"{config.submission} or {config.answers} holds an answer that is not a number.")
        if max(true) < len(TASKS["main"].classes):
            raise UserError(f"{config.answers} holds class numbers; task {task.name} is scored against ages in years.")
        scores = score(task.name, told[:, None], true)
    else:
        for path, values in ((config.answers, true), (config.submission, told)):
            if not np.isin(values, range(len(task.classes))).all():
                raise UserError(f"{path} holds an answer that is none of the classes 0 to {len(task.classes) - 1}.")
        true, told = true.astype(int), told.astype(int)
        scores = score(task.name, np.eye(len(task.classes))[told], true)
    if task.name == "main":
        for name, a, b in zip(("mask", "gender", "age group"), decode_class(true), decode_class(told), strict=True):
            scores[f"{name} accuracy"] = float((a == b).mean())
    print(
        "  ".join(f"{SCORE_TITLES.get(name, name)} {value:.4f}" for name, value in scores.items()),
        f" {len(true)} images",
    )
