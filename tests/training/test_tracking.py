"""Trackers: the calls that TensorBoard and Weights & Biases get, with stand-ins that record them."""

import json
import sys
import types

import pandas as pd
import pytest

from config import TrainConfig
from data.faces import MAIN
from storage.run_folder import RunFolder
from training.fold_state import FoldFiles
from training.tracking import PROJECT, Tracker

SCALARS = ["lr", "train_loss", "valid_loss", *MAIN.scores, "images_per_s", "seconds"]
LIBRARIES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


class Stream:
    """One writer of TensorBoard or one run of wandb: the options it was opened with, its values, and its exit code."""

    def __init__(self, folder=None, **options):
        self.folder, self.options, self.logged, self.flushed, self.closed = folder, options, [], 0, None

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
        """Return {step: {name: value}}."""
        found = {}
        for step, scalars in self.logged:
            found.setdefault(step, {}).update(scalars)
        return found


@pytest.fixture
def streams(monkeypatch):
    """Replace both libraries and return the streams that were opened, in order."""
    opened = []

    def start(*folder, **options):
        opened.append(Stream(*folder, **options))
        return opened[-1]

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")  # so that the value of the tracker is taken back
    for name in LIBRARIES.values():
        library = types.ModuleType(name)
        library.SummaryWriter, library.init, library.teardown = start, start, lambda: None
        monkeypatch.setitem(sys.modules, name, library)
    return opened


@pytest.fixture
def train(run, small_data, tiny_training, tmp_path):
    """Return train(*words), which trains a single run of two epochs."""

    def command(*words, code=0):
        options = ("--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--epochs", 2)
        outcome = run("train", *tiny_training, *options, *words)
        assert outcome.code == code, outcome.err
        return outcome

    return command


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models" / "main" / "single-VanillaTorchvision"


@pytest.fixture
def folds(folder):
    return folder.with_name("kfold-ensemble-VanillaTorchvision")


@pytest.fixture
def interrupt(train, monkeypatch):
    """Return interrupt(*words), which trains until the second epoch is tracked, but its state is not saved."""

    def command(*words):
        write = FoldFiles.write_state

        def write_or_stop(files, within):
            if files.epoch == 2:
                raise KeyboardInterrupt
            write(files, within)

        with monkeypatch.context() as patch:
            patch.setattr(FoldFiles, "write_state", write_or_stop)
            train(*words, code=130)

    return command


def logged(folder, fold=0):
    """Return the rows of a fold in log.csv: {epoch: {column: value}}."""
    rows = pd.read_csv(folder / "log.csv")
    return rows[rows["fold"] == fold].set_index("epoch").drop(columns="fold").to_dict("index")


# ------------------------------------------------------------------------------------------------ both


@pytest.mark.parametrize("tracker", LIBRARIES)
@pytest.mark.parametrize("module", [None, types.ModuleType("a folder of that name")], ids=["absent", "a folder"])
def test_a_missing_library_is_reported_before_anything_is_written(tracker, module, train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[tracker], module)
    outcome = train("--tracker", tracker, code=2)
    assert outcome.err.count("\n") == 1
    assert f"--tracker {tracker} needs its library" in outcome.err
    assert f"pip install {tracker}, or leave --tracker out." in outcome.err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("tracker", LIBRARIES)
def test_each_fold_and_the_summary_are_a_stream_with_the_columns_of_the_log(tracker, train, streams, folds):
    train("--cv", 2, "--tracker", tracker)
    assert len(streams) == 3
    for fold, stream in enumerate(streams[:2]):
        values = stream.values()
        assert list(values) == [1, 2]
        assert list(values[1]) == SCALARS
        assert values == {epoch: pytest.approx(row, rel=1e-6) for epoch, row in logged(folds, fold).items()}
        assert stream.closed == 0
    summary = json.loads((folds / "summary.json").read_text())
    scores = {f"{part}/{name}": summary[part][name] for part in ("mean", "oof") for name in MAIN.scores}
    for part, each in summary["estimates"].items():
        scores |= {f"{part}/{name}": each[name]["value"] for name in MAIN.scores if name in each}
    assert "corrected/macro_f1" in scores
    assert streams[2].values() == {2: scores}


def test_the_scores_of_age_are_tracked_too(train, streams):
    train("--task", "age", "--tracker", "tensorboard")
    assert {"macro_f1", "accuracy", "mae", "rmse"} < streams[0].values()[1].keys()
    assert "oof/rmse" in streams[1].values()[2]


def test_the_summary_is_tracked_once_all_folds_are_finished(train, streams):
    train("--cv", 2, "--folds", 0, "--tracker", "tensorboard")
    assert len(streams) == 1
    train("--cv", 2, "--folds", 1, "--tracker", "tensorboard", "--resume")
    assert [stream.folder.rsplit("/")[-1] for stream in streams] == ["fold00", "fold01", "summary"]


