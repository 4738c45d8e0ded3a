"""Decoded images kept in memory: the same pixels as in the files, for all processes."""

import multiprocessing
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data import image_cache
from data.image_cache import ImageReader, load_images
from data.images import needed_side, read_image
from inference import predict as prediction

SIDE = 20


@pytest.fixture
def paths(make_photo, tmp_path):
    """Five images of several sizes, the last of them truncated."""
    sizes = [(48, 64), (20, 30), (90, 64), (41, 200), (48, 64)]
    made = [make_photo(tmp_path / "images" / f"{k}.jpg", mask=k % 3, size=size) for k, size in enumerate(sizes)]
    made[4].write_bytes(made[4].read_bytes()[:-200])
    return [str(path) for path in made]


def load(paths, cache="ram"):
    return load_images(paths, cache=cache, side=SIDE, max_megapixels=100.0)


def assert_same_pixels(reader, paths) -> None:
    for path in paths:
        assert np.array_equal(reader.read(path), read_image(path, SIDE)), path


@pytest.mark.parametrize(("cache", "kept"), [("ram", 4), ("off", 0)])
def test_pixels_are_those_of_the_files(cache, kept, paths):
    reader, unreadable = load(paths, cache)
    assert list(unreadable) == [paths[4]]
    assert unreadable[paths[4]].startswith(f"{paths[4]} cannot be read as an image (")
    assert len(reader.index) == kept
    assert_same_pixels(reader, paths[:4])


def test_kept_images_are_not_read_again(paths):
    reader, _ = load(paths)
    expected = [np.asarray(read_image(path, SIDE)) for path in paths[:4]]
    for path in paths:
        os.unlink(path)
    assert all(np.array_equal(reader.read(path), pixels) for path, pixels in zip(paths, expected, strict=False))


def test_parts_of_kept_images_are_those_of_other_images(paths):
    """Also parts of parts, parts with edges outside the image, and those of an image that was changed."""
    reader, _ = load(paths)
    draw = random.Random(0)
    for path in paths[:4]:
        image = read_image(path, SIDE)
        width, height = image.size
        for _ in range(50):
            left, top = draw.randrange(-2, width), draw.randrange(-2, height)
            box = (left, top, draw.randrange(left, width + 2), draw.uniform(top, height + 2))
            for first in (None, (0, 0, width, height), (1, 3, width, height - 2)):
                found, expected = (each.crop(first).crop(box) for each in (reader.read(path), image))
                assert (found.size, found.tobytes()) == (expected.size, expected.tobytes())
        kept = reader.read(path)
        kept.putpixel((0, 0), (1, 2, 3))
        assert kept.crop((0, 0, 1, 1)).getpixel((0, 0)) == (1, 2, 3) != reader.read(path).getpixel((0, 0))
        assert np.array_equal(pickle.loads(pickle.dumps(reader.read(path))), image)


def _first_pixels(reader, paths, answers) -> None:
    answers.put([reader.read(path).getpixel((3, 5)) for path in paths])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_see_the_same(method, paths):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    reader, _ = load(paths)
    expected = [reader.read(path).getpixel((3, 5)) for path in paths[:4]]
    assert len(pickle.dumps(reader)) < 2000  # places, no pixels
    for path in paths:
        os.unlink(path)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=_first_pixels, args=(reader, paths[:4], answers))
    process.start()
    assert answers.get(timeout=60) == expected
    process.join()


def test_at_most_half_of_the_free_memory_is_used(paths, monkeypatch):
    first = np.asarray(read_image(paths[0], SIDE)).nbytes
    monkeypatch.setattr(image_cache, "free_ram", lambda: 2 * first + 20)
    reader, unreadable = load(paths)
    assert str(reader).startswith("1 decoded images kept in memory")
    assert list(unreadable) == [paths[4]]
    assert_same_pixels(reader, paths[:4])


def test_memory_is_released(paths):
    reader, _ = load(paths)
    place = reader.file
    assert place.exists()
    del reader
    assert not place.exists()


# ------------------------------------------------------------------------------------------------ the command


def results(run: Path) -> list[bytes]:
    log = pd.read_csv(run / "log.csv").drop(columns=["images_per_s", "seconds"])
    checkpoints = sorted(run.rglob("*.pt"))
    assert checkpoints
    return [log.to_csv().encode(), (run / "oof.csv").read_bytes(), *(path.name.encode() for path in checkpoints)]


def test_training_gives_the_same_with_and_without_the_cache(run, small_data, tiny_training, tmp_path):
    found = []
    for number, words in enumerate((("--cache", "off"), (), ("--num-workers", 2))):
        saved = tmp_path / str(number)
        outcome = run("train", *tiny_training, "--train-root", small_data.train_root, "--save-path", saved, *words)
        assert outcome.code == 0, outcome.err
        assert ("84 decoded images kept in memory, " in outcome.out) == (number > 0)
        found.append(results(saved / "main" / "single-VanillaTorchvision"))
    assert found[0] == found[1] == found[2]


def test_the_cache_may_change_on_resume(run, small_data, tiny_training, tmp_path):
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path, "--cv", 2)
    assert run("train", *words, "--folds", 0).code == 0
    outcome = run("train", *words, "--resume", "--cache", "off")
    assert outcome.code == 0, outcome.err
    assert run("train", *words, "--resume").out.count("finished earlier") == 2


def test_images_are_decoded_as_large_as_the_smallest_crop_needs(run, make_data, tiny_training, tmp_path, monkeypatch):
    """A crop of 1 % of the area of 400 x 500 pixels has fewer pixels than the network if the image is shrunk."""
    data = make_data(people=4, shots=["normal"], size=(400, 500), eval_images=1)
    words = (*tiny_training, "--train-root", data.train_root, "--save-path", tmp_path / "models")
    sides = []

    def record(side, *args, **kwargs):
        sides.append(side)
        return ImageReader(side, *args, **kwargs)

    monkeypatch.setattr(prediction, "ImageReader", record)
    for crop_scale, megabytes in ((0.01, "2 MB"), (0.08, "0 MB")):
        outcome = run("train", *words, "--transform-type", "tta", "--crop-scale", crop_scale, "--overwrite")
        assert f"4 decoded images kept in memory, {megabytes}." in outcome.out
        checkpoint = next((tmp_path / "models").rglob("*.pt"))
        options = ("--load-state-dict", checkpoint, "--data-root", data.data_root, "--device", "cpu")
        options = (*options, "--num-workers", 0, "--save-path", tmp_path / "prediction")
        assert run("submit_singular", *options).code == 0
    assert sides == [needed_side(32, 0.01), needed_side(32)]
