"""Bad inputs as a table: one row an input, with the commands it is given to, the exit code and the sentence.

Pictures, tables, weights and the files of a run, broken in the ways that they break in practice. Some are read all
the same, most are refused with a sentence that names them. `--junitxml FILE` writes the table with the command, the
exit code and the sentence of every row.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pickle
import re
import shutil
import statistics
import struct
import tempfile
import threading
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import train
from data.images import read_image

NETWORK = "VanillaTorchvision"
NOBODY = 65534  # a user without rights
PATIENCE = 30  # seconds after which a reader that waits on a pipe is let go, and the row fails
LONGEST = 3_000  # characters of a line that a person still reads

PREDICT = "--data-root {images} --save-path {prediction} --num-workers 0 --device cpu"
COMMANDS = {
    "check_data": "--train-root {train} --cv 2",
    "train": "{tiny_training} --task gender --train-root {train} --save-path {saved}",
    "submit_singular": f"--load-state-dict {{checkpoint}} {PREDICT}",
    "submit_ensemble": f"--root {{folds}} --top-k 1 {PREDICT}",
    "score_submission": "--submission {submission} --answers {answers}",
}
DONE = {  # what a command says that came to its end
    "check_data": r"Training can start: ",
    "train": r"Saved in ",
    "submit_singular": r"submission\.csv",
    "submit_ensemble": r"submission_arithmetic\.csv",
    "score_submission": r"accuracy|MAE",
}
GOOD = "ImageID,ans\na.jpg,0\nb.jpg,1\n"  # of a submission and of answers
ALL = "check_data train submit_singular submit_ensemble"
TRAINING = "check_data train"
PREDICTION = "submit_singular submit_ensemble"
WEIGHTS = "train submit_singular submit_ensemble"


@dataclass(frozen=True)
class Case:
    """One input: `breaks` puts it into the fixture `world`, `words` are more options, which may name places there.

    `pattern` is looked for in stderr, or where the code is 0 in stdout. A refusal has `lines` lines, one a problem.
    """

    id: str
    to: str
    pattern: str
    breaks: Callable[[SimpleNamespace], object]
    words: str = ""
    code: int = 2
    lines: int = 1


def rows(*cases: Case):
    """Every case with each of its commands."""
    each = [(case, command) for case in cases for command in case.to.split()]
    marks = [pytest.param(case, command, id=f"{case.id}-{command}".replace(" ", "-")) for case, command in each]
    return pytest.mark.parametrize(("case", "command"), marks)


# ------------------------------------------------------------------------------------------------ what is there


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_training, make_person, make_photo):
    """Runs of one epoch on people of whom most are women of 64: one of gender, two folds of gender, one fold of age."""
    place = tmp_path_factory.mktemp("trained")
    images = place / "images"
    people = [make_person(f"{k:06d}", "female", 64) for k in range(1, 10)]
    people += [make_person(f"{k:06d}", "male", 20) for k in range(10, 13)]
    for person in people:
        for mask, shot in ((0, "mask1"), (2, "normal")):
            label = {"gender": person.gender == "female", "group": 2 * (person.age >= 60), "mask": mask}
            make_photo(images / person.folder / f"{shot}.jpg", **label)
    common = [*tiny_training, "--train-root", str(images), "--save-path", str(place / "saved")]
    for words in ("--task gender", "--task gender --cv 2", "--task age --cv 2 --folds 0"):
        assert train.main([*common, *words.split()]) == 0
    return SimpleNamespace(
        images=images,
        single=place / "saved" / "gender" / f"single-{NETWORK}",
        folds=place / "saved" / "gender" / f"kfold-ensemble-{NETWORK}",
        age=place / "saved" / "age" / f"kfold-ensemble-{NETWORK}",
    )


@pytest.fixture
def world(trained, make_data, tmp_path):
    """A data set that may be broken, copies of the trained runs, and empty places to save in."""
    data = make_data(people=6, shots=["mask1", "normal"], eval_images=3)
    yield make_world(tmp_path, trained, data)
    for name in ("runs", "saved", "weights.pt"):  # 45 MB a file
        clear(tmp_path / name)


def make_world(place, trained, data):
    world = SimpleNamespace(
        tmp=place,
        trained=trained,
        data=data,
        ids=list(data.eval_ids),
        train=data.train_root,
        train_csv=data.train_csv,
        images=data.data_root,
        info=data.info,
        saved=place / "saved",
        prediction=place / "prediction",
        fix=place / "fix.csv",
        submission=place / "scored" / "submission.csv",
        answers=place / "answers.csv",
        weights=place / "weights.pt",
        before=None,  # the files of a run that lies in `saved` and must stay as it is
    )
    for name in ("single", "folds", "age"):
        source = getattr(trained, name)
        target = place / "runs" / name / source.name
        shutil.copytree(source, target, copy_function=link)
        setattr(world, name, target)
    world.checkpoint = first_checkpoint(world.single)
    put(world.submission, GOOD)
    put(world.answers, GOOD)
    return world


def link(source, target):
    """Checkpoints are large, so they are linked, or copied to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def first_checkpoint(run, fold=0):
    return next((run / f"fold{fold:02d}").glob("*.pt"))


@pytest.fixture
def give(run, world, tiny_training, request):
    """Gives a world, broken as it may be, to a command, and asserts what holds of every row."""

    def command(name, words="", *, pattern="", code=2, lines=1, world=world):
        template = f"{COMMANDS[name]} {words}".replace("{tiny_training}", " ".join(tiny_training))
        told = run(name, *(word.format(**vars(world)) for word in template.split()))
        said = told.err if told.code else told.out
        sentence = next((line for line in said.splitlines() if re.search(pattern or DONE[name], line)), None)
        # As record_property does, which warns of the form that --junitxml has by default.
        request.node.user_properties += [
            ("command", f"{name}.py {' '.join(template.split())}"),
            ("exit code", told.code),
            (
                "sentence",
                (sentence or said.partition("\n")[0])
                .replace(f"{world.tmp}/", "")
                .encode(errors="backslashreplace")
                .decode(),
            ),
        ]
        assert told.code == code, told
        assert "Traceback" not in told.err
        assert re.search(pattern or DONE[name], said), told
        if code:
            assert told.err.startswith(f"{name}.py: "), told.err
            assert len(told.err.splitlines()) == lines, told.err
            assert not re.search(r"^fold \d+ +epoch", told.out, re.MULTILINE), told.out  # nothing was trained
            assert world.before is not None or not world.saved.exists()
            assert not world.prediction.exists()
        else:
            assert told.err == ""
            assert re.search(DONE[name], told.out), told
        assert max(map(len, said.splitlines())) < LONGEST
        assert not list(world.tmp.rglob(".tmp-*"))
        return told

    return command


def give_case(give, case, command, world):
    case.breaks(world)
    return give(command, case.words, pattern=case.pattern, code=case.code, lines=case.lines)


def put(path, content):
    """Write text or bytes in the place of whatever is there; other links to a file stay as they are."""
    clear(path)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def clear(path):
    """Make room for a path, whose folder is there afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def folder(path):
    clear(path).mkdir()


def dangling(path):
    clear(path).symlink_to(path.with_name("gone"))


@pytest.fixture
def pipe():
    """Makes a pipe that nobody writes to; who waits on it is let go after a while, and fails."""
    timers = []

    def make(path):
        os.mkfifo(clear(path))
        timers.append(threading.Timer(PATIENCE, lambda: os.close(os.open(path, os.O_RDWR))))
        timers[-1].daemon = True
        timers[-1].start()

    yield make
    assert all(timer.is_alive() for timer in timers), "a pipe was waited for"
    for timer in timers:
        timer.cancel()


# ------------------------------------------------------------------------------------------------ pictures
RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
LEFT, RIGHT = (5, 30), (42, 30)


def halves(left=RED, right=BLUE, mode="RGB", size=(48, 64)):
    """A picture of two colours, left and right."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def encoded(image, kind, **options):
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def palette(**options):
    image = Image.new("P", (48, 64), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (0, 0, 24, 64))
    return encoded(image, "PNG", **options)


