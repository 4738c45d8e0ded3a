"""Measure training, prediction, resuming and memory on a GPU with one command, and print one Markdown table.

    pip install timm
    python benchmarks/gpu.py                                 8 minutes at most
    python benchmarks/gpu.py --parts ensemble compiled       only the parts with these words in their names
    python benchmarks/gpu.py --before ../earlier             also trains with a clone of an earlier commit, in turns
    python benchmarks/gpu.py --device cpu --quick            tries the script; the sizes are too small for figures

Each part runs in processes of its own, and its rows are printed when they are known. A part that fails or takes too
long has a row with the reason. Later parts get the time that a part leaves. Images are drawn, of 384 x 512 pixels.
"""

# First: it makes the modules of the toolkit importable.
from side_by_side import ROOT, draw_images, machine, time_ratios  # isort: skip

import argparse
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from training.device import choose_device

Rows = Iterator[tuple[str, str, str]]  # what, median or value, range
ALONE = "arithmetic captured"  # forward, backward and step on one batch in the GPU's memory, as a CUDA graph
PEOPLE = 300, 700  # few and many, with seven images each
GPU_ONLY = ("--batch-size",)  # in the names of parts
QUICK = (" 32", "resnet18", "train.py", "bits", "size", "ensemble")  # those of --quick


class PartError(Exception):
    """A part of the measurements failed; the message is the reason."""


@dataclass(frozen=True)
class Place:
    """The options, folders of many drawn people and of a few of them, and the folder and the deadline of a part."""

    options: argparse.Namespace
    few: Path
    many: Path
    folder: Path
    deadline: float  # of time.monotonic

    def run(self, *words: object, codes: Sequence[int] = (0,), stop_at: str | None = None) -> list[str]:
        """Run a command to its end and return its lines; `stop_at` sends SIGTERM once a line contains it."""
        command = [sys.executable, "-u", *map(str, words), "--device", self.options.device]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        lines = []
        with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
            end = threading.Timer(self.deadline - time.monotonic(), _kill, [process])
            end.start()
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    if stop_at is not None and stop_at in line:
                        process.send_signal(signal.SIGTERM)
                code = process.wait()
            finally:
                end.cancel()
                _kill(process)  # and loader processes that an error left
        if time.monotonic() >= self.deadline:
            raise PartError("out of time")
        if code not in codes:
            errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
            raise PartError((errors or lines[-1:] or [f"exit code {code}"])[0])
        return lines

    def train(self, name: str, *words: object, **options) -> tuple[Path, list[str]]:
        """Train a run of this name on all images from random weights; return its --save-path and the lines."""
        save = self.folder / name
        common = ("--train-root", self.many, "--no-pretrained", "--no-report", "--save-path", save)
        return save, self.run("train.py", *common, *words, **options)

    def compare(self, script: str, root: Path, *words: object, repetitions: int = 1) -> Rows:
        """Run another benchmark; yield its speeds and the ratios of its times."""
        results = self.folder / "seconds.json"
        common = ("--images-root", root, "--json", results, "--repetitions", repetitions)
        self.run(f"benchmarks/{script}", *words, *common)
        found = json.loads(results.read_text(encoding="utf-8"))
        seconds, images = found["seconds"], found["images"]
        for name, each in seconds.items():
            yield f"{name}, images/s", *_spread([images / one for one in each], 1)
        for names, each in time_ratios(seconds):
            yield names, *_spread(each, 3)


