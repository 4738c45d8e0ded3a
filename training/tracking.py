"""Track the scores of every epoch in TensorBoard or Weights & Biases (--tracker)."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from config import TrainConfig
from storage.run_folder import RunFolder
from utils import UserError, file_digest, first_line, make_folder, process_number, read_json, write_json

PROJECT = "face-attributes"  # project in wandb; WANDB_PROJECT replaces it
FINISH_SECONDS = "60"  # seconds to send the rest when a stream ends; by default wandb waits forever
NEEDED = {"tensorboard": ("torch.utils.tensorboard", "SummaryWriter"), "wandb": ("wandb", "init")}


def check_tracker(config: TrainConfig) -> None:
    """Raise a UserError if the library of --tracker cannot be imported."""
    if config.tracker not in NEEDED:
        return
    module, name = NEEDED[config.tracker]
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:  # AttributeError: a folder of that name
        raise UserError(
            f"--tracker {config.tracker} needs its library, which cannot be imported ({first_line(error)}). "
            f"Run: pip install {config.tracker}, or leave --tracker out."
        ) from None


class Tracker:
    """A context manager that tracks the rows of log.csv as one stream, in the main process.

    If the library fails, tracking stops with one message and training continues. The stream has a name, as in fold00;
    of `rows`, the epochs that are trained already, those that were not tracked are added.
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
        except Exception as error:  # the library uses disks and servers: it can raise anything
            self.sink = None
            print(f"{self.what}: tracking stopped ({first_line(error)}). The run's own files are complete.", flush=True)
            return None


class TensorBoard:
    """Event files in the run's folder, in `tensorboard/fold00` and so on."""

    def __init__(self, config: TrainConfig, run: RunFolder, stream: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Earlier events are purged and written again from the rows: an interrupted epoch would be there twice, and one
        # that was trained without --tracker not at all.
        self.writer = SummaryWriter(str(run.path / "tensorboard" / stream), purge_step=0)

    def log(self, epoch: int, scalars: dict[str, float]) -> None:
        """Write the scalars of an epoch."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()  # so that a killed run has it

    def close(self, *, failed: bool) -> None:
        """Close the event file."""
        self.writer.close()


class WeightsAndBiases:
    """A wandb run per fold, grouped by training; its files are in the run's folder `wandb`.

    The file `fold00.json` there keeps the id, to continue after an interruption, and the number of epochs, which wandb
    does not know while it is offline.
    """

    def __init__(self, config: TrainConfig, run: RunFolder, stream: str) -> None:
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)  # read by wandb.init
        import wandb

        self.file = make_folder(run.path / "wandb") / f"{stream}.json"
        new = {"id": f"{secrets.token_hex(4)}-{stream}", "epochs": 0}
        self.state = read_json(self.file, tuple(new)) if self.file.exists() else new
        write_json(self.file, self.state)
        start = partial(
            wandb.init,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=f"{config.task}-{run.name}-{file_digest(run.config)[:8]}",
            name=f"{run.name} {stream}",
            id=self.state["id"],
            resume="allow",
            reinit="create_new",  # not the unfinished run of another fold
            config=config.as_dict(),
            allow_val_change=True,  # some options may change on --resume
            dir=str(run.path),
        )
        try:
            self.run = start()
        except Exception as error:  # no API key, no network, no such project
            print(f"wandb cannot be reached for {stream} ({first_line(error)}): continuing offline.", flush=True)
            wandb.teardown()  # otherwise the id stays in use
            self.run = start(mode="offline")

    def log(self, epoch: int, scalars: dict[str, float]) -> None:
        """Log the scalars of an epoch that was not logged yet."""
        if epoch > self.state["epochs"]:
            self.run.log(scalars, step=epoch, commit=True)
            self.state["epochs"] = epoch
            write_json(self.file, self.state)

    def close(self, *, failed: bool) -> None:
        """Send the rest, and end the run as finished or failed."""
        self.run.finish(exit_code=int(failed))


SINKS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def track_summary(config: TrainConfig, run: RunFolder, summary: dict[str, Any]) -> None:
    """Track the closing scores of a run with all folds finished, as a stream with one step."""
    if summary["folds_finished"] < summary["folds_planned"]:
        return
    names = config.record.scores
    scores = {f"{part}/{name}": summary[part][name] for part in ("mean", "oof") for name in names}
    estimates = ((part, name, each) for part, found in summary["estimates"].items() for name, each in found.items())
    scores |= {f"{part}/{name}": each["value"] for part, name, each in estimates if name in names}
    with Tracker(config, run, "summary", [{"epoch": config.epochs, **scores}]):
        pass