def ramp():
    """16 bits of grey, from 0 to 65535."""
    return encoded(Image.fromarray(np.tile(np.linspace(0, 65535, 48).astype(np.uint16), (64, 1))), "PNG")


def with_exif(block):
    """A JPEG with an EXIF block of these bytes, as they are."""
    return with_segment(0xE1, b"Exif\0\0" + block)


def with_segment(marker, block):
    whole = encoded(halves(), "JPEG", quality=95)
    return whole[:2] + struct.pack(">BBH", 0xFF, marker, len(block) + 2) + block + whole[2:]


def orientation(kind, count, value):
    """An EXIF block that holds one tag, the orientation, of this type."""
    return b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, kind, count, value, 0)


def with_chunk(name, block, image):
    """A PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(block)) + name + block + struct.pack(">I", zlib.crc32(name + block))
    return image[:33] + chunk + image[33:]


def turned():
    """Red above blue as it is to be seen, stored on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = halves(size=(64, 48)).rotate(-90, expand=True)
    return encoded(upright.rotate(90, expand=True), "JPEG", exif=exif, quality=95)


@dataclass(frozen=True)
class Shown:
    """A picture that is read: what it is called, its bytes, and the colours that a person sees at some points."""

    id: str
    suffix: str
    content: Callable[[], bytes]
    colours: dict[tuple[int, int], tuple[int, int, int]]
    size: tuple[int, int] = (48, 64)


TWO = {LEFT: RED, RIGHT: BLUE}
GREYS = {LEFT: (40,) * 3, RIGHT: (200,) * 3}
SHOWN = (
    Shown("a palette with a transparent colour", ".png", lambda: palette(transparency=0), {LEFT: WHITE, RIGHT: BLUE}),
    Shown(
        "a palette with half transparent colours",
        ".png",
        lambda: palette(transparency=bytes([0, 128])),
        {LEFT: WHITE, RIGHT: (127, 127, 255)},
    ),
    Shown("grey", ".png", lambda: encoded(halves(40, 200, "L"), "PNG"), GREYS),
    Shown("grey JPEG", ".jpg", lambda: encoded(halves(40, 200, "L"), "JPEG"), GREYS),
    Shown(
        "grey and alpha",
        ".png",
        lambda: encoded(halves((40, 255), (40, 0), "LA"), "PNG"),
        {LEFT: (40,) * 3, RIGHT: WHITE},
    ),
    Shown(
        "colours and alpha",
        ".png",
        lambda: encoded(halves((200, 0, 0, 128), (200, 0, 0, 0), "RGBA"), "PNG"),
        {LEFT: (227, 127, 127), RIGHT: WHITE},
    ),
    Shown(
        "a transparent colour",
        ".png",
        lambda: encoded(halves(), "PNG", transparency=RED),
        {LEFT: WHITE, RIGHT: BLUE},
    ),
    Shown("16 bits of grey", ".png", ramp, {(0, 9): BLACK, (24, 9): (130,) * 3, (36, 9): (195,) * 3, (47, 9): WHITE}),
    Shown(
        "32 bits of grey",
        ".png",
        lambda: encoded(Image.fromarray(np.tile(np.linspace(0, 65535, 48).astype(np.int32), (64, 1))), "TIFF"),
        {(0, 9): BLACK, (24, 9): (130,) * 3, (47, 9): WHITE},
    ),
    Shown("CMYK", ".jpg", lambda: encoded(halves().convert("CMYK"), "JPEG", quality=95), TWO),
    Shown("turned by EXIF", ".jpg", turned, {(24, 5): RED, (24, 58): BLUE}),
    Shown(
        "an animated GIF called png",
        ".png",
        lambda: encoded(halves(), "GIF", save_all=True, append_images=[halves(WHITE, BLACK)]),
        TWO,
    ),
    Shown(
        "an animated WebP",
        ".webp",
        lambda: encoded(halves(), "WEBP", save_all=True, append_images=[halves(WHITE, BLACK)], lossless=True),
        TWO,
    ),
    Shown("a PNG called jpg", ".jpg", lambda: encoded(halves(), "PNG"), TWO),
    Shown("a TIFF called jpg", ".jpg", lambda: encoded(halves(), "TIFF"), TWO),
    Shown("a progressive JPEG", ".JPEG", lambda: encoded(halves(), "JPEG", progressive=True, quality=95), TWO),
    Shown("one pixel", ".png", lambda: encoded(Image.new("RGB", (1, 1), RED), "PNG"), {(0, 0): RED}, (1, 1)),
    Shown("one row", ".png", lambda: encoded(Image.new("RGB", (500, 1), RED), "PNG"), {(499, 0): RED}, (500, 1)),
    Shown("one bit", ".png", lambda: encoded(halves(0, 1, "1"), "PNG"), {LEFT: BLACK, RIGHT: WHITE}),
    Shown("a JPEG with bytes after it", ".jpg", lambda: encoded(halves(), "JPEG", quality=95) + b"\0" * 500, TWO),
    # What is wrong with these is beside the picture, which is whole.
    Shown("EXIF of no sense", ".jpg", lambda: with_exif(b"\xff" * 40), TWO),
    Shown("EXIF that is empty", ".jpg", lambda: with_exif(b""), TWO),
    Shown("EXIF that is cut", ".jpg", lambda: with_exif(orientation(3, 1, b"\6\0\0\0")[:14]), TWO),
    Shown("EXIF that points outside", ".jpg", lambda: with_exif(b"MM\0*\0\0\xff\xff"), TWO),
    Shown("EXIF with a value outside", ".jpg", lambda: with_exif(orientation(3, 1000, b"\xff\xff\0\0")), TWO),
    Shown("EXIF with text for a number", ".jpg", lambda: with_exif(orientation(2, 4, b"six\0")), TWO),
    Shown("EXIF with an unknown orientation", ".jpg", lambda: with_exif(orientation(3, 1, b"\x63\0\0\0")), TWO),
    Shown("a damaged list of more pictures", ".jpg", lambda: with_segment(0xE2, b"MPF\0" + b"II*\0\xff\0\0\0"), TWO),
    Shown(
        "a damaged note of an animation",
        ".png",
        lambda: with_chunk(b"acTL", struct.pack(">II", 0, 0), encoded(halves(), "PNG")),
        TWO,
    ),
)
shown = pytest.mark.parametrize("picture", [pytest.param(row, id=row.id.replace(" ", "-")) for row in SHOWN])


def place(world, make, suffix=".jpg", *, times=2):
    """Put a picture, made by `make(path)`, in the places of some to train on and of some to predict."""
    for number in (1, 4)[:times]:
        clear(world.data.photo(number))
        make(world.data.folder(number) / f"normal{suffix}")
    for k in (0, 2)[:times]:
        clear(world.images / world.ids[k])
        world.ids[k] = Path(world.ids[k]).stem + suffix
        make(world.images / world.ids[k])
    put(world.info, listing(*world.ids))


def listing(*ids):
    """info.csv of some ids."""
    return "ImageID,ans\n" + "".join(f"{name},0\n" for name in ids)


@shown
def test_a_picture_is_read_as_a_person_sees_it(picture, tmp_path):
    image = read_image(put(tmp_path / f"x{picture.suffix}", picture.content()))
    assert (image.mode, image.size) == ("RGB", picture.size)
    for point, colour in picture.colours.items():
        assert np.abs(np.subtract(image.getpixel(point), colour)).max() < 30, (point, image.getpixel(point))


@pytest.mark.parametrize("command", ["check_data", "submit_singular"])
@shown
def test_a_picture_is_taken(picture, command, world, give):
    place(world, lambda path: put(path, picture.content()), picture.suffix, times=1)
    give(command, code=0)
    if command == "submit_singular":
        assert len(pd.read_csv(next(world.prediction.rglob("submission.csv")))) == 3


