"""The networks, and the one place that turns what any of them answers into class probabilities.

Every network takes `(B, 3, S, S) float32` and answers with a dict of heads, `{head: (B, outputs) float32}`.
"""

from __future__ import annotations

import copy
import re
import urllib.error
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from efficientnet_pytorch.utils import url_map
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torchvision.models.vision_transformer import interpolate_embeddings

from cli.choices import EFFICIENTNETS, nearest
from cli.choices import MODELS as RECORDS
from data.tasks import TASKS
from utils import UNREADABLE, UserError, first_line

FEATURES = 1000  # what backbones answer with: their ImageNet logits
# What networks end with on images of a size that they were not made for.
UNFITTING = (AssertionError, RuntimeError, TypeError, ValueError)
ATTRIBUTES = ("mask", "ageg", "gender")
# ------------------------------------------------------------------------------------------------ backbones


def create_backbone(name: str, image_size: int, *, pretrained: bool, library: str | None = None) -> nn.Module:
    """A backbone that maps `(B, 3, S, S)` to its ImageNet logits, 1000 but for some of timm.

    Args:
        library: None where the name is one of efficientnet-pytorch or a ResNet; else any of torchvision or timm.

    Raises:
        UserError: there is none of this name, it does not fit images of this size, or its weights are not on disk and
            cannot be downloaded.
    """
    if library == "timm":
        return _from_timm(name, image_size, pretrained=pretrained)
    if name in EFFICIENTNETS:
        # With the size known the padding is worked out once, and is TensorFlow's for exactly this size.
        backbone = EfficientNet.from_name(name, image_size=image_size)
        for module in backbone.modules():
            if hasattr(module, "_swish"):
                module._swish = nn.SiLU()  # the same function, fused, and without weights
            padding = getattr(module, "static_padding", None)
            if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
                # The same on all sides: the convolution pads by itself, without a copy of the images.
                module.padding, module.static_padding = padding.padding[:2], nn.Identity()
    else:
        backbone = _from_torchvision(name, image_size)
    if pretrained:
        _load_pretrained(backbone, name, image_size)
    return backbone


def _from_torchvision(name: str, image_size: int) -> nn.Module:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise UserError(
            f"--backbone {name} is no classification network of torchvision {torchvision.__version__}."
            f"{nearest(name, names)}"
        )
    if name.startswith("vit_"):  # made for one size
        more = {"image_size": image_size}
    elif name.startswith("maxvit_"):
        more = {"input_size": (image_size, image_size)}
    elif name in ("googlenet", "inception_v3"):
        # Nothing here reads what they answer beside in training. Their ImageNet weights are for another normalisation,
        # which they make themselves.
        more = {"aux_logits": False, "init_weights": True, "transform_input": True}
    else:
        more = {}
    backbone = _fitting(name, image_size, lambda: torchvision.models.get_model(name, weights=None, **more))
    if name.startswith("vit_"):
        # Torchvision's begin with a head of zeros, behind which ours would learn nothing: ReLU passes no gradient at 0.
        nn.init.trunc_normal_(backbone.heads.head.weight, std=0.02)
    return backbone


