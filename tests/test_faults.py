"""The short part of faults.py: runs that are killed, stopped or out of disk space leave the same files once resumed."""

import getpass
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import KINDS, ROOT, Run, fingerprint, folder_removed, killed_at, operations, start, stopped_and_resumed

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
OPTIONS = f"{KINDS['main, ResNet, 0 workers']} --epochs 2"


@pytest.fixture(scope="module")
def data(small_data, tmp_path_factory):
    """Six people of the small set with three images each."""
    place = tmp_path_factory.mktemp("faults") / "images"
    for person in small_data.people[:6]:
        (place / person.folder).mkdir(parents=True)
        for shot in ("mask1", "mask2", "normal"):
            shutil.copy(small_data.train_root / person.folder / f"{shot}.jpg", place / person.folder)
    return place


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The fingerprint and the file operations of an undisturbed run."""
    place = tmp_path_factory.mktemp("whole")
    listed = operations(Run(data, place / "models", OPTIONS), place / "listing.txt")
    return fingerprint(place / "models"), listed


@pytest.fixture
def training(data, tmp_path):
    return Run(data, tmp_path / "models", OPTIONS)


@pytest.mark.parametrize("operation", ["rename fold00/.tmp", "fsync fold01"])
def test_a_run_killed_within_a_save_resumes_to_the_same_files(operation, training, whole):
    what, where = operation.split()
    points = [k for k, line in enumerate(whole[1], start=1) if line.startswith(f"{what} ") and where in line]
    printed = killed_at(training, whole[0], points[len(points) // 2], "--back", 86400)
    assert "Removed the stale lock" in printed.text  # the lock that it left


def test_sigterm_to_all_processes_saves_and_resumes_within_an_epoch(training, whole):
    printed = stopped_and_resumed(training, whole[0], signal.SIGTERM, "--num-workers", 2)
    assert "continuing after epoch 1 and step 1 of the next" in printed.text


def test_a_fold_is_locked_and_a_second_ctrl_c_ends_the_run_at_once(training, whole, run):
    child = start([*training.words, "--num-workers", 1], start_new_session=True)
    child.wait_for("epoch   1/")
    os.kill(child.process.pid, signal.SIGSTOP)  # so that it keeps running, and both signals arrive within one step
    workers = child.workers()
    printed = run("train", *training.words[1:], "--resume")
    assert printed.code == 2, printed
    owner = f"{getpass.getuser()} on {socket.gethostname()}"
    assert f"is being trained by {owner} (process {child.process.pid})" in printed.err
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        os.kill(child.process.pid, number)
    assert child.end(seconds=20) in (130, 143)
    assert "Press Ctrl-C again" in child.text
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    training.finish(whole[0])


def test_loader_processes_end_after_their_run_is_killed(training):
    child = start([*training.words, "--num-workers", 2])
    child.wait_for("epoch   1/")
    workers = child.workers()
    assert len(workers) == 4  # two for training and two for validation
    child.process.kill()
    end = time.monotonic() + 30  # they check for their parent every few seconds
    while time.monotonic() < end and any(alive(pid) for pid in workers):
        time.sleep(0.2)
    assert not [pid for pid in workers if alive(pid)]
    child.end()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_script_ends_although_its_loader_still_exists(tmp_path, make_photo):
    photo = make_photo(tmp_path / "a.jpg")
    lines = (
        "import torch",
        "from augmentation import build_transform",
        "from dataset import ViewDataset",
        "from training.loaders import view_loader",
        f"views = ViewDataset([{str(photo)!r}], ['a'], build_transform('base', 'inference', 32))",
        "loader = view_loader(views, batch_size=1, workers=1, device=torch.device('cpu'))",
        "print(len(list(loader)))",
    )
    script = [sys.executable, "-c", "\n".join(lines)]
    printed = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (printed.returncode, printed.stdout) == (0, "1\n"), printed.stderr


def test_a_full_disk_is_reported_and_nothing_is_lost(training, whole):
    size = 60_000_000  # a checkpoint fits, the resume state does not
    child = start(training.words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    last = child.fail("resume.state could not be written (File too large)")
    assert "MB are left" in last
    assert last.endswith(" --resume")
    assert not list(training.save.rglob(".tmp-*"))
    training.finish(whole[0])


def test_a_run_ends_if_its_folder_is_moved(training):
    folder_removed(training)