def test_all_of_these_pictures_are_trained_on(world, give):
    for number, picture in enumerate(SHOWN):
        person, shot = number % 6, ["mask1", "mask2", "mask3", "mask4", "mask5", "normal"][number // 6]
        for old in world.data.folder(person).glob(f"{shot}.*"):
            old.unlink()
        put(world.data.folder(person) / f"{shot}{picture.suffix}", picture.content())
    told = give("train", code=0)
    assert re.search(r" 6 people, \d+ images", told.out)


def unreadable(id, reason, make, suffix=".jpg", **options):
    """A picture that is listed, twice in each of the places, with this reason."""
    return Case(
        id, ALL, rf"{reason}(?s:.*){reason}", lambda world: place(world, make, suffix), **{"lines": 2, **options}
    )


def first_half(content):
    return content[: len(content) // 2]


def floats():
    return encoded(Image.fromarray(np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(64, 48)), "TIFF")


def bad_checksum():
    whole = encoded(halves(), "PNG")
    return whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]


CANNOT = r"\w+\.\w+ cannot be read as an image "
LISTED = (
    unreadable("a cut JPEG", CANNOT, lambda path: put(path, first_half(encoded(halves(), "JPEG")))),
    unreadable("a cut PNG", CANNOT, lambda path: put(path, first_half(encoded(halves(), "PNG"))), ".png"),
    unreadable("a cut WebP", CANNOT, lambda path: put(path, first_half(encoded(halves(), "WEBP"))), ".webp"),
    unreadable("a cut GIF", CANNOT, lambda path: put(path, first_half(encoded(halves(), "GIF"))), ".jpg"),
    unreadable("a PNG with a wrong checksum", CANNOT, lambda path: put(path, bad_checksum()), ".png"),
    unreadable(
        "a PNG with EXIF of no sense",
        CANNOT,
        lambda path: put(path, with_chunk(b"eXIf", b"\xff" * 40, encoded(halves(), "PNG"))),
        ".png",
    ),
    unreadable("an empty picture", CANNOT + r"\(it is empty\)", lambda path: put(path, b"")),
    unreadable("text called jpg", CANNOT + r"\(its format is unknown\)", lambda path: put(path, "hello\n")),
    unreadable("a web page called jpg", CANNOT, lambda path: put(path, "<!DOCTYPE html><html>404</html>")),
    unreadable("zeros", CANNOT, lambda path: put(path, bytes(5000))),
    unreadable("a folder called jpg", CANNOT + r"\(it is a folder\)", folder),
    unreadable("a dangling link", CANNOT + r"\(No such file", dangling),
    unreadable("floating-point numbers", CANNOT + r".*floating-point", lambda path: put(path, floats()), ".png"),
    unreadable(
        "too many pixels",
        r"\.png has 100 x 100 = 0\.01\d* megapixels, more than --max-megapixels 0\.004",
        lambda path: put(path, encoded(halves(size=(100, 100)), "PNG")),
        ".png",
        words="--max-megapixels 0.004",
    ),
    *(
        Case(
            "all of them too large",
            to,
            r"has 48 x 64 = 0\.003\d* megapixels, more than --max-megapixels 0\.001",
            lambda world: None,
            words="--max-megapixels 0.001",
            lines=lines,
        )
        for to, lines in ((TRAINING, 12), (PREDICTION, 3))
    ),
)


@rows(*LISTED)
def test_a_picture_that_cannot_be_read_is_named(case, command, world, give):
    give_case(give, case, command, world)


@pytest.mark.parametrize("command", ALL.split())
def test_a_pipe_called_jpg_is_named(command, world, give, pipe):
    place(world, pipe)
    give(command, pattern=rf"{CANNOT}\(it is not a regular(?s:.*){CANNOT}\(it is not a regular", lines=2)


@pytest.mark.parametrize("command", ALL.split())
def test_pictures_that_cannot_be_read_are_named_all_at_once(command, world, give, pipe):
    makes = [folder, dangling, pipe, lambda path: put(path, "hello\n"), lambda path: put(path, b"")]
    names = world.ids
    for number, make in enumerate(makes):
        clear(world.data.photo(number))
        make(world.data.folder(number) / "normal.jpg")
        names.append(f"more{number}.jpg")
        make(world.images / names[-1])
    put(world.info, listing(*names))
    reasons = (r"a folder", r"No such file", r"not a regular file", r"format is unknown", r"it is empty")
    give(command, pattern="(?s:.*)".join(CANNOT + r".*" + reason for reason in reasons), lines=len(makes))


# ------------------------------------------------------------------------------------------------ without rights


@pytest.fixture
def reachable(trained, make_data):
    """A world that a user without rights can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as root:
        data = make_data(name=f"{root}/data", people=6, shots=["mask1", "normal"], eval_images=3)
        yield make_world(Path(root), trained, data)


@contextlib.contextmanager
def without_rights(root):
    """Nothing is forbidden to root, who becomes another user for a moment; what that one may read is in `root`."""
    if os.geteuid() != 0:
        yield
        return
    for module in ("encodings.utf_8_sig", "prediction", "crossval", "foldtrainer"):
        importlib.import_module(module)  # that one may not be allowed to, where Python or the toolkit is root's own
    root.chmod(0o755)
    try:
        os.seteuid(NOBODY)
    except PermissionError:
        pytest.skip("root may not become another user here")
    try:
        yield
    finally:
        os.seteuid(0)


def locked(path):
    """Take away the right to read; other links to a file keep it."""
    if path.is_file():
        put(path, path.read_bytes())
    path.chmod(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such rights here")
@rows(
    Case(
        "pictures",
        ALL,
        rf"{CANNOT}\(Permission denied\)(?s:.*){CANNOT}\(Permission denied\)",
        lambda world: place(world, lambda path: put(path, b"hello").chmod(0)),
        lines=2,
    ),
    Case("a folder of pictures", TRAINING, r"000001\w*: Permission denied", lambda w: locked(w.data.folder(0))),
    Case("the folder of people", TRAINING, r"images: Permission denied", lambda w: locked(w.train)),
    Case("the folder to predict", PREDICTION, r"images: Permission denied", lambda w: locked(w.images)),
    Case("info.csv", PREDICTION, r"info\.csv: Permission denied", lambda w: locked(w.info)),
    Case("train.csv", TRAINING, r"train\.csv: Permission denied", lambda w: locked(put(w.train_csv, people_csv(w)))),
    Case("a checkpoint", "submit_singular", r"\.pt.*Permission denied", lambda w: locked(w.checkpoint)),
    Case("a checkpoint of a fold", "submit_ensemble", r"\.pt.*Permission", lambda w: locked(first_checkpoint(w.folds))),
)
def test_what_may_not_be_read_is_named(case, command, reachable, give):
    case.breaks(reachable)
    with without_rights(reachable.tmp):
        give(command, case.words, pattern=case.pattern, lines=case.lines, world=reachable)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the owner of a folder may always write")
@pytest.mark.parametrize("command", ["train", PREDICTION.split()[0]])
def test_where_nothing_may_be_written_is_named(command, reachable, give):
    told = r"could not be written \(Permission denied\); make the folder writable"
    with without_rights(reachable.tmp):
        give(command, pattern=told, code=1, world=reachable)


# ------------------------------------------------------------------------------------------------ skipping pictures

SKIP = "--on-bad-image skip"


def spoil(world):
    """Half a picture, none, and a folder, to train on; the first to predict is half of one."""
    put(world.data.photo(0), first_half(world.data.photo(0).read_bytes()))
    put(world.data.photo(2), b"")
    folder(world.data.photo(5))
    put(world.images / world.ids[0], first_half((world.images / world.ids[0]).read_bytes()))


def test_training_goes_on_without_pictures_that_cannot_be_read(world, give):
    spoil(world)
    told = give("train", SKIP, pattern=r"^Left out 3 of 12 images that cannot be read: .*normal\.jpg", code=0)
    assert " 6 people, 9 images" in told.out
    run = world.saved / "gender" / f"single-{NETWORK}"
    table = pd.read_csv(run / "unreadable.csv")
    assert table["file"].tolist() == [str(world.data.folder(number) / "normal.jpg") for number in (0, 2, 5)]
    for file, why in zip(table["file"], table["why"], strict=True):
        assert why.startswith(f"{file} cannot be read as an image (")
    trained_on = sum(torch.load(first_checkpoint(run))["info"]["training_counts"]["gender"])
    assert trained_on + len(pd.read_csv(run / "oof.csv")) == 9


def answers(world):
    """The answers of the only prediction, by ImageID; its list of skipped ones stands beside it."""
    file = sorted(world.prediction.rglob("submission*.csv"))[0]
    table = pd.read_csv(file)
    assert table["ImageID"].tolist() == world.ids
    left_out = pd.read_csv(file.with_name("unreadable.csv"))
    assert left_out["ImageID"].tolist() == world.ids[:1]
    assert left_out["why"].str.contains("cannot be read as an image").all()
    return dict(zip(table["ImageID"], table["ans"], strict=True))


SKIPPED = r"1 of 3 images cannot be read and got the most frequent answer of training: "


@pytest.mark.parametrize("usual", ["female", "male"])
@pytest.mark.parametrize("command", PREDICTION.split())
def test_a_picture_that_cannot_be_read_is_answered_with_what_training_saw_most(command, usual, world, give):
    """Nine of twelve people are women; with the counts the other way round it is a man, whatever the network says."""
    for path in (world.checkpoint, first_checkpoint(world.folds, 0), first_checkpoint(world.folds, 1)):
        counts = torch.load(path)["info"]["training_counts"]
        assert counts["gender"][1] > counts["gender"][0]
        if usual == "male":
            edit(path, path, training_counts={**counts, "gender": counts["gender"][::-1]})
    spoil(world)
    give(command, SKIP, pattern=SKIPPED, code=0)
    assert answers(world)[world.ids[0]] == (usual == "female")


@pytest.mark.parametrize("command", PREDICTION.split())
def test_an_age_of_a_picture_that_cannot_be_read_is_the_median(command, world, give):
    spoil(world)
    world.checkpoint = first_checkpoint(world.age)
    give(command, f"{SKIP} --root {{age}} --folds 0" if "ens" in command else SKIP, pattern=SKIPPED, code=0)
    people = json.loads((world.age / "split.json").read_text())["folds"][0]["train"]
    ages = {path.name.split("_")[0]: int(path.name.split("_")[-1]) for path in world.trained.images.iterdir()}
    assert answers(world)[world.ids[0]] == statistics.median(ages[person] for person in people) == 64


@pytest.mark.parametrize("command", PREDICTION.split())
def test_bare_weights_lose_no_row_either(command, world, give):
    spoil(world)
    for path in (world.checkpoint, first_checkpoint(world.folds, 0), first_checkpoint(world.folds, 1)):
        bare(path, path)
    said = give(command, f"{SKIP} {BARE}", pattern=SKIPPED.split(" training")[0], code=0)
    assert "answer of the other images, since the weights come without training counts" in said.out
    told = answers(world)
    assert told.pop(world.ids[0]) in told.values()


def spoil_all(world):
    for number in range(6):
        for shot in ("mask1", "normal"):
            put(world.data.photo(number, shot), b"hello")
    for name in world.ids:
        put(world.images / name, b"")


def spoil_validation(world):
    other = world.tmp / "valid"
    put(other / "000099_male_Asian_20" / "normal.jpg", b"")


@rows(
    Case("none that can be read", "train", r"None of the 12 images of --train-root can be read", spoil_all, SKIP),
    Case("none that can be read", PREDICTION, r"None of the 3 images in .*images can be read", spoil_all, SKIP),
    Case(
        "none to validate on that can be read",
        "train",
        r"None of the 1 images of --valid-root can be read",
        spoil_validation,
        f"{SKIP} --valid-root {{tmp}}/valid",
    ),
)
def test_there_must_be_something_left(case, command, world, give):
    give_case(give, case, command, world)


# ------------------------------------------------------------------------------------------------ info.csv


def info(id, pattern, content, *, code=2, lines=1):
    """A row of info.csv: `content(world)` is its text or bytes, or None when it was put there.

    What is read goes through one command, what is refused through both.
    """

    def breaks(world):
        made = content(world)
        if made is not None:
            put(world.info, made)

    return Case(id, PREDICTION if code else "submit_singular", pattern, breaks, code=code, lines=lines)


def renamed(world, old, new):
    """info.csv that spells the first id `old`, of a file that is called `new`."""
    (world.images / world.ids[0]).rename(world.images / new)
    return listing(old, *world.ids[1:])


SPELLED = r"1 id spelled differently from the file .*: "
COMPOSED, APART = (unicodedata.normalize(form, "사진é.jpg") for form in ("NFC", "NFD"))
LONG = "x" * 196 + ".jpg"


@rows(
    info(
        "info with more columns",
        "",
        lambda w: "no,ImageID,ans\n" + "".join(f"{k},{n},0\n" for k, n in enumerate(w.ids)),
        code=0,
    ),
    info("info without ans", "", lambda w: "ImageID\n" + "\n".join(w.ids), code=0),
    info("info with a byte-order mark", "", lambda w: "\ufeff" + listing(*w.ids), code=0),
    info("info with CRLF", "", lambda w: listing(*w.ids).replace("\n", "\r\n"), code=0),
    info("info with CR", "", lambda w: listing(*w.ids).replace("\n", "\r"), code=0),
    info("info without a last line end", "", lambda w: listing(*w.ids).rstrip(), code=0),
    info("info with quotes and commas", "", lambda w: renamed(w, '"a, b.jpg"', "a, b.jpg"), code=0),
    info("info with long rows", "", lambda w: listing(*w.ids).replace(",0", ",0,more,and more"), code=0),
    info("info in UTF-16", r"info\.csv is not UTF-8", lambda w: listing(*w.ids).encode("utf-16")),
    info("info in UTF-16 without a mark", r"info\.csv is not UTF-8|NUL", lambda w: listing(*w.ids).encode("utf-16-le")),
    info("info in cp949", r"info\.csv is not UTF-8", lambda w: renamed(w, "사진.jpg", "사진.jpg").encode("cp949")),
    info("info with NUL in an id", r"info\.csv", lambda w: listing(w.ids[0] + "\0", *w.ids[1:])),
    info("info with zeros at its end", r"info\.csv", lambda w: listing(*w.ids).encode() + bytes(512)),
    info("info with a column twice", r"has the column ImageID more than once", lambda w: "ImageID,ImageID\na,b\n"),
    info("info that is empty", r"info\.csv has no column ImageID", lambda w: ""),
    info("info without a first line", r"info\.csv has no column ImageID", lambda w: listing(*w.ids).split("\n", 1)[1]),
    info("info with semicolons", r"info\.csv has no column ImageID", lambda w: listing(*w.ids).replace(",", ";")),
    info("an id twice", r"1 id listed twice in .*info\.csv: \w+\.jpg\.$", lambda w: listing(*w.ids, w.ids[0])),
    info(
        "an empty id", r"1 row of .*info\.csv without an ImageID: line 3\.", lambda w: listing(w.ids[0], "", w.ids[1])
    ),
    info("ids of spaces", r"2 rows .* without an ImageID: line 3, line 4\.", lambda w: listing(w.ids[0], " ", "\t")),
    info(
        "an empty id below an empty line",
        r"1 row of .*info\.csv without an ImageID: line 4\.",
        lambda w: f"ImageID,ans\n{w.ids[0]},0\n\n,0\n{w.ids[1]},0\n",
    ),
    info("an id that leads outside", r"1 id .* outside of .*images: \.\./x\.jpg\.", lambda w: listing("../x.jpg")),
    info("an id of Windows that does", r"1 id .* outside of .*images: \.\.\\x\.jpg\.", lambda w: listing("..\\x.jpg")),
    info("an absolute path", r"1 id .* outside of .*images: /.*\.jpg\.", lambda w: listing(w.images / w.ids[0])),
    info("an extension of other case", SPELLED + r"a\.JPG\.", lambda w: renamed(w, "a.JPG", "a.jpg"), code=0),
    info("a file of other case", SPELLED + r"a\.jpg\.", lambda w: renamed(w, "a.jpg", "a.Jpg"), code=0),
    info("a composed id", SPELLED + COMPOSED, lambda w: renamed(w, COMPOSED, APART), code=0),
    info("a composed file", SPELLED + APART, lambda w: renamed(w, APART, COMPOSED), code=0),
    info("spaces around an id", SPELLED + r" a\.jpg ", lambda w: renamed(w, " a.jpg ", "a.jpg"), code=0),
    info(
        "two ids of one file",
        r"1 image of two ids of .*info\.csv: a\.jpg\.",
        lambda w: renamed(w, "a.JPG", "a.jpg") + "a.jpg,0\n",
    ),
    info(
        "an id of two files",
        r"1 id of .*info\.csv .*: a\.JPG\.",
        lambda w: put(w.images / "a.Jpg", (w.images / w.ids[1]).read_bytes()) and renamed(w, "a.JPG", "a.jpg"),
    ),
    info("a name of 200 characters", "", lambda w: renamed(w, LONG, LONG), code=0),
    info("a field of 200000 characters", r"info\.csv cannot be read as CSV \(field", lambda w: listing("x" * 200_000)),
    info("an id of 100000 characters", r"info\.csv", lambda w: listing("x" * 100_000)),
    info("an open quote", r"info\.csv", lambda w: 'ImageID,ans\n"' + "\n".join(w.ids)),
    info(
        "all of it at once",
        r"twice.*\n.*without an image",
        lambda w: listing("", w.ids[0], w.ids[0], "../x", "y.jpg"),
        lines=4,
    ),
    info("info that is a folder", r"info\.csv", lambda w: folder(w.info)),
    info("info that is a dangling link", r"info\.csv", lambda w: dangling(w.info)),
    info(
        "a name that is not Unicode",
        r"1 image in .* does not list, left out",
        lambda w: shutil.copy(w.images / w.ids[0], os.fsencode(w.images) + b"/\xbb\xe7.jpg") and listing(*w.ids),
        code=0,
    ),
    info(
        "an id that is not Unicode",
        r"UTF-8|name",
        lambda w: shutil.copy(w.images / w.ids[0], os.fsencode(w.images) + b"/\xbb\xe7.jpg") and w.info.unlink(),
    ),
)
def test_info_csv(case, command, world, give):
    give_case(give, case, command, world)
    if case.code == 0:
        assert len(pd.read_csv(sorted(world.prediction.rglob("submission*.csv"))[0])) == 3


@pytest.mark.parametrize("command", PREDICTION.split())
def test_info_csv_that_is_a_pipe(command, world, give, pipe):
    pipe(world.info)
    give(command, pattern=r"info\.csv")


# ------------------------------------------------------------------------------------------------ train.csv


def people_csv(world, *more, number=0, **changes):
    """train.csv of all people, with changes to one of them and more rows, which are {column: value} of that one."""
    people = [
        {"id": p.id, "gender": p.gender, "race": p.race, "age": p.age, "path": p.folder} for p in world.data.people
    ]
    people[number] |= changes
    people += [people[number] | row for row in more]
    return "\n".join(",".join(map(str, line)) for line in [people[0], *(row.values() for row in people)]) + "\n"


def table(id, pattern, content, *, code=2, lines=1):
    """A row of train.csv of which `content(world)` is the text or bytes."""
    to = TRAINING if code else "check_data"
    return Case(id, to, pattern, lambda world: put(world.train_csv, content(world)), code=code, lines=lines)


def rename_person(world, new):
    world.data.folder(0).rename(world.train / new)


WRONG = r"1 row of train\.csv whose id, gender, age \(0 to 120\) or path cannot be read: 000001_"
COLUMNS = "has no column id, gender, age, path"
COMPOSED_RACE, APART_RACE = (unicodedata.normalize(form, "000001_male_Café_20") for form in ("NFC", "NFD"))


@rows(
    table("train.csv with more columns", "", lambda w: people_csv(w, more=1), code=0),
    table("train.csv with a byte-order mark", "", lambda w: "\ufeff" + people_csv(w), code=0),
    table("train.csv with CRLF", "", lambda w: people_csv(w).replace("\n", "\r\n"), code=0),
    table("train.csv with quotes and commas", "", lambda w: people_csv(w, race='"Asian, ""East"""'), code=0),
    table("train.csv with spaces", "", lambda w: people_csv(w, gender=" male ", age=" 20 "), code=0),
    table("train.csv with decimals", "", lambda w: people_csv(w, age="20.0"), code=0),
    table("train.csv with only a first line", "", lambda w: "id,gender,race,age,path\n", code=0),
    table("train.csv without gender", r"has no column gender. Its", lambda w: people_csv(w).replace("gender", "sex")),
    table("train.csv that is empty", COLUMNS, lambda w: ""),
    table("train.csv in UTF-16", r"train\.csv is not UTF-8", lambda w: people_csv(w).encode("utf-16")),
    table("train.csv in cp949", r"train\.csv is not UTF-8", lambda w: people_csv(w, race="아시아").encode("cp949")),
    table("train.csv with NUL", r"train\.csv", lambda w: people_csv(w, gender="male\0")),
    table("train.csv with a column twice", r"has the column age more", lambda w: people_csv(w).replace("race", "age")),
    table(
        "a field of train.csv too long",
        r"train\.csv cannot be read as CSV",
        lambda w: people_csv(w, race="x" * 200_000),
    ),
    table("age n/a", WRONG, lambda w: people_csv(w, age="n/a")),
    table("age empty", WRONG, lambda w: people_csv(w, age="")),
    table("age 200", WRONG, lambda w: people_csv(w, age=200)),
    table("age -3", WRONG, lambda w: people_csv(w, age=-3)),
    table("age 25.5", WRONG, lambda w: people_csv(w, age=25.5)),
    table("age of superscripts", WRONG, lambda w: people_csv(w, age="²5")),
    table("age of 5000 digits", WRONG, lambda w: people_csv(w, age="9" * 5000)),
    table("age 0", r"1 folder of people aged 0, .*: 000001_male_Asian_20\.", lambda w: people_csv(w, age=0), code=0),
    table("an unknown gender", WRONG, lambda w: people_csv(w, gender="m")),
    table("an empty person", WRONG, lambda w: people_csv(w, id="")),
    table("an empty folder name", r"cannot be read: 000001\.", lambda w: people_csv(w, path="")),
    table("an empty row", r"cannot be read: line 8\.", lambda w: people_csv(w, dict.fromkeys(("id", "path"), ""))),
    table(
        "an empty row below an empty line",
        r"cannot be read: line 9\.",
        lambda w: people_csv(w, {"id": "\n", "path": ""}),
    ),
    table(
        "rows that say the opposite",
        r"1 row of train\.csv that contradict an earlier row: 000001_male_Asian_20\.",
        lambda w: people_csv(w, {"age": 61}),
    ),
    table("rows that say the same", "", lambda w: people_csv(w, {}), code=0),
    table(
        "another age than the folder",
        r"1 folder whose name and train\.csv disagree",
        lambda w: people_csv(w, age=50),
        code=0,
    ),
    table(
        "rows without a folder", r"1 row in train\.csv without a folder", lambda w: people_csv(w, {"path": "x"}), code=0
    ),
    table(
        "a folder that leads outside", r"1 row in train\.csv without", lambda w: people_csv(w, {"path": "../x"}), code=0
    ),
    Case("train.csv that is a folder", TRAINING, r"train\.csv", lambda w: folder(w.train_csv)),
    Case("train.csv that is a dangling link", TRAINING, r"train\.csv", lambda w: dangling(w.train_csv)),
    Case(
        "a folder with age 200",
        TRAINING,
        r"1 folder whose age is not 0 to 120: 000001_male_Asian_200\.",
        lambda w: rename_person(w, "000001_male_Asian_200"),
    ),
    Case(
        "a folder with age 0",
        "check_data",
        r"1 folder of people aged 0, .*: 000001_male_Asian_0\.",
        lambda w: rename_person(w, "000001_male_Asian_0"),
        code=0,
    ),
    Case(
        "a folder with age n-a",
        TRAINING,
        r"1 folder whose name is not .*: 000001_male_Asian_na\.",
        lambda w: rename_person(w, "000001_male_Asian_na"),
    ),
    Case(
        "a folder with a name of 200 characters",
        "check_data",
        "",
        lambda w: rename_person(w, "1" * 186 + "_male_Asian_20"),
        code=0,
    ),
    Case(
        "a folder spelled apart",
        "check_data",
        r"^(?!(?s:.*)without a folder)",
        lambda w: rename_person(w, APART_RACE) or put(w.train_csv, people_csv(w, path=COMPOSED_RACE)),
        code=0,
    ),
    Case(
        "a file whose name is not Unicode",
        "check_data",
        r"1 file that this toolkit does not read",
        lambda w: shutil.copy(w.data.photo(0), os.fsencode(w.data.folder(0)) + b"/\xbb\xe7.txt"),
        code=0,
    ),
)
def test_train_csv(case, command, world, give):
    give_case(give, case, command, world)


