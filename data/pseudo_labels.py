"""Pseudo labels: photographs without labels, trained on as an earlier run of the same folds predicted them.

Pseudo-Label (Lee 2013, ICML workshop on challenges in representation learning). A fold learns from what its own members
alone predicted: those of other folds were trained on the people that this one validates, and would hand on what they
know of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.label_math import decode_classes, encode_classes, marginals
from data.prediction_files import read_prediction_list
from data.tasks import ATTRIBUTES, TASKS
from utils import UserError, read_json

ABOUT = "prediction.json"


@dataclass(frozen=True)
class PseudoLabels:
    """What members of a prediction answered of photographs that have no labels.

    `ids (N)` and `paths (N)` are the photographs, `answers` what each member answered of them, `(N, 18)`, and `trained`
    of each member the fingerprint of the split and the fold that it was trained on.
    """

    folder: Path
    ids: list[str]
    paths: list[str]
    answers: list[np.ndarray]
    trained: list[tuple[str | None, int | None]]

    def fold_table(
        self, fingerprint: str, fold: int, *, task: str, share: float, ages: dict[int, float]
    ) -> pd.DataFrame:
        """The photographs that a fold is trained on, one row each, with the labels that its members predict.

        Of each class of the task that is predicted, those photographs are taken whose mean probability is highest.

        Args:
            fingerprint, fold: of the split of the run, and which of its folds.
            task: what is learnt, one that has classes.
            share: how many of each class are taken, from 0 to 1.
            ages: the years that stand for each age group.

        Raises:
            UserError: no member was trained on that fold's people.
        """
        own = [each for each, place in zip(self.answers, self.trained, strict=True) if place == (fingerprint, fold)]
        if not own:
            raise UserError(
                f"--pseudo-labels {self.folder} holds no member of fold {fold} of this split ({fingerprint}), and "
                "others know the people that it validates; predict with a run of the same photographs, --cv and --seed."
            )
        whole = np.mean(own, axis=0)
        answers = marginals(whole)[task] if task in ATTRIBUTES else whole
        labels, confidence = answers.argmax(axis=1), answers.max(axis=1)
        order = np.lexsort((np.arange(len(labels)), -confidence, labels))
        firsts = np.searchsorted(labels[order], labels[order])
        counts = np.bincount(labels)
        taken = np.sort(order[np.arange(len(labels)) - firsts < np.ceil(share * counts[labels[order]])])
        chosen = decode_classes(whole[taken].argmax(axis=1))
        if task in ATTRIBUTES:
            chosen[task] = labels[taken]
        ids = [self.ids[k] for k in taken]
        return pd.DataFrame(
            {
                "image": ids,
                "path": [self.paths[k] for k in taken],
                "person": [f"{self.folder}: {name}" for name in ids],  # nobody who is split
                "label": encode_classes(chosen),
                **chosen,
                "age": [ages[group] for group in chosen["ageg"]],
            }
        )


def read_pseudo_labels(folder: str | Path, *, validated: str) -> PseudoLabels:
    """What a prediction says of its photographs: of submit_ensemble.py, or for --cv 1 of submit_singular.py.

    There must be members of all folds, whichever of them are trained.

    Args:
        validated: the folder whose photographs are validated, which must not be trained on.

    Raises:
        UserError: it is none, or of another task, or its photographs are gone or are those that are validated.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise UserError(
            f"--pseudo-labels {folder} is no folder of a prediction: it holds no {ABOUT}. Pass one like "
            "prediction/main/kfold-ensemble-VanillaEfficientNet."
        )
    about = read_json(folder / ABOUT, ("task", "data_root", "members", "unreadable"))
    if about["task"] != "main":
        raise UserError(f"--pseudo-labels {folder} predicts task {about['task']}; pass a prediction of main.")
    root = Path(about["data_root"])
    if not root.is_dir():
        raise UserError(f"--pseudo-labels {folder} is of photographs in {root}, which are gone; predict anew.")
    if root.resolve() == Path(validated).resolve() or Path(validated).resolve() in root.resolve().parents:
        raise UserError(f"--pseudo-labels {folder} is of photographs in {validated}, which are validated on.")
    photographs = read_prediction_list(root)
    left_out = set(about["unreadable"])
    rows = [k for k, name in enumerate(photographs.ids) if name not in left_out]
    ids = [photographs.ids[k] for k in rows]
    answers, trained = [], []
    for member in about["members"]:
        try:
            told = pd.read_csv(folder / "members" / member["answers"], converters={"ImageID": str}).set_index("ImageID")
            if told.shape[1] != TASKS["main"].outputs:
                continue  # one that answers another task, in a recipe
            answers.append(told.loc[ids].to_numpy(np.float64))
            trained.append((member["split"], member["fold"]))
        except (KeyError, OSError, ValueError) as error:
            raise UserError(
                f"--pseudo-labels {folder} does not hold all that it predicted ({type(error).__name__}: {error}); "
                "predict anew."
            ) from None
    return PseudoLabels(folder, ids, [str(photographs.paths[k]) for k in rows], answers, trained)
