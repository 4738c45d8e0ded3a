"""The files that a run leaves: their names, and the tables and summary that are made of them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import Config, TrainConfig, UserError, flag, options
from metrics import score
from tasks import TASKS
from utils import library_versions, read_json, some, write_json, write_text

KFOLD, SINGLE = "kfold-ensemble-", "single-"  # followed by the model type
# Options that may change between the parts of one run: they do not change its result.
FREE_OPTIONS = ("folds", "num_workers", "device", "resume", "overwrite", "save_path", "train_root")


class RunFolder:
    """The folder of one run, `<save path>/<task>/kfold-ensemble-<network>` or `.../single-<network>`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.split = self.path / "config.json", self.path / "split.json"
        self.log, self.oof, self.summary = self.path / "log.csv", self.path / "oof.csv", self.path / "summary.json"

    @classmethod
    def of(cls, save_path: str | Path, task: str, model_type: str, *, cv: int) -> RunFolder:
        """The folder that training with these options saves in."""
        return cls(Path(save_path) / task / f"{KFOLD if cv > 1 else SINGLE}{model_type}")

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.path.name

    def fold(self, number: int) -> Path:
        """The folder of one fold."""
        return self.path / f"fold{number:02d}"

    def fold_log(self, number: int) -> Path:
        """The rows of log.csv that belong to one fold."""
        return self.fold(number) / "log.csv"

    def fold_oof(self, number: int) -> Path:
        """The rows of oof.csv that belong to one fold: predictions of its best checkpoint."""
        return self.fold(number) / "oof.csv"

    def state(self, number: int) -> Path:
        """The resume state of one fold; not a .pt file, so that it is never taken for a checkpoint."""
        return self.fold(number) / "resume.state"

    def folds(self) -> dict[int, Path]:
        """The folders fold00 ... that are there, by number."""
        found = {path.name.removeprefix("fold"): path for path in self.path.glob("fold*") if path.is_dir()}
        return {int(digits): found[digits] for digits in sorted(found) if digits.isdecimal()}

    # -------------------------------------------------------------------------------------------- start and resume

    def holds(self, config: TrainConfig) -> bool:
        """Whether the folder holds a part of this run, to be continued; nothing is changed yet.

        Raises:
            UserError: it holds another run, or one that neither --resume nor --overwrite was passed for.
        """
        names = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
        if all(name.startswith(".") or name == self.split.name for name in names):
            return False  # nothing, or a run that was cut in the moment it was begun
        if not self.config.is_file():
            raise UserError(f"{self.path} holds files that are no run of this toolkit; pass another --save-path.")
        if config.overwrite:
            others = sorted(set(self.folds()) - set(config.folds or self.folds()))
            if others:
                raise UserError(
                    f"{self.path} also holds fold {some(others)}, which --overwrite would delete; leave --folds out to "
                    "train all anew, or pass another --save-path."
                )
            return False
        earlier = read_json(self.config)
        if not config.resume:
            raise UserError(
                f"{self.path} already holds a run ({self.describe(earlier)}). Pass --resume to continue it, "
                "--overwrite to delete it and train anew, or another --save-path."
            )
        changed = changed_options(earlier, config)
        if changed:
            raise UserError(
                f"{self.path} was begun with other options: {'; '.join(changed)}. Pass the same to continue it with "
                "--resume, --overwrite to train anew, or another --save-path."
            )
        return True

    def clear(self) -> None:
        """Delete the run in this folder, if there is one."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def describe(self, earlier: dict[str, Any]) -> str:
        """How far the run in this folder is, in a few words."""
        rows = [len(pd.read_csv(self.fold_log(k))) for k in self.folds() if self.fold_log(k).is_file()]
        done = sum(count == earlier["epochs"] for count in rows)
        return f"{done} of {earlier['cv']} folds finished, {sum(rows)} of {earlier['cv'] * earlier['epochs']} epochs"

    # -------------------------------------------------------------------------------------------- tables and summary

    def write_fold_log(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Write the log rows of one fold, and log.csv of all folds that are there."""
        write_text(self.fold_log(number), pd.DataFrame(rows).to_csv(index=False, float_format="%.8g"))
        self._join(self.fold_log, self.log)

    def write_fold_oof(self, number: int, rows: pd.DataFrame) -> None:
        """Write the out-of-fold rows of one fold."""
        write_text(self.fold_oof(number), rows.to_csv(index=False, float_format="%.8g"))

    def _join(self, part: Any, whole: Path) -> pd.DataFrame:
        parts = [pd.read_csv(part(k), converters={"person": str}) for k in self.folds() if part(k).is_file()]
        table = pd.concat(parts, ignore_index=True)
        write_text(whole, table.to_csv(index=False, float_format="%.8g"))
        return table

    def finish(self, config: Config) -> dict[str, Any]:
        """Write oof.csv and summary.json from the folds that are there so far, and return the summary."""
        log, oof = self._join(self.fold_log, self.log), self._join(self.fold_oof, self.oof)
        summary = summarise(config.as_dict(), log, oof)
        summary["split_fingerprint"] = read_json(self.split)["fingerprint"]
        summary["versions"] = library_versions()
        write_json(self.summary, summary)
        return summary