# ------------------------------------------------------------------------------------------------ corrections


def fix(id, pattern, content, *, code=2, lines=1):
    """A row of corrections; `content` is the text or bytes of the file, with a first line where it is a list."""
    text = (
        "id,gender,age,file,mask\n" + "".join(f"{row}\n" for row in content) if isinstance(content, list) else content
    )
    to = TRAINING if code else "check_data"
    return Case(id, to, pattern, lambda w: put(w.fix, text), "--corrections {fix}", code, lines)


CANNOT_APPLY = r"1 row of .*fix\.csv that cannot be applied \(.*\): line 2 \(000001\)"
CHANGED = r"Corrections of .*fix\.csv changed the labels of {} image"


@rows(
    fix("corrections with more columns", CHANGED.format(2), "id,gender,why\n000001,female,seen\n", code=0),
    fix("corrections with a byte-order mark", CHANGED.format(2), "\ufeffid,gender\n000001,female\n", code=0),
    fix("corrections with CRLF", CHANGED.format(2), "id,gender\r\n000001,female\r\n", code=0),
    fix("corrections with quotes and commas", CHANGED.format(2), 'id,gender,why\n000001,female,"a, b\nc"\n', code=0),
    fix("corrections with spaces", CHANGED.format(2), [" 000001 , Female ,,,"], code=0),
    fix("corrections with only a first line", CHANGED.format(0), [], code=0),
    fix("corrections that are empty", r"fix\.csv has no column id", ""),
    fix("corrections without ids", r"fix\.csv has no column id. Its first line must name id", "person,gender\n000001,female\n"),
    fix("corrections in UTF-16", r"fix\.csv is not UTF-8", "id,gender\n000001,female\n".encode("utf-16")),
    fix("corrections with NUL", r"fix\.csv", ["000001,fem\0ale,,,"]),
    fix("corrections with a column twice", r"more than once", "id,gender,gender\n000001,female,male\n"),
    fix("corrections of two people who are not there", r"2 rows of .* do not exist: 9, 10\.", ["9,male,,,", "10,male,,,"]),
    fix("corrections with age 200", CANNOT_APPLY, ["000001,,200,,"]),
    fix("corrections with age n/a", CANNOT_APPLY, ["000001,,n/a,,"]),
    fix("corrections with an age of 5000 digits", CANNOT_APPLY, [f"000001,,{'9' * 5000},,"]),
    fix("corrections with an age of superscripts", CANNOT_APPLY, ["000001,,²5,,"]),
    fix("corrections with an age with decimals", CANNOT_APPLY, ["000001,,21.5,,"]),
    fix("corrections with an unknown mask", CANNOT_APPLY, ["000001,,,normal,off"]),
    fix("corrections of a file that is not there", CANNOT_APPLY, ["000001,,,mask4,worn"]),
    fix("corrections of a mask without a file", CANNOT_APPLY, ["000001,,,,bare"]),
    fix("corrections of an unknown gender", CANNOT_APPLY, ["000001,man,,,"]),
    fix("corrections with an empty id", r"1 row of .*fix\.csv .*: line 3\.", ["000001,female,,,", ",male,,,"]),
    fix("corrections with an empty id below an empty line", r": line 4\.", ["000001,female,,,", "", ",male,,,"]),
    fix(
        "corrections that say the opposite",
        r"1 row of .*fix\.csv that contradict an earlier row: line 3 \(000001\)\.",
        ["000001,female,,,", "000001,male,,,"],
    ),
    fix(
        "corrections of a mask that say the opposite",
        r"1 row of .*fix\.csv that contradict an earlier row: line 3 \(000001\)\.",
        ["000001,,,normal,worn", "000001,,,normal.jpg,wrong"],
    ),
    fix(
        "corrections with everything wrong",
        r"do not exist: 9\.\n.*contradict.*line 4.*\n.*cannot be applied .*line 5",
        ["000001,female,,,", "9,male,,,", "000001,male,,,", "000002,,-1,,"],
        lines=3,
    ),
    Case("corrections that are a folder", TRAINING, r"fix\.csv", lambda w: folder(w.fix), "--corrections {fix}"),
    Case(
        "corrections that are gone",
        "check_data",
        r"no file .*fix\.csv",
        lambda w: dangling(w.fix),
        "--corrections {fix}",
    ),
)
def test_corrections(case, command, world, give):
    give_case(give, case, command, world)


