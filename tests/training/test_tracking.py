"""Trackers: what TensorBoard and Weights & Biases are given, with stand-ins that write down their calls."""

from __future__ import annotations

import json
import sys
import types

import pandas as pd
import pytest

from config import TrainConfig
from storage.run_folder import RunFolder
from training.fold_state import FoldFiles
from training.tracking import PROJECT, Tracker

SCALARS = ["lr", "train_loss", "valid_loss", "macro_f1", "accuracy", "images_per_s", "seconds"]


class Stream:
    """One writer of TensorBoard or one run of wandb: how it was opened, what it was given, and how it ended."""

    def __init__(self, **options):
        self.options, self.logged, self.flushed, self.closed = options, [], 0, None

    def add_scalar(self, name, value, step):
        self.logged.append((step, {name: value}))

    def flush(self):
        self.flushed = len(self.logged)

    def close(self):
        self.closed = 0

    def log(self, scalars, *, step, commit):
        assert commit
        self.logged.append((step, scalars))

    def finish(self, exit_code):
        self.closed = exit_code

    def steps(self):
        return [step for step, _ in self.logged]

    def values(self):
        """{step: {name: value}}"""
        found = {}
        for step, scalars in self.logged:
            found.setdefault(step, {}).update(scalars)
        return found


@pytest.fixture
def boards(monkeypatch):
    """The event files that were written, in order; the library itself need not be there."""
    opened = []

    def writer(folder, purge_step):
        opened.append(Stream(folder=folder, purge_step=purge_step))
        return opened[-1]

    library = types.ModuleType("torch.utils.tensorboard")
    library.SummaryWriter = writer
    monkeypatch.setitem(sys.modules, library.__name__, library)
    return opened


@pytest.fixture
def wandb_runs(monkeypatch):
    """The runs that wandb was asked for, in order; the library itself need not be there."""
    opened = []

    def init(**options):
        opened.append(Stream(**options))
        return opened[-1]

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")  # so that what the tracker sets is taken back
    library = types.ModuleType("wandb")
    library.init, library.teardown = init, lambda: None
    monkeypatch.setitem(sys.modules, "wandb", library)
    return opened


@pytest.fixture
def train(run, small_data, tiny_training, tmp_path):
    """train(*words) trains a single run of two epochs."""

    def command(*words):
        options = ("--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--epochs", 2)
        return run("train", *tiny_training, *options, *words)

    return command


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models" / "main" / "single-VanillaTorchvision"


@pytest.fixture
def cut(train, monkeypatch):
    """cut(*words) trains until the second epoch is logged and tracked, but its state is not saved."""

    def command(*words):
        write = FoldFiles.write_state

        def interrupt(files, within):
            if files.epoch == 2:
                raise KeyboardInterrupt
            write(files, within)

        with monkeypatch.context() as patch:
            patch.setattr(FoldFiles, "write_state", interrupt)
            assert train(*words).code == 130

    return command


def logged(folder, fold=0):
    """What log.csv says of a fold: {epoch: {column: value}}."""
    rows = pd.read_csv(folder / "log.csv")
    rows = rows[rows["fold"] == fold].set_index("epoch").drop(columns="fold")
    return rows.to_dict("index")


# ------------------------------------------------------------------------------------------------ both


