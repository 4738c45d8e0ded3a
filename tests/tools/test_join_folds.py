"""Folds of several commands are joined to the files that one command writes."""

import json
import shutil

import pandas as pd
import pytest

from analysis import summary as summary_module
from analysis.summary import summarise_run
from storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def trained(train_run, tmp_path_factory):
    """A run that one command trained, and one with a command per fold."""
    place = tmp_path_factory.mktemp("models")
    folds = [train_run("--cv", 3, "--resume", "--folds", fold, place=place) for fold in (2, 0, 1)]
    return [train_run("--cv", 3, "--resume"), folds[0]]


@pytest.fixture
def apart(trained, tmp_path):
    """A copy of the run with a command per fold, without the joined files."""
    run = shutil.copytree(trained[1], tmp_path / "models" / "main" / trained[1].name)
    for name in ("log.csv", "oof.csv", "summary.json"):
        (run / name).unlink()
    return run


def summary_without_times(run):
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"]
    for fold in summary["folds"]:
        del fold["seconds"]
    return summary


def assert_as_one_run(run, one):
    assert (run / "oof.csv").read_bytes() == (one / "oof.csv").read_bytes()
    logs = [pd.read_csv(path / "log.csv").drop(columns=["seconds", "images_per_s"]) for path in (run, one)]
    assert logs[0].equals(logs[1])
    assert summary_without_times(run) == summary_without_times(one)


def test_folds_of_several_commands_in_one_save_path_are_one_run(trained):
    assert_as_one_run(trained[1], trained[0])


@pytest.mark.parametrize("root", ["the run", "the save path"])
def test_joined_folds_are_those_of_one_command(root, run, apart, trained):
    outcome = run("join_folds", "--root", apart if root == "the run" else apart.parents[1]).assert_success()
    assert_as_one_run(apart, trained[0])
    assert "out-of-fold" in outcome.out
    assert "12 people, 84 images, best epoch of each fold" in outcome.out
    assert outcome.out.splitlines()[-1] == f"Joined in {apart}"


def test_folds_of_several_machines_are_copied_into_one_folder(run, train_run, trained):
    joined, *others = [train_run("--cv", 3, "--folds", fold) for fold in range(3)]
    for other in others:
        shutil.copytree(other, joined, dirs_exist_ok=True)  # as rsync does
    run("join_folds", "--root", joined).assert_success()
    assert_as_one_run(joined, trained[0])


def test_an_unfinished_fold_is_left_out(run, apart):
    shutil.rmtree(apart / "fold01")
    outcome = run("join_folds", "--root", apart).assert_success()
    assert "1 of 3 folds are not trained yet" in outcome.out
    assert set(pd.read_csv(apart / "oof.csv")["fold"]) == {0, 2}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--seed", 7), "its split is "),
        (("--lr", 0.02), "--lr was 0.02 and is 0.005"),
        (("--transform-type", "random"), "--transform-type was random and is base"),
        (("--epochs", 2), "--epochs was 2 and is 1"),
    ],
)
def test_a_fold_of_another_run(words, error, run, train_run, apart):
    other = train_run("--cv", 3, "--folds", 1, *words)
    shutil.rmtree(apart / "fold01")
    shutil.copytree(other / "fold01", apart / "fold01")
    outcome = run("join_folds", "--root", apart)
    outcome.assert_error(f"does not belong to the run in {apart}: ")
    outcome.assert_error(error)
    assert not (apart / "summary.json").exists()


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("fold02/oof.csv", "fold02 is a trained fold without oof.csv"),
        ("fold02/*.pt", "without its checkpoints"),
        ("fold*/log.csv", "No fold of"),
        ("config.json", "config.json is missing or damaged"),
        ("split.json", "split.json is missing or damaged"),
    ],
)
def test_missing_files_are_errors(lost, message, run, apart):
    for path in apart.glob(lost):
        path.unlink()
    run("join_folds", "--root", apart).assert_error(message)


def test_swapped_folds(run, apart):
    (apart / "fold00").rename(apart / "aside")
    (apart / "fold01").rename(apart / "fold00")
    (apart / "aside").rename(apart / "fold01")
    run("join_folds", "--root", apart).assert_error("its fold is 1, not 0")


def test_a_fold_that_another_command_finishes_meanwhile_is_not_lost(trained, apart, tmp_path, monkeypatch):
    folder = RunFolder(apart)
    shutil.move(apart / "fold01", tmp_path / "fold01")
    written = []

    def finish_another(path, value):
        if not written:
            shutil.move(tmp_path / "fold01", apart / "fold01")
        written.append(value)
        write_json(path, value)

    write_json = summary_module.write_json
    monkeypatch.setattr(summary_module, "write_json", finish_another)
    summary = summarise_run(folder, folder.read_config())
    assert [value["folds_finished"] for value in written] == [2, 3]
    assert summary["folds_finished"] == 3
    assert_as_one_run(apart, trained[0])