# ------------------------------------------------------------------------------------------------ weights


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def edit(source, target, **changes):
    """Save a checkpoint with changes to what it says of itself."""
    content = torch.load(source)
    content["info"] |= changes
    return saved(content, target)


def change(source, target, **changes):
    """Save a checkpoint with changes to its parts."""
    return saved(torch.load(source) | changes, target)


def bare(source, target, *, without=(), **more):
    weights = torch.load(source)["state_dict"] | more
    return saved({name: value for name, value in weights.items() if name not in without}, target)


def saved(content, target, **options):
    with io.BytesIO() as file:
        torch.save(content, file, **options)
        return put(target, file.getvalue())


def flip_a_bit(source, target):
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    put(target, bytes(content))


def script(target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), clear(target))


def other_zip(target):
    with zipfile.ZipFile(clear(target), "w") as file:
        file.writestr("hello.txt", "hello")


def legacy(source, target, share=1.0):
    content = saved(torch.load(source), target, _use_new_zipfile_serialization=False).read_bytes()
    put(target, content[: int(len(content) * share)])


def not_a_number(source, target):
    weights = torch.load(source)["state_dict"]
    weights["linear.bias"][0] = float("nan")
    change(source, target, state_dict=weights)


def of_another_split(world):
    """The checkpoint of a run that was split otherwise, among the folds of this one."""
    target = first_checkpoint(world.folds)
    put(target, world.checkpoint.read_bytes())


