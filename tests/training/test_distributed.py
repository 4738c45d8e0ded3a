"""Runs of two processes that torchrun starts on this machine, without a GPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from faults import assert_same, fingerprint

from dataset import EpochSampler, ViewBatches
from training.distributed import Processes
from utils import ROOT, UserError

NAME = "kfold-ensemble-VanillaTorchvision"


def start(script: str, *words: object) -> subprocess.Popen:
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *map(str, (script, *words))], env=environment, **streams)


def torchrun(script: str, *words: object) -> tuple[int, str, str]:
    """Run a script in two processes and return the exit code, stdout and stderr of both."""
    child = start(script, *words)
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


@pytest.fixture(scope="module")
def training(small_data, tiny_training):
    """Return the words of a training over two folds that draws and averages, without the save path."""
    uneven = ("--batch-size", 9)  # batches of 9 and a last one of 3
    words = ("--cv", 2, "--epochs", 2, "--ema", 0.9, "--balance", 0.5, "--mixup", 0.5, *uneven)
    return (*tiny_training, "--train-root", small_data.train_root, *words)


@pytest.fixture(scope="module")
def trained(training, tmp_path_factory):
    """Return the folder of a run that two processes trained, and their output."""
    place = tmp_path_factory.mktemp("models")
    code, out, err = torchrun(ROOT / "train.py", *training, "--save-path", place)
    assert code == 0, err
    return place / "main" / NAME, out


def test_two_processes_write_one_run(trained, small_data):
    run, out = trained
    assert out.count("Training VanillaTorchvision") == 1
    assert "12 people, 84 images, 2 processes on device cpu." in out
    assert out.count("fold 1  epoch   2/2") == 1
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "split.json", "log.csv", "oof.csv", "summary.json", "fold00", "fold01")
    }
    oof = pd.read_csv(run / "oof.csv", dtype={"person": str})
    images = sorted(f"{path.parent.name}/{path.name}" for path in small_data.train_root.rglob("*.jpg"))
    assert sorted(oof["ImageID"]) == images  # every one exactly once
    split = json.loads((run / "split.json").read_text())
    assert all(row.person in split["folds"][row.fold]["valid"] for row in oof.itertuples())
    assert len(list(run.rglob("*.pt"))) == 4
    assert not list(run.parent.glob(".*"))


def test_out_of_fold_predictions_of_two_processes_are_those_of_one(trained, run, small_data, tmp_path):
    folder, _ = trained
    oof = pd.read_csv(folder / "oof.csv", index_col="ImageID")
    oof = oof[oof["fold"] == 0]
    data = tmp_path / "data" / "images"
    data.mkdir(parents=True)
    for name in oof.index:
        os.link(small_data.train_root / name, data / name.replace("/", "+"))
    best = json.loads((folder / "summary.json").read_text())["folds"][0]["best_epoch"]
    words = ("--load-state-dict", next((folder / "fold00").glob(f"epoch{best:03d}*")), "--data-root", data)
    outcome = run("submit_singular", *words, "--save-path", tmp_path, "--num-workers", 0, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    answers = pd.read_csv(next((tmp_path / "main").rglob("members/*.csv")), index_col="ImageID")
    answers.index = answers.index.str.replace("+", "/")
    assert (answers.loc[oof.index, "p0"] - oof["p0"]).abs().max() < 1e-5


def test_an_interrupted_run_resumes_to_the_same_files(trained, training, tmp_path):
    words = (*training, "--save-path", tmp_path, "--save-every-steps", 1, "--folds", 0)
    child = start(ROOT / "train.py", *words)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f"main/{NAME}/fold00/resume.state")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=120)
    assert child.returncode != 0
    assert err.count("interrupted by SIGTERM, saved ") == 1, err
    code, out, err = torchrun(ROOT / "train.py", *words, "--resume")
    assert code == 0, err
    assert "fold 0: continuing after epoch" in out
    assert_same(fingerprint(trained[0] / "fold00"), fingerprint(tmp_path / "main" / NAME / "fold00"))


def assert_predict_alike(trained, run, data_root, place, count, *more):
    """Assert that two processes write the files of one, `count` in number; return the output of the two."""
    words = ("--root", trained[0], "--data-root", data_root, "--tta", 2, "--top-k", 2, "--device", "cpu", *more)
    words = (*words, "--batch-size", 4, "--num-workers", 0)  # 2 images: three batches, the last one smaller
    outcome = run("submit_ensemble", *words, "--save-path", place / "one")
    assert outcome.code == 0, outcome.err
    code, out, err = torchrun(ROOT / "submit_ensemble.py", *words, "--save-path", place / "two")
    assert code == 0, err
    folders = [place / name / "main" / NAME for name in ("one", "two")]
    files = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in folders]
    assert files[0] == files[1]
    assert len(files[0]) == count
    return out


def test_predictions_are_those_of_one_process_byte_for_byte(trained, run, small_data, tmp_path):
    out = assert_predict_alike(trained, run, small_data.data_root, tmp_path, 8)
    assert out.count("Averaged 4 members x 2 views = 8 predictions of 5 images") == 1


def test_processes_agree_on_unreadable_images(trained, run, small_data, tmp_path):
    images = shutil.copytree(small_data.data_root, tmp_path / "data" / "images")
    names = sorted(path.name for path in images.iterdir())
    for name in names[1:3]:  # one of each process
        (images / name).write_bytes(b"")
    words = ("--root", trained[0], "--data-root", images, "--top-k", 1, "--batch-size", 2, "--device", "cpu")
    code, _, err = torchrun(ROOT / "submit_ensemble.py", *words, "--num-workers", 0, "--save-path", tmp_path / "none")
    assert code != 0
    assert all(f"{name} cannot be read as an image (it is empty)." in err for name in names[1:3])
    assert "another process" not in err
    assert not (tmp_path / "none").exists()
    out = assert_predict_alike(trained, run, images, tmp_path, 9, "--on-bad-image", "skip")
    assert out.count("2 of 5 images cannot be read") == 1


CHILD = """
import math, torch
from torch import nn
from dataset import EpochSampler
from training.distributed import Processes
from training.engine import TrainStep, train_one_epoch
from training.loaders import create_loaders

