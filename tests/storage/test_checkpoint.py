"""Checkpoints: one format, the best N of a fold, what is refused, and the members of an ensemble."""

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
from torch import nn

from data.tasks import TASKS
from model import create_model
from storage.checkpoint import (
    FORMAT_VERSION,
    BestKeeper,
    ModelInfo,
    checkpoint_name,
    load_checkpoint,
    load_weights,
    read_tensors,
    save_checkpoint,
)
from storage.find_runs import find_single
from storage.members import Expected, find_best, find_members, open_member
from storage.run_folder import RunFolder
from utils import UserError


def info(epoch: int = 1, score: float | None = 0.5, fold: int = 0, **others) -> ModelInfo:
    """The description of a small checkpoint, of task mask if no other is named."""
    values = {
        "task": "mask",
        "model_type": "VanillaResNet",
        "backbone": "resnet18",
        "image_size": 32,
        "transform_type": "base",
        "classes": TASKS[others.get("task", "mask")].classes,
        "fold": fold,
        "epoch": epoch,
        "scores": {"macro_f1": score, "accuracy": 0.25},
        "monitor": "macro_f1",
        "higher_is_better": True,
        "split_fingerprint": "0123456789abcdef",
        "config": {"task": "mask", "cv": 2, "folds": None, "lr": 0.005},
        "versions": {"torch": "2"},
    }
    return ModelInfo(**{**values, **others})


def age_info(epoch: int, rmse: float, fold: int = 0) -> ModelInfo:
    scores = {"macro_f1": 0.5, "accuracy": 0.5, "mae": 5.0, "rmse": rmse}
    about = {"task": "age", "classes": TASKS["age"].classes, "monitor": "rmse", "higher_is_better": False}
    return dataclasses.replace(info(epoch, None, fold), scores=scores, **about)


@pytest.fixture(scope="module")
def resnet():
    """A network with weights that are all its own. Read it, do not change it."""
    torch.manual_seed(1)
    network = create_model("VanillaResNet", task="mask", backbone="resnet18", image_size=32, pretrained=False)
    network(torch.randn(4, 3, 32, 32))
    return network.eval()


def answers(network, batch=None) -> torch.Tensor:
    batch = torch.linspace(-2, 2, 2 * 3 * 32 * 32).view(2, 3, 32, 32) if batch is None else batch
    with torch.no_grad():
        return network.eval()(batch)["mask"]


# ------------------------------------------------------------------------------------------------ names


def test_names_are_for_people():
    assert checkpoint_name(12, "macro_f1", 0.77059) == "epoch012_f1-0.7706.pt"
    assert checkpoint_name(3, "rmse", 7.12341) == "epoch003_rmse-7.1234.pt"
    assert checkpoint_name(1, "macro_f1", 0.0) == "epoch001_f1-0.0000.pt"
    assert checkpoint_name(1234, "rmse", 11.0) == "epoch1234_rmse-11.0000.pt"


# ------------------------------------------------------------------------------------------------ the best N


class Notes:
    """Saves nothing but the epoch, and counts how often it is asked to."""

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
def test_the_best_n_are_kept_at_every_moment(seed, top_n, higher, tmp_path):
    """Against sorting all epochs so far; few different scores, so that ties are many."""
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
def test_what_is_no_number_is_never_kept(value, higher, tmp_path):
    notes = keeper_in(tmp_path, higher=higher)
    assert notes.offer(1, value) is None
    assert notes.keeper.kept == []
    assert files(tmp_path) == []


def test_scores_that_look_alike_in_the_name_are_told_apart(tmp_path):
    notes = keeper_in(tmp_path, 1)
    notes.offer(1, 0.77061)
    assert notes.offer(2, 0.77062) is not None
    assert files(tmp_path) == ["epoch002_f1-0.7706.pt"]


def test_a_keeper_goes_on_where_another_stopped(tmp_path):
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


def test_checkpoints_that_do_not_count_are_removed_and_other_files_stay(tmp_path):
    notes = keeper_in(tmp_path, 2)
    notes.offer(1, 0.5)
    for name in ("epoch002_f1-0.9000.pt", "log.csv", "oof.csv", "resume.state"):
        (tmp_path / name).write_text("")
    notes.keeper.remove_others()
    assert files(tmp_path) == ["epoch001_f1-0.5000.pt", "log.csv", "oof.csv", "resume.state"]


