"""Whole runs of the commands: train, predict with one network, predict with the ensemble, and the files they leave."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.metrics import score
from cli.choices import MODELS
from config import PRESETS
from data.tasks import TASKS
from training import fold as training_fold

BACKBONES = {
    **dict.fromkeys(MODELS, "resnet18"),
    "VanillaEfficientNet": "efficientnet-b0",
    "JointHeads": "shufflenet_v2_x0_5",
    "VanillaTorchvision": "shufflenet_v2_x0_5",
    "VanillaTimm": "mobilenetv3_small_050",
}
CHAINS = [(task, model) for task in TASKS for model, record in MODELS.items() if not (record.heads and task == "age")]
TIMES = ["images_per_s", "seconds"]


@pytest.fixture
def train(run, small_data, tiny_training, tmp_path):
    """Trains on the small set into tmp_path/models; options typed later win."""

    def command(*words, data=small_data, code=0):
        paths = ("--train-root", data.train_root, "--save-path", tmp_path / "models")
        outcome = run("train", *tiny_training, *paths, *words)
        assert outcome.code == code, outcome.err
        return outcome

    return command


@pytest.fixture
def predict(run, small_data, tmp_path):
    """Predicts the small set's images with what is in tmp_path/models."""

    def command(name, *words):
        options = ("--data-root", small_data.data_root, "--num-workers", 0, "--device", "cpu")
        outcome = run(name, *options, "--save-path", tmp_path / "prediction", *words)
        assert outcome.code == 0, outcome.err
        return outcome

    return command


def interrupt_evaluation(monkeypatch, number: int) -> None:
    """Ctrl-C comes in the so-manieth evaluation: of an epoch that is trained and not yet saved."""
    evaluate, calls = training_fold.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(training_fold, "evaluate", interrupted)


