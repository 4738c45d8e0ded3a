"""Design ensembles of tiny runs: who predicts whom, which files are written, and how submit_ensemble uses them."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.metrics import SMALLEST, score, tempered
from data.faces import AGE, MAIN
from data.label_math import join_probabilities, range_shares
from inference import voting
from inference.oof_members import Validation
from inference.selection import Scorer
from storage.checkpoint import load_checkpoint, save_checkpoint
from utils import file_digest

NAME = "kfold-ensemble-VanillaTorchvision"


@pytest.fixture(scope="module")
def runs(train_run):
    """Two runs on the same images with different networks and splits."""
    words = ("--cv", 2, "--epochs", 2)
    return [train_run(*words), train_run(*words, "--model-type", "JointHeads", "--seed", 7, "--image-size", 40)]


@pytest.fixture(scope="module")
def attribute_runs(train_run):
    """A run of each of mask, gender, ageg and age on the same images."""
    return {task: train_run("--cv", 2, "--epochs", 2, "--task", task) for task in ("mask", "gender", "ageg", "age")}


@pytest.fixture
def design_of(run, tmp_path):
    """Run design_ensemble and return its output and the folder of the recipe, or expect an error."""

    def command(roots, *words, error=None):
        root = ",".join(str(path) for path in roots)
        options = ("--root", root, "--name", "tried", "--save-path", tmp_path / "ensembles", "--num-workers", 0)
        outcome = run("design_ensemble", *options, "--top-k", 2, "--device", "cpu", *words)
        if error:
            return outcome.assert_error(error)
        return outcome.assert_success().out, next((tmp_path / "ensembles").glob("*/tried"))

    return command


@pytest.fixture
def submit(run, small_data, tmp_path):
    """Predict by the recipe in a folder and return the folder of the prediction, or expect an error."""

    def command(place, *words, error=None):
        options = ("--recipe", place / "recipe.json", "--data-root", small_data.data_root, "--num-workers", 0)
        outcome = run("submit_ensemble", *options, "--device", "cpu", "--save-path", tmp_path / "p", *words)
        if error:
            return outcome.assert_error(error)
        outcome.assert_success()
        return next((tmp_path / "p").glob("*/*"))

    return command


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of the first run, to damage."""
    return Path(shutil.copytree(runs[0], tmp_path / "copy" / "main" / NAME))


def read(folder, name="recipe.json"):
    return json.loads((folder / name).read_text())


def write(folder, recipe):
    (folder / "recipe.json").write_text(json.dumps(recipe))


def answers_of(members, place, prediction):
    """Return the predictions of the members of the recipe in `place`, `(N, C)`, from the files of a prediction."""
    files = {each["file"]: each["answers"] for each in read(prediction, "prediction.json")["members"]}
    paths = [prediction / "members" / files[str((place / member["file"]).resolve())] for member in members]
    return [pd.read_csv(path).drop(columns="ImageID").to_numpy() for path in paths]


