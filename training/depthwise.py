"""Depthwise convolutions on a GPU without cuDNN, for batches of rare sizes.

For bfloat16 and float16 in channels_last, cuDNN compiles kernels for every new size of a batch, about a second for each
depthwise layer. Torch's own kernels are slower, but need no compiling.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def avoid_compiling(wanted: bool) -> AbstractContextManager:
    """Return a block in which depthwise convolutions, and their gradients, do without cuDNN if that is wanted."""
    return _WithoutCudnn() if wanted else nullcontext()


class _WithoutCudnn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_convolve if func is torch.conv2d else func)(*args, **(kwargs or {}))


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if not 1 < groups == input.shape[1] or isinstance(padding, str):  # whose gradients need numbers
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = input.to(dtype), weight.to(dtype)
    output = _Depthwise.apply(input, weight, stride, padding, dilation, groups)
    return output if bias is None else output + bias.to(output.dtype)[:, None, None]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, *options: Any) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options = options
        with torch.backends.cudnn.flags(enabled=False):
            return torch.conv2d(input, weight, None, *options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        pairs = [[each] * 2 if isinstance(each, int) else [*each] for each in (stride, padding, dilation)]
        wanted = [*ctx.needs_input_grad[:2], False]
        with torch.backends.cudnn.flags(enabled=False):
            gradients = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, *pairs, False, [0, 0], groups, wanted
            )
        return *gradients[:2], None, None, None, None
