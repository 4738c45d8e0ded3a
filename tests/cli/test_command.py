"""The frame of every command: exit codes, one-line errors, and how to continue an interrupted run."""

from __future__ import annotations

import pytest

from cli.command import Context, run_command
from utils import DiskError, UserError


@pytest.fixture
def run_it(capsys):
    """Run a function as a command: exit code, stdout, stderr."""

    def command(action, **context):
        code = run_command(action, Context("train.py", **context))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def raising(error: BaseException):
    def action():
        raise error

    return action


def test_success_is_0(run_it):
    assert run_it(lambda: print("done")) == (0, "done\n", "")


def test_a_user_error_is_one_line_and_2(run_it):
    message = "--lr must be greater than 0. Got 0."
    assert run_it(raising(UserError(message))) == (2, "", f"train.py: {message}\n")


def test_a_missing_file_is_one_line_and_2(run_it, tmp_path):
    code, out, err = run_it(lambda: (tmp_path / "nothing.csv").open())
    assert (code, out) == (2, "")
    assert err.startswith("train.py: ")
    assert str(tmp_path / "nothing.csv") in err
    assert err.count("\n") == 1


def test_an_error_of_a_loader_process_is_shown_without_its_traceback(run_it):
    text = (
        'Caught UserError in DataLoader worker process 0.\nTraceback:\n  File "x.py"\nutils.UserError: a.jpg is empty.'
    )
    assert run_it(raising(UserError(text))) == (2, "", "train.py: a.jpg is empty.\n")


def test_ctrl_c_is_130(run_it):
    code, _, err = run_it(raising(KeyboardInterrupt()))
    assert (code, err) == (130, "\ntrain.py: interrupted\n")


@pytest.mark.parametrize(
    ("words", "started", "advice"),
    [
        (("--cv", "5"), True, "To continue: python train.py --cv 5 --resume"),
        (("--cv", "5", "--resume"), True, "To continue: python train.py --cv 5 --resume"),
        (("--overwrite", "--save-path", "a b"), True, "To continue: python train.py --save-path 'a b' --resume"),
        (("--overwrite",), False, "To try again: python train.py --overwrite"),
    ],
)
def test_an_interrupted_run_says_how_to_continue(run_it, words, started, advice):
    for error, code in ((KeyboardInterrupt(), 130), (DiskError("The disk is full."), 1)):
        found, _, err = run_it(raising(error), words=words, started=started)
        assert found == code
        assert err.endswith(f". {advice}\n")


def test_too_little_memory_says_what_to_pass(run_it):
    code, _, err = run_it(raising(MemoryError()))
    assert code == 1
    assert "--batch-size" in err
    code, _, err = run_it(raising(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")))
    assert code == 1
    assert "--num-workers" in err


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("main"), RuntimeError("cuda"), SystemExit(3)], ids=repr)
def test_a_bug_keeps_its_traceback(run_it, error):
    with pytest.raises(type(error)) as caught:
        run_it(raising(error))
    assert caught.value is error
