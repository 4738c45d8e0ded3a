"""List backbones: python -m tools models '*convnext*'"""

import difflib
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from cli.choices import EFFICIENTNETS
from config import ModelsConfig
from utils import UserError

NETWORKS = {  # that take every backbone of a library
    "efficientnet_pytorch": "VanillaEfficientNet",
    "torchvision": "VanillaTorchvision",
    "timm": "VanillaTimm",
}
COUNTED = 60  # networks of timm at most, each of which is created for its number of parameters
HERE, NONE, ELSEWHERE = "here", "none", "-"  # the weights: on this machine, not published, to be downloaded


@dataclass(frozen=True)
class Backbone:
    """A row of the list."""

    name: str
    library: str
    size: str  # of the images its weights were trained on, in pixels
    parameters: int | None
    weights: str

    def row(self) -> tuple[str, ...]:
        """Return the cells of the row, with the mean of the pixels, from 0 to 1, that the weights expect."""
        from augmentation import MEAN
        from backbones.create import expected_pixels

        millions = "-" if self.parameters is None else f"{self.parameters / 1e6:.1f}"
        mean = expected_pixels(NETWORKS[self.library], self.name).get("mean", MEAN)
        shown = " ".join(f"{value:.3g}" for value in mean)
        return self.name, self.library, self.size, millions, shown, self.weights


def run(config: ModelsConfig) -> None:
    """Print the backbones whose names match the pattern, or without one those of all libraries but timm.

    Raises:
        UserError: no name matches.
    """
    pattern = (config.pattern or "").lower()
    glob = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    try:
        import timm
    except ImportError:
        timm = None
    names = timm.list_models(include_tags=True) if timm else []
    others = (*_efficientnets(), *_torchvision())
    found = [each for each in others if pattern == each.library or _matches(each.name, glob)]
    if pattern:
        matching = [name for name in names if pattern == "timm" or _matches(name, glob)]
        found += [_timm(name, count=len(matching) <= COUNTED) for name in matching]
    if not found:
        raise UserError(_no_match(pattern, names, timm is not None))
    print(_table([("name", "library", "input", "million", "mean", "weights"), *(each.row() for each in found)]))
    libraries = dict.fromkeys(each.library for each in found)
    print(f"\nWeights: {HERE}, on this machine; {ELSEWHERE}, downloaded by the first training; {NONE}, not published")
    print("Networks:", ", ".join(f"--model-type {NETWORKS[each]} for {each}" for each in libraries))
    if any(each.parameters is None for each in found):
        print(f"Parameters are counted for at most {COUNTED} networks of timm. Pass a PATTERN that matches fewer.")
    if timm is None:
        print("timm has about 1,800 more. To list and use them: pip install timm")
    elif not pattern:
        count = len(timm.list_models(pretrained=True))
        print(f"timm {timm.__version__} has {count:,} more. To list them: {config.command} '*vit*', or '*' for all")


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name matches a glob, with or without the tag of timm that follows a dot."""
    return any(fnmatchcase(each.lower(), pattern) for each in (name, name.split(".")[0]))


def _no_match(pattern: str, names: list[str], has_timm: bool) -> str:
    from torchvision import models

    known = {name.split(".")[0] for name in (*EFFICIENTNETS, *models.list_models(module=models), *names)}
    close = difflib.get_close_matches(pattern.strip("*").split(".")[0], sorted(known), cutoff=0.5)
    advice = f"Did you mean {', '.join(close)}?" if close else "Leave PATTERN out to list backbones."
    return f"No backbone matches '{pattern}'. {advice}" + ("" if has_timm else " pip install timm adds about 1,800.")


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = "<<>><<"
    cells = [[f"{cell:{a}{w}}" for cell, a, w in zip(row, aligns, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _efficientnets() -> Iterator[Backbone]:
    import torch
    from efficientnet_pytorch import EfficientNet

    for name in EFFICIENTNETS:
        with torch.device("meta"):  # without memory for the weights
            network = EfficientNet.from_name(name)
        yield Backbone(name, "efficientnet_pytorch", str(network.get_image_size(name)), _count(network), _here(name))


def _torchvision() -> Iterator[Backbone]:
    from torchvision import models

    for name in models.list_models(module=models):
        weights = models.get_model_weights(name).DEFAULT
        size, parameters = weights.transforms().crop_size[0], weights.meta["num_params"]
        yield Backbone(name, "torchvision", str(size), parameters, _here(name))


def _here(name: str) -> str:
    from backbones.weights import locate_weights

    return HERE if locate_weights(name)[1].is_file() else ELSEWHERE


def _timm(name: str, *, count: bool) -> Backbone:
    import timm
    import torch

    about, parameters = timm.get_pretrained_cfg(name), None
    if count:
        # Older versions of timm cannot create all networks without memory for the weights.
        with suppress(RuntimeError), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a network that is never used
            parameters = _count(timm.create_model(name, pretrained=False))
    if about is None:
        return Backbone(name, "timm", "-", parameters, NONE)
    height, width = about.input_size[1:]
    size = str(height) if height == width else f"{height}x{width}"
    return Backbone(name, "timm", size, parameters, _timm_weights(about))


def _timm_weights(about: Any) -> str:
    """Return where the weights of a configuration of timm are, looking where timm looks first."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    if about.hf_hub_id:
        repository, _, revision = about.hf_hub_id.partition("@")
        file = about.hf_hub_filename or "pytorch_model.bin"
        files = {file, "model.safetensors" if not about.hf_hub_filename else f"{Path(file).stem}.safetensors"}
        found = [try_to_load_from_cache(repository, each, revision=revision or None) for each in files]
        return HERE if any(isinstance(path, str) for path in found) else ELSEWHERE
    if about.url:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(about.url).path).name
        return HERE if file.is_file() else ELSEWHERE
    return NONE


def _count(network: Any) -> int:
    return sum(weights.numel() for weights in network.parameters())