def weights_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of every checkpoint below a folder, by file name below it."""
    files = sorted(folder.rglob("*.pt"))
    return {str(f.relative_to(folder)): torch.load(f, weights_only=True)["state_dict"] for f in files}


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights_of(first), weights_of(second)
    assert a
    assert a.keys() == b.keys()
    for name, weights in a.items():
        for key, value in weights.items():
            assert torch.equal(value, b[name][key]), (name, key)


@pytest.mark.parametrize(("task", "model"), CHAINS)
def test_every_task_and_network_goes_from_photographs_to_submissions(
    task, model, run, make_data, tiny_training, tmp_path
):
    data = make_data(people=6, shots=("mask1", "incorrect_mask", "normal"))
    models, prediction = tmp_path / "models", tmp_path / "prediction"
    if model == "VanillaTimm":
        pytest.importorskip("timm")
    network = ("--task", task, "--model-type", model)
    options = (
        *tiny_training,
        *network,
        "--backbone",
        BACKBONES[model],
        "--train-root",
        data.train_root,
        "--save-path",
        models,
    )
    for cv in (1, 2):
        outcome = run("train", *options, "--cv", cv)
        assert outcome.code == 0, outcome.err
    loading = ("--data-root", data.data_root, "--save-path", prediction, "--num-workers", 0, "--device", "cpu")
    single = models / task / f"single-{model}" / "fold00"
    checkpoint = next(single.glob("*.pt"))
    outcome = run("submit_singular", "--load-state-dict", checkpoint, *loading)
    assert outcome.code == 0, outcome.err
    root = models / task / f"kfold-ensemble-{model}"
    outcome = run("submit_ensemble", "--root", root, "--top-k", 1, "--tta", 2, *loading)
    assert outcome.code == 0, outcome.err
    assert "2 members x 2 views = 4 predictions of 5 images" in outcome.out
    means = [
        prediction / task / root.name / f"submission_{m}.csv" for m in ("arithmetic", "geometric", "weighted_mean")
    ]
    for path in (prediction / task / single.parent.name / "submission.csv", *means):
        table = pd.read_csv(path)
        assert list(table["ImageID"]) == list(data.eval_ids)
        if task == "age":
            assert np.isfinite(table["ans"]).all()
        else:
            assert table["ans"].isin(range(len(TASKS[task].classes))).all()


def test_a_run_leaves_the_promised_files(train, small_data, tmp_path):
    outcome = train("--cv", 2, "--epochs", 2, "--top-n", 1)
    run = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "split.json", "log.csv", "oof.csv", "summary.json", "fold00", "fold01")
    }
    log = pd.read_csv(run / "log.csv")
    assert list(log)[:7] == ["fold", "epoch", "lr", "train_loss", "valid_loss", "macro_f1", "accuracy"]
    assert list(zip(log["fold"], log["epoch"], strict=True)) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    oof = pd.read_csv(run / "oof.csv", dtype={"person": str})
    assert list(oof) == ["ImageID", "person", "fold", "label", "pred", *(f"p{i}" for i in range(18))]
    images = {f"{p.parent.name}/{p.name}" for p in small_data.train_root.rglob("*.jpg")}
    assert set(oof["ImageID"]) == images
    assert len(oof) == len(images)
    split = json.loads((run / "split.json").read_text())
    for row in oof.itertuples():
        assert row.person in split["folds"][row.fold]["valid"]
    summary = json.loads((run / "summary.json").read_text())
    recomputed = score("main", oof[[f"p{i}" for i in range(18)]].to_numpy(), oof["label"].to_numpy())
    assert summary["oof"]["macro_f1"] == pytest.approx(recomputed["macro_f1"])
    assert f"{summary['oof']['macro_f1']:.4f}" in outcome.out
    assert len(list((run / "fold00").glob("*.pt"))) == 1
    assert json.loads((run / "config.json").read_text())["backbone"] == "shufflenet_v2_x0_5"


def test_every_score_has_an_interval_and_is_corrected_for_the_choice_of_epochs(train, tmp_path):
    outcome = train("--cv", 2, "--epochs", 3)
    run = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    oof, summary = pd.read_csv(run / "oof.csv"), json.loads((run / "summary.json").read_text())
    answers = {k: [np.load(run / f"fold0{k}/answers/epoch00{epoch}.npy") for epoch in (1, 2, 3)] for k in (0, 1)}
    for fold in summary["folds"]:
        rows = oof[oof["fold"] == fold["fold"]]
        best = answers[fold["fold"]][fold["best_epoch"] - 1]
        assert best == pytest.approx(rows[[f"p{i}" for i in range(18)]].to_numpy(), rel=1e-6)
    last = np.concatenate([epochs[-1] for epochs in answers.values()])
    worth = summary["estimates"]
    assert worth["best_epochs"]["macro_f1"]["value"] == pytest.approx(summary["oof"]["macro_f1"])
    assert worth["last_epochs"]["accuracy"]["value"] == pytest.approx(np.mean(last.argmax(1) == oof["label"]))
    assert worth["corrected"]["macro_f1"]["value"] < worth["best_epochs"]["macro_f1"]["value"]
    for each in worth.values():
        assert list(each["f1"]) == list(TASKS["main"].classes)
        for found in (each["macro_f1"], each["accuracy"], *each["f1"].values()):
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
        assert each["macro_f1"]["low"] < each["macro_f1"]["high"]
    found = worth["corrected"]["macro_f1"]
    assert f"{found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f})" in outcome.out


def test_a_run_without_answers_of_some_epochs_says_that_it_is_not_corrected(train, run, tmp_path):
    train("--cv", 2)
    folder = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    path = folder / "fold01" / "answers" / "epoch001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    outcome = run("join_folds", "--root", folder)
    assert outcome.code == 2
    assert f"{path} is damaged" in outcome.err
    path.unlink()  # as in runs of earlier versions
    outcome = run("join_folds", "--root", folder)
    assert "Not corrected for the choice of epochs: predictions of some epochs are missing" in outcome.out
    assert list(json.loads((folder / "summary.json").read_text())["estimates"]) == ["best_epochs"]


@pytest.mark.parametrize(
    "words",
    [
        ("--image-size", 64, "--train-side", 0.5),
        ("--ema", 0.7, "--inference-crop", 0.6, "--logit-adjustment", 1, "--precise-bn", 20),
    ],
)
def test_the_score_in_a_checkpoint_is_that_of_its_own_weights(words, train, small_data, run, tmp_path):
    train("--cv", 2, "--epochs", 3, "--lr", 0.01, *words)
    folder = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    oof = pd.read_csv(folder / "oof.csv")
    fold = oof[oof["fold"] == 1]
    # The held-out photographs of fold 1, laid out as photographs to predict.
    held_out = tmp_path / "held_out" / "images"
    held_out.mkdir(parents=True)
    for name in fold["ImageID"]:
        shutil.copy(small_data.train_root / name, held_out / name.replace("/", "_"))
    for path in (folder / "fold01").glob("*.pt"):
        info = torch.load(path, weights_only=True)["info"]
        assert f"{info['scores']['macro_f1']:.4f}" in path.name
        options = ("--data-root", held_out, "--save-path", tmp_path / path.stem, "--num-workers", 0)
        assert run("submit_singular", "--load-state-dict", path, *options).code == 0
        printed = pd.read_csv(next((tmp_path / path.stem).rglob("members/*.csv"))).set_index("ImageID")
        printed = printed.loc[[name.replace("/", "_") for name in fold["ImageID"]]].to_numpy()
        assert score("main", printed, fold["label"].to_numpy())["macro_f1"] == pytest.approx(info["scores"]["macro_f1"])
        best = info["epoch"] == json.loads((folder / "summary.json").read_text())["folds"][1]["best_epoch"]
        assert np.allclose(printed, fold.filter(regex=r"^p\d+$"), atol=1e-4) == best


def test_age_is_predicted_in_years_and_scored_by_rmse(train, predict, run, small_data, tmp_path):
    outcome = train("--task", "age", "--cv", 2)
    folder = tmp_path / "models" / "age" / "kfold-ensemble-VanillaTorchvision"
    log, oof = pd.read_csv(folder / "log.csv"), pd.read_csv(folder / "oof.csv")
    assert list(log)[5:9] == ["macro_f1", "accuracy", "mae", "rmse"]
    error = oof["p0"] - oof["label"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["oof"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert summary["oof"]["mae"] == pytest.approx(error.abs().mean())
    assert "RMSE" in outcome.out
    assert all("_rmse-" in path.name for path in folder.rglob("*.pt"))
    predict("submit_ensemble", "--root", folder, "--top-k", 1)
    written = tmp_path / "prediction" / "age" / folder.name
    members = np.stack([pd.read_csv(p)["p0"] for p in sorted((written / "members").glob("*.csv"))])
    answers = pd.read_csv(written / "submission_arithmetic.csv")["ans"]
    assert answers.to_numpy() == pytest.approx(members.mean(axis=0), abs=0.006)
    vote = ("--root", folder, "--method", "hard", "--data-root", small_data.data_root, "--top-k", 1)
    refused = run("submit_ensemble", *vote)
    assert refused.code == 2
    assert "hardvoting" in refused.err


def test_submissions_are_the_means_and_the_vote_of_the_members(train, predict, tmp_path):
    train("--cv", 2, "--epochs", 2, "--lr", 1e-4)  # slow enough that no probability rounds to 0
    folder = tmp_path / "models" / "main"
    predict("submit_ensemble", "--root", folder, "--top-k", 2)
    written = tmp_path / "prediction" / "main" / "kfold-ensemble-VanillaTorchvision"
    files = sorted((written / "members").glob("*.csv"))
    assert len(files) == 4
    members = np.stack([pd.read_csv(path).drop(columns="ImageID").to_numpy() for path in files])
    assert members.sum(axis=2) == pytest.approx(1, abs=1e-5)

    def answers(name):
        return pd.read_csv(written / f"submission_{name}.csv")["ans"].to_numpy()

    assert (answers("arithmetic") == members.mean(axis=0).argmax(axis=1)).all()
    assert (answers("geometric") == np.log(members).mean(axis=0).argmax(axis=1)).all()
    scores = json.loads((written / "prediction.json").read_text())["members"]
    by_name = {f"fold{m['fold']:02d}_{Path(m['file']).stem}": m["score"] for m in scores}
    weights = np.array([by_name[path.stem] for path in files])
    expected = members.mean(axis=0) if weights.sum() == 0 else np.average(members, axis=0, weights=weights)
    assert (answers("weighted_mean") == expected.argmax(axis=1)).all()
    predict("submit_ensemble", "--root", folder, "--top-k", 2, "--method", "hard")
    chosen = members.argmax(axis=2)
    for image, vote in enumerate(answers("hardvoting")):
        counts = np.bincount(chosen[:, image], minlength=18)
        assert counts[vote] == counts.max()
    assert (written / "submission_arithmetic.csv").exists()  # same members and views: the means stay


def test_members_that_take_turns_write_the_same_files(train, predict, tmp_path):
    train("--cv", 2, "--epochs", 2)
    written = tmp_path / "prediction" / "main" / "kfold-ensemble-VanillaTorchvision"
    words = ("--root", tmp_path / "models" / "main", "--top-k", 2, "--tta", 2)
    assert "take turns" not in predict("submit_ensemble", *words).out
    once = {path: path.read_bytes() for path in written.rglob("*.csv")}
    assert "The 4 members take turns, 3 at a time." in predict("submit_ensemble", *words, "--members-at-once", 3).out
    assert {path: path.read_bytes() for path in written.rglob("*.csv")} == once


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_through_all_commands(precision, train, predict, tmp_path):
    train("--cv", 2, "--precision", precision)
    written = tmp_path / "prediction" / "main" / "kfold-ensemble-VanillaTorchvision" / "members"
    answers = []
    for numbers in ("float32", "float16"):
        predict("submit_ensemble", "--root", tmp_path / "models" / "main", "--top-k", 1, "--precision", numbers)
        answers.append(np.stack([pd.read_csv(p).drop(columns="ImageID") for p in sorted(written.glob("*.csv"))]))
    assert answers[1] == pytest.approx(answers[0], abs=5e-3)
    assert (answers[1] != answers[0]).any()


def test_answers_that_do_not_fit_into_half_precision_are_refused(train, predict, run, small_data, tmp_path):
    train()
    checkpoint = next(tmp_path.rglob("*.pt"))
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["linear.bias"][3] = 1e6  # float16 ends at 65504
    torch.save(content, checkpoint)
    words = ("submit_singular", "--load-state-dict", checkpoint, "--data-root", small_data.data_root)
    words = (*words, "--num-workers", 0, "--save-path", tmp_path / "prediction")
    printed = run(*words, "--precision", "float16")
    assert printed.code == 2
    assert f"Predictions of {checkpoint.name} in torch.float16 are NaN or infinite." in printed.err
    assert "Pass --precision float32" in printed.err
    assert not list((tmp_path / "prediction").rglob("*.csv"))
    assert run(*words, "--precision", "float32").code == 0


def test_an_earlier_prediction_of_other_members_is_not_mixed_with_the_new_one(train, predict, tmp_path):
    train("--cv", 2, "--epochs", 2)
    predict("submit_ensemble", "--root", tmp_path / "models" / "main", "--top-k", 2, "--method", "hard")
    outcome = predict("submit_ensemble", "--root", tmp_path / "models" / "main", "--top-k", 1)
    written = tmp_path / "prediction" / "main" / "kfold-ensemble-VanillaTorchvision"
    assert "Replacing" in outcome.out
    assert not (written / "submission_hardvoting.csv").exists()
    assert len(list((written / "members").iterdir())) == 2


def test_a_renamed_checkpoint_gives_the_same_submission(train, predict, tmp_path):
    train("--cv", 2, "--epochs", 2)
    folder = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    written = tmp_path / "prediction" / "main"
    predict("submit_ensemble", "--root", folder, "--top-k", 1)
    before = [(written / folder.name / f"submission_{m}.csv").read_bytes() for m in ("arithmetic", "weighted_mean")]
    for number, path in enumerate(sorted(folder.rglob("*.pt"), reverse=True)):
        path.rename(path.with_name(f"{number}-mine.pt"))
    moved = folder.rename(tmp_path / "other")
    predict("submit_ensemble", "--root", moved, "--top-k", 1)
    after = [(written / "other" / f"submission_{m}.csv").read_bytes() for m in ("arithmetic", "weighted_mean")]
    assert before == after


@pytest.mark.parametrize("transform", ["base", "tta"])
def test_views_do_not_depend_on_batch_size_or_workers(transform, train, predict, tmp_path):
    train("--cv", 2)
    options = ("--root", tmp_path / "models" / "main", "--top-k", 1, "--tta", 3, "--transform-type", transform)
    written = tmp_path / "prediction" / "main" / "kfold-ensemble-VanillaTorchvision" / "members"
    seen = []
    for extra in (("--batch-size", 64), ("--batch-size", 3), ("--batch-size", 7, "--num-workers", 2)):
        predict("submit_ensemble", *options, *extra)
        seen.append(np.stack([pd.read_csv(p).drop(columns="ImageID") for p in sorted(written.glob("*.csv"))]))
    for other in seen[1:]:
        assert other == pytest.approx(seen[0], abs=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(train, tmp_path):
    for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        options = ("--save-path", tmp_path / name, "--seed", seed, "--num-workers", workers, "--epochs", 2)
        train("--transform-type", "random", "--oversample", *options)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")


def test_a_run_cut_between_epochs_resumes_to_the_same_end(train, run, tmp_path, monkeypatch, small_data, tiny_training):
    options = ("--cv", 2, "--epochs", 3, "--top-n", 2, "--oversample", "--lr-scheduler", "cosine_restarts")
    train(*options, "--save-path", tmp_path / "whole")
    interrupt_evaluation(monkeypatch, 5)  # fold 1, second epoch: trained, not yet saved
    words = (*tiny_training, *options, "--train-root", small_data.train_root, "--save-path", tmp_path / "cut")
    printed = run("train", *words)
    assert printed.code == 130
    assert f"To continue: python train.py {shlex.join(map(str, words))} --resume\n" in printed.err
    assert run("train", *words).code == 2  # neither continued nor overwritten without an option
    outcome = run("train", *words, "--resume", "--num-workers", 2)
    assert outcome.code == 0
    assert "fold 0: finished earlier" in outcome.out
    assert "fold 1: continuing after epoch 1" in outcome.out
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    whole, cut = (tmp_path / name / "main" / "kfold-ensemble-VanillaTorchvision" for name in ("whole", "cut"))
    assert (whole / "oof.csv").read_bytes() == (cut / "oof.csv").read_bytes()
    logs = [pd.read_csv(folder / "log.csv").drop(columns=TIMES) for folder in (whole, cut)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


AUGMENTED = (
    *("--mirror", "--crop-scale", 0.5, "--erasing", 0.5, "--mixup", 0.5, "--cutmix", 1, "--balance", 0.5),
    *("--age-sigma", 3, "--optim-type", "adamw", "--backbone-lr", 0.5, "--warmup-epochs", 0.5, "--ema", 0.9),
    *("--precise-bn", 12),
)


def test_a_run_with_all_that_is_drawn_and_averaged_resumes_within_an_epoch(
    train, run, tmp_path, monkeypatch, small_data, tiny_training
):
    options = ("--epochs", 2, "--model-type", "JointHeads", *AUGMENTED)
    train(*options, "--save-path", tmp_path / "whole")
    after_step, calls = training_fold.FoldTrainer._after_step, []

    def interrupted(trainer, progress):
        after_step(trainer, progress)
        calls.append(1)
        if len(calls) == 13:  # of 9 steps an epoch
            raise KeyboardInterrupt

    words = (*tiny_training, *options, "--train-root", small_data.train_root, "--save-path", tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(training_fold.FoldTrainer, "_after_step", interrupted)
        assert run("train", *words, "--save-every-steps", 3).code == 130
    outcome = run("train", *words, "--resume")
    assert "continuing after epoch 1 and step 3 of the next" in outcome.out
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("words", [("--ema", 0.5), ("--mixup", 1), ("--age-sigma", 5), ("--balance", 1), ("--mirror",)])
def test_each_way_of_training_leaves_other_weights(words, train, tmp_path):
    train("--save-path", tmp_path / "plain")
    train("--save-path", tmp_path / "other", *words)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "plain", tmp_path / "other")


def test_statistics_of_batchnorm_are_taken_anew_and_nothing_else_differs(train, tmp_path):
    train("--save-path", tmp_path / "running", "--epochs", 2, "--top-n", 2)
    train("--save-path", tmp_path / "again", "--epochs", 2, "--top-n", 2, "--precise-bn", 20)
    for one, other in zip(*(by_epoch(tmp_path / name) for name in ("running", "again")), strict=True):
        different = {key.rpartition(".")[2] for key in one if not torch.equal(one[key], other[key])}
        assert different == {"running_mean", "running_var", "num_batches_tracked"}


def test_photographs_are_trained_on_smaller_than_they_are_validated(train, tmp_path):
    """Draws are the same at any size, so that half of 64 px trains the weights that 32 px do."""
    words = ("--model-type", "JointHeads", "--backbone", "shufflenet_v2_x0_5", "--cv", 2)
    outcome = train(*words, "--image-size", 64, "--train-side", 0.5)
    assert "JointHeads (shufflenet_v2_x0_5, 64 px, trained on 32 px)" in outcome.out
    train("--save-path", tmp_path / "small", *words, "--image-size", 32)
    folder, small = (tmp_path / name / "main" / "kfold-ensemble-JointHeads" for name in ("models", "small"))
    for half, whole in zip(by_epoch(folder), by_epoch(small), strict=True):
        assert all(torch.equal(value, whole[key]) for key, value in half.items())
    probabilities = [pd.read_csv(place / "oof.csv").filter(regex=r"^p\d+$") for place in (folder, small)]
    assert not np.allclose(*probabilities, atol=1e-4)


def test_the_decay_of_a_run_is_a_weight_decay_by_its_steps(train, tmp_path):
    words = ("--epochs", 2, "--optim-type", "adamw", "--lr", 0.01)
    train("--save-path", tmp_path / "run", *words, "--run-decay", 0.9)
    train("--save-path", tmp_path / "steps", *words, "--weight-decay", 0.9 / (0.01 * 2 * 9))  # 9 steps an epoch
    assert_same_weights(tmp_path / "run", tmp_path / "steps")


def by_epoch(folder: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of the checkpoints below a folder, in the order of their epochs, whatever their scores."""
    return [weights for _, weights in sorted(weights_of(folder).items())]