@pytest.mark.parametrize(("tracker", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
@pytest.mark.parametrize("there", [None, types.ModuleType("a folder of that name")], ids=["absent", "a folder"])
def test_a_library_that_is_not_installed_is_told_before_anything_is_written(
    tracker, module, there, train, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, there)
    outcome = train("--tracker", tracker)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"--tracker {tracker} needs its library" in outcome.err
    assert f"pip install {tracker}, or leave --tracker out." in outcome.err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_each_fold_is_a_stream_of_the_columns_of_the_log(tracker, train, boards, wandb_runs, folder):
    assert train("--cv", 2, "--tracker", tracker).code == 0
    folder = folder.with_name("kfold-ensemble-VanillaTorchvision")
    streams = boards or wandb_runs
    assert len(streams) == 3
    for fold, stream in enumerate(streams[:2]):
        values = stream.values()
        assert list(values) == [1, 2]
        assert list(values[1]) == SCALARS
        assert values == {epoch: pytest.approx(row, rel=1e-6) for epoch, row in logged(folder, fold).items()}
        assert stream.closed == 0
    summary = json.loads((folder / "summary.json").read_text())
    names = ("macro_f1", "accuracy")
    scores = {f"{part}/{name}": summary[part][name] for part in ("mean", "oof") for name in names}
    scores |= {f"{part}/{name}": each[name]["value"] for part, each in summary["estimates"].items() for name in names}
    assert "corrected/macro_f1" in scores
    assert streams[2].values() == {2: scores}


def test_the_scores_of_age_are_tracked_too(train, boards):
    assert train("--task", "age", "--tracker", "tensorboard").code == 0
    assert {"macro_f1", "accuracy", "mae", "rmse"} < boards[0].values()[1].keys()
    assert "oof/rmse" in boards[1].values()[2]


def test_the_closing_scores_wait_for_all_folds(train, boards):
    assert train("--cv", 2, "--folds", 0, "--tracker", "tensorboard").code == 0
    assert len(boards) == 1
    assert train("--cv", 2, "--folds", 1, "--tracker", "tensorboard", "--resume").code == 0
    assert [stream.options["folder"].rsplit("/")[-1] for stream in boards] == ["fold00", "fold01", "summary"]


def test_a_tracker_that_fails_is_told_once_and_costs_the_training_nothing(train, wandb_runs, folder, monkeypatch):
    def fail(*values, **options):
        raise ConnectionResetError("Connection lost\nand more")

    monkeypatch.setattr(Stream, "log", fail)
    outcome = train("--cv", 2, "--tracker", "wandb")
    assert outcome.code == 0, outcome.err
    printed = [line for line in outcome.out.splitlines() if "tracking stopped" in line]
    assert printed[0] == "wandb of fold00: tracking stopped (Connection lost). The run's own files are complete."
    assert [line.split(":")[0] for line in printed] == ["wandb of fold00", "wandb of fold01", "wandb of summary"]
    assert len(logged(folder.with_name("kfold-ensemble-VanillaTorchvision"), fold=1)) == 2


def test_an_event_file_that_cannot_be_written_costs_the_training_nothing(train, boards, folder, monkeypatch):
    def full(stream):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Stream, "flush", full)
    outcome = train("--tracker", "tensorboard")
    assert outcome.code == 0, outcome.err
    assert "tensorboard of fold00: tracking stopped ([Errno 28] No space left on device)" in outcome.out


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_only_the_main_process_tracks(tracker, boards, wandb_runs, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    with Tracker(TrainConfig(tracker=tracker), RunFolder(tmp_path), "fold00", [{"fold": 0, "epoch": 1}]) as stream:
        stream.log({"fold": 0, "epoch": 2})
    assert not boards + wandb_runs
    assert not list(tmp_path.iterdir())


def test_the_tracker_may_change_between_the_parts_of_a_run_and_shows_what_was_before(cut, train, wandb_runs, folder):
    cut()
    assert not (folder / "wandb").exists()
    assert train("--tracker", "wandb", "--resume").code == 0
    assert wandb_runs[0].steps() == [1, 2]


def test_tracking_changes_nothing_else(train, run, boards, wandb_runs, folder, tmp_path):
    assert train("--cv", 2, "--epochs", 1).code == 0
    folder = folder.with_name("kfold-ensemble-VanillaTorchvision")
    plain = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.pt")}
    earlier = None
    for tracker in ("tensorboard", "wandb"):
        assert train("--cv", 2, "--epochs", 1, "--tracker", tracker, "--overwrite").code == 0
        assert earlier is None or not (folder / earlier).exists()
        (folder / tracker).mkdir(exist_ok=True)  # as the library itself would have
        assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.pt")} == plain
        assert train("--cv", 2, "--epochs", 1, "--resume").code == 0
        assert run("join_folds", "--root", folder).code == 0
        earlier = tracker


# ------------------------------------------------------------------------------------------------ TensorBoard


def test_an_epoch_is_on_the_disk_when_it_is_told(train, boards, monkeypatch):
    found = []
    monkeypatch.setattr(FoldFiles, "write_state", lambda *values: found.append((boards[0].flushed, boards[0].steps())))
    train("--tracker", "tensorboard")
    assert found == [(len(steps), steps) for _, steps in found]
    assert [set(steps) for _, steps in found] == [{1}, {1, 2}]


def test_event_files_of_a_run_that_is_cut_and_resumed_begin_anew(cut, train, boards, folder):
    cut("--tracker", "tensorboard")
    assert boards[0].closed == 0
    assert train("--tracker", "tensorboard", "--resume").code == 0
    assert [stream.options for stream in boards[:2]] == [
        {"folder": str(folder / "tensorboard" / "fold00"), "purge_step": 0}
    ] * 2
    assert list(boards[1].values()) == [1, 2]


def test_tensorboard_reads_every_epoch_of_a_cut_run_once(cut, train, folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cut("--tracker", "tensorboard")
    (file,) = (folder / "tensorboard" / "fold00").iterdir()
    file.write_bytes(file.read_bytes()[:-3])  # as one that was killed in the middle of writing leaves it
    assert train("--tracker", "tensorboard", "--resume").code == 0
    events = EventAccumulator(str(folder / "tensorboard" / "fold00"))
    events.Reload()
    assert events.Tags()["scalars"] == SCALARS
    for name in SCALARS:
        found = {event.step: event.value for event in events.Scalars(name)}
        assert len(events.Scalars(name)) == 2
        assert found == pytest.approx({epoch: row[name] for epoch, row in logged(folder).items()}, rel=1e-6)


# ------------------------------------------------------------------------------------------------ Weights & Biases


def test_wandb_gets_a_run_a_fold_in_one_group_with_its_files_in_the_folder_of_the_run(train, wandb_runs, folder):
    assert train("--cv", 2, "--lr", 0.001, "--tracker", "wandb").code == 0
    folder = folder.with_name("kfold-ensemble-VanillaTorchvision")
    for stream, name in zip(wandb_runs, ("fold00", "fold01", "summary"), strict=True):
        options = stream.options
        assert (options["project"], options["dir"], options["resume"]) == (PROJECT, str(folder), "allow")
        assert options["name"] == f"kfold-ensemble-VanillaTorchvision {name}"
        assert options["config"]["lr"] == 0.001
        assert json.loads((folder / "wandb" / f"{name}.json").read_text()) == {"id": options["id"], "epochs": 2}
    assert len({stream.options["id"] for stream in wandb_runs}) == 3
    assert len({stream.options["group"] for stream in wandb_runs}) == 1
    assert wandb_runs[0].options["group"].startswith("main-kfold-ensemble-VanillaTorchvision-")


def test_wandb_projects_are_named_by_the_environment(train, wandb_runs, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "masks")
    assert train("--epochs", 1, "--tracker", "wandb").code == 0
    assert {stream.options["project"] for stream in wandb_runs} == {"masks"}


def test_a_run_that_is_cut_goes_on_in_the_same_wandb_run_with_every_epoch_once(cut, train, wandb_runs, folder):
    cut("--tracker", "wandb")
    assert wandb_runs[0].closed == 1  # as failed
    assert wandb_runs[0].steps() == [1, 2]
    assert train("--tracker", "wandb", "--resume").code == 0
    again = wandb_runs[1]
    assert again.options["id"] == wandb_runs[0].options["id"]
    assert again.steps() == []
    assert again.closed == 0
    train("--tracker", "wandb", "--overwrite")
    assert wandb_runs[3].options["id"] != again.options["id"]
    assert wandb_runs[3].steps() == [1, 2]


def test_without_a_connection_wandb_goes_on_offline_and_says_so(train, wandb_runs, monkeypatch):
    init = sys.modules["wandb"].init

    def unreachable(**options):
        if options.get("mode") != "offline":
            raise RuntimeError("No API key configured. Use `wandb login` to log in.")
        return init(**options)

    monkeypatch.setattr(sys.modules["wandb"], "init", unreachable)
    outcome = train("--tracker", "wandb")
    assert outcome.code == 0
    printed = (
        "wandb cannot be reached for fold00 (No API key configured. Use `wandb login` to log in): continuing offline"
    )
    assert printed in outcome.out
    assert wandb_runs[0].steps() == [1, 2]
