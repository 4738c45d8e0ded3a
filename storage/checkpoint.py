"""Read and write checkpoints: weights with a description from which their network can be rebuilt."""

import argparse
import io
import pickle
import re
import warnings
import zipfile
import zlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from augmentation import MEAN, STD
from backbones.weights import FileWeights
from cli.checks import MIN_IMAGE_SIZE
from cli.choices import MODELS, TRANSFORMS, resolve_name
from config import CROP_SCALE
from data.faces import Labelled
from model import Network, create_model
from storage.find_runs import existing_checkpoint
from utils import UNREADABLE, UserError, atomic_write, first_line, shorten_list

FORMAT_VERSION = 1
OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # the first bytes of files of torch before 1.6
CHOICES = {"model_type": MODELS, "transform_type": TRANSFORMS}
DAMAGED = "it is truncated or damaged"
INNER = "backbone."  # prefix of the backbone in the weights of a whole network
CUTS = ("mean", "std", "interpolation", "crop_share", "crop_scale", "inference_crop")  # of `augmentation.Settings`
WRAPPERS = ("module.", "_orig_mod.", "model.")  # prefixes of DistributedDataParallel, torch.compile and Lightning


@dataclass(frozen=True)
class ModelInfo(Labelled):
    """The description of the weights in a checkpoint: enough to rebuild the network, to feed it and to rank it.

    The description of a bare state dict has no `fold`, `epoch` and `scores`.
    """

    task: str
    model_type: str
    backbone: str
    image_size: int
    transform_type: str
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bilinear"
    crop_share: float | None = None
    crop_scale: float = CROP_SCALE
    inference_crop: float | None = None
    architecture: dict[str, Any] | None = None  # see `backbones.create.create_backbone`
    pooled: bool = False  # see `model.Network`; checkpoints of earlier versions lack it
    classes: tuple[str, ...] = ()
    labels: tuple[dict[str, Any], ...] | None = None  # the tasks of the labels, see `Tasks.as_plain`; None for faces
    fold: int | None = None
    epoch: int | None = None
    scores: dict[str, float] | None = None
    monitor: str | None = None
    higher_is_better: bool | None = None
    split_fingerprint: str | None = None
    training_counts: dict[str, list[int]] | None = None  # images per class, for each task that has classes
    training_age: float | None = None  # the median age or other number of the training images
    config: dict[str, Any] | None = None  # the options that the weights depend on
    versions: dict[str, str] | None = None

    @property
    def score(self) -> float | None:
        """The monitored validation score; None for a bare state dict."""
        return None if self.scores is None else self.scores[self.monitor]

    def build(self) -> Network:
        """Return a network of this kind with random weights."""
        return create_model(
            self.model_type,
            task=self.record,
            tasks=self.tasks,
            backbone=self.backbone,
            image_size=self.image_size,
            pretrained=False,
            architecture=self.architecture,
            on_logits=not self.pooled,
        )


# ------------------------------------------------------------------------------------------------ one file


