"""Run a command: exit codes, one-line errors, and advice on how to continue."""

import multiprocessing
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from cli.interrupts import Interrupted, end_workers, terminable
from cli.options import AnyConfig, parse_config
from utils import FULL, READ_ONLY, ROOT, DiskError, UserError, cannot_write, first_line, process_number

LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer")  # torch.distributed, if a process has ended


@dataclass
class Context:
    """What the error messages of a command depend on."""

    program: str  # as it is typed, without options
    words: Sequence[str] | None = None  # the options as typed; None if the command cannot be continued with --resume
    started: bool = False  # files of a run were written, so that --overwrite must not be repeated
    joined: bool = False  # this process exchanges values with others, started by torchrun

    def how_to_continue(self) -> str:
        """Return the command that continues an interrupted run, or an empty string."""
        if self.words is None:
            return ""
        is_here = not self.program.endswith(".py") or Path(self.program).is_file()
        python = ["python", *(self.program.split() if is_here else [str(ROOT / self.program)])]
        if "--overwrite" in self.words and not self.started:  # the run to delete is still there
            return f" To try again: {shlex.join([*python, *self.words])}"
        kept = [word for word in self.words if word not in ("--overwrite", "--resume", "--no-resume")]
        return f" To continue: {shlex.join([*python, *kept, '--resume'])}"


def run_command(action: Callable[[], None], context: Context) -> int:
    """Run a command and return its exit code.

    Code 2 is an error the user can fix (`UserError`, a missing or forbidden path), code 1 a full disk, too little
    memory or a closed pipe, 130 is Ctrl-C and 143 SIGTERM; each prints one line on stderr. Any other exception is a
    bug and keeps its traceback. Loader processes have ended when this returns. Of the processes that torchrun starts,
    only the main one prints to stdout.
    """
    number = process_number()
    name = context.program + (f" (process {number})" if number else "")
    for stream in (sys.stdout, sys.stderr):  # file names that are not Unicode can be printed
        if hasattr(stream, "reconfigure"):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")
    before = multiprocessing.active_children()
    try:
        with Path(os.devnull).open("w") if number else nullcontext(sys.stdout) as out, redirect_stdout(out):
            try:
                with terminable():
                    action()
                sys.stdout.flush()  # a closed pipe is reported here and not when Python ends
            except (Exception, KeyboardInterrupt) as error:
                code, message = _report(error, context)
                if message is not None:
                    print(f"{name}: {message}", file=sys.stderr)
                return code
    finally:
        end_workers(keep=before)
    return 0


def run_tool(cls: type[AnyConfig], action: Callable[[AnyConfig, Context], None], argv: Sequence[str] | None) -> int:
    """Parse the command line of a command without --resume, run the command, and return its exit code."""
    config, context = parse_config(cls, argv), Context(cls.command)
    return run_command(lambda: action(config, context), context)


def _report(error: BaseException, context: Context) -> tuple[int, str | None]:
    """Return the exit code and the line to print for an error; raise it again if it is a bug."""
    if isinstance(error, (UserError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError)):
        shown = context.joined or process_number("LOCAL_RANK") == 0  # else the first process says the same
        return 2, _user_message(error) if shown else None
    if isinstance(error, DiskError):
        return 1, f"{error}{context.how_to_continue()}"
    if isinstance(error, BrokenPipeError) and _is_stdout_closed():
        return 1, f"nobody reads the output.{context.how_to_continue()}"
    if isinstance(error, OSError) and error.errno in FULL + READ_ONLY:
        return 1, str(cannot_write(Path(error.filename or "."), error))
    if isinstance(error, KeyboardInterrupt):
        what, code = (error.what, error.code) if isinstance(error, Interrupted) else ("interrupted", 130)
        if process_number():  # all processes stop at the same step
            return code, None
        print(file=sys.stderr)
        advice = context.how_to_continue()
        return code, f"{what}.{advice}" if advice else what
    if isinstance(error, (RuntimeError, MemoryError)):
        lost = type(error).__name__.startswith("Dist") or any(text in str(error) for text in LOST_CONNECTION)
        if context.joined and lost:
            return 1, "another process of the run has ended."
        advice = _memory_advice(error)
        if advice is not None:
            return 1, advice
    raise error


def _user_message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}."
    message = str(error)
    if message.startswith("Caught "):  # raised in a loader process, whose traceback torch prepends
        return message.rstrip().splitlines()[-1].split(": ", 1)[-1]
    return message


def _is_stdout_closed() -> bool:
    """Return whether the reader of stdout has left, as `head` does, and discard later output if so."""
    try:
        print(flush=True)
        return False
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True


def _memory_advice(error: BaseException) -> str | None:
    """Return what to change when an error means that memory ran out, or None for other errors."""
    text = str(error)
    # torch's own error is recognised by its name, so that torch need not be imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"Out of memory ({first_line(error)}). Pass a smaller --batch-size, --image-size or --backbone."
    if "Too many open files" in text:
        return "Too many files are open. Raise the limit with ulimit -n, or pass fewer --num-workers, or 0 for none."
    if any(sign in text for sign in ("DataLoader worker (pid", "shared memory(shm)", "</torch_")):
        return (
            f"A loader process failed ({_user_message(error).rstrip('.')}), usually because memory or shared memory "
            "(/dev/shm) is short. Pass fewer --num-workers, or 0 for none. In a container, raise --shm-size."
        )
    return None
