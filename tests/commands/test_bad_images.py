"""Images of every kind: read as a person sees them, or reported with a sentence, or skipped."""

import contextlib
import importlib
import io
import json
import os
import re
import statistics
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from broken import bare, clear, cut, dangling, edit, first_checkpoint, first_half, folder, listing, people_csv, put
from cases import ALL, BARE, NETWORK, PREDICTION, TRAINING, Case, give_case, rows
from PIL import Image

from data.images import read_image

NOBODY = 65534  # a user without rights
RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
LEFT, RIGHT = (5, 30), (42, 30)


def halves(left=RED, right=BLUE, mode="RGB", size=(48, 64)):
    """Return an image of two colours, left and right."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def encoded(image, kind, **options):
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def animated(kind, **options):
    return encoded(halves(), kind, save_all=True, append_images=[halves(WHITE, BLACK)], **options)


def place(world, make, suffix=".jpg"):
    """Put images, written by `make(path)`, in the places of two to train on and of two to predict."""
    for number in (1, 4):
        clear(world.data.photo(number))
        make(world.data.folder(number) / f"normal{suffix}")
    for k in (0, 2):
        clear(world.images / world.ids[k])
        world.ids[k] = Path(world.ids[k]).stem + suffix
        make(world.images / world.ids[k])
    put(world.info, listing(*world.ids))


def palette(**options):
    image = Image.new("P", (48, 64), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (0, 0, 24, 64))
    return encoded(image, "PNG", **options)


def ramp(kind, dtype):
    """Return a grey image of values from 0 to 65535."""
    return encoded(Image.fromarray(np.tile(np.linspace(0, 65535, 48).astype(dtype), (64, 1))), kind)


def with_segment(marker, block):
    whole = encoded(halves(), "JPEG", quality=95)
    return whole[:2] + struct.pack(">BBH", 0xFF, marker, len(block) + 2) + block + whole[2:]


def orientation(kind, count, value):
    """An EXIF block that holds one tag, the orientation, of this type."""
    return b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, kind, count, value, 0)


def with_chunk(name, block):
    """Return a PNG with one more chunk after its header."""
    whole = encoded(halves(), "PNG")
    chunk = struct.pack(">I", len(block)) + name + block + struct.pack(">I", zlib.crc32(name + block))
    return whole[:33] + chunk + whole[33:]


def turned():
    """Red above blue as it is to be seen, stored on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = halves(size=(64, 48)).rotate(-90, expand=True)
    return encoded(upright.rotate(90, expand=True), "JPEG", exif=exif, quality=95)


@dataclass(frozen=True)
class Shown:
    """An image that can be read: its bytes, and the colours that a person sees at some points."""

    id: str
    suffix: str
    content: bytes
    colours: dict[tuple[int, int], tuple[int, int, int]]
    size: tuple[int, int] = (48, 64)


def exif(id, block):
    """An image with an EXIF block of these bytes: the damage is outside the pixels, which are whole."""
    return Shown(f"EXIF {id}", ".jpg", with_segment(0xE1, b"Exif\0\0" + block), TWO)


