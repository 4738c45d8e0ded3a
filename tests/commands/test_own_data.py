"""Runs on own images: from a CSV or folders of classes to checkpoints, submissions, scores, recipes and reports."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from broken import assert_same_weights
from PIL import Image

import train as train_script
from data.face_layout import read_training_table
from data.faces import FACES
from model import _key
from storage.checkpoint import load_checkpoint

COLUMNS = ["file", "patient", "diagnosis", "sex", "site", "type", "a.b", "a_b", "many 1", "many+2", "weight"]
HEADS = ("--model-type", "JointHeads", "--backbone", "shufflenet_v2_x0_5")
WHOLE = ["nevus", "melanoma", "wart's"]


def make_rows():
    """Return 40 rows of 12 patients: the diagnosis varies within a patient, the sex and the site do not."""
    rows = []
    for number in range(40):
        patient = number % 12
        diagnosis = WHOLE[(number + number // 12) % 3]
        site = ["north", "south", "west"][patient % 3]
        few = f"t{patient % 2}"
        many = patient // 2 * 2 + number // 12 % 2  # 12 classes of two patients each
        rows.append(
            [
                *(f"sub/p{patient:02d}-{number:02d}.png", f"P{patient:02d}", diagnosis, "fm"[patient % 2], site),
                *(few, few, f"x{patient % 2}", many, many, 2e6 + 1000.5 * WHOLE.index(diagnosis)),
            ]
        )
    return rows


def read_json(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """40 one-colour images of 12 patients: a CSV, folders of classes, and a folder to predict with its answers."""
    root = tmp_path_factory.mktemp("own")
    rows = make_rows()
    answers = []
    for name, patient, diagnosis, *_ in rows:
        image = Image.new(
            "RGB", (32, 32), tuple(60 + 60 * (k == WHOLE.index(diagnosis)) + len(patient) for k in range(3))
        )
        for path in (root / "images" / name, root / "folders" / diagnosis / name.rpartition("/")[2]):
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        if len(answers) < 6:
            (root / "predict").mkdir(exist_ok=True)
            image.save(root / "predict" / f"{len(answers)}.png")
            answers.append([f"{len(answers)}.png", diagnosis])
    pd.DataFrame(rows, columns=COLUMNS).to_csv(root / "photos.csv", index=False)
    pd.DataFrame(answers, columns=["ImageID", "ans"]).to_csv(root / "answers.csv", index=False)
    csv = ("--data", root / "photos.csv", "--image-root", root / "images", "--group", "patient")
    return SimpleNamespace(root=root, csv=csv, folders=root / "folders", predict=root / "predict")


@pytest.fixture(scope="session")
def train_own(own, tiny_training, tmp_path_factory):
    """train_own("--label", "sex") trains on the CSV, or on another --data, and returns the folder of the run."""

    def command(*words, place=None):
        place = place or tmp_path_factory.mktemp("models")
        data = () if "--data" in words else own.csv
        words = (*tiny_training, *data, "--save-path", place, *words)
        assert train_script.main([str(word) for word in words]) == 0
        return next(place.glob("*/*-*"))

    return command


@pytest.fixture(scope="session")
def three_folds(train_own):
    """A run of 3 folds on the diagnosis. Read it, do not change it."""
    return train_own("--label", "diagnosis", "--cv", 3)


@pytest.fixture(scope="session")
def joint(train_own):
    """A run of 2 folds of JointHeads on the diagnosis and the sex. Read it, do not change it."""
    return train_own("--label", "diagnosis,sex", "--cv", 2, *HEADS)


def groups_of_folds(run):
    return [(set(fold["train"]), set(fold["valid"])) for fold in read_json(run / "split.json")["folds"]]


def submission(place, name="submission_arithmetic"):
    (path,) = place.rglob(f"{name}.csv")
    return path


# ------------------------------------------------------------------------------------------------ a CSV with groups


def test_a_run_describes_its_classes_and_keeps_groups_apart(three_folds):
    assert three_folds.parent.name == "diagnosis"
    config = read_json(three_folds / "config.json")
    (label,) = config["labels"]
    assert (label["name"], label["classes"]) == ("diagnosis", sorted(WHOLE))
    assert (label["of_group"], label["noun"], label["coded"], config["task"]) == (False, "groups", False, "diagnosis")
    for train, valid in groups_of_folds(three_folds):
        assert not train & valid
        assert train | valid == {f"P{k:02d}" for k in range(12)}
    assert sorted(name for _, valid in groups_of_folds(three_folds) for name in valid) == [
        f"P{k:02d}" for k in range(12)
    ]
    oof = pd.read_csv(three_folds / "oof.csv")
    table = pd.read_csv(three_folds / "oof.csv").set_index("ImageID")["label"]
    true = {name: diagnosis for name, _, diagnosis, *_ in make_rows()}
    assert {name: sorted(WHOLE)[number] for name, number in table.items()} == true
    assert {name: patient for name, patient, *_ in make_rows()} == dict(zip(oof["ImageID"], oof["person"], strict=True))
    summary = read_json(three_folds / "summary.json")
    assert (summary["oof"]["people"], summary["oof"]["images"]) == (12, 40)
    assert list(summary["estimates"]["best_epochs"]["f1"]) == sorted(WHOLE)
    info = load_checkpoint(next((three_folds / "fold00").glob("*.pt")))[1]
    assert (info.record.classes, info.training_age) == (tuple(sorted(WHOLE)), None)


def test_submissions_hold_names_and_are_scored_by_them(own, three_folds, run, tmp_path):
    words = ("--root", three_folds, "--data-root", own.predict, "--save-path", tmp_path, "--num-workers", 0)
    run("submit_ensemble", *words, "--top-k", 1, "--device", "cpu").assert_success()
    path = submission(tmp_path)
    assert path.parent.parent.name == "diagnosis"
    table = pd.read_csv(path)
    assert list(table) == ["ImageID", "ans"]
    assert set(table["ans"]) <= set(WHOLE)
    outcome = run("score_submission", "--submission", path, "--answers", own.root / "answers.csv").assert_success()
    answers = pd.read_csv(own.root / "answers.csv")
    assert f"accuracy {(answers['ans'] == table['ans']).mean():.4f}" in outcome.out
    wrong = tmp_path / "wrong.csv"
    answers.assign(ans="freckle").to_csv(wrong, index=False)
    outcome = run("score_submission", "--submission", path, "--answers", wrong)
    outcome.assert_error("contains freckle. Task diagnosis has the classes melanoma, nevus, wart's")
    outcome = run("score_submission", "--submission", path, "--answers", own.root / "answers.csv", "--task", "main")
    outcome.assert_error("--task must be one of diagnosis. Got 'main'")
    (path.parent / "prediction.json").write_text(json.dumps({"task": "diagnosis", "labels": [{"name": "diagnosis"}]}))
    outcome = run("score_submission", "--submission", path, "--answers", own.root / "answers.csv")
    outcome.assert_error("prediction.json is damaged")
    (path.parent / "prediction.json").unlink()  # a file alone has the classes that the answers name
    outcome = run("score_submission", "--submission", path, "--answers", own.root / "answers.csv").assert_success()
    assert f"accuracy {(answers['ans'] == table['ans']).mean():.4f}" in outcome.out


def test_one_checkpoint_predicts_names_too(own, three_folds, run, tmp_path):
    checkpoint = next((three_folds / "fold01").glob("*.pt"))
    words = ("--data-root", own.predict, "--save-path", tmp_path, "--num-workers", 0, "--device", "cpu")
    run("submit_singular", "--load-state-dict", checkpoint, "--task", "Diagnosis", *words).assert_success()
    assert set(pd.read_csv(submission(tmp_path, "submission"))["ans"]) <= set(WHOLE)
    outcome = run("submit_singular", "--load-state-dict", checkpoint, "--task", "diagnose", *words)
    outcome.assert_error("--task must be one of diagnosis. Got 'diagnose'. Did you mean 'diagnosis'?")
    outcome = run("submit_ensemble", "--root", three_folds, "--task", "main", "--top-k", 1, *words)
    outcome.assert_error("--task must be one of diagnosis. Got 'main'")
    outcome = run("submit_ensemble", "--task", "diagnosys", *words)
    outcome.assert_error("--task must be one of main, mask, gender, ageg, age")


def test_a_resumed_run_equals_an_uninterrupted_one(own, three_folds, train_own, run, tiny_training, tmp_path):
    resumed = train_own("--label", "diagnosis", "--cv", 3, "--folds", 1, place=tmp_path)
    train_own("--label", "diagnosis", "--cv", 3, "--resume", place=tmp_path)
    assert_same_weights(three_folds.parent.parent, tmp_path)
    assert (resumed / "oof.csv").read_bytes() == (three_folds / "oof.csv").read_bytes()
    words = ("train", *tiny_training, *own.csv, "--save-path", tmp_path, "--cv", 3, "--resume")
    outcome = run(*words[:-3], "--cv", 3, "--label", "diagnosis", "--group", "site", "--resume")
    outcome.assert_error("--group was patient and is site")
    table = pd.read_csv(own.root / "photos.csv", dtype=str)
    table.assign(diagnosis=table["diagnosis"].replace("nevus", "mole")).to_csv(tmp_path / "other.csv", index=False)
    outcome = run(*words, "--label", "diagnosis", "--data", tmp_path / "other.csv")
    outcome.assert_error("was started with other")


def test_tools_read_runs_on_own_data(own, three_folds, train_own, run, tmp_path):
    other = train_own("--label", "diagnosis", "--cv", 3, "--lr", 0.001, place=tmp_path / "other")
    outcome = run("compare_runs", "--root", f"{three_folds},{other}", "--task", "diagnosis").assert_success()
    assert "12 groups" in outcome.out
    before = (other / "oof.csv").read_bytes()
    oof = pd.read_csv(other / "oof.csv")
    labels = oof["label"].where(oof["fold"].duplicated(), (oof["label"] + 1) % 3)  # one of each fold is wrong
    names = ["p0", "p1", "p2"]
    oof.assign(**dict(zip(names, 0.05 + 0.85 * np.eye(3)[labels].T, strict=True))).to_csv(other / "oof.csv")
    run("make_report", "--root", other).assert_success()
    page = (other / "report.html").read_text()
    assert "12 groups" in page
    assert "Suspected label errors" in page
    assert any(f"{row.person} {row.ImageID}: labelled" in page for row in oof[~oof["fold"].duplicated()].itertuples())
    assert "data:image" in page  # of the mistakes
    assert "groups trained on" in page
    assert "One per group and mistake" in page
    assert "A class of one group has no interval" in page
    assert "people" not in page
    (other / "oof.csv").unlink()
    run("join_folds", "--root", other).assert_success()
    assert (other / "oof.csv").read_bytes() == before
    run("find_label_errors", "--root", other).assert_success()
    outcome = run("design_ensemble", "--root", other, "--valid-root", own.root, "--num-workers", 0, "--top-k", 1)
    outcome.assert_error(f"was trained on --data {own.root / 'photos.csv'}")
    moved = shutil.copy(own.root / "photos.csv", tmp_path)
    words = ("--train-root", moved, "--image-root", own.root / "images")
    words += ("--top-k", 1, "--tta", 1, "--num-workers", 0, "--device", "cpu", "--save-path", tmp_path / "ensembles")
    outcome = run("design_ensemble", "--root", f"{three_folds},{other}", *words).assert_success()
    assert "12 groups, 40 images" in outcome.out
    table = pd.read_csv(moved)
    table.assign(patient=table["patient"].replace("P03", "P04")).to_csv(tmp_path / "edited.csv", index=False)
    places = ("--train-root", tmp_path / "edited.csv", "--image-root", own.root / "images")
    outcome = run("design_ensemble", "--root", other, *places, "--num-workers", 0, "--top-k", 1)
    outcome.assert_error("was trained with other groups of 4 images: sub/p03-03.png")
    recipe = next((tmp_path / "ensembles").rglob("recipe.json"))
    assert read_json(recipe)["labels"] == read_json(other / "config.json")["labels"]
    words = ("--data-root", own.predict, "--save-path", tmp_path / "predicted", "--num-workers", 0, "--device", "cpu")
    run("submit_ensemble", "--recipe", recipe, *words).assert_success()
    assert set(pd.read_csv(submission(tmp_path / "predicted", "submission_recipe"))["ans"]) <= set(WHOLE)


def test_numbers_of_any_unit_are_learned_reported_and_predicted(own, train_own, run, tmp_path):
    weights = ("--label", "weight", "--regression", "--metric", "mae", "--cv", 2, "--lr", 0.01, "--report")
    trained = train_own(
        *weights, "--preset", "strong", "--backbone", "shufflenet_v2_x0_5", "--model-type", "VanillaTorchvision"
    )
    log = pd.read_csv(trained / "log.csv")
    assert log["train_loss"].max() < 100  # of (number - mean) / deviation, which the squares of 2,000,000 are far from
    oof = pd.read_csv(trained / "oof.csv")
    assert oof["p0"].between(1.9e6, 2.1e6).all()
    error = oof["p0"] - oof["label"]
    summary = read_json(trained / "summary.json")
    scores = {"rmse": (error**2).mean() ** 0.5, "mae": error.abs().mean()}
    assert {name: summary["oof"][name] for name in scores} == pytest.approx(scores, rel=1e-4)
    assert all(path.name.startswith("epoch001_mae-") for path in trained.glob("fold*/*.pt"))
    assert "weight" in (trained / "report.html").read_text()
    run("find_label_errors", "--root", trained).assert_error("predicts numbers, not classes")
    (own.root / "test.csv").write_text("file\n3.png\n1.png\n")
    words = ("--data-root", own.root / "test.csv", "--image-root", own.predict, "--num-workers", 0, "--device", "cpu")
    words = (*words, "--save-path", tmp_path)
    run("submit_ensemble", "--root", trained, "--top-k", 1, *words).assert_success()
    table = pd.read_csv(submission(tmp_path))
    assert table["ImageID"].tolist() == ["3.png", "1.png"]
    assert table["ans"].between(1.9e6, 2.1e6).all()
    assert not list(tmp_path.rglob("submission_geometric.csv"))  # numbers may be negative
    answers = tmp_path / "answers.csv"
    table.assign(ans=table["ans"] + 2).to_csv(answers, index=False)
    outcome = run("score_submission", "--submission", submission(tmp_path), "--answers", answers).assert_success()
    assert "RMSE 2.0000  MAE 2.0000" in outcome.out
    outcome = run("submit_ensemble", "--root", trained, "--top-k", 1, *words, "--proba")
    outcome.assert_error("--proba needs classes, and task weight has none")


def test_probabilities_have_the_names_of_the_classes(own, three_folds, run, tmp_path):
    words = ("--root", three_folds, "--data-root", own.predict, "--save-path", tmp_path, "--num-workers", 0)
    run("submit_ensemble", *words, "--top-k", 1, "--device", "cpu", "--proba").assert_success()
    table = pd.read_csv(submission(tmp_path))
    assert list(table) == ["ImageID", *sorted(WHOLE)]
    assert table[sorted(WHOLE)].sum(axis=1).to_numpy() == pytest.approx(np.ones(len(table)), abs=1e-6)
    outcome = run("score_submission", "--submission", submission(tmp_path), "--answers", own.root / "answers.csv")
    assert "log loss" in outcome.assert_success().out
    outcome = run("submit_ensemble", *words, "--top-k", 1, "--proba", "--method", "hardvoting")
    outcome.assert_error("--proba needs probabilities, and --method hardvoting counts votes")


def test_the_preset_strong_trains_own_labels(train_own):
    run = train_own("--label", "diagnosis", "--preset", "strong", "--backbone", "shufflenet_v2_x0_5", "--cv", 1)
    assert read_json(run / "config.json")["logit_adjustment"] == 0.5


@pytest.mark.parametrize("words", [("--oversample",), ("--balance", 1), ("--mixup", 1, "--cutmix", 1)], ids=str)
def test_scarce_classes_and_mixing(words, train_own):
    run = train_own("--label", "diagnosis,site", "--task", "site", "--cv", 1, *words)
    assert read_json(run / "summary.json")["oof"]["images"]


# ------------------------------------------------------------------------------------------------ folders and folds


@pytest.mark.parametrize("regex", [None, r"^(p\d+)"])
def test_folders_of_classes(regex, own, train_own, capsys):
    words = () if regex is None else ("--group-regex", regex)
    run = train_own("--data", own.folders, *words, "--cv", 2)
    assert run.parent.name == "class"
    assert read_json(run / "config.json")["labels"][0]["classes"] == sorted(WHOLE)
    assert read_json(run / "summary.json")["oof"]["people"] == (40 if regex is None else 12)
    assert ("Each image is its own group" in capsys.readouterr().out) == (regex is None)
    for train, valid in groups_of_folds(run):
        assert not train & valid


def test_a_column_of_folds_fixes_them(train_own):
    run = train_own("--label", "diagnosis", "--folds-from", "site")
    assert (run.name, read_json(run / "config.json")["cv"]) == ("kfold-ensemble-VanillaTorchvision", 3)
    oof = pd.read_csv(run / "oof.csv")
    sites = {name: site for name, _, _, _, site, *_ in make_rows()}
    assert (oof["ImageID"].map(sites) == oof["fold"].map(dict(enumerate(sorted(set(sites.values())))))).all()


# ------------------------------------------------------------------------------------------------ several labels


def test_joint_heads_have_a_head_for_each_label_and_one_for_the_joint_classes(own, joint, run, tmp_path):
    assert joint.parent.name == "diagnosis+sex"
    weights, info = load_checkpoint(next((joint / "fold00").glob("*.pt")))
    assert [*info.tasks] == ["diagnosis+sex", "diagnosis", "sex"]
    assert info.record.classes[:3] == ("melanoma f", "melanoma m", "nevus f")
    outputs = {name: len(weights[f"heads.label_{name}.weight"]) for name in info.tasks}
    assert outputs == {"diagnosis+sex": 6, "diagnosis": 3, "sex": 2}
    words = ("--data-root", own.predict, "--save-path", tmp_path, "--num-workers", 0, "--top-k", 1, "--device", "cpu")
    for task, classes in (("diagnosis+sex", info.record.classes), ("sex", "fm")):
        run("submit_ensemble", "--root", joint, "--task", task, *words).assert_success()
        assert set(pd.read_csv(submission(tmp_path / task))["ans"]) <= set(classes)
    run("make_report", "--root", joint).assert_success()


@pytest.mark.parametrize(
    ("words", "task"),
    [
        (("--model-type", "THANet_MK1", "--backbone", "resnet18"), "diagnosis+sex"),
        (("--model-type", "MultiClassTHANet", "--backbone", "resnet18", "--task", "sex"), "sex"),
        (("--model-type", "VanillaTorchvision"), "diagnosis+sex"),
        (("--model-type", "VanillaTorchvision", "--task", "diagnosis"), "diagnosis"),
        ((*HEADS, "--task", "Sex"), "sex"),
    ],
    ids=str,
)
def test_networks_of_several_labels(words, task, train_own):
    run = train_own("--label", "diagnosis,sex", "--cv", 1, *words)
    assert run.parent.name == task
    config = read_json(run / "config.json")
    assert (config["task"], [each["name"] for each in config["labels"]]) == (
        task,
        ["diagnosis+sex", "diagnosis", "sex"],
    )


@pytest.mark.parametrize(
    "words",
    [
        (),
        (*HEADS, "--task", "many+2"),
        ("--task", "many+2"),
        ("--model-type", "MultiClassTHANet", "--backbone", "resnet18"),
    ],
    ids=str,
)
def test_without_joint_classes_each_label_is_a_task(words, train_own, capsys):
    run = train_own("--label", "many 1,many+2", "--cv", 1, *words)
    task = "many+2" if "--task" in words else "many 1"
    assert run.parent.name == task
    config = read_json(run / "config.json")
    assert (config["task"], [each["name"] for each in config["labels"]]) == (task, ["many 1", "many+2"])
    assert ("Training on many 1; pass --task for another label.\n" in capsys.readouterr().out) == (task == "many 1")


def test_joint_classes_that_are_asked_for_and_do_not_exist_are_an_error(own, run, tiny_training, tmp_path):
    words = ("--label", "many 1,many+2", "--task", "many 1+many+2", "--save-path", tmp_path)
    run("train", *tiny_training, *own.csv, *words).assert_error("--task many 1+many+2 has no joint classes: more than")


def test_oversampling_needs_joint_classes(own, run, tiny_training, tmp_path):
    words = ("--label", "many 1,many+2", "--oversample", "--save-path", tmp_path)
    run("train", *tiny_training, *own.csv, *words).assert_error("--oversample needs joint classes")


@pytest.mark.parametrize("label", ["type", "label", "a.b", "a.b,a_b", "age,gender"])
def test_names_of_labels_that_other_things_have(label, own, train_own, run, tmp_path):
    table = pd.read_csv(own.root / "photos.csv", dtype=str)
    table = table.assign(label=table["sex"], age=table["site"], gender=table["sex"])
    table.to_csv(tmp_path / "own.csv", index=False)
    data = ("--data", tmp_path / "own.csv", "--image-root", own.root / "images", "--group", "patient")
    found = train_own(*data, "--label", label, "--cv", 1, *HEADS, place=tmp_path / "models")
    assert found.parent.name == label.replace(",", "+")
    if label == "age,gender":  # which reports on faces show in other ways
        run("make_report", "--root", found.parent / found.name).assert_success()
    checkpoint = next(found.rglob("*.pt"))
    words = ("--data-root", own.predict, "--num-workers", 0, "--device", "cpu", "--save-path", tmp_path)
    run("submit_singular", "--load-state-dict", checkpoint, *words).assert_success()


# ------------------------------------------------------------------------------------------------ as faces


@pytest.mark.parametrize("words", [HEADS, ()], ids=str)
def test_faces_in_a_csv_train_as_in_their_folders(words, small_data, train_run, train_own, tmp_path):
    table, _ = read_training_table(small_data.train_root)
    table[["image", "person", "mask", "gender", "ageg"]].to_csv(tmp_path / "faces.csv", index=False)
    data = ("--data", tmp_path / "faces.csv", "--image-root", small_data.train_root, "--group", "person")
    first = train_run("--task", "main", "--cv", 2, "--transform-type", "random", *words)
    second = train_own(*data, "--label", "mask,gender,ageg", "--cv", 2, "--transform-type", "random", *words)
    logs = [pd.read_csv(run / "log.csv") for run in (first, second)]
    pd.testing.assert_frame_equal(*(log.drop(columns=["seconds", "images_per_s"]) for log in logs))
    for fold in (0, 1):
        (faces, _), (own, info) = (
            load_checkpoint(next((run / f"fold0{fold}").glob("*.pt"))) for run in (first, second)
        )
        names = {f".{_key(task)}.": f".{name}." for task, name in zip(info.tasks.values(), FACES, strict=False)}
        for name, value in own.items():
            for head, other in names.items():
                name = name.replace(head, other)
            assert torch.equal(value, faces[name]), name
        assert len(own) == len(faces)
    oofs = [pd.read_csv(run / "oof.csv").drop(columns=["person", "ImageID"]) for run in (first, second)]
    np.testing.assert_array_equal(*oofs)


# ------------------------------------------------------------------------------------------------ errors


def test_weights_of_other_labels_are_an_error_that_names_the_classes(
    own, three_folds, joint, run, tiny_training, tmp_path
):
    table = pd.read_csv(own.root / "photos.csv", dtype=str)
    names = dict(zip(sorted(WHOLE), "ABC", strict=True))  # in the same order, so that the split is the same
    table.assign(diagnosis=table["diagnosis"].map(names)).to_csv(tmp_path / "other.csv", index=False)
    words = ("train", *tiny_training, *own.csv, "--data", tmp_path / "other.csv", "--save-path", tmp_path / "models")
    start = ("--load-state-dict", next((three_folds / "fold00").glob("*.pt")))
    outcome = run(*words, "--label", "diagnosis", *start)
    outcome.assert_error("has the classes melanoma, nevus, wart's of diagnosis, and the data A, B, C")
    outcome = run(*words, "--label", "sex", *start)
    outcome.assert_error("was trained on task diagnosis, not sex. Pass other weights, or --new-head")
    outcome = run(*words, "--label", "sex", "--extend-from", three_folds)
    outcome.assert_error("has another split")
    outcome = run(*words, "--label", "diagnosis", "--cv", 3, "--extend-from", three_folds)
    outcome.assert_error("of diagnosis, and the data A, B, C")
    start = ("--load-state-dict", next((joint / "fold00").glob("*.pt")))
    outcome = run(*words, *HEADS, "--label", "diagnosis,sex", *start)
    outcome.assert_error("of diagnosis+sex, and the data A f, A m,")
    outcome = run(*words, "--label", "diagnosis,sex", *HEADS, *start, "--new-head", "--cv", 1).assert_success()
    assert "The head starts from random weights" in outcome.out


def test_checkpoints_of_other_labels_are_not_mixed(own, three_folds, joint, run, tmp_path):
    words = ("--data-root", own.predict, "--save-path", tmp_path, "--num-workers", 0, "--device", "cpu", "--top-k", 1)
    mixed = tmp_path / "mixed"
    for fold in (0, 1):
        path = next(((three_folds, joint)[fold] / f"fold0{fold}").glob("*.pt"))
        (mixed / f"fold0{fold}").mkdir(parents=True)
        (mixed / f"fold0{fold}" / path.name).write_bytes(path.read_bytes())
    outcome = run("submit_ensemble", "--root", mixed, "--folds", "0,1", *words)
    outcome.assert_error("differ in task (diagnosis+sex and diagnosis)")
    path = next((mixed / "fold01").glob("*.pt"))
    path.unlink()
    content = torch.load(next((mixed / "fold00").glob("*.pt")), weights_only=True)
    content["info"]["fold"] = 1
    content["info"]["classes"] = content["info"]["labels"][0]["classes"] = ["a", "b", "c"]
    torch.save(content, path)
    outcome = run("submit_ensemble", "--root", mixed, "--folds", "0,1", *words)
    outcome.assert_error("differ in labels or classes")


@pytest.mark.parametrize(
    "damage",
    [
        [],
        [{"name": "diagnosis"}],
        "labels",
        [7],
        [{"name": "diagnosis", "title": "d", "classes": [1, 2, 3], "parts": []}],
        [{"name": "diagnosis", "title": "d", "classes": ["a"], "parts": ["b"]}],
        None,
    ],
    ids=str,
)
def test_damaged_labels(damage, own, three_folds, run, tmp_path):
    content = torch.load(next((three_folds / "fold00").glob("*.pt")), weights_only=True)
    content["info"]["labels"] = damage
    torch.save(content, tmp_path / "damaged.pt")
    outcome = run("submit_singular", "--load-state-dict", tmp_path / "damaged.pt", "--data-root", own.predict)
    outcome.assert_error(f"{tmp_path / 'damaged.pt'}")
    config = read_json(three_folds / "config.json") | {"labels": damage}
    for name in ("fold00", "fold01", "fold02"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    for tool in ("join_folds", "make_report"):
        outcome = run(tool, "--root", tmp_path / "run")
        outcome.assert_error(f"{tmp_path / 'run' / 'config.json'} does not hold the options of a run")


WRONG = [
    ("--label diagnosis --data nowhere.csv", "There is no file or folder nowhere.csv"),
    ("", "needs a column of labels. Pass --label with one of file, patient, diagnosis"),
    ("--label diagnosys", "has no column diagnosys. Pass --label with one of"),
    ("--label diagnosis --group patients", "Did you mean 'patient'?"),
    ("--label diagnosis --group diagnosis", "The column diagnosis is used for both --label and --group"),
    ("--label diagnosis,diagnosis", "1 label passed twice: diagnosis"),
    ("--label diagnosis,", "--label: must be names with commas between them, as in a,b"),
    ("--label file", "is used for both --label and --"),
    ("--label diagnosis --image-column diagnosis", "is used for both --label and --image-column"),
    ("--label diagnosis --folds-from diagnosis", "is used for both --label and --folds-from"),
    ("--label diagnosis --folds-from site --cv 3", "--folds-from and --cv both set the folds"),
    ("--label diagnosis --folds-from site --folds 3", "--folds must be numbers from 0 to 2 with 3 folds. Got 3"),
    ("--label diagnosis --folds 5 --cv 5", "--folds must be numbers from 0 to 4 with 5 folds"),
    ("--label diagnosis --cv 13", "12 groups cannot be split into 13 folds"),
    ("--label diagnosis --group-regex ^p", "--group-regex is for folders"),
    ("--label diagnosis --task main", "--task must be one of diagnosis. Got 'main'"),
    ("--label diagnosis,sex --task diagnosis+sx", "Did you mean 'diagnosis+sex'?"),
    ("--label diagnosis --train-root x", "--train-root is for the folders of --train-root"),
    (
        "--label diagnosis --valid-root x",
        "--valid-root is for the folders of --train-root and cannot be used with --data",
    ),
    ("--label diagnosis --corrections x.csv", "--corrections is for the folders"),
    ("--label diagnosis --pseudo-labels x", "--pseudo-labels is for the folders"),
    ("--label diagnosis --two-genders keep", "--two-genders is for the folders"),
    ("--label diagnosis --age-filter 58", "--age-filter is for the folders"),
    ("--label diagnosis --age-sigma 2", "--age-sigma is for the folders"),
    ("--label diagnosis --loss-type mse", "does not fit task diagnosis"),
    ("--label diagnosis --image-root nowhere", "There is no folder nowhere"),
    ("--label diagnosis --regression", "40 images whose diagnosis is not a number"),
    ("--label weight", "--regression to predict them, or another --label"),
    ("--label weight --regression --model-type JointHeads", "JointHeads predicts classes and cannot learn task weight"),
    ("--label weight --regression --metric accuracy", "--metric must be one of rmse, mae, r2, FILE.py:FUNCTION"),
    ("--label weight --regression --logit-adjustment 1", "--logit-adjustment needs classes"),
    ("--label diagnosis --metric r2", "--metric must be one of macro_f1, accuracy"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_options_of_a_csv(words, message, own, run, tiny_training, tmp_path):
    outcome = run("train", *tiny_training, *own.csv, "--save-path", tmp_path / "models", *words.split())
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert any(each in outcome.err for each in message.split("|")), outcome.err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--label", "a"), "--label needs --data with a CSV or a folder"),
        (("--group", "a"), "--group needs --data"),
        (("--folds-from", "a"), "--folds-from needs --data"),
        (("--data", "FOLDERS", "--label", "a,b"), "are the classes of one label"),
        (("--data", "FOLDERS", "--group", "a"), "--group is for a CSV"),
        (("--data", "FOLDERS", "--folds-from", "a"), "--folds-from is for a CSV"),
        (("--data", "FOLDERS", "--regression"), "--regression is for a CSV"),
        (("--regression",), "--regression needs --data"),
        (("--data", "FOLDERS", "--group", "a", "--group-regex", "^p"), "--group is for a CSV"),
        (("--data", "FOLDERS", "--group-regex", "("), "is not a regular expression"),
        (("--data", "FOLDERS", "--group-regex", "^x"), "no match of --group-regex"),
        (("--data", "FOLDERS", "--label", ".."), "whose name"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["train", "check_data"])
def test_wrong_options_of_folders(command, words, message, own, run, tmp_path):
    words = [own.folders if word == "FOLDERS" else word for word in words]
    run(command, *words).assert_error(message)


# ------------------------------------------------------------------------------------------------ other tools


def test_check_data_describes_labels_sizes_and_copies(own, run, tmp_path):
    out = run("check_data", *own.csv, "--label", "diagnosis,sex").assert_success().out
    assert (
        "\ndiagnosis varies within 12 of 12 groups, such as P00 (melanoma, nevus, wart's).\nImages are 32 x 32 pixels."
        in out
    )
    assert "sex varies" not in out
    sizes = [(32, 32), (32, 32), (30, 33), (32, 32), (64, 66), (15, 16), (10, 70), (80, 15), (14, 70)]
    for number, size in enumerate(sizes):
        path = tmp_path / "images" / "cd"[number % 2] / f"{number // 4}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 0, 0)).save(path)
    (tmp_path / "images" / "d" / "0-x.png").write_bytes((tmp_path / "images" / "c" / "0-0.png").read_bytes())
    outcome = run("check_data", "--data", tmp_path / "images", "--group-regex", r"^(\d+)", "--cv", 2).assert_success()
    assert "class varies within 2 of 3 groups, such as 0 (c, d)." in outcome.out
    assert "Images are 32 x 32 pixels (median), from 15 x 16 to 64 x 66." in outcome.out
    unusual = "c/1-4.png (64 x 66), c/1-6.png (10 x 70), c/2-8.png (14 x 70), d/1-5.png (15 x 16), d/1-7.png (80 x 15)"
    assert f"5 images much larger, smaller or narrower than most: {unusual}. Check" in outcome.out
    first, second = tmp_path / "images" / "c" / "0-0.png", tmp_path / "images" / "d" / "0-x.png"
    assert f"2 files are identical: {first}, {second}." in outcome.out
    assert f"2 files identical to a file with another label: {first} (c), {second} (d). Correct" in outcome.out


@pytest.mark.parametrize("labels", ["diagnosis", "sex", "diagnosis,sex"])
def test_classes_in_fewer_groups_than_folds_are_named_before_training(labels, own, run, tiny_training, tmp_path):
    table = pd.read_csv(own.root / "photos.csv", dtype=str)
    few = table["patient"].isin(["P00", "P02"])  # of the 6 with f
    table["diagnosis"] = table["diagnosis"].where(~few, "rare").where(few | (table["diagnosis"] != "wart's"), "nevus")
    table.assign(sex=table["sex"].where(~few, "x")).to_csv(tmp_path / "own.csv", index=False)
    words = (*own.csv, "--data", tmp_path / "own.csv", "--label", labels, "--cv", 3)
    note = {"sex": "Strata with fewer groups than the 3 parts of the split: x (2)."}
    note |= {"diagnosis": "Classes in fewer groups than the 3 parts of the split: rare (2)."}
    trained = (
        run("train", *tiny_training, *words, "--folds", 0, "--save-path", tmp_path / "models").assert_success().out
    )
    checked = run("check_data", *words).assert_success().out
    for label in labels.split(","):
        assert note[label] in checked
        assert note[label] in trained[: trained.index("fold 0")]


def test_check_data_and_show_views_read_own_data(own, run, tmp_path):
    outcome = run("check_data", *own.csv, "--label", "diagnosis,site").assert_success()
    assert "12 groups, 40 images in" in outcome.out
    assert "melanoma north" in outcome.out
    outcome = run("check_data", "--data", own.folders).assert_success()
    assert "40 groups" in outcome.out
    words = ("--label", "diagnosis", "--image-size", 32, "--draws", 1, "--count", 2, "--transform-type", "base")
    run("show_views", *own.csv, *words, "--save-path", tmp_path).assert_success()
    assert list(tmp_path.iterdir())
    outcome = run("show_views", *own.csv, *words, "--images", own.predict, "--save-path", tmp_path)
    outcome.assert_error("--data cannot be used with --images")
