"""Draw a sample set of portraits in the layout of the real data: python -m tools make_sample --people 150

    <root>/data/train/images/<id>_<gender>_<race>_<age>/{mask1..mask5,incorrect_mask,normal}.<ext>
    <root>/data/train/train.csv      id,gender,race,age,path
    <root>/data/images/<ImageID>     images to predict
    <root>/data/info.csv             ImageID,ans in the order of the submission; every ans is 0
    <root>/data/.sample-set.json     the marker: the options of the set
    <root>/answers.csv               ImageID,ans with the true classes
    <root>/contact_sheet.jpg         two people of each stratum

The same options give the same bytes with any number of processes; another version of Pillow or NumPy, or another kind
of processor, may round a pixel differently. Only a folder that carries the marker is ever replaced.
"""

import csv
import hashlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from PIL import Image
from tqdm import tqdm

from analysis.contact_sheet import Block, Cell, contact_sheet
from config import SampleConfig
from data.face_layout import age_group
from data.faces import AGE_BOUNDS, GENDERS, MAIN, MASKS, SHOTS
from data.label_math import encode_classes
from tools.portrait import make_person, make_shot, paint
from utils import TEMPORARY, UserError, count_cores, make_folder, read_json, remove_leftovers, write_json

VERSION = 1  # increase it when the drawing changes
MARKER = "data/.sample-set.json"
PARTS = ("answers.csv", "contact_sheet.jpg", "data")  # what a set consists of; the part with the marker comes last
AGES = ((18, AGE_BOUNDS[0] - 1), (AGE_BOUNDS[0], AGE_BOUNDS[1] - 1), (AGE_BOUNDS[1], 75))  # first and last year
SKEW = (1.3, 0.6, 1.0)  # within their groups the ages lean to the early twenties and the fifties, as the real ones do
# (gender, age group): the share of people in the real set
STRATA = {(1, 0): 0.271, (1, 1): 0.303, (1, 2): 0.040, (0, 0): 0.203, (0, 1): 0.152, (0, 2): 0.031}
EXTENSIONS = {7: ".png", 11: ".jpeg", 23: ".JPG", 36: ".jpeg"}  # of 50 images; the others are .jpg


@dataclass(frozen=True)
class Subject:
    """A person to draw."""

    seed: int  # of the set
    split: str  # "train" or "eval"
    index: int  # among the people of the split, from 0
    gender: int  # 0 male, 1 female
    age: int

    @property
    def stratum(self) -> tuple[int, int]:
        """Return gender and age group."""
        return self.gender, age_group(self.age)

    @property
    def folder(self) -> str:
        """Return the name of the folder of the person's images."""
        return f"{self.index + 1:06d}_{GENDERS[self.gender]}_Asian_{self.age}"