def test_the_score_in_the_name_is_that_of_the_weights_in_the_file(tmp_path):
    """Weights move at every epoch; what each file holds scores as the file says."""
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


def test_what_a_later_version_adds_is_passed_over(tmp_path):
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


# ------------------------------------------------------------------------------------------------ refusals


def assert_refused(path: Path, pattern: str) -> None:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert re.search(pattern, sentence), sentence
    assert "\n" not in sentence


CANNOT = r"cannot be read as a checkpoint|holds neither a checkpoint|is a checkpoint with missing or wrong parts"


def test_a_file_that_is_not_there(tmp_path):
    assert_refused(tmp_path / "none.pt", "There is no checkpoint file")
    assert_refused(tmp_path, "There is no checkpoint file")


@pytest.mark.parametrize("content", [b"", b"ImageID,ans\n", b"<html>404</html>", b"\x00" * 100, b"PK\x03\x04", b"\x80"])
def test_bytes_that_are_no_checkpoint(content, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert_refused(path, CANNOT)


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        "text",
        [],
        {},
        [torch.zeros(2)],
        torch.zeros(2),
        {"epoch": 3},
        {"state_dict": {}},
        {"state_dict": 3},
        {"state_dict": [1]},
        {"weights": {"a": torch.zeros(1)}, "epoch": 3},
        {0: torch.zeros(1)},
        {"format_version": FORMAT_VERSION},
        {"format_version": FORMAT_VERSION, "info": {}, "state_dict": {}},
        {"format_version": FORMAT_VERSION, "info": None, "state_dict": None},
        {"format_version": FORMAT_VERSION, "info": {"task": "mask"}, "state_dict": {"a": torch.zeros(1)}},
    ],
    ids=repr,
)
def test_files_of_torch_that_are_no_checkpoint(content, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    assert_refused(path, CANNOT)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_of_which_only_the_beginning_is_there(part, zipped, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(300, 30).state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_refused(path, CANNOT)


def test_a_file_with_a_wrong_byte_is_refused_or_read_and_no_bug(tmp_path):
    """One byte after the other; in the format before zip, which has no checksums."""
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
    assert_refused(path, rf"has checkpoint format {version}, and this toolkit reads {FORMAT_VERSION}")


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
def test_a_checkpoint_of_what_this_toolkit_does_not_know(what, value, tmp_path):
    """Of a later version, or of one that numbered its classes otherwise."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, nn.Linear(1, 1), dataclasses.replace(info(), **{what: value}))
    assert_refused(path, re.escape(value[0] if isinstance(value, tuple) else value))


class Trap:
    """What, unpickled by one who trusts it, makes a file."""

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
    assert_refused(path, CANNOT)
    assert not marker.exists()
    pickle.loads(pickle.dumps(trap))  # the trap is one
    assert marker.exists()


def test_a_whole_module_is_not_run_either(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", CANNOT)


def refusal(network, weights) -> str:
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
    assert "0.bias is missing" in refusal(network, {k: v for k, v in good.items() if k != "0.bias"})
    assert "2.weight is not part of it" in refusal(network, {**good, "2.weight": torch.zeros(1)})
    shape = refusal(network, {**good, "0.weight": torch.zeros(5, 3)})
    assert "0.weight has shape (5, 3) instead of (2, 3)" in shape
    many = refusal(network, {f"x.{k}": torch.zeros(1) for k in range(9)})
    assert many.count("is missing") == 3
    assert "and 13 more" in many  # 7 that are missing and 9 that are not part of it, 3 of them named
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_another_task_are_refused_by_the_member(tmp_path, resnet):
    path = tmp_path / "a.pth"
    torch.save(resnet.state_dict(), path)
    options = {"task": "main", "model_type": "VanillaResNet", "backbone": "resnet18"}
    member = open_member(path, Expected(**options))
    with pytest.raises(UserError, match=r"do not fit VanillaResNet \(resnet18, task main\): linear\.weight has shape"):
        member.load()


# ------------------------------------------------------------------------------------------------ members


@pytest.fixture
def make_run(tmp_path):
    """Makes a run folder: make_run({0: [info, ...], 1: [...]}), the files under the names training gives them."""

    def make(folds: dict[int, list[ModelInfo]], *, name: str = "kfold-ensemble-VanillaResNet") -> RunFolder:
        run = RunFolder(tmp_path / name)
        for number, infos in folds.items():
            run.fold(number).mkdir(parents=True, exist_ok=True)
            (run.fold(number) / "log.csv").write_text("fold,epoch\n")
            (run.fold(number) / "resume.state").write_bytes(b"")
            (run.fold(number) / "._hidden.pt").write_bytes(b"not weights")
            for about in infos:
                path = run.fold(number) / checkpoint_name(about.epoch, about.monitor, about.score)
                save_checkpoint(path, nn.Linear(1, 1), about)
        return run

    return make


def bare(run: RunFolder, fold: int, *names: str) -> None:
    """Put bare state dicts into a fold."""
    run.fold(fold).mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.save(nn.Linear(1, 1).state_dict(), run.fold(fold) / name)


def order(members) -> list[tuple[int, int]]:
    """(fold, epoch) of each member."""
    return [(member.fold, member.info.epoch) for member in members]


TWO_FOLDS = {
    0: [info(1, 0.6, 0), info(2, 0.8, 0), info(3, 0.7, 0)],
    1: [info(4, 0.5, 1), info(5, 0.5, 1), info(10, 0.9, 1)],
}


def test_members_come_fold_by_fold_best_first(make_run):
    run = make_run(TWO_FOLDS)
    assert order(find_members(run, top_k=1, folds=None)) == [(0, 2), (1, 10)]
    assert order(find_members(run, top_k=2, folds=None)) == [(0, 2), (0, 3), (1, 10), (1, 4)]
    everyone = [(0, 2), (0, 3), (0, 1), (1, 10), (1, 4), (1, 5)]
    assert order(find_members(run, top_k=3, folds=None)) == everyone


def test_the_smallest_error_comes_first(make_run):
    run = make_run({0: [age_info(1, 12.5), age_info(2, 7.125), age_info(3, 9.0)], 1: [age_info(5, 10.0, 1)]})
    assert order(find_members(run, top_k=1, folds=None)) == [(0, 2), (1, 5)]
    assert order(find_members(run, top_k=3, folds=[0])) == [(0, 2), (0, 3), (0, 1)]


def test_names_of_files_mean_nothing(make_run):
    """Renamed so that their order is another, and by a score they do not have, the members are the same."""
    run = make_run(TWO_FOLDS)
    before = [member.info for member in find_members(run, top_k=2, folds=None)]
    for number in (0, 1):
        paths = sorted(run.fold(number).glob("epoch*.pt"))
        for k, path in enumerate(paths):
            path.rename(path.with_name(f"epoch{9 - k:03d}_f1-{0.1 * k:.4f}.PTH"))
    assert [member.info for member in find_members(run, top_k=2, folds=None)] == before


def test_more_than_a_fold_holds(make_run):
    run = make_run({0: [info(1), info(2)], 1: [info(1, fold=1)]})
    with pytest.raises(UserError, match=r"fold01 holds 1 checkpoint, fewer than --top-k 2\. Pass --top-k 1 or"):
        find_members(run, top_k=2, folds=None)
    with pytest.raises(UserError, match=r"fold00 holds 2 checkpoints, fewer than --top-k 3\. Pass --top-k 2 or"):
        find_members(run, top_k=3, folds=None)
    assert order(find_members(run, top_k=2, folds=[0])) == [(0, 1), (0, 2)]


def three_folds(**others):
    return {k: [info(k + 1, fold=k, config={"cv": 3}, **others)] for k in range(3)}


def test_a_missing_fold(make_run):
    folds = three_folds()
    run = make_run({0: folds[0], 2: folds[2]})
    with pytest.raises(UserError, match=r"has no checkpoints for fold 1\. .*--resume.*--folds 0,2"):
        find_members(run, top_k=1, folds=None)
    assert order(find_members(run, top_k=1, folds=(0, 2))) == [(0, 1), (2, 3)]


def test_a_fold_without_checkpoints(make_run):
    run = make_run({**three_folds(), 1: []})
    with pytest.raises(UserError, match=r"has no checkpoints for fold 1\."):
        find_members(run, top_k=1, folds=None)


def test_the_last_folds_are_missing(make_run):
    """The folders that are there look whole; the run was to have three folds."""
    folds = three_folds()
    run = make_run({0: folds[0], 1: folds[1]})
    with pytest.raises(UserError, match=r"has no checkpoints for fold 2\. .*--folds 0,1"):
        find_members(run, top_k=1, folds=None)
    assert order(find_members(run, top_k=1, folds=(0, 1))) == [(0, 1), (1, 2)]


def test_folds_that_are_chosen(make_run):
    run = make_run(three_folds())
    assert order(find_members(run, top_k=1, folds=None)) == [(0, 1), (1, 2), (2, 3)]
    assert order(find_members(run, top_k=1, folds=(1,))) == [(1, 2)]
    with pytest.raises(UserError, match=r"has no checkpoints for fold 7\."):
        find_members(run, top_k=1, folds=(0, 7))


def test_a_folder_without_folds(tmp_path, make_run):
    with pytest.raises(UserError, match=r"holds no folders fold00, fold01"):
        find_members(RunFolder(tmp_path), top_k=1, folds=None)
    run = make_run({0: [], 1: []})
    with pytest.raises(UserError, match=r"has no checkpoints for fold 0, 1\. Train with --resume to add them\.$"):
        find_members(run, top_k=1, folds=None)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("split_fingerprint", "fedcba9876543210"),
        ("split_fingerprint", None),
        ("task", "gender"),
        ("image_size", 64),
        ("transform_type", "tta"),
        ("mean", (0.5, 0.5, 0.5)),
        ("std", (0.5, 0.5, 0.5)),
    ],
)
def test_members_that_do_not_belong_together(what, value, make_run):
    """Of another split, say: what one was trained on, the other was validated on."""
    run = make_run({0: [info(1)], 1: [info(1, fold=1, **{what: value})]})
    with pytest.raises(UserError, match=rf" differ in {what.replace('_', ' ')} \("):
        find_members(run, top_k=1, folds=None)


def test_a_transform_that_was_typed_is_that_of_all_members(make_run):
    run = make_run({0: [info(1)], 1: [info(1, fold=1, transform_type="random")]})
    assert len(find_members(run, Expected(transform_type="base"), top_k=1, folds=None)) == 2


def test_a_broken_file_in_a_fold_is_named(make_run):
    run = make_run({0: [info(1)], 1: [info(1, fold=1)]})
    (run.fold(1) / "broken.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"fold01/broken\.pt cannot be read as a checkpoint"):
        find_members(run, top_k=1, folds=None)


# -------------------------------------------------------------------------------------------- members without scores


@pytest.mark.parametrize(
    ("folder", "model_type", "backbone"),
    [
        ("kfold-ensemble-VanillaResNet", "VanillaResNet", "resnet50"),
        ("kfold-ensemble-THANet_MK1", "THANet_MK1", "efficientnet-b3"),
        ("kfold-ensemble-MultiClassTHANet", "MultiClassTHANet_MK1", "efficientnet-b3"),
        ("somewhere", "VanillaEfficientNet", "efficientnet-b3"),
    ],
)
def test_bare_weights_are_of_the_network_their_folder_is_named_after(folder, model_type, backbone, make_run):
    run = make_run({}, name=folder)
    bare(run, 0, "a.pth", "b.pt")
    bare(run, 1, "a.pth", "b.pt")
    members = find_members(run, top_k=2, folds=None)
    assert [(m.fold, m.path.name) for m in members] == [(0, "a.pth"), (0, "b.pt"), (1, "a.pth"), (1, "b.pt")]
    assert {(m.info.model_type, m.info.backbone, m.info.image_size) for m in members} == {(model_type, backbone, 224)}


def test_options_that_were_typed_describe_bare_weights(make_run):
    run = make_run({}, name="kfold-ensemble-VanillaEfficientNet")
    bare(run, 0, "a.pth")
    options = {"task": "gender", "model_type": "VanillaResNet", "backbone": "resnet34", "image_size": 64}
    (member,) = find_members(run, Expected(**options), top_k=1, folds=None)
    assert {name: getattr(member.info, name) for name in options} == options


def test_bare_weights_cannot_be_ranked(make_run):
    run = make_run({})
    bare(run, 0, "a.pth", "b.pth", "c.pth")
    with pytest.raises(UserError, match=r"holds 3 files and a\.pth has no score.*Leave only the 2 .*--top-k 3"):
        find_members(run, top_k=2, folds=None)
    assert len(find_members(run, top_k=3, folds=None)) == 3


def test_bare_weights_and_checkpoints_do_not_mix(make_run):
    run = make_run({0: [info(1, config={"cv": 1})]})
    bare(run, 0, "a.pth")
    with pytest.raises(UserError, match=r"differ in|has no score"):
        find_members(run, Expected(task="mask", backbone="resnet18", image_size=32), top_k=2, folds=None)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"model_type": "VanillaResNet", "backbone": "efficientnet-b0"}, "does not fit VanillaResNet"),
        ({"model_type": "THANet_MK1", "task": "age"}, "cannot learn task age"),
    ],
)
def test_bare_weights_with_options_that_make_no_sense(options, pattern, tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=pattern):
        open_member(tmp_path / "a.pth", Expected(**options))


# ------------------------------------------------------------------------------------------------ options and members


@pytest.fixture
def checkpoint(tmp_path):
    """Writes one checkpoint and returns its path."""

    def write(about: ModelInfo) -> Path:
        path = tmp_path / "a.pt"
        save_checkpoint(path, nn.Linear(1, 1), about)
        return path

    return write


@pytest.mark.parametrize(
    ("option", "value"), [("model_type", "THANet_MK1"), ("backbone", "resnet50"), ("image_size", 64)]
)
def test_an_option_that_contradicts_a_checkpoint(option, value, checkpoint):
    path, about = checkpoint(info()), info()
    with pytest.raises(UserError) as caught:
        open_member(path, Expected(**{option: value}))
    sentence = str(caught.value)
    assert f"--{option.replace('_', '-')} {getattr(about, option)}, not {value}" in sentence
    assert str(path) in sentence


def test_options_that_agree_or_were_not_typed(checkpoint):
    path = checkpoint(info())
    assert open_member(path).info == info()  # the default network and task are others
    agreeing = {"task": "mask", "model_type": "VanillaResNet", "backbone": "resnet18", "image_size": 32}
    assert open_member(path, Expected(**agreeing)).info == info()


@pytest.mark.parametrize("task", ["main", "gender", "age"])
def test_a_task_that_a_checkpoint_does_not_answer(task, checkpoint):
    with pytest.raises(UserError, match=rf"checkpoint of task mask and cannot predict task {task}\."):
        open_member(checkpoint(info()), Expected(task=task))


@pytest.mark.parametrize("task", ["main", "mask", "gender", "ageg"])
def test_a_many_headed_checkpoint_answers_its_attributes(task, checkpoint):
    path = checkpoint(info(task="main", model_type="THANet_MK1", backbone="resnet18"))
    assert open_member(path, Expected(task=task)).info.task == "main"
    with pytest.raises(UserError, match="cannot predict task age"):
        open_member(path, Expected(task="age"))


# ------------------------------------------------------------------------------------------------ a single run


def test_the_best_checkpoint_of_a_single_run(make_run):
    run = make_run({0: [info(1, 0.6), info(2, 0.8), info(3, 0.8)]}, name="single-VanillaResNet")
    assert find_best(run.path, Expected()).info.epoch == 2
    ages = make_run({0: [age_info(1, 9.0), age_info(2, 8.0), age_info(3, 12.0)]}, name="single-age")
    assert find_best(ages.path, Expected()).info.epoch == 2


def test_no_single_run(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.find_runs.ROOT", tmp_path)
    with pytest.raises(UserError) as caught:
        find_single("gender", "VanillaResNet")
    sentence = str(caught.value)
    assert "python train.py --task gender --model-type VanillaResNet" in sentence
    assert "--load-state-dict" in sentence


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
    assert_refused(path, CANNOT)


def test_kept_scores_survive_a_resume_state(tmp_path):
    notes = keeper_in(tmp_path / "fold00", 2)
    notes.offer(1, np.float64(0.5).item())
    torch.save({"kept": notes.keeper.kept}, tmp_path / "resume.state")
    again = keeper_in(tmp_path / "fold00", 2, kept=read_tensors(tmp_path / "resume.state")["kept"])
    assert again.keeper.kept == notes.keeper.kept