def weights(id, pattern, make, *, to=WEIGHTS, words="", code=2):
    """A file of weights: `make(source, target)` writes it, with the help of a good one.

    It is given by --load-state-dict, or lies in the place of the checkpoint of the first fold.
    """
    return Case(id, to, pattern, lambda world: make(world.good, world.target), words, code)


def given_weights(case, command, world):
    ensemble = command == "submit_ensemble"
    world.good = first_checkpoint(world.trained.folds if ensemble else world.trained.single)
    world.target = first_checkpoint(world.folds) if ensemble else world.weights
    case.breaks(world)
    return case.words if ensemble else f"--load-state-dict {{weights}} {case.words}"


def evil(target):
    return Evil(target.with_name("ran"))


BARE = f"--task gender --model-type {NETWORK} --backbone shufflenet_v2_x0_5 --image-size 32"
BARE_FOR = {"train": "--backbone shufflenet_v2_x0_5", "submit_singular": BARE, "submit_ensemble": BARE}
CODE = (
    r"\.pt cannot be read as a checkpoint \(it (carries|is a pickle of something other than weights and may carry) code"
)
DAMAGED = r"\.pt cannot be read as a checkpoint \(it is cut short or damaged"


@rows(
    weights("a command", CODE + r", \w+\.system", lambda good, bad: saved(evil(bad), bad)),
    weights("a command among weights", CODE, lambda good, bad: change(good, bad, more=evil(bad))),
    weights(
        "a command in the old format",
        CODE,
        lambda good, bad: saved(evil(bad), bad, _use_new_zipfile_serialization=False),
    ),
    *(
        weights(
            f"a command in a pickle of protocol {protocol}",
            CODE,
            lambda good, bad, protocol=protocol: put(bad, pickle.dumps(evil(bad), protocol)),
        )
        for protocol in range(6)
    ),
    weights("a whole network", CODE + r", torch\.nn\S+Linear,", lambda good, bad: saved(torch.nn.Linear(2, 2), bad)),
    weights("arrays of NumPy", CODE, lambda good, bad: saved({"weight": np.ones(3)}, bad)),
    weights("TorchScript", CODE + r", TorchScript", lambda good, bad: script(bad)),
    weights("a cut file", DAMAGED, lambda good, bad: put(bad, first_half(good.read_bytes()))),
    weights("a file without its last byte", DAMAGED, lambda good, bad: put(bad, good.read_bytes()[:-1])),
    weights("a flipped bit", DAMAGED, flip_a_bit),
    weights("the old format cut", DAMAGED, lambda good, bad: legacy(good, bad, 0.5)),
    weights("the old format cut early", DAMAGED, lambda good, bad: legacy(good, bad, 0.0001)),
    weights("the old format", "", legacy, code=0),
    weights("another zip file", r"\(it is a zip file, but not of torch\)", lambda good, bad: other_zip(bad)),
    weights("text", r"\(it is no file of torch\)", lambda good, bad: put(bad, "hello\n")),
    weights("a web page", r"\(it is no file of torch\)", lambda good, bad: put(bad, "<!DOCTYPE html><html></html>")),
    weights(
        "a pointer of Git LFS", r"\(it is no file of torch\)", lambda good, bad: put(bad, "version https://git-lfs")
    ),
    weights("nothing", r"\(it is empty\)", lambda good, bad: put(bad, b"")),
    weights(
        "another format", r"is of checkpoint format 2; this", lambda good, bad: change(good, bad, format_version=2)
    ),
    weights(
        "a format that is a tensor", r"\.pt is ", lambda good, bad: change(good, bad, format_version=torch.zeros(2))
    ),
    weights("no description", r"checkpoint with parts missing", lambda good, bad: change(good, bad, info=None)),
    weights("weights that are no numbers", r"\.pt holds weights that are not numbers: linear\.bias\.", not_a_number),
    *(
        weights(
            f"an image size of {size}",
            r"\.pt is a checkpoint with parts missing \(its image size is",
            lambda good, bad, size=size: edit(good, bad, image_size=size),
        )
        for size in (-5, "large", None, 2.5, True)
    ),
    weights(
        "an unknown network", r"model type of .*must be one of", lambda good, bad: edit(good, bad, model_type="ViT")
    ),
    weights("a task that is a number", r"with parts missing", lambda good, bad: edit(good, bad, task=7)),
    weights("other classes", r"was trained on other classes", lambda good, bad: edit(good, bad, classes=["a", "b"])),
    weights("a mean that is text", r"\.pt", lambda good, bad: edit(good, bad, mean="dark"), to=PREDICTION),
    weights("no score", r"\.pt", lambda good, bad: edit(good, bad, scores={}), to=PREDICTION),
    weights("options that miss one", r"\.pt", lambda good, bad: edit(good, bad, config={"seed": 1}), to=PREDICTION),
)
def test_weights(case, command, world, give):
    words = given_weights(case, command, world)
    give(command, words, pattern=case.pattern, code=case.code)
    assert not list(world.tmp.rglob("ran"))


