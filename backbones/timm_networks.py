"""Backbones of timm, which need not be installed."""

import warnings
from dataclasses import fields
from types import ModuleType
from typing import Any

import torch
from torch import nn

from backbones.sizes import check_size
from backbones.weights import FileWeights, describe_unfit
from cli.choices import nearest
from utils import UserError, first_line, shorten_list

UNUSUAL = 728_361_941  # a seed that no file was made with
HUB = ("hf-hub:", "hf_hub:")  # prefixes of names of networks on huggingface.co


def is_installed() -> bool:
    """Return whether timm can be imported."""
    try:
        import_timm()
        return True
    except UserError:
        return False


def has_network(name: str) -> bool:
    """Return whether timm is installed and has a network of this name."""
    return is_installed() and import_timm().is_model(name)


def import_timm() -> ModuleType:
    """Return timm, or raise a UserError."""
    try:
        import timm
    except ImportError:
        raise UserError("Backbones of timm need timm. Run pip install timm, or pass another --backbone.") from None
    return timm


def create(
    name: str,
    image_size: int,
    *,
    pretrained: bool | FileWeights,
    pooled: bool,
    drop_path: float | None,
    grad_checkpointing: bool,
    architecture: dict[str, Any] | None,
) -> tuple[nn.Module, int]:
    """Return a backbone of timm and the number of its outputs, see `backbones.create.create_backbone`."""
    timm = import_timm()
    if architecture is not None:
        about, own, options = None, architecture["name"], dict(architecture["args"])
    else:
        about, own, args = _read_hub(name) if name.startswith(HUB) else (find_config(name), name, {})
        options = args | ({"img_size": image_size} if about is not None and about.fixed_input_size else {})
        if own != name:
            sizes = {"input_size": list(about.input_size), "fixed_input_size": about.fixed_input_size}
            options["pretrained_cfg"] = {**sizes, "num_classes": about.num_classes}
    described = {"name": own, "args": dict(options)}
    if drop_path is not None:
        options["drop_path_rate"] = drop_path

    def create_random() -> nn.Module:
        try:
            return timm.create_model(own, pretrained=False, **options)
        except TypeError as error:
            if "drop_path_rate" in str(error):
                raise UserError(f"--drop-path has no effect on {name}, which skips no blocks. Leave it out.") from None
            raise

    def pool(network: nn.Module) -> nn.Module:
        if pooled:
            network.reset_classifier(0)
        return network

    if pretrained:
        check_size(name, image_size, create_random)  # before a download
        from_file = isinstance(pretrained, FileWeights)
        loaded = _load_file(own, pretrained, about, options) if from_file else _load_published(name, about, options)
        backbone, outputs = check_size(name, image_size, lambda: pool(loaded))
    else:
        backbone, outputs = check_size(name, image_size, lambda: pool(create_random()))
    if grad_checkpointing:
        try:
            backbone.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            raise UserError(f"--grad-checkpointing does not work with {name}. Leave it out.") from None
    if own != name:
        backbone.hub_architecture = described
    return backbone, outputs.shape[1]


def _load_published(name: str, about: Any, options: dict[str, Any]) -> nn.Module:
    try:
        options = {key: value for key, value in options.items() if key != "pretrained_cfg"}  # the hub has it
        return import_timm().create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:  # of several download libraries
        where = f"https://huggingface.co/{about.hf_hub_id}" if about is not None and about.hf_hub_id else "its page"
        raise UserError(
            f"The weights of timm's {name} could not be loaded ({first_line(error).rstrip('.')}). On a connected "
            f"machine download model.safetensors from {where} and pass it as --pretrained FILE, or copy the folder "
            "that HF_HOME names, or pass --no-pretrained."
        ) from None


def _load_file(name: str, file: FileWeights, about: Any, options: dict[str, Any]) -> nn.Module:
    """Return a network with the weights of a file, after timm's own conversions of names and shapes."""
    last = getattr(about, "classifier", None)
    last = last[0] if isinstance(last, tuple) else last
    weight = file.tensors.get(f"{last}.weight")
    classes = 0 if weight is None else len(weight)
    first = None
    for changes in ({}, {"num_classes": classes, "label_offset": 0}):  # as published, or with the file's own classes
        overlay = {"state_dict": dict(file.tensors), **changes}
        own = {"num_classes": classes} if changes else {}
        try:
            return _load_all(name, pretrained_cfg_overlay=overlay, **own, **options)
        except (RuntimeError, ValueError, KeyError) as error:
            first = first or error
    raise UserError(describe_unfit(file.path, name, first)) from None


def _load_all(name: str, **options: Any) -> nn.Module:
    """Return a network with pretrained weights; raise a ValueError if timm left some at their random values."""
    networks = []
    for pretrained in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(UNUSUAL)
            networks.append(import_timm().create_model(name, pretrained=pretrained, **options))
    random, loaded = (dict(network.named_parameters()) for network in networks)
    missing = [
        key for key, value in loaded.items() if value.ndim > 1 and value.std() > 0 and torch.equal(value, random[key])
    ]
    if missing:
        raise ValueError(f"it lacks {shorten_list(missing, 3)}")
    return networks[1]


def find_config(name: str) -> Any:
    """Return what timm knows about the pretrained weights of a network, or None if it has none.

    Raises:
        UserError: timm does not know the network or the weights.
    """
    timm = import_timm()
    if name.startswith(HUB):
        return _read_hub(name)[0]
    if not timm.is_model(name.removeprefix("timm/")):
        names = timm.list_models()
        raise UserError(f"--backbone {name} is not a network of timm {timm.__version__}.{nearest(name, names)}")
    if name.startswith("timm/"):
        raise UserError(f"--backbone {name}: leave out timm/, or pass hf-hub:{name}.")
    try:
        return timm.get_pretrained_cfg(name) or _find_own_config(name)
    except RuntimeError as error:
        names = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        raise UserError(
            f"--backbone {name}: {first_line(error).rstrip('.')}. Use one of {shorten_list(names)}."
        ) from None


def _find_own_config(name: str) -> Any:
    """Return the configuration that a network itself has; timm finds none by the name of a deprecated one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        try:
            with torch.device("meta"):  # without memory for the weights, which older versions of timm cannot always
                network = import_timm().create_model(name, pretrained=False)
        except RuntimeError:
            network = import_timm().create_model(name, pretrained=False)
    about = getattr(network, "pretrained_cfg", None)
    return _as_config(about) if about else None


def _as_config(about: dict[str, Any]) -> Any:
    from timm.models import PretrainedCfg

    known = {field.name for field in fields(PretrainedCfg)}
    return PretrainedCfg(**{key: value for key, value in about.items() if key in known and value is not None})


def _read_hub(name: str) -> tuple[Any, str, dict[str, Any]]:
    """Return the configuration of a network on huggingface.co, its architecture in timm, and arguments of that.

    They come from the cache or the internet.
    """
    timm = import_timm()
    from timm.models import load_model_config_from_hf

    try:
        about, architecture, args = load_model_config_from_hf(name.partition(":")[2])
        if not timm.is_model(architecture):
            raise ValueError(f"timm {timm.__version__} has no network {architecture}")
    except KeyError:
        raise UserError(f"--backbone {name} is not a network of timm. Use another one.") from None
    except (OSError, RuntimeError, ValueError) as error:  # of the download
        raise UserError(
            f"--backbone {name} could not be read ({first_line(error).rstrip('.')}). Check the name, or copy the "
            "folder that HF_HOME names from a connected machine."
        ) from None
    return _as_config(about), architecture, args or {}
