"""Whole-or-absent files, cores and free memory, and the frame every command runs in; torch is not imported here."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import platform
import shlex
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, UserError
from stop import Interrupted, end_workers, terminable


class DiskError(Exception):
    """A file could not be written: not the command's fault nor the code's, but the disk's. Exit code 1."""


def run_command(command: Callable[[Any], None], config: Config) -> int:
    """Run a command and return its exit code.

    What the user can put right (`UserError`, a path that is missing, of the wrong kind or not permitted) is one line on
    stderr and code 2; a disk that cannot be written to, memory that is short and a pipe that nobody reads are one line
    and code 1; Ctrl-C is code 130 and SIGTERM 143; anything else is a bug and keeps its traceback. Loader processes
    have ended when it returns.

    Of the processes that torchrun started only the main one prints; the others tell what went wrong, unless it is what
    the first one of their machine tells as well.
    """
    number = process_number()
    with Path(os.devnull).open("w") if number else nullcontext(sys.stdout) as out, redirect_stdout(out):
        return _run_command(command, config, config.command + (f" (process {number})" if number else ""))


def _run_command(command: Callable[[Any], None], config: Config, name: str) -> int:
    resumed = hasattr(config, "resume")
    for stream in (sys.stdout, sys.stderr):  # a file name that is not Unicode is no reason to end
        if hasattr(stream, "reconfigure"):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")
    before = multiprocessing.active_children()
    try:
        with terminable():
            command(config)
        sys.stdout.flush()  # where nobody reads, it is told here and not when Python ends
    except (UserError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename:
            message = f"{error.filename}: {error.strerror}."
        if message.startswith("Caught "):  # in a loader process: torch puts that process's traceback before it
            message = message.rstrip().splitlines()[-1].split(": ", 1)[-1]
        if config.joined or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{name}: {message}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            print(f"{name}: nobody reads on.{_how_to_go_on(config) if resumed else ''}", file=sys.stderr)
            return 1
        if error.errno not in FULL + READ_ONLY:
            raise
        print(f"{name}: {cannot_write(Path(error.filename or '.'), error)}", file=sys.stderr)
        return 1
    except DiskError as error:
        print(f"{name}: {error}{_how_to_go_on(config) if resumed else ''}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        what = error.what if isinstance(error, Interrupted) else "interrupted"
        if process_number() == 0:  # all stop at the same step
            print(f"\n{name}: {what}{'.' + _how_to_go_on(config) if resumed else ''}", file=sys.stderr)
        return error.code if isinstance(error, Interrupted) else 130
    except (RuntimeError, MemoryError) as error:
        if config.joined and _is_left_alone(error):
            print(f"{name}: another process of the run has ended.", file=sys.stderr)
            return 1
        advice = short_of_memory(error)
        if advice is None:
            raise
        print(f"{name}: {advice}", file=sys.stderr)
        return 1
    finally:
        end_workers(keep=before)
    return 0


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has left, as `head` does; what is still to be printed goes nowhere then."""
    try:
        print(flush=True)
        return False
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True


def _is_left_alone(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that another process is gone."""
    return type(error).__name__.startswith("Dist") or any(
        text in str(error) for text in ("Connection closed by peer", "Connection reset by peer")
    )


def _how_to_go_on(config: Config) -> str:
    if "overwrite" in config.given and not config.begun:  # the run that is to be deleted is still there
        return f" To try again: {shlex.join(['python', config.command, *config.words])}"
    words = [word for word in config.words if word not in ("--overwrite", "--resume", "--no-resume")]
    return f" To continue: {shlex.join(['python', config.command, *words, '--resume'])}"


def short_of_memory(error: BaseException) -> str | None:
    """What to change when an error says that memory ran out, or None when it says something else."""
    text = str(error)
    # Torch's own kind, by its name: who asks need not have imported torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return (
            f"Out of memory ({first_line(error)}). Pass a smaller --batch-size, a smaller --image-size or a smaller "
            "--backbone."
        )
    if "DataLoader worker (pid" in text:
        return (
            f"A process that loads photographs was ended from outside ({first_line(error)}), mostly because memory or "
            "shared memory (/dev/shm) is short. Pass fewer --num-workers, 0 for none."
        )
    return None


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first few names, each on one line and cut where it is very long, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    lines = (str(name).replace("\n", " ").replace("\r", " ") for name in names[:limit])
    return ", ".join(line if len(line) <= 300 else f"{line[:300]}..." for line in lines) + more


# ------------------------------------------------------------------------------------------------ machine


def process_number() -> int:
    """The number of this process among those that torchrun started; 0 is the main one, which a process alone is too."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def count_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_ram(system: Path = Path("/")) -> int | None:
    """The bytes of memory that this process can still have; None where the system tells none.

    In a container or a cluster's job that is what is left of its limit, where memory that only caches files counts as
    free (https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html for older systems). The files
    that tell lie below `system`.
    """
    meminfo, groups = system / "proc" / "meminfo", system / "proc" / "self" / "cgroup"
    if not meminfo.is_file():
        return None
    free = [1024 * _numbers(meminfo)["MemAvailable:"]]
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base, limit, used, cached = system / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, cached = system / "sys/fs/cgroup/memory", "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = base / name.lstrip("/")
        for group in (own, *own.parents):  # each has a limit of its own; in a container only `base` may be there
            if group.is_relative_to(base) and (group / limit).is_file():
                most = (group / limit).read_text().strip()  # "max" where there is none
                if most.isdecimal():
                    taken = int((group / used).read_text()) - _numbers(group / "memory.stat").get(cached, 0)
                    free.append(max(0, int(most) - taken))
    return min(free)


def _numbers(table: Path) -> dict[str, int]:
    """The first two words of each line of a file of the kernel, a name and a number."""
    return {name: int(number) for name, number, *_ in (line.split() for line in table.read_text().splitlines())}


def library_versions() -> dict[str, str]:
    """The versions that a result depends on, by package name; unknown where another one stands in, as pillow-simd."""
    packages = ("torch", "torchvision", "efficientnet-pytorch", "numpy", "pillow", "scikit-learn", "adamp")
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


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


FULL, READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.EROFS,)
TEMPORARY = ".tmp-"  # what unfinished files are called; short, so that any name that is allowed can be written


def atomic_write(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is whole or absent, after a power cut too: `write` gets a binary file in the same folder.

    Its folder must be there: a run whose folder was removed under it should end, not begin a second one in its place.

    Raises:
        DiskError: it cannot be written; what stood there before still does.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        told = cannot_write(path, error) if isinstance(error, OSError) else None  # while the half file takes its room
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
        if told is not None:
            raise told from None
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder outlast a power cut, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some network file systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cannot_write(path: Path, error: OSError) -> DiskError:
    """What to raise when a file or folder cannot be written: one sentence with its name and the room there is."""
    text = f"{path} could not be written ({error.strerror or error})"
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    if error.errno == errno.ENOENT and folder != path.absolute().parent:
        return DiskError(f"{text}: the folder {path.parent} is gone.")
    if error.errno in FULL:
        text += f", {shutil.disk_usage(folder).free / 1e6:.1f} MB are free there; make room"
    elif error.errno in (*READ_ONLY, errno.EACCES, errno.EPERM):
        text += "; make the folder writable"
    return DiskError(f"{text}. The files that were there are whole.")


def make_folder(path: Path) -> Path:
    """Make a folder and those above it, if they are not there, and return its path.

    Raises:
        DiskError: the disk is full or not writable.
        FileExistsError, NotADirectoryError: a file is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def remove_leftovers(folder: Path, of: str = "") -> None:
    """Delete what a write or a deletion that was cut left in a folder, not in those below it; `of` one name or all."""
    for path in folder.glob(f"{TEMPORARY}{of}*"):
        with suppress(FileNotFoundError):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def remove_tree(path: Path) -> None:
    """Delete a folder and all in it, at once as others see it: half of it is never taken for the whole."""
    if path.exists():
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}-"))
        os.replace(path, aside / path.name)
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or absent; file names that are no Unicode come out as the bytes they are."""
    atomic_write(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def file_digest(path: str | Path) -> str:
    """16 hexadecimal digits that two files share only when they hold the same bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_json(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: it is not there, is damaged, or lacks something that is needed.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        if not isinstance(value, dict) or any(name not in value for name in needed):
            raise ValueError(f"it holds no {' and '.join(needed) or 'object'}")
        return value
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{path} is missing or damaged ({why}).") from None


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
