"""Find and open the checkpoints that take part in a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.create import expected_pixels
from cli.checks import check_network
from cli.choices import MODELS, flag, resolve_name
from config import TrainConfig
from data.faces import FACES
from data.tasks import Task
from model import Network
from storage.checkpoint import CUTS, ModelInfo, has_logits_head, load_checkpoint, load_weights
from storage.find_runs import CHECKPOINTS, OTHER_WEIGHTS, checkpoint_files
from storage.run_folder import RunFolder, changed_options
from utils import UserError, shorten_list


@dataclass(frozen=True)
class Expected:
    """Options that checkpoints must agree with, and that describe bare state dicts; None if not typed."""

    task: str | None = None
    model_type: str | None = None
    backbone: str | None = None
    image_size: int | None = None
    transform_type: str | None = None

    def choose(self, info: ModelInfo) -> Task:
        """Return the task to predict: the typed one, or that of a checkpoint; raise a UserError if it lacks it."""
        return info.tasks[resolve_name("--task", self.task, info.tasks)] if self.task else info.record


@dataclass(frozen=True)
class Member:
    """The weights of one network in a prediction: a checkpoint and its description."""

    path: Path
    info: ModelInfo
    fold: int | None = None  # whose folder the checkpoint lies in; None for a single file

    def load(self) -> Network:
        """Return the network with its weights."""
        network, info = self.info.build(), self.info
        kind = f"{info.model_type} ({info.backbone}, task {info.task})"
        load_weights(network, load_checkpoint(self.path)[0], self.path, kind)
        return network


def open_member(
    path: Path, expected: Expected = Expected(), *, named_after: str | None = None, fold: int | None = None
) -> Member:
    """Return the member in a file after comparing its description with the options, which describe a bare state dict.

    `named_after` is the network that the folder is named after, if it is; `fold` the one whose folder the file lies in.

    Raises:
        UserError: the file cannot be read, or an option contradicts it.
    """
    weights, info = load_checkpoint(path)
    if info is None:
        return Member(path, _describe_bare(expected, named_after, pooled=not has_logits_head(weights)), fold)
    for name in ("model_type", "backbone", "image_size"):
        typed, own = getattr(expected, name), getattr(info, name)
        if typed is not None and str(typed).lower() != str(own).lower():
            raise UserError(
                f"{path} is a checkpoint with {flag(name)} {own}, not {typed}. Leave {flag(name)} out or use another "
                "checkpoint."
            )
    task = expected.choose(info)
    if not MODELS[info.model_type].answers(task, info.task):
        raise UserError(
            f"{path} is a checkpoint of task {info.task} and cannot predict task {task.name}. Leave --task out or "
            "use another checkpoint."
        )
    return Member(path, info, fold)


def _describe_bare(expected: Expected, named_after: str | None, *, pooled: bool) -> ModelInfo:
    model_type = expected.model_type or named_after or TrainConfig.model_type
    model_type = resolve_name("The network of weights without a description", model_type, MODELS)
    task = resolve_name("--task of weights without a description", expected.task or TrainConfig.task, FACES)
    backbone = check_network(FACES[task], model_type, expected.backbone)
    return ModelInfo(
        task=task,
        model_type=model_type,
        backbone=backbone,
        **expected_pixels(model_type, backbone, on_logits=not pooled),
        pooled=pooled,
        image_size=expected.image_size or TrainConfig.image_size,
        transform_type="base",
        classes=FACES[task].classes,
    )


def find_best(folder: Path, expected: Expected) -> Member:
    """Return the best checkpoint of a single run that `storage.find_runs.find_single` found."""
    return _best_of_fold(RunFolder(folder), 0, 1, expected)[0]


def find_start(run: RunFolder, fold: int, epoch: str, fingerprint: str | None = None) -> Member:
    """Return the checkpoint of a fold that --extend-from starts from, of its "best" or "last" epoch.

    Raises:
        UserError: there is none, or it is of another fold, or of another split than that with this fingerprint.
    """
    files = checkpoint_files(run.fold(fold))
    if not files:
        raise UserError(f"There are no checkpoints in {run.fold(fold)} to start from. Restore them.")
    found, *others = _best_of_fold(run, fold, len(files), Expected())
    if epoch == "last":
        last = run.epochs_done().get(fold)
        found = next((member for member in (found, *others) if member.info.epoch == last), None)
        if found is None:
            raise UserError(
                f"{run.fold(fold)} does not hold the weights of epoch {last}, its last, which is not among the best. "
                "Pass --extend-weights best, or train that run with a larger --top-n."
            )
    if found.info.fold != fold or fingerprint not in (None, found.info.split_fingerprint):
        raise UserError(
            f"{found.path} was trained on other {found.info.record.noun} than fold {fold} of this run, whose score "
            "would be too high. Pass the run with the same images, --cv and --seed."
        )
    return found


def find_members(
    run: RunFolder, expected: Expected = Expected(), *, top_k: int, folds: Sequence[int] | None
) -> list[Member]:
    """Return the best `top_k` checkpoints of each of some folds of a run, or of all, fold by fold, best first.

    Raises:
        UserError: a fold is missing or has fewer checkpoints, or the members do not fit each other.
    """
    present = run.folds()
    if not present:
        raise UserError(f"{run.path} holds no folders fold00, fold01, ... Pass the folder of a K-fold run.")
    wanted = list(folds) if folds is not None else list(range(max(present) + 1))
    missing = [k for k in wanted if not checkpoint_files(run.fold(k))]
    weights = [path for k in wanted for path in checkpoint_files(run.fold(k), OTHER_WEIGHTS)]
    others = [path for path in weights if not path.name.lower().endswith(CHECKPOINTS)]
    if others:
        names = shorten_list(sorted(f"{path.parent.name}/{path.name}" for path in others))
        print(f"Not read, since only {', '.join(CHECKPOINTS)} files are: {names}.")
    members = [m for k in wanted if k not in missing for m in _best_of_fold(run, k, top_k, expected)]
    if folds is None and members and members[0].info.config:
        missing = sorted({*missing, *range(members[0].info.config["cv"])} - {m.fold for m in members})
    if missing:
        have = ",".join(str(m) for m in sorted({m.fold for m in members}))
        hint = f", or pass --folds {have} to predict without" if have else ""
        raise UserError(
            f"{run.path} has no checkpoints for fold {shorten_list(missing, 20)}. Train with --resume to add them"
            f"{hint}."
        )
    _check_consistency(members, expected)
    return members


def _best_of_fold(run: RunFolder, fold: int, top_k: int, expected: Expected) -> list[Member]:
    folder = run.fold(fold)
    named_after = run.name.partition("ensemble-")[2] or None
    members = [open_member(path, expected, named_after=named_after, fold=fold) for path in checkpoint_files(folder)]
    if len(members) < top_k:
        raise UserError(
            f"{folder} holds {len(members)} checkpoint{'s' if len(members) > 1 else ''}, fewer than --top-k {top_k}. "
            f"Pass --top-k {len(members)} or train with a larger --top-n."
        )
    bare = [member for member in members if member.info.score is None]
    if bare and len(members) > top_k:
        raise UserError(
            f"{folder} holds {len(members)} files and {bare[0].path.name} has no score to rank it by. "
            f"Leave only the {top_k} that should take part, or pass --top-k {len(members)}."
        )
    if not bare:
        sign = -1 if members[0].info.higher_is_better else 1
        members.sort(key=lambda member: (sign * member.info.score, member.info.epoch))
    return members[:top_k]


def _check_consistency(members: Sequence[Member], expected: Expected) -> None:
    first = members[0]
    ignored = {"transform_type", "inference_crop"} if expected.transform_type else set()
    if (expected.transform_type or first.info.transform_type) != "tta":
        ignored.add("crop_scale")  # only random views depend on it
    for member in members[1:]:
        for name in ("task", "image_size", *CUTS, "transform_type", "split_fingerprint"):
            own, other = getattr(member.info, name), getattr(first.info, name)
            if name not in ignored and own != other:
                what = f"{name.replace('_', ' ')} ({own} and {other})"
                raise UserError(f"{member.path} and {first.path} differ in {what}. Use checkpoints of one run.")
        if member.info.tasks != first.info.tasks:
            raise UserError(f"{member.path} and {first.path} differ in labels or classes. Use checkpoints of one run.")
    for member in members:
        if member.info.fold not in (None, member.fold):
            raise UserError(
                f"{member.path} is a checkpoint of fold {member.info.fold}, not of fold {member.fold}. Move it back."
            )


def check_fold(run: RunFolder, number: int, config: TrainConfig, fingerprint: str) -> None:
    """Raise a UserError unless a finished fold is complete and belongs to the run that its folder lies in."""
    files = checkpoint_files(run.fold(number))
    gone = [] if run.fold_oof(number).is_file() else [run.fold_oof(number).name]
    gone += [] if files else ["its checkpoints"]
    if gone:
        raise UserError(f"{run.fold(number)} is a trained fold without {shorten_list(gone)}. Copy the missing files.")
    _, info = load_checkpoint(files[0])
    if info is None or info.config is None:
        raise UserError(f"{files[0]} is not a checkpoint of train.py. Remove it.")
    compared = {"split": (info.split_fingerprint, fingerprint), "fold": (info.fold, number)}
    different = [f"its {name} is {own}, not {wanted}" for name, (own, wanted) in compared.items() if own != wanted]
    different += changed_options(info.config, config)
    different += ["its labels have other classes"] if info.tasks != config.tasks else []
    if different:
        raise UserError(f"{files[0]} does not belong to the run in {run.path}: {', '.join(different)}. Remove it.")