def write_tensors(path: Path, value: Any) -> None:
    """Write tensors and plain values with `torch.save`; the file is whole or absent."""
    buffer = io.BytesIO()  # first, since torch hides a full disk behind an error of its own
    torch.save(value, buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def save_checkpoint(path: Path, network: nn.Module, info: ModelInfo) -> None:
    """Write weights and their description, to be loaded with `weights_only=True`; the file is whole or absent."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(info).items()}
    write_tensors(path, {"format_version": FORMAT_VERSION, "info": plain, "state_dict": network.state_dict()})


def read_tensors(path: Path, advice: str | None = None) -> Any:
    """Return what `torch.save` wrote, with tensors on the CPU, without running code from the file.

    Raises:
        UserError: there is no such file, or torch cannot read it as plain weights; the message ends with `advice`.
    """
    existing_checkpoint(path)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    head = b"?"
    try:
        with path.open("rb") as file:
            head = file.read(len(OLD_FORMAT))
        if head[:2] == b"PK":
            _check_zip(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol|.*TorchScript")  # an error follows
            with torch.serialization.safe_globals([argparse.Namespace]):  # options in files of many training scripts
                return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, zlib.error):
        reason = DAMAGED
    except (*UNREADABLE, MemoryError) as error:
        reason = _explain(error, head)
    if advice is None:
        advice = "Copy or download it again." if reason == DAMAGED else "Use a file with weights alone, a state_dict."
    raise UserError(f"{path} cannot be read as a checkpoint ({reason}). {advice}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path} needs safetensors. Run pip install safetensors.") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({first_line(error)}). Copy or download it again."
        ) from None


def _check_zip(path: Path) -> None:
    """Compare the checksums of a zip file, which torch ignores: it would read a flipped bit as a weight."""
    with zipfile.ZipFile(path) as archive:
        # Torch does not compress weights: a small file with a huge content is not its own.
        if sum(entry.file_size for entry in archive.infolist()) > 2 * path.stat().st_size + 1_000_000:
            raise ValueError("compressed")
        if archive.testzip() is not None:
            raise zipfile.BadZipFile


def _explain(error: Exception, head: bytes) -> str:
    """Return why torch could not read a file that begins with `head` as plain weights."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "it needs more memory than is available"
    if isinstance(error, OSError) and head[:2] != b"PK":
        return error.strerror or text
    code = re.search(r"(?i:global) ([\w.]+)", text) if isinstance(error, pickle.UnpicklingError) else None
    if code or "TorchScript" in text:
        return f"it contains code, {code[1] if code else 'TorchScript'}, which was not run"
    if head[:1] == b"\x80":
        if "EOF" in text or "truncated" in text or isinstance(error, EOFError) or OLD_FORMAT.startswith(head):
            return DAMAGED
        return "it is a pickle without weights and may contain code, which was not run"
    if head[:2] == b"PK":
        return "it is a zip file, but not of torch"
    return "it is not a file of torch" if head else "it is empty"


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], ModelInfo | None]:
    """Return the weights in a file and their description, which is None for a bare state dict.

    Raises:
        UserError: the file cannot be read, or holds neither a checkpoint nor a state dict.
    """
    content = read_tensors(Path(path))
    if isinstance(content, dict) and "format_version" in content:
        version = content["format_version"]
        if not isinstance(version, int) or version != FORMAT_VERSION:
            raise UserError(
                f"{path} has checkpoint format {version}, and this toolkit reads {FORMAT_VERSION}. Use the version of "
                "the toolkit that wrote it."
            )
        try:
            if not _is_state_dict(content["state_dict"]):
                raise TypeError("its weights are not a state dict")
            return content["state_dict"], _read_info(content["info"], path)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is a checkpoint with missing or wrong parts ({first_line(error)}). Use another file."
            ) from None
    content = content if isinstance(content, dict) else {}
    weights = content.get("state_dict", content.get("model", content))
    if not _is_state_dict(weights):
        raise UserError(f"{path} holds neither a checkpoint nor a state dict. Use another file.")
    for prefix in WRAPPERS * 2:  # which may be nested in any order
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights, None


def has_logits_head(weights: dict[str, Tensor]) -> bool:
    """Return whether weights have the head of VanillaTorchvision and VanillaTimm of earlier versions."""
    return "batchnorm.weight" in weights


def read_file_weights(path: str | Path) -> FileWeights:
    """Return the weights of a backbone in a file of timm, torchvision or another training.

    Raises:
        UserError: the file cannot be read, or is a checkpoint of this toolkit.
    """
    weights, info = load_checkpoint(path)
    if info is not None:
        raise UserError(f"{path} is a checkpoint of train.py. Pass --load-state-dict {path} instead of --pretrained.")
    _check_finite(weights, path)
    inner = {name.removeprefix(INNER): value for name, value in weights.items() if name.startswith(INNER)}
    return FileWeights(Path(path), inner or weights)


def _check_finite(weights: dict[str, Tensor], source: str | Path) -> None:
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        names = shorten_list(broken, 3)
        raise UserError(f"{source} contains NaN or infinite weights: {names}. Use an earlier checkpoint.")


def _is_state_dict(value: Any) -> bool:
    named = isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    return named and bool(value) and not any(tensor.is_meta for tensor in value.values())


