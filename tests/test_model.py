"""The networks: what they answer, what they are made of, what learns, and where their first weights come from."""

from __future__ import annotations

import math
import pickle
import re
import sys
import types
import urllib.error
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from efficientnet_pytorch import EfficientNet
from torch import nn

import config
import model
from augmentation import MEAN, STD
from cli.choices import EFFICIENTNETS, MODELS, RESNETS
from data.label_math import encode_class
from data.tasks import AGE_GROUPS, GENDERS, MASKS, TASKS
from loss import create_criterion
from model import create_backbone, create_model, inference_network, predict_task
from utils import UserError

SMALL = {
    "VanillaEfficientNet": ("efficientnet-b0",),
    "VanillaResNet": ("resnet18",),
    "MultiClassTHANet_MK1": ("efficientnet-b0", "resnet18"),
    "MultiLabelTHANet": ("efficientnet-b0", "resnet18"),
    "THANet_MK1": ("efficientnet-b0", "resnet18"),
    "JointHeads": ("efficientnet-b0", "resnet18"),
    "VanillaTorchvision": ("shufflenet_v2_x0_5",),
}
HEADS = {
    "MultiClassTHANet_MK1": {"mask": 3, "ageg": 3, "gender": 2, "main": 18},
    "MultiLabelTHANet": {"mask": 3, "ageg": 3, "gender": 2},
    "THANet_MK1": {"mask": 3, "ageg": 3, "gender": 2, "main": 18},
    "JointHeads": {"mask": 3, "ageg": 3, "gender": 2, "main": 18},
}
OUTPUTS = {"main": 18, "mask": 3, "gender": 2, "ageg": 3, "age": 1}
CLASS_TASKS = [task for task in TASKS if task != "age"]
NETWORKS = [(name, backbone) for name, backbones in SMALL.items() for backbone in backbones]
ONE_OF_EACH = [(name, backbones[-1]) for name, backbones in SMALL.items()]


def make(name: str, backbone: str | None = None, *, task: str = "main", size: int = 32, **options):
    backbone = backbone or SMALL[name][-1]
    return create_model(
        name, task=task, backbone=backbone, image_size=size, pretrained=options.pop("pretrained", False), **options
    )


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size)


def heads_of(name: str, task: str) -> dict[str, int]:
    return HEADS.get(name) or {task: OUTPUTS[task]}


def some_targets(count: int) -> dict[str, torch.Tensor]:
    targets = {task: torch.arange(count) % OUTPUTS[task] for task in CLASS_TASKS}
    return {**targets, "age": torch.linspace(20, 70, count)}


# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
@pytest.mark.parametrize("size", [32, 64])
def test_heads_and_shapes(name, backbone, size):
    network = make(name, backbone, size=size).eval()
    with torch.no_grad():
        outputs = network(images(2, size))
    assert {head: tuple(output.shape) for head, output in outputs.items()} == {
        head: (2, classes) for head, classes in heads_of(name, "main").items()
    }
    assert all(output.dtype == torch.float32 and torch.isfinite(output).all() for output in outputs.values())
    assert predict_task(outputs, "main").shape == (2, 18)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_that_makes_sense(name, task):
    record = MODELS[name]
    if task == "age" and record.heads:
        with pytest.raises(UserError, match="predicts classes"):
            config.TrainConfig(task=task, model_type=name)
        return
    config.TrainConfig(task=task, model_type=name)
    with torch.no_grad():
        outputs = make(name, task=task).eval()(images(2))
    assert set(outputs) == set(record.heads or [task])
    for asked in TASKS:
        if record.answers(asked, task):
            assert predict_task(outputs, asked).shape == (2, OUTPUTS[asked])
        else:
            with pytest.raises(KeyError):
                predict_task(outputs, asked)


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_an_answer_does_not_depend_on_the_batch_it_is_in(name, backbone):
    network, batch = make(name, backbone).eval(), images(3)
    with torch.no_grad():
        dist, alone = network(batch), network(batch[1:2])
    for head, output in dist.items():
        assert torch.allclose(output[1:2], alone[head], atol=1e-5)


