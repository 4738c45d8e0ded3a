"""Seeds and random states, devices and their memory."""

from __future__ import annotations

import os
from typing import Any

import torch

from utils import UserError, count_cores, derive_seed, first_line, free_ram


def seed_everything(*parts: Any) -> None:
    """Seed torch on all devices, see `utils.derive_seed`."""
    torch.manual_seed(derive_seed(*parts))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of the generators that training draws from: those of the CPU and of the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore the generators of the CPU and of the device, if the state is of the same kind of device."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def set_deterministic(wanted: bool) -> None:
    """Restrict torch to operations that give the same bits each time, or allow all.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes a GPU if there is one.

    Raises:
        UserError: the device does not exist here.
    """
    if name.lower() == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name.lower())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not available ({first_line(error)}). Pass auto, cpu or cuda.") from None
    return device


def count_workers(requested: int, device: torch.device, *, sharing: int = 1) -> int:
    """Return the number of loader processes: the requested one, or for -1 one per core, at most 8.

    Without a GPU it is one per two cores, since the network itself needs them. `sharing` processes share the cores.
    """
    if requested >= 0:
        return requested
    cores = count_cores() // sharing
    return min(8, cores if device.type != "cpu" else cores // 2)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device, on the CPU for this process; None if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_ram() if device.type == "cpu" else None
