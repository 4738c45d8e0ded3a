"""Kill, stop and starve real runs, resume them, and compare their files with those of undisturbed runs.

    python tests/faults.py [--kills 50] [--seed 1] [--points 8]

All faults happen to the commands as child processes: --kills SIGKILLs at random moments, spread over four kinds of runs
(two tasks, three networks, with and without loader processes and oversampling), a SIGKILL at every --points-th file
operation of a run, signals, a full disk, a read-only disk, a changed clock and a deleted folder. The exit code is 1 if
the files of a run differ. test_faults.py has a short part of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from samples import make_data_set  # noqa: E402

TIMES = ["images_per_s", "seconds"]
CUT = [str(ROOT / "tests" / "cut.py")]
COMMON = (
    *("--image-size", "32", "--no-pretrained", "--batch-size", "16", "--cv", "2", "--epochs", "3", "--top-n", "2"),
    *("--lr-scheduler", "cosine_restarts", "--restart-epochs", "2", "--device", "cpu", "--save-every-steps", "2"),
)
KINDS = {
    "main, ResNet, 0 workers, oversampling": (
        *("--task", "main", "--model-type", "VanillaResNet", "--backbone", "resnet18"),
        *("--num-workers", "0", "--oversample", "--transform-type", "random"),
    ),
    "main, MultiClassTHANet, 2 workers, oversampling": (
        *("--task", "main", "--model-type", "MultiClassTHANet", "--backbone", "resnet18"),
        *("--num-workers", "2", "--oversample", "--optim-type", "adamp"),
    ),
    "age, ResNet, 2 workers": (
        *("--task", "age", "--model-type", "VanillaResNet", "--backbone", "resnet18"),
        *("--num-workers", "2", "--transform-type", "tta"),
    ),
    "age, EfficientNet, 0 workers": (
        *("--task", "age", "--model-type", "VanillaEfficientNet", "--backbone", "efficientnet-b0"),
        *("--num-workers", "0", "--optim-type", "momentum", "--lr", "0.0001"),
    ),
}


# ------------------------------------------------------------------------------------------------ a run as a child


@dataclass
class Child:
    """A running command and the lines that it printed, each with the seconds since its start."""

    process: subprocess.Popen
    started: float
    lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, words: str, seconds: float = 120) -> float:
        """Wait for a line that contains the words; return its seconds since the start."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [when for when, line in self.lines if words in line]
            if found:
                return found[0]
            if self.process.poll() is not None and not self.reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"'{words}' was never printed:\n{self.text}")

    def end(self, seconds: float = 300) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(seconds)
        self.reader.join(10)
        return code

    def workers(self) -> list[int]:
        """Return the ids of the loader processes."""
        try:
            listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in listed.split()]


def start(words: Sequence[object], wrapper: Sequence[str] = (), **popen: object) -> Child:
    """Start a command; `wrapper` runs it under cut.py."""
    command = [sys.executable, "-u", *(wrapper or ()), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **popen,
    )
    child = Child(process, time.monotonic())

    def read() -> None:
        with process.stdout:
            for line in process.stdout:
                child.lines.append((time.monotonic() - child.started, line.rstrip("\n")))

    child.reader = threading.Thread(target=read, daemon=True)
    child.reader.start()
    return child


def training(data: Path, save: Path, options: Sequence[str]) -> list[str]:
    """Return the command line of a training."""
    return ["train.py", "--train-root", str(data), "--save-path", str(save), *COMMON, *options]


def finish(words: Sequence[object], **popen: object) -> Child:
    """Resume a run until it is finished."""
    child = start([*words, "--resume"], **popen)
    code = child.end()
    assert code == 0, f"resuming ended with {code}:\n{child.text}"
    assert "Traceback" not in child.text, child.text
    return child


# ------------------------------------------------------------------------------------------------ comparing ends


