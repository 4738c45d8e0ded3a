"""Networks, and the class probabilities of their outputs.

Every network maps `(B, 3, S, S) float32` to a dict of heads, `{head: (B, outputs) float32}`. The names of the networks
are in `cli.choices.MODELS`; each is the name of a class here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from backbones.create import create_backbone, find_library
from backbones.weights import FileWeights
from cli.choices import MODELS
from data.tasks import Task, Tasks

# ------------------------------------------------------------------------------------------------ networks


class Network(nn.Module):
    """Base class: a backbone, as the attribute `backbone_name`.

    Subclasses take it, the tasks of their heads, and the number of outputs of the backbone.
    """

    backbone_name = "backbone"
    pooled = False  # the heads are on pooled features, not on ImageNet logits

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
        """Return the backbone, which maps `(B, 3, S, S)` to `(B, width)`."""
        return getattr(self, self.backbone_name)

    def train(self, mode: bool = True) -> Network:
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.features.eval()
        return self


def _key(task: Task) -> str:
    """Return the name of a head among the weights; torch allows neither all words nor dots."""
    return task.name if task.coded else "label_" + task.name.replace("%", "%25").replace(".", "%2E")


class VanillaEfficientNet(Network):
    """EfficientNet -> BatchNorm1d -> Dropout 0.5 -> ReLU -> Linear, with one head."""

    backbone_name = "efficientnet"

    def __init__(self, backbone: nn.Module, heads: Sequence[Task], width: int) -> None:
        super().__init__(backbone)
        (self.head,) = heads
        self.batchnorm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.5)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(width, self.head.outputs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.features(images)  # (B, width), 1000 in the source
        return {self.head.name: self.linear(self.relu(self.dropout(self.batchnorm(x))))}


class VanillaResNet(VanillaEfficientNet):
    """The same head on a ResNet."""

    backbone_name = "resnet"


class MultiLabelTHANet(Network):
    """Backbone -> BatchNorm, dropout -> one token per attribute -> multi-head attention over them -> their logits.

    The attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) has a residual connection. The probability of
    a class is the joint probability of its attributes.
    """

    width, attention_heads = 64, 8

    def __init__(self, backbone: nn.Module, heads: Sequence[Task], width: int) -> None:
        super().__init__(backbone)
        self.attributes = tuple(head for head in heads if not head.parts)
        self.batchnorm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.5)
        self.tokens = nn.ModuleDict({_key(each): nn.Linear(width, self.width) for each in self.attributes})
        self.attention = nn.MultiheadAttention(self.width, self.attention_heads, batch_first=True)
        self.heads = nn.ModuleDict({_key(each): nn.Linear(self.width, each.outputs) for each in self.attributes})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.dropout(self.batchnorm(self.features(images)))  # (B, 1000)
        tokens = torch.stack([token(x) for token in self.tokens.values()], dim=1)  # (B, attributes, 64)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        heads = zip(self.attributes, self.heads.values(), strict=True)
        return {each.name: head(tokens[:, i]) for i, (each, head) in enumerate(heads)}


class MultiClassTHANet_MK1(MultiLabelTHANet):
    """The same, and the logits of the joint classes, if any, from those of all attributes: ReLU -> Linear."""

    def __init__(self, backbone: nn.Module, heads: Sequence[Task], width: int) -> None:
        super().__init__(backbone, heads, width)
        self.relu = nn.ReLU()
        self.head = heads[-1] if heads[-1].parts else None
        if self.head:
            self.linear = nn.Linear(sum(each.outputs for each in self.attributes), self.head.outputs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = super().forward(images)
        if self.head is None:
            return outputs
        joined = torch.cat([*outputs.values()], dim=1)  # (B, 3 + 3 + 2) for faces
        return {**outputs, self.head.name: self.linear(self.relu(joined))}


class THANet_MK1(Network):
    """A backbone with one linear head per task."""

    def __init__(self, backbone: nn.Module, heads: Sequence[Task], width: int) -> None:
        super().__init__(backbone)
        self.names = tuple(head.name for head in heads)
        self.heads = nn.ModuleDict({_key(head): nn.Linear(width, head.outputs) for head in heads})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.features(images)  # (B, 1000)
        return {name: head(x) for name, head in zip(self.names, self.heads.values(), strict=True)}


class JointHeads(Network):
    """Pooled features of a backbone -> dropout -> a linear head for each attribute, and one for the classes.

    The logit of a class is the log of the joint probability of its attributes plus the output of the head for classes,
    which starts at zero: the attributes share what all classes have in common, many of which are scarce. Labels without
    joint classes get a head each.
    """

    pooled = True

    def __init__(self, backbone: nn.Module, heads: Sequence[Task], width: int) -> None:
        super().__init__(backbone)
        self.dropout = nn.Dropout(0.2)
        self.names = tuple(head.name for head in heads)
        self.heads = nn.ModuleDict({_key(head): nn.Linear(width, head.outputs) for head in heads})
        self.joint = heads[-1] if heads[-1].parts else None
        if self.joint:
            nn.init.zeros_(self.heads[_key(self.joint)].weight)
            nn.init.zeros_(self.heads[_key(self.joint)].bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.dropout(self.features(images))  # (B, width)
        outputs = {name: head(x) for name, head in zip(self.names, self.heads.values(), strict=True)}
        if self.joint is None:
            return outputs
        joint = outputs[self.joint.name] + _joint_log_probabilities(outputs, self.joint)
        return {**outputs, self.joint.name: joint}


class VanillaTorchvision(Network):
    """Pooled features of any classification network of torchvision -> dropout -> Linear, with one head."""

    pooled = True

    def __init__(self, backbone: nn.Module, heads: Sequence[Task], width: int) -> None:
        super().__init__(backbone)
        (self.head,) = heads
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(width, self.head.outputs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {self.head.name: self.linear(self.dropout(self.features(images)))}


class VanillaTimm(VanillaTorchvision):
    """The same head on any network of timm."""


class LogitsHead(VanillaEfficientNet):
    """VanillaTorchvision and VanillaTimm of earlier versions: the head of VanillaEfficientNet on ImageNet logits."""

    backbone_name = "backbone"


def create_model(
    name: str,
    *,
    task: Task,
    tasks: Tasks,
    backbone: str | None,
    image_size: int,
    pretrained: bool | FileWeights,
    freeze: bool = False,
    drop_path: float | None = None,
    grad_checkpointing: bool = False,
    architecture: dict[str, Any] | None = None,
    on_logits: bool = False,
) -> Network:
    """Return the network called `name`, one of `cli.choices.MODELS`, for a task.

    Args:
        task: the head of a network with one head.
        tasks: all tasks of the labels, for networks with several heads.
        backbone: its name; None takes the network's default.
        image_size: side of the images in pixels.
        pretrained: start the backbone from its published weights, or from those of a file.
        freeze: train only the head.
        drop_path, grad_checkpointing, architecture: see `backbones.create.create_backbone`.
        on_logits: return VanillaTorchvision and VanillaTimm as they were in earlier versions.

    Raises:
        UserError: the backbone is unknown or does not fit the size, or the weights cannot be loaded.
    """
    record, kind = MODELS[name], globals()[name]
    if on_logits and issubclass(kind, VanillaTorchvision):
        kind = LogitsHead
    backbone = backbone or record.backbone
    features, width = create_backbone(
        backbone,
        image_size,
        library=find_library(name, backbone),
        pretrained=pretrained,
        pooled=kind.pooled,
        drop_path=drop_path,
        grad_checkpointing=grad_checkpointing,
        architecture=architecture,
    )
    joint = (tasks.joint,) if tasks.joint else ()
    heads = {"task": (task,), "attributes": tasks.heads, "all": (*tasks.heads, *joint)}[record.heads]
    network = kind(features, heads, width)
    if freeze:
        network.freeze()
    return network


# ------------------------------------------------------------------------------------------------ inference

_FUSE = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}


@torch.no_grad()
@torch.backends.cudnn.flags(enabled=False)  # which would compile kernels for two images
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


def predict_task(outputs: dict[str, Tensor], task: Task) -> Tensor:
    """Return the class probabilities `(B, C) float32` of a task, or numbers `(B, 1)`.

    Without a head for the classes, the probability of a class is the joint probability of its attributes.

    Raises:
        KeyError: the network does not predict this task.
    """
    if task.name in outputs:
        output = outputs[task.name].float()
        return output * task.scale + task.center if task.regression else output.softmax(dim=1)
    if not task.parts:
        raise KeyError(task.name)
    return _joint_log_probabilities(outputs, task).exp()


def _joint_log_probabilities(outputs: dict[str, Tensor], task: Task) -> Tensor:
    """Return the log of the joint probability of the attributes of each class of a task, `(B, C) float32`."""
    joint, *others = (outputs[part.name].float().log_softmax(dim=1) for part in task.parts)
    for each in others:
        joint = (joint[:, :, None] + each[:, None]).flatten(1)
    return joint