class Mask(nn.Linear):
    def forward(self, images):
        return {"mask": super().forward(images.flatten(1))}

class Rows(torch.utils.data.Dataset):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(25, 5, 1, 1, generator=generator)
    targets = torch.randint(3, (25,), generator=generator).tolist()
    def __getitem__(self, key):
        return self.images[key[1]], {"mask": self.targets[key[1]]}

cpu = torch.device("cpu")
def train(dist, factor=1.0, accumulate=1):
    torch.manual_seed(0)
    network = Mask(5, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    sampler = EpochSampler(25, 7, seed=(0,), rank=dist.rank, world_size=dist.world_size)
    loader = create_loaders([(Rows(), sampler)], workers=0, device=cpu)[0]
    def criterion(outputs, targets):
        return factor * nn.functional.cross_entropy(outputs["mask"], targets["mask"])
    step = TrainStep(dist.wrap(network, cpu), criterion, optimizer, scheduler, cpu, dist=dist)
    done = train_one_epoch(step, loader, sizes=sampler.sizes(), accumulate=accumulate)
    weights = nn.utils.parameters_to_vector(network.parameters()).detach()
    return weights, done.loss, done.images, done.first_bad_step()

dist = Processes.from_environment()
with dist.connect(cpu):
    theirs, alone = train(dist), train(Processes())
    assert dist.world_size == 2
    assert theirs[2] == alone[2] == 25
    assert abs(theirs[1] - alone[1]) < 1e-6, (theirs, alone)
    torch.testing.assert_close(theirs[0], alone[0])
    for accumulate in (2, 3):
        groups = train(dist, accumulate=accumulate)[0]
        torch.testing.assert_close(groups, train(Processes(), accumulate=accumulate)[0])
        assert not torch.allclose(groups, alone[0])
    bad = train(dist, math.nan if dist.rank else 1.0)
    assert bad[3] == 0, bad  # all processes find a NaN loss at the same step
    values = dist.gather(theirs[0].tolist())
    assert values[0] == values[1]
    assert dist.run_on_main(lambda: dist.rank) == 0
    assert dist.run_once_per_machine(lambda: dist.local_rank) == 0
    assert dist.max(dist.rank) == 1
    print(f"agreed {dist.rank}\\n", end="")
"""


def test_two_processes_make_the_steps_of_one(tmp_path):
    """Without BatchNorm and dropout, which see other images or draw other numbers."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    code, out, err = torchrun(script)
    assert code == 0, err
    assert sorted(out.splitlines()[-2:]) == ["agreed 0", "agreed 1"]


# ------------------------------------------------------------------------------------------------ shares


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_images_of_a_batch_are_shared_out_without_repeats(size):
    samplers = [EpochSampler(25, 7, seed=(0,), rank=rank, world_size=size) for rank in range(size)]
    for sampler in samplers:
        sampler.set_epoch(3, 1)
    assert len({len(sampler) for sampler in samplers}) == 1
    whole = samplers[0].batches()[1:]
    for batch, parts in zip(whole, zip(*samplers, strict=True), strict=True):
        assert all(len(part) >= 2 for part in parts)
        assert sorted(key for part in parts for key in part) == sorted((3, index) for index in batch)
    assert samplers[0].sizes() == [len(batch) for batch in whole]


def test_a_last_batch_too_small_for_all_processes_is_left_out():
    assert [len(EpochSampler(24, 7, seed=(0,), world_size=size)) for size in (1, 2)] == [4, 3]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_to_predict_are_whole_and_shared_out(size):
    parts = [list(ViewBatches(10, 3, rank, size)) for rank in range(size)]
    assert sorted(list(batch) for part in parts for batch in part) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert [len(ViewBatches(10, 3, rank, size)) for rank in range(size)] == [len(part) for part in parts]


@pytest.fixture
def as_process(monkeypatch):
    """Make this process one of five that torchrun started on this machine."""

    def become(rank: int) -> None:
        names = {"RANK": rank, "WORLD_SIZE": 5, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 5, "GROUP_RANK": 0}
        for name, value in names.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")

    return become


def test_processes_are_read_from_the_variables_of_torchrun(as_process, monkeypatch):
    as_process(3)
    monkeypatch.setenv("GROUP_RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Processes.from_environment() == Processes(3, 5, 2, 4, 1)
    assert not Processes.from_environment().is_main
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # other launchers set the other names too
    assert Processes.from_environment() == Processes()


def test_a_batch_must_hold_two_images_for_each_process(run, as_process, tiny_training, small_data, tmp_path):
    as_process(0)
    outcome = run("train", *tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path)
    assert outcome.code == 2
    assert "--batch-size 8 is less than two images for each of 5 processes. Pass 10 or more." in outcome.err


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:0", r"--device cuda:0 is one device for 5 processes"),
        ("mps", r"--device mps is one device for 5 processes"),
        ("cuda", r"5 processes share 2 GPUs\. Pass --nproc-per-node 2"),
    ],
)
def test_every_process_needs_its_own_gpu(device, message, as_process, monkeypatch):
    as_process(1)
    monkeypatch.setattr("training.distributed.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        Processes.from_environment().choose_device(device)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_all_processes_is_printed_by_the_first(rank, run, as_process, tmp_path):
    as_process(rank)
    outcome = run("train", "--train-root", tmp_path / "lost")
    assert (outcome.code, outcome.out) == (2, "")
    expected = f"train.py: There is no folder {tmp_path / 'lost'}"
    assert outcome.err.startswith(expected) if rank == 0 else outcome.err == ""
