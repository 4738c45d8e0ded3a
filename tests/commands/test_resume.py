"""Runs that were interrupted, trained fold by fold or changed, and are continued."""

import json
import os
import shlex
import signal

import pandas as pd
import pytest
import torch
from broken import assert_same_weights, saved
from cases import NETWORK

from training import fold as training_fold
from training.engine import TrainStep

FOLDS = ("--cv", 2)


def interrupt_evaluation(monkeypatch, number):
    """Press Ctrl-C in the evaluation of this number, from 1: of an epoch that is trained and not yet saved."""
    evaluate, calls = training_fold.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(training_fold, "evaluate", interrupted)


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
    whole, cut = (tmp_path / name / "main" / f"kfold-ensemble-{NETWORK}" for name in ("whole", "cut"))
    assert (whole / "oof.csv").read_bytes() == (cut / "oof.csv").read_bytes()
    logs = [pd.read_csv(folder / "log.csv").drop(columns=["images_per_s", "seconds"]) for folder in (whole, cut)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


AUGMENTED = (
    *("--mirror", "--crop-scale", 0.5, "--erasing", 0.5, "--mixup", 0.5, "--cutmix", 1, "--balance", 0.5),
    *("--age-sigma", 3, "--optim-type", "adamw", "--layer-decay", 0.4, "--warmup-epochs", 0.5, "--ema", 0.9),
    *("--precise-bn", 12),
)


def test_a_run_with_all_that_is_drawn_and_averaged_resumes_within_an_epoch(train, tmp_path, monkeypatch):
    options = ("--epochs", 2, "--model-type", "JointHeads", *AUGMENTED)
    printed = train(*options, "--save-path", tmp_path / "whole").out
    assert "rates from 0.005 for the head to 3.4e-10 for the first of 18 layers of the backbone. Pass" in printed
    after_step, calls = training_fold.FoldTrainer._after_step, []

    def interrupted(trainer, progress):
        after_step(trainer, progress)
        calls.append(1)
        if len(calls) == 13:  # of 9 steps an epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_fold.FoldTrainer, "_after_step", interrupted)
        train(*options, "--save-every-steps", 3, code=130)
    assert "continuing after epoch 1 and step 3 of the next" in train(*options, "--resume").out
    assert_same_weights(tmp_path / "whole", tmp_path / "models")


@pytest.mark.parametrize("kind", ["SIGTERM", "killed"])
def test_a_run_that_is_stopped_between_the_batches_of_a_step_resumes_to_the_same_end(
    kind, train, tmp_path, monkeypatch
):
    """A signal waits for the step, and a run that is killed continues from an earlier one."""
    options = ("--epochs", 2, "--accumulate", 4, "--save-every-steps", 1, *AUGMENTED)  # 9 batches, 3 steps
    train(*options, "--save-path", tmp_path / "whole")
    run, calls = TrainStep.run, []

    def interrupted(step, *args, **kwargs):
        calls.append(1)
        if len(calls) == 15:  # the second of the four batches of the second step
            if kind == "killed":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)
        return run(step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "run", interrupted)
        outcome = train(*options, code=130 if kind == "killed" else 143)
    step = 1 if kind == "killed" else 2
    assert ("saved after fold 0, epoch 2, step 2 of 3" in outcome.err) == (kind == "SIGTERM")
    assert f"continuing after epoch 1 and step {step} of the next" in train(*options, "--resume").out
    assert_same_weights(tmp_path / "whole", tmp_path / "models")


def test_a_run_is_not_resumed_with_other_batches_for_a_step(train):
    train("--accumulate", 2)
    outcome = train("--accumulate", 3, "--resume", code=2)
    assert "--accumulate was 2 and is 3" in outcome.err


def test_a_run_is_resumed_with_the_scale_of_its_gradients(train, tmp_path, monkeypatch):
    scalers = []

    def scaler(dtype, device):  # in float32, which is quicker on a CPU
        scalers.append(torch.amp.GradScaler("cpu", growth_interval=2))
        return scalers[-1]

    monkeypatch.setattr("training.train_step.gradient_scaler", scaler)
    train("--epochs", 2, "--save-path", tmp_path / "whole")
    interrupt_evaluation(monkeypatch, 2)
    train("--epochs", 2, code=130)
    train("--epochs", 2, "--resume")
    assert_same_weights(tmp_path / "whole", tmp_path / "models")
    whole, _, resumed = (scaler.get_scale() for scaler in scalers)
    assert resumed == whole