def test_a_preset_is_trained_and_kept_with_the_run(train, run, small_data, tiny_training, tmp_path):
    network = [word for word in tiny_training if word != "--model-type"]
    network.remove("VanillaTorchvision")
    words = (*network, "--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--cv", 2)
    assert run("train", *words, "--preset", "strong").code == 0
    folder = tmp_path / "models" / "main" / "kfold-ensemble-JointHeads"
    config = json.loads((folder / "config.json").read_text())
    assert (config["preset"], config["backbone"], config["image_size"]) == ("strong", "shufflenet_v2_x0_5", 32)
    for name, value in PRESETS["strong"].items():
        assert name in ("backbone", "image_size", "cv", "batch_size") or config[name] == value
    assert run("train", *words, "--preset", "strong", "--resume").code == 0
    outcome = run("train", *words, "--preset", "source", "--resume", "--model-type", "JointHeads")
    assert outcome.code == 2
    assert "--lr-scheduler was onecycle and is cosine_restarts" in outcome.err or "--crop-scale was" in outcome.err


def test_a_run_is_resumed_with_the_scale_of_its_gradients(train, run, tmp_path, monkeypatch, small_data, tiny_training):
    scalers = []

    def scaler(dtype, device):  # in float32, which is quicker on a CPU
        scalers.append(torch.amp.GradScaler("cpu", growth_interval=2))
        return scalers[-1]

    monkeypatch.setattr("training.engine.gradient_scaler", scaler)
    words = ("--epochs", 2)
    train(*words, "--save-path", tmp_path / "whole")
    interrupt_evaluation(monkeypatch, 2)
    cut = (*tiny_training, *words, "--train-root", small_data.train_root, "--save-path", tmp_path / "cut")
    assert run("train", *cut).code == 130
    assert run("train", *cut, "--resume").code == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    whole, _, resumed = (scaler.get_scale() for scaler in scalers)
    assert resumed == whole


