"""Fixtures of the tests of broken inputs: trained runs, a world to break, and a command to give it to."""

from __future__ import annotations

import os
import re
import threading
from types import SimpleNamespace

import pytest
from cases import COMMANDS, DONE, LONGEST, NETWORK, PATIENCE, PROGRAM, bare, clear, first_checkpoint, make_world

import train


@pytest.fixture(scope="session")
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
    checkpoint = first_checkpoint(place / "saved" / "gender" / f"single-{NETWORK}")
    bare(checkpoint, place / "bare.pth")
    return SimpleNamespace(
        images=images,
        bare=place / "bare.pth",
        single=place / "saved" / "gender" / f"single-{NETWORK}",
        folds=place / "saved" / "gender" / f"kfold-ensemble-{NETWORK}",
        age=place / "saved" / "age" / f"kfold-ensemble-{NETWORK}",
    )


@pytest.fixture
def world(trained, make_data, tmp_path, monkeypatch):
    """A data set that may be broken, copies of the trained runs, and empty places to save in."""
    data = make_data(people=6, shots=["mask1", "normal"], eval_images=3)
    monkeypatch.setattr("storage.find_runs.ROOT", tmp_path / "toolkit")
    yield make_world(tmp_path, trained, data)
    for name in ("runs", "saved", "weights.pt"):  # 45 MB a file
        clear(tmp_path / name)


@pytest.fixture
def give(run, world, tiny_training, request):
    """Gives a world, broken as it may be, to a command, and asserts what holds of every row."""

    def command(name, words="", *, pattern="", code=2, lines=1, world=world):
        template = f"{COMMANDS[name]} {words}".replace("{tiny_training}", " ".join(tiny_training))
        printed = run(name, *(word.format(**vars(world)) for word in template.split()))
        said = printed.err if printed.code else printed.out
        sentence = next((line for line in said.splitlines() if re.search(pattern or DONE[name], line)), None)
        # As record_property does, which warns of the form that --junitxml has by default.
        request.node.user_properties += [
            ("command", f"{PROGRAM[name]} {' '.join(template.split())}"),
            ("exit code", printed.code),
            (
                "sentence",
                (sentence or said.partition("\n")[0])
                .replace(f"{world.tmp}/", "")
                .encode(errors="backslashreplace")
                .decode(),
            ),
        ]
        assert printed.code == code, printed
        assert "Traceback" not in printed.err
        assert re.search(pattern or DONE[name], said), printed
        if code:
            assert printed.err.startswith(f"{PROGRAM[name]}: "), printed.err
            assert len(printed.err.splitlines()) == lines, printed.err
            assert not re.search(r"^fold \d+ +epoch", printed.out, re.MULTILINE), printed.out  # nothing was trained
            assert world.before is not None or not world.saved.exists()
            assert not world.prediction.exists()
        else:
            assert printed.err == ""
            assert re.search(DONE[name], printed.out), printed
        assert max(map(len, said.splitlines())) < LONGEST
        assert not list(world.tmp.rglob(".tmp-*"))
        return printed

    return command


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
