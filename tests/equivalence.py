"""Show that a new checkout does byte for byte what an old one does: both are run on the same things and compared.

    python tests/equivalence.py OLD NEW [--data ROOT] [--people 150] [--work DIR]

Each draws a sample set, trains three small networks on it, looks for wrong labels, predicts, designs an ensemble and
predicts by its recipe, predicts with OLD's checkpoints, and resumes a run that OLD was stopped in. With --data, a
folder that holds train/images/<id>_<gender>_<race>_<age>/ and eval/images, the same is done on the first people of it.
Times, versions, pages and contact sheets may differ, and so may options and scores that only one of the two has.

It takes 2 to 3 minutes per checkout on one core. With --work, the results of OLD stay in DIR/old, and only NEW is run
the next time, as long as OLD and the options are the same. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LOG, MARKER = "commands.log", "finished.json"  # in the folder of a side: what its commands said, and that all are done
SAMPLE = ("sample/data/train/images", "sample/data/images")  # where its images lie, below the folder of a side
REAL = ("photographs/train/images", "photographs/images")  # links
ON_CPU = "--device cpu --num-workers 0"
SMALL = f"--image-size 32 --no-pretrained --epochs 2 --cv 2 --batch-size 16 --seed 7 --top-n 2 --no-report {ON_CPU}"
RESNET = "--task main --model-type VanillaResNet --backbone resnet18 --lr 0.001 --transform-type facecrop --oversample"
JOINT = (
    "--task main --model-type JointHeads --backbone efficientnet-b0 --transform-type random --crop-scale 0.35 "
    "--mirror --mixup 0.2 --logit-adjustment 0.5 --optim-type adamw --lr 0.002 --run-decay 1.5 --lr-scheduler onecycle "
    "--precise-bn 32"
)
AGE = (
    "--task age --model-type VanillaResNet --backbone resnet18 --transform-type tta --optim-type adamp "
    "--lr 0.001 --loss-type smoothl1loss"
)
LIBRARY = "--task mask --model-type VanillaTorchvision --backbone shufflenet_v2_x0_5 --lr 0.001"
CUT = f"train {JOINT} {SMALL} --ema 0.9 --save-every-steps 1 --train-root {SAMPLE[0]} --save-path"
TOLERANCE = 1e-5  # of numbers in tables and summaries: intervals use SciPy's quantiles, rounded ones before
IMAGES = (".jpg", ".jpeg", ".png")
NOT_COMPARED = {  # pages and states hold times
    *("suspects.jpg", "contact_sheet.jpg", ".html", ".state", ".log", MARKER, "cut", "library", "photographs"),
}
TIMES = {"images_per_s", "seconds", "mark"}  # mark: the cheapest row of table.csv is found by images_per_s
LOOSE = ("config.json", "log.csv", "summary.json", "recipe.json")  # may have names that the other side has not
LEFT_OUT = {"seconds", "versions", "digest"}  # digest: the checkpoints are compared themselves

# ------------------------------------------------------------------------------------------------ what is run


def plan(data: bool) -> list[str]:
    """Return the commands of a side, in order, as they are typed in its folder."""
    sample = "make_sample --root sample --people 40 --eval-people 6 --seed 3 --num-workers 0"
    commands = [sample, *on_images("on-sample", *SAMPLE), f"{CUT} resumed --resume"]
    # The networks of a library may change, but not what their checkpoints answer.
    commands.append(f"train {LIBRARY} {SMALL} --train-root {SAMPLE[0]} --save-path library")
    trained = "../old/library/mask/kfold-ensemble-VanillaTorchvision --top-k 2"
    commands.append(f"submit_ensemble --root {trained} --data-root {SAMPLE[1]} {ON_CPU} --save-path of-library")
    return commands + (on_images("on-real", *REAL) if data else [])


def on_images(place: str, train_root: str, data_root: str) -> list[str]:
    """Return the commands that train and predict on some images and save below `place`."""
    resnet, joint = (f"{place}/models/main/kfold-ensemble-{name}" for name in ("VanillaResNet", "JointHeads"))
    age, both = f"{place}/models/age/kfold-ensemble-VanillaResNet", f"{place}/ensembles/main/both/recipe.json"
    design = f"--task main --top-k 2 --tta 2 --calibrate --name both --save-path {place}/ensembles {ON_CPU}"
    predict = f"--data-root {data_root} {ON_CPU} --save-path {place}"
    return [
        *(f"train {run} {SMALL} --train-root {train_root} --save-path {place}/models" for run in (RESNET, JOINT, AGE)),
        f"find_label_errors --root {resnet}",
        f"submit_ensemble --root {resnet} --top-k 2 --tta 2 {predict}/soft",
        f"submit_ensemble --root {age} --top-k 2 --tta 2 {predict}/soft",
        f"submit_ensemble --root {joint} --top-k 2 --method hardvoting {predict}/hard",
        f"submit_singular --load-state-dict {joint}/fold00/*.pt {predict}/one",  # the first one
        f"design_ensemble --root {resnet},{joint} {design}",
        f"submit_ensemble --recipe {both} {predict}/recipe",
        f"submit_ensemble --root ../old/{joint} --top-k 1 --tta 2 {predict}/of-old",
    ]


@dataclass(frozen=True)
class Side:
    """A checkout, and the folder that its commands are run in: paths are the same on both sides, as they are typed."""

    checkout: Path
    folder: Path

    def start(self, command: str) -> subprocess.Popen:
        """Start a command: a script at the root of the checkout, or where there is none one of its tools."""
        name, *words = command.split()
        script = self.checkout / f"{name}.py"
        program = [str(script)] if script.is_file() else ["-m", "tools", name]
        words = [min(map(str, self.folder.glob(word))) if "*" in word else word for word in words]
        search = os.pathsep.join(filter(None, (str(self.checkout), os.environ.get("PYTHONPATH"))))
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}
        said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, *program, *words], cwd=self.folder, env=os.environ | own, **said)

    def run(self, command: str, *, stop: bool = False) -> None:
        """Run a command to its end, or stop a training within its second epoch; exit if it fails."""
        begun, process = time.monotonic(), self.start(command)
        if stop and any("epoch   1/" in line for line in process.stdout):  # reads on until then
            process.send_signal(signal.SIGTERM)
        said = process.communicate()[0]
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{command}\n{said}\n")
        if process.returncode != (128 + signal.SIGTERM if stop else 0):
            raise SystemExit(f"{command}\nof {self.checkout} ended with {process.returncode}:\n{said[-3000:]}")
        print(f"{self.folder.name}: {command[:90]} ... {time.monotonic() - begun:.0f} s", flush=True)

    def run_all(self, commands: Sequence[str], old: Side, data: Path | None, people: int) -> None:
        """Run all commands in a new folder; the run to take up is the one that `old` was stopped in."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / LOG).touch()
        if data:
            link(data / "train/images", self.folder / REAL[0], people)
            link(data / "eval/images", self.folder / REAL[1], 2 * people)
        for command in commands:
            if "--resume" in command:
                if self is old:
                    self.run(f"{CUT} cut", stop=True)
                shutil.copytree(old.folder / "cut", self.folder / "resumed")
            self.run(command)


