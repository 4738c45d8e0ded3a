"""Depthwise convolutions without cuDNN equal those with it."""

import pytest
import torch
from torch import nn

from training.depthwise import avoid_compiling


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6),
        nn.Conv2d(6, 12, 5, padding=(2, 1), dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 3, padding="same", groups=6),
        nn.Conv2d(6, 6, 3, groups=3),
        nn.Conv2d(6, 4, 1),
    ],
    ids=["stride", "multiplier", "same", "grouped", "pointwise"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_of_all_convolutions_are_the_same(layer, dtype):
    images = torch.randn(3, 6, 11, 12)
    found = []
    for wanted in (False, True):
        given = images.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), avoid_compiling(wanted):
            output = layer(given)
        output.float().square().mean().backward()
        found.append([output, given.grad, *(weights.grad.clone() for weights in layer.parameters())])
    for with_cudnn, without in zip(*found, strict=True):
        assert with_cudnn.dtype == without.dtype
        assert torch.allclose(with_cudnn, without, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02)


def test_frozen_layers_get_no_gradients():
    layer = nn.Conv2d(4, 4, 3, groups=4).requires_grad_(False)
    images = torch.randn(2, 4, 5, 5, requires_grad=True)
    with avoid_compiling(True):
        layer(images).sum().backward()
    assert images.grad is not None
    assert layer.weight.grad is None
