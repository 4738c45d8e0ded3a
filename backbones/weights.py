"""Load the weights of backbones that are not of timm: published ones, or those of a file."""

import re
import textwrap
import urllib.error
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from efficientnet_pytorch.utils import url_map
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from utils import UNREADABLE, UserError, first_line


class FileWeights(NamedTuple):
    """A state dict, as its library names the weights, and the file that it was read from."""

    path: Path
    tensors: dict[str, Tensor]


def describe_unfit(path: Path, name: str, error: Exception) -> str:
    """Return a message about weights of a file that a backbone did not accept."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]  # of load_state_dict
    return f"The weights in {path} do not fit {name} ({textwrap.shorten(reason, 150).rstrip('.')}). Use another file."


def load_file(backbone: nn.Module, name: str, image_size: int, file: FileWeights, last: str | None) -> None:
    """Load the weights of a file into a backbone of which the layer `last` was removed.

    Raises:
        UserError: they do not fit.
    """
    try:
        _load(backbone, name, image_size, dict(file.tensors), last)
    except (*UNREADABLE, AttributeError) as error:
        raise UserError(describe_unfit(file.path, name, error)) from None


def _load(backbone: nn.Module, name: str, image_size: int, weights: dict[str, Tensor], last: str | None) -> None:
    """Load published weights into a backbone of which the layer `last` was removed."""
    if name.startswith("vit_"):
        weights = interpolate_embeddings(image_size, backbone.patch_size, weights)
    for key in list(weights):  # in place: the dict itself carries the version of its format
        if key.startswith(("aux1.", "aux2.", "AuxLogits.")) or (last and key.startswith(f"{last}.")):
            del weights[key]
        elif re.search(r"denselayer\d+\.(norm|conv)\.\d", key):  # old names of DenseNet's layers
            weights[re.sub(r"\.(norm|conv)\.(\d)", r".\1\2", key)] = weights.pop(key)
    backbone.load_state_dict(weights)


def locate_weights(name: str) -> tuple[str, Path]:
    """Return the URL of the ImageNet weights of a backbone that is not of timm, and the file they are downloaded to."""
    url = url_map[name] if name in url_map else torchvision.models.get_model_weights(name).DEFAULT.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def load_published(backbone: nn.Module, name: str, image_size: int, last: str | None) -> None:
    """Load the published ImageNet weights into a backbone of which the layer `last` was removed.

    They come from TORCH_HOME or the internet.

    Raises:
        UserError: they cannot be downloaded or read.
    """
    url, file = locate_weights(name)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # an error below if not weights
            weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        _load(backbone, name, image_size, weights, last)
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"The ImageNet weights of {name} could not be downloaded ({getattr(error, 'reason', error)}). "
            f"Put {url} at {file}, pass another file as --pretrained FILE, or pass --no-pretrained."
        ) from None
    except UNREADABLE as error:
        raise UserError(
            f"The ImageNet weights of {name} at {file} cannot be read ({first_line(error)}). "
            f"Delete the file and put {url} there, or pass --no-pretrained."
        ) from None