def listing(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_what_a_design_leaves(runs, design_of):
    before = [listing(folder) for folder in runs]
    out, place = design_of(runs, "--calibrate")
    assert [listing(folder) for folder in runs] == before  # nothing is written into the runs
    table = pd.read_csv(place / "table.csv", keep_default_na=False)
    assert [*table][:8] == ["run", "views", "top_k", "method", "macro_f1", "low", "high", "passes"]
    assert len(table) == 2 * 2 * (1 + 4)  # runs, views, and for two checkpoints four ways to vote
    assert (table["passes"] == 2 * table["top_k"] * table["views"]).all()
    assert ((table["low"] <= table["macro_f1"]) & (table["macro_f1"] <= table["high"])).all()
    assert sorted(" ".join(table["mark"]).split()) == ["best", "cheapest"]
    best = table[table["mark"].str.contains("best")].iloc[0]
    assert (best["macro_f1"], best["behind"]) == (table["macro_f1"].max(), 0)
    assert table["behind"].to_numpy() == pytest.approx((best["macro_f1"] - table["macro_f1"]).to_numpy(), abs=1e-5)
    assert ((table["behind_low"] <= table["behind"]) & (table["behind"] <= table["behind_high"])).all()
    assert (table["behind_low"] <= 0)[table["mark"].str.contains("cheapest")].all()
    page = (place / "ensemble.html").read_text()
    assert f"{best['macro_f1']:.3f} ({best['low']:.3f} to {best['high']:.3f})" in page
    assert out.endswith(f"Report: {place / 'ensemble.html'}\n")
    recipe = read(place)
    assert (recipe["task"], recipe["made"]["people"], recipe["made"]["images"]) == ("main", 12, 84)
    assert sum(member["weight"] for member in recipe["members"]) == pytest.approx(1)
    assert {member["fold"] for member in recipe["members"]} == {0, 1}
    assert all((place / member["file"]).is_file() and member["task"] == "main" for member in recipe["members"])
    assert "calibration" in recipe["scores"]
    assert "The runs split the images differently." in out
    assert "Greedy selection, scored on others: " in out


def test_an_ensemble_is_selected_by_another_metric_than_that_of_the_runs(runs, design_of, monkeypatch):
    asked = []

    def watched(scores, **options):
        asked.append((scores, options["higher_is_better"]))
        return weigh(scores, **options)

    weigh = voting.member_weights
    monkeypatch.setattr(voting, "member_weights", watched)
    out, place = design_of(runs[:1], "--metric", "log_loss", "--tta", 1, "--no-soups")
    table = pd.read_csv(place / "table.csv", keep_default_na=False)
    best = table[table["mark"].str.contains("best")].iloc[0]
    assert best["log_loss"] == table["log_loss"].min() > 0
    assert ((table["low"] <= table["log_loss"]) & (table["log_loss"] <= table["high"])).all()
    assert "Out-of-fold log loss" in out
    assert "log loss" in (place / "ensemble.html").read_text()
    assert asked and all(max(scores) <= 1 and higher for scores, higher in asked)  # members are weighted by macro F1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_nobody_is_predicted_by_a_member_that_was_trained_on_them(
    elsewhere, runs, design_of, monkeypatch, train_run, make_data, make_person
):
    """With --valid-root as well, where every fold predicts everybody there."""
    asked = []

    def watched(self, networks, members, task, rows):
        people = {Path(image).parts[0].split("_")[0] for image in self.table["image"].iloc[rows]}
        asked.append((members[0].info, len(members), people))
        return predict(self, networks, members, task, rows)

    predict = Validation.predict
    monkeypatch.setattr(Validation, "predict", watched)
    if elsewhere:
        others = make_data(people=[make_person(f"9{k}", "female", 20 + 5 * k) for k in range(10)])
        runs = [train_run("--cv", 2, "--epochs", 2, "--valid-root", others.train_root)]
    design_of(runs)
    splits = {split["fingerprint"]: split["folds"] for split in (read(folder, "split.json") for folder in runs)}
    for info, _, people in asked:
        fold = splits[info.split_fingerprint][info.fold]
        assert people == set(fold["valid"])
        assert not people & set(fold["train"])
    assert sum(count for _, count, _ in asked) > 2 * 2 * len(runs)  # soups too


def test_one_view_of_the_best_checkpoints_is_what_training_scored(runs, design_of):
    out, place = design_of(runs, "--no-soups")
    table = pd.read_csv(place / "table.csv")
    for folder in runs:
        row = table[(table["run"] == str(folder)) & (table["views"] == 1) & (table["top_k"] == 1)].iloc[0]
        assert row["macro_f1"] == pytest.approx(read(folder, "summary.json")["oof"]["macro_f1"], abs=1e-5)
    assert not (place / "soups").exists()
    assert "soups" not in out.lower() and "Replacing the earlier recipe" not in out
    recipe = read(place)
    assert "Replacing the earlier recipe" in design_of(runs, "--no-soups")[0]
    assert read(place) == recipe


@pytest.fixture
def soups(runs, design_of, monkeypatch):
    """The soups of an ensemble in which no score is worse than another, so that every checkpoint stays in a soup."""
    monkeypatch.setattr(Scorer, "goodness", lambda self, answers, rows=slice(None): 0.5)
    out, place = design_of(runs[:1])
    assert "(of 2, 2 checkpoints per fold) take part" in out
    return sorted((place / "soups").iterdir())