def test_a_run_with_another_grouping_of_the_weights_is_not_resumed(train, monkeypatch):
    options = ("--epochs", 2, "--optim-type", "adamw")
    interrupt_evaluation(monkeypatch, 2)
    train(*options, code=130)
    monkeypatch.setattr("optim.NO_WEIGHT_DECAY", ("conv1.0.weight",))
    train(*options, "--resume", code=2).assert_error("Fold 0 was begun by an earlier version")


@pytest.mark.parametrize(
    ("lacking", "message"), [("pixels", "other mean, standard"), ("head", "other inputs of the head")]
)
def test_a_run_of_an_earlier_version_with_another_input_is_not_resumed(train, lacking, message, tmp_path):
    train()
    (config,) = (tmp_path / "models").rglob("config.json")
    content = json.loads(config.read_text())
    del content["fingerprints"][lacking]
    config.write_text(json.dumps(content))
    train("--resume", code=2).assert_error(f"was begun by an earlier version, or from other weights, with {message}")


def test_resume_starts_a_run_where_there_is_none_and_says_so(train):
    assert "nothing to resume" in train("--resume").out


def test_folds_trained_one_by_one_are_the_run_trained_at_once(train_once, train, folds_folder, tmp_path):
    assert "1 of 2 folds are not trained yet" in train(*FOLDS, "--folds", 1).out
    train(*FOLDS, "--folds", 0, "--resume")
    table = (folds_folder / "oof.csv").read_bytes()
    (tmp_path / "models").rename(tmp_path / "one by one")
    train_once(*FOLDS)
    assert_same_weights(tmp_path / "one by one", tmp_path / "models")
    assert (folds_folder / "oof.csv").read_bytes() == table


def test_an_option_that_the_run_was_started_without_has_its_default(train_once, train, folds_folder):
    train_once(*FOLDS)
    options = json.loads((folds_folder / "config.json").read_text())
    del options["precision"]
    (folds_folder / "config.json").write_text(json.dumps(options))
    assert "fold 0: finished earlier" in train(*FOLDS, "--resume").out


