"""Pseudo labels: train on unlabelled images with the labels that an earlier run of the same folds predicted.

Pseudo-Label (Lee 2013, ICML workshop on challenges in representation learning). A fold uses the predictions of its own
members alone, since members of other folds were trained on the people that this fold validates.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.faces import MAIN
from data.label_math import decode_classes, encode_classes, marginals
from data.prediction_files import read_prediction_list
from data.tasks import Task
from utils import UserError, as_on_disk, read_json

ABOUT = "prediction.json"


@dataclass(frozen=True)
class PseudoLabels:
    """The probabilities that each member of a prediction gave to unlabelled images."""

    folder: Path  # of the prediction
    ids: list[str]
    paths: list[str]
    answers: list[np.ndarray]  # of each member, (N, 18)
    trained: list[tuple[str | None, int | None]]  # of each member, the fingerprint of its split and its fold

    def fold_table(
        self, fingerprint: str, fold: int, task: Task, *, share: float, ages: dict[int, float]
    ) -> pd.DataFrame:
        """Return the training rows of a fold, one per image, with the labels that its members predict.

        Of each predicted class of the task, the `share` of images with the highest mean probability is taken. `ages`
        are the years that stand for each age group.

        Raises:
            UserError: no member was trained on the people of this fold of the split with this fingerprint.
        """
        own = [each for each, place in zip(self.answers, self.trained, strict=True) if place == (fingerprint, fold)]
        if not own:
            raise UserError(
                f"--pseudo-labels {self.folder} has no member of fold {fold} of this split ({fingerprint}). "
                "Predict with a run of the same images, --cv and --seed."
            )
        whole = np.mean(own, axis=0)
        answers = marginals(MAIN, whole).get(task.name, whole)
        labels, confidence = answers.argmax(axis=1), answers.max(axis=1)
        order = np.lexsort((np.arange(len(labels)), -confidence, labels))
        firsts = np.searchsorted(labels[order], labels[order])
        counts = np.bincount(labels)
        taken = np.sort(order[np.arange(len(labels)) - firsts < np.ceil(share * counts[labels[order]])])
        chosen = decode_classes(MAIN, whole[taken].argmax(axis=1))
        if task in MAIN.parts:
            chosen[task.name] = labels[taken]
        ids = [self.ids[k] for k in taken]
        return pd.DataFrame(
            {
                "image": ids,
                "path": [self.paths[k] for k in taken],
                "person": [f"{self.folder}: {name}" for name in ids],  # not one of the people in the split
                "label": encode_classes(MAIN, chosen),
                **chosen,
                "age": [ages[group] for group in chosen["ageg"]],
            }
        )


def read_pseudo_labels(folder: str | Path, *, validated: str | Path) -> PseudoLabels:
    """Read a prediction of submit_ensemble.py, or for --cv 1 of submit_singular.py, with members of all folds.

    Raises:
        UserError: the folder holds no prediction of main, or its images are missing or lie in the `validated` folder.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise UserError(
            f"--pseudo-labels {folder} is not a prediction: it has no {ABOUT}. Pass a folder like "
            "prediction/main/kfold-ensemble-VanillaEfficientNet."
        )
    about = read_json(folder / ABOUT, ("task", "data_root", "members", "unreadable"))
    if about["task"] != MAIN.name or "labels" in about:
        raise UserError(f"--pseudo-labels {folder} predicts task {about['task']}. Pass a prediction of main.")
    root = Path(about["data_root"])
    if not root.is_dir():
        raise UserError(f"The images of --pseudo-labels {folder} are missing: no folder {root}. Predict again.")
    images, inside = read_prediction_list(root), Path(validated).resolve()
    if any(inside in path.resolve().parents for path in images.paths):
        raise UserError(f"--pseudo-labels {folder} predicts images of {validated}, which are validated on. Use others.")
    left_out = set(about["unreadable"])
    rows = [k for k, name in enumerate(images.ids) if name not in left_out]
    ids = [images.ids[k] for k in rows]
    answers, trained = [], []
    for member in about["members"]:
        try:
            table = pd.read_csv(folder / "members" / member["answers"], converters={"ImageID": as_on_disk})
            table = table.set_index("ImageID")
            if table.shape[1] != MAIN.outputs:
                continue  # a member of another task, in a recipe
            answers.append(table.loc[ids].to_numpy(np.float64))
            trained.append((member["split"], member["fold"]))
        except (KeyError, OSError, ValueError) as error:
            raise UserError(
                f"--pseudo-labels {folder} is incomplete ({type(error).__name__}: {error}). Predict again."
            ) from None
    return PseudoLabels(folder, ids, [str(images.paths[k]) for k in rows], answers, trained)