@rows(
    weights(
        "bare weights of another network",
        rf"\.pt do not fit {NETWORK} \(shufflenet_v2_x0_5, task gender\): linear\.bias is missing, other is not part "
        r"of it, "
        r"linear\.weight has shape \(3, 512\) instead of \(2, \d+\)\.",
        lambda good, bad: bare(
            good, bad, without=["linear.bias"], **{"linear.weight": torch.ones(3, 512), "other": torch.ones(1)}
        ),
    ),
    weights(
        "bare weights of a deeper network",
        rf"\.pt do not fit {NETWORK} \(shufflenet_v2_x0_5, task gender\): .* is not part of it, .* and \d+ more\.",
        lambda good, bad: bare(good, bad, **{f"layer5.{k}": torch.ones(1) for k in range(9)}),
    ),
    weights(
        "bare weights that are no numbers",
        r"not numbers: linear\.bias",
        lambda good, bad: bare(good, bad, **{"linear.bias": torch.full((2,), torch.nan)}),
    ),
    weights(
        "bare weights without values",
        r"\.pt",
        lambda good, bad: bare(good, bad, **{"linear.bias": torch.ones(2, device="meta")}),
    ),
    weights(
        "bare weights that are whole numbers",
        "",
        lambda good, bad: bare(good, bad, **{"linear.bias": torch.ones(2, dtype=torch.int8)}),
        code=0,
    ),
    weights(
        "bare weights of a wrapped network",
        "",
        lambda good, bad: saved({f"module.{k}": v for k, v in torch.load(good)["state_dict"].items()}, bad),
        code=0,
    ),
)
def test_bare_weights(case, command, world, give):
    words = given_weights(case, command, world)
    if command == "submit_ensemble":
        bare(first_checkpoint(world.folds, 1), first_checkpoint(world.folds, 1))
    give(command, f"{words} {BARE_FOR[command]}", pattern=case.pattern or DONE[command], code=case.code)


@rows(
    Case(
        "a fold of another split",
        "submit_ensemble",
        r"differ in split fingerprint",
        of_another_split,
    ),
    Case("weights that are a folder", "submit_ensemble", r"\.pt", lambda w: folder(first_checkpoint(w.folds))),
    Case("weights that are a dangling link", "submit_ensemble", r"\.pt", lambda w: dangling(first_checkpoint(w.folds))),
    Case("a file for a fold", "submit_ensemble", r"fold 1\b", lambda w: put(w.folds / "fold01", b"")),
    Case(
        "a checkpoint in another fold",
        "submit_ensemble",
        r"is a checkpoint of fold 1, not of fold 0\. Move it back",
        lambda w: put(first_checkpoint(w.folds), first_checkpoint(w.folds, 1).read_bytes()),
    ),
)
def test_a_run_with_weights_that_do_not_belong_there(case, command, world, give):
    give_case(give, case, command, world)


@pytest.mark.parametrize("command", WEIGHTS.split())
def test_weights_that_are_a_pipe(command, world, give, pipe):
    ensemble = command == "submit_ensemble"
    pipe(first_checkpoint(world.folds) if ensemble else world.weights)
    give(command, "" if ensemble else "--load-state-dict {weights}", pattern=r"\.pt")


