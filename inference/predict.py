"""Predicting photographs with one network or an ensemble, and writing the submission files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from augmentation import Settings, build_transform
from cli.choices import MODELS
from cli.command import Context
from config import EnsembleConfig, PredictConfig, SingularConfig
from data.image_cache import ImageReader
from data.images import find_unreadable, needed_side, stop_if_unreadable
from data.label_math import predicted_class
from data.prediction_files import PredictionList
from data.tasks import TASKS
from dataset import ViewDataset
from inference import voting
from inference.recipe import Recipe
from model import inference_network
from storage.checkpoint import ModelInfo
from storage.members import Expected, Member, find_best, find_members, open_member
from storage.run_folder import UNREADABLE_LIST, RunFolder
from training.device import count_workers, free_memory
from training.distributed import Processes
from training.engine import inference_dtype, predict, prepare
from training.loaders import view_loader
from utils import UserError, file_digest, make_folder, read_json, remove_leftovers, shorten_list, write_json, write_text


def expected_options(config: PredictConfig) -> Expected:
    """Return the typed options that checkpoints must agree with."""
    return Expected(**{f.name: config.typed(f.name) for f in fields(Expected)})


def predict_singular(config: SingularConfig, place: Path, photographs: PredictionList, context: Context) -> None:
    """Predict with one network and write submission.csv; the command of submit_singular.py.

    Args:
        place: what `finding.find_single` found. photographs: what to predict.
    """
    if place.is_dir():
        member, run_name = find_best(place, expected_options(config)), place.name
    else:
        member, run_name = open_member(place, expected_options(config)), place.stem
        if member.info.config is not None:
            cv = member.info.config["cv"]
            run = RunFolder.of("", member.info.task, member.info.model_type, cv=cv)
            run_name = run.name if cv == 1 else f"{run.name}-fold{member.info.fold:02d}-{place.stem}"
    write_prediction(config, context, [member], photographs, run_name, method="singular", at_once=1)


def predict_ensemble(config: EnsembleConfig, run: RunFolder, photographs: PredictionList, context: Context) -> None:
    """Predict with the best checkpoints of every fold and write the submission files; that of submit_ensemble.py.

    Args:
        run: the K-fold run, as `finding.find_run` found it. photographs: what to predict.
    """
    members = find_members(run, expected_options(config), top_k=config.top_k, folds=config.folds)
    unfinished = run.unfinished()
    if unfinished:
        print(f"Not all of {run.path} is trained: fold {shorten_list(unfinished)}.")
    write_prediction(
        config, context, members, photographs, run.name, method=config.method, at_once=config.members_at_once
    )


def predict_recipe(config: EnsembleConfig, recipe: Recipe, photographs: PredictionList, context: Context) -> None:
    """Predict with the members of a recipe and mix them as it says; that of submit_ensemble.py with --recipe.

    Args:
        recipe: what `ensemble.read_recipe` read. photographs: what to predict.

    Raises:
        UserError: a checkpoint is missing, or is not the one that the recipe was made with.
    """
    if "task" in config.given and config.task != recipe.task:
        raise UserError(f"{config.recipe} is a recipe for task {recipe.task}, not {config.task}; leave --task out.")
    members, expected = [], replace(expected_options(config), task=None)  # the recipe says what each member predicts
    for entry in recipe.members:
        path = Path(config.recipe).parent / entry["file"]
        if not path.is_file():
            raise UserError(
                f"There is no checkpoint file {path}, where {config.recipe} looks for it, beginning at its own folder; "
                "put both back to where they were, or make the recipe anew with design_ensemble.py."
            )
        if file_digest(path) != entry["digest"]:
            raise UserError(
                f"{path} is not the checkpoint that {config.recipe} was made with (digest {file_digest(path)}, not "
                f"{entry['digest']}); put that one back, or make the recipe anew with design_ensemble.py."
            )
        members.append(open_member(path, expected, fold=entry["fold"]))
        info = members[-1].info
        if not MODELS[info.model_type].answers(entry["task"], info.task):
            raise UserError(f"{config.recipe} is damaged: {path} learnt task {info.task}, not {entry['task']}.")
    config.tta = recipe.tta
    name, at_once = Path(config.recipe).absolute().parent.name, config.members_at_once
    write_prediction(config, context, members, photographs, name, method="recipe", at_once=at_once, recipe=recipe)


# ------------------------------------------------------------------------------------------------ prediction


def write_prediction(
    config: PredictConfig,
    context: Context,
    members: Sequence[Member],
    photographs: PredictionList,
    run_name: str,
    *,
    method: str,
    at_once: int,
    recipe: Recipe | None = None,
) -> None:
    """Predict every photograph with every member and write the members' probabilities and the submissions.

    Args:
        photographs: what to predict.
        run_name: the name of the folder to write in.
        method: singular, softvoting, hardvoting or recipe.
        at_once: how many members to hold in memory at a time; 0 as many as fit.
        recipe: that of the method of this name.

    Raises:
        UserError: photographs are missing or unreadable, or an option does not fit.
    """
    answered = config.typed("task") or members[0].info.task
    task = answered if recipe is None else recipe.task
    tasks = [task] * len(members) if recipe is None else recipe.tasks
    if TASKS[task].regression and method == "hardvoting":
        raise UserError(f"--method hardvoting counts classes and task {task} has none; use softvoting.")
    transforms = transforms_of(members, config.tta, config.transform_type)
    transform_type = ", ".join(dict.fromkeys(config.transform_type or member.info.transform_type for member in members))
    for note in photographs.notes:
        print(note)
    dist = Processes.from_environment()
    device = dist.choose_device(config.device)
    dtype = inference_dtype(config.precision, device)
    folder = Path(config.save_path) / task / run_name
    with dist.connect(device):
        context.joined = True
        unreadable = dist.run_once_per_machine(lambda: _look_at(photographs, config))
        at_once = at_once or _members_that_fit(members, device, dist.local_size)
        # A member that a recipe names several times is asked once.
        keys = [(member.path, member.fold, own) for member, own in zip(members, tasks, strict=True)]
        once = [keys.index(key) for key in dict.fromkeys(keys)]
        asked_for = [once.index(keys.index(key)) for key in keys]  # which of those each member is
        networks = networks_of([members[k] for k in once], device, dtype, at_once)
        if dist.is_main:
            make_folder(make_folder(folder) / "members")  # a place that cannot be written to is found out now
        readable = np.array([str(path) not in unreadable for path in photographs.paths])
        paths, ids = (np.array(values)[readable].tolist() for values in (photographs.paths, photographs.ids))
        if any(other != ids for other in dist.gather(ids)):
            raise UserError("The machines do not have the same photographs to predict; copy the same to all.")
        reader = ImageReader(max(needed_side(member.info.image_size, member.info.crop_scale) for member in members))
        asked = Asked([tasks[k] for k in once], config.tta, reader, config.batch_size, config.num_workers, device, dist)
        answers = asked.answers(networks, [transforms[k] for k in once], paths, ids, at_once=at_once)
    if not dist.is_main:
        return
    check_numbers(answers, [members[k] for k in once], dtype)
    answers = [rows[:, : TASKS[tasks[k]].outputs] for k, rows in zip(once, answers, strict=True)]
    answers = [answers[k] for k in asked_for]
    if unreadable:
        usual = {own: usual_answer(members, own, _answers_of(own, tasks, answers)) for own in dict.fromkeys(tasks)}
        answers = [_with_usual(rows, readable, usual[own]) for rows, own in zip(answers, tasks, strict=True)]
    settings = {
        "task": task,
        "transform_type": transform_type,
        "tta": config.tta,
        "data_root": str(Path(config.data_root).resolve()),
        "unreadable": [name for name, good in zip(photographs.ids, readable, strict=True) if not good],
    }
    if recipe is None:
        combined = combine(np.stack(answers), members, task, method)
    else:
        settings["recipe"] = {**recipe.mixing(), "members": asked_for}
        combined = {"submission_recipe": recipe.mix(answers)}
    members, answers = [members[k] for k in once], [answers[k] for k in once]
    settings["members"] = [_describe(member, name) for member, name in zip(members, _files_of(members), strict=True)]
    files = _write_files(folder, settings, members, photographs, unreadable, answers, combined)
    count = f"{len(members)} member{'s' if len(members) > 1 else ''} x {config.tta} view{'s' if config.tta > 1 else ''}"
    print(
        f"Averaged {count} = {len(members) * config.tta} predictions of {len(paths)} images "
        f"(task {task}, transform {transform_type}, device {device})."
    )
    for path in files:
        print(f"  {path}")
    print(f"  {folder / 'members'}: the probabilities of each member")


def check_numbers(answers: np.ndarray, members: Sequence[Member], dtype: torch.dtype) -> None:
    """Refuse answers that are no numbers."""
    wrong = [member.path.name for member, rows in zip(members, answers, strict=True) if not np.isfinite(rows).all()]
    if wrong:
        advice = "take other checkpoints" if dtype == torch.float32 else "pass --precision float32"
        raise UserError(f"Not all answers of {shorten_list(wrong)} are numbers when computed in {dtype}; {advice}.")


def _look_at(photographs: PredictionList, config: PredictConfig) -> dict[str, str]:
    """The photographs that cannot be read and are to be skipped, each with a sentence that says why."""
    unreadable = find_unreadable(photographs.paths, config.max_megapixels)
    stop_if_unreadable(unreadable, config.on_bad_image)
    if len(unreadable) == len(photographs.paths):
        raise UserError(f"None of the {len(unreadable)} photographs in {config.data_root} can be read.")
    return unreadable


def transforms_of(members: Sequence[Member], views: int, transform_type: str | None = None) -> list[Callable]:
    """How each member sees photographs, the same object for all that share transform, size and normalisation.

    Args:
        transform_type: how all do; None leaves it to what each was trained with.

    Raises:
        UserError: one has fewer views.
    """
    infos = [member.info for member in members]
    cuts = [_cut_of(info, transform_type) for info in infos]
    dropped = {info.inference_crop for info in infos} - {cut.inference_crop for _, cut in cuts}
    if dropped:
        print(
            f"The inference crop of the training ({shorten_list(dropped)}) is not that of transform {transform_type}: left out."
        )
    made = {cut: _transform(views, *cut) for cut in dict.fromkeys(cuts)}
    return [made[cut] for cut in cuts]


def _cut_of(info: ModelInfo, transform_type: str | None) -> tuple[str, Settings]:
    # A crop that was chosen for the transform of the training need not suit another one.
    own = {"inference_crop": info.inference_crop} if transform_type in (None, info.transform_type) else {}
    settings = Settings(info.image_size, tuple(info.mean), tuple(info.std), crop_scale=info.crop_scale, **own)
    return transform_type or info.transform_type, settings


def _transform(views: int, name: str, settings: Settings) -> Callable:
    """How photographs are cut for such members, with as many views as are wanted."""
    transform = build_transform(name, "inference", **vars(settings))
    if transform.max_views is not None and views > transform.max_views:
        raise UserError(
            f"--tta {views} is more than the {transform.max_views} fixed views of transform {name}; "
            f"pass {transform.max_views} or fewer, or --transform-type tta, which has any number."
        )
    return transform


def _answers_of(task: str, tasks: Sequence[str], answers: Sequence[np.ndarray]) -> np.ndarray:
    """`(M, N, C)`, the answers of those members that answer a task."""
    return np.stack([rows for own, rows in zip(tasks, answers, strict=True) if own == task])


def _with_usual(answers: np.ndarray, readable: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """`(N, C)` answers of all photographs from those of the readable ones; the others get the usual one."""
    filled = np.empty((len(readable), answers.shape[1]), answers.dtype)
    filled[readable], filled[~readable] = answers, usual
    return filled


@dataclass(frozen=True)
class Asked:
    """What networks are asked: a task of photographs, or of each network its own, in so many views, and how the
    photographs are loaded."""

    tasks: str | Sequence[str]
    views: int
    reader: ImageReader
    batch_size: int
    workers: int
    device: torch.device
    dist: Processes

    def answers(
        self,
        networks: Sequence[nn.Module],
        transforms: Sequence[Callable],
        paths: Sequence[str],
        ids: Sequence[str],
        *,
        at_once: int | None = None,
        apart: bool = False,
    ) -> np.ndarray:
        """What each network answers of the photographs, `(M, N, C)` or with views kept `apart` `(M, N, V, C)`.

        C is that of the task with the most; what is left of others is 0.

        Args:
            networks, transforms: of each member, from `networks_of` and `transforms_of`.
            paths, ids: of each photograph.
            at_once, apart: see `engine.predict`.
        """
        first, *others = kinds = list(dict.fromkeys(transforms))
        dataset = ViewDataset(paths, ids, first, others=others, views=self.views, reader=self.reader)
        loader = view_loader(
            dataset,
            batch_size=max(1, self.batch_size // self.views),
            workers=count_workers(self.workers, self.device, sharing=self.dist.local_size),
            device=self.device,
            dist=self.dist,
        )
        seen = [kinds.index(transform) for transform in transforms]
        options = {"kinds": seen, "at_once": at_once, "apart": apart, "dist": self.dist}
        return predict(networks, loader, self.tasks, self.device, **options)


def networks_of(
    members: Sequence[Member], device: torch.device, dtype: torch.dtype, at_once: int
) -> Sequence[nn.Module]:
    """The members' networks, or where they take turns what makes them; weights that do not fit are found out here."""
    if at_once >= len(members):
        return [*_Networks(members, device, dtype)]
    print(f"The {len(members)} members take turns, {at_once} at a time.")
    for member in members:
        member.load()
    return _Networks(members, device, dtype)