@pytest.mark.parametrize(("name", "backbone"), [*NETWORKS, ("VanillaEfficientNet", "efficientnet-b2")])
@pytest.mark.parametrize("size", [32, 47])
def test_an_inference_network_answers_the_same_without_any_batchnorm(name, backbone, size):
    network = make(name, backbone, size=size)
    scramble_norms(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = inference_network(network, size)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())
    assert not fused.training
    batch = images(3, size)
    with torch.no_grad():
        expected, got = network.eval()(batch), fused(batch)
    for head, logits in expected.items():
        assert logits.std() > 1e-3  # of what differs between images, something arrives
        assert torch.allclose(got[head], logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def scramble_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)


def test_an_inference_network_is_made_of_one_in_training_which_goes_on():
    network = make("VanillaResNet")
    inference_network(network, 32)
    assert network.training
    network(images())["main"].sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


class ReadTwice(nn.Module):
    """What its convolution gives is read by BatchNorm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.conv(batch)
        return {"gender": (self.norm(x) + x).mean(dim=(2, 3))}


def test_a_network_that_reads_a_layer_past_its_batchnorm_answers_the_same():
    network = ReadTwice()
    scramble_norms(network)
    batch = images(3)
    with torch.no_grad():
        expected = network.eval()(batch)["gender"]
        assert torch.allclose(inference_network(network, 32)(batch)["gender"], expected, atol=1e-6)


@pytest.mark.parametrize(("name", "backbone"), ONE_OF_EACH)
def test_a_state_dict_makes_the_same_network_again(name, backbone):
    torch.manual_seed(1)
    first = make(name, backbone)
    first(images())  # BatchNorm has seen something
    torch.manual_seed(2)
    second = make(name, backbone)
    second.load_state_dict(first.state_dict())
    batch = images(2)
    with torch.no_grad():
        expected, got = first.eval()(batch), second.eval()(batch)
    assert all(torch.equal(got[head], output) for head, output in expected.items())


def test_names_are_those_of_the_command_line():
    assert all(issubclass(getattr(model, name), model.Network) for name in MODELS)
    assert {name: tuple(heads) for name, heads in HEADS.items()} == {
        name: record.heads for name, record in MODELS.items() if record.heads
    }


# ------------------------------------------------------------------------------------------------ parts

# Millions of parameters as published by the libraries.
SIZES = dict(zip(EFFICIENTNETS, (5.29, 7.79, 9.11, 12.23, 19.34, 30.39, 43.04, 66.35), strict=True)) | dict(
    zip(RESNETS, (11.69, 21.80, 25.56, 44.55, 60.19), strict=True)
)


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", [*EFFICIENTNETS, *RESNETS])
def test_every_backbone_of_the_command_line_can_be_made(name):
    with torch.device("meta"):  # shapes without numbers
        backbone = create_backbone(name, 224, pretrained=False)
    assert millions(backbone) == pytest.approx(SIZES[name], abs=0.01)


@pytest.mark.parametrize(
    ("name", "attribute", "size"),
    [
        ("VanillaEfficientNet", "efficientnet", SIZES["efficientnet-b3"]),
        ("VanillaResNet", "resnet", SIZES["resnet50"]),
        ("MultiClassTHANet_MK1", "backbone", SIZES["efficientnet-b3"]),
        ("MultiLabelTHANet", "backbone", SIZES["efficientnet-b0"]),
        ("THANet_MK1", "backbone", SIZES["efficientnet-b3"]),
    ],
)
def test_default_backbones(name, attribute, size):
    with torch.device("meta"):
        network = create_model(name, task="main", backbone=None, image_size=224, pretrained=False)
    assert millions(getattr(network, attribute)) == pytest.approx(size, abs=0.01)
    assert network.features is getattr(network, attribute)


@pytest.mark.parametrize(("name", "attribute"), [("VanillaEfficientNet", "efficientnet"), ("VanillaResNet", "resnet")])
def test_weights_trained_elsewhere_load_by_their_names(name, attribute):
    network = make(name)
    assert set(dict(network.named_children())) == {attribute, "batchnorm", "dropout", "relu", "linear"}
    head = {key: tuple(value.shape) for key, value in network.state_dict().items() if not key.startswith(attribute)}
    assert head == {
        "batchnorm.weight": (1000,),
        "batchnorm.bias": (1000,),
        "batchnorm.running_mean": (1000,),
        "batchnorm.running_var": (1000,),
        "batchnorm.num_batches_tracked": (),
        "linear.weight": (18, 1000),
        "linear.bias": (18,),
    }
    library = (
        EfficientNet.from_name("efficientnet-b0") if attribute == "efficientnet" else torchvision.models.resnet18()
    )
    backbone = {key.removeprefix(f"{attribute}.") for key in network.state_dict() if key.startswith(attribute)}
    assert backbone == set(library.state_dict())


@pytest.mark.parametrize("name", ["VanillaEfficientNet", "VanillaResNet"])
def test_the_head_is_batchnorm_dropout_relu_linear(name):
    network = make(name)
    order = []
    for part in ("batchnorm", "dropout", "relu", "linear"):
        getattr(network, part).register_forward_hook(lambda module, args, output, part=part: order.append(part))
    network(images())
    assert order == ["batchnorm", "dropout", "relu", "linear"]
    assert network.dropout.p == 0.5
    assert isinstance(network.batchnorm, nn.BatchNorm1d)
    batch = images(3)
    network.eval()
    with torch.no_grad():
        x = network.features(batch)
        normal = (x - network.batchnorm.running_mean) / (network.batchnorm.running_var + network.batchnorm.eps).sqrt()
        expected = F.linear(normal.clamp(min=0), network.linear.weight, network.linear.bias)
        assert torch.allclose(network(batch)["main"], expected, atol=1e-5)


def test_dropout_is_drawn_in_training_only():
    network, batch = make("VanillaResNet"), images()
    network.train()
    assert not torch.equal(network(batch)["main"], network(batch)["main"])
    network.eval()
    assert torch.equal(network(batch)["main"], network(batch)["main"])


@pytest.mark.parametrize("size", [32, 47, 64])
def test_efficientnet_is_the_librarys_own(size):
    """With its size known before and a fused activation it answers as the library's does, at odd sizes too."""
    own = create_backbone("efficientnet-b0", size, pretrained=False)
    library = EfficientNet.from_name("efficientnet-b0", image_size=None)
    library.load_state_dict(own.state_dict())
    batch = images(2, size)
    with torch.no_grad():
        assert torch.allclose(own.eval()(batch), library.eval()(batch), atol=1e-5)


