"""Networks, and the class probabilities of their outputs.

Every network maps `(B, 3, S, S) float32` to a dict of heads, `{head: (B, outputs) float32}`. The names of the networks
are in `cli.choices.MODELS`; each is the name of a class here.
"""

from __future__ import annotations

import copy
import re
import urllib.error
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from efficientnet_pytorch.utils import url_map
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torchvision.models.vision_transformer import interpolate_embeddings

from cli.choices import EFFICIENTNETS, MODELS, nearest
from data.tasks import ATTRIBUTES, TASKS
from utils import UNREADABLE, UserError, first_line, shorten_list

FEATURES = 1000  # outputs of a backbone: its ImageNet logits


# ------------------------------------------------------------------------------------------------ backbones


def create_backbone(name: str, image_size: int, *, pretrained: bool, library: str | None = None) -> nn.Module:
    """Return a backbone that maps `(B, 3, S, S)` to its ImageNet logits, 1000 except for some of timm.

    `name` is an EfficientNet or a ResNet, or any name in `library`: torchvision or timm. ImageNet weights come from
    TORCH_HOME or the internet.

    Raises:
        UserError: the name is unknown, the backbone does not fit images of this size, or its weights are neither on
            disk nor can be downloaded.
    """
    if library == "timm":
        return _from_timm(name, image_size, pretrained=pretrained)
    if name in EFFICIENTNETS:
        # A given size fixes the padding, which is TensorFlow's for exactly this size.
        backbone = EfficientNet.from_name(name, image_size=image_size)
        for module in backbone.modules():
            if hasattr(module, "_swish"):
                module._swish = nn.SiLU()  # the same function, fused
            padding = getattr(module, "static_padding", None)
            if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
                # Equal on all sides: the convolution can pad by itself, without a copy of the images.
                module.padding, module.static_padding = padding.padding[:2], nn.Identity()
    else:
        backbone = _from_torchvision(name, image_size)
    if pretrained:
        _load_pretrained(backbone, name, image_size)
    return backbone


def _from_torchvision(name: str, image_size: int) -> nn.Module:
    names, version = torchvision.models.list_models(module=torchvision.models), torchvision.__version__
    if name not in names:
        raise UserError(
            f"--backbone {name} is not a classification network of torchvision {version}.{nearest(name, names)}"
        )
    options = {}
    if name.startswith("vit_"):
        options = {"image_size": image_size}
    elif name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    elif name in ("googlenet", "inception_v3"):
        # Their auxiliary logits are not used. Their ImageNet weights need another normalisation, done in the network.
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    backbone = _check_size(name, image_size, lambda: torchvision.models.get_model(name, weights=None, **options))
    if name.startswith("vit_"):
        # Torchvision starts with a head of zeros, which would stop the gradient of ours at the ReLU.
        nn.init.trunc_normal_(backbone.heads.head.weight, std=0.02)
    return backbone