def test_resume_starts_a_run_where_there_is_none_and_says_so(train):
    assert "nothing to resume" in train("--resume").out


def test_folds_trained_one_by_one_are_the_run_trained_at_once(train, tmp_path):
    train("--cv", 2, "--save-path", tmp_path / "whole")
    assert "1 of 2 folds are not trained yet" in train("--cv", 2, "--folds", 1).out
    train("--cv", 2, "--folds", 0, "--resume")
    assert_same_weights(tmp_path / "whole", tmp_path / "models")
    tables = [
        tmp_path / name / "main" / "kfold-ensemble-VanillaTorchvision" / "oof.csv" for name in ("whole", "models")
    ]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_resume_refuses_options_that_changed_by_name_with_both_values(train):
    train("--cv", 2)
    outcome = train("--cv", 2, "--lr", 0.1, "--resume", code=2)
    assert "--lr was 0.005 and is 0.1" in outcome.err


def test_resume_takes_an_option_that_the_run_was_begun_without_for_its_default(train, tmp_path):
    train("--cv", 2, "--folds", 0)
    about = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision" / "config.json"
    options = json.loads(about.read_text())
    del options["precision"]
    about.write_text(json.dumps(options))
    assert "fold 0: finished earlier" in train("--cv", 2, "--resume").out


