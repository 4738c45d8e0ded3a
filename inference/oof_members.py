"""The members of K-fold runs and their out-of-fold predictions: each image is predicted by folds that held it out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from cli.checks import own_data
from config import TrainConfig
from data.image_cache import ImageReader
from data.images import needed_side
from data.prepare import Data, prepare_images, read_tables
from data.split import Fold, Split
from data.tasks import Task
from inference.predict import Networks, PredictionSettings, build_transforms, check_finite, predict_views
from inference.recipe import covers, join_parts, make_part
from storage.find_runs import checkpoint_files
from storage.members import Member, find_members
from storage.run_folder import KFOLD, RunFolder
from utils import UserError, shorten_list


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A finished K-fold run."""

    folder: RunFolder
    config: TrainConfig
    folds: list[Fold]
    members: list[list[Member]]  # of each fold, best first

    @property
    def task(self) -> Task:
        """Return the task of the run."""
        return self.config.record

    @property
    def name(self) -> str:
        """Return the name in tables and messages."""
        return str(self.folder.path)

    def of_rank(self, rank: int) -> list[Member]:
        """Return the members of a rank, one of each fold."""
        return [fold[rank] for fold in self.members]

    def seat(self, fold: int) -> int:
        """Return which of the predictions of an image is that of a fold; see `OofRun`."""
        return fold if self.config.valid_root else 0

    def error(self, rank: int) -> float | None:
        """Return the error (RMSE) of the members of a rank; None for a run with classes."""
        if not self.task.regression:
            return None
        return float(np.mean([member.info.scores["rmse"] for member in self.of_rank(rank)]))


@dataclass(frozen=True, eq=False)
class OofRun(TrainedRun):
    """A run with its out-of-fold predictions `answers`, `(S, R, V, N, C)`.

    S folds predict each image, all of them with --valid-root and else one, with R members each, best first, in V views.
    """

    rows: Sequence[np.ndarray]  # the images that each fold validates
    answers: np.ndarray
    seconds: float  # of a network for a view

    def ranked(self, views: int) -> np.ndarray:
        """Return the mean predictions over the first views, `(R, S, N, C)`."""
        return self.answers[:, :, :views].mean(axis=2).swapaxes(0, 1)


@dataclass(frozen=True, eq=False)
class Voter:
    """A run, or joint runs of several tasks that predict main: each attribute by the run that was trained on it.

    Of joint runs, the run of main, if any, predicts the attributes that have no run.
    """

    runs: list[OofRun]
    joint: bool = False

    @property
    def name(self) -> str:
        """Return the name in tables."""
        return " with ".join(run.name for run in self.runs)

    def of_rank(self, rank: int) -> list[Member]:
        """Return the members of a rank, one of each fold of each run."""
        return [member for run in self.runs for member in run.of_rank(rank)]

    def ranked(self, views: int) -> np.ndarray:
        """Return the mean predictions of each rank over the first views, `(R, S, N, C)`, of joint runs with S = 1."""
        if not self.joint:
            return self.runs[0].ranked(views)
        parts = []  # of each run, by rank
        for run in self.runs:
            answers = run.ranked(views).mean(axis=1)  # over the folds that predict an image
            parts.append([make_part(run.task, each, run.error(rank)) for rank, each in enumerate(answers)])
        task = self.runs[0].config.tasks.default
        return np.stack([join_parts(task, each) for each in zip(*parts, strict=True)])[:, None]


@dataclass(frozen=True)
class Candidate:
    """Members that are selected together: those of one rank of all folds, or the soups of the folds."""

    voter: Voter
    rank: int | None  # None for soups
    members: list[Member]
    answers: np.ndarray  # out-of-fold predictions, (S, N, C)

    def __str__(self) -> str:
        return f"{self.voter.name}, {'soups' if self.rank is None else f'rank {self.rank + 1}'}"


