"""Fixtures that all tests share: tiny data sets in the competition's layout, and commands run in process.

make_data()                    a new data set under tmp_path: 12 people, 7 photographs each, 5 to predict
make_data(people=..., ...)     with other people, shots, sizes, extensions; see the fixture
small_data                     one such set, made once and shared: for tests that only read it
make_photo(path, ...)          one photograph
run("train", "--epochs", "1")  a command by its module's name, with its exit code, stdout and stderr
"""

from __future__ import annotations

import csv
import importlib
import os
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.label_math import age_group
from data.tasks import GENDERS, MASKS, SHOTS

SIZE = (48, 64)  # width and height of a photograph: portrait, as the real ones
AGES = (20, 45, 60)  # one of each age group
# What trains in about a second; a test adds its task, folds and paths.
TINY_TRAINING = (
    *(
        "--model-type",
        "VanillaTorchvision",
        "--backbone",
        "shufflenet_v2_x0_5",
        "--image-size",
        "32",
        "--no-pretrained",
    ),
    *("--epochs", "1", "--batch-size", "8", "--num-workers", "0", "--device", "cpu"),
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


@dataclass(frozen=True)
class Person:
    """Who is on the photographs of one folder."""

    id: str
    gender: str = "male"
    age: int = 25
    race: str = "Asian"

    @property
    def folder(self) -> str:
        return f"{self.id}_{self.gender}_{self.race}_{self.age}"


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies: `root` is what `input/data` is in the real one."""

    root: Path
    people: tuple[Person, ...]
    eval_ids: tuple[str, ...]  # in the order of info.csv

    @property
    def train_root(self) -> Path:
        return self.root / "train" / "images"

    @property
    def train_csv(self) -> Path:
        return self.root / "train" / "train.csv"

    @property
    def data_root(self) -> Path:
        return self.root / "images"

    @property
    def info(self) -> Path:
        return self.root / "info.csv"

    def folder(self, number: int) -> Path:
        """The folder of photographs of one person."""
        return self.train_root / self.people[number].folder

    def photo(self, number: int, shot: str = "normal") -> Path:
        """One photograph of one person, whatever its extension."""
        return next(path for path in self.folder(number).iterdir() if path.stem == shot)


def some_people(count: int = 12) -> list[Person]:
    """People of all six strata in turn, with ids 000001, 000002, ..."""
    strata = [(gender, age) for gender in GENDERS for age in AGES]
    return [Person(f"{k + 1:06d}", *strata[k % len(strata)]) for k in range(count)]


def draw(path: Path, *, mask: int = 0, gender: int = 0, group: int = 0, size: Sequence[int] = SIZE) -> Path:
    """Write a picture whose colours tell its label; the noise in it depends on the path's last two parts."""
    width, height = size
    noise = np.random.default_rng(zlib.crc32("/".join(path.parts[-2:]).encode()))
    pixels = noise.integers(0, 30, (height, width, 3))
    pixels += 60 * group  # older is brighter
    pixels[: height // 2, :, 2 * gender] += 90  # the upper half is red or blue
    pixels[height // 2 :, :, 1] += 50 * mask  # the lower half is greener the less of it the mask covers
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def make_data_set(
    root: Path,
    *,
    people: Iterable[Person] | int = 12,
    shots: Iterable[str] = tuple(SHOTS),
    size: Sequence[int] = SIZE,
    extensions: Sequence[str] = (".jpg",),
    train_csv: bool = False,
    eval_images: int = 5,
    info: bool = True,
) -> DataSet:
    """Write a data set below `root`; `extensions` are used in turn, also within a person."""
    people = tuple(some_people(people) if isinstance(people, int) else people)
    number = 0
    for person in people:
        for shot in shots:
            label = {"gender": GENDERS.index(person.gender), "group": age_group(person.age)}
            path = root / "train" / "images" / person.folder / (shot + extensions[number % len(extensions)])
            draw(path, mask=MASKS.index(SHOTS.get(shot, MASKS[0])), size=size, **label)
            number += 1
    if train_csv:
        rows = [[p.id, p.gender, p.race, p.age, p.folder] for p in people]
        write_rows(root / "train" / "train.csv", ["id", "gender", "race", "age", "path"], rows)
    ids = tuple(f"{zlib.crc32(str(k).encode()):08x}.jpg" for k in range(eval_images))
    for k, name in enumerate(ids):
        draw(root / "images" / name, mask=k % 3, gender=k % 2, group=k // 2 % 3, size=size)
    if info and ids:
        write_rows(root / "info.csv", ["ImageID", "ans"], [[name, 0] for name in ids])
    return DataSet(root, people, ids)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., DataSet]:
    """Makes a data set under tmp_path.

    make_data(people=12, shots=all seven, size=(48, 64), extensions=(".jpg",), train_csv=False, eval_images=5,
    info=True, name="data"): `people` is a number or a list of `make_person(...)`, `name` the folder under tmp_path.
    """

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
