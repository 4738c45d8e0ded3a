"""Whole runs of submit_singular.py and submit_ensemble.py on trained runs, and the submissions that they leave."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from broken import saved
from cases import NETWORK

from analysis.metrics import score
from cli.choices import MODELS
from data.faces import FACES, MAIN

BACKBONES = {
    **dict.fromkeys(MODELS, "resnet18"),
    "VanillaEfficientNet": "efficientnet-b0",
    "JointHeads": "shufflenet_v2_x0_5",
    "VanillaTorchvision": "shufflenet_v2_x0_5",
    "VanillaTimm": "mobilenetv3_small_050",
}
CHAINS = [(task, model) for task in FACES for model, record in MODELS.items() if task != "age" or record.has_one_head]
TWO_EPOCHS = ("--cv", 2, "--epochs", 2)


@pytest.fixture
def written(tmp_path):
    """The folder of predictions of an ensemble in tmp_path/prediction."""
    return tmp_path / "prediction" / "main" / f"kfold-ensemble-{NETWORK}"


def read_members(folder):
    """Return the predictions of every member, by the names of their files, of shape (members, images, classes)."""
    return np.stack([pd.read_csv(path).drop(columns="ImageID") for path in sorted((folder / "members").glob("*.csv"))])


@pytest.mark.parametrize(("task", "model"), CHAINS)
def test_every_task_and_network_goes_from_images_to_submissions(task, model, train, predict, make_data, tmp_path):
    if model == "VanillaTimm":
        pytest.importorskip("timm")
    data = make_data(people=6, shots=("mask1", "incorrect_mask", "normal"))
    train("--task", task, "--model-type", model, "--backbone", BACKBONES[model], "--cv", 2, data=data)
    root = tmp_path / "models" / task / f"kfold-ensemble-{model}"
    single = ("--load-state-dict", next(root.rglob("*.pt")), "--save-path", tmp_path / "prediction" / "single")
    predict("submit_singular", *single, data=data)
    outcome = predict("submit_ensemble", "--root", root, "--top-k", 1, "--tta", 2, data=data)
    assert "2 members x 2 views = 4 predictions of 5 images" in outcome.out
    paths = list((tmp_path / "prediction").rglob("submission*.csv"))
    means = {f"submission_{name}.csv" for name in ("arithmetic", "geometric", "weighted_mean")}
    assert {path.name for path in paths} == {"submission.csv", *means}
    for path in paths:
        table = pd.read_csv(path)
        assert list(table["ImageID"]) == list(data.eval_ids)
        if task == "age":
            assert np.isfinite(table["ans"]).all()
        else:
            assert table["ans"].isin(range(len(FACES[task].classes))).all()


@pytest.mark.parametrize(
    "words",
    [
        ("--image-size", 64, "--train-side", 0.5),
        ("--ema", 0.7, "--inference-crop", 0.6, "--logit-adjustment", 1, "--precise-bn", 20),
    ],
)
def test_the_score_in_a_checkpoint_is_that_of_its_own_weights(
    words, train, predict, small_data, make_data, folds_folder, tmp_path
):
    train("--cv", 2, "--epochs", 3, "--lr", 0.01, *words)
    oof = pd.read_csv(folds_folder / "oof.csv")
    fold = oof[oof["fold"] == 1]
    names = [name.replace("/", "_") for name in fold["ImageID"]]
    held_out = make_data(name="held_out", people=0, eval_images=0)
    held_out.data_root.mkdir(parents=True)
    for source, name in zip(fold["ImageID"], names, strict=True):
        shutil.copy(small_data.train_root / source, held_out.data_root / name)
    for path in (folds_folder / "fold01").glob("*.pt"):
        info = torch.load(path, weights_only=True)["info"]
        assert f"{info['scores']['macro_f1']:.4f}" in path.name
        predict("submit_singular", "--load-state-dict", path, "--save-path", tmp_path / path.stem, data=held_out)
        found = pd.read_csv(next((tmp_path / path.stem).rglob("members/*.csv"))).set_index("ImageID")
        found = found.loc[names].to_numpy()
        assert score(MAIN, found, fold["label"].to_numpy())["macro_f1"] == pytest.approx(info["scores"]["macro_f1"])
        best = info["epoch"] == json.loads((folds_folder / "summary.json").read_text())["folds"][1]["best_epoch"]
        assert np.allclose(found, fold.filter(regex=r"^p\d+$"), atol=1e-4) == best


def test_age_is_predicted_in_years_and_scored_by_rmse(train, predict, tmp_path):
    outcome = train("--task", "age", "--cv", 2)
    folder = tmp_path / "models" / "age" / f"kfold-ensemble-{NETWORK}"
    log, oof = pd.read_csv(folder / "log.csv"), pd.read_csv(folder / "oof.csv")
    assert list(log)[5:10] == ["macro_f1", "accuracy", "mae", "rmse", "r2"]
    error = oof["p0"] - oof["label"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["oof"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert summary["oof"]["mae"] == pytest.approx(error.abs().mean())
    assert "RMSE" in outcome.out
    assert all("_rmse-" in path.name for path in folder.rglob("*.pt"))
    predict("submit_ensemble", "--root", folder, "--top-k", 1)
    written = tmp_path / "prediction" / "age" / folder.name
    answers = pd.read_csv(written / "submission_arithmetic.csv")["ans"]
    assert answers.to_numpy() == pytest.approx(read_members(written).mean(axis=0)[:, 0], abs=0.006)


def test_submissions_are_the_means_and_the_vote_of_the_members(train, predict, folds_folder, written):
    train(*TWO_EPOCHS, "--lr", 1e-4)  # slow enough that no probability rounds to 0
    predict("submit_ensemble", "--root", folds_folder, "--top-k", 2)
    members = read_members(written)
    assert len(members) == 4
    assert members.sum(axis=2) == pytest.approx(1, abs=1e-5)

    def answers(name):
        return pd.read_csv(written / f"submission_{name}.csv")["ans"].to_numpy()

    assert (answers("arithmetic") == members.mean(axis=0).argmax(axis=1)).all()
    assert (answers("geometric") == np.log(members).mean(axis=0).argmax(axis=1)).all()
    scores = json.loads((written / "prediction.json").read_text())["members"]
    by_name = {f"fold{m['fold']:02d}_{Path(m['file']).stem}": m["score"] for m in scores}
    weights = np.array([by_name[name] for name in sorted(by_name)])
    expected = members.mean(axis=0) if weights.sum() == 0 else np.average(members, axis=0, weights=weights)
    assert (answers("weighted_mean") == expected.argmax(axis=1)).all()
    predict("submit_ensemble", "--root", folds_folder, "--top-k", 2, "--method", "hard")
    chosen = members.argmax(axis=2)
    for image, vote in enumerate(answers("hardvoting")):
        counts = np.bincount(chosen[:, image], minlength=18)
        assert counts[vote] == counts.max()
    assert (written / "submission_arithmetic.csv").exists()  # same members and views: the means stay


def test_members_that_take_turns_write_the_same_files(train_once, predict, folds_folder, written):
    train_once(*TWO_EPOCHS)
    words = ("submit_ensemble", "--root", folds_folder, "--top-k", 2, "--tta", 2)
    assert "take turns" not in predict(*words).out
    once = {path: path.read_bytes() for path in written.rglob("*.csv")}
    assert "The 4 members take turns, 3 at a time." in predict(*words, "--members-at-once", 3).out
    assert {path: path.read_bytes() for path in written.rglob("*.csv")} == once


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_through_all_commands(precision, train, predict, folds_folder, written):
    train("--cv", 2, "--precision", precision)
    answers = []
    for numbers in ("float32", "float16"):
        predict("submit_ensemble", "--root", folds_folder, "--top-k", 1, "--precision", numbers)
        answers.append(read_members(written))
    assert answers[1] == pytest.approx(answers[0], abs=5e-3)
    assert (answers[1] != answers[0]).any()


def test_predictions_that_do_not_fit_into_half_precision_are_an_error(train_once, predict, tmp_path):
    train_once()
    checkpoint = next((tmp_path / "models").rglob("*.pt"))
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["linear.bias"][3] = 1e6  # float16 ends at 65504
    saved(content, checkpoint)
    words = ("submit_singular", "--load-state-dict", checkpoint, "--precision")
    printed = predict(*words, "float16", code=2)
    assert f"Predictions of {checkpoint.name} in torch.float16 are NaN or infinite." in printed.err
    assert "Pass --precision float32" in printed.err
    assert not list((tmp_path / "prediction").rglob("*.csv"))
    predict(*words, "float32")


def test_an_earlier_prediction_of_other_members_is_not_mixed_with_the_new_one(
    train_once, predict, folds_folder, written
):
    train_once(*TWO_EPOCHS)
    predict("submit_ensemble", "--root", folds_folder, "--top-k", 2, "--method", "hard")
    outcome = predict("submit_ensemble", "--root", folds_folder.parent, "--top-k", 1)
    assert "Replacing" in outcome.out
    assert not (written / "submission_hardvoting.csv").exists()
    assert len(list((written / "members").iterdir())) == 2


def test_a_renamed_checkpoint_gives_the_same_submission(train_once, predict, folds_folder, written, tmp_path):
    train_once(*TWO_EPOCHS)
    names = ("submission_arithmetic.csv", "submission_weighted_mean.csv")
    predict("submit_ensemble", "--root", folds_folder, "--top-k", 1)
    before = [(written / name).read_bytes() for name in names]
    for number, path in enumerate(sorted(folds_folder.rglob("*.pt"), reverse=True)):
        path.rename(path.with_name(f"{number}-mine.pt"))
    moved = folds_folder.rename(tmp_path / "other")
    predict("submit_ensemble", "--root", moved, "--top-k", 1)
    assert [(written.with_name("other") / name).read_bytes() for name in names] == before


@pytest.mark.parametrize(("task", "best"), [("main", "max"), ("age", "min")])
def test_singular_takes_the_best_single_run_checkpoint_by_default(task, best, train, predict, tmp_path, monkeypatch):
    train("--epochs", 3, "--lr", 0.01, "--task", task)
    monkeypatch.setattr("config.TrainConfig.save_path", str(tmp_path / "models"))
    predict("submit_singular", "--model-type", NETWORK, "--task", task)
    (member,) = json.loads(next((tmp_path / "prediction").rglob("prediction.json")).read_text())["members"]
    log = pd.read_csv(tmp_path / "models" / task / f"single-{NETWORK}" / "log.csv")
    assert member["score"] == pytest.approx(log["rmse" if task == "age" else "macro_f1"].agg(best))


def test_a_checkpoint_of_several_heads_predicts_each_attribute(train, predict, tmp_path):
    train("--model-type", "JointHeads", "--cv", 2)
    predict("submit_ensemble", "--root", tmp_path / "models" / "main", "--top-k", 1, "--task", "gender")
    table = pd.read_csv(tmp_path / "prediction" / "gender" / "kfold-ensemble-JointHeads" / "submission_arithmetic.csv")
    assert table["ans"].isin([0, 1]).all()


def test_bare_weights_from_elsewhere_are_accepted(train_once, predict, folds_folder, tmp_path):
    train_once(*TWO_EPOCHS)
    bare = tmp_path / folds_folder.name
    for path in folds_folder.rglob("*.pt"):
        saved(torch.load(path, weights_only=True)["state_dict"], bare / path.parent.name / "weights.pth")
    sizes = ("--backbone", "shufflenet_v2_x0_5", "--image-size", 32)
    predict("submit_ensemble", "--root", folds_folder, "--top-k", 1, "--save-path", tmp_path / "known")
    outcome = predict("submit_ensemble", "--root", bare, "--top-k", 1, *sizes, "--save-path", tmp_path / "bare")
    assert "weighted mean is the arithmetic" in outcome.out
    files = [tmp_path / name / "main" / bare.name / "submission_arithmetic.csv" for name in ("known", "bare")]
    assert files[0].read_bytes() == files[1].read_bytes()
    file = bare / "fold00" / "weights.pth"
    predict("submit_singular", "--load-state-dict", file, "--model-type", NETWORK, "--task", "main", *sizes)


def test_a_prediction_of_another_task_is_not_scored(give, world, run, write_csv):
    give("submit_ensemble", code=0)
    answers = write_csv(world.answers, ["ImageID", "ans"], [[name, 0] for name in world.ids])
    submission = next(world.prediction.rglob("submission_arithmetic.csv"))
    words = ("score_submission", "--submission", submission, "--answers", answers)
    outcome = run(*words)
    assert outcome.code == 2
    assert "predicts task gender. Pass --task gender" in outcome.err
    assert run(*words, "--task", "gender").code == 0