@pytest.mark.parametrize(
    ("tracker", "method", "error", "message"),
    [
        ("wandb", "log", ConnectionResetError("Connection lost\nand more"), "Connection lost"),
        ("tensorboard", "flush", OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_a_tracker_that_fails_is_reported_once_and_training_continues(
    tracker, method, error, message, train, streams, folds, monkeypatch
):
    def fail(*values, **options):
        raise error

    monkeypatch.setattr(Stream, method, fail)
    printed = [line for line in train("--cv", 2, "--tracker", tracker).out.splitlines() if "tracking stopped" in line]
    assert printed == [
        f"{tracker} of {name}: tracking stopped ({message}). The run's own files are complete."
        for name in ("fold00", "fold01", "summary")
    ]
    assert len(logged(folds, fold=1)) == 2


@pytest.mark.parametrize("tracker", LIBRARIES)
def test_only_the_main_process_tracks(tracker, streams, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    with Tracker(TrainConfig(tracker=tracker), RunFolder(tmp_path), "fold00", [{"fold": 0, "epoch": 1}]) as stream:
        stream.log({"fold": 0, "epoch": 2})
    assert not streams
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_added_on_resume_gets_the_earlier_epochs(interrupt, train, streams, folder):
    interrupt()
    assert not (folder / "wandb").exists()
    train("--tracker", "wandb", "--resume")
    assert streams[0].steps() == [1, 2]


def test_tracking_does_not_change_a_run_or_the_commands_that_read_it(train, run, streams, folds):
    train("--cv", 2, "--epochs", 1)
    plain = {path.relative_to(folds): path.read_bytes() for path in folds.rglob("*.pt")}
    for tracker in LIBRARIES:
        train("--cv", 2, "--epochs", 1, "--tracker", tracker, "--overwrite")
        assert not any((folds / other).exists() for other in LIBRARIES if other != tracker)
        (folds / tracker).mkdir(exist_ok=True)  # as the library itself would have
        assert {path.relative_to(folds): path.read_bytes() for path in folds.rglob("*.pt")} == plain
        train("--cv", 2, "--epochs", 1, "--resume")
        assert run("join_folds", "--root", folds).code == 0


# ------------------------------------------------------------------------------------------------ TensorBoard


def test_an_epoch_is_flushed_before_its_state_is_saved(train, streams, monkeypatch):
    found = []
    monkeypatch.setattr(FoldFiles, "write_state", lambda *_: found.append((streams[0].flushed, streams[0].steps())))
    train("--tracker", "tensorboard")
    assert found == [(len(steps), steps) for _, steps in found]
    assert [set(steps) for _, steps in found] == [{1}, {1, 2}]


def test_event_files_of_a_resumed_run_are_purged_and_written_again(interrupt, train, streams, folder):
    interrupt("--tracker", "tensorboard")
    assert streams[0].closed == 0
    train("--tracker", "tensorboard", "--resume")
    for stream in streams[:2]:
        assert (stream.folder, stream.options) == (str(folder / "tensorboard" / "fold00"), {"purge_step": 0})
    assert list(streams[1].values()) == [1, 2]


def test_tensorboard_reads_every_epoch_of_a_resumed_run_once(interrupt, train, folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupt("--tracker", "tensorboard")
    (file,) = (folder / "tensorboard" / "fold00").iterdir()
    file.write_bytes(file.read_bytes()[:-3])  # as a kill in the middle of a write leaves it
    train("--tracker", "tensorboard", "--resume")
    events = EventAccumulator(str(folder / "tensorboard" / "fold00"))
    events.Reload()
    assert events.Tags()["scalars"] == SCALARS
    for name in SCALARS:
        found = {event.step: event.value for event in events.Scalars(name)}
        assert len(events.Scalars(name)) == 2
        assert found == pytest.approx({epoch: row[name] for epoch, row in logged(folder).items()}, rel=1e-6)


# ------------------------------------------------------------------------------------------------ Weights & Biases


def test_wandb_gets_a_run_per_fold_in_one_group_with_its_files_in_the_run_folder(train, streams, folds):
    train("--cv", 2, "--lr", 0.001, "--tracker", "wandb")
    for stream, name in zip(streams, ("fold00", "fold01", "summary"), strict=True):
        options = stream.options
        assert (options["project"], options["dir"], options["resume"]) == (PROJECT, str(folds), "allow")
        assert options["name"] == f"kfold-ensemble-VanillaTorchvision {name}"
        assert options["config"]["lr"] == 0.001
        assert json.loads((folds / "wandb" / f"{name}.json").read_text()) == {"id": options["id"], "epochs": 2}
    assert len({stream.options["id"] for stream in streams}) == 3
    assert len({stream.options["group"] for stream in streams}) == 1
    assert streams[0].options["group"].startswith("main-kfold-ensemble-VanillaTorchvision-")


def test_a_resumed_run_continues_its_wandb_run_with_every_epoch_once(interrupt, train, streams):
    interrupt("--tracker", "wandb")
    assert (streams[0].steps(), streams[0].closed) == ([1, 2], 1)  # closed as failed
    train("--tracker", "wandb", "--resume")
    assert (streams[1].steps(), streams[1].closed) == ([], 0)
    assert streams[1].options["id"] == streams[0].options["id"]
    train("--tracker", "wandb", "--overwrite")
    assert streams[3].steps() == [1, 2]
    assert streams[3].options["id"] != streams[0].options["id"]


def test_wandb_continues_offline_without_a_connection_in_the_project_of_the_environment(train, streams, monkeypatch):
    init = sys.modules["wandb"].init

    def unreachable(**options):
        if options.get("mode") != "offline":
            raise RuntimeError("No API key configured. Use `wandb login` to log in.")
        return init(**options)

    monkeypatch.setattr(sys.modules["wandb"], "init", unreachable)
    monkeypatch.setenv("WANDB_PROJECT", "masks")
    reason = "No API key configured. Use `wandb login` to log in"
    assert f"wandb cannot be reached for fold00 ({reason}): continuing offline" in train("--tracker", "wandb").out
    assert streams[0].steps() == [1, 2]
    assert streams[0].options["project"] == "masks"
