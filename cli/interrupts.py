"""Being told to stop: Ctrl-C, and SIGTERM as clusters send it before they take a machine away."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A command was told to stop by a signal; `what` tells people, `code` is the exit code, 128 + the signal."""

    def __init__(self, signum: int, what: str | None = None) -> None:
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(name)
        self.code = 128 + signum
        self.what = f"interrupted by {name}" + (f", {what}" if what else "")


@contextmanager
def _handling(handler, *signals: int) -> Iterator[None]:
    """A block in which the signals go to `handler`; elsewhere than in the main thread, one in which nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def terminable() -> Iterator[None]:
    """A block that SIGTERM ends as Ctrl-C does: by an exception, so that what is open is closed."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    with _handling(end, signal.SIGTERM):
        yield


class StopRequest:
    """A block in which the first Ctrl-C or SIGTERM only sets `signum`, to be asked for where stopping is safe.

    The second leaves at once, with nothing cleaned up but the loader processes; files are whole all the same.

    Args:
        patient: the second does nothing more. After a Ctrl-C, which goes to all processes of a terminal, torchrun sends
            its own a SIGTERM as well, and SIGKILL where they have not ended after half a minute.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.signum: int | None = None
        self.patient = patient

    def __enter__(self) -> StopRequest:
        self._block = _handling(self._ask, signal.SIGINT, signal.SIGTERM)
        self._block.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._block.__exit__(*error)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and self.patient:
            return
        if self.signum is not None:
            try:
                end_workers()
            finally:
                os._exit(128 + signum)
        self.signum = signum
        os.write(2, b"\nStopping after this step; once more to leave at once.\n")  # print may be cut in the middle


def end_workers(keep: Sequence[BaseProcess] = ()) -> None:
    """End the loader processes that this one has left, if there are any: they do not heed the signals above.

    Args:
        keep: child processes that were there before.
    """
    children = [child for child in multiprocessing.active_children() if child not in keep]
    if not children:
        return
    # Torch's handler of SIGCHLD would take their end for a failure.
    with _handling(signal.SIG_DFL, *([signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else [])):
        for process in children:
            process.kill()
        for process in children:
            process.join()


def ignore_signals(worker: int) -> None:
    """What a loader process starts with: signals to all processes of a job are for the main one, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def _end_workers_at_exit() -> None:
    """Python would ask the loader processes that are left at its end to stop by a signal, and wait for ever."""
    end_workers(keep=[child for child in multiprocessing.active_children() if not child.daemon])