def _are_numbers(values: Any, count: int | None = None) -> bool:
    numbers = isinstance(values, (list, tuple)) and all(isinstance(value, (int, float)) for value in values)
    return numbers and count in (None, len(values))


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value <= 1


def _read_info(values: dict[str, Any], path: str | Path) -> ModelInfo:
    """Return the description in a checkpoint after checking it; what later versions add is ignored."""
    known = {f.name for f in fields(ModelInfo)}
    info = ModelInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})
    names = {"task": resolve_name(f"The task of {path}", info.task, info.tasks)}
    names |= {
        name: resolve_name(f"The {name.replace('_', ' ')} of {path}", getattr(info, name), allowed)
        for name, allowed in CHOICES.items()
    }
    record = MODELS[names["model_type"]]
    if record.library is None:
        names["backbone"] = resolve_name(f"The backbone of {path}", info.backbone, record.backbones)
    info = replace(info, **names)
    valid = {
        "image_size": isinstance(info.image_size, int) and info.image_size >= MIN_IMAGE_SIZE,
        "mean": _are_numbers(info.mean, 3),
        "std": _are_numbers(info.std, 3),
        "interpolation": info.interpolation in {mode.value for mode in InterpolationMode},
        "crop_share": info.crop_share is None or _is_share(info.crop_share),
        "crop_scale": _is_share(info.crop_scale),
        "inference_crop": info.inference_crop is None or _is_share(info.inference_crop),
        "scores": info.scores is None or _are_numbers([info.scores[info.monitor], *info.scores.values()]),
        "config": info.config is None or isinstance(info.config["cv"], int),
        "fold": info.fold is None or isinstance(info.fold, int),
    }
    for name, is_valid in valid.items():
        if not is_valid:
            raise TypeError(f"its {name.replace('_', ' ')} is {getattr(info, name)}")
    if info.classes != info.record.classes:
        raise UserError(
            f"{path} was trained on other classes than those of task {info.task}: {shorten_list(info.classes, 18)}. "
            "Use another checkpoint."
        )
    return info


def load_weights(
    network: Network, weights: dict[str, Tensor], source: str | Path, kind: str, *, new_head: bool = False
) -> list[str]:
    """Copy a state dict into a network, and return the names and shapes of the weights that were left out.

    All weights must fit; with `new_head` those of the backbone, and the network keeps its head. `source` and `kind`
    are the file and the network in messages.

    Raises:
        UserError: names or shapes differ, or weights are not finite; the message names the first ones.
    """
    own, left_out = network.state_dict(), []
    if new_head:
        prefix = f"{network.backbone_name}."
        if not any(name.startswith(prefix) for name in weights):
            weights = _name_as_inner(weights, prefix)
        out = {name for name in weights if not name.startswith(prefix) or _is_of_removed_layer(network, name)}
        left_out = [f"{name} {tuple(value.shape)}" for name, value in weights.items() if name in out]
        weights = {name: value for name, value in weights.items() if name not in out}
        own = {name: value for name, value in own.items() if name.startswith(prefix)}
    different = [f"{name} is missing" for name in own if name not in weights]
    different += [f"{name} is not part of it" for name in weights if name not in own]
    shapes = {name: (tuple(weights[name].shape), tuple(own[name].shape)) for name in own if name in weights}
    different += [f"{name} has shape {came} instead of {due}" for name, (came, due) in shapes.items() if came != due]
    if different:
        raise UserError(f"The weights in {source} do not fit {kind}: {shorten_list(different, 3)}. Use other weights.")
    _check_finite(weights, source)
    network.load_state_dict({**network.state_dict(), **weights})
    return left_out


def _name_as_inner(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights of another training with `prefix` before the names of its backbone, which may be all."""
    whole = any(name.startswith(INNER) for name in weights)
    inner = (name for name in weights if name.startswith(INNER) or not whole)
    names = {name: prefix + name.removeprefix(INNER) for name in inner}
    return {names.get(name, name): value for name, value in weights.items()}


def _is_of_removed_layer(network: Network, name: str) -> bool:
    try:
        return isinstance(network.get_submodule(name.rpartition(".")[0]), nn.Identity)
    except AttributeError:
        return False