def open_run(folder: RunFolder, *, top_k: int, views: int) -> TrainedRun:
    """Return a run with the best `top_k` members of each fold.

    Raises:
        UserError: it is not finished, or it is not certain which people its members were trained on.
    """
    trained, split = folder.read_config(), folder.read_split()
    try:
        folds = [Fold(fold["train"], fold["valid"]) for fold in split["folds"]]
        sound = Split(trained.seed, folds, []).fingerprint == split["fingerprint"]
        sound &= not any(set(fold.train) & set(fold.valid) for fold in folds)
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{folder.split} is damaged. Restore the split.json of the training.")
    missing = folder.unfinished() or [k for k in range(len(folds)) if not checkpoint_files(folder.fold(k))]
    if missing:
        raise UserError(f"Fold {shorten_list(missing)} of {folder.path} is not finished. Train it with --resume.")
    members = find_members(folder, top_k=top_k, folds=range(len(folds)))
    build_transforms(members, views)  # raises an error if a transform has fewer views
    for member in members:
        if member.info.split_fingerprint != split["fingerprint"]:
            raise UserError(
                f"{member.path} has split {member.info.split_fingerprint}, but {folder.split} has "
                f"{split['fingerprint']}: it may have been trained on the images it would be scored on. Use the "
                "checkpoints of one run."
            )
    if trained.load_state_dict:
        print(
            f"{folder.path} started from {trained.load_state_dict}. Its scores are too high if those weights were "
            "trained on the same images."
        )
    return TrainedRun(folder, trained, folds, [[m for m in members if m.fold == k] for k in range(len(folds))])


def find_common_task(runs: Sequence[TrainedRun]) -> Task:
    """Return the task of all runs, or main if their tasks cover it together."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    default = runs[0].config.tasks.default
    if len(tasks) > 1 and not covers(default, tasks):
        names, parts = (" and ".join(task.name for task in each) for each in (tasks, default.parts))
        parts = parts if runs[0].config.data else "mask, gender and ageg or age"
        joint = f", of {parts}, or one of {default.name} with them" if default.parts else ""
        raise UserError(
            f"The runs have the tasks {names}, which do not make the classes of {default.name}. Pass runs of one "
            f"task{joint}."
        )
    return tasks[0] if len(tasks) == 1 else default


def name_recipe(runs: Sequence[TrainedRun], task: Task) -> str:
    """Return a name for a recipe: the networks of its runs, with their task if it is another one."""
    names = [run.folder.name.removeprefix(KFOLD) for run in runs]
    tasks = ["" if run.task == task else f"{run.task.name}-" for run in runs]
    return "+".join(dict.fromkeys(own + name for own, name in zip(tasks, names, strict=True)))


def read_data(
    runs: Sequence[TrainedRun],
    *,
    train_root: str | Path | None = None,
    image_root: str | Path | None = None,
    valid_root: str | Path | None = None,
    corrections: str | Path | None = None,
) -> Data:
    """Return the images that all runs were trained on, from where they are now or else were in training.

    Raises:
        UserError: the runs were trained on different data, or the data have changed.
    """
    first = runs[0]
    prints = [run.folder.fingerprints().get("labels") for run in runs]
    for run, found in zip(runs, prints, strict=True):
        if found != prints[0]:
            raise UserError(
                f"{run.name} was trained on other images or labels than {first.name} (fingerprints {found} and "
                f"{prints[0]}). Pass runs on the same data."
            )
    config = first.config
    wrong = [name for name in ((valid_root, corrections) if config.data else (image_root,)) if name]
    if wrong:
        kind = f"--data {config.data}" if config.data else "folders of people"
        raise UserError(f"{first.name} was trained on {kind}, not on {wrong[0]}. Leave it out.")
    own = own_data(config)
    if own:
        moved = {"data": train_root, "image_root": image_root}
        own |= {name: value for name, value in moved.items() if value}
    train_root, valid_root = train_root or config.train_root, valid_root or config.valid_root
    corrections = corrections or config.corrections
    places = {"train_root": train_root, "valid_root": valid_root, "corrections": corrections}
    try:
        tables = read_tables(**places, own=own, cv=config.cv, seed=config.seed)
    except UserError as error:
        where = " Here --train-root names the CSV, and --image-root its images." if own else ""
        raise UserError(f"{error}{where}") from None
    side = max(needed_side(run.config.image_size, run.config.crop_scale) for run in runs)
    limits = {"max_megapixels": config.max_megapixels, "on_bad_image": config.on_bad_image}
    data = prepare_images(tables, side=side, cache="ram", **limits)
    if data.fingerprint != prints[0]:
        changed = (
            "train.csv or the corrections changed. Pass --train-root and --corrections with the data of the training"
        )
        changed = "their table changed. Restore the data of the training" if config.data else changed
        raise UserError(
            f"{own['data'] if own else train_root} holds other images or labels than {first.name} was trained on "
            f"(fingerprints {data.fingerprint} and {prints[0]}): files were added, lost or became unreadable, or "
            f"{changed}."
        )
    _check_groups(runs, data)
    if any(run.folds != first.folds for run in runs):
        print("The runs split the images differently. Each is scored on the images that its own folds held out.")
    return data


def _check_groups(runs: Sequence[TrainedRun], data: Data) -> None:
    """Check that images have the groups of the training, or their folds may have been trained on them."""
    people = pd.concat([data.table, data.valid]).set_index("image")["person"].astype(str)
    for run in runs:
        trained = run.folder.read_oof(run.task).drop_duplicates("ImageID").set_index("ImageID")["person"].astype(str)
        moved = [image for image, person in trained.items() if people.get(image) != person]
        if moved:
            raise UserError(
                f"{run.name} was trained with other {run.task.noun} of {len(moved)} images: {shorten_list(moved)}. "
                "Restore the data of the training."
            )


@dataclass(frozen=True, eq=False)
class Validation:
    """The images that folds validate, and how they are predicted."""

    table: pd.DataFrame  # one row per image
    reader: ImageReader
    settings: PredictionSettings

    def predict(
        self, networks: Sequence[nn.Module], members: Sequence[Member], task: Task, rows: np.ndarray
    ) -> np.ndarray:
        """Return the predictions of each member's network for each view of some rows, `(M, n, V, C)`."""
        table, settings = self.table.iloc[rows], self.settings
        transforms = build_transforms(members, settings.views)
        paths, ids = table["path"].tolist(), table["image"].tolist()
        return predict_views(networks, task, transforms, paths, ids, self.reader, settings, apart=True)