def link(source: Path, place: Path, count: int) -> None:
    """Link the first entries of a folder in another one."""
    place.mkdir(parents=True)
    for path in sorted(path for path in source.iterdir() if not path.name.startswith("."))[:count]:
        (place / path.name).symlink_to(path)


def identity(checkout: Path, *more: object) -> str:
    """Return a text that is equal for equal code, libraries and arguments."""
    files = [path for path in sorted(checkout.rglob("*.py")) if path.relative_to(checkout).parts[0] != "tests"]
    code = digest(b"".join(path.read_bytes() for path in files))
    return json.dumps([code, sys.version, torch.__version__, *map(str, more)])


# ------------------------------------------------------------------------------------------------ what is compared


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def without(value: Any, names: set[str]) -> Any:
    """Return plain values without the entries of these names, however deep they lie."""
    if isinstance(value, dict):
        return {name: without(inner, names) for name, inner in value.items() if name not in names}
    return [without(inner, names) for inner in value] if isinstance(value, list | tuple) else value


def content_of(path: Path, folders: Sequence[Path]) -> Any:
    """Return the content of a file that must not differ, without the folders of the sides."""
    if path.name in ("log.csv", "table.csv"):
        read = number_or_text if path.name == "table.csv" else str
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{name: read(cell) for name, cell in row.items() if name not in TIMES} for row in rows]
    if path.suffix == ".pt":
        saved = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: tensor.contiguous().numpy() for name, tensor in saved.pop("state_dict").items()}
        tensors = {name: f"{each.dtype} {each.shape} {digest(each.tobytes())}" for name, each in weights.items()}
        return {**without(saved, LEFT_OUT), "state_dict": tensors}
    if path.suffix == ".json" and path.name != "split.json":
        text = path.read_text("utf-8")
        for folder in folders:
            text = text.replace(str(folder), "...")
        return without(json.loads(text), LEFT_OUT)
    return digest(path.read_bytes())