def test_the_pickle_of_these_rows_would_run_a_command(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------ a run to continue


def contents(place):
    """The files below a folder, with what changes when they are written."""
    files = {path.relative_to(place): path.stat() for path in place.rglob("*") if path.is_file()}
    return {name: (about.st_ino, about.st_size, about.st_mtime_ns) for name, about in files.items()}


def state(id, pattern, content):
    """`content(old)` is what is saved in the place of the state to resume from, or its bytes."""

    def breaks(world):
        path = world.run / "fold00" / "resume.state"
        made = content(torch.load(path))
        put(path, made) if isinstance(made, (bytes, str)) else saved(made, path)

    return Case(id, "train", pattern, breaks, "--resume")


def of_run(id, pattern, name, content, words="--resume"):
    """A file of the run with other content."""
    return Case(id, "train", pattern, lambda world: put(world.run / name, content), words)


STATE = r"fold00/resume\.state "
CONFIG, SPLIT = r"config\.json is missing or damaged", r"split\.json is missing or damaged"


@rows(
    Case(
        "a state with a command",
        "train",
        STATE + r".*it carries code, .*Delete it to train the fold anew",
        lambda w: saved(evil(w.saved), w.run / "fold00" / "resume.state"),
        "--resume",
    ),
    Case(
        "a state that is a pickle",
        "train",
        STATE + r".*carr(y|ies) code.*Delete it to train the fold anew",
        lambda w: put(w.run / "fold00" / "resume.state", pickle.dumps(evil(w.saved))),
        "--resume",
    ),
    state("a state that is empty", STATE + r".*\(it is empty\).*Delete it", lambda old: b""),
    state("a state that is text", STATE + r".*\(it is no file of torch\).*Delete it", lambda old: "hello\n"),
    state("a state that is a list", STATE + r"is no state of this run and toolkit", lambda old: [1, 2]),
    state("a state of another format", STATE + r"is no state of this run and toolkit", lambda old: old | {"format": 9}),
    state("a state of another split", STATE + r"belongs to another split \(x, ", lambda old: old | {"split": "x"}),
    state("a state without its parts", STATE, lambda old: {"format": old["format"]}),
    state("a state of too many epochs", STATE, lambda old: old | {"epoch": 7}),
    Case(
        "a cut state", "train", STATE + r".*cut short", lambda w: half_of(w.run / "fold00" / "resume.state"), "--resume"
    ),
    Case(
        "a state that is a folder",
        "train",
        r"resume\.state",
        lambda w: folder(w.run / "fold00" / "resume.state"),
        "--resume",
    ),
    of_run("a config that is cut", CONFIG, "config.json", '{"task": "gen'),
    of_run("a config that is empty", CONFIG, "config.json", b""),
    of_run("a config that is not UTF-8", CONFIG, "config.json", b'{"task": "\xff"}'),
    of_run("a config that is a list", r"config\.json", "config.json", "[]"),
    of_run("a config that is a number", r"config\.json", "config.json", "7"),
    of_run("a config without options", r"config\.json is missing or damaged \(it holds no task", "config.json", "{}"),
    of_run(
        "a config with fingerprints of no sense", r"config\.json|begun with other", "config.json", '{"fingerprints": 7}'
    ),
    of_run("a config that is cut and not resumed", CONFIG, "config.json", '{"task": "gen', ""),
    of_run("a config that is a list and not resumed", r"config\.json", "config.json", "[]", ""),
    of_run("a config without options and not resumed", r"config\.json|already holds a run", "config.json", "{}", ""),
    Case(
        "a config that is a folder",
        "train",
        r"config\.json|no run of this",
        lambda w: folder(w.run / "config.json"),
        "--resume",
    ),
    of_run("a split that is cut", SPLIT, "split.json", '{"seed": 4'),
    of_run("a split that is empty", SPLIT, "split.json", b""),
    of_run("a split that is a list", r"split\.json", "split.json", "[]"),
    of_run("a split without folds", r"split\.json", "split.json", "{}"),
    Case("a split that is a folder", "train", SPLIT, lambda w: folder(w.run / "split.json"), "--resume"),
    Case("a split that is gone", "train", SPLIT, lambda w: clear(w.run / "split.json"), "--resume"),
    of_run("a log that is empty", r"fold00/log\.csv", "fold00/log.csv", b""),
    of_run("a log that is empty and not resumed", r"fold00/log\.csv|already holds", "fold00/log.csv", b"", ""),
    of_run("a log of something else", r"fold00/log\.csv", "fold00/log.csv", "a,b\n1,2\n"),
    of_run("out-of-fold rows that are empty", r"fold00/oof\.csv", "fold00/oof.csv", b""),
    of_run("out-of-fold rows of something else", r"fold00/oof\.csv", "fold00/oof.csv", "a,b\n1,2\n"),
)
def test_a_damaged_run_is_not_continued(case, command, world, give):
    """Nothing is trained, and what is there stays as it is."""
    world.run = world.saved / "gender" / world.single.name
    shutil.copytree(world.single, world.run, copy_function=link)
    continue_damaged(case, command, world, give, "--train-root {trained.images}")


@rows(
    of_run("a split that is cut before the second fold", SPLIT, "split.json", '{"seed": 4'),
    of_run("a split without folds before the second fold", r"split\.json", "split.json", "{}"),
    of_run("a log that is empty before the second fold", r"fold00/log\.csv", "fold00/log.csv", b""),
    of_run("out-of-fold rows that are empty before the second fold", r"fold00/oof\.csv", "fold00/oof.csv", b""),
)
def test_a_damaged_run_gets_no_second_fold(case, command, world, give):
    """What the summary is made of is looked at first: a fold takes hours."""
    world.run = world.saved / "age" / world.age.name
    shutil.copytree(world.age, world.run, copy_function=link)
    continue_damaged(case, command, world, give, "--train-root {trained.images} --task age --cv 2")


def continue_damaged(case, command, world, give, words):
    case.breaks(world)
    world.before = contents(world.saved)
    give(command, f"{words} {case.words}", pattern=case.pattern)
    assert contents(world.saved) == world.before
    assert not list(world.tmp.rglob("ran"))


def half_of(path):
    put(path, first_half(path.read_bytes()))


# ------------------------------------------------------------------------------------------------ score_submission.py


def scored(id, pattern, told, true=None, *, words="", code=2):
    """The text of the submission and of the answers; what is None stays good."""

    def breaks(world):
        for path, content in ((world.submission, told), (world.answers, true)):
            if content is not None:
                put(path, content)

    return Case(id, "score_submission", pattern, breaks, words, code)


AGES = "ImageID,ans\na.jpg,20\nb.jpg,61.5\n"


@rows(
    scored("answers without ids", r"answers\.csv has no column ImageID", None, "image,ans\na.jpg,0\n"),
    scored("answers without answers", r"answers\.csv has no column ans", None, "ImageID,answer\na.jpg,0\n"),
    scored("answers without both", r"answers\.csv has no column ImageID, ans", None, "a.jpg,0\nb.jpg,1\n"),
    scored("answers that are empty", r"answers\.csv has no column ImageID, ans", None, ""),
    scored(
        "answers with a column twice", r"answers\.csv has the column ans more than", None, "ImageID,ans,ans\na,0,1\n"
    ),
    scored("answers in UTF-16", r"answers\.csv is not UTF-8", None, GOOD.encode("utf-16")),
    scored("answers with only a first line", r"answers\.csv holds no rows", None, "ImageID,ans\n"),
    scored("answers NaN", r"answers\.csv holds an answer", None, "ImageID,ans\na.jpg,nan\nb.jpg,1\n"),
    scored(
        "answers empty", r"answers\.csv holds an answer that is not a number", None, "ImageID,ans\na.jpg,\nb.jpg,1\n"
    ),
    scored("answers infinite", r"answers\.csv holds an answer", None, "ImageID,ans\na.jpg,1e999\nb.jpg,1\n"),
    scored(
        "answers of ages NaN",
        r"holds an answer that is not a number",
        AGES,
        AGES.replace("20", "nan"),
        words="--task age",
    ),
    scored(
        "told ages infinite",
        r"holds an answer that is not a number",
        AGES.replace("20", "inf"),
        AGES,
        words="--task age",
    ),
    scored(
        "answers of other images",
        r"do not list the same images: a\.jpg, c\.jpg\.",
        None,
        "ImageID,ans\nc.jpg,0\nb.jpg,1\n",
    ),
    scored("answers in surplus", r"do not list the same images: c\.jpg\.", None, GOOD + "c.jpg,0\n"),
    scored("answers twice", r"answers\.csv lists images twice: a\.jpg", None, GOOD + "a.jpg,0\n"),
    scored("told NaN", r"submission\.csv holds an answer", "ImageID,ans\na.jpg,nan\nb.jpg,1\n"),
    scored("told no columns", r"submission\.csv has no column ImageID, ans", "hello\n"),
    scored("told in CRLF with a mark", "", "\ufeff" + GOOD.replace("\n", "\r\n"), code=0),
    scored("told with more columns", "", "no,ImageID,ans\n0,a.jpg,0\n1,b.jpg,1\n", code=0),
    scored("told in another order", "", "ImageID,ans\nb.jpg,1\na.jpg,0\n", code=0),
    Case("answers that are a folder", "score_submission", r"answers\.csv", lambda w: folder(w.answers)),
    Case("answers that are a dangling link", "score_submission", r"answers\.csv", lambda w: dangling(w.answers)),
    *(
        Case(
            f"a note of the prediction that is {content or 'empty'}",
            "score_submission",
            r"prediction\.json",
            lambda w, content=content: put(w.submission.with_name("prediction.json"), content),
        )
        for content in ("", "hello", "[]", "7")
    ),
)
def test_score_submission(case, command, world, give):
    give_case(give, case, command, world)
