"""Create backbones, and find out what their pretrained weights expect."""

from typing import Any

import torchvision
from efficientnet_pytorch import EfficientNet
from torch import nn
from torchvision.ops import StochasticDepth
from torchvision.transforms import InterpolationMode

from backbones import timm_networks
from backbones.sizes import check_size
from backbones.weights import FileWeights, load_file, load_published
from cli.choices import EFFICIENTNETS, MODELS, nearest
from utils import UserError

FEATURES = 1000  # outputs of a backbone with its last layer: ImageNet logits


def find_library(model_type: str, backbone: str) -> str:
    """Return the library of a backbone: efficientnet_pytorch, torchvision or timm; of a network that takes any.

    Torchvision wins where both know a name. The names of timm's pretrained weights, as in `resnet18.a1_in1k`, and of
    networks on huggingface.co, as in `hf-hub:timm/resnet18.a1_in1k`, are timm's.
    """
    library = MODELS[model_type].library
    if library == "timm":
        return library
    if backbone in EFFICIENTNETS:
        return "efficientnet_pytorch"
    if library != "any" or backbone in _torchvision_names():
        return "torchvision"
    if set(".:") & set(backbone) or timm_networks.has_network(backbone):
        return "timm"
    return "torchvision"


def create_backbone(
    name: str,
    image_size: int,
    *,
    library: str,
    pretrained: bool | FileWeights = False,
    pooled: bool = False,
    drop_path: float | None = None,
    grad_checkpointing: bool = False,
    architecture: dict[str, Any] | None = None,
) -> tuple[nn.Module, int]:
    """Return a backbone that maps `(B, 3, S, S)` to its ImageNet logits, or `pooled` to the features below them.

    Args:
        name: of the backbone in its library.
        image_size: S in pixels.
        library: see `find_library`.
        pretrained: start from its published weights, from TORCH_HOME, timm's cache or the internet, or from a file.
        pooled: leave out the last layer; SqueezeNet, whose logits are means of a convolution, keeps it.
        drop_path: highest probability in training to skip a block (stochastic depth, Huang et al. 2016,
            https://arxiv.org/abs/1603.09382), that of the last block; None leaves the network's own.
        grad_checkpointing: recompute activations in the backward pass, which saves memory; only in timm.
        architecture: timm's name and arguments of a network of huggingface.co, which need not be asked then.

    Returns:
        The backbone and the number of its outputs.

    Raises:
        UserError: the name is unknown, the backbone does not fit images of this size or lacks what an option needs,
            or its weights are neither on disk nor can be downloaded, or do not fit it.
    """
    if library == "timm":
        return timm_networks.create(
            name,
            image_size,
            pretrained=pretrained,
            pooled=pooled,
            drop_path=drop_path,
            grad_checkpointing=grad_checkpointing,
            architecture=architecture,
        )
    if grad_checkpointing:
        raise UserError(f"--grad-checkpointing needs a backbone of timm, and {name} is of {library}. Leave it out.")
    make = _from_efficientnet if library == "efficientnet_pytorch" else _from_torchvision
    backbone = make(name, image_size)
    if drop_path is not None:
        _set_drop_path(backbone, drop_path, name)
    last, width = _remove_last_layer(backbone) if pooled else (None, FEATURES)
    if isinstance(pretrained, FileWeights):
        load_file(backbone, name, image_size, pretrained, last)
    elif pretrained:
        load_published(backbone, name, image_size, last)
    return backbone, width


def _from_efficientnet(name: str, image_size: int) -> nn.Module:
    # A given size fixes the padding, which is TensorFlow's for exactly this size.
    backbone = EfficientNet.from_name(name, image_size=image_size)
    for module in backbone.modules():
        if hasattr(module, "_swish"):
            module._swish = nn.SiLU()  # the same function, fused
        padding = getattr(module, "static_padding", None)
        if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            # Equal on all sides: the convolution can pad by itself, without a copy of the images.
            module.padding, module.static_padding = padding.padding[:2], nn.Identity()
    return backbone


def _set_drop_path(backbone: nn.Module, highest: float, name: str) -> None:
    """Set the probability to skip a block, which grows evenly from block to block."""
    if isinstance(backbone, EfficientNet):
        backbone._global_params = backbone._global_params._replace(drop_connect_rate=highest)
        return
    layers = [layer for layer in backbone.modules() if isinstance(layer, StochasticDepth)]
    if not layers:
        raise UserError(f"--drop-path has no effect on {name}, which skips no blocks. Leave it out.")
    for number, layer in enumerate(layers):
        layer.p = highest * number / max(1, len(layers) - 1)


def _remove_last_layer(backbone: nn.Module) -> tuple[str | None, int]:
    """Replace the last linear layer of a backbone by the identity and return its name and the width of its input."""
    layers = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:  # SqueezeNet
        return None, FEATURES
    name, layer = layers[-1]
    backbone.set_submodule(name, nn.Identity())
    return name, layer.in_features


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)  # without detection and the like


def _from_torchvision(name: str, image_size: int) -> nn.Module:
    if name not in _torchvision_names():
        hint = nearest(name, _torchvision_names())
        if timm_networks.has_network(name.removeprefix("timm/").split(".")[0]) or ":" in name:
            hint = " Backbones of timm need --model-type VanillaTimm or JointHeads."
        elif not timm_networks.is_installed():
            hint += " Backbones of timm need pip install timm."
        library = f"torchvision {torchvision.__version__}"
        raise UserError(f"--backbone {name} is not a classification network of {library}.{hint}")
    options = {}
    if name.startswith("vit_"):
        options = {"image_size": image_size}
    elif name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    elif name in ("googlenet", "inception_v3"):
        # Their auxiliary logits are not used. Their ImageNet weights need another normalisation, done in the network.
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    backbone, _ = check_size(name, image_size, lambda: torchvision.models.get_model(name, weights=None, **options))
    if name.startswith("vit_"):
        # Torchvision starts with a head of zeros, which would stop the gradient of ours at the ReLU.
        nn.init.trunc_normal_(backbone.heads.head.weight, std=0.02)
    return backbone


def expected_pixels(model_type: str, backbone: str, *, on_logits: bool = False) -> dict[str, Any]:
    """Return how the pretrained weights of a backbone expect images, as arguments of `augmentation.Settings`.

    They are mean, std, interpolation and crop share of timm's configuration or of torchvision's transforms. It is empty
    for the networks of the source and for efficientnet_pytorch, which expect the defaults. Networks of earlier
    versions, which are `on_logits`, were trained with mean and std alone.
    """
    library = find_library(model_type, backbone) if MODELS[model_type].library else None
    about = timm_networks.find_config(backbone) if library == "timm" else None
    if about is not None:
        known = {mode.value for mode in InterpolationMode}  # timm has "random" too, for training
        interpolation = about.interpolation if about.interpolation in known else "bilinear"
        pixels = {"interpolation": interpolation, "crop_share": float(about.crop_pct)}
    elif library == "torchvision" and backbone in _torchvision_names():
        about = torchvision.models.get_model_weights(backbone).DEFAULT.transforms()
        pixels = {"interpolation": about.interpolation.value, "crop_share": about.crop_size[0] / about.resize_size[0]}
    else:
        return {}
    return {"mean": tuple(about.mean), "std": tuple(about.std), **({} if on_logits else pixels)}
