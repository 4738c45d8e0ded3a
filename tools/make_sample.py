"""Draw a sample set of portraits in the layout of the real data, offline and deterministic.

    python -m tools make_sample [--root ./input] [--people 300] [--eval-people 60] [--seed 42]

    <root>/data/train/images/<id>_<gender>_<race>_<age>/{mask1..mask5,incorrect_mask,normal}.<ext>
    <root>/data/train/train.csv      id,gender,race,age,path
    <root>/data/images/<ImageID>     photographs to predict
    <root>/data/info.csv             ImageID,ans in the order of the submission, every ans 0
    <root>/answers.csv               ImageID,ans with the true classes, outside data/
    <root>/contact_sheet.jpg         some of the people to train on, to look at

The same settings give the same bytes, however many processes draw; another version of Pillow or NumPy, or another
kind of processor, may round a pixel differently. Real data is never overwritten: what this command made is known by
the list in data/.sample-set.json, and nothing that is not on that list is ever replaced.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from config import SampleConfig
from data.tasks import AGE_BOUNDS, GENDERS, MASKS, SHOTS, age_group, encode_class
from tools.portrait import make_person, make_shot, paint
from utils import UserError

VERSION = 1  # raise it when the drawing changes, so that an earlier set is not taken for the present one
MARKER = ".sample-set.json"
STAGE = ".sample-set-in-the-making"  # beside data/, renamed into place when everything is drawn
BESIDE = ("answers.csv", "contact_sheet.jpg")  # what lies outside data/
AGES = ((18, AGE_BOUNDS[0] - 1), (AGE_BOUNDS[0], AGE_BOUNDS[1] - 1), (AGE_BOUNDS[1], 75))  # first and last year
SKEW = (1.3, 0.6, 1.0)  # within their groups the ages lean to the early twenties and the fifties, as the real ones do
# (gender, age group): the share of people in the real set
STRATA = {(1, 0): 0.271, (1, 1): 0.303, (1, 2): 0.040, (0, 0): 0.203, (0, 1): 0.152, (0, 2): 0.031}


@dataclass(frozen=True)
class Sitter:
    """One person to draw: where in which split, and who."""

    seed: int
    split: str  # "train" or "eval"
    index: int
    gender: int
    age: int

    @property
    def age_group(self) -> int:
        """The age group, 0 to 2."""
        return age_group(self.age)

    @property
    def folder(self) -> str:
        """The name of the folder that the person's photographs lie in."""
        return f"{self.index + 1:06d}_{GENDERS[self.gender]}_Asian_{self.age}"


# ------------------------------------------------------------------------------------------------ who is drawn


