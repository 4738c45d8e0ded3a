"""Seeds and random states, devices and their memory."""

import os
import shutil
import sys
import tempfile
from typing import Any

import torch

from utils import UserError, count_cores, derive_seed, first_line, free_ram

# Characters of the folder of temporary files: a socket has at most 107 on Linux and 103 on macOS, and multiprocessing
# adds /pymp-xxxxxxxx/listener-xxxxxxxx.
LONGEST_TEMP = 75 if sys.platform == "linux" else 71
# Messages of a GPU without free memory.
FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


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


def count_workers(requested: int, device: torch.device, *, sharing: int = 1, batch_bytes: int = 0) -> int:
    """Return the number of loader processes: the requested one, or for -1 one per core but one, which launches kernels.

    Without a GPU it is one per two cores, since the network itself needs them. `sharing` processes share the cores. The
    number is smaller if the shared memory has no room for the batches, and for -1 if fewer may open their files.

    Raises:
        UserError: the system does not allow them, so that they would hang.
    """
    cores = count_cores() // sharing
    automatic = max(1, cores - 1) if device.type != "cpu" else cores // 2
    wanted = requested if requested >= 0 else automatic
    if not wanted:
        return 0
    folder = tempfile.gettempdir()
    if os.name == "posix" and len(os.fsencode(folder)) > LONGEST_TEMP:
        raise UserError(
            f"TMPDIR {folder} is too long for the sockets of loader processes. Set it to a path of at most "
            f"{LONGEST_TEMP} characters, or pass --num-workers 0."
        )
    wanted = _fit_open_files(wanted, least=wanted if requested >= 0 else 1)
    return _fit_shared_memory(wanted, batch_bytes * sharing)


def _fit_open_files(workers: int, *, least: int) -> int:
    """Return how many loader processes may open their files, at least `least`, and raise the limit if they need it."""
    if os.name != "posix":
        return workers
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        workers = max(least, min(workers, (hard - 32) // 12))
    needed = 32 + 12 * workers  # measured with 2, 4 and 8
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return workers
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"{workers} loader processes need about {needed} open files, and the limit is {hard}. Raise it with ulimit "
            "-n, or pass --num-workers 0."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return workers


def _fit_shared_memory(workers: int, batch_bytes: int, place: str = "/dev/shm") -> int:
    """Return how many loader processes can put their batches into the shared memory, and print it if fewer."""
    if not batch_bytes or not os.path.isdir(place):
        return workers
    free = shutil.disk_usage(place).free
    fitting = max(0, (free // batch_bytes - 1) // 2)  # each prefetches two batches, and one is in use
    if fitting >= workers:
        return workers
    print(
        f"{place} has {free / 1e6:.0f} MB left for batches of {batch_bytes / 1e6:.0f} MB: using {fitting} loader "
        f"processes instead of {workers}. In a container, raise --shm-size."
    )
    return fitting


def has_shared_memory(size: int, place: str = "/dev/shm") -> bool:
    """Return whether `size` bytes fit into the shared memory; True if the system does not report it."""
    return not os.path.isdir(place) or shutil.disk_usage(place).free >= size


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device, on the CPU for this process; None if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_ram() if device.type == "cpu" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in FULL)
