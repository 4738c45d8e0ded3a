"""What every module needs: errors, whole-or-absent files, JSON, seeds and free memory. Imports no torch."""

import errno
import hashlib
import json
import math
import os
import pickle
import platform
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent  # of the toolkit; default folders are relative to it


class UserError(ValueError):
    """An error the user can fix; commands print it as one line and exit with code 2."""


class DiskError(Exception):
    """A file could not be written because of the disk; commands print it as one line and exit with code 1."""


def shorten_list(names: Iterable[object], limit: int = 5) -> str:
    """Return the first names, shortened and separated by commas, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    lines = (str(name).replace("\n", " ").replace("\r", " ") for name in names[:limit])
    return ", ".join(line if len(line) <= 300 else f"{line[:300]}..." for line in lines) + more


# ------------------------------------------------------------------------------------------------ machine


def process_number(kind: str = "RANK") -> int:
    """Return the RANK or LOCAL_RANK of this process among those that torchrun started; 0 without torchrun."""
    return int(os.environ[kind]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def count_cores(system: Path = Path("/")) -> int:
    """Return the number of processor cores that this process may use; the time limit of a container counts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(system, "cpu"):
        try:
            if (group / "cpu.max").is_file():
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except FileNotFoundError:
            continue
        if quota.isdecimal():  # else "max" or -1
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def free_ram(system: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process can still allocate, or None if the system does not report it.

    Limits of containers and cluster jobs count; memory that only caches files is free
    (https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html for older systems).
    """
    meminfo = system / "proc" / "meminfo"
    if not meminfo.is_file():
        return None
    free = [1024 * _numbers(meminfo)["MemAvailable:"]]
    names = {
        "memory.max": ("memory.current", "inactive_file"),
        "memory.limit_in_bytes": ("memory.usage_in_bytes", "total_inactive_file"),
    }
    for group in _groups(system, "memory"):
        for limit, (used, cached) in names.items():
            most = (group / limit).read_text().strip() if (group / limit).is_file() else "max"
            if most.isdecimal():  # "max" where there is none
                taken = int((group / used).read_text()) - _numbers(group / "memory.stat").get(cached, 0)
                free.append(max(0, int(most) - taken))
    return min(free)


def _groups(system: Path, controller: str) -> Iterator[Path]:
    """Yield the control groups of this process, each with limits of its own, from its own up to the root."""
    listed = system / "proc" / "self" / "cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            base = system / "sys" / "fs" / "cgroup" / (controller if controllers else "")
            own = base / name.lstrip("/")  # in a container only `base` may be there
            yield from (group for group in (own, *own.parents) if group.is_relative_to(base))


def _numbers(table: Path) -> dict[str, int]:
    """Return the name and number that begin each line of a kernel file."""
    return {name: int(number) for name, number, *_ in (line.split() for line in table.read_text().splitlines())}


def library_versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on, by name; "unknown" for a missing one."""
    packages = ("torch", "torchvision", "efficientnet-pytorch", "numpy", "pillow", "scikit-learn", "adamp")
    found = {"python": platform.python_version(), **dict.fromkeys(packages, "unknown")}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


# ------------------------------------------------------------------------------------------------ files

# Errors of torch.load on files that are truncated or not weights.
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, AssertionError, TypeError, AttributeError)
UNREADABLE += (pickle.UnpicklingError, struct.error)


