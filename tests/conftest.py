"""Fixtures that all tests share: tiny data sets in the competition's layout, and commands run in process."""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import DataSet, Person, draw, make_data_set, write_rows

# What trains in about a second; a test adds its task, folds and paths.
TINY_TRAINING = (
    *("--model-type", "VanillaTorchvision", "--backbone", "shufflenet_v2_x0_5", "--image-size", "32"),
    *("--no-pretrained", "--epochs", "1", "--batch-size", "8", "--num-workers", "0", "--device", "cpu"),
    "--no-report",  # which takes longer
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks and pictures are tiny: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts() -> Iterator[None]:
    """Nothing has to outlast one here, and waiting for the disk is half of the time."""
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda handle: None)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


# ------------------------------------------------------------------------------------------------ data sets


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., DataSet]:
    """Makes a data set in a folder of tmp_path: make_data(name="data", **options of samples.make_data_set)."""

    def make(*, name: str = "data", **options: object) -> DataSet:
        return make_data_set(tmp_path / name, **options)

    return make


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """12 people, two in each stratum, 7 photographs each, and 5 to predict. Read it, do not change it."""
    return make_data_set(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="session")
def make_person() -> type[Person]:
    """Person(id, gender="male", age=25, race="Asian")."""
    return Person


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Path]:
    """make_photo(path, mask=0, gender=0, group=0, size=(48, 64)) writes one picture and returns its path."""
    return draw


@pytest.fixture(scope="session")
def write_csv() -> Callable[..., Path]:
    """write_csv(path, columns, rows) writes a CSV file and returns its path."""
    return write_rows


# ------------------------------------------------------------------------------------------------ commands


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str

    def assert_error(self, message: str, code: int = 2) -> None:
        """Assert that the command ended with this code and one line of error, with this message."""
        assert (self.code, self.err.count("\n")) == (code, 1), self.err
        assert message in self.err

    def assert_success(self) -> Outcome:
        """Assert that the command succeeded, and return its outcome."""
        assert self.code == 0, self.err
        return self


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command in process: run("submit_singular", "--task", "main", ...); words may be paths and numbers."""

    def command(name: str, *words: object) -> Outcome:
        capsys.readouterr()
        try:
            script = name in ("train", "submit_singular", "submit_ensemble")
            main = importlib.import_module(name if script else "tools.__main__").main
            code = main([str(word) for word in (words if script else (name, *words))])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return command


@pytest.fixture(scope="session")
def tiny_training() -> tuple[str, ...]:
    """Options of train.py for a run of about a second on the CPU, without data, task, folds and save path."""
    return TINY_TRAINING


@pytest.fixture(scope="session")
def train_run(small_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """train_run("--cv", 2, data=small_data, place=a new folder) trains a tiny run and returns its folder."""

    def command(*words: object, data: DataSet = small_data, place: Path | None = None) -> Path:
        import train

        place = place or tmp_path_factory.mktemp("models")
        options = (*TINY_TRAINING, "--train-root", data.train_root, "--save-path", place, *words)
        assert train.main([str(word) for word in options]) == 0
        return next(place.glob("*/*-*"))

    return command