def changed_options(earlier: dict[str, Any], config: TrainConfig) -> list[str]:
    """The options that differ from an earlier config.json and may not, each with both values."""
    paths = {f.name for f in options(TrainConfig) if f.metadata["path"]}

    def same(name: str, before: Any, now: Any) -> bool:
        if name in paths and before and now:
            return Path(before).resolve() == Path(now).resolve()
        return before == now

    return [
        f"{flag(name)} was {earlier.get(name)} and is {value}"
        for name, value in config.as_dict().items()
        if name not in FREE_OPTIONS and not same(name, earlier.get(name), value)
    ]


def best_epochs(task: str, log: pd.DataFrame) -> pd.DataFrame:
    """The row of the best epoch of each fold, the earliest of equals; folds without a score are left out."""
    record = TASKS[task]
    ranked = log.dropna(subset=[record.monitor]).sort_values(
        [record.monitor, "epoch"], ascending=[not record.higher_is_better, True], kind="stable"
    )
    return ranked.groupby("fold").head(1).sort_values("fold")


def oof_columns(task: str, probabilities: np.ndarray) -> pd.DataFrame:
    """`pred, p0, ...` of `(N, C)` predictions; for age both are the years."""
    columns = {f"p{i}": probabilities[:, i] for i in range(probabilities.shape[1])}
    predicted = probabilities[:, 0] if TASKS[task].regression else probabilities.argmax(axis=1)
    return pd.DataFrame({"pred": predicted, **columns})


def summarise(config: dict[str, Any], log: pd.DataFrame, oof: pd.DataFrame) -> dict[str, Any]:
    """Scores of each fold's best epoch, their mean and deviation, and the out-of-fold scores over all people."""
    task = config["task"]
    names = list(TASKS[task].scores)
    best = best_epochs(task, log)
    folds = [
        {"fold": int(row.fold), "best_epoch": int(row.epoch), **{name: float(getattr(row, name)) for name in names}}
        for row in best.itertuples()
    ]
    for fold in folds:
        fold["seconds"] = float(log.loc[log["fold"] == fold["fold"], "seconds"].sum())
    probabilities = oof[[name for name in oof if name.startswith("p") and name[1:].isdecimal()]].to_numpy()
    return {
        "task": task,
        "model_type": config["model_type"],
        "backbone": config["backbone"],
        "folds_finished": len(folds),
        "folds_planned": config["cv"],
        "folds": folds,
        "mean": {name: float(best[name].mean()) for name in names},
        "std": {name: float(best[name].std()) if len(best) > 1 else math.nan for name in names},
        "oof": {
            **score(task, probabilities, oof["label"].to_numpy()),
            "people": int(oof["person"].nunique()),
            "images": len(oof),
        },
        "seconds": float(log["seconds"].sum()),
    }
