"""Check that networks accept images of a size, by running them once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from utils import UserError, first_line


def check_size(name: str, image_size: int, create: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """Return a new backbone and the outputs of one run: many accept only sizes that they can divide into parts."""
    return _run_once(create, image_size, f"{name} does not fit --image-size {image_size}", "Use a size such as 224.")


def check_train_size(network: nn.Module, backbone: str, image_size: int, train_size: int) -> None:
    """Raise a UserError if a network rejects training images of another size; some accept only one."""
    if train_size != image_size:
        problem = f"{backbone} for --image-size {image_size} cannot train on images of {train_size} pixels"
        _run_once(lambda: network, train_size, problem, "Pass another --train-side, such as 1.")


def _run_once(create: Callable[[], nn.Module], size: int, problem: str, advice: str) -> tuple[nn.Module, Any]:
    try:
        network = create()
        training = network.training
        with torch.no_grad():
            outputs = network.eval()(torch.zeros(1, 3, size, size))
        return network.train(training), outputs
    except UserError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # of networks for unsupported sizes
        raise UserError(f"--backbone {problem} ({first_line(error)}). {advice}") from None