class _Networks(Sequence):
    """The members' networks, each loaded when it is asked for."""

    def __init__(self, members: Sequence[Member], device: torch.device, dtype: torch.dtype) -> None:
        self.members, self.device, self.dtype = members, device, dtype

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> nn.Module:
        member = self.members[index]
        return prepare(inference_network(member.load(), member.info.image_size), self.device, self.dtype)


def _members_that_fit(members: Sequence[Member], device: torch.device, processes: int) -> int:
    """How many members half of the memory holds that is free; the other half is for what they compute.

    So many processes share it, unless each has a GPU of its own.
    """
    free, largest = free_memory(device), max(member.path.stat().st_size for member in members)
    if free is None:
        return len(members)
    share = free // processes if device.type == "cpu" else free
    return max(1, min(len(members), share // 2 // largest))


def usual_answer(members: Sequence[Member], task: str, answers: np.ndarray) -> np.ndarray:
    """What to answer of a photograph that cannot be read: the most frequent class of training, or the median age.

    Members that do not know what they were trained on leave it to what all of them answer of the other photographs.

    Args:
        answers: `(M, N, C)`, what each member answers of those.

    Returns:
        `(C,)`: 1 for that class and 0 for others, or for age the years.
    """
    infos, known = [member.info for member in members], _training_known(members, task)
    if TASKS[task].regression:
        return np.array([np.mean([info.training_age for info in infos]) if known else np.median(answers)])
    if known:
        counts = np.sum([info.training_counts[task] for info in infos], axis=0)
    else:
        counts = np.bincount(answers.mean(axis=0).argmax(axis=1), minlength=answers.shape[2])
    return np.eye(answers.shape[2])[counts.argmax()]


def _training_known(members: Sequence[Member], task: str) -> bool:
    """Whether all members know what they were trained on."""
    infos = [member.info for member in members]
    if TASKS[task].regression:
        return all(info.training_age is not None for info in infos)
    return all(info.training_counts is not None for info in infos)


def combine(answers: np.ndarray, members: Sequence[Member], task: str, method: str) -> dict[str, np.ndarray]:
    """The submissions of a method, by file stem: `(N, C)` probabilities or years, or `(N,)` classes of a vote.

    Args:
        answers: `(M, N, C)`, what each member answers.
        members: the M members, for their validation scores.
        task: what was predicted.
        method: singular, softvoting or hardvoting.
    """
    if method == "singular":
        return {"submission": answers[0]}
    if method == "hardvoting":
        return {"submission_hardvoting": voting.hard_vote(answers)}
    info = members[0].info
    scores = [member.info.score for member in members]
    weights = voting.member_weights(scores, higher_is_better=bool(info.higher_is_better))
    if weights is None:
        print("Not every member carries a validation score above 0: the weighted mean is the arithmetic one.")
        weights = np.ones(len(members))
    return {
        "submission_arithmetic": voting.arithmetic_mean(answers),
        "submission_geometric": voting.geometric_mean(answers, years=TASKS[task].regression),
        "submission_weighted_mean": voting.weighted_mean(answers, weights),
    }


# ------------------------------------------------------------------------------------------------ files


def _write_files(
    folder: Path,
    settings: dict[str, Any],
    members: Sequence[Member],
    photographs: PredictionList,
    unreadable: dict[str, str],
    answers: Sequence[np.ndarray],
    combined: dict[str, np.ndarray],
) -> list[Path]:
    """Write all that a prediction leaves, `settings` as prediction.json, and return the submission files."""
    task, left_out = settings["task"], settings["unreadable"]
    _clear_earlier(folder, settings)
    _write_members(folder, photographs, members, answers)
    files = [write_submission(folder / f"{name}.csv", photographs.ids, task, rows) for name, rows in combined.items()]
    if unreadable:
        why = [unreadable.get(str(path)) for path in photographs.paths]
        rows = pd.DataFrame({"ImageID": photographs.ids, "why": why}).dropna()
        write_text(folder / UNREADABLE_LIST, rows.to_csv(index=False))
        usual = "training" if _training_known(members, task) else "the others, since the weights know of no training"
        print(
            f"{len(left_out)} of {len(photographs.ids)} photographs cannot be read and got the most usual answer of "
            f"{usual}: {shorten_list(left_out)}. They stand in {folder / UNREADABLE_LIST}."
        )
    write_json(folder / "prediction.json", settings)
    return files


def write_submission(path: Path, ids: Sequence[str], task: str, combined: np.ndarray) -> Path:
    """Write `ImageID,ans`: the class number, or for age the years; returns the path."""
    if TASKS[task].regression:
        combined = np.round(combined[:, 0].astype(float), 2)
    elif combined.ndim == 2:
        combined = predicted_class(task, combined)
    write_text(path, pd.DataFrame({"ImageID": ids, "ans": combined}).to_csv(index=False))
    return path


def _write_members(
    folder: Path, photographs: PredictionList, members: Sequence[Member], answers: Sequence[np.ndarray]
) -> None:
    for name, probabilities in zip(_files_of(members), answers, strict=True):
        columns = {f"p{i}": probabilities[:, i] for i in range(probabilities.shape[1])}
        rows = pd.DataFrame({"ImageID": photographs.ids, **columns})
        write_text(folder / "members" / name, rows.to_csv(index=False, float_format="%.8g"))


def _files_of(members: Sequence[Member]) -> list[str]:
    """What the files of the members' answers are called."""
    names = [_member_name(member) for member in members]
    # Checkpoints of several runs may have the same name.
    return [f"{name}_{k}.csv" if names.count(name) > 1 else f"{name}.csv" for k, name in enumerate(names)]


def _member_name(member: Member) -> str:
    name = member.path.stem if member.path.suffix == ".pt" else member.path.name
    return name if member.fold is None else f"fold{member.fold:02d}_{name}"


def _describe(member: Member, answers: str) -> dict[str, Any]:
    info = member.info
    return {
        "file": str(member.path.resolve()),
        "answers": answers,
        "split": info.split_fingerprint,
        "model_type": info.model_type,
        "backbone": info.backbone,
        "image_size": info.image_size,
        "fold": info.fold,
        "epoch": info.epoch,
        "score": info.score,
    }


def _clear_earlier(folder: Path, settings: dict[str, Any]) -> None:
    """Remove an earlier prediction of other members, views or photographs, so that none of it is taken for this one."""
    remove_leftovers(folder)
    remove_leftovers(folder / "members")
    about = folder / "prediction.json"
    if about.is_file() and _is_said_in(about, settings):
        return
    about.unlink(missing_ok=True)  # first, so that a deletion that is cut is not taken for a prediction
    old = list(folder.glob("submission*.csv"))
    if old:
        print(f"Replacing the earlier prediction in {folder}, which was made with other members, views or photographs.")
    for path in [*old, *(folder / "members").glob("*.csv"), folder / UNREADABLE_LIST]:
        path.unlink(missing_ok=True)


def _is_said_in(path: Path, settings: dict[str, Any]) -> bool:
    try:
        return read_json(path) == settings
    except UserError:  # damaged: not of this prediction
        return False
