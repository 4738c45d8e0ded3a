"""Networks: their outputs, layers and gradients, and the weights that they start from."""

import io
import math
import pickle
import re
import sys
import types
import urllib.error
from unittest.mock import Mock

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
from backbones.create import create_backbone, expected_pixels, find_library
from cli.choices import EFFICIENTNETS, MODELS, RESNETS
from data.faces import AGE, FACES, MAIN
from loss import create_criterion
from model import create_model, inference_network, predict_task
from utils import UserError

EITHER = ("efficientnet-b0", "resnet18")
SMALL = {
    "VanillaEfficientNet": ("efficientnet-b0",),
    "VanillaResNet": ("resnet18",),
    "MultiClassTHANet_MK1": EITHER,
    "MultiLabelTHANet": EITHER,
    "THANet_MK1": EITHER,
    "JointHeads": EITHER,
    "VanillaTorchvision": ("shufflenet_v2_x0_5",),
}
ATTRIBUTES = {"mask": 3, "ageg": 3, "gender": 2}
FOUR = {**ATTRIBUTES, "main": 18}
HEADS = {"MultiLabelTHANet": ATTRIBUTES, "MultiClassTHANet_MK1": FOUR, "THANet_MK1": FOUR, "JointHeads": FOUR}
OUTPUTS = {"main": 18, "mask": 3, "gender": 2, "ageg": 3, "age": 1}
CLASS_TASKS = [task for task in FACES if task != "age"]
NETWORKS = [(name, backbone) for name, backbones in SMALL.items() for backbone in backbones]

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


def make(name: str, backbone: str | None = None, *, task: str = "main", size: int = 32, pretrained=False, **options):
    options |= {"backbone": backbone or SMALL[name][-1], "image_size": size, "pretrained": pretrained}
    return create_model(name, task=FACES[task], tasks=FACES, **options)


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size)


def some_targets(count: int) -> dict[str, torch.Tensor]:
    targets = {task: torch.arange(count) % OUTPUTS[task] for task in CLASS_TASKS}
    return {**targets, "age": torch.linspace(20, 70, count)}


# ------------------------------------------------------------------------------------------------ outputs


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
@pytest.mark.parametrize("size", [32, 64])
@torch.no_grad()
def test_heads_and_shapes_do_not_depend_on_the_batch(name, backbone, size):
    network, batch = make(name, backbone, size=size).eval(), images(3, size)
    outputs, alone = network(batch), network(batch[1:2])
    heads = HEADS.get(name, {"main": 18})
    assert {head: output.shape for head, output in outputs.items()} == {head: (3, n) for head, n in heads.items()}
    assert all(output.dtype == torch.float32 and torch.isfinite(output).all() for output in outputs.values())
    assert all(torch.allclose(output[1:2], alone[head], atol=1e-5) for head, output in outputs.items())
    assert predict_task(outputs, MAIN).shape == (3, 18)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("task", FACES)
def test_a_network_predicts_the_tasks_of_its_heads(name, task):
    record = MODELS[name]
    if task == "age" and name in HEADS:
        with pytest.raises(UserError, match="predicts classes"):
            config.TrainConfig(task=task, model_type=name)
        return
    config.TrainConfig(task=task, model_type=name)
    with torch.no_grad():
        outputs = make(name, task=task).eval()(images(2))
    assert set(outputs) == set(HEADS.get(name, [task]))
    for asked in FACES.values():
        if record.answers(asked, task):
            assert predict_task(outputs, asked).shape == (2, asked.outputs)
        else:
            with pytest.raises(KeyError):
                predict_task(outputs, asked)


@pytest.mark.parametrize(("name", "backbone"), [*NETWORKS, ("VanillaEfficientNet", "efficientnet-b2")])
@pytest.mark.parametrize("size", [32, 47])
def test_an_inference_network_has_the_same_outputs_and_no_batchnorm(name, backbone, size):
    network = make(name, backbone, size=size)
    scramble_norms(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = inference_network(network, size)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())
    assert network.training
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


