"""Find and open the checkpoints that take part in a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.checks import check_network
from cli.choices import MODELS, resolve_name
from cli.options import flag
from config import PredictConfig, TrainConfig
from data.tasks import TASKS
from model import Network
from storage.checkpoint import ModelInfo, load_checkpoint, load_weights
from storage.find_runs import checkpoint_files
from storage.run_folder import RunFolder, changed_options
from utils import UserError, shorten_list

# ------------------------------------------------------------------------------------------------ members


@dataclass(frozen=True)
class Member:
    """One set of weights that takes part in a prediction, and the fold folder it lies in (None for a single file)."""

    path: Path
    info: ModelInfo
    fold: int | None = None

    def load(self) -> Network:
        """The network with its weights."""
        weights, _ = load_checkpoint(self.path)
        network = self.info.build()
        load_weights(
            network, weights, self.path, f"{self.info.model_type} ({self.info.backbone}, task {self.info.task})"
        )
        return network


def open_member(path: Path, config: PredictConfig, *, model_type: str | None = None, fold: int | None = None) -> Member:
    """A member from a file, its description checked against the options that were typed.

    A bare state dict is described by the options; `model_type` is the network its folder is named after, if it is.

    Raises:
        UserError: the file cannot be read, or an option contradicts it.
    """
    _, info = load_checkpoint(path)
    if info is None:
        kind = model_type if model_type and "model_type" not in config.given else config.model_type
        return Member(path, _describe_bare(kind, config), fold)
    for name in ("model_type", "backbone", "image_size"):
        typed, own = (str(getattr(each, name)).lower() for each in (config, info))
        if name in config.given and typed != own:
            raise UserError(
                f"{path} is a checkpoint with {flag(name)} {getattr(info, name)}, not {getattr(config, name)}; "
                f"leave {flag(name)} out or choose another checkpoint."
            )
    if "task" in config.given and not MODELS[info.model_type].answers(config.task, info.task):
        raise UserError(
            f"{path} is a checkpoint of task {info.task} and does not answer task {config.task}; "
            "choose another checkpoint or leave --task out."
        )
    return Member(path, info, fold)


def _describe_bare(model_type: str, config: PredictConfig) -> ModelInfo:
    model_type = resolve_name("The network that weights without a description belong to", model_type, MODELS)
    return ModelInfo(
        task=config.task,
        model_type=model_type,
        backbone=check_network(config.task, model_type, config.backbone),
        image_size=config.image_size or TrainConfig.image_size,
        transform_type="base",
        classes=TASKS[config.task].classes,
    )


def find_best(folder: Path, config: PredictConfig) -> Member:
    """The best checkpoint of a single run, which holds some (see `finding.find_single`)."""
    return _best_of_fold(RunFolder(folder).fold(0), 0, 1, config, None)[0]


def find_members(run: RunFolder, config: PredictConfig, *, top_k: int, folds: Sequence[int] | None) -> list[Member]:
    """The best `top_k` checkpoints of every fold of a K-fold run, fold by fold, best first.

    Raises:
        UserError: a fold is missing or holds fewer, or the members do not belong together.
    """
    there = run.folds()
    if not there:
        raise UserError(f"{run.path} holds no folders fold00, fold01, ...")
    named_after = run.name.split("ensemble-", 1)[-1] if "ensemble-" in run.name else None
    wanted = list(folds) if folds is not None else list(range(max(there) + 1))
    missing = [k for k in wanted if not checkpoint_files(run.fold(k))]
    members = [m for k in wanted if k not in missing for m in _best_of_fold(run.fold(k), k, top_k, config, named_after)]
    if folds is None and members and members[0].info.config:
        missing = sorted({*missing, *range(members[0].info.config["cv"])} - {m.fold for m in members})
    if missing:
        have = ",".join(str(m) for m in sorted({m.fold for m in members}))
        hint = f", or pass --folds {have} to go without" if have else ""
        raise UserError(
            f"{run.path} has no checkpoints for fold {shorten_list(missing, 20)}. Train with --resume to add them{hint}."
        )
    _check_together(members, config)
    return members


def check_fold(run: RunFolder, number: int, config: TrainConfig, fingerprint: str) -> None:
    """Make sure that a finished fold is whole and belongs to the run that its folder lies in.

    Raises:
        UserError: files are missing, or its checkpoints are of other options, another split or another fold.
    """
    files = checkpoint_files(run.fold(number))
    gone = [] if run.fold_oof(number).is_file() else [run.fold_oof(number).name]
    gone += [] if files else ["its checkpoints"]
    if gone:
        raise UserError(f"{run.fold(number)} is a trained fold without {shorten_list(gone)}; copy what is missing.")
    _, info = load_checkpoint(files[0])
    if info is None or info.config is None:
        raise UserError(f"{files[0]} is no checkpoint of train.py.")
    told = {"split": (info.split_fingerprint, fingerprint), "fold": (info.fold, number)}
    different = [f"its {name} is {own}, not {wanted}" for name, (own, wanted) in told.items() if own != wanted]
    different += changed_options(info.config, config)
    if different:
        raise UserError(f"{files[0]} is not of the run in {run.path}: {'; '.join(different)}.")


def _best_of_fold(folder: Path, fold: int, top_k: int, config: PredictConfig, named_after: str | None) -> list[Member]:
    members = [open_member(path, config, model_type=named_after, fold=fold) for path in checkpoint_files(folder)]
    if len(members) < top_k:
        raise UserError(
            f"{folder} holds {len(members)} checkpoint{'s' if len(members) > 1 else ''}, fewer than --top-k {top_k}; "
            f"pass --top-k {len(members)} or train with a larger --top-n."
        )
    bare = [member for member in members if member.info.score is None]
    if bare and len(members) > top_k:
        raise UserError(
            f"{folder} holds {len(members)} files and {bare[0].path.name} carries no score to rank it by; "
            f"leave only the {top_k} that should take part, or pass --top-k {len(members)}."
        )
    if not bare:
        sign = -1 if members[0].info.higher_is_better else 1
        members.sort(key=lambda member: (sign * member.info.score, member.info.epoch))
    return members[:top_k]


def _check_together(members: Sequence[Member], config: PredictConfig) -> None:
    first = members[0]
    chosen = {"transform_type", "inference_crop"} if "transform_type" in config.given else set()
    if (config.transform_type or first.info.transform_type) != "tta":
        chosen.add("crop_scale")  # which only its random views depend on
    for member in members[1:]:
        together = ("task", "image_size", "mean", "std", "crop_scale", "inference_crop", "transform_type")
        for name in (*together, "split_fingerprint"):
            if name not in chosen and getattr(member.info, name) != getattr(first.info, name):
                raise UserError(
                    f"{member.path} and {first.path} do not belong together: their {name.replace('_', ' ')} differs "
                    f"({getattr(member.info, name)} and {getattr(first.info, name)})."
                )
    for member in members:
        if member.info.fold not in (None, member.fold):
            raise UserError(
                f"{member.path} is a checkpoint of fold {member.info.fold}, not of fold {member.fold}; move it back."
            )


def answered_task(members: Sequence[Member], config: PredictConfig) -> str:
    """The task to predict: the one that was typed, or else the one the members were trained on."""
    return config.task if "task" in config.given else members[0].info.task