def test_soups_are_means_of_a_folds_checkpoints_with_scores_of_their_own(soups, runs, run, small_data, tmp_path):
    assert len(soups) == 2
    for fold, path in enumerate(soups):
        weights, info = load_checkpoint(path)
        parts = [load_checkpoint(file) for file in (runs[0] / f"fold{fold:02d}").glob("*.pt")]
        highest = max(each.score for _, each in parts)
        assert (info.fold, info.split_fingerprint) == (fold, parts[0][1].split_fingerprint)
        assert info.epoch in [each.epoch for _, each in parts if each.score == highest]
        for name, value in weights.items():
            if value.is_floating_point():  # running means of BatchNorm too
                assert torch.allclose(value, torch.stack([part[name] for part, _ in parts]).mean(dim=0))
            else:
                assert value in [part[name] for part, _ in parts]
    oof = pd.read_csv(runs[0] / "fold01" / "oof.csv")
    images = tmp_path / "images" / "images"
    images.mkdir(parents=True)
    for number, image in enumerate(oof["ImageID"]):
        shutil.copy(small_data.train_root / image, images / f"{number:03d}.jpg")
    words = ("--load-state-dict", soups[1], "--data-root", images, "--save-path", tmp_path / "p", "--num-workers", 0)
    run("submit_singular", *words).assert_success()
    answers = pd.read_csv(next((tmp_path / "p").rglob("members/*.csv"))).drop(columns="ImageID").to_numpy()
    assert load_checkpoint(soups[1])[1].scores == pytest.approx(score(MAIN, answers, oof["label"].to_numpy()))


def test_a_submission_is_the_weighted_mean_of_its_members(runs, design_of, submit, small_data):
    _, place = design_of(runs)
    recipe = read(place)
    # Members of both runs, and all that can be done to their mean.
    design_of(runs[1:], "--name", "other")
    other = [{**each, "file": f"../other/{each['file']}"} for each in read(place.with_name("other"))["members"]]
    members = [{**each, "weight": float(number)} for number, each in enumerate([*recipe["members"], *other], 1)]
    for mean in ("arithmetic", "geometric"):
        recipe |= {"mean": mean, "temperature": 0.5, "offsets": np.linspace(-1, 1, 18).tolist(), "members": members}
        write(place, recipe)
        found = submit(place, "--task", "main")
        about = read(found, "prediction.json")
        assert (about["tta"], about["recipe"]["weights"]) == (recipe["tta"], [member["weight"] for member in members])
        assert len(list((found / "members").iterdir())) == len(members)
        answers = np.array(answers_of(members, place, found))
        values = answers if mean == "arithmetic" else np.log(np.clip(answers, SMALLEST, None))
        mixed = np.average(values, axis=0, weights=[member["weight"] for member in members])
        mixed = tempered(mixed if mean == "arithmetic" else np.exp(mixed), 0.5, np.array(recipe["offsets"]))
        rows = pd.read_csv(found / "submission_recipe.csv")
        assert rows["ImageID"].tolist() == list(small_data.eval_ids)
        assert rows["ans"].tolist() == mixed.argmax(axis=1).tolist()
        assert [path.name for path in found.glob("submission*")] == ["submission_recipe.csv"]


def test_a_moved_ensemble_still_finds_its_soups(soups, submit, tmp_path):
    place = soups[0].parents[1].rename(tmp_path / "moved")
    member = read(place)["members"][0]
    members = [{**member, "file": f"soups/{path.name}", "fold": fold} for fold, path in enumerate(soups)]
    members = [{**each, "digest": file_digest(place / each["file"])} for each in members]
    write(place, read(place) | {"members": members})
    assert (submit(place) / "submission_recipe.csv").is_file()


