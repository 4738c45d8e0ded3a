"""Runs whose steps are replayed as CUDA graphs."""

import re

import pytest
import torch
from broken import assert_same_weights
from imitated_graphs import ImitatedGraphs

from training import fold, step


def test_a_run_with_graphs_equals_one_without(train, tmp_path, monkeypatch):
    graphs = ImitatedGraphs()
    options = ("--cv", 2, "--epochs", 2, "--accumulate", 2, "--mixup", 0.5, "--cutmix", 1, "--ema", 0.9, "--optim-type")
    options = (*options, "adamw", "--batch-size", 8)
    train(*options, "--save-path", tmp_path / "eager")
    for module in (fold, step):
        monkeypatch.setattr(module, "graphs_of", lambda device, wanted: graphs if wanted else None)
    train(*options, "--save-path", tmp_path / "off", "--no-cuda-graphs")
    assert graphs.replays == 0
    train(*options)
    assert graphs.replays > 10
    for name in ("models", "off"):
        assert_same_weights(tmp_path / "eager", tmp_path / name)


def test_statistics_of_batchnorm_from_graphs_are_those_of_all_images(train, tmp_path, monkeypatch):
    options = ("--precise-bn", 24, "--batch-size", 4, "--epochs", 2)
    plain = train(*options, "--save-path", tmp_path / "eager").out
    graphs = ImitatedGraphs()
    monkeypatch.setattr(fold, "graphs_of", lambda device, wanted: graphs if wanted else None)
    graphed = train(*options).out
    assert graphs.replays > 4
    losses = [[float(each) for each in re.findall(r"valid loss ([\d.]+)", out)] for out in (plain, graphed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_a_run_says_once_why_it_trains_without_graphs(train, monkeypatch):
    graphs = ImitatedGraphs()
    for module in (fold, step):
        monkeypatch.setattr(module, "graphs_of", lambda device, wanted: graphs if wanted else None)
    network = ("--model-type", "VanillaTimm", "--backbone", "resnet10t", "--grad-checkpointing")
    printed = train(*network, "--cv", 2, "--epochs", 2).out
    assert printed.count("Training runs without CUDA graphs: --grad-checkpointing restores random states.\n") == 1
    assert graphs.releases == 4  # of validation, before the second epoch of each fold trains and after it


def test_validation_that_does_not_fit_with_the_graphs_of_training_deletes_them(train, tmp_path, monkeypatch):
    graphs, evaluate, failed = ImitatedGraphs(), fold.evaluate, []

    def full_once(*args, **options):
        if graphs.captures and not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return evaluate(*args, **options)

    train("--epochs", 2, "--save-path", tmp_path / "eager")
    for module in (fold, step):
        monkeypatch.setattr(module, "graphs_of", lambda device, wanted: graphs if wanted else None)
    monkeypatch.setattr(fold, "evaluate", full_once)
    train("--epochs", 2)
    assert failed
    assert_same_weights(tmp_path / "eager", tmp_path / "models")
