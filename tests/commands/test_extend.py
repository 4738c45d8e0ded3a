"""--extend-from: every fold of a run starts from the weights of the same fold of an earlier one."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from broken import assert_same_weights, weights_of
from test_resume import interrupt_evaluation

from storage.checkpoint import load_checkpoint

SOURCE = ("--cv", 2, "--epochs", 3, "--top-n", 3)
LONGER = ("--cv", 2, "--epochs", 1, "--top-n", 1)
STILL = (*LONGER, "--lr", 1e-30, "--lr-scheduler", "none")  # the weights stay as they start, but for BatchNorm


@pytest.fixture
def source(train_once, folds_folder):
    """A finished run with all checkpoints of its two folds; later ones are better."""
    train_once(*SOURCE)
    return folds_folder


def read_epochs(folder):
    """Return the weights and the description of each checkpoint in the folder of a fold, by epoch."""
    found = [load_checkpoint(path) for path in folder.glob("*.pt")]
    return {info.epoch: (weights, info) for weights, info in found}


def equal_parameters(one, other):
    return all(torch.equal(one[name], other[name]) for name in one if "running" not in name and "num_" not in name)


@pytest.mark.parametrize("which", ["best", "last"])
def test_each_fold_starts_from_its_own_fold(train, source, tmp_path, which):
    outcome = train(*STILL, "--extend-from", source, "--extend-weights", which, "--save-path", tmp_path / "longer")
    for number in (0, 1):
        earlier = read_epochs(source / f"fold0{number}")
        best = max(earlier, key=lambda epoch: (earlier[epoch][1].score, -epoch))
        (now,) = read_epochs(tmp_path / "longer" / "main" / source.name / f"fold0{number}").values()
        start = 3 if which == "last" else best
        others = read_epochs(source / f"fold0{1 - number}").values()
        assert equal_parameters(now[0], earlier[start][0])
        assert not any(equal_parameters(now[0], each) for each, _ in others)
        assert now[1].split_fingerprint == earlier[start][1].split_fingerprint
        assert f"fold {number}: starting from {source / f'fold0{number}' / f'epoch00{start}'}" in outcome.out


def test_an_extended_run_that_was_cut_resumes_to_the_same_end(train, run, source, tmp_path, monkeypatch):
    words = ("--cv", 2, "--epochs", 2, "--extend-from", source)
    train(*words, "--save-path", tmp_path / "whole")
    interrupt_evaluation(monkeypatch, 4)  # fold 1, second epoch
    train(*words, "--save-path", tmp_path / "cut", code=130)
    train(*words, "--save-path", tmp_path / "cut", "--resume")
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_another_task_takes_the_backbone_of_its_fold(train, source, tmp_path):
    outcome = train(*STILL, "--task", "gender", "--new-head", "--extend-from", source, "--save-path", tmp_path / "g")
    assert "The head starts from random weights" in outcome.out
    (first, second) = (weights for weights in weights_of(tmp_path / "g").values())
    assert not torch.equal(first["backbone.conv1.0.weight"], second["backbone.conv1.0.weight"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seed 1", "another split .*--cv 2, --seed 42.* Pass the same images, labels, --cv and --seed"),
        ("--cv 3", "another split"),
        ("--save-path {models} --overwrite", "is where this run saves. Pass another --save-path"),
        ("--extend-from {models}", "not the folder of a run"),
        ("--task gender", "was trained on task main, not gender"),
        ("--load-state-dict x.pt", "--load-state-dict and --extend-from"),
        ("--train-root {other}", "another split"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(train, source, make_data, make_person, tmp_path, words, message):
    people = [make_person(f"10000{k}", ("male", "female")[k % 2], 20 + 10 * k) for k in range(6)]
    places = {"models": tmp_path / "models", "other": make_data(name="other", people=people).train_root}
    words = words.format_map(places).split()
    outcome = train(*LONGER, "--extend-from", source, "--save-path", tmp_path / "longer", *words, code=2)
    assert re.search(message, outcome.err)
    assert not (tmp_path / "longer").exists()


@pytest.fixture
def half(monkeypatch):
    """Let the pretrained weights of every backbone expect a mean and a standard deviation of one half."""
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop_share": 0.8}
    monkeypatch.setattr("backbones.create.expected_pixels", lambda model_type, backbone, on_logits: half)


def test_images_are_as_the_first_weights_expect(train, half, folds_folder, tmp_path, monkeypatch):
    """Also in a run that is extended from them."""
    train(*LONGER)
    oof = pd.read_csv(folds_folder / "oof.csv").iloc[:, 5:]
    infos = [info for k in (0, 1) for _, info in read_epochs(folds_folder / f"fold0{k}").values()]
    assert {(info.mean, info.std) for info in infos} == {((0.5,) * 3, (0.5,) * 3)}
    assert {(info.interpolation, info.crop_share) for info in infos} == {("bicubic", 0.8)}
    monkeypatch.undo()
    outcome = train(*LONGER, "--resume", code=2)
    assert "was started with other mean, standard deviation, interpolation or crop of the images" in outcome.err
    train(*LONGER, "--save-path", tmp_path / "plain")
    plain = pd.read_csv(tmp_path / "plain" / "main" / folds_folder.name / "oof.csv").iloc[:, 5:]
    assert not np.allclose(oof, plain, atol=1e-3)
    train(*LONGER, "--save-path", tmp_path / "longer", "--extend-from", folds_folder)
    ((_, info),) = read_epochs(tmp_path / "longer" / "main" / folds_folder.name / "fold00").values()
    assert (info.mean, info.std, info.crop_share) == ((0.5,) * 3, (0.5,) * 3, 0.8)


def test_missing_weights_of_the_run_are_named(train, source, tmp_path):
    words = (*LONGER, "--extend-from", source, "--save-path", tmp_path / "longer")
    (last,) = (source / "fold01").glob("epoch003*")
    last.unlink()
    outcome = train(*words, "--extend-weights", "last", "--folds", 1, code=2)
    assert "fold01 does not hold the weights of epoch 3, its last" in outcome.err
    shutil.rmtree(source / "fold01")
    assert "Fold 1 of" in train(*words, code=2).err
    train(*words, "--folds", 0)


def test_weights_of_another_fold_are_refused(train, source, tmp_path):
    (source / "fold00").rename(source / "moved")
    (source / "fold01").rename(source / "fold00")
    (source / "moved").rename(source / "fold01")
    outcome = train(*LONGER, "--extend-from", source, "--save-path", tmp_path / "longer", code=2)
    assert "was trained on other people than fold 0 of this run" in outcome.err


def test_a_run_in_the_folder_that_overwrite_would_delete_is_refused(train, source, tmp_path):
    moved = shutil.copytree(source, source / "earlier")
    outcome = train(*LONGER, "--extend-from", moved, "--save-path", tmp_path / "models", "--overwrite", code=2)
    assert "is where this run saves" in outcome.err
    assert (moved / "fold00").is_dir()


def test_an_extended_run_is_not_resumed_from_another_one(train, source, tmp_path):
    words = (*LONGER, "--extend-from", source, "--save-path", tmp_path / "longer")
    train(*words, "--folds", 0)
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    outcome = train(*words, "--resume", code=2)
    assert "was started with other options of the run in --extend-from" in outcome.err


def test_the_split_is_that_of_the_images_that_can_be_read(train, make_data, small_data, tmp_path, folds_folder):
    data = make_data(name="damaged")
    person = sorted(data.train_root.iterdir())[0]
    for path in person.glob("*.jpg"):
        path.write_bytes(b"")
    words = ("--cv", 2, "--epochs", 1, "--train-root", data.train_root, "--on-bad-image", "skip")
    train(*words)
    train(*words, "--save-path", tmp_path / "longer", "--extend-from", folds_folder)
    words = (*words, "--train-root", small_data.train_root, "--save-path", tmp_path / "other")
    outcome = train(*words, "--extend-from", folds_folder, code=2)
    assert "another split" in outcome.err
    assert not list(tmp_path.glob("other/*/*/config.json"))


def test_more_epochs_of_a_finished_run_are_refused_with_the_way_to_train_longer(train, source):
    outcome = train(*SOURCE, "--epochs", 10, "--resume", code=2)
    assert f"To train it longer, pass another --save-path and --extend-from {source}." in outcome.err
