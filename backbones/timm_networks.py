"""Backbones of timm, which need not be installed."""

from types import ModuleType
from typing import Any

from torch import nn

from backbones.sizes import check_size
from backbones.weights import FileWeights, describe_unfit
from cli.choices import nearest
from utils import UserError, first_line, shorten_list


def has_network(name: str) -> bool:
    """Return whether timm is installed and has a network of this name."""
    try:
        return import_timm().is_model(name)
    except UserError:
        return False


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
) -> tuple[nn.Module, int]:
    """Return a backbone of timm and the number of its outputs, see `backbones.create.create_backbone`."""
    timm, about = import_timm(), find_config(name)
    options: dict[str, Any] = {"img_size": image_size} if about is not None and about.fixed_input_size else {}
    if drop_path is not None:
        options["drop_path_rate"] = drop_path

    def create_random() -> nn.Module:
        try:
            return timm.create_model(name, pretrained=False, **options)
        except TypeError as error:
            if "drop_path_rate" in str(error):
                raise UserError(f"--drop-path has no effect on {name}, which skips no blocks. Leave it out.") from None
            raise

    backbone, outputs = check_size(name, image_size, create_random)
    if isinstance(pretrained, FileWeights):
        backbone = _load_file(name, pretrained, about, options)
    elif pretrained:
        backbone = _load_published(name, about, options)
    if pooled:  # after loading, so that all weights must fit
        backbone.reset_classifier(0)
        backbone, outputs = check_size(name, image_size, lambda: backbone)
    if grad_checkpointing:
        try:
            backbone.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            raise UserError(f"--grad-checkpointing does not work with {name}. Leave it out.") from None
    return backbone, outputs.shape[1]


def _load_published(name: str, about: Any, options: dict[str, Any]) -> nn.Module:
    try:
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
            return import_timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **own, **options)
        except (RuntimeError, ValueError, KeyError) as error:
            first = first or error
    raise UserError(describe_unfit(file.path, name, first)) from None


def find_config(name: str) -> Any:
    """Return what timm knows about the pretrained weights of a network, or None if it has none.

    Raises:
        UserError: timm does not know the network or the weights.
    """
    timm = import_timm()
    if not timm.is_model(name):
        names = timm.list_models()
        raise UserError(f"--backbone {name} is not a network of timm {timm.__version__}.{nearest(name, names)}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        names = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        raise UserError(
            f"--backbone {name}: {first_line(error).rstrip('.')}. Use one of {shorten_list(names)}."
        ) from None
