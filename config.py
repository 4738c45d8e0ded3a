"""Every option of every command, once: its name, type, default, help text and allowed values.

Edit a default here and it holds for the command line, for --help and for the checks. Standard library only, so that
--help and a mistyped option answer at once, before torch is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from tasks import AGE_BOUNDS, CLASSIFICATION_LOSSES, REGRESSION_LOSSES, TASKS

ROOT = Path(__file__).resolve().parent  # default folders lie here, wherever the command is called from


class UserError(ValueError):
    """Something the user can put right: the scripts print it as one line and exit with code 2."""


# ------------------------------------------------------------------------------------------------ names and records


@dataclass(frozen=True)
class ModelRecord:
    """What the command line must know of a network: its default backbone, those that fit, and its heads.

    `library` names the one of which any backbone fits, beside those that are listed. `heads` is empty for a network
    with one head, made for the task it is trained on.
    """

    backbone: str
    backbones: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    library: str | None = None

    def answers(self, task: str, trained_on: str) -> bool:
        """Whether such a network, trained on `trained_on`, answers `task`."""
        return task == trained_on or (task in TASKS and not TASKS[task].regression and bool(self.heads))


EFFICIENTNETS = tuple(f"efficientnet-b{i}" for i in range(8))
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

MODELS = {
    "VanillaEfficientNet": ModelRecord("efficientnet-b3", EFFICIENTNETS),
    "VanillaResNet": ModelRecord("resnet50", RESNETS),
    "MultiClassTHANet_MK1": ModelRecord("efficientnet-b3", EFFICIENTNETS + RESNETS, ("mask", "ageg", "gender", "main")),
    "MultiLabelTHANet": ModelRecord("efficientnet-b0", EFFICIENTNETS + RESNETS, ("mask", "ageg", "gender")),
    "THANet_MK1": ModelRecord("efficientnet-b3", EFFICIENTNETS + RESNETS, ("mask", "ageg", "gender", "main")),
    "JointHeads": ModelRecord(
        "efficientnet-b0", EFFICIENTNETS + RESNETS, ("mask", "ageg", "gender", "main"), library="torchvision"
    ),
    "VanillaTorchvision": ModelRecord("convnext_tiny", library="torchvision"),
    "VanillaTimm": ModelRecord("convnext_nano", library="timm"),
}
TRANSFORMS = ("base", "random", "tta", "facecrop", "base_source", "random_source")
LOSSES = CLASSIFICATION_LOSSES + REGRESSION_LOSSES
OPTIMIZERS = ("adam", "adamw", "adamp", "sgd", "momentum")
SCHEDULES = ("cosine", "cosine_restarts", "onecycle", "none")
CROP_SCALE = 0.08  # torchvision's, and the source's
# The source's best model value by value, and one that trains faces better.
PRESETS: dict[str, dict[str, Any]] = {
    "source": {
        "model_type": "VanillaEfficientNet",
        "backbone": "efficientnet-b3",
        "image_size": 224,
        "transform_type": "tta",
        "batch_size": 32,
        "optim_type": "adam",
        "lr": 0.001,
        "lr_scheduler": "cosine_restarts",
        "seed": 42,
        "cv": 5,
    },
    "strong": {
        "model_type": "JointHeads",
        "backbone": "efficientnet-b3",
        "transform_type": "random",
        "crop_scale": 0.35,
        "mirror": True,
        "batch_size": 32,
        "loss_type": "crossentropyloss",
        "logit_adjustment": 0.5,
        "optim_type": "adamw",
        "lr": 0.002,
        "run_decay": 1.5,
        "lr_scheduler": "onecycle",
        "precise_bn": 1024,
        "cv": 5,
    },
}
FOR_CLASSES = ("model_type", "loss_type", "logit_adjustment")  # of a preset, left out where ages are learnt
CUTS = ("crop_scale", "mirror", "erasing", "inference_crop")  # how a transform is made, beside its name and size
MIN_IMAGE_SIZE = 32  # below, the last feature maps of the backbones vanish
MOST_SHOWN, MOST_DRAWS = 20, 60  # on one sheet: a JPEG is 65,535 pixels high at most
METHODS = ("softvoting", "hardvoting")
BAD_IMAGE = ("stop", "skip")
CACHES = ("ram", "disk", "off")
TRACKERS = ("none", "tensorboard", "wandb")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
BAD_IMAGE_HELP = "photographs that cannot be read: stop before any work, or skip them, count them and list them"
BACKBONE_HELP = (
    f"backbone of the network: {EFFICIENTNETS[0]} to {EFFICIENTNETS[-1][-2:]}, {RESNETS[0]} to {RESNETS[-1]}; for "
    "JointHeads and VanillaTorchvision any classification network of torchvision, for VanillaTimm any of timm"
)
CROP_HELP = "smallest share of the area that a random crop of training cuts, up to 1"
MIRROR_HELP = "mirror every other training photograph"
ERASING_HELP = "how often a box of a training photograph is blanked, up to 1"
INFERENCE_CROP_HELP = "side of the square that validation and prediction cut, as a share of the largest, up to 1"
TRAIN_SIDE_HELP = "side of the photographs that are trained on, as a share of --image-size"
MEGAPIXELS_HELP = "the largest photograph that is read, in millions of pixels; larger ones count as unreadable"
WORKERS_HELP = "processes that load photographs; -1 takes one a core, up to 8, and half of that without a GPU"
ALIASES = {
    "MultiClassTHANet": "MultiClassTHANet_MK1",
    "THANet": "THANet_MK1",
    "soft": "softvoting",
    "hard": "hardvoting",
    **{name.removesuffix("loss"): name for name in LOSSES},
}


def resolve_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """The allowed name that `name` stands for, whatever its case; other accepted names are in ALIASES.

    Raises:
        UserError: there is no such name; the message lists those there are and the nearest of them.
    """
    allowed = list(allowed)
    spellings = {alias.lower(): full for alias, full in ALIASES.items() if full in allowed}
    spellings |= {full.lower(): full for full in allowed}
    if name.lower() in spellings:
        return spellings[name.lower()]
    raise UserError(f"{what} must be one of {', '.join(allowed)}. Got '{name}'.{nearest(name, spellings)}")


def nearest(name: str, spellings: dict[str, str] | Iterable[str]) -> str:
    """' Did you mean ...?' with the allowed name nearest to `name`, or nothing when none is near."""
    spellings = spellings if isinstance(spellings, dict) else {s: s for s in spellings}
    close = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=0.5)
    return f" Did you mean '{spellings[close[0]]}'?" if close else ""


def check_network(task: str, model_type: str, backbone: str | None) -> str:
    """The backbone to use, the network's own where None is given.

    Raises:
        UserError: the network cannot learn the task, or the backbone does not fit it.
    """
    record = MODELS[model_type]
    if TASKS[task].regression and record.heads:
        single = ", ".join(name for name, r in MODELS.items() if not r.heads)
        raise UserError(f"{model_type} answers with classes, so it cannot learn task {task}; use one of {single}.")
    backbone = backbone or record.backbone
    if record.library:
        # Names of a library, which takes seconds to import, are looked up in `model.create_backbone`.
        return next((name for name in record.backbones if name == backbone.lower()), backbone)
    backbone = resolve_name("--backbone", backbone, EFFICIENTNETS + RESNETS)
    if backbone not in record.backbones:
        raise UserError(
            f"--backbone {backbone} does not fit {model_type}; those that do: {', '.join(record.backbones)}."
        )
    return backbone


def cuts_of(config: TrainConfig | ShowConfig) -> dict[str, Any]:
    """How the transform of a training is made, beside its name and size."""
    return {name: getattr(config, name) for name in CUTS}


def train_size_of(config: TrainConfig | ShowConfig) -> int:
    """Side in pixels of what the network sees in training.

    Raises:
        UserError: it is too small.
    """
    size = round(config.train_side * config.image_size)
    if size < MIN_IMAGE_SIZE:
        raise UserError(
            f"--train-side {config.train_side} of --image-size {config.image_size} is {size} pixels; the least is "
            f"{MIN_IMAGE_SIZE}."
        )
    return size


def check_seed(seed: int) -> None:
    """Refuse a seed that scikit-learn, which splits the people, does not take.

    Raises:
        UserError: it is too large.
    """
    if seed >= 2**32:
        raise UserError(f"--seed must be below {2**32}. Got {seed}.")


# ------------------------------------------------------------------------------------------------ options


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    path: bool = False,
    default_text: str | None = None,
) -> Any:
    """One option as a dataclass field; `default_text` says in words what an empty default means."""
    about = {"choices": tuple(choices or ()), "low": low, "high": high, "path": path, "default_text": default_text}
    return field(default=default, metadata={"help": help, **about})


@dataclass
class Config:
    """What all commands share: checking of single values, and which options were typed."""

    command: ClassVar[str] = ""  # the script that these options belong to
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False, kw_only=True)
    begun: bool = field(default=False, init=False, repr=False, compare=False)  # something was written
    joined: bool = field(default=False, init=False, repr=False, compare=False)  # with other processes
    words: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)  # the command line as typed

    def __post_init__(self) -> None:
        for f in options(type(self)):
            value = getattr(self, f.name)
            if value is None:
                continue
            if f.metadata["path"] and not value:
                raise UserError(f"{flag(f.name)} must not be empty.")
            if f.metadata["choices"]:
                setattr(self, f.name, resolve_name(flag(f.name), value, f.metadata["choices"]))
            low = f.metadata["low"]
            if low is not None and not (math.isfinite(value) and value >= low):
                raise UserError(f"{flag(f.name)} must be {low} or more. Got {value}.")
            high = f.metadata["high"]
            if high is not None and not value <= high:
                raise UserError(f"{flag(f.name)} must be {high} or less. Got {value}.")

    def as_dict(self) -> dict[str, Any]:
        """The options as plain values, for config.json and checkpoints."""
        values = {f.name: getattr(self, f.name) for f in options(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass
class TrainConfig(Config):
    """Train one network, or K of them by K-fold cross-validation over people."""

    command: ClassVar[str] = "train.py"

    task: str = option("main", "what to learn", choices=TASKS)
    model_type: str = option("VanillaEfficientNet", "the network", choices=MODELS)
    preset: str | None = option(
        None, "a named set of options, listed below; those that are typed win", choices=PRESETS, default_text="none"
    )
    load_state_dict: str | None = option(
        None, "start from the weights in this file, a checkpoint or a bare state dict", path=True, default_text="none"
    )
    new_head: bool = option(False, "take the backbone alone from --load-state-dict: its head is left out and listed")
    train_root: str = option("./input/data/train/images", "folder with one folder of photographs a person", path=True)
    valid_root: str | None = option(
        None, "validate every fold on this folder instead of on its held-out people", path=True, default_text="none"
    )
    corrections: str | None = option(
        None, "CSV of label corrections to apply on load: id,gender,age,file,mask", path=True, default_text="none"
    )
    pseudo_labels: str | None = option(
        None,
        "the folder of a prediction whose photographs are trained on too, as each fold's own members predicted them",
        path=True,
        default_text="none",
    )
    pseudo_share: float = option(
        0.5,
        "how many of those photographs are trained on, the surest of each class that is predicted",
        low=0.01,
        high=1,
    )
    transform_type: str = option("base", "how photographs are cut and augmented", choices=TRANSFORMS)
    crop_scale: float = option(CROP_SCALE, CROP_HELP, low=0.01, high=1)
    mirror: bool = option(False, MIRROR_HELP)
    erasing: float = option(0.0, ERASING_HELP, low=0, high=1)
    inference_crop: float | None = option(
        None, INFERENCE_CROP_HELP, low=0.1, high=1, default_text="that of the transform"
    )
    mixup: float = option(
        0.0,
        "mix every photograph of a step with another, in shares drawn from Beta(this, this) (MixUp); 0 is off",
        low=0,
    )
    cutmix: float = option(
        0.0,
        "paste a box of another photograph into each of a step, its share from Beta(this, this) (CutMix); 0 is off",
        low=0,
    )
    age_filter: int | None = option(
        None, "train people at least this old as 60 and over; validation labels stay true", default_text="off"
    )
    epochs: int = option(30, "passes over the training photographs", low=1)
    cv: int = option(1, "number of folds; 1 trains once and holds out 10 %% of the people", low=1)
    folds: tuple[int, ...] | None = option(None, "train these folds only, as in 0,2", default_text="all")
    age_sigma: float = option(
        0.0,
        "train age groups as shares, as if ages were known to this many years only: 58 is nearly 60; 0 is off",
        low=0,
    )
    balance: float = option(
        0.0, "draw photographs of scarce classes more often: 0 as they come, 1 all classes equally often", low=0, high=1
    )
    batch_size: int = option(32, "photographs a step; BatchNorm needs two", low=2)
    optim_type: str = option("adam", "optimizer", choices=OPTIMIZERS)
    weight_decay: float | None = option(
        None, "weight decay of the optimizer", low=0, default_text="0.05 of adamw, 0.01 of adamp, else 0"
    )
    run_decay: float = option(
        0.0,
        "weight decay of adamw by the length of the run: this / (--lr x steps of the run), in place of --weight-decay; "
        "0 is off",
        low=0,
    )
    loss_type: str | None = option(
        None, "loss", choices=LOSSES, default_text=f"{CLASSIFICATION_LOSSES[0]}; {REGRESSION_LOSSES[0]} for age"
    )
    logit_adjustment: float = option(
        0.0,
        "add so much of the log frequency of each class to its logit in the loss, for the scarce ones; 0 is off",
        low=0,
    )
    lr: float = option(0.005, "learning rate at the start, or once it is warm", low=0)
    backbone_lr: float = option(1.0, "learning rate of the backbone as a share of --lr; the head has --lr", low=0)
    warmup_epochs: float = option(0.0, "let the learning rate rise to --lr over so many epochs", low=0)
    lr_scheduler: str = option("cosine", "learning-rate schedule, stepped every batch", choices=SCHEDULES)
    restart_epochs: int = option(5, "length in epochs of one cycle of cosine_restarts", low=1)
    ema: float = option(
        0.0,
        "validate and save a running mean of the weights, of which each step keeps this share, as 0.99 (EMA); 0 is off",
        low=0,
        high=0.99999,
    )
    precise_bn: int = option(
        0,
        "before each validation take BatchNorm's statistics anew from so many training photographs, cut as validation "
        "cuts them; 0 leaves the running ones",
        low=0,
    )
    seed: int = option(42, "seed of the split, the weights and all augmentation", low=0)
    save_path: str = option("./saved_models", "folder that holds the runs", path=True)
    top_n: int = option(3, "checkpoints kept in each fold", low=1)
    backbone: str | None = option(None, BACKBONE_HELP, default_text="the network's own")
    image_size: int = option(224, "side in pixels of what the network sees", low=MIN_IMAGE_SIZE)
    train_side: float = option(1.0, TRAIN_SIDE_HELP, low=0.1, high=1)
    pretrained: bool = option(True, "start the backbone from ImageNet weights")
    freeze: bool = option(False, "train the head only, the backbone stays as it is")
    oversample: bool = option(False, "add images of scarce classes, each mixed of two people of the class (MixUp)")
    on_bad_image: str = option("stop", BAD_IMAGE_HELP, choices=BAD_IMAGE)
    max_megapixels: float = option(100.0, MEGAPIXELS_HELP, low=0.001)
    cache: str = option(
        "ram",
        "keep decoded photographs in memory, as many as half of the free memory holds, or in a file in the save path "
        "that later runs use too, or not",
        choices=CACHES,
    )
    num_workers: int = option(-1, WORKERS_HELP, low=-1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = option(
        "auto",
        "numbers to compute with; auto is bfloat16 on a GPU (float16 where it has none) and float32 elsewhere",
        choices=PRECISIONS,
    )
    compile: bool = option(False, "compile the network first (torch.compile): a minute or two, then faster steps")
    deterministic: bool = option(False, "let torch use only operations that give the same bits each time; slower")
    save_every_steps: int = option(
        0, "save the state to resume from every so many steps too; 0 at the end of each epoch only", low=0
    )
    report: bool = option(True, "write report.html into the run at the end of every fold")
    tracker: str = option(
        "none", "show the scores of every epoch there too; its library must be installed", choices=TRACKERS
    )
    resume: bool = option(False, "continue the run in the save path; with none there, start it")
    overwrite: bool = option(False, "delete the run in the save path and train anew")

    def __post_init__(self) -> None:
        super().__post_init__()
        task = TASKS[self.task]
        self.backbone = check_network(self.task, self.model_type, self.backbone)
        self.loss_type = self.loss_type or task.losses[0]
        if self.loss_type not in task.losses:
            raise UserError(
                f"--loss-type {self.loss_type} does not fit task {self.task}; those that do: {', '.join(task.losses)}."
            )
        check_seed(self.seed)
        train_size_of(self)
        if self.lr == 0:
            raise UserError("--lr must be greater than 0. Got 0.")
        if self.precise_bn == 1:
            raise UserError("--precise-bn must be 2 photographs or more, or 0. Got 1.")
        self._check_people()
        self._check_classes()
        self._check_idle()
        if self.freeze and not self.pretrained and not self.load_state_dict:
            raise UserError(
                "--freeze with --no-pretrained would keep random features for ever; drop one of the two, "
                "or pass --load-state-dict."
            )
        if self.new_head and not self.load_state_dict:
            raise UserError("--new-head is about the weights of --load-state-dict; pass both or none.")
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite deletes it; pass one of the two.")

    @property
    def validated_root(self) -> str:
        """The folder of the photographs that are validated."""
        return self.valid_root or self.train_root

    def _check_people(self) -> None:
        if self.age_filter is not None:
            if not {"main", "ageg"} & {self.task, *MODELS[self.model_type].heads}:
                raise UserError(f"--age-filter changes age groups, which task {self.task} has not; leave it out.")
            if not AGE_BOUNDS[0] < self.age_filter <= AGE_BOUNDS[1]:
                raise UserError(f"--age-filter must be {AGE_BOUNDS[0] + 1} to {AGE_BOUNDS[1]}. Got {self.age_filter}.")
        if self.age_sigma and not {"main", "ageg"} & {self.task, *MODELS[self.model_type].heads}:
            raise UserError(f"--age-sigma is about age groups, which task {self.task} has not; leave it out.")
        wrong = [k for k in self.folds or () if not 0 <= k < self.cv]
        if wrong:
            raise UserError(f"--folds must be numbers from 0 to {self.cv - 1} with --cv {self.cv}. Got {wrong[0]}.")

    def _check_classes(self) -> None:
        if self.pseudo_labels and TASKS[self.task].regression:
            raise UserError(f"--pseudo-labels are classes and task {self.task} has none; leave them out.")
        if self.logit_adjustment and TASKS[self.task].regression:
            raise UserError(f"--logit-adjustment is for classes and task {self.task} has none; leave it out.")
        if self.logit_adjustment and self.balance:
            raise UserError("--logit-adjustment and --balance both make up for scarce classes; pass one of the two.")

    def _check_idle(self) -> None:
        """Refuse options that others leave without effect."""
        if self.inference_crop is not None and self.transform_type == "tta":
            raise UserError("--inference-crop is about fixed crops, and tta predicts with random ones; leave it out.")
        if "pseudo_share" in self.given and not self.pseudo_labels:
            raise UserError("--pseudo-share is about the photographs of --pseudo-labels; pass both or none.")
        if self.freeze and self.backbone_lr != 1:
            raise UserError("--freeze keeps the backbone as it is, so it has no --backbone-lr; pass one of the two.")
        if self.run_decay and self.optim_type != "adamw":
            raise UserError(f"--run-decay is for adamw, not {self.optim_type}; leave it out.")
        if self.run_decay and self.weight_decay is not None:
            raise UserError("--weight-decay and --run-decay both say how weights decay; pass one of the two.")
        if "crop_scale" in self.given and self.transform_type == "facecrop":
            raise UserError("--crop-scale is about random resized crops, which facecrop has not; leave it out.")
        if self.warmup_epochs >= self.epochs:
            raise UserError(f"--warmup-epochs must be below --epochs {self.epochs}. Got {self.warmup_epochs}.")


@dataclass
class PredictConfig(Config):
    """What the two prediction commands share."""

    task: str = option(TrainConfig.task, "what to predict; a checkpoint knows its own", choices=TASKS)
    model_type: str = option(TrainConfig.model_type, "the network; a checkpoint knows its own", choices=MODELS)
    transform_type: str | None = option(
        None,
        "how photographs are cut",
        choices=TRANSFORMS,
        default_text="that of the training; base for a bare state dict",
    )
    backbone: str | None = option(
        None,
        "backbone of a bare state dict; a checkpoint knows its own",
        default_text="the network's own",
    )
    image_size: int | None = option(
        None,
        "image size for a bare state dict; a checkpoint knows its own",
        low=MIN_IMAGE_SIZE,
        default_text=str(TrainConfig.image_size),
    )
    data_root: str = option(
        "./input/data/images", "folder of the photographs; an info.csv beside it fixes their order", path=True
    )
    tta: int = option(1, "test-time views of each photograph, averaged", low=1)
    batch_size: int = option(64, "photographs a step", low=1)
    on_bad_image: str = option(TrainConfig.on_bad_image, BAD_IMAGE_HELP, choices=BAD_IMAGE)
    max_megapixels: float = option(TrainConfig.max_megapixels, MEGAPIXELS_HELP, low=0.001)
    num_workers: int = option(TrainConfig.num_workers, WORKERS_HELP, low=-1)
    device: str = option(TrainConfig.device, "auto, cpu, cuda, cuda:1, mps")
    precision: str = option(
        "auto", "numbers to compute with; auto is float16 on a GPU and float32 elsewhere", choices=PRECISIONS
    )
    save_path: str = option("./prediction", "folder that holds the predictions", path=True)


@dataclass
class SingularConfig(PredictConfig):
    """Predict with one network and write a submission file."""

    command: ClassVar[str] = "submit_singular.py"

    load_state_dict: str | None = option(
        None,
        "the checkpoint or bare state dict to predict with",
        path=True,
        default_text="the best checkpoint of the single run of the task and network",
    )


@dataclass
class EnsembleConfig(PredictConfig):
    """Predict with the best checkpoints of every fold, combine them by voting and write the submission files."""

    command: ClassVar[str] = "submit_ensemble.py"

    root: str | None = option(
        None,
        "a kfold-ensemble-<network> folder, or a folder that holds one",
        path=True,
        default_text="where train.py saves the task",
    )
    top_k: int = option(3, "checkpoints of each fold that take part, the best first", low=1)
    folds: tuple[int, ...] | None = option(None, "folds that take part, as in 0,2", default_text="all")
    members_at_once: int = option(0, "members held in memory at a time, the others take turns; 0 as many as fit", low=0)
    method: str = option("softvoting", "average the probabilities, or count votes", choices=METHODS)
    recipe: str | None = option(
        None, "a recipe.json of design_ensemble.py, which says what takes part and how", path=True, default_text="none"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        said = ("root", "top_k", "folds", "method", "tta", "model_type", "backbone", "image_size", "transform_type")
        against = [flag(name) for name in said if name in self.given]
        if self.recipe and against:
            raise UserError(f"--recipe says itself what takes part and how; leave out {', '.join(against)}.")
        if "task" in self.given and TASKS[self.task].regression and self.method == "hardvoting":
            raise UserError(f"--method hardvoting counts classes and task {self.task} has none; use softvoting.")


@dataclass
class JoinConfig(Config):
    """Write log.csv, oof.csv and summary.json of a run whose folds were trained by several commands."""

    command: ClassVar[str] = "join_folds.py"

    task: str = option(TrainConfig.task, "what was learnt", choices=TASKS)
    model_type: str = option(TrainConfig.model_type, "the network, where there are runs of several", choices=MODELS)
    root: str | None = option(
        EnsembleConfig.root,
        "a kfold-ensemble-<network> folder, or a folder that holds one",
        path=True,
        default_text="where train.py saves the task",
    )


@dataclass
class RunsConfig(Config):
    """What the commands over several runs share."""

    task: str = option(TrainConfig.task, "what was learnt", choices=TASKS)
    root: tuple[str, ...] | None = option(
        None,
        "runs, with commas between them: kfold-ensemble-<network> folders, or folders that hold one each",
        default_text="all runs of the task where train.py saves",
    )


@dataclass
class CompareConfig(RunsConfig):
    """Compare runs over the same people: how much better the one is than the other, and whether that is luck."""

    command: ClassVar[str] = "compare_runs.py"

    report: str | None = option(None, "also write an HTML page with both side by side", path=True, default_text="none")


@dataclass
class ReportConfig(RunsConfig):
    """Write the report of a run anew from its files: scores, curves, confusions, mistakes, on one HTML page."""

    command: ClassVar[str] = "make_report.py"

    train_root: str | None = option(
        None, "where the photographs lie now", path=True, default_text="where they lay in training"
    )


@dataclass
class LabelErrorConfig(JoinConfig):
    """Find labels that are likely wrong by the out-of-fold answers of a run: suspects for a person to look at."""

    command: ClassVar[str] = "find_label_errors.py"

    share: float = option(
        0.05, "people, and as many photographs, to suspect at most, as a share of the people", low=0.001
    )
    show: int = option(20, "people, and as many photographs, to print and to draw, the most suspicious first", low=1)
    overwrite: bool = option(False, "replace a corrections.csv that somebody has edited")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share > 1:
            raise UserError(f"--share must be 0 to 1, as in 0.05 for 5 of 100 people. Got {self.share}.")


@dataclass
class DesignConfig(RunsConfig):
    """Find out on the people that each fold held out which checkpoints to combine and how, and write a recipe of it."""

    command: ClassVar[str] = "design_ensemble.py"

    train_root: str | None = option(
        None, "where the training photographs lie now", path=True, default_text="where they lay in training"
    )
    valid_root: str | None = option(
        None, "where those of --valid-root lie now", path=True, default_text="where they lay in training"
    )
    corrections: str | None = option(
        None, "where the CSV of label corrections lies now", path=True, default_text="where it lay in training"
    )
    top_k: int = option(EnsembleConfig.top_k, "checkpoints of each fold to choose from, the best first", low=1)
    tta: int = option(2, "test-time views to try, from 1 to so many", low=1)
    soups: bool = option(True, "try the averaged weights of each fold's checkpoints too")
    calibrate: bool = option(False, "fit a temperature and an offset for each class; of classes only")
    seed: int = option(
        42, "seed of the resamples of the people, and of the groups that are chosen and scored on", low=0
    )
    name: str | None = option(
        None, "what the folder of the recipe is called", path=True, default_text="the networks of the runs"
    )
    batch_size: int = option(PredictConfig.batch_size, "photographs a step", low=1)
    num_workers: int = option(TrainConfig.num_workers, WORKERS_HELP, low=-1)
    device: str = option(TrainConfig.device, "auto, cpu, cuda, cuda:1, mps")
    precision: str = option(
        "auto", "numbers to compute with; auto is float16 on a GPU and float32 elsewhere", choices=PRECISIONS
    )
    save_path: str = option("./ensembles", "folder that holds the recipes", path=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name and Path(self.name).name != self.name:
            raise UserError(f"--name must be a name without a folder. Got '{self.name}'.")


@dataclass
class CheckConfig(Config):
    """Look at a folder of training photographs: counts, strata, and everything that is wrong with it."""

    command: ClassVar[str] = "check_data.py"

    train_root: str = option(TrainConfig.train_root, "folder with one folder of photographs a person", path=True)
    corrections: str | None = option(
        TrainConfig.corrections, "CSV of label corrections", path=True, default_text="none"
    )
    cv: int = option(5, "number of folds that training will use", low=1)
    max_megapixels: float = option(TrainConfig.max_megapixels, MEGAPIXELS_HELP, low=0.001)


@dataclass
class ShowConfig(Config):
    """Draw sheets of what a network gets to see: training draws, validation view, test-time views, and MixUp."""

    command: ClassVar[str] = "show_views.py"

    train_root: str = option(TrainConfig.train_root, "folder with one folder of photographs a person", path=True)
    corrections: str | None = option(
        TrainConfig.corrections, "CSV of label corrections", path=True, default_text="none"
    )
    images: str | None = option(
        None,
        "photographs to show instead, as in a.jpg,b.jpg, or a folder of some",
        path=True,
        default_text="some of --train-root",
    )
    transform_type: str = option("all", "the transform to show", choices=("all", *TRANSFORMS))
    crop_scale: float = option(TrainConfig.crop_scale, CROP_HELP, low=0.01, high=1)
    mirror: bool = option(TrainConfig.mirror, MIRROR_HELP)
    erasing: float = option(TrainConfig.erasing, ERASING_HELP, low=0, high=1)
    inference_crop: float | None = option(
        TrainConfig.inference_crop, INFERENCE_CROP_HELP, low=0.1, high=1, default_text="that of the transform"
    )
    image_size: int = option(TrainConfig.image_size, "side in pixels of what the network sees", low=MIN_IMAGE_SIZE)
    train_side: float = option(TrainConfig.train_side, TRAIN_SIDE_HELP, low=0.1, high=1)
    cv: int = option(CheckConfig.cv, "number of folds that training will use", low=1)
    seed: int = option(TrainConfig.seed, "seed of the training, and of which photographs are shown", low=0)
    count: int = option(
        4, "photographs to show; those that --images names one by one are all shown", low=1, high=MOST_SHOWN
    )
    draws: int = option(6, "training draws of each photograph, one an epoch", low=1, high=MOST_DRAWS)
    max_megapixels: float = option(TrainConfig.max_megapixels, MEGAPIXELS_HELP, low=0.001)
    save_path: str = option("./views", "folder that the sheets are written to", path=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        train_size_of(self)
        idle = [flag(name) for name in ("train_root", "corrections", "cv") if self.images and name in self.given]
        if idle:
            raise UserError(f"--images takes the place of --train-root and has no labels; leave out {', '.join(idle)}.")


@dataclass
class SampleConfig(Config):
    """Draw a sample set of portraits, in the layout of the real data, to try everything on."""

    command: ClassVar[str] = "make_sample.py"

    root: str = option("./input", "folder to make the set in", path=True)
    people: int = option(300, "people to train on, seven photographs each", low=12)
    eval_people: int = option(60, "people to predict, seven photographs each", low=1)
    seed: int = option(42, "seed of the drawing: the same seed draws the same set", low=0)
    num_workers: int = option(-1, "processes that draw; -1 takes one a core", low=-1)
    force: bool = option(False, "replace a sample set made earlier")


@dataclass
class ScoreConfig(Config):
    """Score a submission file against a file of true answers."""

    command: ClassVar[str] = "score_submission.py"

    submission: str | None = option(
        None, "the submission, a CSV with ImageID,ans", path=True, default_text="must be given"
    )
    answers: str = option("./input/answers.csv", "the true answers, a CSV with ImageID,ans", path=True)
    task: str = option(TrainConfig.task, "what was predicted", choices=TASKS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.submission is None:
            raise UserError("--submission must name the file to score.")


def command_configs() -> list[type[Config]]:
    """The config class of every command, in the order of this file."""
    classes = [each for each in globals().values() if isinstance(each, type) and issubclass(each, Config)]
    return [cls for cls in classes if cls.command]


# ------------------------------------------------------------------------------------------------ command line

AnyConfig = TypeVar("AnyConfig", bound=Config)


def options(cls: type[Config]) -> Iterator[dataclasses.Field]:
    """The fields of a config class that are options of its command."""
    return (f for f in dataclasses.fields(cls) if "help" in f.metadata)


def flag(name: str) -> str:
    """The command-line spelling of a field name: `model_type` is --model-type."""
    return "--" + name.replace("_", "-")


def preset_words(name: str) -> str:
    """The options of a preset as they are typed."""
    words = ((flag(key), value) for key, value in PRESETS[name].items())
    return " ".join(word if value is True else f"{word} {value}" for word, value in words)


def default_text(f: dataclasses.Field) -> str:
    """The default of an option as people read it."""
    if f.default is None and f.metadata["default_text"]:
        return f.metadata["default_text"]
    return str(f.default).lower() if isinstance(f.default, bool) else str(f.default)


def fold_list(text: str) -> tuple[int, ...]:
    """'0,2' as (0, 2), in order and each once."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be fold numbers with commas, as in 0,2. Got '{text}'.") from None


