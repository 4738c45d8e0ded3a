"""One checkpoint format: weights that know what they are. Saving, loading, keeping the best, finding an ensemble."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from augmentation import MEAN, STD
from cli.checks import MIN_IMAGE_SIZE
from cli.choices import MODELS, TRANSFORMS, resolve_name
from config import CROP_SCALE
from data.tasks import TASKS
from model import Network, create_model
from storage.find_runs import checkpoint_files, existing_checkpoint
from utils import UNREADABLE, UserError, atomic_write, first_line, shorten_list

FORMAT_VERSION = 1
OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # what files of torch before 1.6 begin with
CHOICES = {"task": TASKS, "model_type": MODELS, "transform_type": TRANSFORMS}


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says of its weights: enough to rebuild the network, feed it and rank it.

    `fold`, `epoch` and `scores` are None for a bare state dict, of which nothing is known. `training_counts` holds for
    each task of classes how many training photographs each class had, `training_age` their median age in years, and
    `config` the options that the weights depend on.
    """

    task: str
    model_type: str
    backbone: str
    image_size: int
    transform_type: str
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    crop_scale: float = CROP_SCALE
    inference_crop: float | None = None
    classes: tuple[str, ...] = ()
    fold: int | None = None
    epoch: int | None = None
    scores: dict[str, float] | None = None
    monitor: str | None = None
    higher_is_better: bool | None = None
    split_fingerprint: str | None = None
    training_counts: dict[str, list[int]] | None = None
    training_age: float | None = None
    config: dict[str, Any] | None = None
    versions: dict[str, str] | None = None

    @property
    def score(self) -> float | None:
        """The monitored validation score, when it is known."""
        return None if self.scores is None else self.scores[self.monitor]

    def build(self) -> Network:
        """A network of this kind with random weights."""
        return create_model(
            self.model_type,
            task=self.task,
            backbone=self.backbone,
            image_size=self.image_size,
            pretrained=False,
        )


# ------------------------------------------------------------------------------------------------ one file


def write_tensors(path: Path, value: Any) -> None:
    """Write tensors and plain values by `torch.save`, whole or absent.

    Torch's own file writer hides a full disk behind an error of its own, so it writes to memory first.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def save_checkpoint(path: Path, network: nn.Module, info: ModelInfo) -> None:
    """Write weights and their description, whole or absent; both load with `weights_only=True`."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(info).items()}
    content = {"format_version": FORMAT_VERSION, "info": plain, "state_dict": network.state_dict()}
    write_tensors(path, content)


def read_file(path: Path) -> Any:
    """What `torch.save` wrote, tensors on the CPU; nothing in it is executed.

    Raises:
        UserError: no such file, or none that torch reads as plain weights.
    """
    existing_checkpoint(path)
    head = b"?"
    try:
        with path.open("rb") as file:
            head = file.read(len(OLD_FORMAT))
        if head[:2] == b"PK":
            # Torch reads a flipped bit as a weight; the check sums of the zip file that it writes tell.
            with zipfile.ZipFile(path) as archive:
                # Torch packs no weights: a small file that unpacks to a huge one is not its.
                if sum(entry.file_size for entry in archive.infolist()) > 2 * path.stat().st_size + 1_000_000:
                    raise ValueError("packed")
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused below if it is not weights
            warnings.filterwarnings("ignore", message=".*TorchScript")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, zlib.error):
        why = "it is cut short or damaged; copy or download it again"
    except (*UNREADABLE, MemoryError) as error:
        why = _why_unreadable(error, head)
    raise UserError(f"{path} cannot be read as a checkpoint ({why}).")


