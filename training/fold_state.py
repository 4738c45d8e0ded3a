"""Read and write the files of one fold: checkpoints, log, out-of-fold predictions and resume state."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.metrics import absent_classes
from config import TrainConfig
from data.faces import AGE
from data.label_math import make_targets
from data.prepare import Data
from model import Network
from storage.best_checkpoints import BestCheckpoints, is_finished
from storage.checkpoint import ModelInfo, read_tensors, save_checkpoint, write_tensors
from storage.run_folder import RunFolder, lasting_options, prediction_columns
from training.distributed import ALONE, Processes
from utils import UserError, library_versions, shorten_list

STATE_FORMAT = 2  # 1 is read too; its scores count a class without images as 0
STATE_KEYS = {"format", "split", "epoch", "rows", "kept", "best"}  # of every resume state
UNFINISHED_KEYS = STATE_KEYS | {  # of the state of a fold that is not finished
    *("network", "optimizer", "scheduler", "random", "images", "seconds", "losses", "rates", "machine", "scaler")
}


class FoldFiles:
    """The files of one fold, and the record of its finished epochs. Only the main process writes.

    All processes create it and call its methods. `state` is empty if the fold was not started.

    Raises:
        UserError: the resume state is damaged or belongs to another run.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        data: Data,
        number: int,
        dist: Processes = ALONE,
        *,
        pixels: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.run, self.number, self.main = config, run, number, dist.is_main
        self.pixels = pixels or {}
        self.tasks, self.task, self.fingerprint = data.tasks, config.record, data.split.fingerprint
        self.train_table, self.valid_table = data.fold_tables(data.split.folds[number])
        self.state: dict[str, Any] = dist.run_on_main(self._read_state)
        self.epoch: int = self.state.get("epoch", 0)  # finished epochs
        self.rows: list[dict[str, Any]] = self.state.get("rows", [])  # of the log
        self.best: torch.Tensor | None = self.state.get("best")  # (N, C) out-of-fold predictions of the best epoch
        self.checkpoints = BestCheckpoints(
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
        formats, epochs = (1, STATE_FORMAT), range(self.config.epochs + 1)
        fits = state.keys() >= STATE_KEYS and state["format"] in formats and state["epoch"] in epochs
        finished = fits and self._ends(state["rows"])
        if not fits or not (finished or state.keys() >= UNFINISHED_KEYS):
            raise UserError(f"{path} is not a resume state of this run and this toolkit. {advice}")
        absent, _ = absent_classes(self.task, make_targets(self.valid_table, self.tasks)[self.task.name])
        if state["format"] == 1 and not finished and absent:
            raise UserError(
                f"{path} is of an earlier version, which counted classes without images as 0 in macro F1, and fold "
                f"{self.number} has no images of {shorten_list(absent)} to validate. {advice}"
            )
        if state["split"] != self.fingerprint:
            raise UserError(
                f"{path} belongs to another split ({state['split']}, this run's is {self.fingerprint}). Restore the "
                "right file, or delete it to train the fold again."
            )
        return state

    @property
    def finished(self) -> bool:
        """Return whether the fold is trained to its end, which --patience may bring forward."""
        return self._ends(self.rows)

    def _ends(self, rows: list[dict[str, Any]]) -> bool:
        scores, better = [row[self.task.monitor] for row in rows], self.task.higher_is_better
        return is_finished(scores, epochs=self.config.epochs, patience=self.config.patience, higher_is_better=better)

    def restore(self) -> None:
        """Bring the files of the fold to its finished epochs, whatever an interrupted epoch wrote.

        Raises:
            UserError: a file is missing or truncated, without which the scores would lack the fold.
        """
        if not self.main:
            return
        run, number = self.run, self.number
        needed = [run.fold(number) / name for *_, name in self.checkpoints.kept]
        if needed:
            needed = [run.fold_log(number), run.fold_oof(number), *needed]
        is_whole = {".csv": Path.is_file, ".pt": zipfile.is_zipfile}  # torch writes the directory of the archive last
        missing = [path.name for path in needed if not is_whole[path.suffix](path)]
        if missing:
            what = "a finished fold" if self.finished else f"a fold of {self.epoch} epochs"
            raise UserError(
                f"{run.fold(number)} is {what}, but files are missing or truncated: {shorten_list(missing)}. "
                "Restore them, or delete the folder to train the fold again."
            )
        self.checkpoints.remove_others()
        if self.best is not None:
            self._write_oof(self.best.numpy())  # another machine need not reproduce those of an interrupted epoch

    def save_epoch(self, scores: dict[str, float], predictions: np.ndarray, network: Network) -> Path | None:
        """Write the predictions `(N, C)` of a finished epoch, and its weights if they are among the best.

        The checkpoints that they replace stay on disk until `write_state`, so that a state never names a deleted one.

        Returns:
            The path of the weights, or None.
        """
        self.epoch += 1
        if self.main:
            self.run.write_epoch_predictions(self.number, self.epoch, predictions)

        def save(path: Path) -> None:
            if self.main:
                save_checkpoint(path, network, self._describe(scores, network))

        path = self.checkpoints.offer(self.epoch, scores[self.task.monitor], save)
        if path is not None and path.name == self.checkpoints.kept[0][2]:
            self.best = torch.from_numpy(predictions)
            if self.main:
                self._write_oof(predictions)
        return path

    def log(self, row: dict[str, Any]) -> None:
        """Add the row of a finished epoch to the log."""
        self.rows.append(row)
        if self.main:
            self.run.write_fold_log(self.number, self.rows)

    def write_state(self, within: dict[str, Any]) -> None:
        """Write the state from which the fold is resumed; `within` has the UNFINISHED_KEYS until it is finished."""
        if not self.main:
            return
        state = {"format": STATE_FORMAT, "split": self.fingerprint, "epoch": self.epoch, "rows": self.rows}
        state |= {"best": self.best, "kept": self.checkpoints.kept}
        write_tensors(self.run.state(self.number), state | within)
        self.checkpoints.remove_others()

    def _describe(self, scores: dict[str, float], network: Network) -> ModelInfo:
        config, targets = self.config, make_targets(self.train_table, self.tasks)
        number = self.task.name if self.task.regression else AGE.name
        classes = {name: task.outputs for name, task in self.tasks.items() if not task.regression}
        return ModelInfo(
            task=config.task,
            model_type=config.model_type,
            backbone=config.backbone,
            image_size=config.image_size,
            transform_type=config.transform_type,
            **self.pixels,
            crop_scale=config.crop_scale,
            inference_crop=config.inference_crop,
            pooled=network.pooled,
            architecture=getattr(network.features, "hub_architecture", None),
            classes=self.task.classes,
            labels=config.labels,
            fold=self.number,
            epoch=self.epoch,
            scores=scores,
            monitor=self.task.monitor,
            higher_is_better=self.task.higher_is_better,
            split_fingerprint=self.fingerprint,
            training_counts={name: np.bincount(targets[name], minlength=n).tolist() for name, n in classes.items()},
            training_age=float(np.median(targets[number])) if number in targets else None,
            config=lasting_options(config),
            versions=library_versions(),
        )

    def _write_oof(self, predictions: np.ndarray) -> None:
        table, task = self.valid_table, self.task
        about = {"ImageID": table["image"], "person": table["person"], "fold": self.number}
        about = pd.DataFrame(about | {"label": make_targets(table, self.tasks)[task.name]})
        self.run.write_fold_oof(self.number, pd.concat([about, prediction_columns(task, predictions)], axis=1))