def _from_timm(name: str, image_size: int, *, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError("VanillaTimm needs timm. Run pip install timm, or pass another --model-type.") from None
    if not timm.is_model(name):
        names = timm.list_models()
        raise UserError(f"--backbone {name} is not a network of timm {timm.__version__}.{nearest(name, names)}")
    about = _timm_config(name)
    size = {"img_size": image_size} if about is not None and about.fixed_input_size else {}
    backbone = _check_size(name, image_size, lambda: timm.create_model(name, pretrained=False, **size))
    if not pretrained:
        return backbone
    try:
        return timm.create_model(name, pretrained=True, **size)
    except (OSError, RuntimeError, ValueError) as error:  # of several download libraries
        raise UserError(
            f"The ImageNet weights of timm's {name} could not be loaded ({first_line(error)}). Download them on a "
            "connected machine and set HF_HOME to their folder, or pass --no-pretrained."
        ) from None


def pretrained_normalisation(model_type: str, backbone: str) -> dict[str, tuple[float, ...]]:
    """Return the mean and the std of pixels, from 0 to 1, that the pretrained weights of a backbone expect, by name.

    They are those of timm's configuration. It is empty for all other backbones, which expect the defaults of
    `augmentation.Settings`.
    """
    about = _timm_config(backbone) if MODELS[model_type].library == "timm" else None
    return {} if about is None else {"mean": tuple(about.mean), "std": tuple(about.std)}


def _timm_config(name: str) -> Any:
    """Return what timm knows about the pretrained weights of a network, or None if it has none."""
    import timm

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        names = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        raise UserError(
            f"--backbone {name}: {first_line(error).rstrip('.')}. Use one of {shorten_list(names)}."
        ) from None


def _check_size(name: str, image_size: int, create: Callable[[], nn.Module]) -> nn.Module:
    """Return a new backbone that was run once: many accept only sizes that they can divide into parts."""
    return _run_once(create, image_size, f"{name} does not fit --image-size {image_size}", "Use a size such as 224.")


def check_train_size(network: nn.Module, backbone: str, image_size: int, train_size: int) -> None:
    """Raise a UserError if a network rejects training images of another size; some accept only one."""
    if train_size != image_size:
        problem = f"{backbone} for --image-size {image_size} cannot train on images of {train_size} pixels"
        _run_once(lambda: network, train_size, problem, "Pass another --train-side, such as 1.")


def _run_once(create: Callable[[], nn.Module], size: int, problem: str, advice: str) -> nn.Module:
    try:
        network = create()
        training = network.training
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, size, size))
        return network.train(training)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # of networks for unsupported sizes
        raise UserError(f"--backbone {problem} ({first_line(error)}). {advice}") from None


def _load_pretrained(backbone: nn.Module, name: str, image_size: int) -> None:
    url = url_map[name] if name in url_map else torchvision.models.get_model_weights(name).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # an error below if not weights
            weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        if name.startswith("vit_"):
            weights = interpolate_embeddings(image_size, backbone.patch_size, weights)
        for key in list(weights):  # in place: the dict itself carries the version of its format
            if key.startswith(("aux1.", "aux2.", "AuxLogits.")):
                del weights[key]
            elif re.search(r"denselayer\d+\.(norm|conv)\.\d", key):  # old names of DenseNet's layers
                weights[re.sub(r"\.(norm|conv)\.(\d)", r".\1\2", key)] = weights.pop(key)
        backbone.load_state_dict(weights)
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"The ImageNet weights of {name} could not be downloaded ({getattr(error, 'reason', error)}). "
            f"Put {url} at {file}, or pass --no-pretrained."
        ) from None
    except UNREADABLE as error:
        raise UserError(
            f"The ImageNet weights of {name} at {file} cannot be read ({first_line(error)}). "
            f"Delete the file and put {url} there, or pass --no-pretrained."
        ) from None


# ------------------------------------------------------------------------------------------------ networks


class Network(nn.Module):
    """Base class: a backbone, as the attribute `backbone_name`. Subclasses take it and the names of their heads."""

    backbone_name = "backbone"

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        setattr(self, self.backbone_name, backbone)
        self.frozen = False

    def freeze(self) -> None:
        """Train only the head: the backbone gets no gradients and keeps its BatchNorm statistics."""
        self.frozen = True
        self.features.requires_grad_(False)
        self.train(self.training)

    @property
    def features(self) -> nn.Module:
        """Return the backbone, which maps `(B, 3, S, S)` to `(B, 1000)`."""
        return getattr(self, self.backbone_name)

    def train(self, mode: bool = True) -> Network:
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.features.eval()
        return self


