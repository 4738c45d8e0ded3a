"""Time until a command answers: help, wrong options, the first training step; compared with importing torch.

python benchmarks/startup.py
"""

from __future__ import annotations

from side_by_side import ROOT, in_turns, machine, photographs  # isort: skip

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

REPETITIONS = 5
# Leaves when the first step of training is done.
FIRST_STEP = """
import os, sys, train
from training import fold
train_one_epoch = fold.train_one_epoch
fold.train_one_epoch = lambda *args, **kw: train_one_epoch(*args, **kw | {"after_step": lambda _: os._exit(0)})
train.main(sys.argv[1:])
"""


def main() -> None:
    """Run all in turns and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        faces = photographs(place, 20)
        model = ("--backbone", "efficientnet-b0", "--image-size", "112", "--no-pretrained", "--overwrite")
        train = (str(ROOT / "train.py"), "--train-root")
        first = ("-c", FIRST_STEP, "--train-root", faces, "--save-path", place / "models", *model)
        actions = {
            "train.py --help": _run(0, *train[:1], "--help"),
            "train.py, an option that is not there": _run(2, *train[:1], "--epoch", "3"),
            "train.py, a folder that is not there": _run(2, *train, place / "lost"),
            "submit_ensemble.py, a folder that is not there": _run(2, ROOT / "submit_ensemble.py", "--root", "lost"),
            "train.py, until the first step is done": _run(0, *first),
            "import torch, torchvision": _run(0, "-c", "import torch, torchvision"),
        }
        seconds = in_turns(actions, REPETITIONS, torch.device("cpu"))
    print(f"{machine(torch.device('cpu'), 'efficientnet-pytorch')}\n")
    print("| what | seconds | lowest | highest |\n|---|---|---|---|")
    for name, each in seconds.items():
        print(f"| {name} | {statistics.median(each):.2f} | {min(each):.2f} | {max(each):.2f} |")


def _run(code: int, *words: object) -> Callable[[], None]:
    def action() -> None:
        # Into a file: a pipe would be read until the loader processes, too, have noticed that the command has left.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, stdout=said, stderr=said)
            said.seek(0)
            assert done.returncode == code, said.read()

    return action


if __name__ == "__main__":
    main()
