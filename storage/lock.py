"""Locks that keep two runs out of one fold, on one machine or on several that share a disk."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from utils import TEMPORARY, UserError, cannot_write

BEAT = 5.0  # seconds between two signs of life of an owner
LEASE = 60.0  # seconds without one after which an owner on another machine counts as dead
POLL = 1.0  # seconds between two looks at a lock

Sign = tuple[int, int]  # inode and time of the last change


class FoldLocks:
    """The locks of some folds: files that name their owner and that it touches regularly, by `filelock`.

    filelock removes the lock of a dead process of this machine at once. But it waits for one lock after another, cannot
    replace a lock on file systems without atomic exchange, such as NFS, and never removes an empty lock, which a power
    cut leaves. So all locks of other machines are watched here at the same time, without comparing clocks, which may
    differ, and a lock without a sign of life is moved aside, which only one of several processes can do. Machines that
    share a disk need different host names. `names` are of what each lock file locks, for messages.
    """

    def __init__(self, names: Mapping[Path, str]) -> None:
        self.names = dict(names)
        self.losses: list[LeaseCompromise] = []
        timing = {"lease_duration": LEASE, "heartbeat_interval": BEAT}
        self.leases = {path: SoftFileLease(path, on_compromise=self.losses.append, **timing) for path in names}

    def check(self) -> None:
        """Remove the locks of dead runs, and raise a UserError that names the owner if another run holds a lock."""
        signs = {}
        for path, lease in self.leases.items():
            sign = _sign_of_life(path)
            if sign is None:
                continue
            if self._acquire(path):
                lease.release()
            elif _is_alive_here(lease):
                raise self._held(path)
            else:
                signs[path] = sign
        if signs:
            print(f"{next(iter(signs))} is locked. Watching it for signs of life for {LEASE:.0f} s.", flush=True)
            self._watch(signs)

    def _watch(self, signs: dict[Path, Sign]) -> None:
        end = time.monotonic() + LEASE
        while time.monotonic() < end and signs:
            time.sleep(POLL)
            for path, before in list(signs.items()):
                now = _sign_of_life(path)
                if now is None:  # released
                    del signs[path]
                elif now != before:
                    raise self._held(path)
        for path, before in signs.items():
            self._remove_stale(path, before)

    def __enter__(self) -> FoldLocks:
        self.check()
        try:
            for path in self.names:
                if not self._acquire(path):
                    raise UserError(f"{self.names[path]} was locked by another run at the same moment. Start again.")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for lease in self.leases.values():
            with suppress(OSError):  # on a disk that became read-only the lock stays, and is stale
                lease.release()

    def raise_if_lost(self) -> None:
        """Raise a UserError if another run may have taken a lock of this one, or a DiskError if the disk failed."""
        for loss in self.losses:
            path = Path(loss.lock_file)
            if isinstance(loss.error, OSError) and loss.reason == "refresh-failed":
                raise cannot_write(path, loss.error)
            if path.parent.is_dir():  # the next save reports a folder that was deleted
                raise UserError(
                    f"{self.names[path]} was locked by another run while this one gave no sign of life, or {path} was "
                    "deleted. Stop one of the two runs, and continue with --resume."
                )

    def _acquire(self, path: Path) -> bool:
        """Acquire a lock that is free or whose owner was a process of this machine that is dead."""
        lease, owner = self.leases[path], self.leases[path].owner
        for _ in range(2):  # some systems remove a stale lock in the first attempt
            try:
                lease.acquire(blocking=False)
            except Timeout:
                continue
            except OSError as error:
                if isinstance(error, PermissionError) and path.exists():
                    return False  # another user's
                raise cannot_write(path, error) from None
            if owner is not None:
                print(f"Removed the stale lock of {self.names[path]}, held by process {owner.pid} on {owner.hostname}.")
            return True
        return False

    def _remove_stale(self, path: Path, before: Sign) -> None:
        aside = path.with_name(f"{TEMPORARY}{path.name[1:]}-{os.getpid()}")
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            return  # another start removed it
        if _sign_of_life(aside) != before:  # another start removed it and locked the fold: put that lock back
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()
        print(f"Removed the stale lock of {self.names[path]}, which gave no sign of life.")

    def _held(self, path: Path) -> UserError:
        owner, user = self.leases[path].owner, "another user"
        with suppress(KeyError, NotImplementedError, OSError):
            user = path.owner()
        where = f" on {owner.hostname.partition('?')[0]} (process {owner.pid})" if owner else ""
        return UserError(
            f"{self.names[path]} is being trained by {user}{where}. Wait for that run, stop it, or, if it has surely "
            f"ended, delete {path}."
        )


def _sign_of_life(path: Path) -> Sign | None:
    """Return a value that changes when the owner of a lock touches it, or None if there is no lock."""
    try:
        with path.open("rb") as file:  # network file systems ask the server when a file is opened
            stat = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _is_alive_here(lease: SoftFileLease) -> bool:
    """Return whether the owner of a lock is a process of this machine, which filelock did not find dead."""
    owner, processes = lease.owner, Path("/proc")
    if owner is None or owner.hostname != _own_host():
        return False
    if not (processes / "self").exists():
        return True
    with suppress(OSError, IndexError):
        state = (processes / str(owner.pid) / "stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"  # a dead process whose parent has not waited for it
    return False


@cache
def _own_host() -> str:
    """Return the name that locks of this machine, or of this container, have in their files."""
    with tempfile.TemporaryDirectory() as folder, SoftFileLease(Path(folder, "lock")) as lease:
        return lease.owner.hostname