@pytest.mark.parametrize("compiler", ["there", "not there"])
def test_a_compiled_network_is_trained_or_the_compiler_is_missed_in_a_sentence(
    compiler, run, small_data, tiny_training, tmp_path, monkeypatch
):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        if compiler == "not there":
            raise RuntimeError("no compiler")
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--compile")
    printed = run("train", *words)
    torch._dynamo.reset()
    assert compiled
    if compiler == "there":
        assert printed.code == 0, printed.err
        state = torch.load(next(tmp_path.rglob("*.pt")), weights_only=True)["state_dict"]
        assert "backbone.conv1.0.weight" in state
    else:
        assert printed.code == 2
        assert "--compile does not work here" in printed.err
        assert "no compiler" in printed.err


def test_resume_refuses_other_people(train, make_data):
    data = make_data(people=6)
    train("--cv", 2, data=data)
    shutil.rmtree(data.folder(0))
    outcome = train("--cv", 2, "--resume", data=data, code=2)
    assert "other people" in outcome.err


def test_overwrite_trains_anew_and_not_before_all_is_checked(train, run, tiny_training, tmp_path):
    train()
    kept = tmp_path / "models" / "main" / "single-VanillaTorchvision" / "summary.json"
    before = kept.read_bytes()
    words = (*tiny_training, "--save-path", tmp_path / "models", "--overwrite")
    assert run("train", *words, "--train-root", tmp_path / "nowhere").code == 2
    assert kept.read_bytes() == before
    train("--overwrite", "--seed", 7)
    assert json.loads(kept.with_name("config.json").read_text())["seed"] == 7