@pytest.mark.parametrize("name", ["oof.csv", "log.csv", "*.pt"])
def test_a_finished_fold_that_lost_a_file_is_named(name, train_once, train, folds_folder):
    train_once(*FOLDS)
    gone = next((folds_folder / "fold00").glob(name))
    content = gone.read_bytes()
    gone.unlink()
    for _ in range(1 + (name == "*.pt")):
        outcome = train(*FOLDS, "--resume", code=2)
        assert f"fold00 is a finished fold, but files are missing or truncated: {gone.name}. Restore" in outcome.err
        gone.write_bytes(content[: len(content) // 2])


def test_other_images_labels_and_first_weights_are_errors(train_once, train, make_data, write_csv, tmp_path):
    train_once()
    start = next((tmp_path / "models").rglob("*.pt")).rename(tmp_path / "start.pt")
    data = make_data(people=6)
    fix = write_csv(tmp_path / "fix.csv", ["id", "gender"], [["000001", "female"]])
    options = (*FOLDS, "--corrections", fix, "--load-state-dict", start)
    train(*options, data=data)

    def error():
        return train(*options, "--resume", data=data, code=2).err

    removed = data.photo(0, "mask2")
    content = removed.read_bytes()
    removed.unlink()
    assert "other images or labels" in error()
    removed.write_bytes(content)
    write_csv(fix, ["id", "gender", "age"], [["000001", "female", ""], ["000002", "", "44"]])
    assert "other images or labels" in error()
    write_csv(fix, ["id", "gender"], [["000001", "female"]])
    weights = torch.load(start, weights_only=True)
    weights["state_dict"]["linear.bias"] += 1
    saved(weights, start)
    assert "other weights in --load-state-dict" in error()


def test_a_fold_that_scores_people_it_was_trained_on_is_an_error(train_once, train, folds_folder):
    train_once(*FOLDS)
    rows = pd.read_csv(folds_folder / "fold00" / "oof.csv", dtype={"person": str})
    rows.assign(fold=1).to_csv(folds_folder / "fold01" / "oof.csv", index=False)
    outcome = train(*FOLDS, "--resume", code=2)
    assert "scores people that fold 1 does not validate on" in outcome.err


def test_out_of_fold_predictions_are_those_of_the_checkpoint_that_is_kept(train_once, train, folds_folder):
    """An epoch that was interrupted may have written others, and on another machine need not score as well again."""
    train_once(*FOLDS)
    before = [(folds_folder / name).read_bytes() for name in ("oof.csv", "fold01/oof.csv")]
    rows = pd.read_csv(folds_folder / "fold01" / "oof.csv", dtype={"person": str})
    rows.assign(p0=0.5).to_csv(folds_folder / "fold01" / "oof.csv", index=False)
    train(*FOLDS, "--resume")
    assert [(folds_folder / name).read_bytes() for name in ("oof.csv", "fold01/oof.csv")] == before


def test_a_fold_that_is_still_trained_is_not_in_the_summary(train, predict, folds_folder, monkeypatch):
    interrupt_evaluation(monkeypatch, 2)
    train(*FOLDS, "--epochs", 2, "--folds", 0, code=130)  # one of two epochs
    outcome = train(*FOLDS, "--epochs", 2, "--folds", 1, "--resume")
    assert "1 of 2 folds are not trained yet" in outcome.out
    summary = json.loads((folds_folder / "summary.json").read_text())
    assert [fold["fold"] for fold in summary["folds"]] == [1]
    assert set(pd.read_csv(folds_folder / "oof.csv")["fold"]) == {1}
    assert set(pd.read_csv(folds_folder / "log.csv")["fold"]) == {0, 1}
    assert "not fully trained" in predict("submit_ensemble", "--root", folds_folder, "--top-k", 1).out


@pytest.mark.parametrize("linked", [".", "fold01"])
def test_overwriting_a_run_keeps_links_to_another_disk(linked, train, folds_folder, tmp_path):
    """The old files are deleted there, and the new ones written there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (folds_folder / linked).parent.mkdir(parents=True)
    (folds_folder / linked).symlink_to(disk)
    train(*FOLDS)
    (disk / "old.txt").touch()
    train(*FOLDS, "--overwrite")
    assert (folds_folder / linked).is_symlink()
    assert not (disk / "old.txt").exists()
    assert list(disk.rglob("epoch*.pt"))
    assert train(*FOLDS, "--resume").out.count("finished earlier") == 2


def test_a_link_that_leads_nowhere_is_named(train, folds_folder, tmp_path):
    folds_folder.parent.mkdir(parents=True)
    folds_folder.symlink_to(tmp_path / "lost")
    train(*FOLDS, code=2).assert_error(f"{folds_folder} is a link to {tmp_path / 'lost'}, which does not exist.")


def test_overwriting_deletes_nothing_behind_other_links_and_no_other_run(train_once, train, folds_folder, tmp_path):
    train_once(*FOLDS)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").touch()
    (folds_folder / "images").symlink_to(other)
    train(*FOLDS, "--overwrite")
    assert (other / "a.jpg").exists()
    second = folds_folder.with_name("second")
    folds_folder.rename(second)
    folds_folder.mkdir()
    (folds_folder / "config.json").write_bytes((second / "config.json").read_bytes())
    (folds_folder / "fold00").symlink_to(second / "fold00")
    train(*FOLDS, "--overwrite", code=2).assert_error("fold00 is a link into another run")
    assert list((second / "fold00").glob("*.pt"))


def test_weights_that_training_did_not_write_stay_in_a_fold(train_once, train, folds_folder):
    train_once(*FOLDS)
    (folds_folder / "fold00" / "mine.pth.tar").touch()
    train(*FOLDS, "--resume")
    assert (folds_folder / "fold00" / "mine.pth.tar").exists()