def test_a_thanet_has_four_linear_heads_on_its_backbone():
    network, batch = make("THANet_MK1").eval(), images(2)
    with torch.no_grad():
        x, outputs = network.backbone(batch), network(batch)
        for head in HEADS["THANet_MK1"]:
            assert torch.allclose(outputs[head], network.heads[head](x), atol=1e-5)


def test_multi_class_thanet_makes_18_classes_of_the_attributes_logits():
    network, batch = make("MultiClassTHANet_MK1").eval(), images(2)
    with torch.no_grad():
        outputs = network(batch)
        joined = torch.cat([outputs["mask"], outputs["ageg"], outputs["gender"]], dim=1)
        expected = F.linear(joined.clamp(min=0), network.linear.weight, network.linear.bias)
        assert network.linear.in_features == 8
        assert torch.allclose(outputs["main"], expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------ attention


@pytest.fixture(params=["MultiLabelTHANet", "MultiClassTHANet_MK1"])
def trunk(request):
    """A network with attention, its weights large enough that attention is not flat."""
    network = make(request.param).eval()
    with torch.no_grad():
        network(images(8))
        network.attention.in_proj_weight.mul_(6)
        network.attention.in_proj_bias.normal_()
        network.attention.out_proj.bias.normal_()
        for token in network.tokens.values():
            token.weight.mul_(6)
    return network


def attributes_by_hand(network, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """The logits of the attributes, attention worked out head by head."""
    names, width, count = ("mask", "ageg", "gender"), 64, 8
    depth = width // count
    x = network.batchnorm(network.backbone(batch))  # dropout is off
    tokens = torch.stack([F.linear(x, network.tokens[n].weight, network.tokens[n].bias) for n in names], dim=1)
    weight, bias = network.attention.in_proj_weight, network.attention.in_proj_bias
    q, k, v = (F.linear(tokens, weight[i * width :][:width], bias[i * width :][:width]) for i in range(3))
    heads = []
    for h in range(count):
        part = slice(h * depth, (h + 1) * depth)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / depth**0.5  # (B, 3, 3)
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    dist = [t.unflatten(-1, (count, depth)).transpose(1, 2) for t in (q, k, v)]  # (B, 8, 3, 8)
    torch_says = F.scaled_dot_product_attention(*dist).transpose(1, 2).flatten(2)
    joined = torch.cat(heads, dim=-1)
    assert torch.allclose(joined, torch_says, atol=1e-5)
    out = network.attention.out_proj
    tokens = tokens + F.linear(joined, out.weight, out.bias)
    return {n: F.linear(tokens[:, i], network.heads[n].weight, network.heads[n].bias) for i, n in enumerate(names)}


def spread(outputs: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The largest difference between the attributes' logits of two answers."""
    return max((outputs[name] - others[name]).abs().max().item() for name in ("mask", "ageg", "gender"))


@pytest.mark.parametrize("gradients", [True, False])  # torch takes another path without them
def test_attention_is_the_standard_one(trunk, gradients):
    batch = images(3)
    with torch.set_grad_enabled(gradients):
        got = trunk(batch)
    with torch.no_grad():
        expected = attributes_by_hand(trunk, batch)
    assert spread(got, expected) < 1e-4
    assert trunk.attention.embed_dim == 64
    assert trunk.attention.num_heads == 8


def test_heads_are_put_back_in_their_place(trunk):
    """Heads in another order are the same attention when both sides know of it, and another one when only one does."""
    batch = images(3)
    order = [(h * 3 + 1) % 8 for h in range(8)]
    columns = torch.tensor([8 * h + d for h in order for d in range(8)])
    rows = torch.cat([columns + 64 * i for i in range(3)])
    attention = trunk.attention
    with torch.no_grad():
        before = trunk(batch)
        attention.in_proj_weight.copy_(attention.in_proj_weight[rows])
        attention.in_proj_bias.copy_(attention.in_proj_bias[rows])
        one_side = trunk(batch)
        attention.out_proj.weight.copy_(attention.out_proj.weight[:, columns])
        both_sides = trunk(batch)
    assert spread(before, both_sides) < 1e-4
    assert spread(before, one_side) > 1e-2


def test_without_attention_the_residual_is_left(trunk):
    batch = images(3)
    with torch.no_grad():
        trunk.attention.out_proj.weight.zero_()
        trunk.attention.out_proj.bias.zero_()
        got = trunk(batch)
        x = trunk.batchnorm(trunk.backbone(batch))
        expected = {name: trunk.heads[name](trunk.tokens[name](x)) for name in ("mask", "ageg", "gender")}
    assert spread(got, expected) < 1e-4


# ------------------------------------------------------------------------------------------------ probabilities


def test_the_18_classes_are_the_joint_probability_of_the_attributes():
    outputs = {head: torch.randn(5, classes) * 2 for head, classes in HEADS["MultiLabelTHANet"].items()}
    p = {head: np.exp(o.numpy()) / np.exp(o.numpy()).sum(axis=1, keepdims=True) for head, o in outputs.items()}
    got = predict_task(outputs, "main").numpy()
    assert got.shape == (5, 18)
    assert got.dtype == np.float32
    assert got.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    for image in range(5):
        for mask in range(3):
            for gender in range(2):
                for group in range(3):
                    expected = p["mask"][image, mask] * p["gender"][image, gender] * p["ageg"][image, group]
                    assert got[image, 6 * mask + 3 * gender + group] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("label", range(18))
def test_sure_attributes_are_one_class(label):
    mask, gender, group = label // 6, label // 3 % 2, label % 3
    assert TASKS["main"].classes[label] == f"{MASKS[mask]} {GENDERS[gender]} {AGE_GROUPS[group]}"
    assert encode_class(mask, gender, group) == label
    sure = {"mask": mask, "gender": gender, "ageg": group}
    outputs = {head: 50.0 * F.one_hot(torch.tensor([k]), OUTPUTS[head]).float() for head, k in sure.items()}
    assert predict_task(outputs, "main")[0, label].item() == pytest.approx(1)


@pytest.mark.parametrize("task", CLASS_TASKS)
def test_a_head_answers_with_its_softmax(task):
    logits = torch.randn(4, OUTPUTS[task]) * 3
    others = {"mask": torch.randn(4, 3), "ageg": torch.randn(4, 3), "gender": torch.randn(4, 2)}
    got = predict_task({**others, task: logits}, task)
    e = np.exp(logits.double().numpy())
    assert got.numpy() == pytest.approx(e / e.sum(axis=1, keepdims=True), abs=1e-6)


def test_age_is_in_years_as_it_stands():
    years = torch.tensor([[23.5], [61.0], [-4.0]])
    assert torch.equal(predict_task({"age": years}, "age"), years)


def test_answers_are_float32_whatever_the_network_computes_in():
    outputs = {"mask": torch.randn(2, 3), "ageg": torch.randn(2, 3), "gender": torch.randn(2, 2)}
    half = {head: output.bfloat16() for head, output in outputs.items()}
    for task in CLASS_TASKS:
        got = predict_task(half, task)
        assert got.dtype == torch.float32
        assert got.sum(dim=1).numpy() == pytest.approx(np.ones(2), abs=1e-5)
    assert predict_task({"age": torch.ones(1, 1).bfloat16()}, "age").dtype == torch.float32


@pytest.mark.parametrize(("head", "task"), list(permutations(["mask", "gender", "ageg", "age", "main"], 2)))
def test_a_task_that_the_network_does_not_answer_is_no_guess(head, task):
    with pytest.raises(KeyError):
        predict_task({head: torch.zeros(2, OUTPUTS[head])}, task)


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(
    ("name", "backbone", "task"),
    [(name, backbone, "main") for name, backbone in NETWORKS]
    + [("VanillaResNet", "resnet18", "age"), ("THANet_MK1", "resnet18", "gender")],
)
def test_every_parameter_and_every_head_learns(name, backbone, task):
    network = make(name, backbone, task=task, size=64).train()
    outputs = network(images(8, 64))
    for output in outputs.values():
        output.retain_grad()
    criterion = create_criterion(TASKS[task].losses[0])
    criterion(outputs, some_targets(8)).backward()
    assert all(output.grad.abs().sum() > 0 for output in outputs.values())
    without = [key for key, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []
    still = [key for key, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_a_frozen_backbone_stays_as_it_is_and_the_head_learns(name, backbone):
    network = make(name, backbone, freeze=True)
    network.train()  # as a loop does at every epoch
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        create_criterion("crossentropyloss")(network(images(4)), some_targets(4)).backward()
        optimizer.step()
    prefix = f"{network.backbone_name}."
    assert all(p.grad is None and not p.requires_grad for p in network.features.parameters())
    after = network.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved
    assert not [key for key in moved if key.startswith(prefix)]
    assert [key for key in moved if key.endswith("weight")]
    learning = {key for key, p in network.named_parameters() if p.grad is not None}
    assert learning == {key for key, _ in network.named_parameters() if not key.startswith(prefix)}
    assert network.training


@pytest.mark.parametrize("backbone", ["efficientnet-b0", "resnet18"])
def test_a_frozen_backbone_answers_the_same_in_training(backbone):
    """No dropout, no dropped connections, no statistics of the batch in it."""
    network, batch = make("THANet_MK1", backbone, freeze=True), images()
    in_training = network.train()(batch)
    assert network.training
    in_evaluation = network.eval()(batch)
    for head, output in in_training.items():
        assert torch.equal(output, in_evaluation[head])


def test_a_network_that_is_not_frozen_moves_its_statistics():
    network = make("VanillaResNet").train()
    before = network.resnet.bn1.running_mean.clone()
    network(images())
    assert not torch.equal(network.resnet.bn1.running_mean, before)
    assert all(p.requires_grad for p in network.parameters())


def test_joint_heads_answer_with_the_joint_probability_of_the_attributes_at_first():
    network, batch = make("JointHeads").eval(), images()
    with torch.no_grad():
        outputs = network(batch)
        joint = predict_task({head: outputs[head] for head in ("mask", "gender", "ageg")}, "main")
        assert torch.allclose(predict_task(outputs, "main"), joint, atol=1e-6)
        network.heads["main"].bias[4] += 1  # and the fourth head moves single classes
        moved = predict_task(network(batch), "main")
    expected = joint * torch.where(torch.arange(18) == 4, math.e, 1.0)
    assert torch.allclose(moved, expected / expected.sum(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(
    "backbone", ["efficientnet-b0", "resnet18", "mobilenet_v3_small", "swin_v2_t", "squeezenet1_1"]
)
def test_joint_heads_take_off_the_last_layer_of_any_backbone(backbone):
    network = make("JointHeads", backbone, size=64)
    width = network.heads["mask"].in_features
    assert network.eval().features(images(2, 64)).shape == (2, width)
    assert width == {"efficientnet-b0": 1280, "resnet18": 512, "mobilenet_v3_small": 1024, "swin_v2_t": 768}.get(
        backbone, 1000
    )


# ------------------------------------------------------------------------------------------------ libraries

# One of each family of torchvision, at a size that it takes.
FAMILIES = {
    **{"alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_v2_s": 32, "googlenet": 64},
    **{
        "inception_v3": 80,
        "maxvit_t": 224,
        "mnasnet0_5": 32,
        "mobilenet_v3_small": 32,
        "regnet_y_400mf": 32,
        "resnet18": 32,
    },
    **{"resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 32, "swin_v2_t": 32, "vgg11": 32},
    **{"vit_b_16": 48, "wide_resnet50_2": 32},
}


def test_a_family_of_torchvision_is_not_forgotten():
    names = torchvision.models.list_models(module=torchvision.models)
    families = {re.match("[a-z]+", name)[0] for name in names}
    assert families == {re.match("[a-z]+", name)[0] for name in FAMILIES}


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "swin_v2_t", "vit_b_16", "googlenet"])
def test_networks_of_torchvision_are_trained_and_predict(backbone):
    network = make("VanillaTorchvision", backbone, task="mask", size=FAMILIES[backbone])
    batch = images(2, FAMILIES[backbone])
    loss = create_criterion("crossentropyloss")(network.train()(batch), some_targets(2))
    loss.backward()
    assert network.linear.weight.grad.abs().sum() > 0
    fused = inference_network(network, FAMILIES[backbone])
    with torch.no_grad():
        assert torch.allclose(fused(batch)["mask"], network.eval()(batch)["mask"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "backbone", "size", "message"),
    [
        ("VanillaTorchvision", "convnext_tny", 32, r"convnext_tny is not a classification network.*'convnext_tiny'"),
        ("VanillaTorchvision", "fcn_resnet50", 32, r"fcn_resnet50 is not a classification network of torchvision"),
        ("VanillaTorchvision", "inception_v3", 32, r"inception_v3 does not fit --image-size 32"),
        ("VanillaTorchvision", "vit_b_16", 40, r"vit_b_16 does not fit --image-size 40"),
        ("JointHeads", "swin_v2_tt", 32, r"swin_v2_tt is not a classification network.*'swin_v2_t'"),
    ],
)
def test_what_torchvision_lacks_is_reported(name, backbone, size, message):
    with pytest.raises(UserError, match=message) as caught:
        make(name, backbone, size=size)
    assert "\n" not in str(caught.value)


def as_published(backbone, state):
    """The weights of a network under the names of the files that torchvision downloads."""
    if backbone == "densenet121":
        return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("backbone", ["densenet121", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "squeezenet1_1"])
def test_imagenet_weights_of_networks_of_torchvision_arrive(backbone, torch_home):
    library = torchvision.models.get_model(backbone, **({"init_weights": True} if backbone == "googlenet" else {}))
    url = torchvision.models.get_model_weights(backbone).DEFAULT.url
    torch.save(as_published(backbone, library.state_dict()), torch_home / url.rsplit("/", 1)[1])
    network = make("VanillaTorchvision", backbone, size=64, pretrained=True).eval()
    got, own = network.features.state_dict(), library.state_dict()
    assert all(torch.equal(own[key], value) for key, value in got.items())
    assert {key.split(".")[0] for key in set(own) - set(got)} <= {"aux1", "aux2"}


def test_networks_of_another_normalisation_make_it_themselves():
    network = make("VanillaTorchvision", "googlenet", size=64).features.eval()
    white = (torch.ones(1, 3, 64, 64) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    seen = []
    network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(white)
    assert torch.allclose(seen[0], torch.ones_like(seen[0]), atol=1e-5)  # from -1 to 1


def test_weights_of_a_vision_transformer_fit_another_size(torch_home):
    library = torchvision.models.vit_b_16(image_size=32)
    torch.save(library.state_dict(), torch_home / "vit_b_16-c867db91.pth")
    got = make("VanillaTorchvision", "vit_b_16", size=64, pretrained=True).features.state_dict()
    own = library.state_dict()
    assert got["encoder.pos_embedding"].shape[1] == 1 + (64 // 16) ** 2
    assert torch.equal(got["encoder.pos_embedding"][:, 0], own["encoder.pos_embedding"][:, 0])
    assert all(torch.equal(got[key], own[key]) for key in own if key != "encoder.pos_embedding")


def test_without_timm_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"VanillaTimm needs timm\. Run pip install timm"):
        make("VanillaTimm", "convnext_nano")


class Answering(torch.nn.Linear):
    """Stands for a network of timm: one layer, with what timm says of its networks."""

    def __init__(self, classes: int) -> None:
        super().__init__(3, classes or 5)
        self.num_classes, self.head_hidden_size = classes, 5

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.mean(dim=(2, 3)))


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm, which need not be installed; `asked` are the options of what was made."""
    library = types.ModuleType("timm")
    library.__version__, library.asked = "9.9", []

    def make_one(name, **how):
        library.asked.append((name, how))
        if how["pretrained"]:
            raise OSError("We couldn't connect to huggingface.co\nand more")
        return Answering({"plain": 1000, "large": 21841, "features": 0, "sized": 1000}[name])

    library.is_model = lambda name: name in ("plain", "large", "features", "sized")
    library.list_models = lambda: ["plain", "large", "features", "sized"]
    library.get_pretrained_cfg = lambda name: types.SimpleNamespace(fixed_input_size=name == "sized")
    library.create_model = make_one
    monkeypatch.setitem(sys.modules, "timm", library)
    return library


@pytest.mark.parametrize(("backbone", "width"), [("plain", 1000), ("large", 21841), ("features", 5), ("sized", 1000)])
def test_networks_of_timm_have_the_head_on_what_they_answer(backbone, width, timm):
    network = make("VanillaTimm", backbone, task="gender").eval()
    assert network.linear.in_features == width
    assert network(images(2))["gender"].shape == (2, 2)
    assert timm.asked == [(backbone, {"pretrained": False, **({"img_size": 32} if backbone == "sized" else {})})]


def test_what_timm_lacks_is_reported(timm):
    with pytest.raises(UserError, match=r"plan is not a network of timm 9\.9\. Did you mean 'plain'\?"):
        make("VanillaTimm", "plan")
    message = r"weights of timm's plain could not be loaded \(We couldn't connect to huggingface\.co\).*--no-pretrained"
    with pytest.raises(UserError, match=message):
        make("VanillaTimm", "plain", pretrained=True)


# ------------------------------------------------------------------------------------------------ ImageNet weights

FILES = {
    "efficientnet-b0": "efficientnet-b0-355c32eb.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "shufflenet_v2_x0_5": "shufflenetv2_x0.5-f707e7126e.pth",
}
LIBRARY = {
    "efficientnet-b0": lambda: EfficientNet.from_name("efficientnet-b0"),
    "resnet18": torchvision.models.resnet18,
    "shufflenet_v2_x0_5": torchvision.models.shufflenet_v2_x0_5,
}


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty TORCH_HOME without a way out; the folder in it where weights lie."""

    def fail(*args, **kwargs):
        raise urllib.error.URLError("no way out")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    folder = tmp_path / "torch home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_weights_in_torch_home_arrive(name, backbone, torch_home, capsys):
    library = LIBRARY[backbone]()
    torch.save(library.state_dict(), torch_home / FILES[backbone])
    network = make(name, backbone, pretrained=True)
    got = network.features.state_dict()
    gone = set(library.state_dict()) - set(got)
    assert gone == ({key for key in gone if re.match(r"_?fc\.", key)} if name == "JointHeads" else set())
    assert all(torch.equal(library.state_dict()[key], value) for key, value in got.items())
    other = make(name, backbone, pretrained=False).features.state_dict()
    assert any(not torch.equal(other[key], value) for key, value in got.items())


def test_weights_in_the_format_before_zip_arrive(torch_home):
    """The EfficientNet weights were published in 2019."""
    library = LIBRARY["efficientnet-b0"]()
    torch.save(library.state_dict(), torch_home / FILES["efficientnet-b0"], _use_new_zipfile_serialization=False)
    network = make("VanillaEfficientNet", pretrained=True)
    assert torch.equal(network.efficientnet._fc.weight, library._fc.weight)


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_without_a_network_the_error_says_what_to_do(name, backbone, torch_home):
    with pytest.raises(UserError) as caught:
        make(name, backbone, pretrained=True)
    sentence = str(caught.value)
    assert re.search(rf"Put https://\S+/{re.escape(FILES[backbone])} at ", sentence)
    assert str(torch_home / FILES[backbone]) in sentence
    assert "no way out" in sentence
    assert "--no-pretrained" in sentence
    assert "\n" not in sentence
    assert list(torch_home.iterdir()) == []


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("too slow")], ids=repr)
def test_a_connection_that_breaks_is_no_bug(error, torch_home, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("torch.hub.urlopen", fail)
    with pytest.raises(UserError, match=rf"could not be downloaded \({error}\).*--no-pretrained"):
        make("VanillaResNet", pretrained=True)


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage(path, how: str) -> None:
    """Put something else in the place of good weights."""
    state = LIBRARY["resnet18"]().state_dict()
    if how == "another network":
        torch.save(LIBRARY["efficientnet-b0"]().state_dict(), path)
    elif how == "a pickle of something else":
        path.write_bytes(pickle.dumps({"weights": print}))
    elif how == "a page":
        path.write_bytes(b"<!DOCTYPE html><html>404: Not Found</html>")
    elif how == "nothing":
        path.write_bytes(b"")
    elif how == "a number":
        torch.save(3, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how != "half of an old file")
        half(path)


@pytest.mark.parametrize(
    "how",
    [
        "half a file",
        "half of an old file",
        "nothing",
        "a page",
        "a pickle of something else",
        "another network",
        "a number",
    ],
)
def test_a_broken_file_in_torch_home_is_named(how, torch_home):
    path = torch_home / FILES["resnet18"]
    damage(path, how)
    with pytest.raises(UserError) as caught:
        make("VanillaResNet", pretrained=True)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert re.search(r"https://\S+/resnet18-f37072fd\.pth", sentence)
    assert "--no-pretrained" in sentence
    assert "\n" not in sentence
