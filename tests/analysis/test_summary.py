"""The tables of scores that the console and the report share."""

import math

import pytest

from analysis.summary import estimate_text, fold_rows, print_rows, print_summary, score_rows
from config import TrainConfig
from data.faces import MASK

INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


def summary(folds: int = 2, **estimates) -> dict:
    scores = {"macro_f1": 0.5, "accuracy": 0.75}
    return {
        **{"task": "mask", "folds_planned": 2, "folds_finished": folds},
        "folds": [{"fold": k, "best_epoch": k + 3, "seconds": 12.3, **scores} for k in range(folds)],
        **{"mean": scores, "std": {"macro_f1": 0.1, "accuracy": math.nan}},
        "oof": {**scores, "people": 12, "images": 84, "absent": ["wrong", "bare"], "absent_predicted": ["bare"]},
        "estimates": {"best_epochs": dict.fromkeys(scores, INTERVAL), **estimates},
    }


def test_the_table_of_folds():
    columns, rows = fold_rows(MASK, summary())
    assert columns == ["", "macro F1", "accuracy", "best epoch", "seconds"]
    assert rows == [
        ["fold 0", "0.5000", "0.7500", "3", "12"],
        ["fold 1", "0.5000", "0.7500", "4", "12"],
        ["mean", "0.5000", "0.7500", "", ""],
        ["standard deviation", "0.1000", "nan", "", ""],
    ]
    assert len(fold_rows(MASK, summary(1))[1]) == 1  # one fold has no deviation


def test_the_table_of_scores():
    found = summary(corrected=dict.fromkeys(MASK.shown, INTERVAL))
    columns, rows = score_rows(MASK.shown, found, digits=2)
    assert columns == ["", "macro F1", "accuracy"]
    text = "0.50 (0.40 to 0.60)"
    assert rows == [["best epochs", text, text], ["best, corrected", text, text]]


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5000"), (None, "undefined"), (math.nan, "undefined")])
def test_an_estimate_with_missing_values(value, text):
    assert estimate_text({"value": value, "low": None, "high": None}) == text


def test_the_console_prints_both_tables(capsys):
    print_summary(TrainConfig(task="mask", cv=2), summary(1))
    out = capsys.readouterr().out
    for row in (fold_rows(MASK, summary(1))[1][0], score_rows(MASK.shown, summary(1))[1][0]):
        assert any(all(cell in line for cell in row) for line in out.splitlines())
    assert "out-of-fold" in out
    assert "12 people, 84 images" in out
    assert (
        "mean over 2 of 3 classes. No image is of class wrong, bare. Predicted all the same, so counted 0: bare." in out
    )
    assert "1 of 2 folds are not trained yet." in out


def test_columns_of_large_numbers_stay_apart(capsys):
    print_rows(
        ["", "RMSE", "MAE"], [["last", "74000.1234 (67178.2146 to 81951.3813)", "58411.3158"]], first=6, others=33
    )
    assert "81951.3813)  " in capsys.readouterr().out
