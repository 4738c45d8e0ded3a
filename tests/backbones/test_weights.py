"""Weights of backbones that come from a file: --pretrained FILE, and foreign ones in --load-state-dict."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from backbones.create import create_backbone, expected_pixels
from data.faces import FACES, MAIN, MASK
from model import create_model
from storage.checkpoint import load_checkpoint, load_weights, read_file_weights
from utils import UserError


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A network of torchvision with random weights."""
    return torchvision.models.resnet18()


@pytest.fixture
def save(tmp_path):
    """Write a state dict with a prefix before all names, and return its path."""

    def write(weights: dict[str, torch.Tensor], prefix: str = "", name: str = "weights.pth") -> Path:
        torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / name)
        return tmp_path / name

    return write


def load(path: Path, backbone: str = "resnet18", *, pooled: bool = True, size: int = 32) -> nn.Module:
    return create_backbone(backbone, size, library="torchvision", pretrained=read_file_weights(path), pooled=pooled)[0]


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "backbone.", "module.backbone."])
def test_the_weights_of_a_file_are_those_of_the_backbone(prefix, resnet, save):
    got = load(save(resnet.state_dict(), prefix)).state_dict()
    assert set(resnet.state_dict()) - set(got) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, resnet.state_dict()[key]) for key, value in got.items())


def test_the_last_layer_of_a_file_may_have_other_classes(resnet, save):
    weights = resnet.state_dict() | {"fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}
    load(save(weights))
    with pytest.raises(
        UserError, match=r"weights\.pth do not fit resnet18 \(size mismatch for fc\.weight.*Use another"
    ):
        load(save(weights), pooled=False)  # a network of the source, which has the ImageNet logits


def test_heads_of_another_training_are_left_out(resnet, save):
    weights = {f"backbone.{key}": value for key, value in resnet.state_dict().items()}
    load(save({**weights, "head.weight": torch.ones(2, 512)}))


def test_safetensors_are_read(resnet, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(resnet.state_dict(), tmp_path / "weights.safetensors")
    assert torch.equal(load(tmp_path / "weights.safetensors").conv1.weight, resnet.conv1.weight)
    (tmp_path / "weights.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match=r"weights\.safetensors cannot be read as a checkpoint \(.*header.*\)\. Copy"):
        load(tmp_path / "weights.safetensors")


def test_weights_of_a_vision_transformer_fit_another_size(save):
    own = torchvision.models.vit_b_32(image_size=64)
    got = load(save(own.state_dict()), "vit_b_32", size=96)
    assert got.encoder.pos_embedding.shape[1] == 1 + 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("conv1.weight"), r'do not fit resnet18 \(Missing key\(s\) .*"conv1.weight"'),
        (lambda weights: weights.update(other=torch.ones(1)), r'do not fit resnet18 \(Unexpected key\(s\) .*"other"'),
        (lambda weights: weights.clear(), "holds neither a checkpoint nor a state dict"),
    ],
)
def test_weights_that_do_not_fit_are_reported(change, message, resnet, save):
    weights = dict(resnet.state_dict())
    change(weights)
    with pytest.raises(UserError, match=message) as caught:
        load(save(weights))
    assert "\n" not in str(caught.value)


def test_timm_converts_the_weights_of_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_vit", img_size=32)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    weights = read_file_weights(tmp_path / "weights.pth")
    for size, tokens in ((32, 4), (64, 16)):  # timm resizes the position embedding
        got, width = create_backbone("test_vit", size, library="timm", pretrained=weights, pooled=True)
        assert (width, got.pos_embed.shape[1] - got.num_prefix_tokens) == (64, tokens)
        assert torch.equal(got.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)
    with pytest.raises(UserError, match=r"weights\.pth do not fit test_resnet \(Missing key"):
        create_backbone("test_resnet", 32, library="timm", pretrained=weights, pooled=True)


