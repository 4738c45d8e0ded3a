"""Decoded photographs that are kept: the pixels of the files, never of earlier ones, for all processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data import image_cache as cache
from data.image_cache import Pictures, look_at_pictures
from data.images import read_image
from utils import DiskError

SIDE = 20


@pytest.fixture
def paths(make_photo, tmp_path):
    """Five photographs of several sizes, of which one is cut short."""
    sizes = [(48, 64), (20, 30), (90, 64), (41, 200), (48, 64)]
    made = [make_photo(tmp_path / "photos" / f"{k}.jpg", mask=k % 3, size=size) for k, size in enumerate(sizes)]
    made[4].write_bytes(made[4].read_bytes()[:-200])
    return [str(path) for path in made]


@pytest.fixture
def look(tmp_path):
    """Looks at photographs with a cache in tmp_path/runs."""
    (tmp_path / "runs").mkdir()

    def command(paths, kind, **options):
        limits = {"side": SIDE, "max_megapixels": 100.0, "folder": tmp_path / "runs", **options}
        return look_at_pictures(paths, cache=kind, **limits)

    return command


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "runs").iterdir())


def assert_same_pixels(pictures: Pictures, paths, side: int = SIDE) -> None:
    for path in paths:
        assert np.array_equal(pictures.read(path), read_image(path, side)), path


@pytest.mark.parametrize(("kind", "kept"), [("ram", 4), ("disk", 4), ("off", 0)])
def test_pixels_are_those_of_the_files(kind, kept, look, paths):
    pictures, unreadable = look(paths, kind)
    assert list(unreadable) == [paths[4]]
    assert unreadable[paths[4]].startswith(f"{paths[4]} cannot be read as a picture (")
    assert len(pictures.index) == kept
    assert_same_pixels(pictures, paths[:4])


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_what_is_kept_is_not_read_again(kind, look, paths):
    pictures, _ = look(paths, kind)
    expected = [np.asarray(read_image(path, SIDE)) for path in paths[:4]]
    for path in paths:
        os.unlink(path)
    assert all(np.array_equal(pictures.read(path), pixels) for path, pixels in zip(paths, expected, strict=False))


def _first_pixels(pictures, paths, answers) -> None:
    answers.put([pictures.read(path).getpixel((3, 5)) for path in paths])


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_see_the_same(kind, method, look, paths):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    pictures, _ = look(paths, kind)
    expected = [pictures.read(path).getpixel((3, 5)) for path in paths[:4]]
    kept_by_others = sum(path.stat().st_size for path in map(Path, paths))
    assert len(pickle.dumps(pictures)) < max(2000, kept_by_others)  # places, no pixels
    for path in paths:
        os.unlink(path)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=_first_pixels, args=(pictures, paths[:4], answers))
    process.start()
    assert answers.get(timeout=60) == expected
    process.join()


def test_memory_is_filled_as_far_as_half_of_what_is_free(look, paths, monkeypatch):
    first = np.asarray(read_image(paths[0], SIDE)).nbytes
    monkeypatch.setattr(cache, "free_ram", lambda: 2 * first + 20)
    pictures, unreadable = look(paths, "ram")
    assert len(pictures.index) == 1
    assert list(unreadable) == [paths[4]]
    assert_same_pixels(pictures, paths[:4])
    assert str(pictures).startswith("1 photographs are kept decoded")


def test_memory_is_given_back(look, paths):
    pictures, _ = look(paths, "ram")
    place = pictures.file
    assert place.exists()
    del pictures
    assert not place.exists()


def test_a_file_is_made_once_and_read_by_later_runs(look, paths, tmp_path, monkeypatch):
    look(paths, "disk")
    (name,) = files(tmp_path)
    monkeypatch.setattr(cache, "_write_file", lambda *_: pytest.fail("written again"))
    pictures, unreadable = look(paths, "disk")
    assert files(tmp_path) == [name]
    assert list(unreadable) == [paths[4]]
    assert_same_pixels(pictures, paths[:4])


@pytest.mark.parametrize("change", ["content", "time", "one more", "one less", "side", "limit", "readable now"])
def test_a_file_is_never_used_for_what_it_was_not_made_of(change, look, paths, make_photo, tmp_path):
    earlier, _ = look(paths, "disk")
    before = files(tmp_path)
    options = {}
    if change == "content":
        make_photo(Path(paths[0]), mask=2, gender=1, group=2, size=(50, 60))
    elif change == "time":
        os.utime(paths[0], ns=(1, 1))
    elif change == "one more":
        paths.insert(0, str(make_photo(tmp_path / "photos" / "new.jpg")))
    elif change == "one less":
        del paths[0]
    elif change == "side":
        options = {"side": 30}
    elif change == "limit":
        options = {"max_megapixels": 0.005}
    else:
        make_photo(Path(paths[4]))
    pictures, unreadable = look(paths, "disk", **options)
    assert files(tmp_path) != before
    assert len(files(tmp_path)) == (2 if change == "side" else 1)  # the earlier one is of no more use
    readable = [path for path in paths if path not in unreadable]
    assert len(readable) == {"one more": 5, "one less": 3, "limit": 3, "readable now": 5}.get(change, 4) - (
        change == "limit"
    )
    assert_same_pixels(pictures, readable, options.get("side", SIDE))
    assert earlier.read(paths[1]).size == read_image(paths[1], SIDE).size  # who has it open reads on


def test_a_file_is_found_whatever_folder_a_relative_path_starts_from(look, paths, tmp_path, monkeypatch):
    look(paths, "disk")
    monkeypatch.chdir(tmp_path / "photos")
    monkeypatch.setattr(cache, "_write_file", lambda *_: pytest.fail("written again"))
    names = [Path(path).name for path in paths]
    pictures, _ = look(names, "disk")
    assert len(pictures.index) == 4
    assert_same_pixels(pictures, names[:4])


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000], ids=["empty", "short", "long"])
def test_a_damaged_file_is_made_anew(content, look, paths, tmp_path):
    look(paths, "disk")
    (name,) = files(tmp_path)
    (tmp_path / "runs" / name).write_bytes(content)
    pictures, _ = look(paths, "disk")
    assert len(pictures.index) == 4
    assert_same_pixels(pictures, paths[:4])


def test_a_full_disk_is_told_and_the_photographs_are_read_from_their_files(look, paths, tmp_path, monkeypatch, capsys):
    def full(path, write):
        raise DiskError(f"{path} could not be written (No space left on device), 0.0 MB are free there; make room.")

    monkeypatch.setattr(cache, "atomic_write", full)
    pictures, unreadable = look(paths, "disk")
    told = capsys.readouterr().out
    assert told.startswith("Photographs are decoded anew in every epoch: ")
    assert "No space left on device" in told
    assert (list(unreadable), files(tmp_path)) == ([paths[4]], [])
    assert_same_pixels(pictures, paths[:4])


# ------------------------------------------------------------------------------------------------ the command


def results(run: Path) -> list[bytes]:
    log = pd.read_csv(run / "log.csv").drop(columns=["images_per_s", "seconds"])
    checkpoints = sorted(run.rglob("*.pt"))
    assert checkpoints
    return [log.to_csv().encode(), (run / "oof.csv").read_bytes(), *(path.name.encode() for path in checkpoints)]


def test_training_comes_to_the_same_with_every_cache(run, small_data, tiny_training, tmp_path):
    found = []
    for number, words in enumerate((("--cache", "off"), ("--cache", "disk"), (), ("--num-workers", 2))):
        saved = tmp_path / str(number)
        outcome = run("train", *tiny_training, "--train-root", small_data.train_root, "--save-path", saved, *words)
        assert outcome.code == 0, outcome.err
        assert ("84 photographs are kept decoded, " in outcome.out) == (number > 0)
        assert [path.name.startswith(".photographs-") for path in saved.glob(".*")] == [True] * (number == 1)
        found.append(results(saved / "main" / "single-VanillaTorchvision"))
    assert found[0] == found[1] == found[2] == found[3]


def test_the_cache_may_change_on_resume(run, small_data, tiny_training, tmp_path):
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path, "--cv", 2)
    assert run("train", *words, "--folds", 0).code == 0
    outcome = run("train", *words, "--resume", "--cache", "disk")
    assert outcome.code == 0, outcome.err
    assert run("train", *words, "--resume", "--cache", "off").out.count("finished earlier") == 2
