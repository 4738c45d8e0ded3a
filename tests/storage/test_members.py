"""The members of an ensemble: which checkpoints are found, in which order, and which do not fit."""

from pathlib import Path

import pytest
import torch
from descriptions import age_info, info
from torch import nn

from storage.best_checkpoints import checkpoint_name
from storage.checkpoint import ModelInfo, save_checkpoint
from storage.find_runs import find_single
from storage.members import Expected, find_best, find_members, open_member
from storage.run_folder import RunFolder
from utils import UserError


@pytest.fixture
def make_run(tmp_path):
    """A function that makes a run folder, as in make_run({0: [info, ...], 1: [...]}), with the names of training."""

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
    """Save bare state dicts in a fold."""
    run.fold(fold).mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.save(nn.Linear(1, 1).state_dict(), run.fold(fold) / name)


def order(members) -> list[tuple[int, int]]:
    """Return (fold, epoch) of each member."""
    return [(member.fold, member.info.epoch) for member in members]


TWO_FOLDS = {
    0: [info(1, 0.6, 0), info(2, 0.8, 0), info(3, 0.7, 0)],
    1: [info(4, 0.5, 1), info(5, 0.5, 1), info(10, 0.9, 1)],
}


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, [(0, 2), (1, 10)]),
        (2, [(0, 2), (0, 3), (1, 10), (1, 4)]),
        (3, [(0, 2), (0, 3), (0, 1), (1, 10), (1, 4), (1, 5)]),
    ],
)
def test_members_come_fold_by_fold_best_first_whatever_their_names(top_k, expected, make_run):
    """Renamed to another order and to other scores, the members are the same."""
    run = make_run(TWO_FOLDS)
    assert order(find_members(run, top_k=top_k, folds=None)) == expected
    for number in (0, 1):
        for k, path in enumerate(sorted(run.fold(number).glob("epoch*.pt"))):
            path.rename(path.with_name(f"epoch{9 - k:03d}_f1-{0.1 * k:.4f}.PTH"))
    assert order(find_members(run, top_k=top_k, folds=None)) == expected


def test_the_smallest_error_comes_first(make_run):
    run = make_run({0: [age_info(1, 12.5), age_info(2, 7.125), age_info(3, 9.0)], 1: [age_info(5, 10.0, 1)]})
    assert order(find_members(run, top_k=1, folds=None)) == [(0, 2), (1, 5)]
    assert order(find_members(run, top_k=3, folds=[0])) == [(0, 2), (0, 3), (0, 1)]


THREE_FOLDS = {k: [info(k + 1, fold=k, config={"cv": 3})] for k in range(3)}
NEEDED = r"has no checkpoints for fold {}\. Train with --resume to add them"


@pytest.mark.parametrize(("folds", "expected"), [(None, [(0, 1), (1, 2), (2, 3)]), ((1,), [(1, 2)])])
def test_chosen_folds(folds, expected, make_run):
    assert order(find_members(make_run(THREE_FOLDS), top_k=1, folds=folds)) == expected


@pytest.mark.parametrize(
    ("infos", "folds", "top_k", "error"),
    [
        (
            TWO_FOLDS | {1: TWO_FOLDS[1][:1]},
            None,
            2,
            r"fold01 holds 1 checkpoint, fewer than --top-k 2\. Pass --top-k 1 ",
        ),
        (TWO_FOLDS, None, 4, r"fold00 holds 3 checkpoints, fewer than --top-k 4\. Pass --top-k 3 or"),
        ({0: THREE_FOLDS[0], 2: THREE_FOLDS[2]}, None, 1, NEEDED.format(1) + ", or pass --folds 0,2"),
        (THREE_FOLDS | {1: []}, None, 1, NEEDED.format(1) + ", or pass --folds 0,2"),
        # The checkpoints say that the run has three folds.
        ({0: THREE_FOLDS[0], 1: THREE_FOLDS[1]}, None, 1, NEEDED.format(2) + ", or pass --folds 0,1"),
        (THREE_FOLDS, (0, 7), 1, NEEDED.format(7)),
        ({}, None, 1, r"holds no folders fold00, fold01"),
        ({0: [], 1: []}, None, 1, NEEDED.format("0, 1") + r"\.$"),
    ],
)
def test_checkpoints_that_are_missing(infos, folds, top_k, error, make_run):
    with pytest.raises(UserError, match=error):
        find_members(make_run(infos), top_k=top_k, folds=folds)


def test_weights_with_other_endings_are_read_or_named(make_run, capsys):
    run = make_run(THREE_FOLDS)
    (path,) = run.fold(1).glob("epoch*.pt")
    path.rename(path.with_suffix(".pth.tar"))
    (run.fold(2) / "best.safetensors").write_bytes(b"")
    assert order(find_members(run, top_k=1, folds=None)) == [(0, 1), (1, 2), (2, 3)]
    assert capsys.readouterr().out == "Not read, since only .pt, .pth, .pth.tar files are: fold02/best.safetensors.\n"


