"""Test comparisons of runs over the same people: differences, verdicts, errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

NAME = "kfold-ensemble-VanillaTorchvision"


@pytest.fixture(scope="module")
def trained(small_data, tiny_training, tmp_path_factory):
    """Train two runs of different networks over the same people, and one of another seed."""
    import train

    places = []
    for words in (["--epochs", "2"], ["--model-type", "JointHeads"], ["--seed", "7"]):
        place = tmp_path_factory.mktemp("models")
        data = ("--train-root", small_data.train_root, "--save-path", place, "--cv", 2)
        assert train.main([*map(str, (*tiny_training, *data)), *words]) == 0
        places.append(next((place / "main").glob("kfold*")))
    return places


@pytest.fixture
def copies(trained, tmp_path):
    """Return copies of the runs that a test may change."""
    return [shutil.copytree(path, tmp_path / str(k) / "main" / path.name) for k, path in enumerate(trained)]


def set_predictions(run, right):
    """Make every epoch right on the rows where `right` is true, and predict the next class on the others."""
    config = json.loads((run / "config.json").read_text())
    parts = []
    for fold in (0, 1):
        rows = pd.read_csv(run / f"fold0{fold}" / "oof.csv", dtype={"person": str})
        predicted = np.where(right(rows), rows["label"], (rows["label"] + 1) % 18)
        answers = np.eye(18, dtype=np.float32)[predicted]
        for epoch in range(config["epochs"]):
            np.save(run / f"fold0{fold}" / "answers" / f"epoch{epoch + 1:03d}.npy", answers)
        rows = rows.assign(pred=predicted, **{f"p{i}": answers[:, i] for i in range(18)})
        rows.to_csv(run / f"fold0{fold}" / "oof.csv", index=False)
        parts.append(rows)
    pd.concat(parts).to_csv(run / "oof.csv", index=False)


def test_a_run_that_is_right_on_more_people_is_better(run, copies):
    set_predictions(copies[0], lambda rows: rows["person"].astype(int) % 6 > 2)
    set_predictions(copies[1], lambda rows: rows["ImageID"].notna())
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1].parent}")
    assert outcome.code == 0, outcome.err
    assert f"A  {copies[0]}\nB  {copies[1]}\n" in outcome.out
    assert "--model-type: VanillaTorchvision, JointHeads\n" in outcome.out
    assert "corrected for the choice of epochs, 12 people" in outcome.out
    assert "B is better by " in outcome.out
    line = next(line for line in outcome.out.splitlines() if line.startswith("B - A"))
    assert "0.5000 (" in line  # accuracy: 6 of 12 people more
    turned = run("compare_runs", "--root", f"{copies[1]},{copies[0]}").out
    assert "A is better by " in turned
    assert "-0.5000 (" in turned


def test_equal_predictions_have_no_clear_difference(run, copies):
    for copy in copies[:2]:
        set_predictions(copy, lambda rows: rows["person"].astype(int) % 2 == 0)
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1]}")
    assert "No clear difference between A and B: they score the same in macro F1." in outcome.out


def test_the_difference_of_real_runs_is_that_of_their_scores(run, trained):
    outcome = run("compare_runs", "--root", f"{trained[0]},{trained[1]}")
    assert outcome.code == 0
    rows = [line.replace("(", "").replace(")", "").replace("to", "").split() for line in outcome.out.splitlines()]
    starts = (["A"], ["B"], ["B", "-", "A"])
    found = [next(row for row in rows if row[: len(start)] == start and len(row) > 4) for start in starts]
    values = [float(row[len(start)]) for row, start in zip(found, starts, strict=True)]
    assert values[1] - values[0] == pytest.approx(values[2], abs=2e-4)


def test_best_epochs_are_compared_if_predictions_of_an_epoch_are_missing(run, copies):
    (copies[1] / "fold01" / "answers" / "epoch001.npy").unlink()
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1]}")
    assert "of the best epochs, not corrected" in outcome.out


def test_only_common_folds_are_compared(run, copies):
    oof = pd.read_csv(copies[1] / "oof.csv", dtype={"person": str})
    oof[oof["fold"] == 1].to_csv(copies[1] / "oof.csv", index=False)
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1]}")
    assert "6 people, fold 1 only" in outcome.out


def test_an_error_names_the_options_of_different_splits(run, trained):
    outcome = run("compare_runs", "--root", f"{trained[0]},{trained[2]}")
    assert outcome.code == 2
    assert "cannot be compared: --seed is 42 and 7, so their folds hold different people." in outcome.err


def test_runs_with_different_labels_raise_an_error(run, copies):
    path = copies[1] / "config.json"
    config = json.loads(path.read_text())
    config["fingerprints"]["labels"] = "0"
    path.write_text(json.dumps(config))
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1]}")
    assert outcome.code == 2
    assert "their images or labels differ" in outcome.err


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ("{0}", "There is only one run"),
        ("{0},{0}", "twice"),
        ("{0},lost", "There is no folder lost"),
        ("{0},,{1}", "must be folders with commas between them"),
    ],
)
def test_anything_but_several_runs_raises_an_error(roots, message, run, trained):
    outcome = run("compare_runs", "--root", roots.format(*trained))
    assert outcome.code == 2
    assert message in outcome.err


def test_scores_are_not_corrected_if_a_fold_is_missing_or_incomplete(run, copies):
    shutil.rmtree(copies[0] / "fold01")
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1]}")
    assert "of the best epochs, not corrected" in outcome.out
    log = copies[1] / "fold01" / "log.csv"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    assert "of the best epochs, not corrected" in run("compare_runs", "--root", f"{copies[0]},{copies[1]}").out


def test_predictions_of_a_wrong_shape_raise_an_error(run, copies):
    path = copies[0] / "fold00" / "answers" / "epoch001.npy"
    np.save(path, np.load(path)[0])
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1]}")
    assert outcome.code == 2
    assert f"{path} is damaged (its shape is (18,), not (42, 18))" in outcome.err


def test_a_folder_with_a_comma_in_its_name_is_one_folder(run, copies, tmp_path):
    place = shutil.move(copies[0], tmp_path / "a,b")
    outcome = run("compare_runs", "--root", place)
    assert f"There is only one run, {place}" in outcome.err


def test_a_task_other_than_that_of_the_runs_raises_an_error(run, copies):
    outcome = run("compare_runs", "--task", "gender", "--root", f"{copies[0]},{copies[1]}")
    assert outcome.code == 2
    assert "was trained on task main, not gender" in outcome.err


def test_a_damaged_table_is_named(run, copies):
    (copies[1] / "oof.csv").write_text("ImageID,person\n")
    outcome = run("compare_runs", "--root", f"{copies[0]},{copies[1]}")
    assert outcome.code == 2
    assert f"{copies[1] / 'oof.csv'} is damaged" in outcome.err
    (copies[1] / "oof.csv").unlink()
    assert "join_folds --root" in run("compare_runs", "--root", f"{copies[0]},{copies[1]}").err
