"""Runs to continue or replace: with damaged or missing files, or other options."""

import pickle

import pytest
import torch
from broken import clear, contents, copy_run, cut, evil, folder, put, saved
from cases import Case, rows

RESUME = "--resume"
STATE = "fold00/resume.state"


def state(id, pattern, content):
    """`content(old)` is what is saved in the place of the state to resume from, or its bytes."""

    def breaks(world):
        made = content(torch.load(world.run / STATE))
        put(world.run / STATE, made) if isinstance(made, (bytes, str)) else saved(made, world.run / STATE)

    return Case(f"a state {id}", rf"fold00/resume\.state {pattern}", breaks, RESUME)


def of_run(id, pattern, name, content, words=RESUME):
    """A file of the run with other content."""
    return Case(id, pattern, lambda world: put(world.run / name, content), words)


def directory(name, pattern):
    return Case(f"a folder for {name}", pattern, lambda world: folder(world.run / name), RESUME)


def cut_two(world):
    cut(world.data.photo(1))
    cut(world.data.photo(4))


DELETE = "Delete it to train the fold again"
DAMAGED_CONFIG, DAMAGED_SPLIT = r"config\.json is missing or damaged", r"split\.json is missing or damaged"
CONFIG, SPLIT, LOG, OOF = r"config\.json", r"split\.json", r"fold00/log\.csv", r"fold00/oof\.csv"


@rows(
    "train",
    Case(
        "a state with a command",
        rf"{STATE} .*it contains code, .*{DELETE}",
        lambda w: saved(evil(w.saved), w.run / STATE),
        RESUME,
    ),
    Case(
        "a state that is a pickle",
        rf"{STATE} .*contains? code.*{DELETE}",
        lambda w: put(w.run / STATE, pickle.dumps(evil(w.saved))),
        RESUME,
    ),
    state("that is empty", r".*\(it is empty\).*Delete it", lambda old: b""),
    state("that is text", r".*\(it is not a file of torch\).*Delete it", lambda old: "hello\n"),
    state("that is a list", r"is not a resume state of this run", lambda old: [1, 2]),
    state("of another format", r"is not a resume state of this run", lambda old: old | {"format": 9}),
    state("of another split", r"belongs to another split \(x, ", lambda old: old | {"split": "x"}),
    state("without its parts", "", lambda old: {"format": old["format"]}),
    state("of too many epochs", "", lambda old: old | {"epoch": 7}),
    Case("a cut state", rf"{STATE} .*truncated", lambda w: cut(w.run / STATE), RESUME),
    directory(STATE, r"resume\.state"),
    of_run("a cut config", DAMAGED_CONFIG, "config.json", '{"task": "gen'),
    of_run("an empty config", DAMAGED_CONFIG, "config.json", b""),
    of_run("a config that is not UTF-8", DAMAGED_CONFIG, "config.json", b'{"task": "\xff"}'),
    of_run("a config that is a list", CONFIG, "config.json", "[]"),
    of_run("a config that is a number", CONFIG, "config.json", "7"),
    of_run("a config without options", rf"{DAMAGED_CONFIG} \(it has no task", "config.json", "{}"),
    of_run("wrong fingerprints", rf"{CONFIG}|started with other", "config.json", '{"fingerprints": 7}'),
    of_run("a cut config, not resumed", DAMAGED_CONFIG, "config.json", '{"task": "gen', ""),
    of_run("a config that is a list, not resumed", CONFIG, "config.json", "[]", ""),
    of_run("a config without options, not resumed", rf"{CONFIG}|already holds a run", "config.json", "{}", ""),
    directory("config.json", rf"{CONFIG}|not .*of a run"),
    of_run("a cut split", DAMAGED_SPLIT, "split.json", '{"seed": 4'),
    of_run("an empty split", DAMAGED_SPLIT, "split.json", b""),
    of_run("a split that is a list", SPLIT, "split.json", "[]"),
    of_run("a split without folds", SPLIT, "split.json", "{}"),
    directory("split.json", DAMAGED_SPLIT),
    Case("a missing split", DAMAGED_SPLIT, lambda w: clear(w.run / "split.json"), RESUME),
    of_run("an empty log", LOG, "fold00/log.csv", b""),
    of_run("an empty log, not resumed", rf"{LOG}|already holds", "fold00/log.csv", b"", ""),
    of_run("a log of something else", LOG, "fold00/log.csv", "a,b\n1,2\n"),
    of_run("empty out-of-fold predictions", OOF, "fold00/oof.csv", b""),
    of_run("out-of-fold predictions of something else", OOF, "fold00/oof.csv", "a,b\n1,2\n"),
    Case("no option", r"already holds a run \(1 of 1 folds finished, 1 of 1 epochs\)\..*--resume.*--overwrite"),
    Case("other options", r"started with other options: --lr was 0\.005 and is 0\.1", words="--resume --lr 0.1"),
    Case("more epochs", r"--epochs was 1 and is 2", words="--resume --epochs 2"),
    Case("other people", r"started with other groups", words="--resume --train-root {train}"),
    Case("replaced without data", r"There is no folder .*nowhere", words="--overwrite --train-root {nowhere}"),
    Case("replaced on cut images", "cannot be read", cut_two, "--overwrite --train-root {train}", lines=2),
    Case("replaced without weights", r"There is no checkpoint file", words="--overwrite --load-state-dict {nowhere}"),
)
def test_a_run_that_is_damaged_or_does_not_fit_stays_as_it_is(case, command, world, give):
    world.run = copy_run(world.single, world.saved / "gender" / world.single.name)
    continue_damaged(case, command, world, give, "--train-root {trained.images}")


@rows(
    "train",
    of_run("a cut split", DAMAGED_SPLIT, "split.json", '{"seed": 4'),
    of_run("a split without folds", SPLIT, "split.json", "{}"),
    of_run("an empty log", LOG, "fold00/log.csv", b""),
    of_run("empty out-of-fold predictions", OOF, "fold00/oof.csv", b""),
)
def test_a_damaged_run_gets_no_second_fold(case, command, world, give):
    """The files that the summary is made of are checked first: a fold takes hours."""
    world.run = copy_run(world.age, world.saved / "age" / world.age.name)
    continue_damaged(case, command, world, give, "--train-root {trained.images} --task age --cv 2")


def test_folds_of_one_run_are_validated_on_the_same_people(world, give):
    world.run = copy_run(world.age, world.saved / "age" / world.age.name)
    for path in world.train.iterdir():
        path.rename(path.with_name("1" + path.name))  # other people than those trained on
    words = "--task age --cv 2 --train-root {trained.images} --valid-root {train}"
    continue_damaged(Case("", "valid", words=RESUME), "train", world, give, words)


def continue_damaged(case, command, world, give, words):
    case.breaks(world)
    world.before = contents(world.saved)
    give(command, f"{words} {case.words}", pattern=case.pattern, lines=case.lines)
    assert contents(world.saved) == world.before
    assert not list(world.tmp.rglob("ran"))


@pytest.mark.parametrize("words", ["", RESUME, "--overwrite"])
def test_files_in_the_place_of_a_run_stay(words, world, give):
    notes = put(world.saved / "gender" / world.single.name / "notes.txt")
    world.before = contents(world.saved)
    give("train", words, pattern=r"holds files that are not of a run.*--save-path")
    assert contents(world.saved) == world.before
    assert notes.read_text() == "hello\n"
