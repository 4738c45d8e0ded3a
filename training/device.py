"""Seeds and random states, devices, and the memory they have."""

from __future__ import annotations

import os
from typing import Any

import torch

from utils import UserError, count_cores, derive_seed, first_line, free_ram


def seed_everything(*parts: Any) -> None:
    """Seed torch on all devices by `parts`, see `utils.derive_seed`."""
    torch.manual_seed(derive_seed(*parts))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators that training draws from: that of the CPU and that of the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the generators back into a state; that of another kind of device is of no use and left alone."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


# ------------------------------------------------------------------------------------------------ devices


def set_deterministic(wanted: bool) -> None:
    """Let torch use only operations that give the same bits each time, or any.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU when there is one.

    Raises:
        UserError: no such device here.
    """
    if name.lower() == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name.lower())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        message = f"--device {name} cannot be used here ({first_line(error)}); auto, cpu and cuda are usual."
        raise UserError(message) from None
    return device


def count_workers(requested: int, device: torch.device, *, sharing: int = 1) -> int:
    """The number of loader processes: the one asked for, or for -1 one a core up to 8, half of that without a GPU.

    Without a GPU the network itself keeps the cores busy, and loaders take them from it. The cores are shared with as
    many such processes as `sharing` says.
    """
    if requested >= 0:
        return requested
    cores = count_cores() // sharing
    return min(8, cores if device.type != "cpu" else cores // 2)


def free_memory(device: torch.device) -> int | None:
    """The bytes of memory that a device, for the CPU this process, can still have; None where the system tells none."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_ram() if device.type == "cpu" else None
