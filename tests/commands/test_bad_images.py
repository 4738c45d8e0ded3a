"""Images of every kind: read as a person sees them, or reported with a sentence, or skipped."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import statistics
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import (
    ALL,
    BARE,
    BLACK,
    BLUE,
    NETWORK,
    NOBODY,
    PREDICTION,
    RED,
    TRAINING,
    WHITE,
    Case,
    bare,
    clear,
    dangling,
    edit,
    encoded,
    first_checkpoint,
    first_half,
    folder,
    give_case,
    halves,
    listing,
    make_world,
    people_csv,
    place,
    put,
    rows,
)
from PIL import Image

from data.images import read_image

LEFT, RIGHT = (5, 30), (42, 30)


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
    # The damage is outside the pixels, which are whole.
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


@shown
def test_a_picture_is_read_as_a_person_sees_it(picture, tmp_path):
    image = read_image(put(tmp_path / f"x{picture.suffix}", picture.content()))
    assert (image.mode, image.size) == ("RGB", picture.size)
    for point, colour in picture.colours.items():
        assert np.abs(np.subtract(image.getpixel(point), colour)).max() < 30, (point, image.getpixel(point))


def place_all(world):
    """Put every picture into the folders of the people, and all to predict as well."""
    ids = []
    for number, picture in enumerate(SHOWN):
        person, shot = number % 6, ["mask1", "mask2", "mask3", "mask4", "mask5", "normal"][number // 6]
        for old in world.data.folder(person).glob(f"{shot}.*"):
            old.unlink()
        put(world.data.folder(person) / f"{shot}{picture.suffix}", picture.content())
        ids.append(f"{number}{picture.suffix}")
        put(world.images / ids[-1], picture.content())
    put(world.info, listing(*ids))


@pytest.mark.parametrize("command", ["check_data", "train", "submit_singular"])
def test_every_picture_is_accepted(command, world, give):
    place_all(world)
    printed = give(command, code=0)
    if command == "train":
        assert re.search(r" 6 people, \d+ images", printed.out)
    if command == "submit_singular":
        assert len(pd.read_csv(next(world.prediction.rglob("submission.csv")))) == len(SHOWN)


def unreadable(id, reason, make, suffix=".jpg", **options):
    """A picture that is listed, twice in each of the places, with this reason."""
    return Case(
        id,
        ALL if id == "a cut JPEG" else "check_data submit_singular",
        rf"{reason}(?s:.*){reason}",
        lambda world: place(world, make, suffix),
        **{"lines": 2, **options},
    )


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


@pytest.mark.parametrize("command", ["train", "submit_singular"])
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


@pytest.fixture
def reachable(trained, make_data):
    """A world that a user without rights can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as root:
        data = make_data(name=f"{root}/data", people=6, shots=["mask1", "normal"], eval_images=3)
        yield make_world(Path(root), trained, data)


@contextlib.contextmanager
def without_rights(root, mode=0o755):
    """Root, who may do anything, becomes another user for a moment, who may read `root`, or write with another mode."""
    if os.geteuid() != 0:
        yield
        return
    for module in ("encodings.utf_8_sig", "inference.submission", "training.kfold", "training.fold"):
        importlib.import_module(module)  # that one may not be allowed to, where Python or the toolkit is root's own
    root.chmod(mode)
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


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX users")
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
    with without_rights(reachable.tmp, 0o777):
        give(command, case.words, pattern=case.pattern, lines=case.lines, world=reachable)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the owner of a folder may always write")
@pytest.mark.parametrize("command", ["train", PREDICTION.split()[0]])
def test_where_nothing_may_be_written_is_named(command, reachable, give):
    printed = r"could not be written \(Permission denied\)\. Make the folder writable"
    with without_rights(reachable.tmp):
        give(command, pattern=printed, code=1, world=reachable)


SKIP = "--on-bad-image skip"


def spoil(world):
    """Half a picture, none, and a folder, to train on; the first to predict is half of one."""
    put(world.data.photo(0), first_half(world.data.photo(0).read_bytes()))
    put(world.data.photo(2), b"")
    folder(world.data.photo(5))
    put(world.images / world.ids[0], first_half((world.images / world.ids[0]).read_bytes()))


def test_training_goes_on_without_pictures_that_cannot_be_read(world, give):
    spoil(world)
    printed = give("train", SKIP, pattern=r"^Left out 3 of 12 images that cannot be read: .*normal\.jpg", code=0)
    assert " 6 people, 9 images" in printed.out
    run = world.saved / "gender" / f"single-{NETWORK}"
    table = pd.read_csv(run / "unreadable.csv")
    assert table["file"].tolist() == [str(world.data.folder(number) / "normal.jpg") for number in (0, 2, 5)]
    for file, why in zip(table["file"], table["why"], strict=True):
        assert why.startswith(f"{file} cannot be read as an image (")
    trained_on = sum(torch.load(first_checkpoint(run))["info"]["training_counts"]["gender"])
    assert trained_on + len(pd.read_csv(run / "oof.csv")) == 9


def answers(world):
    """Return the answers of the only prediction by ImageID, and check the list of skipped images next to it."""
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
    printed = answers(world)
    assert printed.pop(world.ids[0]) in printed.values()


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