def test_ages_are_designed_and_predicted(attribute_runs, design_of, submit):
    _, place = design_of([attribute_runs["age"]])
    table = pd.read_csv(place / "table.csv", keep_default_na=False)
    assert set(table["method"]) == {"arithmetic", "geometric", "weighted_mean"}
    assert table.loc[table["mark"].str.contains("best"), "rmse"].item() == table["rmse"].min()
    found = submit(place)
    assert found.parent.name == "age"
    ages = pd.read_csv(found / "submission_recipe.csv")["ans"]
    assert len(ages) == 5 and np.isfinite(ages).all()
    design_of([attribute_runs["age"]], "--calibrate", error="--calibrate needs classes, and task age has none")


def out_of_fold(folder):
    """Return the predictions of the best epochs of a run, `(N, C)`, and its labels `(N,)`, by ImageID."""
    rows = pd.read_csv(folder / "oof.csv").sort_values("ImageID")
    return rows.filter(regex=r"^p\d+$").to_numpy(), rows["label"].to_numpy()


@pytest.mark.parametrize("age", ["ageg", "age"])
def test_runs_of_the_attributes_predict_main_together(age, attribute_runs, runs, design_of, submit):
    _, place = design_of([attribute_runs[task] for task in ("mask", "gender", age)])
    parts = {task: out_of_fold(attribute_runs[task])[0] for task in ("mask", "gender", age)}
    if age == "age":
        errors = [fold["rmse"] for fold in read(attribute_runs["age"], "summary.json")["folds"]]
        parts["ageg"] = range_shares(parts.pop("age")[:, 0], np.mean(errors), AGE.bounds)
    expected = score(MAIN, join_probabilities(MAIN, None, parts), out_of_fold(runs[0])[1])["macro_f1"]
    table = pd.read_csv(place / "table.csv")
    plain = table[(table["views"] == 1) & (table["top_k"] == 1) & (table["method"] == "arithmetic")]
    assert plain["macro_f1"].item() == pytest.approx(expected, abs=1e-5)
    assert set(table["label"]) == {f"mask with gender with {age}"}
    recipe = read(place)
    assert recipe["task"] == "main"
    assert {member["task"] for member in recipe["members"]} == {"mask", "gender", age}
    assert all(("rmse" in member) == (member["task"] == "age") for member in recipe["members"])
    assert (place / "ensemble.html").is_file()
    # Two voters of other weights, each the mean of its members of a task.
    joint = recipe["members"][0]["joint"]
    first = [{**member, "weight": 0.1} for member in recipe["members"] if member["joint"] == joint]
    second = [{**member, "joint": "other", "weight": 0.3} for member in first if member["fold"] == 0]
    recipe |= {"members": [*first, *second], "mean": "arithmetic", "temperature": 1.0, "offsets": None}
    write(place, recipe)
    found = submit(place, "--task", "main")
    assert len(list((found / "members").iterdir())) == len(first)  # those of the second are predicted once
    voters = []
    for members in (first, second):
        parts = {}
        for member, answers in zip(members, answers_of(members, place, found), strict=True):
            shares = range_shares(answers[:, 0], member["rmse"], AGE.bounds) if member["task"] == "age" else answers
            parts.setdefault("ageg" if member["task"] == "age" else member["task"], []).append(shares)
        voters.append(join_probabilities(MAIN, None, {task: np.mean(each, axis=0) for task, each in parts.items()}))
    weights = [sum(member["weight"] for member in members) for members in (first, second)]
    expected = np.average(voters, axis=0, weights=weights).argmax(axis=1)
    assert pd.read_csv(found / "submission_recipe.csv")["ans"].tolist() == expected.tolist()


