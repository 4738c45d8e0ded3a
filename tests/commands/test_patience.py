"""--patience: folds that end early, alone and in everything that reads a run."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from test_resume import interrupt_evaluation

from training import fold as training_fold

NAN = float("nan")
PATIENT = ("--epochs", 6, "--patience", 2, "--lr-scheduler", "none")
FOLDS = ("--cv", 2, "--top-n", 6, *PATIENT)
STOPPED = "fold 0: stopped early, no better macro F1 for 2 epochs\n"


@pytest.fixture
def give_scores(monkeypatch):
    """Gives the epochs to come these scores, whatever they predict."""

    def give(*values):
        left = iter(values)
        monkeypatch.setattr(training_fold, "score", lambda *_: dict.fromkeys(("macro_f1", "accuracy"), next(left)))

    return give


@pytest.fixture
def stopped(train_once, give_scores, folds_folder):
    """A run of which fold 0 ends after 4 epochs, and fold 1 after all 6; the best are the second and the fifth."""
    give_scores(0.5, 0.6, 0.6, 0.4, *(0.1, 0.2, 0.15, 0.3, 0.4, 0.2))
    return train_once(*FOLDS), folds_folder


def lengths(folder):
    return pd.read_csv(folder / "log.csv").groupby("fold").size().tolist()


def test_a_fold_ends_without_a_better_score_and_the_others_are_trained_on(stopped):
    outcome, folder = stopped
    assert outcome.out.count(STOPPED) == outcome.out.count("stopped early") == 1
    assert lengths(folder) == [4, 6]
    assert "folds are not trained yet" not in outcome.out
    assert "network" not in torch.load(folder / "fold00" / "resume.state")


def test_the_summary_is_of_folds_of_different_lengths(stopped, run):
    _, folder = stopped
    run("join_folds", "--root", folder).assert_success()  # its log has scores that were made up
    summary, oof = json.loads((folder / "summary.json").read_text()), pd.read_csv(folder / "oof.csv")
    assert [fold["best_epoch"] for fold in summary["folds"]] == [2, 5]
    best, last = (
        np.concatenate([np.load(folder / f"fold0{k}/answers/epoch00{epochs[k]}.npy") for k in (0, 1)])
        for epochs in ((2, 5), (4, 6))
    )
    for name, predictions in (("best_epochs", best), ("last_epochs", last)):
        expected = np.mean(predictions.argmax(axis=1) == oof["label"])
        assert summary["estimates"][name]["accuracy"]["value"] == pytest.approx(expected)
    assert "corrected" in summary["estimates"]


def test_a_fold_that_ended_early_stays_finished(stopped, train, predict, run):
    _, folder = stopped
    files = [*folder.rglob("*.pt"), *folder.rglob("*.csv"), *folder.rglob("resume.state")]
    before = {path: path.read_bytes() for path in files}
    assert train(*FOLDS, "--resume").out.count("finished earlier") == 2
    assert {path: path.read_bytes() for path in files} == before
    assert "2 of 2 folds finished, 10 of at most 12 epochs" in train(*FOLDS, code=2).err
    assert "not fully trained" not in predict("submit_ensemble", "--root", folder, "--top-k", 1).out
    run("make_report", "--root", folder).assert_success()
    page = (folder / "report.html").read_text()
    assert "2 of 2 folds of at most 6 epochs" in page
    assert "Training is not complete" not in page


def test_a_fold_that_ended_early_is_trained_on_in_another_run_only(stopped, train, tmp_path):
    _, folder = stopped
    for words in (("--patience", 3), ("--patience", 0)):
        error = train(*FOLDS, *words, "--resume", code=2).err
        assert f"--patience was 2 and is {words[1]}." in error
        assert f"To train it longer, pass another --save-path and --extend-from {folder}." in error
    assert "To train it longer" not in train(*FOLDS, "--patience", 1, "--resume", code=2).err
    words = ("--cv", 2, "--extend-from", folder, "--extend-weights", "last", "--save-path", tmp_path / "longer")
    outcome = train(*words)
    for number, epoch in ((0, 4), (1, 6)):
        assert f"fold {number}: starting from {folder / f'fold0{number}' / f'epoch00{epoch}'}" in outcome.out


def test_a_resumed_fold_counts_the_epochs_before(train, give_scores, monkeypatch, folds_folder):
    give_scores(0.5, NAN, 0.3)
    words = ("--patience", 3, "--cv", 2, "--folds", 0)
    with monkeypatch.context() as patch:
        interrupt_evaluation(patch, 4)
        train(*PATIENT, *words, code=130)
    assert "0 of 2 folds finished, 3 of at most 12 epochs" in train(*PATIENT, *words, code=2).err
    give_scores(NAN, 0.9)
    outcome = train(*PATIENT, *words, "--resume")
    assert "fold 0: continuing after epoch 3\n" in outcome.out
    assert "fold 0: stopped early, no better macro F1 for 3 epochs\n" in outcome.out
    assert "1 of 2 folds are not trained yet" in outcome.out
    assert lengths(folds_folder) == [4]


def test_a_fold_without_a_score_ends_with_the_error(train, give_scores, tmp_path):
    give_scores(*[NAN] * 6)
    for words in ((), ("--resume",)):
        assert "No epoch of fold 0 has a finite score" in train(*PATIENT, *words, code=2).err
    assert lengths(next((tmp_path / "models" / "main").glob("*"))) == [2]


def test_lower_errors_of_ages_are_better(train, monkeypatch, tmp_path):
    left = iter([9.0, 8.0, 7.0, 7.5])
    scores = ("mae", "rmse", "macro_f1", "accuracy")
    monkeypatch.setattr(training_fold, "score", lambda *_: dict.fromkeys(scores, next(left)))
    outcome = train(*PATIENT, "--patience", 1, "--task", "age")
    assert lengths(next((tmp_path / "models" / "age").glob("*"))) == [4]
    assert "fold 0: stopped early, no better RMSE for 1 epoch\n" in outcome.out