def _from_timm(name: str, image_size: int, *, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError("VanillaTimm needs timm: pip install timm, or pass another --model-type.") from None
    if not timm.is_model(name):
        names = timm.list_models()
        raise UserError(f"--backbone {name} is no network of timm {timm.__version__}.{nearest(name, names)}")
    about = timm.get_pretrained_cfg(name)
    size = {"img_size": image_size} if about is not None and about.fixed_input_size else {}
    backbone = _fitting(name, image_size, lambda: timm.create_model(name, pretrained=False, **size))
    if not pretrained:
        return backbone
    try:
        return timm.create_model(name, pretrained=True, **size)
    except (OSError, RuntimeError, ValueError) as error:  # what its downloads end with, of several libraries
        raise UserError(
            f"The ImageNet weights of timm's {name} could not be had ({first_line(error)}). Download them where there "
            "is a network and set HF_HOME to where they are, or pass --no-pretrained."
        ) from None


def _fitting(name: str, image_size: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A backbone that was seen to answer images of this size: many take only sizes that they can cut into parts."""
    try:
        backbone = make()
        _answer_once(backbone, image_size)
    except UNFITTING as error:
        raise UserError(
            f"--backbone {name} cannot be made for --image-size {image_size} ({first_line(error)}); pass another "
            "size, as 224."
        ) from None
    return backbone


def check_train_size(network: nn.Module, backbone: str, image_size: int, train_size: int) -> None:
    """Check that a network accepts training images of another size; some accept only one.

    Raises:
        UserError: it does not.
    """
    if train_size == image_size:
        return
    try:
        _answer_once(network, train_size)
    except UNFITTING as error:
        raise UserError(
            f"--backbone {backbone} for --image-size {image_size} cannot train on images of {train_size} pixels "
            f"({first_line(error)}). Pass another --train-side, such as 1."
        ) from None


@torch.no_grad()
def _answer_once(network: nn.Module, image_size: int) -> None:
    training = network.training
    network.eval()(torch.zeros(1, 3, image_size, image_size))
    network.train(training)


def _load_pretrained(backbone: nn.Module, name: str, image_size: int) -> None:
    url = url_map[name] if name in url_map else torchvision.models.get_model_weights(name).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused below if it is not weights
            weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        if name.startswith("vit_"):
            weights = interpolate_embeddings(image_size, backbone.patch_size, weights)
        for key in list(weights):  # in place: what the dict itself carries says which version it is of
            if key.startswith(("aux1.", "aux2.", "AuxLogits.")):
                del weights[key]
            elif re.search(r"denselayer\d+\.(norm|conv)\.\d", key):  # as DenseNet's layers were called once
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
    """What the networks share: a backbone under the name `backbone_name`, which can be frozen."""

    backbone_name = "backbone"

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        setattr(self, self.backbone_name, backbone)
        self.frozen = False

    def freeze(self) -> None:
        """Train the head only: the backbone gets no gradients and keeps its BatchNorm statistics."""
        self.frozen = True
        self.features.requires_grad_(False)
        self.train(self.training)

    @property
    def features(self) -> nn.Module:
        """The backbone, `(B, 3, S, S)` to `(B, 1000)`."""
        return getattr(self, self.backbone_name)

    def train(self, mode: bool = True) -> Network:
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.features.eval()
        return self


class VanillaEfficientNet(Network):
    """EfficientNet's ImageNet logits -> BatchNorm1d -> Dropout 0.5 -> ReLU -> Linear; one head, called as the task."""

    backbone_name = "efficientnet"

    def __init__(self, backbone: nn.Module, task: str, *, features: int = FEATURES) -> None:
        super().__init__(backbone)
        self.task = task
        self.batchnorm = nn.BatchNorm1d(features)
        self.dropout = nn.Dropout(0.5)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(features, TASKS[task].outputs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`(B, 3, S, S)` to `{task: (B, outputs)}`."""
        x = self.features(images)  # (B, 1000)
        return {self.task: self.linear(self.relu(self.dropout(self.batchnorm(x))))}


class VanillaResNet(VanillaEfficientNet):
    """The same head on a ResNet."""

    backbone_name = "resnet"


class AttentionTrunk(Network):
    """Backbone -> BatchNorm, dropout -> a token for each attribute -> multi-head attention over them -> their logits.

    Attention is "Attention Is All You Need" (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) over the three
    tokens mask, age group and gender, with a residual connection.
    """

    width, attention_heads = 64, 8

    def __init__(self, backbone: nn.Module, task: str) -> None:
        super().__init__(backbone)
        self.batchnorm = nn.BatchNorm1d(FEATURES)
        self.dropout = nn.Dropout(0.5)
        self.tokens = nn.ModuleDict({name: nn.Linear(FEATURES, self.width) for name in ATTRIBUTES})
        self.attention = nn.MultiheadAttention(self.width, self.attention_heads, batch_first=True)
        self.heads = nn.ModuleDict({name: nn.Linear(self.width, TASKS[name].outputs) for name in ATTRIBUTES})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`(B, 3, S, S)` to `{"mask": (B, 3), "ageg": (B, 3), "gender": (B, 2)}`."""
        x = self.dropout(self.batchnorm(self.features(images)))  # (B, 1000)
        tokens = torch.stack([self.tokens[name](x) for name in ATTRIBUTES], dim=1)  # (B, 3, 64)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return {name: self.heads[name](tokens[:, i]) for i, name in enumerate(ATTRIBUTES)}


class MultiLabelTHANet(AttentionTrunk):
    """Answers with three sets of logits; the 18 classes are their joint probability."""


class MultiClassTHANetMK1(AttentionTrunk):
    """The attention trunk, and the 18 classes from the attributes' logits: 3 + 3 + 2 -> ReLU -> Linear."""

    def __init__(self, backbone: nn.Module, task: str) -> None:
        super().__init__(backbone, task)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(sum(TASKS[name].outputs for name in ATTRIBUTES), TASKS["main"].outputs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`(B, 3, S, S)` to the logits of mask, ageg, gender and main."""
        outputs = super().forward(images)
        joined = torch.cat([outputs[name] for name in ATTRIBUTES], dim=1)  # (B, 8)
        return {**outputs, "main": self.linear(self.relu(joined))}


class THANetMK1(Network):
    """A backbone with four linear heads on it: mask, age group, gender, main."""

    def __init__(self, backbone: nn.Module, task: str) -> None:
        super().__init__(backbone)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, TASKS[name].outputs) for name in (*ATTRIBUTES, "main")})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`(B, 3, S, S)` to the logits of mask, ageg, gender and main."""
        x = self.features(images)  # (B, 1000)
        return {name: head(x) for name, head in self.heads.items()}


class JointHeads(Network):
    """Backbone without its last layer -> dropout -> a linear head for each attribute, and one for the 18 classes.

    The logit of a class is the log of the joint probability of its attributes and what the fourth head adds to it,
    which is nothing at first: what the attributes have in common is learnt once for all 18 classes, of which many are
    scarce, and the rest for each.
    """

    def __init__(self, backbone: nn.Module, task: str) -> None:
        super().__init__(backbone)
        width = _take_off(backbone)
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.ModuleDict({name: nn.Linear(width, TASKS[name].outputs) for name in (*ATTRIBUTES, "main")})
        nn.init.zeros_(self.heads["main"].weight)
        nn.init.zeros_(self.heads["main"].bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`(B, 3, S, S)` to the logits of mask, ageg, gender and main."""
        x = self.dropout(self.features(images))  # (B, width)
        outputs = {name: head(x) for name, head in self.heads.items()}
        return {**outputs, "main": outputs["main"] + _joint_log_probabilities(outputs)}


def _take_off(backbone: nn.Module) -> int:
    """Take off the linear layer that gives a backbone's ImageNet logits; the width of what it then answers with."""
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
    """The same head on any network of timm; on its features where it has no classes of its own."""

    def __init__(self, backbone: nn.Module, task: str) -> None:
        super().__init__(backbone, task, features=backbone.num_classes or backbone.head_hidden_size)


MODELS = {
    "VanillaEfficientNet": VanillaEfficientNet,
    "VanillaResNet": VanillaResNet,
    "MultiClassTHANet_MK1": MultiClassTHANetMK1,
    "MultiLabelTHANet": MultiLabelTHANet,
    "THANet_MK1": THANetMK1,
    "JointHeads": JointHeads,
    "VanillaTorchvision": VanillaTorchvision,
    "VanillaTimm": VanillaTimm,
}


def create_model(
    name: str, *, task: str, backbone: str | None, image_size: int, pretrained: bool, freeze: bool = False
) -> Network:
    """The network called `name`, one of MODELS, made for a task.

    Args:
        task: what a single-headed network answers; a many-headed one always has all its heads.
        backbone: its backbone, or None for its own default.
        image_size: side S of the images in pixels.
        pretrained: start the backbone from ImageNet weights, downloaded on first use (TORCH_HOME is honoured).
        freeze: keep the backbone as it is.

    Raises:
        UserError: the ImageNet weights cannot be had.
    """
    record = RECORDS[name]
    features = create_backbone(backbone or record.backbone, image_size, pretrained=pretrained, library=record.library)
    network = MODELS[name](features, task)
    if freeze:
        network.freeze()
    return network


# ------------------------------------------------------------------------------------------------ inference

_FUSE = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}


@torch.no_grad()
def inference_network(network: nn.Module, image_size: int) -> nn.Module:
    """A copy in evaluation mode that gives the same answers sooner: each BatchNorm is folded into the layer before it.

    Which layer that is, is seen by running the network once. One whose answers would change is copied as it is, for
    example because something else, too, reads what its layers gave to BatchNorm.

    Args:
        network: any network with dicts of heads as answers; it stays as it is.
        image_size: side S of the images in pixels.
    """
    fused = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    noise = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    given: dict[int, tuple[str, Tensor]] = {}  # with the tensors, so that no other gets their ids
    pairs: list[tuple[str, str]] = []

    def gave(name: str, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        given[id(output)] = name, output

    def takes(name: str, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in given:
            pairs.append((given[id(inputs[0])][0], name))

    hooks = []
    for name, module in fused.named_modules():
        if isinstance(module, tuple(_FUSE)):
            hooks.append(module.register_forward_hook(partial(gave, name)))
        elif type(module) in (nn.BatchNorm2d, nn.BatchNorm1d):  # those that are derived from them may do more
            hooks.append(module.register_forward_pre_hook(partial(takes, name)))
    expected = fused(noise)
    for hook in hooks:
        hook.remove()
    for layer_name, norm_name in pairs:
        layer = fused.get_submodule(layer_name)
        fuse = next(function for kind, function in _FUSE.items() if isinstance(layer, kind))
        fused.set_submodule(layer_name, fuse(layer, fused.get_submodule(norm_name)))
        fused.set_submodule(norm_name, nn.Identity())
    got = fused(noise)
    same = all(_close(got[head], logits) for head, logits in expected.items())
    return fused if same else copy.deepcopy(network).eval()


def _close(got: Tensor, expected: Tensor) -> bool:
    return bool((got - expected).abs().max() <= 1e-3 * expected.abs().max().clamp(min=1))


# ------------------------------------------------------------------------------------------------ answers


def predict_task(outputs: dict[str, Tensor], task: str) -> Tensor:
    """What a network's outputs say of a task.

    Returns:
        `(B, C) float32` class probabilities, or for the regression of age `(B, 1)` years. A network without a main
        head gives the 18 classes the joint probability of its attributes.

    Raises:
        KeyError: the network does not answer this task.
    """
    if task in outputs:
        answer = outputs[task].float()
        return answer if TASKS[task].regression else answer.softmax(dim=1)
    if task != "main":
        raise KeyError(task)
    return _joint_log_probabilities(outputs).exp()


def _joint_log_probabilities(outputs: dict[str, Tensor]) -> Tensor:
    """What logits of the attributes say of the 18 classes: `(B, 18) float32`, in the order of `tasks.encode_class`."""
    mask, gender, group = (outputs[name].float().log_softmax(dim=1) for name in ("mask", "gender", "ageg"))
    return (mask[:, :, None, None] + gender[:, None, :, None] + group[:, None, None, :]).flatten(1)
