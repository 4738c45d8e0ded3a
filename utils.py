"""Seeding, devices, safe file writing, and the frame every command runs in."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import Config, UserError


def run_command(command: Callable[[Any], None], config: Config) -> int:
    """Run a command and return its exit code.

    What the user can put right (`UserError`, a path that is missing, of the wrong kind or not permitted) is one line on
    stderr and code 2; Ctrl-C is code 130; anything else is a bug and keeps its traceback.
    """
    try:
        command(config)
    except (UserError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename:
            message = f"{error.filename}: {error.strerror}."
        if message.startswith("Caught "):  # in a loader process: torch puts that process's traceback before it
            message = message.rstrip().splitlines()[-1].split(": ", 1)[-1]
        print(f"{config.command}: {message}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, RuntimeError) as error:
        # Torch's file writer turns a Ctrl-C that falls into it into an error of its own.
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        hint = "; pass --resume to continue after the last finished epoch" if hasattr(config, "resume") else ""
        print(f"\n{config.command}: interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first few names, and how many more there are, for a message."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(str(name) for name in names[:limit]) + more


# ------------------------------------------------------------------------------------------------ seeding


def derive_seed(*parts: Any) -> int:
    """A seed in 0..2**63-1 that depends on all parts (run seed, fold, epoch, image, view, ...) and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(*parts: Any) -> None:
    """Seed torch (all devices) for what follows, by what it belongs to."""
    torch.manual_seed(derive_seed(*parts))


@contextmanager
def seeded(*parts: Any) -> Iterator[None]:
    """A block whose random draws on the CPU depend on `parts` alone, and that leaves the global state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*parts))
        yield


# ------------------------------------------------------------------------------------------------ machine


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


def count_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_workers(requested: int, device: torch.device) -> int:
    """The number of loader processes: the one asked for, or for -1 one a core up to 8, half of that without a GPU.

    Without a GPU the network itself keeps the cores busy, and loaders take them from it.
    """
    if requested >= 0:
        return requested
    cores = count_cores()
    return min(8, cores if device.type != "cpu" else cores // 2)


def library_versions() -> dict[str, str]:
    """The versions that a result depends on, by package name."""
    packages = ("torch", "torchvision", "efficientnet-pytorch", "numpy", "pillow", "scikit-learn", "adamp")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


# ------------------------------------------------------------------------------------------------ files

# What reading a file of weights that is cut short, or no such file at all, can end in.
UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, AssertionError, TypeError, AttributeError),
    *(pickle.UnpicklingError, struct.error),
)


def first_line(error: BaseException, limit: int = 120) -> str:
    """The first line of an error's message, or its kind when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit].rstrip(".") if lines else type(error).__name__


def atomic_write(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is whole or absent: `write` gets a binary file in the same folder, renamed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or absent."""
    atomic_write(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: it is not there or is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({first_line(error)}).") from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or absent; NaN becomes null, NumPy numbers plain ones."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