def number_or_text(text: str) -> float | str:
    """Return the number in a cell of a table, or the cell as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def differences(old: Any, new: Any, where: str = "", notes: set[str] | None = None) -> Iterator[str]:
    """Yield where two contents differ; with `notes`, names that only one has do not count and are noted there."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        close = isinstance(old, float) and isinstance(new, float) and math.isclose(old, new, rel_tol=TOLERANCE)
        if repr(old) != repr(new) and not close:  # so that NaN is NaN, and 1 is not 1.0
            yield f"{where or 'content'} was {str(old)[:80]} and is {str(new)[:80]}"
        return
    for name in sorted(old.keys() | new.keys()):
        path = f"{where}.{name}".lstrip(".")
        if name in old and name in new:
            yield from differences(old[name], new[name], path, None if name == "state_dict" else notes)
        elif notes is None:
            yield f"{path} is only in {'OLD' if name in old else 'NEW'}"
        else:
            notes.add(f"{name} is only in {'OLD' if name in old else 'NEW'}")


def contents(folder: Path, folders: Sequence[Path]) -> dict[str, tuple[Any, int]]:
    """Return the content and size of the files of a side by name; the drawn images are one entry."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = path.relative_to(folder)
        if path.name.startswith(".") or {inside.parts[0], path.name, path.suffix} & NOT_COMPARED:
            continue
        name, content = f"{path.name} of {inside.parent.as_posix()}", content_of(path, folders)
        size = path.stat().st_size
        if path.suffix.lower() in IMAGES:
            name = f"photographs of {inside.parts[0]}"
            others, more = found.get(name, ({}, 0))
            content, size = {**others, inside.as_posix(): content}, size + more
        found[name] = content, size
    return found


def compare(folders: tuple[Path, Path]) -> tuple[int, int]:
    """Compare the files of two sides, a line each; return the number of comparisons and of differences."""
    old, new = (contents(folder, folders) for folder in folders)
    wrong, notes = 0, set[str]()
    for name in old | new:
        loose = name.startswith(LOOSE) or ".pt of " in name
        if name in old and name in new:
            found = list(differences(old[name][0], new[name][0], notes=notes if loose else None))
        else:
            found = [f"only {'OLD' if name in old else 'NEW'} has it"]
        if found:
            wrong += 1
            print(f"DIFFERENT: {name}: {'; '.join(found[:5])}{f' and {len(found) - 5} more' if found[5:] else ''}")
        else:
            print(f"same: {name} ({new[name][1]:,} bytes)")
    for note in sorted(notes):
        print(f"note: {note}")
    return len(old | new), wrong


def main() -> int:
    """Run both checkouts, or NEW alone where OLD's results are there, and compare what they left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the checkout that is right")
    parser.add_argument("new", type=Path, help="the checkout that has to do the same")
    parser.add_argument("--data", type=Path, help="a data set to try both on, too (default: none)")
    parser.add_argument("--people", type=int, default=150, help="people of it to train on (default: 150)")
    parser.add_argument("--work", type=Path, help="folder to keep all files in (default: none are kept)")
    chosen = parser.parse_args()
    data, commands = chosen.data and chosen.data.resolve(), plan(chosen.data is not None)
    with tempfile.TemporaryDirectory() as temporary:
        work = (chosen.work or Path(temporary)).resolve()
        old, new = Side(chosen.old.resolve(), work / "old"), Side(chosen.new.resolve(), work / "new")
        for folder in (old.folder, new.folder):
            if folder.exists() and not (folder / LOG).is_file():
                raise SystemExit(f"{folder} was not made by this command; pass another --work.")
        about, marker = identity(old.checkout, commands, data, chosen.people), old.folder / MARKER
        if marker.is_file() and marker.read_text("utf-8") == about:
            print(f"OLD was run earlier: {old.folder}")
        else:
            old.run_all(commands, old, data, chosen.people)
            marker.write_text(about, "utf-8")
        new.run_all(commands, old, data, chosen.people)
        count, wrong = compare((old.folder, new.folder))
    print(f"{count} compared, {wrong} different")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