class VanillaEfficientNet(Network):
    """EfficientNet -> BatchNorm1d -> Dropout 0.5 -> ReLU -> Linear, with one head."""

    backbone_name = "efficientnet"

    def __init__(self, backbone: nn.Module, heads: Sequence[str], *, features: int = FEATURES) -> None:
        super().__init__(backbone)
        (self.head,) = heads
        self.batchnorm = nn.BatchNorm1d(features)
        self.dropout = nn.Dropout(0.5)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(features, TASKS[self.head].outputs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.features(images)  # (B, 1000)
        return {self.head: self.linear(self.relu(self.dropout(self.batchnorm(x))))}


class VanillaResNet(VanillaEfficientNet):
    """The same head on a ResNet."""

    backbone_name = "resnet"


class AttentionTrunk(Network):
    """Backbone -> BatchNorm, dropout -> one token per attribute -> multi-head attention over them -> their logits.

    The attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) has a residual connection.
    """

    width, attention_heads = 64, 8

    def __init__(self, backbone: nn.Module, heads: Sequence[str]) -> None:
        super().__init__(backbone)
        self.attributes = tuple(head for head in heads if head in ATTRIBUTES)
        self.batchnorm = nn.BatchNorm1d(FEATURES)
        self.dropout = nn.Dropout(0.5)
        self.tokens = nn.ModuleDict({name: nn.Linear(FEATURES, self.width) for name in self.attributes})
        self.attention = nn.MultiheadAttention(self.width, self.attention_heads, batch_first=True)
        self.heads = nn.ModuleDict({name: nn.Linear(self.width, TASKS[name].outputs) for name in self.attributes})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.dropout(self.batchnorm(self.features(images)))  # (B, 1000)
        tokens = torch.stack([self.tokens[name](x) for name in self.attributes], dim=1)  # (B, 3, 64)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return {name: self.heads[name](tokens[:, i]) for i, name in enumerate(self.attributes)}


class MultiLabelTHANet(AttentionTrunk):
    """Three sets of logits; the probability of a class is the joint probability of its attributes."""


class MultiClassTHANet_MK1(AttentionTrunk):
    """The attention trunk, and the classes from the logits of the attributes: 3 + 3 + 2 -> ReLU -> Linear."""

    def __init__(self, backbone: nn.Module, heads: Sequence[str]) -> None:
        super().__init__(backbone, heads)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(sum(TASKS[name].outputs for name in self.attributes), TASKS["main"].outputs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = super().forward(images)
        joined = torch.cat([outputs[name] for name in self.attributes], dim=1)  # (B, 8)
        return {**outputs, "main": self.linear(self.relu(joined))}


class THANet_MK1(Network):
    """A backbone with one linear head per task."""

    def __init__(self, backbone: nn.Module, heads: Sequence[str]) -> None:
        super().__init__(backbone)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, TASKS[name].outputs) for name in heads})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.features(images)  # (B, 1000)
        return {name: head(x) for name, head in self.heads.items()}


class JointHeads(Network):
    """Backbone without its last layer -> dropout -> a linear head for each attribute, and one for the classes.

    The logit of a class is the log of the joint probability of its attributes plus the output of the head for classes,
    which starts at zero: the attributes share what all classes have in common, many of which are scarce.
    """

    def __init__(self, backbone: nn.Module, heads: Sequence[str]) -> None:
        super().__init__(backbone)
        width = _remove_last_layer(backbone)
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.ModuleDict({name: nn.Linear(width, TASKS[name].outputs) for name in heads})
        nn.init.zeros_(self.heads["main"].weight)
        nn.init.zeros_(self.heads["main"].bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.dropout(self.features(images))  # (B, width)
        outputs = {name: head(x) for name, head in self.heads.items()}
        return {**outputs, "main": outputs["main"] + _joint_log_probabilities(outputs)}


def _remove_last_layer(backbone: nn.Module) -> int:
    """Replace the last linear layer of a backbone by the identity and return the width of its input."""
    layers = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:  # SqueezeNet, whose logits are means of a convolution
        return FEATURES
    name, layer = layers[-1]
    backbone.set_submodule(name, nn.Identity())
    return layer.in_features


class VanillaTorchvision(VanillaEfficientNet):
    """The same head on any classification network of torchvision."""

    backbone_name = "backbone"


class VanillaTimm(VanillaTorchvision):
    """The same head on any network of timm; on its features where it has no classes."""

    def __init__(self, backbone: nn.Module, heads: Sequence[str]) -> None:
        super().__init__(backbone, heads, features=backbone.num_classes or backbone.head_hidden_size)


def create_model(
    name: str, *, task: str, backbone: str | None, image_size: int, pretrained: bool, freeze: bool = False
) -> Network:
    """Return the network called `name`, one of `cli.choices.MODELS`, for a task.

    `task` is the head of a network with one head; the others always have all their heads. None takes the network's
    default `backbone`. With `pretrained` it starts from ImageNet weights, with `freeze` only the head is trained.

    Raises:
        UserError: the backbone is unknown or does not fit the size, or the ImageNet weights cannot be loaded.
    """
    record = MODELS[name]
    features = create_backbone(backbone or record.backbone, image_size, pretrained=pretrained, library=record.library)
    network = globals()[name](features, record.heads or (task,))
    if freeze:
        network.freeze()
    return network


# ------------------------------------------------------------------------------------------------ inference

_FUSE = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}


