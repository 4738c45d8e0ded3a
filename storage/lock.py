"""Lock files that keep two runs out of one fold, on one machine or on several that share a disk."""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils import TEMPORARY, UserError, cannot_write

BEAT = 10.0  # seconds between two signs of life of an owner
WATCH = 60.0  # seconds without one after which an owner that cannot be asked is taken for dead


class FoldLocks:
    """The locks of some folds: files that say who trains them, as a line of JSON and a dot for every sign of life.

    An owner on this machine is dead when its process is. One on another machine (or in another container) cannot be
    asked, so its file is watched for `WATCH` seconds; no clocks are compared, since those of two machines differ and
    may be set back. While the locks are held, a thread gives the signs of life.

    Args:
        names: what each lock file locks, for messages.
    """

    def __init__(self, names: Mapping[Path, str]) -> None:
        self.names = dict(names)
        self.mine: dict[Path, bytes] = {}  # the line of this owner in each lock that it holds
        self.lost: str | None = None  # what was locked by another run meanwhile
        self.released = threading.Event()

    def check(self) -> None:
        """Refuse to go on where another run has a lock; clear away those of runs that are dead.

        Raises:
            UserError: a lock is held; the message says by whom.
        """
        held = {path: content for path in self.names if (content := _read(path)) is not None}
        to_watch = [path for path, content in held.items() if _is_alive(_owner(content)) is None]
        if to_watch:
            print(f"Locked from elsewhere: watching {to_watch[0]} for {WATCH:.0f} s for signs of life.", flush=True)
            time.sleep(WATCH)
        for path, content in held.items():
            owner, now = _owner(content), _read(path)
            if now is None:
                continue  # released meanwhile
            alive = now != content if path in to_watch else _is_alive(owner)
            if alive:
                raise UserError(
                    f"{self.names[path]} is being trained by {owner.get('user')} on {owner.get('host')} (process "
                    f"{owner.get('pid')}). Wait for that run, end it, or, if it is surely dead, delete {path}."
                )
            self._clear(path, content, owner)

    def __enter__(self) -> FoldLocks:
        self.check()
        try:
            for path in self.names:
                self._take(path)
        except BaseException:
            self._release()
            raise
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._release()

    def raise_if_lost(self) -> None:
        """Stop a run whose lock another one has taken, which it does only after long silence.

        Raises:
            UserError: that has happened.
        """
        if self.lost:
            raise UserError(f"{self.lost} was taken by another run while this one was silent, or its lock is gone.")

    def _take(self, path: Path) -> None:
        line = (json.dumps(_myself()) + "\n").encode()
        try:
            # One write, so that an owner that is killed here leaves an empty lock at the worst, which is silent.
            with path.open("xb", buffering=0) as file:
                self.mine[path] = line
                file.write(line)
        except FileExistsError:
            self.check()
            raise UserError(f"{self.names[path]} was taken by another run at the same moment; start again.") from None
        except OSError as error:
            raise cannot_write(path, error) from None

    def _release(self) -> None:
        for path, line in self.mine.items():
            with suppress(OSError):  # on a disk that went read-only it stays, and is known for dead
                if line.startswith((_read(path) or b"?").partition(b"\n")[0]):
                    path.unlink(missing_ok=True)
        self.mine = {}

    def _beat(self) -> None:
        while not self.released.wait(BEAT):
            for path, line in list(self.mine.items()):
                with suppress(OSError):  # a disk that is full or gone is told at the next save, not here
                    content = _read(path)
                    if content is None and not path.parent.is_dir():
                        continue
                    if content is None or not content.startswith(line):
                        self.lost = self.names[path]
                        return
                    with path.open("ab") as file:
                        file.write(b".")

    def _clear(self, path: Path, content: bytes, owner: dict[str, Any]) -> None:
        aside = path.with_name(f"{TEMPORARY}{path.name[1:]}-{os.getpid()}")
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            return  # another start cleared it
        if aside.read_bytes() != content:  # another start cleared it and locked anew: give that one back
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()
        who = f"process {owner['pid']} on {owner.get('host')}" if "pid" in owner else "a run"
        print(f"{self.names[path]} was locked by {who}, which is dead: going on.")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _myself() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = str(os.getuid())
    pid = os.getpid()
    return {"user": user, "host": socket.gethostname(), "pid": pid, "started": _start_of(pid), "machine": _machine()}


def _machine() -> list[str]:
    """What only processes that can see each other share: a host may have the name of another, or hold containers."""
    known = []
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        known.append(os.readlink("/proc/self/ns/pid"))
    return known


def _owner(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content.partition(b"\n")[0])
    except ValueError:
        owner = None
    return owner if isinstance(owner, dict) else {}


def _is_alive(owner: dict[str, Any]) -> bool | None:
    """Whether an owner lives, or None where its process cannot be asked from here."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or (owner.get("host"), owner.get("machine")) != (socket.gethostname(), _machine()):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives and is another user's
    # The number of a dead process is given to another one some day, which then started at another time.
    return _start_of(pid) in (owner.get("started"), None)


def _start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did, -1 if it is dead; None where it is not told."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[18]) if state not in "ZX" else -1  # a dead one that its parent has not asked after yet
    except (OSError, IndexError, ValueError):
        return None