TWO = {LEFT: RED, RIGHT: BLUE}
RAMP = {(0, 9): BLACK, (24, 9): (130,) * 3, (36, 9): (195,) * 3, (47, 9): WHITE}
GREYS = {LEFT: (40,) * 3, RIGHT: (200,) * 3}
DARK, FADED = (200, 0, 0), {LEFT: (227, 127, 127), RIGHT: WHITE}
HALF_CLEAR = {LEFT: WHITE, RIGHT: (127, 127, 255)}
SHOWN = (
    Shown("a palette with a transparent colour", ".png", palette(transparency=0), {LEFT: WHITE, RIGHT: BLUE}),
    Shown("a palette of half transparent ones", ".png", palette(transparency=bytes([0, 128])), HALF_CLEAR),
    Shown("grey", ".png", encoded(halves(40, 200, "L"), "PNG"), GREYS),
    Shown("grey JPEG", ".jpg", encoded(halves(40, 200, "L"), "JPEG"), GREYS),
    Shown("grey and alpha", ".png", encoded(halves((40, 255), (40, 0), "LA"), "PNG"), {LEFT: (40,) * 3, RIGHT: WHITE}),
    Shown("colours and alpha", ".png", encoded(halves((*DARK, 128), (*DARK, 0), "RGBA"), "PNG"), FADED),
    Shown("a clear colour", ".png", encoded(halves(), "PNG", transparency=RED), {LEFT: WHITE, RIGHT: BLUE}),
    Shown("16 bits of grey", ".png", ramp("PNG", np.uint16), RAMP),
    Shown("32 bits of grey", ".tif", ramp("TIFF", np.int32), RAMP),
    Shown("CMYK", ".jpg", encoded(halves().convert("CMYK"), "JPEG", quality=95), TWO),
    Shown("turned by EXIF", ".jpg", turned(), {(24, 5): RED, (24, 58): BLUE}),
    Shown("an animated GIF called png", ".png", animated("GIF"), TWO),
    Shown("an animated GIF", ".GIF", animated("GIF"), TWO),
    Shown("an animated WebP", ".webp", animated("WEBP", lossless=True), TWO),
    Shown("a PNG called jpg", ".jpg", encoded(halves(), "PNG"), TWO),
    Shown("a TIFF called jpg", ".jpg", encoded(halves(), "TIFF"), TWO),
    Shown("a progressive JPEG", ".JPEG", encoded(halves(), "JPEG", progressive=True, quality=95), TWO),
    Shown("one pixel", ".png", encoded(Image.new("RGB", (1, 1), RED), "PNG"), {(0, 0): RED}, (1, 1)),
    Shown("one row", ".png", encoded(Image.new("RGB", (500, 1), RED), "PNG"), {(499, 0): RED}, (500, 1)),
    Shown("one bit", ".png", encoded(halves(0, 1, "1"), "PNG"), {LEFT: BLACK, RIGHT: WHITE}),
    Shown("a JPEG with bytes after it", ".jpg", encoded(halves(), "JPEG", quality=95) + b"\0" * 500, TWO),
    exif("without sense", b"\xff" * 40),
    exif("that is empty", b""),
    exif("that is cut", orientation(3, 1, b"\6\0\0\0")[:14]),
    exif("that points outside", b"MM\0*\0\0\xff\xff"),
    exif("with a value outside", orientation(3, 1000, b"\xff\xff\0\0")),
    exif("with text for a number", orientation(2, 4, b"six\0")),
    exif("with an unknown orientation", orientation(3, 1, b"\x63\0\0\0")),
    Shown("a damaged list of more pictures", ".jpg", with_segment(0xE2, b"MPF\0" + b"II*\0\xff\0\0\0"), TWO),
    Shown("a damaged note of an animation", ".png", with_chunk(b"acTL", bytes(8)), TWO),
)


@pytest.mark.parametrize("picture", [pytest.param(row, id=row.id.replace(" ", "-")) for row in SHOWN])
def test_a_picture_is_read_as_a_person_sees_it(picture, tmp_path):
    image = read_image(put(tmp_path / f"x{picture.suffix}", picture.content))
    assert (image.mode, image.size) == ("RGB", picture.size)
    for point, colour in picture.colours.items():
        assert np.abs(np.subtract(image.getpixel(point), colour)).max() < 30, (point, image.getpixel(point))


@pytest.mark.parametrize("command", ["check_data", "train", "submit_singular"])
def test_every_picture_is_accepted(command, world, give):
    ids = [f"{number}{picture.suffix}" for number, picture in enumerate(SHOWN)]
    for number, picture in enumerate(SHOWN):
        person, shot = (
            world.data.folder(number % 6),
            f"mask{number // 6 + 1}",
        )
        for old in person.glob(f"{shot}.*"):
            old.unlink()
        put(person / f"{shot}{picture.suffix}", picture.content)
        put(world.images / ids[number], picture.content)
    put(world.info, listing(*ids))
    printed = give(command, code=0)
    if command == "train":
        assert re.search(r" 6 people, \d+ images", printed.out)
    if command == "submit_singular":
        assert len(pd.read_csv(next(world.prediction.rglob("submission.csv")))) == len(SHOWN)


def unreadable(id, content, suffix=".jpg", reason="", **options):
    """An image that is listed, twice in each of the places, with this reason."""
    pattern = rf"{CANNOT}{reason}(?s:.*){CANNOT}{reason}"
    return Case(id, pattern, lambda world: place(world, lambda path: put(path, content), suffix), lines=2, **options)


def floats():
    return encoded(Image.fromarray(np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(64, 48)), "TIFF")


def bad_checksum():
    whole = encoded(halves(), "PNG")
    return whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]


def place_large(world):
    place(world, lambda path: put(path, encoded(halves(size=(100, 100)), "PNG")), ".png")


CANNOT = r"\w+\.\w+ cannot be read as an image "
LARGER = r"\.png has 100 x 100 = 0\.01\d* megapixels, more than --max-megapixels 0\.004"
TOO_LARGE = r"has 48 x 64 = 0\.003\d* megapixels, more than --max-megapixels 0\.001"


