"""Read and write the files of one fold: checkpoints, log, out-of-fold predictions and resume state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from config import TrainConfig
from data.label_math import make_targets
from data.prepare import Data
from data.tasks import TASKS
from model import Network
from storage.checkpoint import BestKeeper, ModelInfo, read_tensors, save_checkpoint, write_tensors
from storage.resume import lasting_options
from storage.run_folder import RunFolder, prediction_columns
from training.distributed import ALONE, Processes
from utils import UserError, library_versions, shorten_list

STATE_FORMAT = 1
STATE_KEYS = {"format", "split", "epoch", "rows", "kept", "best"}  # of every resume state
UNFINISHED_KEYS = STATE_KEYS | {  # of the state of a fold that is not finished
    *("network", "optimizer", "scheduler", "random", "images", "seconds", "losses", "rates", "machine", "scaler")
}


class FoldFiles:
    """The files of one fold. Only the main process writes; the methods of the others do nothing.

    Args:
        config: the options of the run.
        run: the folder of the run.
        data: the images and the split.
        number: the fold.
        dist: the processes that train the fold; all of them must create this object.

    Raises:
        UserError: the resume state is damaged or belongs to another run.
    """

    def __init__(self, config: TrainConfig, run: RunFolder, data: Data, number: int, dist: Processes = ALONE) -> None:
        self.config, self.run, self.number, self.main = config, run, number, dist.is_main
        self.task, self.fingerprint = TASKS[config.task], data.split.fingerprint
        self.train_table, self.valid_table = data.fold_tables(data.split.folds[number])
        self.state: dict[str, Any] = dist.run_on_main(self._read_state)  # empty if the fold was not started
        self.keeper = BestKeeper(
            run.fold(number),
            config.top_n,
            monitor=self.task.monitor,
            higher_is_better=self.task.higher_is_better,
            kept=self.state.get("kept", ()),
        )

    def _read_state(self) -> dict[str, Any]:
        path, advice = self.run.state(self.number), "Delete it to train the fold again."
        if not path.exists():
            return {}
        state = read_tensors(path, advice)
        state = state if isinstance(state, dict) else {}
        needed = STATE_KEYS if state.get("epoch") == self.config.epochs else UNFINISHED_KEYS
        if (
            not needed <= state.keys()
            or state["format"] != STATE_FORMAT
            or state["epoch"] not in range(self.config.epochs + 1)
        ):
            raise UserError(f"{path} is not a resume state of this run and this toolkit. {advice}")
        if state["split"] != self.fingerprint:
            raise UserError(
                f"{path} belongs to another split ({state['split']}, this run's is {self.fingerprint}). Restore the "
                "right file, or delete it to train the fold again."
            )
        return state

    def check(self) -> None:
        """Check that the files of the fold's finished epochs exist; without them the scores would lack the fold.

        Raises:
            UserError: a file is missing.
        """
        if not self.main:
            return
        run, number, epoch = self.run, self.number, self.state.get("epoch", 0)
        needed = [run.fold(number) / name for *_, name in self.keeper.kept]
        if needed:
            needed = [run.fold_log(number), run.fold_oof(number), *needed]
        missing = [path.name for path in needed if not path.is_file()]
        if missing:
            what = "a finished fold" if epoch == self.config.epochs else f"a fold of {epoch} epochs"
            raise UserError(
                f"{run.fold(number)} is {what} without {shorten_list(missing)}. Restore the missing files, or delete "
                "the folder to train the fold again."
            )
        self.remove_others()

    def offer(self, epoch: int, scores: dict[str, float], network: Network) -> tuple[Path | None, bool]:
        """Save the weights of an epoch if they are among the best.

        The checkpoints that they replace stay on disk until `remove_others`.

        Returns:
            Their path or None, and whether they are the best.
        """

        def save(path: Path) -> None:
            if self.main:
                save_checkpoint(path, network, self._describe(epoch, scores))

        path = self.keeper.offer(epoch, scores[self.task.monitor], save)
        return path, path is not None and path.name == self.keeper.kept[0][2]

    def remove_others(self) -> None:
        """Delete the checkpoints that are not kept, which the resume state must not name any more."""
        if self.main:
            self.keeper.remove_others()

    def _describe(self, epoch: int, scores: dict[str, float]) -> ModelInfo:
        config, targets = self.config, make_targets(self.train_table, age_filter=self.config.age_filter)
        counts = {
            name: np.bincount(targets[name], minlength=task.outputs).tolist()
            for name, task in TASKS.items()
            if not task.regression
        }
        return ModelInfo(
            task=config.task,
            model_type=config.model_type,
            backbone=config.backbone,
            image_size=config.image_size,
            transform_type=config.transform_type,
            crop_scale=config.crop_scale,
            inference_crop=config.inference_crop,
            classes=self.task.classes,
            fold=self.number,
            epoch=epoch,
            scores=scores,
            monitor=self.task.monitor,
            higher_is_better=self.task.higher_is_better,
            split_fingerprint=self.fingerprint,
            training_counts=counts,
            training_age=float(np.median(targets["age"])),
            config=lasting_options(config),
            versions=library_versions(),
        )

    def write_oof(self, probabilities: np.ndarray) -> None:
        """Write the best epoch's predictions of the validation images, `(N, C)`."""
        if not self.main:
            return
        about = pd.DataFrame(
            {
                "ImageID": self.valid_table["image"],
                "person": self.valid_table["person"],
                "fold": self.number,
                "label": make_targets(self.valid_table)[self.config.task],
            }
        )
        predictions = prediction_columns(self.config.task, probabilities)
        self.run.write_fold_oof(self.number, pd.concat([about, predictions], axis=1))

    def write_predictions(self, epoch: int, probabilities: np.ndarray) -> None:
        """Write an epoch's predictions of the validation images, `(N, C)`."""
        if self.main:
            self.run.write_epoch_predictions(self.number, epoch, probabilities)

    def write_log(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows of the finished epochs."""
        if self.main:
            self.run.write_fold_log(self.number, rows)

    def write_state(self, epoch: int, rows: list[dict[str, Any]], best: torch.Tensor | None, within: dict) -> None:
        """Write the state from which the fold is resumed.

        Args:
            epoch: the number of finished epochs.
            rows: the rows of the log.
            best: the best epoch's predictions of the validation images, `(N, C)`.
            within: the UNFINISHED_KEYS until the fold is finished.
        """
        if not self.main:
            return
        state = {"format": STATE_FORMAT, "split": self.fingerprint, "epoch": epoch, "rows": rows, "best": best}
        write_tensors(self.run.state(self.number), state | {"kept": self.keeper.kept} | within)
