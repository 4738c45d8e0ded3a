"""Test comparisons of runs over the same people: differences, verdicts, errors."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def trained(train_run):
    """Train two runs of different networks over the same people, and one of another seed."""
    return [train_run("--cv", 2, *words) for words in (("--epochs", 2), ("--model-type", "JointHeads"), ("--seed", 7))]


@pytest.fixture
def compare(run):
    return lambda first, second: run("compare_runs", "--root", f"{first},{second}")


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


def test_a_run_that_is_right_on_more_people_is_better(compare, copies):
    set_predictions(copies[0], lambda rows: rows["person"].astype(int) % 6 > 2)
    set_predictions(copies[1], lambda rows: rows["ImageID"].notna())
    outcome = compare(copies[0], copies[1].parent).assert_success()
    assert f"A  {copies[0]}\nB  {copies[1]}\n" in outcome.out
    assert "--model-type: VanillaTorchvision, JointHeads\n" in outcome.out
    assert "corrected for the choice of epochs, 12 people" in outcome.out
    assert "B is better by " in outcome.out
    line = next(line for line in outcome.out.splitlines() if line.startswith("B - A"))
    assert "0.5000 (" in line  # accuracy: 6 of 12 people more
    turned = compare(copies[1], copies[0]).out
    assert "A is better by " in turned
    assert "-0.5000 (" in turned


def test_equal_predictions_have_no_clear_difference(compare, copies):
    for copy in copies[:2]:
        set_predictions(copy, lambda rows: rows["person"].astype(int) % 2 == 0)
    message = "No clear difference between A and B: they score the same in macro F1."
    assert message in compare(copies[0], copies[1]).out


def test_the_difference_of_real_runs_is_that_of_their_scores(compare, trained):
    outcome = compare(trained[0], trained[1]).assert_success()
    rows = [line.replace("(", "").replace(")", "").replace("to", "").split() for line in outcome.out.splitlines()]
    starts = (["A"], ["B"], ["B", "-", "A"])
    found = [next(row for row in rows if row[: len(start)] == start and len(row) > 4) for start in starts]
    values = [float(row[len(start)]) for row, start in zip(found, starts, strict=True)]
    assert values[1] - values[0] == pytest.approx(values[2], abs=2e-4)


@pytest.mark.parametrize("lost", ["fold01/answers/epoch001.npy", "fold01", "the rows of a log"])
def test_scores_are_not_corrected_if_predictions_of_an_epoch_or_a_fold_are_missing(lost, compare, copies):
    if lost == "fold01":
        shutil.rmtree(copies[1] / lost)
    elif lost == "the rows of a log":
        log = copies[1] / "fold01" / "log.csv"
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    else:
        (copies[1] / lost).unlink()
    assert "of the best epochs, not corrected" in compare(copies[0], copies[1]).out


def test_only_common_folds_are_compared(compare, copies):
    oof = pd.read_csv(copies[1] / "oof.csv", dtype={"person": str})
    oof[oof["fold"] == 1].to_csv(copies[1] / "oof.csv", index=False)
    assert "6 people, fold 1 only" in compare(copies[0], copies[1]).out


def test_runs_with_different_labels_raise_an_error(compare, copies):
    path = copies[1] / "config.json"
    config = json.loads(path.read_text())
    config["fingerprints"]["labels"] = "0"
    path.write_text(json.dumps(config))
    compare(copies[0], copies[1]).assert_error("their images or labels differ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--root {0}", "There is only one run"),
        ("--root {0},{0}", "twice"),
        ("--root {0},lost", "There is no folder lost"),
        ("--root {0},,{1}", "must be names with commas between them"),
        ("--root {0},{1} --task gender", "was trained on task main, not gender"),
        ("--root {0},{2}", "cannot be compared: --seed is 42 and 7, so their folds hold different images."),
    ],
)
def test_anything_but_several_runs_of_the_task_on_one_split_raises_an_error(words, message, run, trained):
    run("compare_runs", *words.format(*trained).split()).assert_error(message)


def test_a_folder_with_a_comma_in_its_name_is_one_folder(run, copies, tmp_path):
    place = shutil.move(copies[0], tmp_path / "a,b")
    run("compare_runs", "--root", place).assert_error(f"There is only one run, {place}")


def test_damaged_tables_and_predictions_are_named(compare, copies):
    path = copies[0] / "fold00" / "answers" / "epoch001.npy"
    np.save(path, np.load(path)[0])
    compare(copies[0], copies[1]).assert_error(f"{path} is damaged (its shape is (18,), not (42, 18))")
    (copies[1] / "oof.csv").write_text("ImageID,person\n")
    compare(copies[0], copies[1]).assert_error(f"{copies[1] / 'oof.csv'} is damaged")
    (copies[1] / "oof.csv").unlink()
    compare(copies[0], copies[1]).assert_error("join_folds --root")
