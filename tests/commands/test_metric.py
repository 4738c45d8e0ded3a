"""--metric: checkpoints that are ranked by another score, and by a function of the user."""

import json

import numpy as np
import pandas as pd
import pytest
from test_resume import interrupt_evaluation

from analysis.metrics import score
from data.faces import MAIN

LOSSES = ("--metric", "log_loss", "--cv", 2, "--epochs", 2, "--top-n", 1)
SUMMED = {"macro_f1", "accuracy", "balanced_accuracy", "qwk", "log_loss"}
OWN = """
def certainty(labels, probabilities):
    return float(probabilities[range(len(labels)), labels].mean())

def fails(labels, probabilities):
    return certainty(labels, probabilities) / 0
"""


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text())


def assert_best_are_kept(folder, name, *, lowest=False):
    """Assert that each fold has the checkpoint of the best epoch in log.csv, with its score in its name."""
    for number, log in pd.read_csv(folder / "log.csv").groupby("fold"):
        best = log.loc[log[name].idxmin() if lowest else log[name].idxmax()]
        (path,) = (folder / f"fold{number:02d}").glob("*.pt")
        assert path.name == f"epoch{best['epoch']:03.0f}_{name}-{best[name]:.4f}.pt"
        assert read_summary(folder)["folds"][number]["best_epoch"] == best["epoch"]


def test_checkpoints_of_the_lowest_log_loss_are_kept(train_once, train, folds_folder, run):
    outcome = train_once(*LOSSES)
    assert_best_are_kept(folds_folder, "log_loss", lowest=True)
    assert "log loss" in outcome.out
    summary, oof = read_summary(folds_folder), pd.read_csv(folds_folder / "oof.csv")
    wanted = score(MAIN, oof.filter(regex=r"^p\d+$").to_numpy(), oof["label"].to_numpy())
    assert {name: summary["oof"][name] for name in MAIN.scores} == pytest.approx(wanted, rel=1e-4)
    assert all(set(MAIN.scores) <= summary[part].keys() for part in ("mean", "std"))
    assert [set(each) for each in summary["estimates"].values()] == [SUMMED | {"f1"}] * 3
    assert summary["estimates"]["corrected"]["log_loss"]["value"] > 0
    words = ("--resume", "--metric", "accuracy")
    train(*LOSSES, *words, code=2).assert_error("started with other options: --metric was log_loss and is accuracy.")
    run("make_report", "--root", folds_folder).assert_success()
    page = (folds_folder / "report.html").read_text()
    assert "out-of-fold log loss is " in page
    assert "quadratic weighted kappa" in page


def test_checkpoints_are_ranked_by_a_function_of_the_user(train, run, folds_folder, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    words = ("--cv", 2, "--metric")
    with monkeypatch.context() as patch:
        interrupt_evaluation(patch, 2)
        train(*words, tmp_path / "own.py:certainty", code=130)
    monkeypatch.chdir(tmp_path)
    assert "fold 0: finished earlier" in train(*words, "own.py:certainty", "--resume").out
    assert_best_are_kept(folds_folder, "certainty")
    summary, oof = read_summary(folds_folder), pd.read_csv(folds_folder / "oof.csv")
    certain = oof.filter(regex=r"^p\d+$").to_numpy()[np.arange(len(oof)), oof["label"]].mean()
    assert summary["oof"]["certainty"] == pytest.approx(certain, rel=1e-4)
    best, last = (summary["estimates"][what]["certainty"] for what in ("best_epochs", "last_epochs"))
    assert best["value"] == summary["oof"]["certainty"]
    assert (last["low"], last["high"]) == (None, None)  # too few people for a plain bootstrap
    assert "corrected" not in summary["estimates"]
    (tmp_path / "own.py").write_text(OWN + "# edited")
    outcome = train(*words, "own.py:certainty", "--resume", code=2)
    outcome.assert_error("was started with other code in the file of --metric (fingerprint ")
    (tmp_path / "own.py").unlink()  # the run has a copy
    other = tmp_path / "other"
    train("--cv", 2, "--save-path", other)
    runs = f"{folds_folder},{next(other.glob('*/*'))}"
    outcome = run("compare_runs", "--root", runs, "--report", tmp_path / "both.html").assert_success()
    assert "certainty" in outcome.out
    assert "macro F1" in run("compare_runs", "--root", ",".join(runs.split(",")[::-1])).assert_success().out


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("log_los", "--metric must be one of macro_f1, accuracy, balanced_accuracy, "),
        ("log_los", "Got 'log_los'. Did you mean 'log_loss'?"),
        ("rmse", "--metric must be one of macro_f1, "),
        ("own.py", "FILE.py:FUNCTION. Got 'own.py'."),
        ("lost.py:certainty", "There is no file "),
        ("own.py:fails", "own.py failed (ZeroDivisionError: float division by zero). Correct it."),
    ],
)
def test_a_metric_that_cannot_be_used_is_an_error_before_training(metric, message, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    train("--metric", metric, code=2).assert_error(message)
    assert not list(tmp_path.rglob("fold00"))