def path_list(text: str) -> tuple[str, ...]:
    """'a,b' as ('a', 'b')."""
    if not all(text.split(",")):
        raise argparse.ArgumentTypeError(f"must be folders with commas between them, as in a,b. Got '{text}'.")
    return tuple(text.split(","))


def number_of(kind: type[int] | type[float], text: str) -> int | float:
    """The number that a text says."""
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {wanted}. Got '{text}'.") from None


PARSERS = {
    int: partial(number_of, int),
    float: partial(number_of, float),
    str: str,
    tuple[int, ...]: fold_list,
    tuple[str, ...]: path_list,
}


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line."""

    def error(self, message: str) -> None:
        if message.startswith("unrecognized arguments: "):
            unknown = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [name for action in self._actions for name in action.option_strings]
            message = f"there is no option {unknown}.{nearest(unknown.split('=')[0], known)} --help lists them all."
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser(cls: type[Config]) -> argparse.ArgumentParser:
    """The argument parser of a command, made from the fields of its config class."""
    presets = [f"--preset {name}: {preset_words(name)}" for name in PRESETS] if cls is TrainConfig else []
    parser = _Parser(
        prog=cls.command,
        description=cls.__doc__,
        epilog="\n".join(textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False) for text in presets),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints = get_type_hints(cls)
    for f in options(cls):
        text = f"{f.metadata['help']} (default: {default_text(f)})"
        if f.metadata["choices"]:
            text = f"{f.metadata['help']}: {', '.join(f.metadata['choices'])} (default: {default_text(f)})"
        kwargs: dict[str, Any] = {"dest": f.name, "help": text, "default": argparse.SUPPRESS}
        if hints[f.name] is bool:
            parser.add_argument(flag(f.name), action=argparse.BooleanOptionalAction, **kwargs)
            continue
        kind = next(
            (k for k in (int, float, str) if k is hints[f.name] or k in getattr(hints[f.name], "__args__", ())), None
        )
        parse = PARSERS[kind or get_args(hints[f.name])[0]]
        parser.add_argument(flag(f.name), type=parse, metavar=(kind or str).__name__.upper(), **kwargs)
    return parser


def settle_libraries() -> None:
    """Set what libraries read from the environment when they are imported, unless the user has set it."""
    # Read by GNU's OpenMP when torch is imported, which is later: how many turns a thread spins for the next piece of
    # work before it sleeps. Of 2 cores, efficientnet-b0 at 112 px trained in 0.80 of the time that threads take which
    # sleep at once, and next to another busy process in 1.28; those that spin for as long as is usual took 1.7 there.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Read by Pillow when it is imported: how many blocks of memory, each up to 16 MB, it keeps for the next picture.
    # With none the system hands out every page anew, and decoding a photograph of 384 x 512 took 1.2 instead of 0.7 ms.
    os.environ.setdefault("PILLOW_BLOCKS_MAX", "4")


def parse_config(cls: type[AnyConfig], argv: Sequence[str] | None = None) -> AnyConfig:
    """The options of a command line as a checked config; `given` holds the names of those that were typed.

    Both --model-type and --model_type are accepted. A relative path that was typed starts at the working directory; a
    default starts at the folder of the toolkit. Exits with code 2 and one line when an option is wrong.
    """
    settle_libraries()
    parser = build_parser(cls)
    words = sys.argv[1:] if argv is None else argv
    typed = vars(parser.parse_args([_with_dashes(word) for word in words]))
    anchored = {
        f.name: str(ROOT / f.default)
        for f in options(cls)
        if f.metadata["path"] and f.default is not None and f.name not in typed
    }
    try:
        chosen = _chosen(typed)
        return cls(**{**anchored, **chosen, **typed}, given=frozenset(typed), words=tuple(words))
    except UserError as error:
        parser.error(str(error))


def _chosen(typed: dict[str, Any]) -> dict[str, Any]:
    """What the preset that was typed sets, without what does not fit the task, network or optimizer typed beside it."""
    if "preset" not in typed:
        return {}
    values = PRESETS[resolve_name("--preset", typed["preset"], PRESETS)]
    task = resolve_name("--task", typed.get("task", TrainConfig.task), TASKS)
    left_out = set(FOR_CLASSES) if TASKS[task].regression else set()
    network = resolve_name("--model-type", typed.get("model_type", values["model_type"]), MODELS)
    if network != values["model_type"] or "model_type" in left_out:
        left_out.add("backbone")  # which was chosen for another network
    optimizer = resolve_name("--optim-type", typed.get("optim_type", values["optim_type"]), OPTIMIZERS)
    if optimizer != values["optim_type"] or "weight_decay" in typed:
        left_out.add("run_decay")  # which is of adamw, and one of two ways to say it
    return {name: value for name, value in values.items() if name not in left_out}


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def options_table(cls: type[Config]) -> str:
    """The options of a command as the Markdown table that stands in the README."""
    rows = ["| option | default | what it does |", "|---|---|---|"]
    for f in options(cls):
        name = flag(f.name)
        name = f"{name}, --no-{name[2:]}" if isinstance(f.default, bool) else name
        text = f.metadata["help"].replace("%%", "%")
        if f.metadata["choices"]:
            text += ": " + ", ".join(f"`{choice}`" for choice in f.metadata["choices"])
        rows.append(f"| `{name}` | {default_text(f)} | {text} |")
    return "\n".join(rows)
