"""Write the files of a prediction: submissions, probabilities of the members, prediction.json, unreadable.csv."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.label_math import predicted_classes
from data.tasks import Task
from inference.predict import Prediction, has_training_counts
from storage.members import Member
from storage.run_folder import UNREADABLE_LIST, RunFolder
from utils import (
    UserError,
    make_folder,
    process_number,
    read_json,
    remove_leftovers,
    shorten_list,
    write_json,
    write_text,
)


def name_prediction(place: Path, member: Member) -> str:
    """Return the folder name for the prediction of a single checkpoint, or of the best one in the folder of a run."""
    trained = member.info.config
    if place.is_dir():
        return place.name
    if trained is None:
        return place.stem
    name = RunFolder.of("", member.info.task, member.info.model_type, cv=trained["cv"]).name
    return name if trained["cv"] == 1 else f"{name}-fold{member.info.fold:02d}-{place.stem}"


@contextmanager
def reserve_folder(folder: Path) -> Iterator[None]:
    """Create a folder, to fail early if that is impossible, and remove it if the block raises and nothing is in it.

    Only the main process does so.
    """
    if process_number():
        yield
        return
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    make_folder(folder)
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):  # it is not empty
                each.rmdir()
        raise


def write_prediction(
    folder: Path,
    task: Task,
    prediction: Prediction,
    submissions: Mapping[str, np.ndarray],
    *,
    data_root: str | Path,
    proba: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a prediction and print their paths.

    `submissions` are answers by file stem, see `write_submission`, and `recipe` describes how the members are mixed.
    """
    members, images, unreadable = prediction.members, prediction.images, prediction.unreadable
    files, views = _name_files(members), prediction.settings.views
    transforms = dict.fromkeys(prediction.settings.transform_type or member.info.transform_type for member in members)
    about = {
        "task": task.name,
        **({} if members[0].info.labels is None else {"labels": list(members[0].info.labels)}),
        "transform_type": ", ".join(transforms),
        "tta": views,
        "data_root": str(Path(data_root).resolve()),
        "unreadable": list(unreadable),
        **({"proba": True} if proba else {}),
        **({} if recipe is None else {"recipe": recipe}),
        "members": [_describe(member, name) for member, name in zip(members, files, strict=True)],
    }
    _clear_earlier(folder, about)
    for name, probabilities in zip(files, prediction.probabilities, strict=True):
        columns = {f"p{i}": probabilities[:, i] for i in range(probabilities.shape[1])}
        rows = pd.DataFrame({"ImageID": images.ids, **columns})
        write_text(folder / "members" / name, rows.to_csv(index=False, float_format="%.8g"))
    for name, answers in submissions.items():
        write_submission(folder / f"{name}.csv", images.ids, task, answers, proba=proba)
    if unreadable:
        rows = pd.DataFrame({"ImageID": list(unreadable), "why": list(unreadable.values())})
        write_text(folder / UNREADABLE_LIST, rows.to_csv(index=False))
        known = has_training_counts(members, task)
        source = "training" if known else "the other images, since the weights come without training counts"
        print(
            f"{len(unreadable)} of {len(images.ids)} images cannot be read and got the most frequent answer of "
            f"{source}: {shorten_list(unreadable)}. See {folder / UNREADABLE_LIST}."
        )
    write_json(folder / "prediction.json", about)
    count = f"{len(members)} member{'s' if len(members) > 1 else ''} x {views} view{'s' if views > 1 else ''}"
    print(
        f"Averaged {count} = {len(members) * views} predictions of {len(images.ids) - len(unreadable)} images "
        f"(task {task.name}, transform {about['transform_type']}, device {prediction.settings.device})."
    )
    for name in submissions:
        print(f"  {folder / f'{name}.csv'}")
    print(f"  {folder / 'members'}: the predictions of each member")


def write_submission(path: Path, ids: Sequence[str], task: Task, answers: np.ndarray, *, proba: bool = False) -> None:
    """Write `ImageID,ans`, the answer being the name of a class, for faces its number, or a number to predict.

    With `proba` a column for each class, called by its name or number, has its probability instead. The `answers` are
    `(N, C)` probabilities, `(N, 1)` numbers, or `(N,)` classes.
    """
    names = range(len(task.classes)) if task.coded else task.classes
    if proba:
        table = pd.DataFrame(answers, columns=names)
        table.insert(0, "ImageID", ids)
        write_text(path, table.to_csv(index=False, float_format="%.8g"))
        return
    if task.regression:
        answers = np.round(answers[:, 0].astype(float), 2) if task.coded else answers[:, 0]
    elif answers.ndim == 2:
        answers = predicted_classes(task, answers)
    if not (task.coded or task.regression):
        answers = [names[number] for number in answers]
    table = pd.DataFrame({"ImageID": ids, "ans": answers})
    write_text(path, table.to_csv(index=False, float_format=None if task.coded else "%.8g"))


def _name_files(members: Sequence[Member]) -> list[str]:
    """Return the names of the members' files; those of equal checkpoint names end with a number."""
    names = []
    for member in members:
        name = member.path.stem if member.path.suffix == ".pt" else member.path.name
        names.append(name if member.fold is None else f"fold{member.fold:02d}_{name}")
    return [f"{name}_{k}.csv" if names.count(name) > 1 else f"{name}.csv" for k, name in enumerate(names)]


def _describe(member: Member, answers: str) -> dict[str, Any]:
    names = ("model_type", "backbone", "image_size", "fold", "epoch", "score")
    known = {name: getattr(member.info, name) for name in names}
    return {"file": str(member.path.resolve()), "answers": answers, "split": member.info.split_fingerprint, **known}


def _clear_earlier(folder: Path, about: Mapping[str, Any]) -> None:
    """Remove an earlier prediction that was made with other settings, so that the two are not mixed."""
    remove_leftovers(folder)
    remove_leftovers(folder / "members")
    path = folder / "prediction.json"
    with suppress(UserError):  # damaged, so it does not describe this prediction
        if path.is_file() and read_json(path) == about:
            return
    path.unlink(missing_ok=True)  # first, so that an interrupted deletion leaves no seemingly whole prediction
    old = list(folder.glob("submission*.csv"))
    if old:
        print(f"Replacing the earlier prediction in {folder}, which was made with other members, views or images.")
    for path in [*old, *(folder / "members").glob("*.csv"), folder / UNREADABLE_LIST]:
        path.unlink(missing_ok=True)
