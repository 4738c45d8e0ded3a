"""Runs to continue whose files are damaged or missing."""

from __future__ import annotations

import pickle
import shutil

import torch
from cases import (
    Case,
    clear,
    contents,
    evil,
    first_half,
    folder,
    link,
    put,
    rows,
    saved,
)


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
        STATE + r".*it contains code, .*Delete it to train the fold again",
        lambda w: saved(evil(w.saved), w.run / "fold00" / "resume.state"),
        "--resume",
    ),
    Case(
        "a state that is a pickle",
        "train",
        STATE + r".*contains? code.*Delete it to train the fold again",
        lambda w: put(w.run / "fold00" / "resume.state", pickle.dumps(evil(w.saved))),
        "--resume",
    ),
    state("a state that is empty", STATE + r".*\(it is empty\).*Delete it", lambda old: b""),
    state("a state that is text", STATE + r".*\(it is not a file of torch\).*Delete it", lambda old: "hello\n"),
    state("a state that is a list", STATE + r"is not a resume state of this run", lambda old: [1, 2]),
    state("a state of another format", STATE + r"is not a resume state of this run", lambda old: old | {"format": 9}),
    state("a state of another split", STATE + r"belongs to another split \(x, ", lambda old: old | {"split": "x"}),
    state("a state without its parts", STATE, lambda old: {"format": old["format"]}),
    state("a state of too many epochs", STATE, lambda old: old | {"epoch": 7}),
    Case(
        "a cut state", "train", STATE + r".*truncated", lambda w: half_of(w.run / "fold00" / "resume.state"), "--resume"
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
    of_run("a config without options", r"config\.json is missing or damaged \(it has no task", "config.json", "{}"),
    of_run(
        "a config with fingerprints of no sense",
        r"config\.json|started with other",
        "config.json",
        '{"fingerprints": 7}',
    ),
    of_run("a config that is cut and not resumed", CONFIG, "config.json", '{"task": "gen', ""),
    of_run("a config that is a list and not resumed", r"config\.json", "config.json", "[]", ""),
    of_run("a config without options and not resumed", r"config\.json|already holds a run", "config.json", "{}", ""),
    Case(
        "a config that is a folder",
        "train",
        r"config\.json|not .*of a run",
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
