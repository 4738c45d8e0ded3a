"""The names that options accept."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import optim
from data.faces import AGE, MAIN
from data.tasks import Task
from loss import LOSSES
from utils import UserError


@dataclass(frozen=True)
class ModelRecord:
    """The backbones and heads of a network."""

    backbone: str  # the default
    backbones: tuple[str, ...] = ()  # those that fit
    heads: str = "task"  # the task that the network is trained on, each of the "attributes", or "all": these and main
    library: str | None = None  # torchvision, timm or any: every backbone of which fits too

    @property
    def has_one_head(self) -> bool:
        """Return whether a network has a single head."""
        return self.heads == "task"

    def answers(self, task: Task, trained_on: str) -> bool:
        """Return whether a network that was trained on one task answers another of the same labels."""
        return task.name == trained_on or not (task.regression or self.has_one_head)


EFFICIENTNETS = tuple(f"efficientnet-b{i}" for i in range(8))
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BACKBONES = EFFICIENTNETS + RESNETS
MODELS = {
    "VanillaEfficientNet": ModelRecord("efficientnet-b3", EFFICIENTNETS),
    "VanillaResNet": ModelRecord("resnet50", RESNETS),
    "MultiClassTHANet_MK1": ModelRecord("efficientnet-b3", BACKBONES, "all"),
    "MultiLabelTHANet": ModelRecord("efficientnet-b0", BACKBONES, "attributes"),
    "THANet_MK1": ModelRecord("efficientnet-b3", BACKBONES, "all"),
    "JointHeads": ModelRecord("efficientnet-b0", BACKBONES, "all", library="any"),
    "VanillaTorchvision": ModelRecord("convnext_tiny", library="torchvision"),
    "VanillaTimm": ModelRecord("convnext_nano", library="timm"),
}
DEFAULT_LOSSES = f"{MAIN.losses[0]}; {AGE.losses[0]} for numbers"
DEFAULT_METRICS = f"{MAIN.monitor}; {AGE.monitor} for numbers"
TRANSFORMS = ("base", "random", "tta", "facecrop", "base_source", "random_source")
OPTIMIZERS, SCHEDULES = tuple(optim.OPTIMIZERS), tuple(optim.SCHEDULES)
METHODS = ("softvoting", "hardvoting")
BAD_IMAGE = ("stop", "skip")
TWO_GENDERS = ("stop", "keep")
EXTEND_WEIGHTS = ("best", "last")
CACHES = ("ram", "off")
TRACKERS = ("none", "tensorboard", "wandb")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
ALIASES = {
    "MultiClassTHANet": "MultiClassTHANet_MK1",
    "THANet": "THANet_MK1",
    "soft": "softvoting",
    "hard": "hardvoting",
    **{name.removesuffix("loss"): name for name in LOSSES},
}


def resolve_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """Return the allowed name for `name`, in any case or an alias; raise UserError if there is none."""
    allowed = list(allowed)
    spellings = {alias.lower(): full for alias, full in ALIASES.items() if full in allowed}
    spellings |= {full.lower(): full for full in allowed}
    if name in allowed:  # labels may differ in case only
        return name
    if name.lower() in spellings:
        return spellings[name.lower()]
    raise UserError(f"{what} must be one of {', '.join(allowed)}. Got '{name}'.{nearest(name, spellings)}")


def nearest(name: str, spellings: dict[str, str] | Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the nearest allowed name, or an empty string."""
    spellings = spellings if isinstance(spellings, dict) else {s: s for s in spellings}
    close = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=0.5)
    return f" Did you mean '{spellings[close[0]]}'?" if close else ""


def flag(name: str) -> str:
    """Return the command-line spelling of an option: --model-type for model_type."""
    return "--" + name.replace("_", "-")
