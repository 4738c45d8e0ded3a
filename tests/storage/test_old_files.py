"""Files that an earlier version wrote are still read; parts of some are stored in files/."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from descriptions import info
from samples import decode_class

from config import TrainConfig
from data.faces import FACES, MASK
from model import create_model
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.members import Expected, open_member
from storage.run_folder import RunFolder
from training.fold import build_network, read_weights
from training.fold_state import FoldFiles
from utils import UserError

FILES = Path(__file__).with_name("files")


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run of which one epoch of two is trained."""
    folder = RunFolder(tmp_path / "run")
    folder.fold(0).mkdir(parents=True)
    shutil.copy(FILES / "config.json", folder.config)
    shutil.copy(FILES / "resume.state", folder.state(0))
    return folder


def test_a_checkpoint_describes_its_network():
    weights, info = load_checkpoint(FILES / "checkpoint.pt")
    assert (info.task, info.model_type, info.backbone) == ("main", "JointHeads", "shufflenet_v2_x0_5")
    assert (info.image_size, info.transform_type, info.crop_scale, info.epoch) == (32, "random", 0.35, 1)
    assert info.score == info.scores["macro_f1"] > 0
    own = info.build().state_dict()
    assert {name: value.shape for name, value in weights.items()} == {name: own[name].shape for name in weights}
    assert len(weights) == 28


def test_options_that_no_longer_exist_do_not_stop_a_run(run):
    """This config.json has an option that is gone and a choice of --cache that is gone."""
    stored, config = json.loads(run.config.read_text()), run.read_config()
    assert stored["cache"] == "disk"
    assert config.cache == TrainConfig.cache
    known = {name: value for name, value in config.as_dict().items() if name in stored}
    assert {**known, "cache": "disk", "folds": None} == {name: stored[name] for name in known}


def test_a_choice_that_changes_results_is_not_replaced(run):
    run.config.write_text(json.dumps(json.loads(run.config.read_text()) | {"lr_scheduler": "steps"}))
    with pytest.raises(UserError, match=r"config\.json does not hold the options of a run \(--lr-scheduler must be"):
        run.read_config()


def fold_of(classes):
    """Return data whose only fold validates an image of each of these classes of main."""
    mask, gender, ageg = decode_class(np.array(classes))
    table = pd.DataFrame({"mask": mask, "gender": gender, "ageg": ageg, "age": 15 + 30 * ageg})
    split = SimpleNamespace(fingerprint="d86e7050681348db", folds=[None])
    return SimpleNamespace(tasks=FACES, split=split, fold_tables=lambda fold: (table, table))


def test_a_resume_state_is_refused_if_its_scores_count_absent_classes(run):
    with pytest.raises(
        UserError, match=r"counted classes .* fold 0 has no images of bare female >=60 to validate. Delete"
    ):
        FoldFiles(run.read_config(), run, fold_of(range(17)), 0)


def test_a_resume_state_continues_the_fold(run):
    files = FoldFiles(run.read_config(), run, fold_of(range(18)), 0)
    assert (files.state["epoch"], files.state["images"], len(files.state["losses"])) == (1, 16, 1)
    assert files.state["rows"][0]["macro_f1"] == files.checkpoints.kept[0][1] == pytest.approx(0.03907, abs=1e-5)
    assert files.checkpoints.kept[0][2] == "epoch001_f1-0.0391.pt"
    assert files.state["best"].shape == (84, 18)


# ------------------------------------------------------------------------------------------------ library networks


@pytest.fixture
def logits_checkpoint(tmp_path):
    """A checkpoint of VanillaTorchvision as earlier versions wrote it, with its head on ImageNet logits."""
    options = {"backbone": "shufflenet_v2_x0_5", "image_size": 32}
    made = {"task": MASK, "tasks": FACES, "pretrained": False, "on_logits": True}
    network = create_model("VanillaTorchvision", **made, **options).eval()
    path = tmp_path / "old.pt"
    save_checkpoint(path, network, info(model_type="VanillaTorchvision", **options))
    content = torch.load(path, weights_only=True)
    for name in ("pooled", "architecture", "interpolation", "crop_share"):
        del content["info"][name]
    torch.save(content, path)
    return path, network


def test_a_network_of_an_earlier_version_keeps_its_head_and_its_pixels(logits_checkpoint):
    path, network = logits_checkpoint
    member, batch = open_member(path), torch.randn(2, 3, 32, 32)
    assert (member.info.interpolation, member.info.crop_share, member.info.pooled) == ("bilinear", None, False)
    with torch.no_grad():
        assert torch.equal(member.load().eval()(batch)["mask"], network(batch)["mask"])


def test_bare_weights_of_an_earlier_version_keep_their_head_and_their_pixels(logits_checkpoint, tmp_path):
    _, network = logits_checkpoint
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    expected = Expected("mask", "VanillaTorchvision", "shufflenet_v2_x0_5", 32)
    member = open_member(tmp_path / "bare.pth", expected)
    assert (member.info.interpolation, member.info.crop_share, member.info.pooled) == ("bilinear", None, False)
    member.load()


def test_training_continues_an_earlier_head_unless_it_is_new(logits_checkpoint):
    path, _ = logits_checkpoint
    words = {"model_type": "VanillaTorchvision", "backbone": "shufflenet_v2_x0_5", "task": "mask", "image_size": 32}
    for new_head, pooled in ((False, False), (True, True)):
        config = TrainConfig(**words, load_state_dict=str(path), new_head=new_head)
        network, left_out = build_network(config, read_weights(config, 0))
        assert network.pooled == pooled
        assert bool(left_out) == new_head
