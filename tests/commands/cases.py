"""Records and helpers of the tests of inputs that are broken, missing or do not fit."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

NETWORK = "VanillaTorchvision"
PREDICT = "--data-root {images} --save-path {prediction} --num-workers 0 --device cpu"
COMMANDS = {
    "check_data": "--train-root {train} --cv 2",
    "train": "{tiny_training} --task gender --train-root {train} --save-path {saved}",
    "submit_singular": f"--load-state-dict {{checkpoint}} {PREDICT}",
    "submit_ensemble": f"--root {{folds}} --top-k 1 {PREDICT}",
    "score_submission": "--submission {submission} --answers {answers}",
}
DONE = {  # printed by a command that succeeds
    "check_data": r"Ready to train",
    "train": r"Saved in ",
    "submit_singular": r"submission\.csv",
    "submit_ensemble": r"submission_arithmetic\.csv",
    "score_submission": r"accuracy|MAE",
}
TRAINING, PREDICTION = "check_data train", "submit_singular submit_ensemble"
WEIGHTS, ALL = f"train {PREDICTION}", f"{TRAINING} {PREDICTION}"
BARE = f"--task gender --model-type {NETWORK} --backbone shufflenet_v2_x0_5 --image-size 32"


@dataclass(frozen=True)
class Case:
    """One input: `breaks` puts it into the fixture `world`, `words` are more options, which may name places there.

    `pattern` is searched in stderr, or in stdout if `code` is 0. An error has `lines` lines, one a problem.
    """

    id: str
    pattern: str
    breaks: Callable[[SimpleNamespace], object] = lambda world: None
    words: str = ""
    to: str = ""  # commands; those of all rows if empty
    code: int = 2
    lines: int = 1


def rows(to: str, *cases: Case):
    """Parametrize a test with every case and each of its commands."""
    each = [(case, command) for case in cases for command in (case.to or to).split()]
    marks = [pytest.param(case, command, id=f"{case.id}-{command}".replace(" ", "-")) for case, command in each]
    return pytest.mark.parametrize(("case", "command"), marks)


def give_case(give, case, command, world):
    case.breaks(world)
    return give(command, case.words, pattern=case.pattern, code=case.code, lines=case.lines)


def assert_error(printed, pattern, lines=1):
    """Assert that a command ended with exit code 2 and this message, and without a traceback."""
    assert printed.code == 2, printed
    assert "Traceback" not in printed.err
    assert re.search(pattern, printed.err), printed.err
    assert len(printed.err.splitlines()) == lines, printed.err
