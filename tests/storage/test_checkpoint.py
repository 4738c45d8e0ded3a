"""Checkpoints: their format, the best N of a fold, and files that cannot be read."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from descriptions import info
from torch import nn

from model import create_model
from storage.checkpoint import (
    FORMAT_VERSION,
    BestKeeper,
    checkpoint_name,
    load_checkpoint,
    load_weights,
    read_tensors,
    save_checkpoint,
)
from storage.members import Expected, open_member
from utils import UserError


@pytest.fixture(scope="module")
def resnet():
    """A network with random weights, which tests do not change."""
    torch.manual_seed(1)
    network = create_model("VanillaResNet", task="mask", backbone="resnet18", image_size=32, pretrained=False)
    network(torch.randn(4, 3, 32, 32))
    return network.eval()


def answers(network, batch=None) -> torch.Tensor:
    batch = torch.linspace(-2, 2, 2 * 3 * 32 * 32).view(2, 3, 32, 32) if batch is None else batch
    with torch.no_grad():
        return network.eval()(batch)["mask"]


# ------------------------------------------------------------------------------------------------ names


def test_file_names():
    assert checkpoint_name(12, "macro_f1", 0.77059) == "epoch012_f1-0.7706.pt"
    assert checkpoint_name(3, "rmse", 7.12341) == "epoch003_rmse-7.1234.pt"
    assert checkpoint_name(1, "macro_f1", 0.0) == "epoch001_f1-0.0000.pt"
    assert checkpoint_name(1234, "rmse", 11.0) == "epoch1234_rmse-11.0000.pt"


# ------------------------------------------------------------------------------------------------ the best N


class Notes:
    """Saves the epoch instead of weights, and counts the saves."""

    def __init__(self, keeper: BestKeeper) -> None:
        self.keeper, self.saved = keeper, 0

    def offer(self, epoch: int, value: float) -> Path | None:
        def save(path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(epoch))
            self.saved += 1

        path = self.keeper.offer(epoch, value, save)
        self.keeper.remove_others()
        return path


def keeper_in(folder: Path, top_n: int = 3, *, higher: bool = True, kept=()) -> Notes:
    monitor = "macro_f1" if higher else "rmse"
    return Notes(BestKeeper(folder, top_n, monitor=monitor, higher_is_better=higher, kept=kept))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("top_n", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_n_are_kept_after_every_epoch(seed, top_n, higher, tmp_path):
    """Compare with sorting all epochs; few different scores give many ties."""
    drawn = random.Random(seed)
    notes, seen = keeper_in(tmp_path, top_n, higher=higher), []
    for epoch in range(1, 16):
        value = drawn.choice([0.1, 0.2, 0.3, 0.4, float("nan")])
        path = notes.offer(epoch, value)
        if value == value:
            seen.append((epoch, value))
        best = sorted(seen, key=lambda entry: (-entry[1] if higher else entry[1], entry[0]))[:top_n]
        monitor = "macro_f1" if higher else "rmse"
        assert files(tmp_path) == sorted(checkpoint_name(e, monitor, v) for e, v in best)
        assert [(e, v) for e, v, _ in notes.keeper.kept] == best
        assert all((tmp_path / name).read_text() == str(e) for e, _, name in notes.keeper.kept)
        assert (path is not None) == (epoch in [e for e, _ in best])


def test_of_equal_scores_the_earlier_epoch_ranks_higher(tmp_path):
    notes = keeper_in(tmp_path, 2)
    for epoch in (1, 2, 3):
        notes.offer(epoch, 0.5)
    assert [entry[0] for entry in notes.keeper.kept] == [1, 2]
    assert notes.saved == 2
    notes.offer(4, 0.6)
    assert [entry[0] for entry in notes.keeper.kept] == [4, 1]
    assert files(tmp_path) == ["epoch001_f1-0.5000.pt", "epoch004_f1-0.6000.pt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("higher", [True, False])
def test_nan_and_infinite_scores_are_never_kept(value, higher, tmp_path):
    notes = keeper_in(tmp_path, higher=higher)
    assert notes.offer(1, value) is None
    assert notes.keeper.kept == []
    assert files(tmp_path) == []


def test_scores_with_the_same_name_are_ranked(tmp_path):
    notes = keeper_in(tmp_path, 1)
    notes.offer(1, 0.77061)
    assert notes.offer(2, 0.77062) is not None
    assert files(tmp_path) == ["epoch002_f1-0.7706.pt"]


def test_a_keeper_continues_another(tmp_path):
    first = keeper_in(tmp_path, 2)
    for epoch, value in enumerate([0.3, 0.5, 0.4], start=1):
        first.offer(epoch, value)
    kept = [list(entry) for entry in first.keeper.kept]  # as it comes back from a file
    second = keeper_in(tmp_path, 2, kept=kept)
    assert second.offer(4, 0.4) is None
    second.offer(5, 0.6)
    assert files(tmp_path) == ["epoch002_f1-0.5000.pt", "epoch005_f1-0.6000.pt"]


def test_saving_that_fails_costs_no_checkpoint(tmp_path):
    notes = keeper_in(tmp_path, 1)
    notes.offer(1, 0.5)

    def full(path):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        notes.keeper.offer(2, 0.6, full)
    assert files(tmp_path) == ["epoch001_f1-0.5000.pt"]
    assert [entry[0] for entry in notes.keeper.kept] == [1]


def test_only_checkpoints_that_are_not_kept_are_removed(tmp_path):
    notes = keeper_in(tmp_path, 2)
    notes.offer(1, 0.5)
    for name in ("epoch002_f1-0.9000.pt", "log.csv", "oof.csv", "resume.state"):
        (tmp_path / name).write_text("")
    notes.keeper.remove_others()
    assert files(tmp_path) == ["epoch001_f1-0.5000.pt", "log.csv", "oof.csv", "resume.state"]


def test_the_score_in_the_name_is_that_of_the_weights_in_the_file(tmp_path):
    """Weights change in every epoch; those in each file score what the file says."""
    network = nn.Linear(1, 1)

    def score() -> float:
        return 1 / (1 + (network.weight.item() - 3) ** 2)

    keeper = BestKeeper(tmp_path, 3, monitor="macro_f1", higher_is_better=True)
    with torch.no_grad():
        for epoch, weight in enumerate([0.0, 2.0, 5.0, 3.5, 3.0, 1.0, 4.0], start=1):
            network.weight.fill_(weight)
            about = info(epoch, score())
            keeper.offer(epoch, score(), lambda path, about=about: save_checkpoint(path, network, about))
    assert [entry[0] for entry in keeper.kept] == [5, 4, 2]
    for path in tmp_path.iterdir():
        weights, about = load_checkpoint(path)
        network.load_state_dict(weights)
        assert about.score == pytest.approx(score())
        assert path.name == checkpoint_name(about.epoch, "macro_f1", score())


# ------------------------------------------------------------------------------------------------ one file


def test_a_checkpoint_comes_back_as_it_was_and_rebuilds_its_network(tmp_path, resnet):
    path, about = tmp_path / "any name.pt", info(12, 0.7706, 3)
    save_checkpoint(path, resnet, about)
    weights, got = load_checkpoint(path)
    assert got == about
    assert got.score == 0.7706
    network = got.build()
    assert not torch.equal(answers(network), answers(resnet))
    load_weights(network, weights, path, "VanillaResNet")
    assert torch.equal(answers(network), answers(resnet))
    assert files(path.parent) == ["any name.pt"]


def test_a_checkpoint_holds_plain_values_only(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, nn.Linear(2, 2), info())
    content = torch.load(path, weights_only=True)
    assert content["format_version"] == FORMAT_VERSION

    def check(value):
        if isinstance(value, dict):
            for key, item in value.items():
                assert type(key) is str
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (str, int, float, bool)

    check(content["info"])
    known = "task model_type backbone image_size mean std classes transform_type fold epoch scores monitor"
    known += " higher_is_better split_fingerprint config versions"
    assert set(known.split()) <= set(content["info"])


def test_keys_of_later_versions_are_ignored(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, nn.Linear(2, 2), info())
    content = torch.load(path, weights_only=True)
    content["info"]["weather"] = "fine"
    torch.save(content, path)
    assert load_checkpoint(path)[1] == info()


def test_saving_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, nn.Linear(2, 2), info(1))

    def full(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, nn.Linear(2, 2), info(2))
    assert load_checkpoint(path)[1].epoch == 1
    assert files(tmp_path) == ["a.pt"]


def prefixed(weights):
    return {f"module.{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        prefixed,
        lambda weights: {"state_dict": weights},
        lambda weights: {"state_dict": prefixed(weights), "epoch": 3, "best": 0.5},
    ],
    ids=["bare", "module.", "state_dict", "both"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_made_elsewhere_is_accepted(wrap, zipped, tmp_path, resnet):
    path = tmp_path / "weights.pth"
    torch.save(wrap(resnet.state_dict()), path, _use_new_zipfile_serialization=zipped)
    weights, about = load_checkpoint(path)
    assert about is None
    assert weights.keys() == resnet.state_dict().keys()
    options = {"task": "mask", "model_type": "VanillaResNet", "backbone": "resnet18", "image_size": 32}
    member = open_member(path, Expected(**options))
    assert torch.equal(answers(member.load()), answers(resnet))
    assert member.info.score is None
    assert member.info.transform_type == "base"


# ------------------------------------------------------------------------------------------------ errors


def assert_error(path: Path, pattern: str) -> None:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert re.search(pattern, sentence), sentence
    assert "\n" not in sentence


CANNOT = r"cannot be read as a checkpoint|holds neither a checkpoint|is a checkpoint with missing or wrong parts"


def test_a_missing_file(tmp_path):
    assert_error(tmp_path / "none.pt", "There is no checkpoint file")
    assert_error(tmp_path, "There is no checkpoint file")


@pytest.mark.parametrize("content", [b"", b"ImageID,ans\n", b"<html>404</html>", b"\x00" * 100, b"PK\x03\x04", b"\x80"])
def test_bytes_without_a_checkpoint(content, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert_error(path, CANNOT)


@pytest.mark.parametrize(
    "content",
    [
        *(None, 3, "text", [], {}, [torch.zeros(2)], torch.zeros(2), {"epoch": 3}, {0: torch.zeros(1)}),
        *({"state_dict": {}}, {"state_dict": 3}, {"state_dict": [1]}, {"weights": {"a": torch.zeros(1)}, "epoch": 3}),
        {"format_version": FORMAT_VERSION},
        {"format_version": FORMAT_VERSION, "info": {}, "state_dict": {}},
        {"format_version": FORMAT_VERSION, "info": None, "state_dict": None},
        {"format_version": FORMAT_VERSION, "info": {"task": "mask"}, "state_dict": {"a": torch.zeros(1)}},
    ],
    ids=repr,
)
def test_files_of_torch_without_a_checkpoint(content, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    assert_error(path, CANNOT)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file(part, zipped, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(300, 30).state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_error(path, CANNOT)


def test_a_file_with_a_wrong_byte_is_read_or_gives_an_error(tmp_path):
    """Change one byte after the other in the format before zip, which has no checksums."""
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(1, 1).state_dict(), path, _use_new_zipfile_serialization=False)
    content, bugs = path.read_bytes(), []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            load_checkpoint(path)
        except UserError as error:
            assert str(path) in str(error)
        except Exception as error:
            bugs.append(repr(error))
    assert bugs == []


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "2", None])
def test_another_format_version(version, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"format_version": version, "info": {}, "state_dict": {}}, path)
    assert_error(path, rf"has checkpoint format {version}, and this toolkit reads {FORMAT_VERSION}")


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("classes", ("wrong", "worn", "bare")),
        ("classes", ("worn", "bare")),
        ("task", "race"),
        ("model_type", "VanillaTransformer"),
        ("backbone", "resnet17"),
        ("transform_type", "mosaic"),
    ],
)
def test_a_checkpoint_with_unknown_names(what, value, tmp_path):
    """They come from a later version, or one with another order of the classes."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, nn.Linear(1, 1), dataclasses.replace(info(), **{what: value}))
    assert_error(path, re.escape(value[0] if isinstance(value, tuple) else value))


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["pickle", "torch", "old torch", "in a state dict", "in a description"])
def test_code_in_a_file_is_not_run(how, tmp_path):
    marker, path = tmp_path / "trapped", tmp_path / "a.pt"
    trap = Trap(marker)
    if how == "pickle":
        path.write_bytes(pickle.dumps(trap))
    elif how == "in a state dict":
        torch.save({"linear.weight": torch.zeros(2), "linear.bias": trap}, path)
    elif how == "in a description":
        torch.save({"format_version": FORMAT_VERSION, "info": {"task": trap}, "state_dict": {}}, path)
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=how == "torch")
    assert_error(path, CANNOT)
    assert not marker.exists()
    pickle.loads(pickle.dumps(trap))  # the trap works
    assert marker.exists()