class ReadTwice(nn.Module):
    """The output of its convolution is read by BatchNorm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.conv(batch)
        return {"gender": (self.norm(x) + x).mean(dim=(2, 3))}


def test_a_batchnorm_is_not_folded_into_a_layer_that_others_read():
    network = ReadTwice()
    scramble_norms(network)
    batch = images(3)
    with torch.no_grad():
        expected = network.eval()(batch)["gender"]
        assert torch.allclose(inference_network(network, 32)(batch)["gender"], expected, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_state_dict_restores_a_network(name):
    torch.manual_seed(1)
    first = make(name)
    first(images())  # moves the statistics of BatchNorm
    torch.manual_seed(2)
    second = make(name)
    second.load_state_dict(first.state_dict())
    batch = images(2)
    with torch.no_grad():
        expected, got = first.eval()(batch), second.eval()(batch)
    assert all(torch.equal(got[head], output) for head, output in expected.items())


def test_names_are_those_of_the_command_line():
    assert all(issubclass(getattr(model, name), model.Network) for name in MODELS)
    heads = {"task": None, "attributes": ATTRIBUTES, "all": FOUR}
    assert all(heads[record.heads] == HEADS.get(name) for name, record in MODELS.items())


# ------------------------------------------------------------------------------------------------ layers

# Millions of parameters as published by the libraries.
PUBLISHED = (5.29, 7.79, 9.11, 12.23, 19.34, 30.39, 43.04, 66.35, 11.69, 21.80, 25.56, 44.55, 60.19)
SIZES = dict(zip(EFFICIENTNETS + RESNETS, PUBLISHED, strict=True))


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", SIZES)
def test_every_backbone_of_the_command_line_can_be_made(name):
    with torch.device("meta"):  # shapes without numbers
        backbone, width = create_backbone(name, 224, library=find_library("THANet_MK1", name))
    assert width == 1000
    assert millions(backbone) == pytest.approx(SIZES[name], abs=0.01)


@pytest.mark.parametrize(
    ("name", "attribute", "default"),
    [
        ("VanillaEfficientNet", "efficientnet", "efficientnet-b3"),
        ("VanillaResNet", "resnet", "resnet50"),
        ("MultiClassTHANet_MK1", "backbone", "efficientnet-b3"),
        ("MultiLabelTHANet", "backbone", "efficientnet-b0"),
        ("THANet_MK1", "backbone", "efficientnet-b3"),
    ],
)
def test_default_backbones(name, attribute, default):
    with torch.device("meta"):
        network = create_model(name, task=MAIN, tasks=FACES, backbone=None, image_size=224, pretrained=False)
    assert millions(getattr(network, attribute)) == pytest.approx(SIZES[default], abs=0.01)
    assert network.features is getattr(network, attribute)


@pytest.mark.parametrize(("name", "attribute"), [("VanillaEfficientNet", "efficientnet"), ("VanillaResNet", "resnet")])
def test_weights_trained_elsewhere_load_by_their_names(name, attribute):
    network = make(name)
    assert set(dict(network.named_children())) == {attribute, "batchnorm", "dropout", "relu", "linear"}
    assert set(network.batchnorm.state_dict()) == set(nn.BatchNorm1d(1000).state_dict())
    assert {k: tuple(v.shape) for k, v in network.linear.state_dict().items()} == {"weight": (18, 1000), "bias": (18,)}
    library = LIBRARY[SMALL[name][0]]().state_dict()
    backbone = {key for key in network.state_dict() if key.startswith(attribute)}
    assert backbone == {f"{attribute}.{key}" for key in library}


@pytest.mark.parametrize("name", ["VanillaEfficientNet", "VanillaResNet"])
def test_the_head_is_batchnorm_dropout_relu_linear(name):
    network, batch, order = make(name), images(), []
    for part in ("batchnorm", "dropout", "relu", "linear"):
        getattr(network, part).register_forward_hook(lambda module, args, output, part=part: order.append(part))
    assert not torch.equal(network(batch)["main"], network(batch)["main"])  # dropout draws
    assert order == 2 * ["batchnorm", "dropout", "relu", "linear"]
    assert network.dropout.p == 0.5
    network.eval()
    with torch.no_grad():
        x = network.features(batch)
        normal = (x - network.batchnorm.running_mean) / (network.batchnorm.running_var + network.batchnorm.eps).sqrt()
        expected = F.linear(normal.clamp(min=0), network.linear.weight, network.linear.bias)
        assert torch.allclose(network(batch)["main"], expected, atol=1e-5)


@pytest.mark.parametrize("size", [32, 47, 64])
def test_an_efficientnet_has_the_outputs_of_the_library(size):
    own, _ = create_backbone("efficientnet-b0", size, library="efficientnet_pytorch")
    library = EfficientNet.from_name("efficientnet-b0", image_size=None)
    library.load_state_dict(own.state_dict())
    batch = images(2, size)
    with torch.no_grad():
        assert torch.allclose(own.eval()(batch), library.eval()(batch), atol=1e-5)


def test_a_thanet_has_linear_heads_on_its_backbone():
    network, batch = make("THANet_MK1").eval(), images(2)
    with torch.no_grad():
        x, outputs = network.backbone(batch), network(batch)
        for head in HEADS["THANet_MK1"]:
            assert torch.allclose(outputs[head], network.heads[head](x), atol=1e-5)


def test_multi_class_thanet_computes_the_classes_from_the_logits_of_the_attributes():
    network, batch = make("MultiClassTHANet_MK1").eval(), images(2)
    with torch.no_grad():
        outputs = network(batch)
        joined = torch.cat([outputs["mask"], outputs["ageg"], outputs["gender"]], dim=1)
        expected = F.linear(joined.clamp(min=0), network.linear.weight, network.linear.bias)
        assert network.linear.in_features == 8
        assert torch.allclose(outputs["main"], expected, atol=1e-6)


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
    """The logits of the attributes, with the heads of the attention split explicitly."""
    width, count = 64, 8
    x = network.batchnorm(network.backbone(batch))  # dropout is off
    tokens = torch.stack([F.linear(x, network.tokens[n].weight, network.tokens[n].bias) for n in ATTRIBUTES], dim=1)
    weight, bias = network.attention.in_proj_weight, network.attention.in_proj_bias
    q, k, v = (F.linear(tokens, weight[i * width :][:width], bias[i * width :][:width]) for i in range(3))
    heads = []
    for h in range(count):
        part = slice(h * width // count, (h + 1) * width // count)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / (width / count) ** 0.5  # (B, 3, 3)
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    out = network.attention.out_proj
    tokens = tokens + F.linear(torch.cat(heads, dim=-1), out.weight, out.bias)
    return {n: F.linear(tokens[:, i], network.heads[n].weight, network.heads[n].bias) for i, n in enumerate(ATTRIBUTES)}


@pytest.mark.parametrize("gradients", [True, False])  # torch takes another path without them
def test_attention_is_the_standard_one(trunk, gradients):
    batch = images(3)
    with torch.set_grad_enabled(gradients):
        got = trunk(batch)
    with torch.no_grad():
        expected = attributes_by_hand(trunk, batch)
    assert all(torch.allclose(got[name], expected[name], atol=1e-4) for name in ATTRIBUTES)


# ------------------------------------------------------------------------------------------------ probabilities


def test_the_classes_of_main_are_the_joint_probability_of_the_attributes():
    outputs = {head: torch.randn(5, classes) * 2 for head, classes in ATTRIBUTES.items()}
    p = {head: np.exp(o.numpy()) / np.exp(o.numpy()).sum(axis=1, keepdims=True) for head, o in outputs.items()}
    got = predict_task(outputs, MAIN).numpy()
    assert got.dtype == np.float32
    assert got.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    expected = np.einsum("im,ig,ia->imga", p["mask"], p["gender"], p["ageg"]).reshape(5, 18)
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", CLASS_TASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_gives_its_softmax_in_float32(task, dtype):
    logits = (torch.randn(4, OUTPUTS[task]) * 3).to(dtype)
    others = {head: torch.randn(4, classes).to(dtype) for head, classes in ATTRIBUTES.items()}
    got = predict_task({**others, task: logits}, FACES[task])
    e = np.exp(logits.double().numpy())
    assert got.dtype == torch.float32
    assert got.numpy() == pytest.approx(e / e.sum(axis=1, keepdims=True), abs=1e-6)


def test_an_age_is_the_output_in_float32():
    years = torch.tensor([[23.5], [61.0], [-4.0]])
    got = predict_task({"age": years.bfloat16()}, AGE)
    assert got.dtype == torch.float32
    assert torch.equal(got, years)


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize(
    ("name", "backbone", "task"),
    [(name, backbone, "main") for name, backbone in NETWORKS]
    + [("VanillaResNet", "resnet18", "age"), ("THANet_MK1", "resnet18", "gender")],
)
def test_every_parameter_and_head_gets_a_gradient(name, backbone, task):
    network = make(name, backbone, task=task, size=64).train()
    outputs = network(images(8, 64))
    for output in outputs.values():
        output.retain_grad()
    criterion = create_criterion(FACES[task].losses[0])
    criterion(outputs, some_targets(8)).backward()
    assert all(output.grad.abs().sum() > 0 for output in outputs.values())
    gradients = {key: p.grad.abs().sum() for key, p in network.named_parameters()}
    assert [key for key, total in gradients.items() if not (torch.isfinite(total) and total > 0)] == []


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_only_the_head_of_a_frozen_network_is_trained(name, backbone):
    network = make(name, backbone, freeze=True)
    network.train()  # as a loop does at every epoch
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        create_criterion("crossentropyloss")(network(images(4)), some_targets(4)).backward()
        optimizer.step()
    assert not any(p.requires_grad for p in network.features.parameters())
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    prefix = f"{network.backbone_name}."
    assert [key for key in moved if key.endswith("weight")]
    assert not [key for key in moved if key.startswith(prefix)]
    assert all((p.grad is None) == key.startswith(prefix) for key, p in network.named_parameters())
    assert network.training
    batch = images()  # in the backbone no dropout, no dropped connections, no statistics of the batch
    assert torch.equal(network.features(batch), network.eval().features(batch))


def test_joint_heads_start_with_the_joint_probability_of_the_attributes():
    network, batch = make("JointHeads").eval(), images()
    with torch.no_grad():
        outputs = network(batch)
        joint = predict_task({head: outputs[head] for head in ("mask", "gender", "ageg")}, MAIN)
        assert torch.allclose(predict_task(outputs, MAIN), joint, atol=1e-6)
        network.heads["main"].bias[4] += 1  # the head for classes moves single ones
        moved = predict_task(network(batch), MAIN)
    expected = joint * torch.where(torch.arange(18) == 4, math.e, 1.0)
    assert torch.allclose(moved, expected / expected.sum(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "width"),
    [
        ("efficientnet-b0", 1280),
        ("resnet18", 512),
        ("mobilenet_v3_small", 1024),
        ("swin_v2_t", 768),
        ("squeezenet1_1", 1000),
    ],
)
def test_joint_heads_replace_the_last_layer_of_any_backbone(backbone, width):
    network = make("JointHeads", backbone, size=64)
    assert network.heads["mask"].in_features == width
    assert network.eval().features(images(2, 64)).shape == (2, width)


# ------------------------------------------------------------------------------------------------ libraries


@pytest.mark.parametrize(
    ("backbone", "size"), [("mobilenet_v3_small", 32), ("swin_v2_t", 32), ("vit_b_16", 48), ("googlenet", 64)]
)
def test_networks_of_torchvision_are_trained_and_predict(backbone, size):
    network, batch = make("VanillaTorchvision", backbone, task="mask", size=size), images(2, size)
    create_criterion("crossentropyloss")(network.train()(batch), some_targets(2)).backward()
    assert network.linear.weight.grad.abs().sum() > 0
    fused = inference_network(network, size)
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
def test_unknown_or_unfit_backbones_are_reported(name, backbone, size, message):
    with pytest.raises(UserError, match=message) as caught:
        make(name, backbone, size=size)
    assert "\n" not in str(caught.value)


def test_a_backbone_with_another_normalisation_applies_it():
    network = make("VanillaTorchvision", "googlenet", size=64).features.eval()
    white = (torch.ones(1, 3, 64, 64) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    seen = []
    network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(white)
    assert torch.allclose(seen[0], torch.ones_like(seen[0]), atol=1e-5)  # from -1 to 1


def test_a_missing_timm_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"Backbones of timm need timm\. Run pip install timm"):
        make("VanillaTimm", "convnext_nano")


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm, which need not be installed; `asked` are the names and options of its networks."""
    library = types.ModuleType("timm")
    library.__version__, library.asked = "9.9", []
    names = ["plain", "sized", "straight"]

    class Straight(nn.Sequential):
        def reset_classifier(self, num_classes):
            self[2] = nn.Linear(3, num_classes) if num_classes else nn.Identity()

    def make_one(name, *, pretrained, **how):
        library.asked.append((name, how))
        if name == "straight" and "drop_path_rate" in how:
            raise TypeError("VGG.__init__() got an unexpected keyword argument 'drop_path_rate'")
        if pretrained:
            raise OSError("We couldn't connect to huggingface.co\nand more")
        return Straight(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))

    library.is_model, library.list_models = names.__contains__, lambda: names
    about = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "interpolation": "bicubic", "crop_pct": 0.9}
    about["hf_hub_id"] = "timm/plain.a"
    library.get_pretrained_cfg = lambda name: types.SimpleNamespace(fixed_input_size=name == "sized", **about)
    library.create_model = make_one
    monkeypatch.setitem(sys.modules, "timm", library)
    return library