def count_strata(people: int) -> dict[tuple[int, int], int]:
    """Return the number of people of each stratum: its share in the real set, by largest remainder.

    Scarce strata get at least a twentieth of the people and at most five, so that each of five folds has one.
    """
    counts = {stratum: int(people * share) for stratum, share in STRATA.items()}
    by_remainder = sorted(STRATA, key=lambda stratum: counts[stratum] - people * STRATA[stratum])
    for stratum in by_remainder[: people - sum(counts.values())]:
        counts[stratum] += 1
    least = min(5, people // 20 if people >= 20 else people // 6)
    for stratum in counts:
        while counts[stratum] < least:
            counts[max(counts, key=counts.__getitem__)] -= 1
            counts[stratum] += 1
    return counts


def choose_subjects(seed: int, split: str, people: int) -> list[Subject]:
    """Return the people of a split in the order of their ids: ages are spread, some next to the bounds of a group."""
    rng = Random(f"{seed}/{split}/people")
    chosen = []
    for (gender, group), count in count_strata(people).items():
        first, last = AGES[group]
        start = rng.random()
        for k in range(count):
            spread = (start + k * 0.618034) % 1  # the golden ratio spreads any number of ages evenly
            age = first + int(spread ** SKEW[group] * (last - first + 1))
            if k % 8 == 5:  # 28 and 29, 58 and 59, 60 and 61: where age groups meet
                age = (last - k // 8 % 2) if group < 2 else first + k // 8 % 2
            chosen.append((gender, age))
    rng.shuffle(chosen)
    return [Subject(seed, split, index, gender, age) for index, (gender, age) in enumerate(chosen)]


def draw_subject(subject: Subject, data: Path) -> list[tuple[Path, int]]:
    """Draw the seven images of a person into the folder `data`; return their paths and classes (0 to 17)."""
    rng = Random(f"{subject.seed}/{subject.split}/{subject.index}")
    person = make_person(subject.gender, subject.age, rng)
    images = []
    for k, (shot, wearing) in enumerate(SHOTS.items()):
        suffix = EXTENSIONS.get((subject.index * len(SHOTS) + k) % 50, ".jpg")
        if subject.split == "train":
            path = data / "train" / "images" / subject.folder / f"{shot}{suffix}"
        else:  # a name that does not show the class
            digest = hashlib.sha1(f"{subject.seed}/{subject.index}/{shot}".encode()).hexdigest()
            path = data / "images" / f"{digest}{suffix}"
        make_folder(path.parent)
        paint(person, make_shot(person, wearing, rng)).save(path, quality=82)
        gender, group = subject.stratum
        numbers = {"mask": MASKS.index(wearing), "gender": gender, "ageg": group}
        images.append((path, encode_classes(MAIN, numbers)))
    return images


def draw_subjects(subjects: Sequence[Subject], data: Path, workers: int) -> list[list[tuple[Path, int]]]:
    """Draw people in `workers` processes, or in this one; return what `draw_subject` returns, in order."""
    draw, bar = partial(draw_subject, data=data), {"total": len(subjects), "desc": "drawing", "unit": " people"}
    if workers <= 1:
        return list(tqdm(map(draw, subjects), **bar, disable=None))
    # Spawned, as on every system: a fork of a process that has imported torch can hang.
    with ProcessPoolExecutor(min(workers, 32), mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return list(tqdm(pool.map(draw, subjects, chunksize=4), **bar, disable=None))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with the same line ends on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_contact_sheet(path: Path, subjects: Sequence[Subject], drawn: Sequence[Sequence[tuple[Path, int]]]) -> None:
    """Draw a page with two people of each stratum and their seven images."""
    blocks = []
    for stratum in sorted(STRATA, key=lambda stratum: (-stratum[0], stratum[1])):
        for subject, images in [pair for pair in zip(subjects, drawn, strict=True) if pair[0].stratum == stratum][:2]:
            cells = [Cell(file.stem, Image.open(file)) for file, _ in images]
            blocks.append(Block(f"{GENDERS[subject.gender]}, {subject.age}", [cells]))
    contact_sheet("Sample set", ["Drawn by a program: none of these people exists."], blocks).save(path, quality=90)


def draw_set(stage: Path, settings: dict[str, int], workers: int) -> None:
    """Draw a whole set into the folder `stage`."""
    data, seed = stage / "data", settings["seed"]
    train = choose_subjects(seed, "train", settings["people"])
    evaluation = choose_subjects(seed, "eval", settings["eval_people"])
    drawn = draw_subjects(train + evaluation, data, workers)
    people = [(f"{s.index + 1:06d}", GENDERS[s.gender], "Asian", s.age, s.folder) for s in train]
    write_csv(data / "train" / "train.csv", ("id", "gender", "race", "age", "path"), people)
    answers = [(path.name, label) for images in drawn[len(train) :] for path, label in images]
    Random(f"{seed}/order").shuffle(answers)
    write_csv(data / "info.csv", ("ImageID", "ans"), [(name, 0) for name, _ in answers])
    write_csv(stage / "answers.csv", ("ImageID", "ans"), answers)
    write_contact_sheet(stage / "contact_sheet.jpg", train, drawn[: len(train)])
    write_json(stage / MARKER, {"made_by": "make_sample", "settings": settings})


def make_sample(root: Path, *, people: int, eval_people: int, seed: int, workers: int = 1, force: bool = False) -> bool:
    """Draw a sample set of `people` to train on and `eval_people` to predict under `root`.

    An interrupted run leaves no half set. With `force` a sample set with other settings is replaced.

    Returns:
        Whether anything was drawn; False if this very set exists.

    Raises:
        UserError: there is another sample set and not `force`, or there are files of somebody else.
    """
    settings = {"version": VERSION, "seed": seed, "people": people, "eval_people": eval_people}
    existing = [root / name for name in PARTS if os.path.lexists(root / name)]
    if existing and not (root / MARKER).is_file():
        raise UserError(f"{existing[-1]} is not part of a sample set and is never replaced. Pass another --root.")
    if existing and read_json(root / MARKER, ["settings"])["settings"] == settings and not force:
        return False
    if existing and not force:
        raise UserError(f"{root} holds another sample set. Pass --force to replace it, or another --root.")
    make_folder(root)
    remove_leftovers(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=TEMPORARY) as stage:
        draw_set(Path(stage), settings, workers)
        for name in PARTS:
            if (root / name).is_dir():  # a folder can only be renamed to one that is empty
                os.replace(root / name, Path(stage) / "earlier")
            os.replace(Path(stage) / name, root / name)
    return True


def run(config: SampleConfig) -> None:
    """Draw the set and print where it is; see `make_sample`."""
    root, workers = Path(config.root), count_cores() if config.num_workers < 0 else config.num_workers
    sizes = {"people": config.people, "eval_people": config.eval_people, "seed": config.seed}
    if not make_sample(root, **sizes, workers=workers, force=config.force):
        print(f"{root} already holds this sample set.")
        return
    print(
        f"{root}: {config.people} people to train on ({config.people * len(SHOTS)} images), {config.eval_people} to "
        f"predict ({config.eval_people * len(SHOTS)} images). {root / 'contact_sheet.jpg'} shows some of them."
    )
