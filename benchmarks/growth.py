"""Time and peak memory of prediction as photographs and members grow: in a straight line, or not at all.

    python benchmarks/growth.py

Runs submit_ensemble.py on drawn portraits of 384 x 512 pixels (links to 252 of them), in a process of its own each
time; the time is that of the command without its imports. The slopes are what each photograph, or each member of 500
photographs, adds between two sizes.
"""

from __future__ import annotations

from side_by_side import in_turns, machine, parser, photographs  # isort: skip

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from side_by_side import ROOT

from training.device import choose_device

IMAGES, MEMBERS = (250, 1000, 4000), (1, 5, 20)
CHILD = """
import json, resource, sys, time
import submit_ensemble, prediction
start = time.perf_counter()
assert submit_ensemble.main(sys.argv[1:]) == 0
kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024
print(json.dumps([time.perf_counter() - start, peak]))
"""


def main() -> None:
    """Train 5 folds of 4 checkpoints, predict with them in turns, and print the table."""
    options = parser(__doc__, batch_size=64).parse_args()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        faces = photographs(place, 36)
        network = ("--backbone", options.backbone, "--image-size", options.image_size, "--no-pretrained")
        training = ("--cv", 5, "--epochs", 4, "--top-n", 4, "--lr", 0.0001, "--device", device)
        words = ("--train-root", faces, "--save-path", place / "models", *network, *training)
        subprocess.run([sys.executable, ROOT / "train.py", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[list[float]]] = {}
        actions = {}
        for images in IMAGES:
            actions[f"{images} photographs, 5 members"] = ("--top-k", 1, *_linked(place, faces, images))
        for members in MEMBERS:
            ensemble = {1: ("--top-k", 1, "--folds", 0), 5: ("--top-k", 1), 20: ("--top-k", 4)}[members]
            actions[f"500 photographs, {members} members"] = (*ensemble, *_linked(place, faces, 500))
        shared = ("--root", place / "models", "--save-path", place / "prediction", "--device", device)
        sizes = ("--batch-size", options.batch_size)
        in_turns(
            {name: _run(found.setdefault(name, []), *shared, *sizes, *own) for name, own in actions.items()},
            options.repetitions,
            device,
        )
    print(f"{machine(device, 'efficientnet-pytorch')}\n")
    print(f"{options.backbone} at {options.image_size} px, batches of {options.batch_size}, 1 view\n")
    print("| what | seconds | lowest | highest | peak memory, MB |\n|---|---|---|---|---|")
    for name, each in found.items():
        seconds, peaks = zip(*each[1:], strict=True)  # the first is the unmeasured one
        middle = f"{statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f}"
        print(f"| {name} | {middle} | {statistics.median(peaks):.0f} |")
    print()
    names = list(found)
    _slopes("photograph", [found[name][1:] for name in names[:3]], IMAGES)
    _slopes("member", [found[name][1:] for name in names[3:]], MEMBERS)


def _linked(place: Path, faces: Path, count: int) -> tuple[object, ...]:
    folder = place / str(count) / "images"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        files = sorted(faces.rglob("*.jpg"))
        for number in range(count):
            os.link(files[number % len(files)], folder / f"{number:06d}.jpg")
    return "--data-root", folder


def _run(found: list[list[float]], *words: object) -> Callable[[], None]:
    def action() -> None:
        command = [sys.executable, "-c", CHILD, *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))

    return action


def _slopes(what: str, found: list[list[list[float]]], sizes: tuple[int, ...]) -> None:
    """What each more adds from the first size to the second and from there to the third, and the ratio of the two."""
    ratios = []
    for small, middle, large in zip(*found, strict=True):
        early = (middle[0] - small[0]) / (sizes[1] - sizes[0])
        ratios.append((large[0] - middle[0]) / (sizes[2] - sizes[1]) / early)
    print(
        f"- each {what} from {sizes[1]} to {sizes[2]} / from {sizes[0]} to {sizes[1]}: "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