@pytest.mark.parametrize("backbone", ["plain", "sized"])
@pytest.mark.parametrize(("name", "head"), [("VanillaTimm", "gender"), ("JointHeads", "main")])
def test_networks_of_timm_have_the_head_on_their_features(name, head, backbone, timm):
    network, batch = make(name, backbone, task="gender").eval(), images(2)
    assert torch.equal(network.features(batch), batch.mean(dim=(2, 3)))
    assert network(batch)[head].shape == (2, OUTPUTS[head])
    assert timm.asked == [(backbone, {"img_size": 32} if backbone == "sized" else {})]


def test_a_network_of_an_earlier_version_has_its_head_on_the_logits(timm):
    for network in (make("VanillaTimm", "plain", on_logits=True), make("VanillaTorchvision", on_logits=True)):
        assert not network.pooled
        assert set(dict(network.named_children())) == {"backbone", "batchnorm", "dropout", "relu", "linear"}
        assert network.linear.in_features == 1000


def test_the_weights_of_a_backbone_say_how_they_expect_images(timm):
    found = expected_pixels("VanillaTimm", "plain")
    assert found == {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "interpolation": "bicubic", "crop_share": 0.9}
    assert expected_pixels("JointHeads", "plain") == found
    timm.get_pretrained_cfg = lambda name: None
    assert expected_pixels("VanillaTimm", "plain") == {}
    large = expected_pixels("VanillaTorchvision", "efficientnet_v2_l")
    assert large == {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop_share": 1.0}
    small = expected_pixels("JointHeads", "resnet18")
    assert (small["mean"], small["interpolation"], small["crop_share"]) == (MEAN, "bilinear", 0.875)
    assert expected_pixels("VanillaResNet", "resnet18") == expected_pixels("JointHeads", "efficientnet-b0") == {}


def test_an_unknown_tag_of_timm_is_reported(timm):
    def unknown(name):
        raise RuntimeError("Invalid pretrained tag (x) for plain.")

    timm.get_pretrained_cfg, timm.list_models = unknown, lambda pattern, pretrained: ["plain.a", "plain.b"]
    with pytest.raises(
        UserError, match=r"--backbone plain: Invalid pretrained tag \(x\) .* one of plain\.a, plain\.b\."
    ):
        make("VanillaTimm", "plain")


def test_errors_of_timm_are_reported(timm):
    with pytest.raises(UserError, match=r"plan is not a network of timm 9\.9\. Did you mean 'plain'\?"):
        make("VanillaTimm", "plan")
    with pytest.raises(UserError, match="straigt is not a classification network of torchvision"):
        make("JointHeads", "straigt")
    with pytest.raises(UserError, match="--drop-path has no effect on straight"):
        make("VanillaTimm", "straight", drop_path=0.1)
    with pytest.raises(UserError, match="--grad-checkpointing does not work with plain"):
        make("VanillaTimm", "plain", grad_checkpointing=True)
    message = (
        r"timm's plain could not be loaded \(We couldn't connect to huggingface\.co\).*timm/plain\.a .*--pretrained"
    )
    with pytest.raises(UserError, match=message):
        make("VanillaTimm", "plain", pretrained=True)


# ------------------------------------------------------------------------------------------------ ImageNet weights


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty TORCH_HOME without the internet; the folder in it where weights lie."""

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))
    monkeypatch.setattr("torch.hub.urlopen", Mock(side_effect=urllib.error.URLError("no way out")))
    folder = tmp_path / "torch home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_imagenet_weights_are_loaded(name, backbone, torch_home):
    library = LIBRARY[backbone]().state_dict()
    old = backbone == "efficientnet-b0"  # published in the format before zip
    torch.save(library, torch_home / FILES[backbone], _use_new_zipfile_serialization=not old)
    got = make(name, backbone, pretrained=True).features.state_dict()
    gone = set(library) - set(got)
    pooled = name in ("JointHeads", "VanillaTorchvision")
    assert gone == ({key for key in library if re.match(r"_?fc\.", key)} if pooled else set())
    assert all(torch.equal(library[key], value) for key, value in got.items())


@pytest.mark.parametrize("backbone", ["densenet121", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "squeezenet1_1"])
def test_imagenet_weights_of_other_backbones_are_loaded(backbone, torch_home):
    library = torchvision.models.get_model(backbone, **({"init_weights": True} if backbone == "googlenet" else {}))
    own, published = library.state_dict(), library.state_dict()
    for key in own:  # the published weights of DenseNet have the names of an older version
        published[re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)] = published.pop(key)
    url = torchvision.models.get_model_weights(backbone).DEFAULT.url
    torch.save(published, torch_home / url.rsplit("/", 1)[1])
    got = make("VanillaTorchvision", backbone, size=64, pretrained=True).features.state_dict()
    assert all(torch.equal(own[key], value) for key, value in got.items())
    last = {"aux1", "aux2", "fc", "classifier"} if backbone != "squeezenet1_1" else set()
    gone = set(own) - set(got)
    assert {key.split(".")[0] for key in gone} <= last
    assert {"mobilenet_v3_small": "classifier.0.weight"}.get(backbone) not in gone  # a layer below the last one


def test_imagenet_weights_of_a_vision_transformer_fit_another_size(torch_home):
    own = torchvision.models.vit_b_16(image_size=32).state_dict()
    torch.save(own, torch_home / "vit_b_16-c867db91.pth")
    got = make("VanillaTorchvision", "vit_b_16", size=64, pretrained=True).features.state_dict()
    assert got["encoder.pos_embedding"].shape[1] == 1 + (64 // 16) ** 2
    assert torch.equal(got["encoder.pos_embedding"][:, 0], own["encoder.pos_embedding"][:, 0])
    kept = {key for key in own if key != "encoder.pos_embedding" and not key.startswith("heads.")}
    assert kept == {key for key in kept if torch.equal(got[key], own[key])} == set(got) - {"encoder.pos_embedding"}


@pytest.mark.parametrize("backbone", FILES)
@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no way out"), ConnectionResetError("reset"), TimeoutError("too slow")], ids=repr
)
def test_a_failed_download_is_reported(backbone, error, torch_home, monkeypatch):
    monkeypatch.setattr("torch.hub.urlopen", Mock(side_effect=error))
    name = next(name for name, backbones in SMALL.items() if backbone in backbones)
    url, path = (re.escape(str(place)) for place in (FILES[backbone], torch_home / FILES[backbone]))
    advice = rf"Put https://\S+/{url} at {path}, pass another file as --pretrained FILE, or pass --no-pretrained"
    with pytest.raises(UserError, match=rf"could not be downloaded \({error.args[0]}\)\. {advice}"):
        make(name, backbone, pretrained=True)
    assert list(torch_home.iterdir()) == []


def saved(value: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "content",
    [
        lambda: half(saved(LIBRARY["resnet18"]().state_dict())),
        lambda: half(saved(LIBRARY["resnet18"]().state_dict(), _use_new_zipfile_serialization=False)),
        lambda: b"",
        lambda: b"<!DOCTYPE html><html>404: Not Found</html>",
        lambda: pickle.dumps({"weights": print}),
        lambda: saved(LIBRARY["efficientnet-b0"]().state_dict()),
        lambda: saved(3),
    ],
    ids=["half", "half of an old file", "empty", "a page", "another pickle", "another network", "a number"],
)
def test_damaged_imagenet_weights_are_reported(content, torch_home):
    path = torch_home / FILES["resnet18"]
    path.write_bytes(content())
    advice = r"Delete the file and put https://\S+/resnet18-f37072fd\.pth there, or pass --no-pretrained\.$"
    with pytest.raises(UserError, match=rf"at {re.escape(str(path))} cannot be read \(.+\)\. {advice}"):
        make("VanillaResNet", pretrained=True)
