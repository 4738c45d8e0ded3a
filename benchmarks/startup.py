"""Measure the time until a command answers: help, wrong options, the first training step, and importing torch.

python benchmarks/startup.py
"""

from side_by_side import ROOT, draw_images, in_turns, machine  # isort: skip

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

# Exits after the first training step.
FIRST_STEP = """
import os, sys, train
from training import fold
train_one_epoch = fold.train_one_epoch
fold.train_one_epoch = lambda *args, **kw: train_one_epoch(*args, **kw | {"after_step": lambda _: os._exit(0)})
train.main(sys.argv[1:])
"""


def main() -> None:
    """Run all in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        images = draw_images(place, 20)
        model = ("--backbone", "efficientnet-b0", "--image-size", "112", "--no-pretrained", "--overwrite")
        train = (str(ROOT / "train.py"), "--train-root")
        first = ("-c", FIRST_STEP, "--train-root", images, "--save-path", place / "models", *model)
        actions = {
            "train.py --help": _run(0, *train[:1], "--help"),
            "train.py, an unknown option": _run(2, *train[:1], "--epoch", "3"),
            "train.py, a missing folder": _run(2, *train, place / "lost"),
            "submit_ensemble.py, a missing folder": _run(2, ROOT / "submit_ensemble.py", "--root", "lost"),
            "train.py, until the first step is done": _run(0, *first),
            "import torch, torchvision": _run(0, "-c", "import torch, torchvision"),
        }
        seconds = in_turns(actions, options.repetitions, torch.device("cpu"))
    print(f"{machine(torch.device('cpu'), 'efficientnet-pytorch')}\n")
    print("| what | seconds | lowest | highest |\n|---|---|---|---|")
    for name, each in seconds.items():
        print(f"| {name} | {statistics.median(each):.2f} | {min(each):.2f} | {max(each):.2f} |")


def _run(code: int, *words: object) -> Callable[[], None]:
    def action() -> None:
        # Into a file: a pipe would stay open until the loader processes have ended, too.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, stdout=output, stderr=output)
            output.seek(0)
            assert done.returncode == code, output.read()

    return action


if __name__ == "__main__":
    main()