def first_line(error: BaseException, limit: int = 120) -> str:
    """Return the first line of an error's message, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit].rstrip(".") if lines else type(error).__name__


FULL, READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.EROFS,)
LOST = "lost+found"  # a folder of file systems
TEMPORARY = ".tmp-"  # prefix of unfinished files; short, so that every allowed name can be written


def atomic_write(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file that is either whole or absent, even after a power cut.

    The folder must exist: a run whose folder was deleted should end, not start a second one. `write` gets a binary file
    object.

    Raises:
        DiskError: the file cannot be written; an earlier file at `path` is unchanged.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)  # which cannot be read without setting it
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None  # with the free space before the file is deleted
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut, if the system can."""
    with suppress(OSError):  # Windows cannot open folders, and some network file systems cannot sync them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cannot_write(path: Path, error: OSError) -> DiskError:
    """Return the error to raise when a file or folder cannot be written."""
    text, advice = f"{path} could not be written ({error.strerror or error})", ""
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    if error.errno == errno.ENOENT and folder != path.absolute().parent:
        return DiskError(f"{text}: the folder {path.parent} was deleted.")
    if error.errno in FULL:
        advice = f"Free some space: {shutil.disk_usage(folder).free / 1e6:.1f} MB are left. "
    elif error.errno in (*READ_ONLY, errno.EACCES, errno.EPERM):
        advice = "Make the folder writable. "
    return DiskError(f"{text}. {advice}Existing files are unchanged.")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents if needed, and return its path.

    Raise a DiskError if the disk does not allow it, a FileExistsError or NotADirectoryError if a file has the name, and
    a UserError if a link leads nowhere.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        check_link(error.filename)
        raise
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def check_link(path: str | Path) -> None:
    """Raise a UserError if a path is a link that leads nowhere, as to a disk that is not mounted."""
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"{path} is a link to {os.readlink(path)}, which does not exist. Create it.")


def remove_leftovers(folder: Path, of: str = "") -> None:
    """Delete the temporary files that interrupted writes left in a folder; `of` limits it to one name."""
    for path in folder.glob(f"{TEMPORARY}{of}*"):
        with suppress(FileNotFoundError):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def remove_tree(path: Path, *, keep: Iterable[Path] = (), last: str | None = None) -> None:
    """Delete a folder; other processes see it whole or not at all.

    If it is a link to a folder, on a larger disk say, that folder is emptied, as are the links in `keep`. These links
    stay. The file `last` is deleted last.
    """
    links = [each for each in keep if each.is_symlink()]
    if not links and not path.is_symlink():
        if path.exists():
            aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}-"))
            os.replace(path, aside / path.name)
            shutil.rmtree(aside, ignore_errors=True)
        return
    entries = [entry for link in links for entry in link.iterdir()]
    entries += sorted(set(path.iterdir()) - set(links), key=lambda entry: entry.name == last)
    for entry in entries:
        if entry.name != LOST:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or absent; names that are not Unicode keep their bytes."""
    atomic_write(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def as_on_disk(text: str) -> str:
    """Return names from a text file as Python reads them from the disk: where that is in ASCII, with escaped bytes."""
    encoding = "ascii" if sys.getfilesystemencoding() == "ascii" else "utf-8"
    return text.encode(errors="surrogateescape").decode(encoding, "surrogateescape")


def as_text(name: str) -> str:
    """Return a name from the disk as text that does not depend on the locale it was read in."""
    return name.encode(errors="surrogateescape").decode("utf-8", "surrogateescape")


def file_digest(path: str | Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_json(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Return the object in a JSON file, or raise a UserError if it or a `needed` key is missing or damaged."""
    try:
        value = json.loads(as_on_disk(path.read_text(encoding="utf-8", errors="surrogateescape")))
        if not isinstance(value, dict) or any(name not in value for name in needed):
            raise ValueError(f"it has no {' and '.join(needed) or 'object'}")
        return value
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{path} is missing or damaged ({why}).") from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or absent; NaN becomes null and NumPy numbers plain ones."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a NumPy number; NumPy is not imported, since the command line needs none
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def derive_seed(*parts: Any) -> int:
    """Return a seed in [0, 2**63) that depends only on the parts, such as run seed, fold, epoch, image and view."""
    parts = tuple(as_text(part) if isinstance(part, str) else part for part in parts)
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded(*parts: Any) -> Iterator[None]:
    """Seed torch's CPU generator by `parts` within a block, and restore its state afterwards."""
    import torch  # takes seconds; the command line needs only the rest of this module

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*parts))
        yield