def test_valid_root_validates_every_fold_there(train, make_data, make_person, tmp_path):
    valid = make_data(name="valid", people=[make_person("100001", "male", 25), make_person("100002", "female", 70)])
    train("--cv", 2, "--valid-root", valid.train_root)
    oof = pd.read_csv(
        tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision" / "oof.csv", dtype={"person": str}
    )
    assert set(oof["person"]) == {"100001", "100002"}
    assert oof.groupby("fold").size().to_dict() == {0: 14, 1: 14}
    summary = json.loads(
        (tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision" / "summary.json").read_text()
    )
    assert summary["estimates"]["corrected"]["accuracy"]["high"] > 0  # though there are two people only


def test_people_in_both_roots_are_refused(run, small_data, tiny_training, tmp_path):
    roots = ("--train-root", small_data.train_root, "--valid-root", small_data.train_root)
    outcome = run("train", *tiny_training, *roots, "--save-path", tmp_path / "models")
    assert outcome.code == 2
    assert "--train-root and --valid-root share people" in outcome.err


def test_without_a_terminal_there_are_no_bars_and_one_line_an_epoch(train):
    outcome = train("--cv", 2, "--epochs", 2)
    lines = outcome.out.splitlines()
    assert sum("train loss" in line for line in lines) == 4
    assert len(set(lines) - {""}) == len([line for line in lines if line])  # nothing twice
    assert outcome.err == ""


def test_singular_takes_the_best_single_run_checkpoint_by_default(train, predict, tmp_path, monkeypatch):
    train("--epochs", 3, "--lr", 0.01)
    monkeypatch.setattr("config.TrainConfig.save_path", str(tmp_path / "models"))
    predict("submit_singular", "--model-type", "VanillaTorchvision")
    member = json.loads(next((tmp_path / "prediction").rglob("prediction.json")).read_text())["members"][0]
    scores = pd.read_csv(tmp_path / "models" / "main" / "single-VanillaTorchvision" / "log.csv")["macro_f1"]
    assert member["score"] == pytest.approx(scores.max())


def test_a_many_headed_checkpoint_answers_its_attributes(train, predict, tmp_path):
    train("--model-type", "THANet", "--backbone", "resnet18", "--cv", 2)
    predict("submit_ensemble", "--root", tmp_path / "models" / "main", "--top-k", 1, "--task", "gender")
    table = pd.read_csv(tmp_path / "prediction" / "gender" / "kfold-ensemble-THANet_MK1" / "submission_arithmetic.csv")
    assert table["ans"].isin([0, 1]).all()


def test_a_bare_state_dict_made_elsewhere_is_accepted(train, predict, tmp_path):
    train("--cv", 2)
    run = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    bare = tmp_path / "kfold-ensemble-VanillaTorchvision"
    for fold in ("fold00", "fold01"):
        (bare / fold).mkdir(parents=True)
        weights = torch.load(next((run / fold).glob("*.pt")), weights_only=True)["state_dict"]
        torch.save(weights, bare / fold / "weights.pth")
    sizes = ("--backbone", "shufflenet_v2_x0_5", "--image-size", 32)
    predict("submit_ensemble", "--root", run, "--top-k", 1, "--save-path", tmp_path / "known")
    outcome = predict("submit_ensemble", "--root", bare, "--top-k", 1, *sizes, "--save-path", tmp_path / "bare")
    assert "weighted mean is the arithmetic" in outcome.out
    files = [tmp_path / name / "main" / bare.name / "submission_arithmetic.csv" for name in ("known", "bare")]
    assert files[0].read_bytes() == files[1].read_bytes()
    file = bare / "fold00" / "weights.pth"
    predict(
        "submit_singular", "--load-state-dict", file, "--model-type", "VanillaTorchvision", "--task", "main", *sizes
    )


def test_training_starts_from_given_weights(train, tmp_path):
    train()
    start = next((tmp_path / "models").rglob("*.pt"))
    outcome = train("--load-state-dict", start, "--save-path", tmp_path / "second", "--lr", 1e-9, "--freeze")
    assert "Starting from" in outcome.out
    before = torch.load(start, weights_only=True)["state_dict"]
    after = torch.load(next((tmp_path / "second").rglob("*.pt")), weights_only=True)["state_dict"]
    assert torch.equal(before["backbone.conv1.0.weight"], after["backbone.conv1.0.weight"])


def test_overwrite_of_some_folds_does_not_delete_the_others(train, tmp_path):
    train("--cv", 2)
    outcome = train("--cv", 2, "--overwrite", "--folds", 1, code=2)
    assert "fold 0, which --overwrite would delete" in outcome.err
    assert list((tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision" / "fold00").glob("*.pt"))


def test_weights_of_another_task_with_as_many_classes_are_refused(train, run, small_data, tiny_training, tmp_path):
    train("--task", "mask")
    words = (
        *tiny_training,
        "--train-root",
        small_data.train_root,
        "--save-path",
        tmp_path / "models",
        "--task",
        "ageg",
    )
    outcome = run("train", *words, "--load-state-dict", next((tmp_path / "models").rglob("*.pt")))
    assert outcome.code == 2
    assert "was trained on task mask, not ageg" in outcome.err


@pytest.mark.parametrize("optimizer", ["adamw", "adamp", "sgd", "momentum"])
def test_every_optimizer_trains(optimizer, train):
    train("--optim-type", optimizer, "--lr", 1e-3)


def test_a_fold_without_a_score_is_never_taken_for_finished(run, small_data, tiny_training, tmp_path, monkeypatch):
    monkeypatch.setattr(training_fold, "score", lambda *_: dict.fromkeys(("macro_f1", "accuracy"), float("nan")))
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path / "models")
    for more in ((), ("--resume",)):
        outcome = run("train", *words, *more)
        assert outcome.code == 2
        assert "No epoch of fold 0 has a finite score" in outcome.err


def test_a_checkpoint_in_the_folder_of_another_fold_is_refused(train, run, small_data, tmp_path):
    train("--cv", 2)
    folder = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    next((folder / "fold00").glob("*.pt")).unlink()
    shutil.copy(next((folder / "fold01").glob("*.pt")), folder / "fold00" / "copy.pt")
    outcome = run("submit_ensemble", "--root", folder, "--top-k", 1, "--data-root", small_data.data_root)
    assert outcome.code == 2
    assert "copy.pt is a checkpoint of fold 1, not of fold 0" in outcome.err


@pytest.mark.parametrize("task", ["mask", "gender", "age"])
def test_age_filter_is_refused_where_no_age_group_is_learnt(task, run):
    outcome = run("train", "--task", task, "--age-filter", 58)
    assert outcome.code == 2
    assert f"task {task} has none" in outcome.err


@pytest.mark.parametrize("name", ["oof.csv", "log.csv", "*.pt"])
def test_a_finished_fold_that_lost_a_file_is_named_on_resume(name, train, tmp_path):
    train("--cv", 2)
    gone = next((tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision" / "fold00").glob(name))
    gone.unlink()
    outcome = train("--cv", 2, "--resume", code=2)
    assert f"fold00 is a finished fold without {gone.name}" in outcome.err


def test_a_damaged_config_of_a_run_is_named(train, tmp_path):
    train()
    config = tmp_path / "models" / "main" / "single-VanillaTorchvision" / "config.json"
    config.write_text("{")
    outcome = train("--resume", code=2)
    assert "config.json is missing or damaged" in outcome.err


def test_a_prediction_of_another_task_is_not_scored(train, predict, run, write_csv, small_data, tmp_path):
    train("--cv", 2, "--task", "gender")
    predict("submit_ensemble", "--root", tmp_path / "models" / "gender", "--top-k", 1)
    answers = write_csv(tmp_path / "answers.csv", ["ImageID", "ans"], [[name, 0] for name in small_data.eval_ids])
    submission = next((tmp_path / "prediction").rglob("submission_arithmetic.csv"))
    outcome = run("score_submission", "--submission", submission, "--answers", answers)
    assert outcome.code == 2
    assert "predicts task gender. Pass --task gender" in outcome.err
    assert run("score_submission", "--submission", submission, "--answers", answers, "--task", "gender").code == 0


@pytest.mark.parametrize("option", ["--save-path=", "--train-root=", "--load-state-dict="])
def test_an_empty_path_is_not_the_working_directory(option, run):
    outcome = run("train", option)
    assert outcome.code == 2
    assert "must not be empty" in outcome.err


def test_a_loss_that_is_no_number_stops_the_run_with_step_rate_and_images(
    run, small_data, tiny_training, tmp_path, monkeypatch
):
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--epochs", 2)
    create, calls = training_fold.create_criterion, []

    def breaking(name, **options):
        criterion = create(name, **options)

        def loss(outputs, targets):
            calls.append(len(targets["main"]))
            bad = torch.is_grad_enabled() and sum(calls) > 100  # in the second epoch
            return criterion(outputs, targets) * (float("nan") if bad else 1.0)

        return loss

    monkeypatch.setattr(training_fold, "create_criterion", breaking)
    outcome = run("train", *words)
    assert outcome.code == 2
    printed = re.search(
        r"loss of fold 0 is nan in epoch 2, step (\d+), at learning rate [\d.e-]+, on (.*?)\. ", outcome.err
    )
    assert len(printed[2].split(", ")) == 8  # the batch
    assert all((Path(name)).is_file() for name in printed[2].split(", "))
    assert "lower --lr" in outcome.err
    fold = tmp_path / "models" / "main" / "single-VanillaTorchvision" / "fold00"
    assert [path.name[:8] for path in fold.glob("*.pt")] == ["epoch001"]
    for weights in weights_of(fold).values():
        assert all(value.isfinite().all() for value in weights.values())


def test_a_new_head_takes_the_backbone_and_lists_what_was_left_out(train, run, small_data, tiny_training, tmp_path):
    train("--task", "mask")
    start = next((tmp_path / "models").rglob("*.pt"))
    words = (*tiny_training, "--task", "gender", "--train-root", small_data.train_root, "--load-state-dict", start)
    refused = run("train", *words, "--save-path", tmp_path / "second")
    assert refused.code == 2
    assert "--new-head" in refused.err
    outcome = train("--task", "gender", "--load-state-dict", start, "--new-head", "--freeze", "--lr", 1e-9)
    assert outcome.out.count("The head starts from random weights") == 1
    assert f"Left out of {start}: batchnorm.weight (1000,), " in outcome.out
    assert "linear.weight (3, 1000), linear.bias (3,)" in outcome.out
    before = torch.load(start, weights_only=True)["state_dict"]
    after = torch.load(next((tmp_path / "models" / "gender").rglob("*.pt")), weights_only=True)["state_dict"]
    assert torch.equal(before["backbone.conv1.0.weight"], after["backbone.conv1.0.weight"])
    assert run("train", *tiny_training, "--new-head").code == 2


def test_a_new_head_does_not_excuse_another_backbone(train, run, small_data, tiny_training, tmp_path):
    train()
    content = torch.load(next((tmp_path / "models").rglob("*.pt")), weights_only=True)["state_dict"]
    del content["backbone.conv1.0.weight"]
    torch.save(content, tmp_path / "bare.pth")
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path / "second")
    outcome = run("train", *words, "--load-state-dict", tmp_path / "bare.pth", "--new-head")
    assert outcome.code == 2
    assert (
        "do not fit VanillaTorchvision (shufflenet_v2_x0_5, task main): backbone.conv1.0.weight is missing"
        in outcome.err
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a file less", "other images or labels"),
        ("a correction more", "other images or labels"),
        ("other weights to start from", "other weights in --load-state-dict"),
    ],
)
def test_resume_refuses_what_changed_behind_the_options(change, message, train, make_data, write_csv, tmp_path):
    data = make_data(people=6)
    fix = write_csv(tmp_path / "fix.csv", ["id", "gender"], [["000001", "female"]])
    train("--save-path", tmp_path / "first", data=data)
    start = next((tmp_path / "first").rglob("*.pt")).rename(tmp_path / "start.pt")
    options = ("--cv", 2, "--corrections", fix, "--load-state-dict", start)
    train(*options, data=data)
    if change == "a file less":
        data.photo(0, "mask2").unlink()
    elif change == "a correction more":
        write_csv(fix, ["id", "gender", "age"], [["000001", "female", ""], ["000002", "", "44"]])
    else:
        weights = torch.load(start, weights_only=True)
        weights["state_dict"]["linear.bias"] += 1
        torch.save(weights, start)
    outcome = train(*options, "--resume", data=data, code=2)
    assert message in outcome.err


def test_a_fold_that_scores_people_it_was_trained_on_is_refused(train, tmp_path):
    train("--cv", 2)
    folder = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    rows = pd.read_csv(folder / "fold00" / "oof.csv", dtype={"person": str})
    rows.assign(fold=1).to_csv(folder / "fold01" / "oof.csv", index=False)
    outcome = train("--cv", 2, "--resume", code=2)
    assert "scores people that fold 1 does not validate on" in outcome.err


def test_a_state_of_another_split_is_refused(train, tmp_path):
    train("--cv", 2)
    train("--cv", 2, "--seed", 7, "--save-path", tmp_path / "other")
    place = Path("main", "kfold-ensemble-VanillaTorchvision", "fold00", "resume.state")
    shutil.copy(tmp_path / "other" / place, tmp_path / "models" / place)
    outcome = train("--cv", 2, "--resume", code=2)
    assert "belongs to another split" in outcome.err


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "alloc", "worker"],
    ids=["python", "gpu", "cpu", "worker"],
)
def test_memory_that_is_short_is_one_sentence_and_1(error, run, small_data, tiny_training, tmp_path, monkeypatch):
    texts = {
        "alloc": "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried",
        "worker": "DataLoader worker (pid 7) is killed by signal: Killed. ",
    }

    def fail(*args, **kwargs):
        raise RuntimeError(texts[error]) if isinstance(error, str) else error

    monkeypatch.setattr(training_fold, "train_one_epoch", fail)
    outcome = run("train", *tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path / "models")
    assert outcome.code == 1
    assert re.search("fewer --num-workers" if error == "worker" else "smaller --batch-size", outcome.err)
    assert outcome.err.count("\n") == 1