def share_out(people: int) -> dict[tuple[int, int], int]:
    """How many people each stratum (gender, age group) gets: its share in the real set, by largest remainder.

    The scarce strata get at least a twentieth of the people and at most five, so that five folds have one each.
    """
    quotas = {stratum: people * share for stratum, share in STRATA.items()}
    counts = {stratum: int(quota) for stratum, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda stratum: counts[stratum] - quotas[stratum])
    for stratum in by_remainder[: people - sum(counts.values())]:
        counts[stratum] += 1
    least = min(5, people // 20 if people >= 20 else people // 6)
    for stratum in counts:
        while counts[stratum] < least:
            counts[max(counts, key=counts.__getitem__)] -= 1
            counts[stratum] += 1
    return counts


def choose_people(seed: int, split: str, people: int) -> list[Sitter]:
    """The people of a split in the order of their ids: quotas filled, ages spread, some next to a bound of a group."""
    rng = Random(f"{seed}/{split}/people")
    drawn = []
    for (gender, group), count in share_out(people).items():
        first, last = AGES[group]
        start = rng.random()
        for k in range(count):
            spread = (start + k * 0.618034) % 1  # the golden ratio spreads any number of ages evenly
            age = first + int(spread ** SKEW[group] * (last - first + 1))
            if k % 8 == 5:  # 28 and 29, 58 and 59, 60 and 61: where age groups meet
                age = (last - k // 8 % 2) if group < 2 else first + k // 8 % 2
            drawn.append((gender, age))
    rng.shuffle(drawn)
    return [Sitter(seed, split, index, gender, age) for index, (gender, age) in enumerate(drawn)]


# ------------------------------------------------------------------------------------------------ drawing


def extension(number: int) -> str:
    """The file extension of the set's image `number`: mostly .jpg, and the others a real set has."""
    return {7: ".png", 11: ".jpeg", 23: ".JPG", 36: ".jpeg"}.get(number % 50, ".jpg")


def encode(image: Image.Image, suffix: str) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    if suffix == ".png":
        image.save(buffer, "PNG", compress_level=6)
    else:
        image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def draw_sitter(sitter: Sitter, data: Path) -> list[tuple[str, str, int]]:
    """Draw the seven photographs of one person into the folder `data`.

    Returns one (path inside data, digest of the file, true class 0 to 17) per photograph.
    """
    rng = Random(f"{sitter.seed}/{sitter.split}/{sitter.index}")
    person = make_person(sitter.gender, sitter.age, rng)
    files = []
    for k, (name, wearing) in enumerate(SHOTS.items()):
        suffix = extension(sitter.index * len(SHOTS) + k)
        if sitter.split == "train":
            path = f"train/images/{sitter.folder}/{name}{suffix}"
        else:  # a name that tells nothing
            path = f"images/{hashlib.sha1(f'{sitter.seed}/{sitter.index}/{name}'.encode()).hexdigest()}{suffix}"
        content = encode(paint(person, make_shot(person, wearing, rng)), suffix)
        target = data / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        label = encode_class(MASKS.index(wearing), sitter.gender, sitter.age_group)
        files.append((path, digest(content), label))
    return files


def _draw(job: tuple[Sitter, Path]) -> list[tuple[str, str, int]]:
    return draw_sitter(*job)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Any]]:
    """A `map` over processes, or the plain one. Results come in order, so they do not depend on the processes."""
    if workers <= 1:
        yield map
        return
    # Spawned, as on every system: a fork of a process that has imported torch can hang.
    with ProcessPoolExecutor(min(workers, 32), mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield lambda *arguments: pool.map(*arguments, chunksize=4)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# ------------------------------------------------------------------------------------------------ what lies there


def digest(content: bytes) -> str:
    """A short fingerprint of a file."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def read_marker(data: Path) -> dict[str, Any] | None:
    """What data/.sample-set.json says: `settings`, `files` and `beside` with digests. None where there is none."""
    try:
        marker = json.loads((data / MARKER).read_text("utf-8"))
        return marker if {"settings", "files", "beside"} <= marker.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _foreign(folder: Path, known: dict[str, str]) -> list[str]:
    """The files in a folder that are not, byte for byte, those that are known."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(folder).as_posix(): path for path in found}
    names.pop(MARKER, None)
    return sorted(
        name for name, path in names.items()
        if path.is_symlink() or known.get(name) != digest(path.read_bytes())
    )  # fmt: skip


def check_place(root: Path, settings: dict[str, Any], force: bool) -> bool:
    """Whether there is anything to draw: False when the very set asked for is there already. Touches nothing.

    Raises:
        UserError: what lies under `root` is not a sample set, holds files that are not of its making, or is another
            sample set and `force` is not given.
    """
    data = root / "data"
    marker = read_marker(data)
    if os.path.lexists(data) and (marker is None or data.is_symlink()):
        raise UserError(f"{data} was not made by this command and stays untouched; name another folder with --root.")
    # A run that was killed while it moved things into place has left its marker, and that of the set before, here.
    markers = (marker, read_marker(root / STAGE / "data"), read_marker(root / STAGE / "earlier"))
    ours = {item for known in markers if known for item in known["beside"].items()}
    for name in BESIDE:
        path = root / name
        if os.path.lexists(path) and (not path.is_file() or (name, digest(path.read_bytes())) not in ours):
            raise UserError(f"{path} is not of this command's making and stays untouched; name another --root.")
    if marker is None:
        return True
    missing = [name for name in marker["files"] if not (data / name).is_file()]
    missing += [name for name in BESIDE if not (root / name).is_file()]
    if marker["settings"] == settings and not missing and not force:
        return False
    if not force:
        state = f"lacks {len(missing)} of its files" if missing else "has other settings"
        raise UserError(f"The sample set in {data} {state}; --force draws it anew, --root names another folder.")
    if foreign := _foreign(data, marker["files"]):
        raise UserError(
            f"{data} holds {len(foreign)} files that this command did not make, such as {foreign[0]}; "
            "move them away before --force, or name another --root."
        )
    return True


def clear_stage(root: Path) -> None:
    """Remove what an interrupted run left: its answers may lie in place already while its data does not."""
    if not (root / "data").exists():
        for name in BESIDE:
            (root / name).unlink(missing_ok=True)  # ours: check_place knew them by their digests
    if (root / STAGE).exists():
        shutil.rmtree(root / STAGE)


# ------------------------------------------------------------------------------------------------ files


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Write a table with the same line ends on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_contact_sheet(path: Path, sitters: list[Sitter], data: Path) -> None:
    """A page with a row per stratum, two people in each and their seven photographs, from the files just drawn."""
    wide, high, gap, caption = 120, 160, 6, 22
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    column = len(SHOTS) * (wide + gap) + 18
    sheet = Image.new("RGB", (2 * column + 22, 66 + len(STRATA) * (high + caption + gap)), (250, 246, 238))
    pen = ImageDraw.Draw(sheet)
    pen.text((20, 12), "Drawn sample set: none of these people exists", font=font, fill=(70, 60, 56))
    for row, (gender, group) in enumerate(sorted(STRATA, key=lambda stratum: (-stratum[0], stratum[1]))):
        pair = [s for s in sitters if (s.gender, s.age_group) == (gender, group)][:2]
        for half, sitter in enumerate(pair):
            x, y = 20 + half * column, 60 + row * (high + caption + gap)
            pen.text((x, y), f"{GENDERS[gender]}, {sitter.age}", font=font, fill=(70, 60, 56))
            for k, name in enumerate(SHOTS):
                file = next((data / "train/images" / sitter.folder).glob(f"{name}.*"))
                left = x + k * (wide + gap)
                if row == 0:
                    pen.text((left, 40), name.replace("_", " "), font=small, fill=(140, 126, 118))
                with Image.open(file) as picture:
                    sheet.paste(picture.resize((wide, high), Image.Resampling.LANCZOS), (left, y + caption))
    sheet.save(path, quality=90)


def draw_set(stage: Path, settings: dict[str, Any], workers: int) -> None:
    """Draw the whole set into the folder `stage`, its marker last."""
    data, seed = stage / "data", settings["seed"]
    train = choose_people(seed, "train", settings["people"])
    evaluation = choose_people(seed, "eval", settings["eval_people"])
    jobs = [(sitter, data) for sitter in train + evaluation]
    with _mapper(workers) as mapped:
        drawn = list(tqdm(mapped(_draw, jobs), total=len(jobs), desc="drawing", unit=" people", disable=None))
    (data / "train").mkdir(parents=True, exist_ok=True)
    people = [(f"{s.index + 1:06d}", GENDERS[s.gender], "Asian", s.age, s.folder) for s in train]
    write_csv(data / "train" / "train.csv", ("id", "gender", "race", "age", "path"), people)
    answers = [(Path(path).name, label) for files in drawn[len(train) :] for path, _, label in files]
    Random(f"{seed}/order").shuffle(answers)
    write_csv(data / "info.csv", ("ImageID", "ans"), [(name, 0) for name, _ in answers])
    write_csv(stage / "answers.csv", ("ImageID", "ans"), answers)
    write_contact_sheet(stage / "contact_sheet.jpg", train, data)
    known = {path: fingerprint for files in drawn for path, fingerprint, _ in files}
    known |= {name: digest((data / name).read_bytes()) for name in ("train/train.csv", "info.csv")}
    beside = {name: digest((stage / name).read_bytes()) for name in BESIDE}
    known = dict(sorted(known.items()))  # in the order of drawing, the list would give the answers away
    marker = {"made_by": "make_sample.py", "settings": settings, "beside": beside, "files": known}
    (data / MARKER).write_text(json.dumps(marker, indent=0), "utf-8")


def publish(root: Path) -> None:
    """Move a finished set from the stage into place; the data folder comes last, and with it the marker."""
    stage = root / STAGE
    if (root / "data").exists():
        os.replace(root / "data", stage / "earlier")
    for name in BESIDE:
        os.replace(stage / name, root / name)
    os.replace(stage / "data", root / "data")
    shutil.rmtree(stage)


def make_sample(
    root: Path, *, people: int, eval_people: int, seed: int, workers: int | None = None, force: bool = False
) -> dict[str, Any]:
    """Make a sample set of `people` to train on and `eval_people` to predict, seven photographs each, under `root`.

    `workers` processes draw, one a core where it is None. Nothing is drawn where that very set lies already; an
    earlier set with other settings is replaced only with `force`. An interrupted run leaves no half set.

    Returns `root`, `drawn` (False where the set was there), `people`, `eval_people`, `images`, `eval_images`, `bytes`
    on disk and `seconds`.

    Raises:
        UserError: something else lies where the set would go; it stays untouched.
    """
    from utils import count_cores

    started = time.perf_counter()
    root = Path(root)
    settings = {"version": VERSION, "seed": seed, "people": people, "eval_people": eval_people}
    drawn = check_place(root, settings, force)
    if drawn:
        clear_stage(root)
        stage = root / STAGE
        stage.mkdir(parents=True)
        try:
            draw_set(stage, settings, count_cores() if workers is None else workers)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        publish(root)
    size = sum(path.stat().st_size for path in (root / "data").rglob("*") if path.is_file())
    return {
        "root": root, "drawn": drawn, "people": people, "eval_people": eval_people, "images": people * len(SHOTS),
        "eval_images": eval_people * len(SHOTS), "bytes": size, "seconds": time.perf_counter() - started,
    }  # fmt: skip


def run(config: SampleConfig) -> None:
    """Make the set and say where it is.

    Raises:
        UserError: see `make_sample`.
    """
    workers = None if config.num_workers < 0 else config.num_workers
    sizes = {"people": config.people, "eval_people": config.eval_people, "seed": config.seed}
    made = make_sample(Path(config.root), **sizes, workers=workers, force=config.force)
    if not made["drawn"]:
        print(f"{config.root} holds this very sample set already; nothing to do.")
        return
    print(
        f"{config.root}: {made['people']} people to train on ({made['images']} images), {made['eval_people']} to "
        f"predict ({made['eval_images']} images), {made['bytes'] / 1e6:.0f} MB, {made['seconds']:.0f} s. Look at "
        f"{Path(config.root) / 'contact_sheet.jpg'}; then: python train.py"
    )
