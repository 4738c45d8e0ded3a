"""Write tiny data sets in the layout of the competition, for tests."""

import csv
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.face_layout import age_group
from data.faces import GENDERS, MAIN, MASKS, SHOTS
from data.label_math import decode_classes, encode_classes

SIZE = (48, 64)  # width and height of a photograph: portrait, as the real ones
AGES = (20, 45, 60)  # one of each age group


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


@dataclass
class DataSet:
    """Where a data set lies: `root` is what `input/data` is in the real one."""

    root: Path
    people: tuple[Person, ...]
    eval_ids: tuple[str, ...]  # in the order of info.csv

    def __post_init__(self) -> None:
        self.train_root = self.root / "train" / "images"
        self.train_csv = self.root / "train" / "train.csv"
        self.data_root = self.root / "images"
        self.info = self.root / "info.csv"

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


def encode_class(mask, gender, group):
    """Return the class of main of three attribute numbers, ints or arrays."""
    return encode_classes(MAIN, {"mask": mask, "gender": gender, "ageg": group})


def decode_class(number):
    """Return the numbers of mask, gender and age group of a class of main."""
    return tuple(decode_classes(MAIN, number).values())
