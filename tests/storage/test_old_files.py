"""Files that an earlier version wrote are still read; parts of some are stored in files/."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from config import TrainConfig
from data.label_math import decode_class
from storage.checkpoint import load_checkpoint
from storage.run_folder import RunFolder
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
    return SimpleNamespace(split=split, fold_tables=lambda fold: (table, table))


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
