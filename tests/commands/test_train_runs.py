"""Whole runs of train.py: the files that they leave, and the ways to train."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from broken import assert_other_weights, assert_same_weights, saved, weights_by_epoch, weights_of
from cases import NETWORK

from analysis.metrics import score
from config import PRESETS
from data.faces import MAIN
from storage.checkpoint import load_checkpoint
from training import fold as training_fold
from training import step as training_step

THREE_EPOCHS = ("--cv", 2, "--epochs", 3, "--top-n", 1)
PROBABILITIES = [f"p{k}" for k in range(18)]


def read_json(path):
    return json.loads(path.read_text())


def test_a_run_leaves_the_promised_files(train_once, folds_folder, small_data):
    outcome = train_once(*THREE_EPOCHS)
    names = {"config.json", "split.json", "log.csv", "oof.csv", "summary.json", "fold00", "fold01"}
    assert {path.name for path in folds_folder.iterdir()} == names
    log = pd.read_csv(folds_folder / "log.csv")
    assert list(log)[:7] == ["fold", "epoch", "lr", "train_loss", "valid_loss", "macro_f1", "accuracy"]
    assert list(zip(log["fold"], log["epoch"], strict=True)) == [(k, epoch) for k in (0, 1) for epoch in (1, 2, 3)]
    oof = pd.read_csv(folds_folder / "oof.csv", dtype={"person": str})
    assert list(oof) == ["ImageID", "person", "fold", "label", "pred", *PROBABILITIES]
    images = {f"{p.parent.name}/{p.name}" for p in small_data.train_root.rglob("*.jpg")}
    assert set(oof["ImageID"]) == images
    assert len(oof) == len(images)
    split = read_json(folds_folder / "split.json")
    for row in oof.itertuples():
        assert row.person in split["folds"][row.fold]["valid"]
    summary = read_json(folds_folder / "summary.json")
    recomputed = score(MAIN, oof[PROBABILITIES].to_numpy(), oof["label"].to_numpy())
    assert summary["oof"]["macro_f1"] == pytest.approx(recomputed["macro_f1"])
    assert f"{summary['oof']['macro_f1']:.4f}" in outcome.out
    assert len(list((folds_folder / "fold00").glob("*.pt"))) == 1
    assert read_json(folds_folder / "config.json")["backbone"] == "shufflenet_v2_x0_5"


def test_every_score_has_an_interval_and_is_corrected_for_the_choice_of_epochs(train_once, folds_folder):
    outcome = train_once(*THREE_EPOCHS)
    oof, summary = pd.read_csv(folds_folder / "oof.csv"), read_json(folds_folder / "summary.json")
    answers = {k: [np.load(folds_folder / f"fold0{k}/answers/epoch00{n}.npy") for n in (1, 2, 3)] for k in (0, 1)}
    for fold in summary["folds"]:
        best = answers[fold["fold"]][fold["best_epoch"] - 1]
        assert best == pytest.approx(oof.loc[oof["fold"] == fold["fold"], PROBABILITIES].to_numpy(), rel=1e-6)
    last = np.concatenate([epochs[-1] for epochs in answers.values()])
    estimates = summary["estimates"]
    assert estimates["best_epochs"]["macro_f1"]["value"] == pytest.approx(summary["oof"]["macro_f1"])
    assert estimates["last_epochs"]["accuracy"]["value"] == pytest.approx(np.mean(last.argmax(1) == oof["label"]))
    assert estimates["corrected"]["macro_f1"]["value"] < estimates["best_epochs"]["macro_f1"]["value"]
    for each in estimates.values():
        assert list(each["f1"]) == list(MAIN.classes)
        for found in (each["macro_f1"], each["accuracy"], *each["f1"].values()):
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
        assert each["macro_f1"]["low"] < each["macro_f1"]["high"]
    found = estimates["corrected"]["macro_f1"]
    assert f"{found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f})" in outcome.out


def test_a_run_without_predictions_of_some_epochs_is_not_corrected(train_once, run, folds_folder):
    train_once(*THREE_EPOCHS)
    path = folds_folder / "fold01" / "answers" / "epoch001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    outcome = run("join_folds", "--root", folds_folder)
    assert outcome.code == 2
    assert f"{path} is damaged" in outcome.err
    path.unlink()  # as in runs of earlier versions
    outcome = run("join_folds", "--root", folds_folder)
    assert "no interval and no correction, since predictions of some epochs are missing" in outcome.out
    assert "95 %" not in outcome.out  # there is no interval
    assert list(read_json(folds_folder / "summary.json")["estimates"]) == ["best_epochs"]


def test_without_a_terminal_there_are_no_bars_and_one_line_an_epoch(train_once):
    outcome = train_once(*THREE_EPOCHS)
    lines = [line for line in outcome.out.splitlines() if line]
    assert sum("train loss" in line for line in lines) == 6
    assert len(set(lines)) == len(lines)  # nothing twice
    assert outcome.err == ""


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(train, tmp_path):
    for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        options = ("--save-path", tmp_path / name, "--seed", seed, "--num-workers", workers, "--epochs", 2)
        train("--transform-type", "random", "--oversample", *options)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert_other_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize(
    "words",
    [
        *(("--ema", 0.5), ("--mixup", 1), ("--age-sigma", 5), ("--balance", 1), ("--mirror",)),
        *(("--optim-type", name) for name in ("adamw", "adamp", "sgd", "momentum")),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_each_way_of_training_leaves_other_weights(words, train_once, train, tmp_path):
    train_once()
    train("--save-path", tmp_path / "other", *words)
    assert_other_weights(tmp_path / "models", tmp_path / "other")


def test_precise_bn_changes_the_statistics_of_batchnorm_and_nothing_else(train, tmp_path):
    train("--save-path", tmp_path / "running", "--epochs", 2)
    train("--save-path", tmp_path / "precise", "--epochs", 2, "--precise-bn", 20)
    for one, other in zip(*(weights_by_epoch(tmp_path / name) for name in ("running", "precise")), strict=True):
        different = {key.rpartition(".")[2] for key in one if not torch.equal(one[key], other[key])}
        assert different == {"running_mean", "running_var", "num_batches_tracked"}


def test_images_are_trained_on_smaller_than_they_are_validated(train, tmp_path):
    """Draws are the same at any size, so that half of 64 px trains the weights that 32 px do."""
    words = ("--model-type", "JointHeads", "--cv", 2)
    outcome = train(*words, "--image-size", 64, "--train-side", 0.5)
    assert "JointHeads (shufflenet_v2_x0_5, 64 px, trained on 32 px)" in outcome.out
    train("--save-path", tmp_path / "small", *words, "--image-size", 32)
    folder, small = (tmp_path / name / "main" / "kfold-ensemble-JointHeads" for name in ("models", "small"))
    for half, whole in zip(weights_by_epoch(folder), weights_by_epoch(small), strict=True):
        assert all(torch.equal(value, whole[key]) for key, value in half.items())
    assert not np.allclose(*(pd.read_csv(path / "oof.csv")[PROBABILITIES] for path in (folder, small)), atol=1e-4)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 9), (4, 3)])  # of 9 batches
def test_the_decay_of_a_run_is_a_weight_decay_by_its_steps(accumulate, steps, train, tmp_path):
    words = ("--epochs", 2, "--optim-type", "adamw", "--lr", 0.01, "--accumulate", accumulate)
    train("--save-path", tmp_path / "run", *words, "--run-decay", 0.9)
    train("--save-path", tmp_path / "steps", *words, "--weight-decay", 0.9 / (0.01 * 2 * steps))
    assert_same_weights(tmp_path / "run", tmp_path / "steps")


def test_identical_images_of_two_people_in_different_folds_are_named(train, make_data):
    data = make_data()
    for shot in ("mask1", "normal"):
        data.photo(1, shot).write_bytes(data.photo(0, shot).read_bytes())
    data.photo(2, "mask2").write_bytes(data.photo(2, "mask1").read_bytes())
    note = "Identical images are trained and validated on, as those of 000001 and 000002.\n"
    assert train("--cv", 2, data=data).out.count(note) == 1


def test_a_run_of_one_step_has_the_peak_learning_rate_and_says_that_it_is_short(train, tmp_path):
    outcome = train("--batch-size", 200, "--lr-scheduler", "onecycle", "--lr", 0.002)
    assert "fold 0: too few steps for --lr-scheduler onecycle, 1 in all. Pass more --epochs," in outcome.out
    assert pd.read_csv(next(tmp_path.rglob("log.csv")))["lr"].tolist() == [0.002]


def test_more_batches_for_a_step_than_an_epoch_has_are_named(train, tmp_path):
    outcome = train("--accumulate", 20)
    note = "fold 0: --accumulate 20 is more than the batches of an epoch, 9, so that an epoch is one step\n"
    assert note in outcome.out
    assert (
        "too few steps for --lr-scheduler cosine, 1 in all. Pass more --epochs, a smaller --accumulate," in outcome.out
    )
    assert len(list(tmp_path.rglob("*.pt"))) == 1


def test_a_preset_is_trained_and_kept_with_the_run(run, small_data, tiny_training, tmp_path):
    network = tiny_training[tiny_training.index("--backbone") :]  # without --model-type
    words = (*network, "--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--cv", 2)
    assert run("train", *words, "--preset", "strong").code == 0
    config = read_json(tmp_path / "models" / "main" / "kfold-ensemble-JointHeads" / "config.json")
    assert (config["preset"], config["backbone"], config["image_size"]) == ("strong", "shufflenet_v2_x0_5", 32)
    for name, value in PRESETS["strong"].items():
        assert name in ("backbone", "image_size", "cv", "batch_size") or config[name] == value
    assert run("train", *words, "--preset", "strong", "--resume").code == 0
    outcome = run("train", *words, "--preset", "source", "--resume", "--model-type", "JointHeads")
    assert outcome.code == 2
    assert "--lr-scheduler was onecycle and is cosine_restarts" in outcome.err or "--crop-scale was" in outcome.err


@pytest.mark.parametrize("compiler", ["there", "not there"])
def test_a_compiled_network_is_trained_or_a_missing_compiler_reported(compiler, train, tmp_path, monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        if compiler == "not there":
            raise RuntimeError("no compiler")
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    printed = train("--compile", code=0 if compiler == "there" else 2)
    torch._dynamo.reset()
    assert compiled
    if compiler == "there":
        (weights,) = weights_of(tmp_path).values()
        assert "backbone.conv1.0.weight" in weights
    else:
        assert re.search("--compile does not work here.*no compiler", printed.err)


def test_valid_root_validates_every_fold_there(train, make_data, make_person, folds_folder):
    valid = make_data(name="valid", people=[make_person("100001", "male", 25), make_person("100002", "female", 70)])
    outcome = train("--cv", 2, "--valid-root", valid.train_root)
    oof = pd.read_csv(folds_folder / "oof.csv", dtype={"person": str})
    assert set(oof["person"]) == {"100001", "100002"}
    assert oof.groupby("fold").size().to_dict() == {0: 14, 1: 14}
    assert read_json(folds_folder / "summary.json")["estimates"]["corrected"]["accuracy"]["high"] is None
    assert "Too few people for an interval: 2, and 12 are needed." in outcome.out
    assert "fold 1 validates no image of worn male 30-59," in outcome.out
    assert ", which macro F1 leaves out unless they are predicted\n" in outcome.out
    assert "Macro F1 is the mean over " in outcome.out


def first_layer(folder):
    (weights,) = weights_of(folder).values()
    return weights["backbone.conv1.0.weight"]


def test_training_starts_from_given_weights(train_once, train, tmp_path):
    train_once()
    start = next((tmp_path / "models").rglob("*.pt"))
    outcome = train("--load-state-dict", start, "--save-path", tmp_path / "second", "--lr", 1e-9, "--freeze")
    assert "Starting from" in outcome.out
    assert torch.equal(first_layer(tmp_path / "models"), first_layer(tmp_path / "second"))


def test_training_starts_from_the_weights_of_a_file_and_resumes_only_with_them(train, tmp_path):
    network = torchvision.models.shufflenet_v2_x0_5()
    path, hint = tmp_path / "weights.pth", "Presets train better than the defaults"
    torch.save(network.state_dict(), path)
    still = ("--pretrained", path, "--lr", 1e-30, "--lr-scheduler", "none", "--backbone", "shufflenet_v2_x0_5")
    assert train(*still).out.count(hint) == 1
    assert hint not in train("--preset", "strong", *still, "--run-decay", 0, "--save-path", tmp_path / "other").out
    (checkpoint,) = (tmp_path / "models").rglob("*.pt")
    weights, info = load_checkpoint(checkpoint)
    assert torch.equal(weights["backbone.conv1.0.weight"], network.conv1[0].weight)
    assert info.config["pretrained"] == str(path)
    assert hint not in train(*still, "--resume").out
    torch.save({key: value + 1 for key, value in network.state_dict().items()}, path)
    outcome = train(*still, "--resume", code=2)
    assert re.search(r"was started with other weights in --pretrained \(fingerprint \w+, now \w+\)", outcome.err)
    outcome = train("--pretrained", checkpoint, "--overwrite", code=2)
    assert f"Pass --load-state-dict {checkpoint} instead of --pretrained" in outcome.err
    outcome = train("--pretrained", tmp_path / "lost.pth", "--overwrite", code=2)
    assert "lost.pth" in outcome.err


def test_a_new_head_takes_the_backbone_and_lists_what_was_left_out(train, run, tiny_training, tmp_path):
    train("--task", "mask")
    start = next((tmp_path / "models").rglob("*.pt"))
    words = ("--task", "gender", "--load-state-dict", start, "--save-path", tmp_path / "second")
    assert "--new-head" in train(*words, code=2).err
    outcome = train(*words, "--new-head", "--freeze", "--lr", 1e-9)
    assert outcome.out.count("The head starts from random weights") == 1
    assert f"Left out of {start}: linear.weight (3, 1024), linear.bias (3,)" in outcome.out
    assert torch.equal(first_layer(tmp_path / "models"), first_layer(tmp_path / "second"))
    assert run("train", *tiny_training, "--new-head").code == 2


def test_a_new_head_does_not_excuse_another_backbone(train_once, train, tmp_path):
    train_once()
    (weights,) = weights_of(tmp_path / "models").values()
    del weights["backbone.conv1.0.weight"]
    start = saved(weights, tmp_path / "bare.pth")
    outcome = train("--load-state-dict", start, "--new-head", "--save-path", tmp_path / "second", code=2)
    assert f"not fit {NETWORK} (shufflenet_v2_x0_5, task main): backbone.conv1.0.weight is missing" in outcome.err


def test_overwrite_trains_again(train_once, train, tmp_path):
    train_once()
    train("--overwrite", "--seed", 7)
    assert read_json(next(tmp_path.rglob("config.json")))["seed"] == 7


def test_overwrite_of_some_folds_does_not_delete_the_others(train_once, train, folds_folder):
    train_once(*THREE_EPOCHS)
    outcome = train(*THREE_EPOCHS, "--overwrite", "--folds", 1, code=2)
    assert "fold 0, which --overwrite would delete" in outcome.err
    assert list((folds_folder / "fold00").glob("*.pt"))


def test_a_fold_without_a_score_is_never_taken_for_finished(train, monkeypatch):
    monkeypatch.setattr(training_fold, "score", lambda *_: dict.fromkeys(("macro_f1", "accuracy"), float("nan")))
    for words in ((), ("--resume",)):
        assert "No epoch of fold 0 has a finite score" in train(*words, code=2).err


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loss_that_is_not_a_number_stops_the_run_with_step_rate_and_images(accumulate, train, tmp_path, monkeypatch):
    create, calls = training_step.create_criterion, []

    def breaking(name, **options):
        criterion = create(name, **options)

        def loss(outputs, targets):
            calls.append(len(targets["main"]))
            bad = torch.is_grad_enabled() and sum(calls) > 117  # in the second epoch
            return criterion(outputs, targets) * (float("nan") if bad else 1.0)

        return loss

    monkeypatch.setattr(training_step, "create_criterion", breaking)
    error = train("--epochs", 2, "--accumulate", accumulate, code=2).err
    where = r"loss of fold 0 is nan in epoch 2, step (\d+), at learning rate [\d.e-]+, on (.*?)\. "
    step, images = re.search(where, error).groups()
    batch = images.split(", ")
    assert int(step) == {1: 5, 3: 2}[accumulate]  # the batch is within the step
    assert len(batch) == 8
    assert all(Path(name).is_file() for name in batch)
    assert "lower --lr" in error
    (name, weights), *others = weights_of(tmp_path).items()
    assert not others
    assert Path(name).name.startswith("epoch001")
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    ],
    ids=["python", "gpu", "cpu", "worker"],
)
def test_memory_that_is_short_is_one_sentence_and_1(error, train, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(training_fold, "train_one_epoch", fail)
    outcome = train(code=1)
    assert ("fewer --num-workers" if "worker" in str(error) else "smaller --batch-size") in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_run_leaves_no_lock_and_a_killed_save_leaves_nothing_after_the_next_start(train_once, train, tmp_path):
    train_once()
    folder = tmp_path / "models" / "main" / f"single-{NETWORK}"
    for left in (folder / ".tmp-a", folder / "fold00" / ".tmp-b", folder.parent / f".tmp-{folder.name}-c"):
        left.write_text("half")
    kept = sorted(folder.rglob("*.pt"))
    shutil.copy(kept[0], folder / "fold00" / "epoch000_f1-0.0000.pt")  # replaced, and killed before it was deleted
    train("--resume")
    assert sorted(folder.rglob("*.pt")) == kept
    assert not list((tmp_path / "models").rglob(".*"))