def test_a_run_leaves_no_lock_and_a_killed_save_leaves_nothing_after_the_next_start(train, tmp_path):
    folder = tmp_path / "models" / "main" / "single-VanillaTorchvision"
    train()
    for left in (folder / ".tmp-a", folder / "fold00" / ".tmp-b", folder.parent / f".tmp-{folder.name}-c"):
        left.write_text("half")
    kept = sorted(folder.rglob("*.pt"))
    shutil.copy(kept[0], folder / "fold00" / "epoch000_f1-0.0000.pt")  # replaced, and killed before it was deleted
    train("--resume")
    assert sorted(folder.rglob("*.pt")) == kept
    assert not list((tmp_path / "models").rglob(".*"))


def test_out_of_fold_rows_are_those_of_the_checkpoint_that_is_kept(train, tmp_path):
    """An epoch that was cut may have written others, and on another machine need not come out as good again."""
    train("--cv", 2)
    place = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    before = [(place / name).read_bytes() for name in ("oof.csv", "fold01/oof.csv")]
    rows = pd.read_csv(place / "fold01" / "oof.csv", dtype={"person": str})
    rows.assign(p0=0.5).to_csv(place / "fold01" / "oof.csv", index=False)
    train("--cv", 2, "--resume")
    assert [(place / name).read_bytes() for name in ("oof.csv", "fold01/oof.csv")] == before


def test_a_fold_that_is_still_trained_is_not_in_the_summary(
    run, small_data, tiny_training, train, tmp_path, monkeypatch
):
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--epochs", 2)
    interrupt_evaluation(monkeypatch, 2)
    assert run("train", *words, "--cv", 2, "--folds", 0).code == 130  # one of two epochs
    outcome = train("--epochs", 2, "--cv", 2, "--folds", 1, "--resume")
    assert "1 of 2 folds are not trained yet" in outcome.out
    folder = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    summary = json.loads((folder / "summary.json").read_text())
    assert [fold["fold"] for fold in summary["folds"]] == [1]
    assert set(pd.read_csv(folder / "oof.csv")["fold"]) == {1}
    assert set(pd.read_csv(folder / "log.csv")["fold"]) == {0, 1}
    loading = ("--root", folder, "--top-k", 1, "--data-root", small_data.data_root, "--save-path", tmp_path / "p")
    assert "not fully trained" in run("submit_ensemble", *loading, "--num-workers", 0).out