def test_a_module_is_not_loaded(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    assert_error(tmp_path / "a.pt", CANNOT)


def error_of(network, weights) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(network, weights, "some.pt", "Linear (small)")
    sentence = str(caught.value)
    assert sentence.startswith("The weights in some.pt do not fit Linear (small): ")
    assert "\n" not in sentence
    return sentence


def test_weights_that_do_not_fit_are_named():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    good = network.state_dict()
    assert "0.bias is missing" in error_of(network, {k: v for k, v in good.items() if k != "0.bias"})
    assert "2.weight is not part of it" in error_of(network, {**good, "2.weight": torch.zeros(1)})
    shape = error_of(network, {**good, "0.weight": torch.zeros(5, 3)})
    assert "0.weight has shape (5, 3) instead of (2, 3)" in shape
    many = error_of(network, {f"x.{k}": torch.zeros(1) for k in range(9)})
    assert many.count("is missing") == 3
    assert "and 13 more" in many  # 7 are missing and 9 are not part of it; 3 are named
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_another_task_do_not_load(tmp_path, resnet):
    path = tmp_path / "a.pth"
    torch.save(resnet.state_dict(), path)
    options = {"task": "main", "model_type": "VanillaResNet", "backbone": "resnet18"}
    member = open_member(path, Expected(**options))
    with pytest.raises(UserError, match=r"do not fit VanillaResNet \(resnet18, task main\): linear\.weight has shape"):
        member.load()


# ------------------------------------------------------------------------------------------------ resume state


def test_a_resume_state_is_no_checkpoint(tmp_path):
    path, network = tmp_path / "resume.state", nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"epoch": 3, "rows": [{"epoch": 1, "lr": 0.1}], "kept": [(1, 0.5, "a.pt")]}
    torch.save({**state, "network": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    got = read_tensors(path)
    assert {name: got[name] for name in state} == state
    assert got["optimizer"]["state"][0]["step"] == 1
    assert_error(path, CANNOT)


def test_kept_scores_survive_a_resume_state(tmp_path):
    notes = keeper_in(tmp_path / "fold00", 2)
    notes.offer(1, np.float64(0.5).item())
    torch.save({"kept": notes.keeper.kept}, tmp_path / "resume.state")
    again = keeper_in(tmp_path / "fold00", 2, kept=read_tensors(tmp_path / "resume.state")["kept"])
    assert again.keeper.kept == notes.keeper.kept