@torch.no_grad()
def inference_network(network: nn.Module, image_size: int) -> nn.Module:
    """Return a faster copy in evaluation mode, with each BatchNorm folded into the layer before it.

    The layer before is found by running the network once. If the outputs would change, for example because another
    layer also reads the input of a BatchNorm, the copy is not folded.
    """
    fused = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    noise = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    expected, pairs = _find_norms(fused, noise)
    for layer_name, norm_name in pairs:
        layer = fused.get_submodule(layer_name)
        fuse = next(function for kind, function in _FUSE.items() if isinstance(layer, kind))
        fused.set_submodule(layer_name, fuse(layer, fused.get_submodule(norm_name)))
        fused.set_submodule(norm_name, nn.Identity())
    largest = {head: (output - expected[head]).abs().max() for head, output in fused(noise).items()}
    same = all(largest[head] <= 1e-3 * logits.abs().max().clamp(min=1) for head, logits in expected.items())
    return fused if same else copy.deepcopy(network).eval()


def _find_norms(network: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """Return the outputs of a network, and the names of each layer whose output a BatchNorm reads and of that norm."""
    given: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept so that ids are not reused
    pairs: list[tuple[str, str]] = []

    def note(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, tuple(_FUSE)):
            given[id(output)] = name, output
        elif id(inputs[0]) in given:
            pairs.append((given[id(inputs[0])][0], name))

    hooks = []
    for name, module in network.named_modules():
        # A subclass of a BatchNorm may do more.
        if isinstance(module, tuple(_FUSE)) or type(module) in (nn.BatchNorm2d, nn.BatchNorm1d):
            hooks.append(module.register_forward_hook(partial(note, name)))
    outputs = network(images)
    for hook in hooks:
        hook.remove()
    return outputs, pairs


def predict_task(outputs: dict[str, Tensor], task: str) -> Tensor:
    """Return the class probabilities `(B, C) float32` of a task, or years `(B, 1)`.

    Without a main head, the probability of a class is the joint probability of its attributes.

    Raises:
        KeyError: the network does not predict this task.
    """
    if task in outputs:
        output = outputs[task].float()
        return output if TASKS[task].regression else output.softmax(dim=1)
    if task != "main":
        raise KeyError(task)
    return _joint_log_probabilities(outputs).exp()


def _joint_log_probabilities(outputs: dict[str, Tensor]) -> Tensor:
    """Return the log of the joint probability of the attributes of each class: `(B, 18) float32`."""
    mask, gender, group = (outputs[name].float().log_softmax(dim=1) for name in ATTRIBUTES)
    return (mask[:, :, None, None] + gender[:, None, :, None] + group[:, None, None, :]).flatten(1)