def test_chosen_folds_need_no_others(make_run):
    run = make_run({0: THREE_FOLDS[0], 2: THREE_FOLDS[2]})
    assert order(find_members(run, top_k=1, folds=(0, 2))) == [(0, 1), (2, 3)]


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
def test_members_that_differ(what, value, make_run):
    """With another split, one member was trained on images that another one validates on."""
    run = make_run({0: [info(1)], 1: [info(1, fold=1, **{what: value})]})
    with pytest.raises(UserError, match=rf" differ in {what.replace('_', ' ')} \("):
        find_members(run, top_k=1, folds=None)


def test_a_typed_transform_replaces_that_of_all_members(make_run):
    run = make_run({0: [info(1)], 1: [info(1, fold=1, transform_type="random")]})
    assert len(find_members(run, Expected(transform_type="base"), top_k=1, folds=None)) == 2


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
def test_the_folder_name_gives_the_network_of_bare_weights(folder, model_type, backbone, make_run):
    run = make_run({}, name=folder)
    for fold in (0, 1):
        bare(run, fold, "a.pth", "b.pt")
    members = find_members(run, top_k=2, folds=None)
    assert [(m.fold, m.path.name) for m in members] == [(0, "a.pth"), (0, "b.pt"), (1, "a.pth"), (1, "b.pt")]
    assert {(m.info.model_type, m.info.backbone, m.info.image_size) for m in members} == {(model_type, backbone, 224)}


def test_typed_options_describe_bare_weights(make_run):
    run = make_run({}, name="kfold-ensemble-VanillaEfficientNet")
    bare(run, 0, "a.pth")
    options = {"task": "gender", "model_type": "VanillaResNet", "backbone": "resnet34", "image_size": 64}
    (member,) = find_members(run, Expected(**options), top_k=1, folds=None)
    assert {name: getattr(member.info, name) for name in options} == options


def test_bare_weights_get_the_normalisation_of_their_backbone(make_run, monkeypatch):
    half = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    monkeypatch.setattr("storage.members.expected_pixels", lambda *network, **how: half)
    run = make_run({}, name="kfold-ensemble-VanillaTimm")
    bare(run, 0, "a.pth")
    (member,) = find_members(run, Expected(backbone="test_resnet"), top_k=1, folds=None)
    assert {"mean": member.info.mean, "std": member.info.std} == half


def test_bare_weights_cannot_be_ranked(make_run):
    run = make_run({})
    bare(run, 0, "a.pth", "b.pth", "c.pth")
    with pytest.raises(UserError, match=r"holds 3 files and a\.pth has no score.*Leave only the 2 .*--top-k 3"):
        find_members(run, top_k=2, folds=None)
    assert len(find_members(run, top_k=3, folds=None)) == 3


def test_bare_weights_and_checkpoints_do_not_mix(make_run):
    run = make_run({0: [info(1, config={"cv": 1})]})
    bare(run, 0, "a.pth")
    with pytest.raises(UserError, match="differ in split fingerprint"):
        find_members(run, Expected(task="mask", backbone="resnet18", image_size=32), top_k=2, folds=None)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"model_type": "VanillaResNet", "backbone": "efficientnet-b0"}, "does not fit VanillaResNet"),
        ({"model_type": "THANet_MK1", "task": "age"}, "cannot learn task age"),
    ],
)
def test_bare_weights_with_options_that_do_not_fit(options, pattern, tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=pattern):
        open_member(tmp_path / "a.pth", Expected(**options))


# ------------------------------------------------------------------------------------------------ options and members


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a checkpoint and returns its path."""

    def write(**about) -> Path:
        save_checkpoint(tmp_path / "a.pt", nn.Linear(1, 1), info(**about))
        return tmp_path / "a.pt"

    return write


@pytest.mark.parametrize(
    ("option", "value", "own"),
    [("model_type", "THANet_MK1", "VanillaResNet"), ("backbone", "resnet50", "resnet18"), ("image_size", 64, 32)],
)
def test_an_option_that_contradicts_a_checkpoint(option, value, own, checkpoint):
    path = checkpoint()
    with pytest.raises(UserError, match=rf"^{path} is .* --{option.replace('_', '-')} {own}, not {value}\."):
        open_member(path, Expected(**{option: value}))


def test_options_that_agree_or_were_not_typed(checkpoint):
    agreeing = {"task": "mask", "model_type": "VanillaResNet", "backbone": "resnet18", "image_size": 32}
    for options in ({}, agreeing):  # the default network and task are others
        assert open_member(checkpoint(), Expected(**options)).info == info()


@pytest.mark.parametrize("task", ["main", "gender", "age"])
def test_a_task_that_a_checkpoint_cannot_predict(task, checkpoint):
    with pytest.raises(UserError, match=rf"checkpoint of task mask and cannot predict task {task}\."):
        open_member(checkpoint(), Expected(task=task))


def test_a_checkpoint_with_several_heads_predicts_its_attributes(checkpoint):
    path = checkpoint(task="main", model_type="THANet_MK1", backbone="resnet18")
    for task in ("main", "mask", "gender", "ageg"):
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
    with pytest.raises(UserError, match=r"train\.py --task gender --model-type VanillaResNet, or .*--load-state-dict"):
        find_single("gender", "VanillaResNet")