def test_a_file_that_timm_would_ignore_is_reported(save):
    """timm loads the weights of some networks without checking that they are all there."""
    pytest.importorskip("timm")
    weights = read_file_weights(save({"other": torch.zeros(3)}))
    with pytest.raises(UserError, match=r"weights\.pth do not fit dla46_c \(it lacks .* more\)\. Use another"):
        create_backbone("dla46_c", 64, library="timm", pretrained=weights, pooled=True)


def test_nan_weights_of_a_file_are_reported(resnet, save):
    with pytest.raises(UserError, match=r"weights\.pth contains NaN or infinite weights: conv1\.weight"):
        load(save(resnet.state_dict() | {"conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}))


def test_options_of_another_training_may_be_in_a_file(resnet, tmp_path):
    state = {"state_dict": resnet.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(state, tmp_path / "weights.pth")
    assert torch.equal(load(tmp_path / "weights.pth").conv1.weight, resnet.conv1.weight)


def test_a_deprecated_name_of_timm_has_the_pixels_of_its_weights():
    pytest.importorskip("timm")
    found = expected_pixels("VanillaTimm", "vit_base_patch16_224_in21k")
    assert found == expected_pixels("VanillaTimm", "vit_base_patch16_224.augreg_in21k")
    assert found["mean"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("classes", [0, 7])
def test_a_file_of_timm_may_have_other_classes(classes, tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_resnet", num_classes=classes)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    weights = read_file_weights(tmp_path / "weights.pth")
    got, _ = create_backbone("test_resnet", 32, library="timm", pretrained=weights, pooled=True)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in got.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "model.backbone."])
def test_a_new_head_takes_a_backbone_of_another_training(prefix, resnet, save):
    network = create_model("JointHeads", task=MAIN, tasks=FACES, backbone="resnet18", image_size=32, pretrained=False)
    path = save(resnet.state_dict(), prefix)
    left_out = load_weights(network, load_checkpoint(path)[0], path, "JointHeads", new_head=True)
    assert left_out == ["backbone.fc.weight (1000, 512)", "backbone.fc.bias (1000,)"]
    assert torch.equal(network.backbone.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)
    larger = torchvision.models.resnet34().state_dict()  # which has all layers of resnet18
    with pytest.raises(UserError, match=r"backbone\.layer1\.2\.conv1\.weight is not part of it"):
        load_weights(network, larger, path, "JointHeads", new_head=True)


def test_a_network_of_the_hub_is_trained_and_rebuilt_without_it(tmp_path, monkeypatch):
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    if not timm.models._hub.has_hf_hub():
        pytest.skip("this timm does not know this huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name, network = "hf-hub:someone/hands", timm.create_model("test_vit", num_classes=4, depth=2, img_size=32)
    with pytest.raises(UserError, match="--backbone hf-hub:someone/hands could not be read"):
        expected_pixels("VanillaTimm", name)
    folder = tmp_path / "models--someone--hands"
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    safetensors.save_file(network.state_dict(), folder / "snapshots" / "1" / "model.safetensors")
    about = {"architecture": "test_vit", "num_classes": 4, "model_args": {"depth": 2}}
    about["model_args"] |= {"dynamic_img_size": True}
    about["pretrained_cfg"] = {"mean": [0.5, 0.4, 0.3], "std": None, "interpolation": "random", "classifier": "head"}
    (folder / "snapshots" / "1" / "config.json").write_text(json.dumps(about))
    assert expected_pixels("VanillaTimm", name)["mean"] == (0.5, 0.4, 0.3)
    options = {"task": MASK, "tasks": FACES, "backbone": name, "image_size": 32}
    trained = create_model("JointHeads", pretrained=True, **options)
    assert torch.equal(trained.backbone.blocks[1].attn.qkv.weight, network.blocks[1].attn.qkv.weight)
    shutil.rmtree(folder)
    described = trained.features.hub_architecture
    rebuilt = create_model("JointHeads", pretrained=False, architecture=described, **options)
    rebuilt.load_state_dict(trained.state_dict())
    batch = torch.randn(2, 3, 32, 32)
    assert torch.equal(rebuilt.eval()(batch)["main"], trained.eval()(batch)["main"])
