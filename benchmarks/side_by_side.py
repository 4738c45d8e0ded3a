"""Shared parts of the benchmarks: drawn images, measurements in turns, and a description of the machine."""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

CHECKOUT = "SIDE_BY_SIDE_CHECKOUT"  # set in processes that measure another checkout
ROOT = Path(os.environ.get(CHECKOUT) or Path(__file__).resolve().parents[1])
sys.path.insert(0, str(ROOT))

from cli.options import configure_libraries  # noqa: E402

AS_INSTALLED = "SIDE_BY_SIDE_AS_INSTALLED"  # set in processes that must not change the settings of libraries
BEFORE = dict(os.environ)  # before our settings
if AS_INSTALLED not in os.environ:
    configure_libraries()  # before torch and Pillow are imported, as the commands do

import torch  # noqa: E402

from cli.choices import RESNETS  # noqa: E402
from data.faces import FACES, MAIN  # noqa: E402
from model import Network, create_model  # noqa: E402
from tools.__main__ import main as run_tool  # noqa: E402
from utils import count_cores  # noqa: E402

RATIOS = (  # the first of each pair should take longer
    *(("timm, defaults", "ours"), ("timm, defaults", "ours, no cache")),
    *(("timm, tuned", "ours"), ("timm, tuned", "ours, no cache"), ("timm, compiled", "ours"), ("torchvision", "ours")),
    *(("ours, before", "ours"), ("ours", "arithmetic captured")),
    *(("ours", "arithmetic alone"), ("ours, cache cold", "arithmetic alone")),
    *(("ours, no cache", "arithmetic alone"), ("arithmetic alone", "arithmetic captured")),
    *(("usual", "ours"), ("ours", "passes alone")),
)


def parser(about: str, *, batch_size: int) -> argparse.ArgumentParser:
    """Return a parser of the shared options; `about` is the docstring of the benchmark."""
    shared = argparse.ArgumentParser(description=about.splitlines()[0])
    shared.add_argument("--backbone", default="efficientnet-b0")
    shared.add_argument("--image-size", type=int, default=112)
    shared.add_argument("--batch-size", type=int, default=batch_size)
    shared.add_argument("--repetitions", type=int, default=5)
    shared.add_argument("--device", default="auto")
    shared.add_argument("--images-root", type=Path, help="--train-root of images drawn earlier")
    shared.add_argument("--json", type=Path, help="file for the seconds of each repetition")
    return shared


def create(backbone: str, size: int) -> Network:
    """Return one of our networks with random weights."""
    options = {"backbone": backbone, "image_size": size, "pretrained": False}
    name = "VanillaResNet" if backbone in RESNETS else "VanillaEfficientNet"
    return create_model(name, task=MAIN, tasks=FACES, **options)


def draw_images(folder: Path, people: int) -> Path:
    """Draw portraits of 384 x 512 pixels, seven per person, and return their --train-root."""
    code = run_tool(["make_sample", "--root", str(folder / "input"), "--people", str(people), "--eval-people", "1"])
    assert code == 0
    return folder / "input" / "data" / "train" / "images"


def in_turns(
    actions: dict[str, Callable[[], object]], repetitions: int, device: torch.device, *, warm: bool = False
) -> dict[str, list[float]]:
    """Return the seconds that each action took in each repetition.

    All actions run once before the first measurement, unless they are warm, and then in turns, in a new order each
    time, so that what an action leaves behind, such as freed memory, does not always affect the same other action.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for repetition in range(int(warm), repetitions + 1):
        for name in random.Random(repetition).sample(list(actions), len(actions)):
            start = time.perf_counter()
            actions[name]()
            _finish(device)
            if repetition:
                seconds[name].append(time.perf_counter() - start)
        print(f"repetition {repetition} of {repetitions}", file=sys.stderr, flush=True)
    return seconds


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_processes(
    makers: dict[str, Callable[[], Callable[[], object]]],
    repetitions: int,
    device: torch.device,
    *,
    as_installed: Collection[str] = (),
    checkouts: Mapping[str, Path] | None = None,
) -> dict[str, list[float]]:
    """Measure actions as `in_turns` does, each in a process of its own that waits for its turn.

    They first run once at the same time, since on a GPU cuDNN may compile for half a minute in each.

    Args:
        makers: functions that return the actions; a process needs functions of modules, or `functools.partial` of them.
        repetitions: measurements of each action.
        device: the device to wait for.
        as_installed: names of actions that run without our settings of libraries.
        checkouts: for some actions another checkout, whose modules they import.
    """
    context = multiprocessing.get_context("spawn")
    ours, connections, processes = dict(os.environ), {}, []
    try:
        for name, make in makers.items():
            connections[name], theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(make, theirs, device)))
            os.environ.clear()
            os.environ.update({**BEFORE, AS_INSTALLED: "1"} if name in as_installed else ours)
            os.environ.update({CHECKOUT: str(checkouts[name])} if name in (checkouts or {}) else {})
            processes[-1].start()
            theirs.close()
        for connection in connections.values():
            connection.send(True)
        for connection in connections.values():
            connection.recv()
        turns = {name: lambda connection=connection: _ask(connection) for name, connection in connections.items()}
        return in_turns(turns, repetitions, torch.device("cpu"), warm=True)  # the processes wait for their device
    finally:
        os.environ.clear()
        os.environ.update(ours)
        for connection in connections.values():
            connection.close()
        for process in processes:
            process.join()


def _ask(connection: Connection) -> None:
    connection.send(True)
    connection.recv()


def _serve(make: Callable[[], Callable[[], object]], connection: Connection, device: torch.device) -> None:
    # A spawned process would also spawn its loader processes, which is slower than the default.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    action = make()
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        action()
        _finish(device)
        connection.send(True)


def print_times(seconds: dict[str, list[float]], images: int, file: Path | None) -> None:
    """Print images per second and ratios of times, median and range over repetitions; write the times to `file`."""
    if file is not None:
        file.write_text(json.dumps({"images": images, "seconds": seconds}), encoding="utf-8")
    print("| what | images/s | lowest | highest |\n|---|---|---|---|")
    for name, each in seconds.items():
        speeds = [images / s for s in each]
        print(f"| {name} | {statistics.median(speeds):.1f} | {min(speeds):.1f} | {max(speeds):.1f} |")
    print()
    for names, each in time_ratios(seconds):
        print(f"- {names}: {statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})")


def time_ratios(seconds: dict[str, list[float]]) -> Iterator[tuple[str, list[float]]]:
    """Yield the names of two actions of RATIOS, and how many times longer the first took in each repetition."""
    for slow, fast in RATIOS:
        if {slow, fast} <= seconds.keys():
            yield f"{slow} / {fast}", [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def machine(device: torch.device, *packages: str) -> str:
    """Return the date, the machine and the versions of packages, of which some may be missing."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    installed = (package for package in ("torch", "torchvision", *packages) if find_spec(package.replace("-", "_")))
    versions = ", ".join(f"{package} {version(package)}" for package in installed)
    threads = f"{count_cores()} cores, {torch.get_num_threads()} threads of torch"
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{datetime.date.today()}, {name}, {threads}, {system}, {versions}"


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else ()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