def fingerprint(save: Path) -> dict[str, str]:
    """Return a digest of every file of a finished run, without times, by name below the save path."""
    found = {}
    for path in sorted(save.rglob("*")):
        if path.is_dir():
            continue
        name, content = str(path.relative_to(save)), path.read_bytes()
        if path.name == "report.html":  # it shows times
            continue
        if path.name == "log.csv":
            content = pd.read_csv(path, dtype=str).drop(columns=TIMES).to_csv().encode()
        elif path.name in ("summary.json", "config.json"):
            content = json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
        elif path.name == "resume.state":
            state = torch.load(path, weights_only=True)
            content = json.dumps(_without_times(state), sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()[:12]
    return found


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        aside = (*TIMES, "save_path", "resume", "num_workers")
        return {name: _without_times(inner) for name, inner in value.items() if name not in aside}
    if isinstance(value, list | tuple):
        return [_without_times(inner) for inner in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def assert_same(whole: dict[str, str], other: dict[str, str], what: str) -> None:
    """Assert that two runs left the same files with the same contents."""
    differ = sorted(name for name in whole.keys() | other.keys() if whole.get(name) != other.get(name))
    assert not differ, f"{what}: these files differ or are missing: {differ}"


# ------------------------------------------------------------------------------------------------ kills


def undisturbed(data: Path, save: Path, options: Sequence[str]) -> tuple[dict[str, str], float, float]:
    """Run without a fault; return its fingerprint, the seconds until training began, and those of the whole run."""
    child = start(training(data, save, options))
    code = child.end()
    assert code == 0, child.text
    return fingerprint(save), child.wait_for("Training "), child.lines[-1][0]


def killed_at_random(
    data: Path,
    save: Path,
    options: Sequence[str],
    undisturbed_run: tuple[dict[str, str], float, float],
    kills: int,
    rng: random.Random,
) -> tuple[int, list[float]]:
    """Kill a run at random moments and resume it; return the number of kills and the seconds until each resume.

    The moments lie between shortly before training begins and shortly before a whole run ends.
    """
    whole, begin, seconds = undisturbed_run
    words, done, resumes = training(data, save, options), 0, []

    def note(child: Child) -> None:
        resumes.extend([when for when, line in child.lines if "continuing after" in line or "finished ear" in line][:1])

    for _ in range(kills):
        child = start([*words, "--resume"])
        try:
            child.process.wait(rng.uniform(0.7 * begin, begin + 0.8 * (seconds - begin)))
        except subprocess.TimeoutExpired:
            child.process.send_signal(signal.SIGKILL)
        code = child.end()
        assert code in (0, -signal.SIGKILL), child.text
        note(child)
        if code == 0:
            break
        done += 1
    note(finish(words))
    assert_same(whole, fingerprint(save), "after random kills")
    return done, resumes


def operations(data: Path, save: Path, options: Sequence[str], listing: Path) -> list[str]:
    """Return all file operations of a run in order."""
    words = training(data, save, options)
    child = start(words, [*CUT, "--under", str(save), "--list", str(listing), "--"])
    assert child.end() == 0, child.text
    return listing.read_text().splitlines()


def killed_at(data: Path, save: Path, options: Sequence[str], whole: dict[str, str], number: int) -> None:
    """Kill a run before its file operation `number`, and resume it."""
    words = training(data, save, options)
    child = start(words, [*CUT, "--under", str(save), "--at", str(number), "--"])
    code = child.end()
    assert code == -signal.SIGKILL, f"code {code}:\n{child.text}"
    finish(words)
    assert_same(whole, fingerprint(save), f"killed before operation {number}")


# ------------------------------------------------------------------------------------------------ other faults


def stopped(words: Sequence[str], number: int, *, moment: str = "epoch   1/", group: bool = False) -> Child:
    """Send a signal when `moment` is printed; the run must save, print how to continue, and leave no process."""
    child = start(words, start_new_session=True)
    child.wait_for(moment)
    workers = child.workers()
    (os.killpg if group else os.kill)(child.process.pid, number)
    code = child.end(60)
    assert code == 128 + number, f"code {code}:\n{child.text}"
    assert "Traceback" not in child.text, child.text
    assert "saved after fold" in child.text, child.text
    assert "To continue: python train.py" in child.text, child.text
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "loader processes are still running"
    return child


def stopped_and_resumed(
    data: Path, save: Path, options: Sequence[str], whole: dict[str, str], signum: signal.Signals
) -> None:
    """Stop a run by a signal to all its processes, as clusters and terminals do, and resume it."""
    words = training(data, save, options)
    stopped(words, signum, group=True)
    finish(words)
    assert_same(whole, fingerprint(save), f"after {signum.name}")


def limit_file_size(size: int) -> Callable[[], None]:
    """Limit the size of files in bytes; called in the child process."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@contextmanager
def small_disk(place: Path, size: str):
    """Mount a small disk at a folder and return it, or None if mounting is not allowed."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    try:
        yield place if done.returncode == 0 else None
    finally:
        subprocess.run(["umount", "-l", place], capture_output=True)


def full_disk(data: Path, place: Path, options: Sequence[str], whole: dict[str, str]) -> str:
    """Fill the disk during a run, free it, resume; return what the run printed."""
    with small_disk(place, "600m") as disk:
        if disk is None:
            return "mounting is not allowed here: skipped"
        save, ballast = disk / "models", disk / "ballast"
        words = training(data, save, options)
        child = start(words)
        child.wait_for("epoch   1/")
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                pass
        code = child.end(120)
        assert code == 1, f"code {code}:\n{child.text}"
        said = child.lines[-1][1]
        assert "Traceback" not in child.text, child.text
        assert "could not be written (No space left on device)" in said, child.text
        left = list(save.rglob(".tmp-*"))
        assert not left, left
        ballast.unlink()
        finish(words)
        assert_same(whole, fingerprint(save), "after a full disk")
        return said


def read_only_disk(data: Path, place: Path, options: Sequence[str], whole: dict[str, str]) -> str:
    """Make a fold's folder read-only during a run, then writable, resume; return what the run printed."""
    with small_disk(place, "600m") as disk:
        if disk is None:
            return "mounting is not allowed here: skipped"
        save = disk / "models"
        words = training(data, save, options)
        child = start(words)
        child.wait_for("epoch   1/")
        fold = next(save.rglob("fold00"))  # the disk itself cannot become read-only while its lock is held
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", fold], check=True)
        code = child.end(120)
        assert code == 1, f"code {code}:\n{child.text}"
        assert "could not be written (Read-only file system)" in child.lines[-1][1], child.text
        assert "Traceback" not in child.text, child.text
        subprocess.run(["umount", fold], check=True)
        finish(words)
        assert_same(whole, fingerprint(save), "after a read-only disk")
        return child.lines[-1][1]


def clock_set_back(data: Path, save: Path, options: Sequence[str], whole: dict[str, str]) -> None:
    """Set the clock back by a day during a run, kill it, date its files to tomorrow, resume."""
    words = training(data, save, options)
    child = start(words, [*CUT, "--under", str(save), "--at", "90", "--back", "86400", "--"])
    assert child.end() == -signal.SIGKILL, child.text
    tomorrow = time.time() + 86400
    for path in save.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    finish(words)
    assert_same(whole, fingerprint(save), "after the clock was set back")


def folder_removed(data: Path, save: Path, options: Sequence[str], whole: dict[str, str]) -> str:
    """Move the folder of a run away during the run; return what it printed."""
    child = start(training(data, save, options))
    child.wait_for("epoch   1/")
    os.replace(save, save.with_name("elsewhere"))
    code = child.end(120)
    assert code == 1, f"code {code}:\n{child.text}"
    assert "was deleted" in child.lines[-1][1], child.text
    assert not save.exists(), "a second run was started in its place"
    return child.lines[-1][1]


# ------------------------------------------------------------------------------------------------ the long part


class Report:
    """Run faults one after another, print the result of each, and collect the failures."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def attempt(self, what: str, fault: Callable[..., object], data: Path, save: Path, *more: object) -> object:
        """Run a fault and return its result, or None if it failed; a failed run stays on disk."""
        try:
            result = fault(data, save, *more)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.failures.append(what)
            print(f"FAIL  {what}: {error}", flush=True)
            return None
        shutil.rmtree(save, ignore_errors=True)
        print(f"ok    {what}" + (f": {result}" if isinstance(result, str) else ""), flush=True)
        return result


def main() -> int:
    """Run all faults and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--points", type=int, default=8)
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = make_data_set(place / "data", people=8).train_root
        ends = {}
        for kind, words in KINDS.items():
            ends[kind] = undisturbed(data, place / "whole" / kind, words)
            print(f"undisturbed: {kind}: {ends[kind][2]:.1f} s, {len(ends[kind][0])} files", flush=True)
        random_kills(report, data, place, ends, kills=options.kills, seed=options.seed)
        kind = next(iter(KINDS))
        whole, words = ends[kind][0], KINDS[kind]
        listed = operations(data, place / "listed", words, place / "operations.txt")
        print(f"{len(listed)} file operations in a run, a SIGKILL at every {options.points}th", flush=True)
        for point in range(1, len(listed) + 1, options.points):
            what = f"killed before operation {point}, {listed[point - 1]}"
            report.attempt(what, killed_at, data, place / f"point{point}", words, whole, point)
        for signum in (signal.SIGTERM, signal.SIGINT):
            for number, (kind, other) in enumerate(KINDS.items()):
                what = f"{signum.name} to all processes of a run, {kind}"
                save = place / f"{signum.name}{number}"
                report.attempt(what, stopped_and_resumed, data, save, other, ends[kind][0], signum)
        for fault in (full_disk, read_only_disk, clock_set_back, folder_removed):
            report.attempt(fault.__name__.replace("_", " "), fault, data, place / fault.__name__, words, whole)
    print(f"{len(report.failures)} failures" + "".join(f"\n  {what}" for what in report.failures))
    return int(bool(report.failures))


def random_kills(
    report: Report, data: Path, place: Path, ends: dict[str, tuple[dict, float, float]], *, kills: int, seed: int
) -> None:
    """Kill runs of all kinds in turn, each up to four times, until there were `kills` kills."""
    rng, done, number, resumes = random.Random(seed), 0, 0, []
    while done < kills and len(report.failures) < 5:
        kind = list(KINDS)[number % len(KINDS)]
        wanted = min(rng.randint(1, 4), kills - done)
        what = f"killed up to {wanted} times at random, {kind}"
        result = report.attempt(
            what, killed_at_random, data, place / f"random{number}", KINDS[kind], ends[kind], wanted, rng
        )
        done, resumes, number = done + (result[0] if result else 0), resumes + (result[1] if result else []), number + 1
    print(f"{done} random kills over {number} runs, seed {seed}", flush=True)
    if resumes:
        print(
            f"seconds from the start of a command until it resumes: median {statistics.median(resumes):.1f}, "
            f"{min(resumes):.1f} to {max(resumes):.1f} ({len(resumes)} resumes)",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
