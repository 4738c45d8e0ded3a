"""The files of one fold: its checkpoints, log, out-of-fold predictions, and the state that it is taken up from."""

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
from storage.checkpoint import BestKeeper, ModelInfo, read_file, save_checkpoint, write_tensors
from storage.resume import lasting_options
from storage.run_folder import RunFolder, prediction_columns
from training.distributed import ALONE, Processes
from utils import UserError, library_versions, shorten_list

STATE_FORMAT = 1  # of the file that a fold is resumed from
STATE_KEYS = {"format", "split", "epoch", "rows", "kept", "best"}  # what the file holds
STATE_KEYS_WITHIN = STATE_KEYS | {  # and what more until the fold is finished
    *("network", "optimizer", "scheduler", "random", "images", "seconds", "losses", "rates", "machine", "scaler")
}


class FoldFiles:
    """Reads and writes the files of one fold; of several processes the main one writes, and the others do nothing.

    Args:
        config: the options of the run. run: its folder. data: what it is trained on. number: of the fold.
        dist: the processes that train it, which all have to make this.

    Raises:
        UserError: the fold's state is damaged or of another run.
    """

    def __init__(self, config: TrainConfig, run: RunFolder, data: Data, number: int, dist: Processes = ALONE) -> None:
        self.config, self.run, self.number, self.main = config, run, number, dist.is_main
        self.task, self.fingerprint = TASKS[config.task], data.split.fingerprint
        self.train_table, self.valid_table = data.fold_tables(data.split.folds[number])
        self.state: dict[str, Any] = dist.run_on_main(self._read_state)  # empty where the fold was not begun
        self.keeper = BestKeeper(
            run.fold(number),
            config.top_n,
            monitor=self.task.monitor,
            higher_is_better=self.task.higher_is_better,
            kept=self.state.get("kept", ()),
        )

    def _read_state(self) -> dict[str, Any]:
        path = self.run.state(self.number)
        if not path.exists():
            return {}
        try:
            state = read_file(path)
        except UserError as error:
            raise UserError(f"{error} Delete it to train the fold anew.") from None
        state = state if isinstance(state, dict) else {}
        finished = state.get("epoch") == self.config.epochs
        if (
            not (STATE_KEYS if finished else STATE_KEYS_WITHIN) <= state.keys()
            or state["format"] != STATE_FORMAT
            or state["epoch"] not in range(self.config.epochs + 1)
        ):
            raise UserError(f"{path} is no state of this run and toolkit; delete it to train the fold anew.")
        if state["split"] != self.fingerprint:
            raise UserError(
                f"{path} belongs to another split ({state['split']}, this run's is {self.fingerprint}); put the right "
                "one back, or delete it to train the fold anew."
            )
        return state

    def check(self) -> None:
        """Refuse a fold of which files are gone: the scores of a run would quietly miss them.

        Raises:
            UserError: they are.
        """
        if not self.main:
            return
        run, number, epoch = self.run, self.number, self.state.get("epoch", 0)
        needed = [run.fold(number) / name for *_, name in self.keeper.kept]
        if needed:
            needed = [run.fold_log(number), run.fold_oof(number), *needed]
        gone = [path.name for path in needed if not path.is_file()]
        if gone:
            what = "a finished fold" if epoch == self.config.epochs else f"a fold of {epoch} epochs"
            raise UserError(
                f"{run.fold(number)} is {what} without {shorten_list(gone)}; put it back, or delete the folder to train the "
                "fold again."
            )
        self.remove_others()

    def offer(self, epoch: int, scores: dict[str, float], network: Network) -> tuple[Path | None, bool]:
        """Save the weights of an epoch if they are among the best: their path or None, and whether they are the best.

        Those that they replace stay on disk until `remove_others`.
        """

        def save(path: Path) -> None:
            if self.main:
                save_checkpoint(path, network, self._describe(epoch, scores))

        path = self.keeper.offer(epoch, scores[self.task.monitor], save)
        return path, path is not None and path.name == self.keeper.kept[0][2]

    def remove_others(self) -> None:
        """Delete checkpoints that are not kept, once the state names no other ones."""
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
        """Write what the best epoch answers of the validation images, `(N, C)`."""
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
        answers = prediction_columns(self.config.task, probabilities)
        self.run.write_fold_oof(self.number, pd.concat([about, answers], axis=1))

    def write_answers(self, epoch: int, probabilities: np.ndarray) -> None:
        """Write what an epoch answers of the validation images, `(N, C)`."""
        if self.main:
            self.run.write_epoch_predictions(self.number, epoch, probabilities)

    def write_log(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows of the epochs so far."""
        if self.main:
            self.run.write_fold_log(self.number, rows)

    def write_state(self, epoch: int, rows: list[dict[str, Any]], best: torch.Tensor | None, within: dict) -> None:
        """Write what the fold is taken up from.

        Args:
            epoch: how many epochs are done. rows: of the log. best: what the best one answers out of fold.
            within: what more there is to take up until the fold is finished.
        """
        if not self.main:
            return
        state = {"format": STATE_FORMAT, "split": self.fingerprint, "epoch": epoch, "rows": rows, "best": best}
        write_tensors(self.run.state(self.number), state | {"kept": self.keeper.kept} | within)