@rows(
    "check_data submit_singular",
    unreadable("a cut JPEG", first_half(encoded(halves(), "JPEG")), to=ALL),
    unreadable("a cut PNG", first_half(encoded(halves(), "PNG")), ".png"),
    unreadable("a cut WebP", first_half(encoded(halves(), "WEBP")), ".webp"),
    unreadable("a cut GIF", first_half(encoded(halves(), "GIF"))),
    unreadable("a PNG with a wrong checksum", bad_checksum(), ".png"),
    unreadable("a PNG with EXIF without sense", with_chunk(b"eXIf", b"\xff" * 40), ".png"),
    unreadable("a web page called jpg", "<!DOCTYPE html><html>404</html>"),
    unreadable("zeros", bytes(5000)),
    unreadable("floating-point numbers", floats(), ".png", ".*floating-point"),
    Case("too large", rf"{LARGER}(?s:.*){LARGER}", place_large, "--max-megapixels 0.004", lines=2),
    Case("all too large", TOO_LARGE, words="--max-megapixels 0.001", to=TRAINING, lines=12),
    Case("all too large", TOO_LARGE, words="--max-megapixels 0.001", to=PREDICTION, lines=3),
)
def test_a_picture_that_cannot_be_read_is_named(case, command, world, give):
    give_case(give, case, command, world)


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
    reasons = ("it is a folder", "No such file", "it is not a regular file", "its format is unknown", "it is empty")
    give(command, pattern="(?s:.*)".join(rf"{CANNOT}\({reason}" for reason in reasons), lines=len(makes))


@contextlib.contextmanager
def without_rights(root, mode=0o755):
    """Root, who may do anything, becomes another user for a moment, who may read `root`, or write with another mode."""
    if os.geteuid() != 0:
        yield
        return
    for module in ("encodings.utf_8_sig", "inference.submission", "training.session", "training.fold"):
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


DENIED = r"\(?Permission denied"


def locked(path):
    """Take away the right to read; other links to a file keep it."""
    if path.is_file():
        put(path, path.read_bytes())
    path.chmod(0)


def lock_new(path):
    locked(put(path, b"hello"))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX users")
@rows(
    ALL,
    Case("images", rf"{CANNOT}{DENIED}(?s:.*){CANNOT}{DENIED}", lambda w: place(w, lock_new), lines=2),
    Case("a folder of pictures", rf"000001\w*: {DENIED}", lambda w: locked(w.data.folder(0)), to=TRAINING),
    Case("the folder of people", rf"images: {DENIED}", lambda w: locked(w.train), to=TRAINING),
    Case("the folder to predict", rf"images: {DENIED}", lambda w: locked(w.images), to=PREDICTION),
    Case("info.csv", rf"info\.csv: {DENIED}", lambda w: locked(w.info), to=PREDICTION),
    Case("train.csv", rf"train\.csv: {DENIED}", lambda w: locked(put(w.train_csv, people_csv(w))), to=TRAINING),
    Case("a checkpoint", rf"\.pt.*{DENIED}", lambda w: locked(w.checkpoint), to="submit_singular"),
    Case("a fold", rf"\.pt.*{DENIED}", lambda w: locked(first_checkpoint(w.folds)), to="submit_ensemble"),
)
def test_what_may_not_be_read_is_named(case, command, reachable, give):
    case.breaks(reachable)
    with without_rights(reachable.tmp, 0o777):
        give(command, case.words, pattern=case.pattern, lines=case.lines, world=reachable)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the owner of a folder may always write")
@pytest.mark.parametrize("command", ["train", "submit_singular"])
def test_where_nothing_may_be_written_is_named(command, reachable, give):
    pattern = r"could not be written \(Permission denied\)\. Make the folder writable"
    with without_rights(reachable.tmp):
        give(command, pattern=pattern, code=1, world=reachable)


SKIP = "--on-bad-image skip"


def spoil(world):
    """Damage three images to train on, and the first to predict."""
    cut(world.data.photo(0))
    put(world.data.photo(2), b"")
    folder(world.data.photo(5))
    cut(world.images / world.ids[0])


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


def test_probabilities_for_a_picture_that_cannot_be_read_are_the_shares_of_training(world, give):
    counts = np.array(torch.load(world.checkpoint)["info"]["training_counts"]["gender"])
    spoil(world)
    give("submit_singular", f"{SKIP} --proba", pattern=SKIPPED, code=0)
    (first, *_) = pd.read_csv(sorted(world.prediction.rglob("submission*.csv"))[0]).to_numpy()
    assert [*map(float, first[1:])] == pytest.approx(counts / counts.sum())


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
    for path in [*world.train.rglob("*.jpg"), *world.images.iterdir()]:
        put(path, b"")


NONE = "None of the {} images {} can be read"


@rows(
    "train",
    Case("images", NONE.format(12, "of --train-root"), spoil_all, SKIP),
    Case("images", NONE.format(3, "in .*images"), spoil_all, SKIP, to=PREDICTION),
    Case(
        "images to validate on",
        NONE.format(1, "of --valid-root"),
        lambda w: put(w.tmp / "valid" / "000099_male_Asian_20" / "normal.jpg", b""),
        f"{SKIP} --valid-root {{tmp}}/valid",
    ),
)
def test_some_images_must_be_readable(case, command, world, give):
    give_case(give, case, command, world)
