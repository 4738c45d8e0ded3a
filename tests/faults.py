"""Kill, stop and starve real runs, resume them, and compare their files with those of undisturbed runs.

    python tests/faults.py [--kills 50] [--seed 1] [--points 8]

All faults happen to the commands as child processes: --kills SIGKILLs at random moments, spread over four kinds of runs
(two tasks, three networks, with and without loader processes), a SIGKILL at every --points-th file
operation of a run, signals, a full disk, a read-only disk, a changed clock and a deleted folder. The exit code is 1 if
the files of a run differ. test_faults.py has a short part of it.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from samples import make_data_set  # noqa: E402

TIMES = ["images_per_s", "seconds"]
COMMON = (
    "--image-size 32 --no-pretrained --batch-size 16 --cv 2 --epochs 3 --top-n 2 --lr-scheduler cosine_restarts "
    "--restart-epochs 2 --device cpu --save-every-steps 2"
)
THANET = "--model-type MultiClassTHANet --backbone resnet18"
RESNET = "--model-type VanillaResNet --backbone resnet18"
EFFICIENTNET = "--model-type VanillaEfficientNet --backbone efficientnet-b0"
KINDS = {
    "main, ResNet, 0 workers": f"--task main {RESNET} --num-workers 0 --oversample --transform-type random",
    "main, MultiClassTHANet, 2 workers": f"--task main {THANET} --num-workers 2 --oversample --optim-type adamp",
    "age, ResNet, 2 workers": f"--task age {RESNET} --num-workers 2 --transform-type tta --accumulate 2",
    "age, EfficientNet, 0 workers": f"--task age {EFFICIENTNET} --num-workers 0 --optim-type momentum --lr 0.0001",
}


# ------------------------------------------------------------------------------------------------ a run as a child


@dataclass
class Child:
    """A running command and the lines that it printed, each with the seconds since its start."""

    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with self.process.stdout as output:
            for line in output:
                self.lines.append((time.monotonic() - self.started, line.rstrip("\n")))

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

    def end(self, code: int | None = None, seconds: float = 300) -> int:
        """Wait for the end, assert that the exit code is `code` without a traceback, and return the exit code."""
        found = self.process.wait(seconds)
        self.reader.join(10)
        assert code in (None, found), f"code {found}:\n{self.text}"
        assert found < 0 or "Traceback" not in self.text, self.text
        return found

    def fail(self, message: str) -> str:
        """Assert that the command ends with exit code 1 and a last line with this message; return the line."""
        self.end(1, 120)
        last = self.lines[-1][1]
        assert message in last, self.text
        return last

    def workers(self) -> list[int]:
        """Return the ids of the loader processes."""
        try:
            listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in listed.split()]


def start(words: Sequence[object], **popen: object) -> Child:
    """Start a command in a process of its own."""
    command = [sys.executable, "-u", *map(str, words)]
    popen |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    popen["env"] = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return Child(subprocess.Popen(command, cwd=ROOT, **popen))


@dataclass(frozen=True)
class Run:
    """A training: its images, its save path, and options beyond the common ones."""

    data: Path
    save: Path
    options: str

    @property
    def words(self) -> list[str]:
        places = ["--train-root", str(self.data), "--save-path", str(self.save)]
        return ["train.py", *places, *COMMON.split(), *self.options.split()]

    def finish(self, whole: dict[str, str]) -> Child:
        """Resume the run until it is finished, and assert that it left the files of an undisturbed run."""
        child = start([*self.words, "--resume"])
        child.end(0)
        assert_same(whole, fingerprint(self.save))
        return child

    def cut(self, *options: object) -> Child:
        """Start the run under cut.py with options of it."""
        return start(["tests/cut.py", "--under", self.save, *options, "--", *self.words])


# ------------------------------------------------------------------------------------------------ comparing ends


def fingerprint(save: Path) -> dict[str, str]:
    """Return a digest of every file of a finished run, without times, by name below the save path."""
    found = {}
    for path in sorted(path for path in save.rglob("*") if path.is_file()):
        if path.name == "report.html":  # it shows times
            continue
        content = path.read_bytes()
        if path.name == "log.csv":
            content = pd.read_csv(path, dtype=str).drop(columns=TIMES).to_csv().encode()
        elif path.name in ("summary.json", "config.json", "resume.state"):
            plain = torch.load(path, weights_only=True) if path.name == "resume.state" else json.loads(content)
            content = json.dumps(_without_times(plain), sort_keys=True).encode()
        found[str(path.relative_to(save))] = hashlib.sha256(content).hexdigest()[:12]
    return found


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        aside = (*TIMES, "save_path", "resume", "num_workers")
        return {name: _without_times(inner) for name, inner in value.items() if name not in aside}
    if isinstance(value, list | tuple):
        return [_without_times(inner) for inner in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def assert_same(whole: dict[str, str], other: dict[str, str]) -> None:
    """Assert that two runs left the same files with the same contents."""
    differ = sorted(name for name in whole.keys() | other.keys() if whole.get(name) != other.get(name))
    assert not differ, f"these files differ or are missing: {differ}"


# ------------------------------------------------------------------------------------------------ kills


def undisturbed(run: Run) -> tuple[dict[str, str], float, float]:
    """Run without a fault; return its fingerprint, the seconds until training began, and those of the whole run."""
    child = start(run.words)
    child.end(0)
    return fingerprint(run.save), child.wait_for("Training "), child.lines[-1][0]


def killed_at_random(
    run: Run, undisturbed_run: tuple[dict[str, str], float, float], kills: int, rng: random.Random
) -> tuple[int, list[float]]:
    """Kill a run at random moments and resume it; return the number of kills and the seconds until each resume.

    The moments lie between shortly before training begins and shortly before a whole run ends.
    """
    whole, begin, seconds = undisturbed_run
    children = []
    for _ in range(kills):
        child = start([*run.words, "--resume"])
        try:
            child.process.wait(rng.uniform(0.7 * begin, begin + 0.8 * (seconds - begin)))
        except subprocess.TimeoutExpired:
            child.process.kill()
        code = child.end()
        assert code in (0, -signal.SIGKILL), child.text
        children.append(child)
        if code == 0:
            break
    done = sum(child.process.returncode != 0 for child in children)
    resumes = []
    for child in [*children, run.finish(whole)]:
        resumes += [when for when, line in child.lines if "continuing after" in line or "finished ear" in line][:1]
    return done, resumes


def operations(run: Run, listing: Path) -> list[str]:
    """Return all file operations of a run in order."""
    run.cut("--list", listing).end(0)
    return listing.read_text().splitlines()


def killed_at(run: Run, whole: dict[str, str], number: int, *options: object) -> Child:
    """Kill a run before its file operation `number`, and resume it; the options are those of cut.py."""
    run.cut("--at", number, *options).end(-signal.SIGKILL)
    return run.finish(whole)


# ------------------------------------------------------------------------------------------------ other faults


def stopped_and_resumed(run: Run, whole: dict[str, str], signum: signal.Signals, *words: object) -> Child:
    """Stop a run in its second epoch by a signal to all its processes, as clusters and terminals do, and resume it.

    It must save, print how to continue, and leave no process. `words` are more options until it is stopped.
    """
    child = start([*run.words, *words], start_new_session=True)
    child.wait_for("epoch   1/")
    workers = child.workers()
    os.killpg(child.process.pid, signum)
    child.end(128 + signum, 60)
    assert "saved after fold" in child.text, child.text
    assert "To continue: python train.py" in child.text, child.text
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "loader processes are still running"
    return run.finish(whole)


@contextmanager
def small_disk(place: Path, size: str):
    """Mount a small disk at a folder and return it, or None if mounting is not allowed."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    try:
        yield place if done.returncode == 0 else None
    finally:
        subprocess.run(["umount", "-l", place], capture_output=True)