def test_a_run_of_an_attribute_replaces_the_prediction_of_main(attribute_runs, runs, design_of):
    _, place = design_of([runs[0], attribute_runs["gender"]])
    base, labels = out_of_fold(runs[0])
    expected = join_probabilities(MAIN, base, {"gender": out_of_fold(attribute_runs["gender"])[0]})
    table = pd.read_csv(place / "table.csv")
    plain = table[(table["views"] == 1) & (table["top_k"] == 1)].set_index("label")["macro_f1"]
    assert set(plain.index) == {NAME, "main with gender"}
    assert plain["main with gender"] == pytest.approx(score(MAIN, expected, labels)["macro_f1"], abs=1e-5)
    assert plain[NAME] == pytest.approx(score(MAIN, base, labels)["macro_f1"], abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tta", 13), "--tta 13 is more than the 12 fixed views"),
        (("--top-k", 3), "fewer than --top-k 3"),
        (("--task", "mask"), "was trained on task main, not mask"),
        (("--train-root", "lost"), "There is no folder lost"),
        (("--corrections", "lost.csv"), "There is no file lost.csv"),
    ],
)
def test_options_that_do_not_fit(words, message, runs, design_of, tmp_path):
    design_of(runs[:1], *words, error=message)
    assert not (tmp_path / "ensembles").exists()


def test_a_run_is_not_taken_twice(runs, design_of):
    design_of([runs[0], runs[0].parent], error="names the run")


@pytest.mark.parametrize("tasks", [("mask", "gender"), ("ageg", "age"), ("gender", "age")])
def test_runs_of_tasks_that_do_not_cover_main(tasks, attribute_runs, design_of):
    message = "Pass runs of one task, of mask, gender and ageg or age, or one of main"
    design_of([attribute_runs[task] for task in tasks], error=message)


def test_changed_images_or_labels_are_an_error_and_moved_images_are_found(
    runs, design_of, small_data, write_csv, tmp_path
):
    moved = shutil.copytree(small_data.train_root, tmp_path / "elsewhere")
    design_of(runs[:1], "--train-root", moved)
    fixes = write_csv(tmp_path / "fixes.csv", ["id", "age"], [["000001", 61]])
    message = "Pass --train-root and --corrections with the data of the training"
    design_of(runs[:1], "--train-root", moved, "--corrections", fixes, error=message)
    next(moved.glob("*/normal.jpg")).unlink()
    design_of(runs[:1], "--train-root", moved, error="holds other images or labels than")


def change_labels(run):
    (run / "config.json").write_text(json.dumps(read(run, "config.json") | {"fingerprints": {"labels": "other"}}))


def move_a_person(run):
    split = read(run, "split.json")
    split["folds"][0]["valid"].append(split["folds"][0]["train"].pop())
    (run / "split.json").write_text(json.dumps(split))


def train_on_another_split(run):
    for path in run.glob("fold*/*.pt"):
        weights, info = load_checkpoint(path)
        network = info.build()
        network.load_state_dict(weights)
        save_checkpoint(path, network, replace(info, split_fingerprint="other"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run / "fold01"), "Fold 1 of"),
        (change_labels, "was trained on other images or labels than"),
        (move_a_person, "split.json is damaged"),
        (train_on_another_split, "it may have been trained on the images it would be scored on"),
    ],
)
def test_a_run_that_cannot_be_scored(damage, message, runs, copied, design_of):
    damage(copied)
    design_of([runs[0], copied], error=message)


def change_member(place, recipe, **changes):
    recipe["members"][0] |= changes
    write(place, recipe)


def change_checkpoint(place, recipe):
    path = place / recipe["members"][0]["file"]
    shutil.copy(next(file for file in path.parent.glob("*.pt") if not file.samefile(path)), path)


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (partial(change_member, task="gender"), (), "cannot predict main"),
        (partial(change_member, joint=7, task="gender"), (), "is damaged"),
        (partial(change_member, joint=7, task="age"), (), "is damaged"),
        (change_checkpoint, (), "is not the checkpoint of"),
        (lambda place, recipe: (place / recipe["members"][0]["file"]).unlink(), (), "There is no checkpoint file"),
        (lambda place, recipe: None, ("--task", "mask"), "not mask"),
    ],
)
def test_a_recipe_that_cannot_be_used(damage, words, message, copied, design_of, submit, tmp_path):
    _, place = design_of([copied], "--no-soups")
    damage(place, read(place))
    submit(place, *words, error=message)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("word", ["--tta=2", "--top-k=1", "--folds=0", "--method=hard", "--root=runs"])
def test_options_that_a_recipe_sets(word, submit, tmp_path):
    submit(tmp_path, word, error=f"--recipe already sets {word.split('=')[0]}. Leave it out.")
