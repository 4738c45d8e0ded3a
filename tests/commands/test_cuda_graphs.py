"""Runs whose steps are replayed as CUDA graphs."""

import re

import pytest
from broken import assert_same_weights
from imitated_graphs import ImitatedGraphs

from training import fold, step


def test_a_run_with_graphs_equals_one_without(train, tmp_path, monkeypatch):
    graphs = ImitatedGraphs()
    options = ("--cv", 2, "--epochs", 2, "--accumulate", 2, "--mixup", 0.5, "--cutmix", 1, "--ema", 0.9, "--optim-type")
    options = (*options, "adamw", "--batch-size", 8)
    train(*options, "--save-path", tmp_path / "eager")
    for module in (fold, step):
        monkeypatch.setattr(module, "graphs_of", lambda device: graphs)
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
    monkeypatch.setattr(fold, "graphs_of", lambda device: graphs)
    graphed = train(*options).out
    assert graphs.replays > 4
    losses = [[float(each) for each in re.findall(r"valid loss ([\d.]+)", out)] for out in (plain, graphed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
