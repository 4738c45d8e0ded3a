"""Backbones as their options make them: stochastic depth and gradient checkpointing."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from backbones.create import create_backbone
from utils import UserError


@pytest.mark.parametrize(("name", "blocks"), [("convnext_tiny", 18), ("efficientnet_b0", 16), ("swin_t", 12)])
def test_the_rate_of_skipped_blocks_grows_to_the_last_one(name, blocks):
    backbone, _ = create_backbone(name, 32, library="torchvision", drop_path=0.3)
    rates = [layer.p for layer in backbone.modules() if isinstance(layer, StochasticDepth)]
    assert rates == pytest.approx(torch.linspace(0, 0.3, blocks).tolist())


def test_stochastic_depth_of_an_efficientnet_of_the_source():
    backbone, _ = create_backbone("efficientnet-b0", 32, library="efficientnet_pytorch", drop_path=0.0)
    batch = torch.randn(2, 3, 32, 32)
    backbone._dropout.p = 0.0
    for norm in (layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.momentum = 0.0
    assert torch.equal(backbone(batch), backbone(batch))  # with the default of 0.2, blocks are skipped at random
    backbone._global_params = backbone._global_params._replace(drop_connect_rate=0.2)
    assert not torch.equal(backbone(batch), backbone(batch))


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_networks_without_stochastic_depth_are_reported(name):
    with pytest.raises(UserError, match=f"--drop-path has no effect on {name}, which skips no blocks. Leave it out."):
        create_backbone(name, 32, library="torchvision", drop_path=0.1)


def test_gradient_checkpointing_needs_timm():
    with pytest.raises(
        UserError, match="--grad-checkpointing needs a backbone of timm, and resnet18 is of torchvision"
    ):
        create_backbone("resnet18", 32, library="torchvision", grad_checkpointing=True)


def test_stochastic_depth_is_that_of_timm():
    timm = pytest.importorskip("timm")
    own, _ = create_backbone("test_convnext", 32, library="timm", pooled=True, drop_path=0.3)
    theirs = timm.create_model("test_convnext", drop_path_rate=0.3)
    rates = [[layer.drop_prob for layer in net.modules() if hasattr(layer, "drop_prob")] for net in (own, theirs)]
    assert rates[0] == rates[1]
    assert max(rates[0]) == pytest.approx(0.3)


def test_gradient_checkpointing_recomputes_the_blocks_and_keeps_the_gradients():
    pytest.importorskip("timm")
    passes, gradients, batch = [], [], torch.randn(2, 3, 32, 32)
    for recompute in (False, True):
        torch.manual_seed(0)
        backbone, _ = create_backbone("test_vit", 32, library="timm", pooled=True, grad_checkpointing=recompute)
        made = []
        backbone.blocks[0].norm1.register_forward_hook(lambda *args, made=made: made.append(1))
        backbone(batch).sum().backward()
        passes.append(len(made))
        gradients.append([weights.grad for weights in backbone.parameters()])
    assert passes == [1, 2]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))
