"""Trackers: the scores of every epoch, as they come, for TensorBoard or Weights & Biases (--tracker)."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from config import TrainConfig
from data.tasks import TASKS
from storage.run_folder import RunFolder
from utils import UserError, file_digest, first_line, make_folder, process_number, read_json, write_json

PROJECT = "face-attributes"  # in wandb, unless WANDB_PROJECT names another
FINISH_SECONDS = "60"  # how long wandb may still send when a stream ends; by default it would wait for ever
NEEDED = {"tensorboard": ("torch.utils.tensorboard", "SummaryWriter"), "wandb": ("wandb", "init")}


def check_tracker(config: TrainConfig) -> None:
    """Make sure that the library of --tracker is there.

    Raises:
        UserError: it is not.
    """
    if config.tracker not in NEEDED:
        return
    module, name = NEEDED[config.tracker]
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:  # the latter where a folder of that name is taken for the library
        raise UserError(
            f"--tracker {config.tracker} needs its library, which cannot be imported ({first_line(error)}): "
            f"pip install {config.tracker}, or leave --tracker out."
        ) from None


class Tracker:
    """A block in which the rows of log.csv are tracked as one stream; only the main process does.

    What the library cannot do is told, once, and costs the rest of the stream, never the training.

    Args:
        config: the options of the run. run: its folder.
        stream: what the stream is called, as in fold00.
        rows: of the epochs that are trained already, which are tracked where they were not.
    """

    def __init__(self, config: TrainConfig, run: RunFolder, stream: str, rows: Sequence[dict[str, Any]]) -> None:
        self.what = f"{config.tracker} of {stream}"
        self.sink: TensorBoard | WeightsAndBiases | None = None
        if config.tracker in SINKS and process_number() == 0:
            self.sink = self._attempt(lambda: SINKS[config.tracker](config, run, stream))
        for row in rows:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Track one row, whose step is its epoch; everything else in it but the fold is a scalar."""
        scalars = {name: value for name, value in row.items() if name not in ("fold", "epoch")}
        if self.sink is not None:
            self._attempt(lambda: self.sink.log(row["epoch"], scalars))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self.sink is not None:
            self._attempt(lambda: self.sink.close(failed=kind is not None))

    def _attempt(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # whatever a library that talks to disks and servers may raise
            self.sink = None
            print(
                f"{self.what}: nothing more is tracked ({first_line(error)}); the run's own files have all.", flush=True
            )
            return None


class TensorBoard:
    """Event files in the run's folder, `tensorboard/fold00` and so on."""

    def __init__(self, config: TrainConfig, run: RunFolder, stream: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Everything that earlier parts of the run tracked is taken back, and tracked again from the rows: an epoch that
        # was cut after it was tracked would be there twice, one that was trained without --tracker not at all.
        self.writer = SummaryWriter(str(run.path / "tensorboard" / stream), purge_step=0)

    def log(self, epoch: int, scalars: dict[str, float]) -> None:
        """Write the scalars of an epoch."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()  # so that a run that is killed has shown it

    def close(self, *, failed: bool) -> None:
        """Close the event file."""
        self.writer.close()


class WeightsAndBiases:
    """A run in wandb, of the group of its folds; its files go into the folder `wandb` of the run's.

    The file `fold00.json` there keeps its id, to go on with after a cut, and how many epochs it has: wandb itself
    cannot tell while it is offline, and would have those of two parts twice.
    """

    def __init__(self, config: TrainConfig, run: RunFolder, stream: str) -> None:
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)  # read by wandb.init
        import wandb

        self.file = make_folder(run.path / "wandb") / f"{stream}.json"
        new = {"id": f"{secrets.token_hex(4)}-{stream}", "epochs": 0}
        self.state = read_json(self.file, tuple(new)) if self.file.exists() else new
        write_json(self.file, self.state)
        options = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "group": f"{config.task}-{run.name}-{file_digest(run.config)[:8]}",
            "name": f"{run.name} {stream}",
            "id": self.state["id"],
            "resume": "allow",
            "reinit": "create_new",  # and not the run of another fold, should that one not have come to its end
            "config": config.as_dict(),
            "allow_val_change": True,  # some options may change when a run goes on
            "dir": str(run.path),
        }
        try:
            self.run = wandb.init(**options)
        except Exception as error:  # no key, no network, no such project
            print(f"wandb cannot be reached for {stream} ({first_line(error)}): going on offline.", flush=True)
            wandb.teardown()  # else the id counts as in use
            self.run = wandb.init(**options, mode="offline")

    def log(self, epoch: int, scalars: dict[str, float]) -> None:
        """Log the scalars of an epoch that was not logged yet."""
        if epoch > self.state["epochs"]:
            self.run.log(scalars, step=epoch, commit=True)
            self.state["epochs"] = epoch
            write_json(self.file, self.state)

    def close(self, *, failed: bool) -> None:
        """Send what is left, and end the run as finished or failed."""
        self.run.finish(exit_code=int(failed))


SINKS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def track_summary(config: TrainConfig, run: RunFolder, summary: dict[str, Any]) -> None:
    """Track the closing scores of a run whose folds are all finished, as a stream of their own with one step."""
    if summary["folds_finished"] < summary["folds_planned"]:
        return
    names = TASKS[config.task].scores
    scores = {f"{part}/{name}": summary[part][name] for part in ("mean", "oof") for name in names}
    scores |= {f"{part}/{name}": each[name]["value"] for part, each in summary["estimates"].items() for name in names}
    with Tracker(config, run, "summary", [{"epoch": config.epochs, **scores}]):
        pass