def disk_fault(run: Run, whole: dict[str, str], fault: Callable, reason: str) -> str:
    """Break the small disk of a run, mend it, resume; return the last line that the run printed."""
    with small_disk(run.save, "600m") as disk:
        if disk is None:
            return "mounting is not allowed here: skipped"
        run = replace(run, save=disk / "models")
        child = start(run.words)
        child.wait_for("epoch   1/")
        with fault(run.save):
            last = child.fail(f"could not be written ({reason})")
        run.finish(whole)
        return last


@contextmanager
def filled(save: Path) -> Iterator[None]:
    """Fill the disk of a save path."""
    ballast = save.with_name("ballast")
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    yield
    left = list(save.rglob(".tmp-*"))
    assert not left, left
    ballast.unlink()


@contextmanager
def read_only(save: Path) -> Iterator[None]:
    """Make the folder of a fold read-only: the disk itself cannot become it while its lock is held."""
    fold = next(save.rglob("fold00"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", fold], check=True)
    yield
    subprocess.run(["umount", fold], check=True)


def clock_set_back(run: Run, whole: dict[str, str]) -> None:
    """Set the clock back by a day during a run, kill it, date its files to tomorrow, resume."""
    run.cut("--at", 90, "--back", 86400).end(-signal.SIGKILL)
    tomorrow = time.time() + 86400
    for path in run.save.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    run.finish(whole)


def folder_removed(run: Run, whole: dict[str, str] | None = None) -> str:
    """Move the folder of a run away during the run; return what it printed."""
    child = start(run.words)
    child.wait_for("epoch   1/")
    os.replace(run.save, run.save.with_name("elsewhere"))
    last = child.fail("was deleted")
    assert not run.save.exists(), "a second run was started in its place"
    return last


# ------------------------------------------------------------------------------------------------ the long part


class Report:
    """Run faults one after another, print the result of each, and collect the failures."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def attempt(self, what: str, fault: Callable[..., object], run: Run, *more: object) -> object:
        """Run a fault and return its result, or None if it failed; a failed run stays on disk."""
        try:
            result = fault(run, *more)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.failures.append(what)
            print(f"FAIL  {what}: {error}", flush=True)
            return None
        shutil.rmtree(run.save, ignore_errors=True)
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
            ends[kind] = undisturbed(Run(data, place / "whole" / kind, words))
            print(f"undisturbed: {kind}: {ends[kind][2]:.1f} s, {len(ends[kind][0])} files", flush=True)
        random_kills(report, data, place, ends, kills=options.kills, seed=options.seed)
        kind = next(iter(KINDS))
        whole, words = ends[kind][0], KINDS[kind]
        listed = operations(Run(data, place / "listed", words), place / "operations.txt")
        print(f"{len(listed)} file operations in a run, a SIGKILL at every {options.points}th", flush=True)
        for point in range(1, len(listed) + 1, options.points):
            what = f"killed before operation {point}, {listed[point - 1]}"
            report.attempt(what, killed_at, Run(data, place / f"point{point}", words), whole, point)
        for signum in (signal.SIGTERM, signal.SIGINT):
            for number, (kind, other) in enumerate(KINDS.items()):
                what = f"{signum.name} to all processes of a run, {kind}"
                run = Run(data, place / f"{signum.name}{number}", other)
                report.attempt(what, stopped_and_resumed, run, ends[kind][0], signum)
        for name, fault, *more in (
            ("full disk", disk_fault, filled, "No space left on device"),
            ("read-only disk", disk_fault, read_only, "Read-only file system"),
            ("clock set back", clock_set_back),
            ("folder removed", folder_removed),
        ):
            report.attempt(name, fault, Run(data, place / name, words), whole, *more)
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
        run = Run(data, place / f"random{number}", KINDS[kind])
        found = report.attempt(what, killed_at_random, run, ends[kind], wanted, rng) or (0, [])
        done, resumes, number = done + found[0], resumes + found[1], number + 1
    print(f"{done} random kills over {number} runs, seed {seed}", flush=True)
    if resumes:
        times = f"median {statistics.median(resumes):.1f}, {min(resumes):.1f} to {max(resumes):.1f}"
        print(f"seconds from the start of a command until it resumes: {times} ({len(resumes)} resumes)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