def predict_out_of_fold(run: TrainedRun, validation: Validation) -> OofRun:
    """Return a run with the predictions of each fold's members for the people that the fold validates, and no others.

    Raises:
        UserError: the split does not validate every person once, or predictions are not finite.
    """
    table, settings = validation.table, validation.settings
    rows = [np.flatnonzero(table["person"].isin(fold.valid)) for fold in run.folds]
    seats = len(run.folds) if run.config.valid_root else 1
    if (np.bincount(np.concatenate(rows), minlength=len(table)) != seats).any():
        raise UserError(f"{run.folder.split} does not validate every person once. Restore that of the training.")
    shape = (seats, len(run.members[0]), settings.views, len(table), run.task.outputs)
    answers, passes, seconds = np.empty(shape, np.float32), 0, 0.0
    for fold, (own, members) in enumerate(zip(rows, run.members, strict=True)):
        networks = [*Networks(members, settings)]
        start = time.perf_counter()
        found = validation.predict(networks, members, run.task, own)
        seconds += time.perf_counter() - start
        passes += found[..., 0].size
        check_finite(found, members, settings.dtype)
        answers[run.seat(fold)][:, :, own] = found.swapaxes(1, 2)
    print(f"{run.name}: {passes} predictions of the images that each fold held out, {passes / seconds:.0f} per second.")
    return OofRun(**vars(run), rows=rows, answers=answers, seconds=seconds / passes)


def list_voters(runs: Sequence[OofRun], task: Task) -> list[Voter]:
    """Return the runs of a task, and for main the joint ones: one run per attribute, alone or with a run of main."""
    singles = [run for run in runs if run.task == task]
    by_attribute: dict[Task, list[OofRun]] = {}
    for run in runs:
        if run.task != task:
            by_attribute.setdefault(run.task.class_task, []).append(run)
    bases = [[]] if covers(task, by_attribute) else []
    bases += [[run] for run in singles] if by_attribute else []
    joint = [[*base, *parts] for base in bases for parts in product(*by_attribute.values())]
    return [Voter([run]) for run in singles] + [Voter(each, joint=True) for each in joint]