def _kill(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _spread(values: Sequence[float], digits: int) -> tuple[str, str]:
    return f"{statistics.median(values):.{digits}f}", f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def main() -> None:
    """Run the parts one after another and print their rows."""
    options = make_parser().parse_args()
    end = time.monotonic() + 60 * (options.minutes or (3 if options.quick else 8))
    device = choose_device(options.device)
    options.device = str(device)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{machine(device, 'timm', 'efficientnet-pytorch')}, commit {commit.strip() or 'unknown'}\n")
    if options.quick:
        print("With --quick, networks, images and batches are smaller than the names of the parts.\n")
    print("| part | what | median | range |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            many, few = draw_images(Path(folder), 12 if options.quick else PEOPLE[1]), Path(folder) / "few"
            few.mkdir()
            for person in sorted(many.iterdir())[: PEOPLE[0]]:
                (few / person.name).symlink_to(person)
        until = time.monotonic()
        for name, (seconds, measure) in parts().items():
            if not any(part in name for part in options.parts or (QUICK if options.quick else [""])):
                continue
            if device.type != "cuda" and any(part in name for part in GPU_ONLY):
                print(f"| {name} | needs a GPU | | |", flush=True)
                continue
            until += seconds
            own = Path(tempfile.mkdtemp(dir=folder))
            try:
                for row in measure(Place(options, few, many, own, min(until, end))):
                    print(f"| {name} | {' | '.join(cell.replace('|', '/') for cell in row)} |", flush=True)
            except (PartError, OSError, LookupError, ValueError) as error:
                print(f"| {name} | failed: {str(error).replace('|', '/')} | | |", flush=True)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--minutes", type=float, help="time for everything; by default 8, or 3 with --quick")
    parser.add_argument("--before", type=Path, help="clone of an earlier commit, to measure its training too")
    parser.add_argument("--parts", nargs="+", help="words in the names of the parts to run; by default all run")
    return parser


def parts() -> dict[str, tuple[int, Callable[[Place], Rows]]]:
    """Return the seconds and the function of each part; compiling, which may take longest, comes last.

    On an H200 each process needs half a minute before its first repetition, mostly for compiling in cuDNN.
    """
    b3 = {size: partial(train_loops, "efficientnet-b3", 224, size) for size in (32, 128)}
    return {
        "b3, batches of 32": (110, partial(b3[32], ("ours", ALONE, "timm, tuned"))),
        "b3, batches of 128": (80, partial(b3[128], ("ours", ALONE))),
        "resnet18, 112 px, batches of 128": (60, partial(train_loops, "resnet18", 112, 128, ("ours", ALONE))),
        "train.py, strong, b0, 112 px": (110, train_strong),
        "bits of checkpoints": (60, same_bits),
        "--batch-size": (40, batch_sizes),
        "ensemble, b3, 10 members x 2 views": (90, ensemble),
        "b3, compiled, batches of 32": (90, partial(b3[32], ("timm, compiled", "ours"))),
    }


# ------------------------------------------------------------------------------------------------ parts


def train_loops(backbone: str, size: int, batch: int, names: Sequence[str], place: Place) -> Rows:
    """Compare loops of training.py, and with --before train with the earlier commit, too."""
    options = place.options
    root, count = (place.few, PEOPLE[0]) if batch < 128 else (place.many, PEOPLE[1])  # about 65 and 38 steps
    if options.quick:
        backbone, size, batch, count = "resnet18", 64, batch // 4, 12
    if options.device == "cpu":
        names = ["arithmetic alone" if name == ALONE else name for name in names]
    if find_spec("timm") is None:
        names = [name for name in names if not name.startswith("timm")]
    words = ("--backbone", backbone, "--image-size", size, "--batch-size", batch, "--people", count)
    if options.before and "timm, compiled" not in names:
        words += ("--before", options.before.resolve())
    yield from place.compare("training.py", root, *words, "--only", *names, repetitions=1 if options.quick else 2)


def train_strong(place: Place) -> Rows:
    """Time the whole command, its epochs, and the additional time of the first epochs of the run and of later folds."""
    size, epochs = (32, 2) if place.options.quick else (112, 5)
    words = ("--preset", "strong", "--backbone", "efficientnet-b0", "--image-size", size, "--cv", 3, "--epochs", epochs)
    begun = time.monotonic()
    save, _ = place.train("strong", *words)
    yield "the command, seconds", f"{time.monotonic() - begun:.1f}", ""
    (path,) = save.glob("main/*/log.csv")
    log = pd.read_csv(path)
    yield "epochs, images/s", _spread(log["images_per_s"], 0)[0], " ".join(f"{v:.0f}" for v in log["images_per_s"])
    later = log.loc[log["epoch"] > 1, "seconds"]
    yield "later epochs, seconds", *_spread(later, 2)
    first, *others = log.loc[log["epoch"] == 1, "seconds"] - later.median()
    yield "first epoch of the run - later epochs, seconds", f"{first:.2f}", ""
    yield "first epochs of later folds - later epochs, seconds", *_spread(others, 2)


def same_bits(place: Place) -> Rows:
    """Train the same again, without CUDA graphs, and with a stop in the second epoch, and compare the checkpoints."""
    words = ("--model-type", "VanillaResNet", "--backbone", "resnet18", "--image-size", 64, "--cv", 2, "--folds", 0)
    words += ("--epochs", 2, "--deterministic", "--batch-size", 8 if place.options.quick else 32)
    runs = {"once": (), "twice": (), "eager": ("--no-cuda-graphs",)}
    with ThreadPoolExecutor() as pool:  # all at once: nothing is timed
        places = pool.map(lambda name: place.train(name, *words, *runs[name])[0], runs)
        once, twice, eager = map(_digests, places)
    count = f"{len(once)} checkpoints"
    yield "the same run twice, --deterministic", "same" if once == twice else "different", count
    yield "without CUDA graphs", "same" if once == eager else "different", count
    _, lines = place.train("cut", *words, "--save-every-steps", 2, codes=(143,), stop_at="epoch   1/2")
    resumed = _digests(place.train("cut", *words, "--save-every-steps", 2, "--resume")[0])
    yield f"resumed: {lines[-1].partition(' To continue')[0]}", "same" if once == resumed else "different", count


def _digests(save: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in save.rglob("*.pt")}


def batch_sizes(place: Place) -> Rows:
    """Print the size that --batch-size auto chooses, and the advice if 4096 images do not fit."""
    words, said = ("--preset", "strong", "--epochs", 1, "--cv", 5, "--folds", 0), "--batch-size auto:"
    _, lines = place.train("auto", *words, "--batch-size", "auto", codes=(143, -signal.SIGTERM), stop_at=said)
    yield "auto", next(line for line in lines if said in line), ""
    _, lines = place.train("4096", *words, "--batch-size", 4096, codes=(0, 2))
    yield "4096", next((line for line in lines if "does not fit" in line), "fits"), ""


def ensemble(place: Place) -> Rows:
    """Compare ways to predict of ensemble.py."""
    words = ("--backbone", "efficientnet-b3", "--image-size", 224, "--images", 700, "--batch-size", 256)
    if place.options.quick:
        words = ("--image-size", 64, "--images", 16, "--batch-size", 16, "--members", 2)
    yield from place.compare("ensemble.py", place.few, *words)


if __name__ == "__main__":
    main()
