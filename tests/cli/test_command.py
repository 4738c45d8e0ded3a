"""The frame of every command: exit codes, one-line errors, and how to continue an interrupted run."""

import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from cli.command import Context, run_command
from cli.interrupts import Interrupted, StopRequest, note_progress
from utils import ROOT, DiskError, UserError


@pytest.fixture
def run_raising(capsys):
    """Run a function that raises an error as a command: exit code, stdout, stderr."""

    def command(error, **context):
        def action():
            raise error

        code = run_command(action, Context("train.py", **context))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def test_success_is_exit_code_0(capsys):
    assert run_command(lambda: print("done"), Context("train.py")) == 0
    assert capsys.readouterr() == ("done\n", "")


NO_SHM = "Caught RuntimeError in DataLoader worker process 0.\n  x.py\nRuntimeError: unable to write to file </torch_1>"
IN_WORKER = "Caught UserError in DataLoader worker process 0.\nTraceback:\n  x.py\nutils.UserError: a.jpg is empty."


@pytest.mark.parametrize(
    ("error", "code", "pattern"),
    [
        (UserError("--lr must be greater than 0. Got 0."), 2, r"--lr must be greater than 0\. Got 0\."),
        (UserError(IN_WORKER), 2, r"a\.jpg is empty\."),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), 2, r"a\.csv: No such file or directory\."),
        (DiskError("The disk is full."), 1, r"The disk is full\."),
        (OSError(28, "No space left on device", "a.csv"), 1, r"a\.csv could not be written \(No space.*MB are left.*"),
        (MemoryError(), 1, "Out of memory .* --batch-size.*"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, ".*--num-workers.*"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space"), 1, ".*--shm-size.*"),
        (RuntimeError("unable to open file </torch_1>: Too many open files (24)"), 1, ".*ulimit -n.*--num-workers.*"),
        (RuntimeError(NO_SHM), 1, r"A loader process failed \(unable to write to file .*--shm-size\."),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_of_the_user_or_the_machine_is_one_line(error, code, pattern, run_raising):
    found, out, err = run_raising(error)
    assert (found, out) == (code, "")
    assert re.fullmatch(f"\n?train.py: {pattern}\n", err), err


@pytest.mark.parametrize(
    ("words", "started", "advice"),
    [
        (("--cv", "5"), True, "To continue: python train.py --cv 5 --resume"),
        (("--cv", "5", "--resume"), True, "To continue: python train.py --cv 5 --resume"),
        (("--overwrite", "--save-path", "a b"), True, "To continue: python train.py --save-path 'a b' --resume"),
        (("--overwrite",), False, "To try again: python train.py --overwrite"),
    ],
)
def test_an_interrupted_run_prints_how_to_continue(words, started, advice, run_raising):
    for error, code in ((KeyboardInterrupt(), 130), (DiskError("The disk is full."), 1)):
        found, _, err = run_raising(error, words=words, started=started)
        assert found == code
        assert err.endswith(f". {advice}\n")


def test_the_command_to_continue_works_in_other_folders(run_raising, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, err = run_raising(KeyboardInterrupt(), words=("--cv", "5"))
    assert err.endswith(f"To continue: python {shlex.quote(str(ROOT / 'train.py'))} --cv 5 --resume\n")


def test_a_python_without_the_packages_says_how_to_get_them():
    found = subprocess.run([sys.executable, "-I", "-S", ROOT / "train.py"], capture_output=True, text=True)
    assert found.returncode == 1
    assert re.fullmatch(
        r"\S*python\S* has no numpy, .*torch.*\. Activate .* -m pip install -r requirements\.txt\n", found.stderr
    )


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("main"), RuntimeError("cuda"), SystemExit(3)], ids=repr)
def test_a_bug_keeps_its_traceback(error, run_raising):
    with pytest.raises(type(error)) as caught:
        run_raising(error)
    assert caught.value is error


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no alarm")
def test_a_step_that_never_ends_is_interrupted_some_time_after_a_signal(monkeypatch):
    monkeypatch.setattr("cli.interrupts.LAST_STEP", 0.05)
    with pytest.raises(Interrupted) as stopped, StopRequest():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(10)
    assert (stopped.value.code, stopped.value.what.count("nothing happened")) == (143, 1)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGALRM)  # somebody else's
        signal.raise_signal(signal.SIGTERM)
        for _ in range(4):
            time.sleep(0.03)
            note_progress()  # a batch
        assert stop.take() == signal.SIGTERM
        time.sleep(0.1)  # for saving, which may take longer