def _why_unreadable(error: Exception, head: bytes) -> str:
    """Why torch could not read a file that begins with `head` as plain weights, in words."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "it wants more memory than there is"
    if isinstance(error, OSError) and head[:2] != b"PK":
        return error.strerror or text
    code = re.search(r"(?i:global) ([\w.]+)", text) if isinstance(error, pickle.UnpicklingError) else None
    if code or "TorchScript" in text:
        named = code[1] if code else "TorchScript"
        return f"it carries code, {named}, which was not run; ask for a file of its state_dict alone"
    if head[:1] == b"\x80":
        cut = "EOF" in text or "truncated" in text or isinstance(error, EOFError)
        if cut or OLD_FORMAT.startswith(head):
            return "it is cut short or damaged; copy or download it again"
        return "it is a pickle of something other than weights and may carry code, of which nothing was run"
    if head[:2] == b"PK":
        return "it is a zip file, but not of torch"
    return "it is no file of torch" if head else "it is empty"


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], ModelInfo | None]:
    """The weights in a file, and what it says of them: None for a bare state dict made elsewhere.

    Raises:
        UserError: the file cannot be read, or holds neither.
    """
    content = read_file(Path(path))
    if isinstance(content, dict) and "format_version" in content:
        version = content["format_version"]
        if not isinstance(version, int) or version != FORMAT_VERSION:
            raise UserError(f"{path} is of checkpoint format {version}; this toolkit reads {FORMAT_VERSION}.")
        try:
            known = {f.name for f in fields(ModelInfo)}
            info = {k: tuple(v) if isinstance(v, list) else v for k, v in content["info"].items() if k in known}
            if not _is_state_dict(content["state_dict"]):
                raise TypeError("its weights are no state dict")
            return content["state_dict"], _checked(ModelInfo(**info), path)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is a checkpoint with parts missing ({first_line(error)}).") from None
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not _is_state_dict(weights):
        raise UserError(f"{path} is no checkpoint and no state dict.")
    # Networks wrapped for several GPUs save their weights with this prefix.
    return {name.removeprefix("module."): value for name, value in weights.items()}, None


def _is_state_dict(value: Any) -> bool:
    named = isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    return named and bool(value) and not any(tensor.is_meta for tensor in value.values())


def _are_numbers(values: Any, count: int | None = None) -> bool:
    numbers = isinstance(values, (list, tuple)) and all(isinstance(value, (int, float)) for value in values)
    return numbers and count in (None, len(values))


def _checked(info: ModelInfo, path: str | Path) -> ModelInfo:
    names = {
        name: resolve_name(f"The {name.replace('_', ' ')} of {path}", getattr(info, name), allowed)
        for name, allowed in CHOICES.items()
    }
    record = MODELS[names["model_type"]]
    if record.library is None:
        names["backbone"] = resolve_name(f"The backbone of {path}", info.backbone, record.backbones)
    info = replace(info, **names)
    numbers = {
        "image_size": isinstance(info.image_size, int) and info.image_size >= MIN_IMAGE_SIZE,
        "mean": _are_numbers(info.mean, 3),
        "std": _are_numbers(info.std, 3),
        "crop_scale": _are_numbers([info.crop_scale]) and 0 < info.crop_scale <= 1,
        "inference_crop": info.inference_crop is None
        or (_are_numbers([info.inference_crop]) and 0 < info.inference_crop <= 1),
        "scores": info.scores is None or _are_numbers([info.scores[info.monitor], *info.scores.values()]),
        "config": info.config is None or isinstance(info.config["cv"], int),
        "fold": info.fold is None or isinstance(info.fold, int),
    }
    for name, sound in numbers.items():
        if not sound:
            raise TypeError(f"its {name.replace('_', ' ')} is {getattr(info, name)}")
    if info.classes != TASKS[info.task].classes:
        raise UserError(
            f"{path} was trained on other classes than task {info.task} has: {shorten_list(info.classes, 18)}."
        )
    return info


def load_weights(
    network: Network, weights: dict[str, Tensor], source: str | Path, kind: str, *, new_head: bool = False
) -> list[str]:
    """Copy weights into a network, all of them.

    Args:
        source, kind: the file and the network, for messages.
        new_head: take the backbone alone; the head stays as it is in the network.

    Returns:
        The weights that were left out, each with its shape; empty without `new_head`.

    Raises:
        UserError: names or shapes differ, or weights are not finite; the message names the first ones.
    """
    own = network.state_dict()
    left_out = []
    if new_head:
        backbone = f"{network.backbone_name}."
        left_out = [f"{name} {tuple(value.shape)}" for name, value in weights.items() if not name.startswith(backbone)]
        weights = {name: value for name, value in weights.items() if name.startswith(backbone)}
        own = {name: value for name, value in own.items() if name.startswith(backbone)}
    different = [f"{name} is missing" for name in own if name not in weights]
    different += [f"{name} is not part of it" for name in weights if name not in own]
    different += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if different:
        raise UserError(f"The weights in {source} do not fit {kind}: {shorten_list(different, 3)}.")
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UserError(
            f"{source} holds weights that are not numbers: {shorten_list(broken, 3)}. Take an earlier checkpoint."
        )
    network.load_state_dict({**network.state_dict(), **weights})
    return left_out


# ------------------------------------------------------------------------------------------------ the best N of a fold


def checkpoint_name(epoch: int, monitor: str, value: float) -> str:
    """The file name of a checkpoint, for people: epoch012_f1-0.7706.pt. Nothing is ever read back from it."""
    return f"epoch{epoch:03d}_{monitor.removeprefix('macro_')}-{value:.4f}.pt"


class BestKeeper:
    """Keeps the best N checkpoints in a folder.

    Of equal scores the earlier epoch ranks higher; a score that is not a number is never kept.

    Args:
        folder: where they lie.
        top_n: how many to keep.
        monitor: name of the score.
        higher_is_better: its direction.
        kept: (epoch, score, file name) of those there already, best first.
    """

    def __init__(
        self,
        folder: Path,
        top_n: int,
        *,
        monitor: str,
        higher_is_better: bool,
        kept: Sequence[tuple[int, float, str]] = (),
    ) -> None:
        self.folder, self.top_n, self.monitor = folder, top_n, monitor
        self.sign = -1 if higher_is_better else 1
        self.kept = [(int(epoch), float(value), str(name)) for epoch, value, name in kept]

    def offer(self, epoch: int, value: float, save: Callable[[Path], None]) -> Path | None:
        """Save the weights of an epoch by `save(path)` if they are among the best: their path, else None.

        Those that they replace stay on disk until `remove_others`.
        """
        if not np.isfinite(value):
            return None
        ranked = sorted([*self.kept, (epoch, value, checkpoint_name(epoch, self.monitor, value))], key=self._rank)
        best = ranked[: self.top_n]
        if all(kept[0] != epoch for kept in best):
            return None
        path = self.folder / checkpoint_name(epoch, self.monitor, value)
        save(path)
        self.kept = best
        return path

    def remove_others(self) -> None:
        """Delete checkpoints that are not kept: replaced ones, and those of an epoch cut before it was counted."""
        names = {name for _, _, name in self.kept}
        for path in checkpoint_files(self.folder):
            if path.name not in names:
                path.unlink()

    def _rank(self, entry: tuple[int, float, str]) -> tuple[float, int]:
        return self.sign * entry[1], entry[0]
