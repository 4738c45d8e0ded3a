"""Stop a command by Ctrl-C, or by SIGTERM as clusters send it before they take a machine away."""

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

ALARM = (signal.SIGALRM,) if hasattr(signal, "SIGALRM") else ()  # Windows has none
LAST_STEP = 300.0  # seconds without a batch after a signal, before a run counts as hanging


class Interrupted(KeyboardInterrupt):
    """A signal stopped the command; `what` is the message and `code` the exit code, 128 + the signal."""

    def __init__(self, signum: int, what: str | None = None) -> None:
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(name)
        self.code = 128 + signum
        self.what = f"interrupted by {name}" + (f", {what}" if what else "")


@contextmanager
def _handling(handler, *signals: int) -> Iterator[None]:
    """Send the signals to `handler` within a block; do nothing outside the main thread."""
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
    """Let SIGTERM raise an exception within a block, as Ctrl-C does, so that open files are closed."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    with _handling(end, signal.SIGTERM):
        yield


class StopRequest:
    """Let the first Ctrl-C or SIGTERM within a block only set `signum`, to stop where that is safe.

    The second exits immediately and ends the loader processes; files are whole nevertheless. `patient` ignores it:
    torchrun sends its processes a SIGTERM after a Ctrl-C, which the terminal has sent to them already, and SIGKILL
    after half a minute. If neither `take` nor `note_progress` is called for LAST_STEP, it raises `Interrupted`.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.signum: int | None = None
        self.patient = patient

    def __enter__(self) -> StopRequest:
        self._block = _handling(self._ask, signal.SIGINT, signal.SIGTERM, *ALARM)
        self._block.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.take()
        self._block.__exit__(*error)

    def take(self) -> int:
        """Return the signal that asked to stop, or 0, at a place where that is safe."""
        signum = self.signum or 0
        if signum:
            _set_alarm(0)
        return signum

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if signum in ALARM:
            if self.signum is None:  # somebody else's
                return
            raise Interrupted(self.signum, f"nothing happened for {LAST_STEP:.0f} s, so nothing more was saved")
        if self.signum is not None:
            if self.patient:
                return
            try:
                end_workers()
            finally:
                os._exit(128 + signum)
        self.signum = signum
        _set_alarm(LAST_STEP)
        os.write(2, b"\nStopping after this step. Press Ctrl-C again to exit immediately.\n")  # print is not reentrant


def note_progress() -> None:
    """Give a run that was asked to stop more time."""
    owner = getattr(signal.getsignal(*ALARM), "__self__", None) if ALARM else None
    if isinstance(owner, StopRequest) and owner.signum is not None:  # else a timer is somebody else's
        _set_alarm(LAST_STEP)


def _set_alarm(seconds: float) -> None:
    if ALARM and threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, seconds)


def end_workers(keep: Sequence[BaseProcess] = ()) -> None:
    """Kill the loader processes of this process, which ignore the signals above, but not those to `keep`."""
    children = [child for child in multiprocessing.active_children() if child not in keep]
    if not children:
        return
    # torch's handler of SIGCHLD would report their end as a failure.
    with _handling(signal.SIG_DFL, *([signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else [])):
        for process in children:
            process.kill()
        for process in children:
            process.join()


def ignore_signals(worker: int) -> None:
    """Ignore signals in a loader process: they reach all processes of a job, and the main one ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def _end_workers_at_exit() -> None:
    """End loader processes that are left: Python would signal them, and wait forever."""
    end_workers(keep=[child for child in multiprocessing.active_children() if not child.daemon])
