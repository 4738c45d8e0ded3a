"""Checkpoints: their format, the best N of a fold, and files that cannot be read."""

import dataclasses
import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
from descriptions import info
from torch import nn

from data.faces import FACES, MASK
from model import create_model
from storage.best_checkpoints import BestCheckpoints, checkpoint_name, is_finished
from storage.checkpoint import (
    FORMAT_VERSION,
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
    network = create_model(
        "VanillaResNet", task=MASK, tasks=FACES, backbone="resnet18", image_size=32, pretrained=False
    )
    network(torch.randn(4, 3, 32, 32))
    return network.eval()


@torch.no_grad()
def answers(network) -> torch.Tensor:
    return network.eval()(torch.linspace(-2, 2, 2 * 3 * 32 * 32).view(2, 3, 32, 32))["mask"]


# ------------------------------------------------------------------------------------------------ the best N


@pytest.mark.parametrize(
    ("epoch", "monitor", "value", "name"),
    [
        (12, "macro_f1", 0.77059, "epoch012_f1-0.7706.pt"),
        (3, "rmse", 7.12341, "epoch003_rmse-7.1234.pt"),
        (1234, "rmse", 11.0, "epoch1234_rmse-11.0000.pt"),
    ],
)
def test_file_names(epoch, monitor, value, name):
    assert checkpoint_name(epoch, monitor, value) == name


def keeper_in(folder: Path, top_n: int, *, higher: bool = True, kept=()) -> BestCheckpoints:
    monitor = "macro_f1" if higher else "rmse"
    return BestCheckpoints(folder, top_n, monitor=monitor, higher_is_better=higher, kept=kept)


def offer(keeper: BestCheckpoints, epoch: int, value: float) -> Path | None:
    """Offer an epoch, of which its number is saved instead of weights."""
    path = keeper.offer(epoch, value, lambda path: path.write_text(str(epoch)))
    keeper.remove_others()
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("top_n", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_n_are_kept_after_every_epoch(seed, top_n, higher, tmp_path):
    """Compare with sorting all epochs; few scores give ties, and two of them have the same digits in the file name."""
    drawn, monitor = random.Random(seed), "macro_f1" if higher else "rmse"
    keeper, seen = keeper_in(tmp_path, top_n, higher=higher), []
    for epoch in range(1, 16):
        value = drawn.choice([0.1, 0.77061, 0.77062, 0.9, math.nan, math.inf, -math.inf])
        path = offer(keeper, epoch, value)
        if math.isfinite(value):
            seen.append((epoch, value))
        best = sorted(seen, key=lambda entry: (-entry[1] if higher else entry[1], entry[0]))[:top_n]
        assert files(tmp_path) == sorted(checkpoint_name(e, monitor, v) for e, v in best)
        assert [(e, v) for e, v, _ in keeper.kept] == best
        assert all((tmp_path / name).read_text() == str(e) for e, _, name in keeper.kept)
        assert (path is not None) == (epoch in [e for e, _ in best])
        if epoch == 8:  # a resumed run continues with the list that comes back from a file
            keeper = keeper_in(tmp_path, top_n, higher=higher, kept=[list(entry) for entry in keeper.kept])


@pytest.mark.parametrize(
    ("scores", "length"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 5),
        ([0.1, 0.1, 0.1, 0.4, 0.5], 3),  # equal is not better
        ([0.1, 0.3, 0.2, 0.31, 0.5], 5),
        ([0.3, 0.2, 0.29, 0.4, 0.5], 3),  # better than the last one only
        ([math.nan, 0.1, math.nan, math.inf, 0.5], 4),
        ([-math.inf, math.nan, 0.4, 0.5, 0.6], 2),
        ([0.3, 0.3 + 1e-10, 0.3 + 2e-10, 0.5, 0.6], 3),  # log.csv has 8 digits
    ],
)
@pytest.mark.parametrize("higher", [True, False])
def test_a_fold_ends_after_two_epochs_without_a_better_score(scores, length, higher):
    scores = [score if higher else -score for score in scores]
    ends = {"epochs": 5, "higher_is_better": higher}
    parts = [scores[:count] for count in range(6)]
    assert next(len(part) for part in parts if is_finished(part, patience=2, **ends)) == length
    assert next(len(part) for part in parts if is_finished(part, patience=0, **ends)) == 5
    assert not is_finished([*scores, 0.0], patience=2, **ends)  # of a run with more epochs


def test_saving_that_fails_costs_no_checkpoint(tmp_path):
    keeper = keeper_in(tmp_path, 1)
    offer(keeper, 1, 0.5)

    def full(path):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        keeper.offer(2, 0.6, full)
    assert files(tmp_path) == ["epoch001_f1-0.5000.pt"]
    assert [entry[0] for entry in keeper.kept] == [1]


def test_only_checkpoints_that_are_not_kept_are_removed(tmp_path):
    keeper = keeper_in(tmp_path, 2)
    offer(keeper, 1, 0.5)
    for name in ("epoch002_f1-0.9000.pt", "log.csv", "oof.csv", "resume.state"):
        (tmp_path / name).write_text("")
    keeper.remove_others()
    assert files(tmp_path) == ["epoch001_f1-0.5000.pt", "log.csv", "oof.csv", "resume.state"]


# ------------------------------------------------------------------------------------------------ one file


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "any name.pt"


def test_a_checkpoint_comes_back_as_it_was_and_rebuilds_its_network(path, resnet):
    about = info(12, 0.7706, 3)
    save_checkpoint(path, resnet, about)
    weights, got = load_checkpoint(path)
    assert got == about
    assert got.score == 0.7706
    network = got.build()
    assert not torch.equal(answers(network), answers(resnet))
    load_weights(network, weights, path, "VanillaResNet")
    assert torch.equal(answers(network), answers(resnet))
    assert files(path.parent) == ["any name.pt"]


def test_a_description_holds_plain_values_and_keys_of_later_versions_are_ignored(path):
    save_checkpoint(path, nn.Linear(2, 2), info())
    content = torch.load(path, weights_only=True)
    assert content["format_version"] == FORMAT_VERSION
    assert json.loads(json.dumps(content["info"])) == content["info"]
    assert content["info"].keys() == dataclasses.asdict(info()).keys()
    content["info"]["weather"] = "fine"
    torch.save(content, path)
    assert load_checkpoint(path)[1] == info()


def prefixed(weights, prefix="module."):
    return {f"{prefix}{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        prefixed,
        lambda weights: {"state_dict": weights},
        lambda weights: {"state_dict": prefixed(weights), "epoch": 3, "best": 0.5},
        lambda weights: prefixed(weights, "module._orig_mod."),
        lambda weights: prefixed(weights, "_orig_mod.module."),
        lambda weights: {"state_dict": prefixed(weights, "model.")},
    ],
    ids=["bare", "module.", "state_dict", "both", "of a compiled network", "compiled first", "of Lightning"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_made_elsewhere_is_accepted(wrap, zipped, path, resnet):
    torch.save(wrap(resnet.state_dict()), path, _use_new_zipfile_serialization=zipped)
    weights, about = load_checkpoint(path)
    assert about is None
    assert weights.keys() == resnet.state_dict().keys()
    options = {"task": "mask", "model_type": "VanillaResNet", "backbone": "resnet18", "image_size": 32}
    member = open_member(path, Expected(**options))
    assert torch.equal(answers(member.load()), answers(resnet))
    assert (member.info.score, member.info.transform_type) == (None, "base")


# ------------------------------------------------------------------------------------------------ errors


def assert_error(path: Path, pattern: str) -> None:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert re.search(pattern, sentence), sentence
    assert "\n" not in sentence


CANNOT = r"cannot be read as a checkpoint|holds neither a checkpoint|is a checkpoint with missing or wrong parts"


def test_a_missing_file(path):
    assert_error(path, "There is no checkpoint file")
    assert_error(path.parent, "There is no checkpoint file")


@pytest.mark.parametrize("content", [b"ImageID,ans\n", b"\x00" * 100, b"PK\x03\x04", b"\x80"])
def test_bytes_without_a_checkpoint(content, path):
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
def test_files_of_torch_without_a_checkpoint(content, path):
    torch.save(content, path)
    assert_error(path, CANNOT)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file(part, zipped, path):
    torch.save(nn.Linear(300, 30).state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_error(path, CANNOT)


def test_a_file_with_a_wrong_byte_is_read_or_gives_an_error(path):
    """Change one byte after the other in the format before zip, which has no checksums."""
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
def test_another_format_version(version, path):
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
def test_a_checkpoint_with_unknown_names(what, value, path):
    """They come from a later version, or one with another order of the classes."""
    save_checkpoint(path, nn.Linear(1, 1), dataclasses.replace(info(), **{what: value}))
    assert_error(path, re.escape(value[0] if isinstance(value, tuple) else value))


def test_weights_that_do_not_fit_leave_the_network_unchanged():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = {**before, "0.weight": torch.zeros(5, 3), "2.weight": torch.zeros(1)}
    del weights["0.bias"]
    named = r"0\.bias is missing, 2\.weight is not part of it, 0\.weight has shape \(5, 3\) instead of \(2, 3\)\. "
    with pytest.raises(UserError, match=r"^The weights in some\.pt do not fit Linear \(small\): " + named):
        load_weights(network, weights, "some.pt", "Linear (small)")
    with pytest.raises(UserError, match="is missing and 13 more"):  # 7 are missing and 9 are not part of it
        load_weights(network, {f"x.{k}": torch.zeros(1) for k in range(9)}, "some.pt", "Linear (small)")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_resume_state_is_no_checkpoint(path):
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"epoch": 3, "rows": [{"epoch": 1, "lr": 0.1}], "kept": [(1, 0.5, "a.pt")]}
    torch.save({**state, "network": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    got = read_tensors(path)
    assert {name: got[name] for name in state} == state
    assert got["optimizer"]["state"][0]["step"] == 1
    assert_error(path, CANNOT)
