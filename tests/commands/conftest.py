"""Fixtures of the tests of commands: runs trained once, and a world to break with a command to give it to."""

import os
import re
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from broken import bare, clear, contents, copy_run, first_checkpoint, make_world
from cases import COMMANDS, DONE, NETWORK
from samples import Person, make_data_set

PATIENCE = 30  # seconds after which a reader of a pipe is released, and the test fails
LONGEST = 3_000  # characters of a line


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train_run):
    """Runs of one epoch on people of whom most are women of 64: one of gender, two folds of gender, one fold of age."""
    people = [Person(f"{k:06d}", *(("female", 64) if k < 10 else ("male", 20))) for k in range(1, 13)]
    place = tmp_path_factory.mktemp("trained")
    data = make_data_set(place / "data", people=people, shots=("mask1", "normal"), eval_images=0)
    commands = ("--task gender", "--task gender --cv 2", "--task age --cv 2 --folds 0")
    single, folds, age = (train_run(*words.split(), data=data) for words in commands)
    weights = bare(first_checkpoint(single), place / "bare.pth")
    return SimpleNamespace(images=data.train_root, bare=weights, single=single, folds=folds, age=age)


@pytest.fixture
def train(run, small_data, tiny_training, tmp_path):
    """Trains on the small set into tmp_path/models; later options win."""

    def command(*words, data=small_data, code=0):
        paths = ("--train-root", data.train_root, "--save-path", tmp_path / "models")
        outcome = run("train", *tiny_training, *paths, *words)
        assert outcome.code == code, outcome.err
        return outcome

    return command


@pytest.fixture(scope="session")
def trained_before():
    """Finished runs: what they printed, and their save paths, by their options."""
    return {}


@pytest.fixture
def train_once(train, trained_before, tmp_path_factory, tmp_path):
    """Gives tmp_path/models a copy of a run, which is trained for the first test that needs these options."""

    def command(*words):
        if words not in trained_before:
            place = tmp_path_factory.mktemp("models")
            trained_before[words] = train(*words, "--save-path", place), place
        outcome, place = trained_before[words]
        copy_run(place, tmp_path / "models")
        return outcome

    return command


@pytest.fixture
def folds_folder(tmp_path):
    """The folder of a run of several folds in tmp_path/models."""
    return tmp_path / "models" / "main" / f"kfold-ensemble-{NETWORK}"


@pytest.fixture
def predict(run, small_data, tmp_path):
    """Predicts the small set's images into tmp_path/prediction; later options win."""

    def command(name, *words, data=small_data, code=0):
        options = ("--data-root", data.data_root, "--num-workers", 0, "--device", "cpu")
        outcome = run(name, *options, "--save-path", tmp_path / "prediction", *words)
        assert outcome.code == code, outcome.err
        return outcome

    return command


@pytest.fixture
def world(trained, make_data, tmp_path, monkeypatch):
    """A data set that may be broken, copies of the trained runs, and empty places to save in."""
    data = make_data(people=6, shots=["mask1", "normal"], eval_images=3)
    monkeypatch.setattr("storage.find_runs.ROOT", tmp_path / "toolkit")
    yield make_world(tmp_path, trained, data)
    for name in ("runs", "saved", "weights.pt"):  # checkpoints are large
        clear(tmp_path / name)


@pytest.fixture
def reachable(trained, make_data):
    """A world that a user without rights can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as root:
        data = make_data(name=f"{root}/data", people=6, shots=["mask1", "normal"], eval_images=3)
        yield make_world(Path(root), trained, data)


@pytest.fixture
def give(run, world, tiny_training):
    """Gives a world, broken as it may be, to a command, and asserts what holds of every row."""

    def command(name, words="", *, pattern="", code=2, lines=1, world=world):
        runs = contents(world.runs)
        template = f"{COMMANDS[name]} {words}".replace("{tiny_training}", " ".join(tiny_training))
        printed = run(name, *(word.format(**vars(world)) for word in template.split()))
        text = printed.err if printed.code else printed.out
        assert printed.code == code, printed
        assert "Traceback" not in printed.err
        assert re.search(pattern or DONE[name], text), printed
        if code:
            program = f"python -m tools {name}" if name in ("check_data", "score_submission") else f"{name}.py"
            assert printed.err.startswith(f"{program}: "), printed.err
            assert len(printed.err.splitlines()) == lines, printed.err
            assert not re.search(r"^fold \d+ +epoch", printed.out, re.MULTILINE), printed.out  # nothing was trained
            assert world.before is not None or not world.saved.exists()
            assert not world.prediction.exists()
        else:
            assert printed.err == ""
            assert re.search(DONE[name], printed.out), printed
        assert contents(world.runs) == runs
        assert max(map(len, text.splitlines())) < LONGEST
        assert not list(world.tmp.rglob(".tmp-*"))
        return printed

    return command


@pytest.fixture
def pipe():
    """Makes a pipe that nobody writes to; its readers are released after a while, and the test fails."""
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
