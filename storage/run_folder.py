"""The files of a run: their names, and how they are read and written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cli.choices import flag
from cli.options import Config, options
from config import TrainConfig
from data.faces import find_task
from data.tasks import Task
from storage.best_checkpoints import LOG_DIGITS, is_finished
from storage.lock import FoldLocks
from utils import (
    LOST,
    UserError,
    as_on_disk,
    atomic_write,
    check_link,
    first_line,
    make_folder,
    read_json,
    remove_leftovers,
    shorten_list,
    write_text,
)

KFOLD, SINGLE = "kfold-ensemble-", "single-"  # followed by the model type
LOG, OOF = "log.csv", "oof.csv"  # of a run, and of each fold
STATE = "resume.state"  # not a .pt file, so that it is never taken for a checkpoint
UNREADABLE_LIST = "unreadable.csv"  # the images that were skipped
# Options that may differ between the parts of a run, since they do not change its result. The training folder and the
# unreadable images are compared by their content, see training.session.start_run.
FREE_OPTIONS = (
    *("folds", "num_workers", "device", "cuda_graphs", "resume", "overwrite", "save_path"),
    *("train_root", "data", "image_root", "save_every_steps", "on_bad_image", "two_genders"),
    *("max_megapixels", "cache", "report", "tracker", "preset"),
)


class RunFolder:
    """The folder of one run, `<save path>/<task>/kfold-ensemble-<network>` or `.../single-<network>`."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.name = Path(path), Path(path).name
        self.config, self.split = self.path / "config.json", self.path / "split.json"
        self.log, self.oof, self.summary = self.path / LOG, self.path / OOF, self.path / "summary.json"
        self.unreadable, self.report = self.path / UNREADABLE_LIST, self.path / "report.html"
        self.metric = self.path / "metric.py"  # a copy of the file in --metric

    @classmethod
    def of(cls, save_path: str | Path, task: str, model_type: str, *, cv: int) -> RunFolder:
        """Return the folder in which training with these options saves."""
        return cls(Path(save_path) / task / f"{KFOLD if cv > 1 else SINGLE}{model_type}")

    def fold(self, number: int) -> Path:
        """Return the folder of one fold."""
        return self.path / f"fold{number:02d}"

    def fold_log(self, number: int) -> Path:
        """Return the file with the rows of log.csv of one fold."""
        return self.fold(number) / LOG

    def fold_oof(self, number: int) -> Path:
        """Return the file with the rows of oof.csv of one fold, which its best checkpoint predicted."""
        return self.fold(number) / OOF

    def state(self, number: int) -> Path:
        """Return the file with the resume state of one fold."""
        return self.fold(number) / STATE

    def epoch_predictions(self, number: int) -> Path:
        """Return the folder with every epoch's predictions of the validation images of one fold."""
        return self.fold(number) / "answers"

    def lock(self, number: int) -> Path:
        """Return the lock of one fold; it lies outside the folder, which a run may replace."""
        return self.path.with_name(f".{self.name}.fold{number:02d}.lock")

    def locks(self, numbers: Iterable[int]) -> FoldLocks:
        """Return the locks of some folds."""
        return FoldLocks({self.lock(k): f"Fold {k} of {self.path}" for k in sorted(numbers)})

    def folds(self) -> dict[int, Path]:
        """Return the existing folders fold00 ... by number."""
        found = {path.name.removeprefix("fold"): path for path in self.path.glob("fold*") if path.is_dir()}
        return {int(digits): found[digits] for digits in sorted(found) if digits.isdecimal()}

    def prepare(self, numbers: Iterable[int]) -> None:
        """Make the folders of some folds, which must be locked, and delete the files of interrupted writes."""
        for number in numbers:
            for folder in (self.fold(number), self.epoch_predictions(number)):
                remove_leftovers(make_folder(folder))
        locks = set(self.path.parent.glob(f".{self.name}.fold*.lock"))
        if locks <= {self.lock(number) for number in numbers}:  # otherwise another command may be writing
            remove_leftovers(self.path)
            remove_leftovers(self.path.parent, self.name)

    # ------------------------------------------------------------------------------------------------ JSON files

    def read_config(self) -> TrainConfig:
        """Return the options with which the run was started.

        Options that no longer exist are ignored. A choice that no longer exists becomes the default if it does not
        change results, as in "cache": "disk" of earlier versions.

        Raises:
            UserError: config.json is missing, damaged, or not of train.py.
        """
        values, known = read_json(self.config, ("task", "cv", "epochs")), {}
        labels, metric = values.get("labels"), values.get("metric")
        if self.metric.is_file() and isinstance(metric, str):
            values["metric"] = f"{self.metric}:{metric.rpartition(':')[2]}"
        for f in options(TrainConfig):
            choices = f.metadata["choices"] if f.name in FREE_OPTIONS else None
            if f.name in values and not (choices and values[f.name] not in (None, *choices)):
                known[f.name] = values[f.name]
        try:
            if (labels is None) != (known.get("data") is None):
                raise TypeError("labels without --data, or the reverse")
            return TrainConfig(**{**known, "folds": None, "resume": False}, labels=labels)
        except (UserError, TypeError, KeyError) as error:
            raise UserError(
                f"{self.config} does not hold the options of a run ({first_line(error)}). Use a folder of train.py."
            ) from None

    def read_split(self) -> dict[str, Any]:
        """Return split.json: `folds`, and `fingerprint`, which runs share if everyone is in the same fold of both."""
        return read_json(self.split, ("fingerprint", "folds"))

    def read_summary(self) -> dict[str, Any]:
        """Return summary.json; a UserError says how to write one that is missing, damaged or of an earlier version."""
        try:
            summary = read_json(self.summary, ("oof", "folds", "estimates"))
            if "absent" not in summary["oof"]:
                raise UserError(f"{self.summary} is of an earlier version, with other intervals.")
            return summary
        except UserError as error:
            raise UserError(f"{error} Write it again with: {self._how_to_join()}") from None

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of the data that the run was started with; runs of earlier versions may lack some."""
        return read_json(self.config).get("fingerprints", {})

    # ------------------------------------------------------------------------------------------------ progress

    def epochs_done(self) -> dict[int, int]:
        """Return the number of trained epochs of each fold that has a log."""
        return {k: len(_read_rows(self.fold_log(k), ())) for k in self.folds() if self.fold_log(k).is_file()}

    def finished(self) -> list[int]:
        """Return the folds that are trained to their end: all epochs, or fewer with --patience."""
        config = read_json(self.config, ("task", "epochs"))
        try:
            task = find_task(config.get("labels"), config["task"], config.get("metric"))
        except (KeyError, TypeError):
            raise UserError(f"{self.config} does not hold the options of a run. Use a folder of train.py.") from None
        patience = config.get("patience", 0)  # which earlier versions did not have
        scores = {k: _read_rows(self.fold_log(k), (task.monitor,))[task.monitor] for k in self.epochs_done()}
        ends = {"epochs": config["epochs"], "patience": patience, "higher_is_better": task.higher_is_better}
        return [k for k, each in scores.items() if is_finished(each, **ends)]

    def unfinished(self) -> list[str]:
        """Return the started folds that lack epochs, as in "1 (3 of 30 epochs)"; empty without config.json."""
        if not self.config.is_file():
            return []
        epochs, finished = read_json(self.config, ("epochs",))["epochs"], self.finished()
        counts = {k: count for k, count in self.epochs_done().items() if count < epochs and k not in finished}
        return [f"{k} ({count} of {epochs} epochs)" for k, count in counts.items()]

    # ------------------------------------------------------------------------------------------------ tables

    def check_tables(self, task: Task) -> None:
        """Raise a UserError if a file that the summary is made from is damaged, before hours of training."""
        self.read_split()
        for number in self.folds():
            if self.fold_log(number).is_file():
                _read_rows(self.fold_log(number), log_columns(task))
            if self.fold_oof(number).is_file():
                rows = _read_rows(self.fold_oof(number), oof_columns(task))
                self.read_epoch_predictions(number, len(rows), task)

    def read_log(self, task: Task) -> pd.DataFrame:
        """Return the logs of all folds, finished or not; raise a UserError if there are none or one is damaged."""
        log = self._join(self.fold_log, self.folds(), log_columns(task))
        return log.reindex(columns=list(dict.fromkeys([*log, *task.scores])))  # earlier versions logged fewer scores

    def read_oof(self, task: Task) -> pd.DataFrame:
        """Return oof.csv: ImageID, person, fold, label, pred, p0...; raise a UserError if it is missing or damaged."""
        if not self.oof.is_file():
            raise UserError(
                f"There is no {self.oof}. Finish a fold, or join folds that are finished with: {self._how_to_join()}"
            )
        columns = oof_columns(task)

        def check(rows: pd.DataFrame) -> None:
            numbers = rows[[name for name in columns if name != "person"]].to_numpy(np.float64)
            if not len(rows):
                raise ValueError("it has no rows")
            if not np.isfinite(numbers).all():
                raise ValueError("it contains NaN or infinite values")
            if not task.regression and not rows["label"].isin(range(len(task.classes))).all():
                raise ValueError("it contains an unknown label")

        advice = f"Write it again with: {self._how_to_join()}"
        return _read_rows(self.oof, ("ImageID", *columns), advice, check)

    def join_logs(self, task: Task) -> pd.DataFrame:
        """Write log.csv from the logs of all folds, and return it."""
        return _write_rows(self.log, self.read_log(task))

    def join_oof(self, task: Task, numbers: Iterable[int]) -> pd.DataFrame:
        """Write oof.csv from the out-of-fold predictions of some folds, and return it."""
        return _write_rows(self.oof, self._join(self.fold_oof, numbers, oof_columns(task)))

    def _join(self, part: Callable[[int], Path], numbers: Iterable[int], columns: Sequence[str]) -> pd.DataFrame:
        parts = [_read_rows(part(k), columns) for k in numbers if part(k).is_file()]
        if not parts:
            raise UserError(f"No epoch of {self.path} is trained. Train it with train.py.")
        return pd.concat(parts, ignore_index=True)

    def write_fold_log(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Write the log of one fold, and log.csv from the logs of all folds."""
        _write_rows(self.fold_log(number), pd.DataFrame(rows))
        _write_rows(self.log, self._join(self.fold_log, self.folds(), ()))

    def write_fold_oof(self, number: int, rows: pd.DataFrame) -> None:
        """Write the out-of-fold predictions of one fold."""
        _write_rows(self.fold_oof(number), rows)

    def write_epoch_predictions(self, number: int, epoch: int, predictions: np.ndarray) -> None:
        """Write an epoch's predictions of a fold's validation images, `(N, C)` in the order of its oof.csv."""
        path = self._epoch_file(number, epoch)
        atomic_write(path, lambda file: np.save(file, predictions.astype(np.float32)))

    def read_epoch_predictions(self, number: int, rows: int, task: Task) -> np.ndarray | None:
        """Return the predictions of the epochs of a fold, `(its epochs, rows, outputs of the task) float32`.

        None if the fold is not finished, or lacks an epoch's file, as runs of earlier versions do; a UserError if a
        file is damaged.
        """
        shape = (rows, task.outputs)
        paths = [self._epoch_file(number, k + 1) for k in range(self.epochs_done().get(number, 0))]
        if number not in self.finished() or not all(path.is_file() for path in paths):
            return None
        predictions = np.empty((len(paths), *shape), np.float32)
        for path, epoch in zip(paths, predictions, strict=True):
            try:
                loaded = np.load(path)
                if loaded.shape != shape:
                    raise ValueError(f"its shape is {loaded.shape}, not {shape}")
                epoch[:] = loaded
            except (ValueError, EOFError) as error:
                raise UserError(
                    f"{path} is damaged ({first_line(error)}). Restore it, or delete it to go without the score "
                    "corrected for the choice of epochs."
                ) from None
        return predictions

    def _epoch_file(self, number: int, epoch: int) -> Path:
        return self.epoch_predictions(number) / f"epoch{epoch:03d}.npy"

    def _how_to_join(self) -> str:
        return f"python -m tools join_folds --root {self.path}"


def log_columns(task: Task) -> tuple[str, ...]:
    """Return the columns of log.csv that a summary needs."""
    return ("fold", "epoch", "seconds", task.monitor)


def oof_columns(task: Task) -> tuple[str, ...]:
    """Return the columns of oof.csv that a summary needs."""
    return ("fold", "person", "label", *(f"p{i}" for i in range(task.outputs)))


def prediction_columns(task: Task, probabilities: np.ndarray) -> pd.DataFrame:
    """Return the columns `pred, p0, ...` of oof.csv for predictions `(N, C)`; for age both are the years."""
    columns = {f"p{i}": probabilities[:, i] for i in range(probabilities.shape[1])}
    predicted = probabilities[:, 0] if task.regression else probabilities.argmax(axis=1)
    return pd.DataFrame({"pred": predicted, **columns})


def labels_and_predictions(oof: pd.DataFrame, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels `(N,)` and the predictions `(N, C)` in rows of oof.csv."""
    return oof["label"].to_numpy(), oof[[f"p{k}" for k in range(task.outputs)]].to_numpy(np.float64)


def _write_rows(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    write_text(path, rows.to_csv(index=False, float_format=f"%{LOG_DIGITS}"))
    return rows


def _read_rows(
    path: Path, columns: Sequence[str], advice: str | None = None, check: Callable[[pd.DataFrame], None] | None = None
) -> pd.DataFrame:
    """Return a table after checking its columns and its values; `advice` is for a damaged one."""
    try:
        converters = {"person": as_on_disk, "ImageID": as_on_disk}
        rows = pd.read_csv(path, converters=converters, encoding_errors="surrogateescape")
        missing = [name for name in columns if name not in rows]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        if check:
            check(rows)
        return rows
    except ValueError as error:  # pandas raises it for every damaged file
        advice = advice or f"Delete {path.parent} to train the fold again with --resume."
        raise UserError(f"{path} is damaged ({first_line(error)}). {advice}") from None


# ------------------------------------------------------------------------------------------------ earlier runs


def can_continue(run: RunFolder, config: TrainConfig) -> bool:
    """Return whether a folder holds a part of the run to train; False if it can start there. Change nothing.

    Raises:
        UserError: the folder holds another run, or one and neither --resume nor --overwrite was passed.
    """
    entries = run.path.iterdir() if run.path.exists() else ()
    found = [path for path in entries if path not in (run.split, run.path / LOST)]
    for path in found:
        check_link(path)
    empty = [path for path in found if path.is_dir() and {each.name for each in path.iterdir()} <= {LOST}]
    if all(path.name.startswith(".") or path in empty for path in found):
        return False  # a run was interrupted at its very start, or there are links to folders on another disk
    if not run.config.is_file():
        raise UserError(f"{run.path} holds files that are not of a run. Pass another --save-path.")
    if config.overwrite:
        _check_overwrite(run, config)
        return False
    earlier = read_json(run.config, ("task", "cv", "epochs"))
    if not config.resume:
        counts, folds = run.epochs_done().values(), earlier["cv"]
        epochs = f"{'at most ' if earlier.get('patience') else ''}{folds * earlier['epochs']} epochs"
        raise UserError(
            f"{run.path} already holds a run ({len(run.finished())} of {folds} folds finished, {sum(counts)} of "
            f"{epochs}). Pass --resume to continue it, --overwrite to delete it and train again, or another "
            "--save-path."
        )
    changed = changed_options(earlier, config)
    if changed:
        before, now = (patience or math.inf for patience in (earlier.get("patience"), config.patience))
        longer = (config.epochs > earlier["epochs"] or now > before) and not config.extend_from
        raise UserError(
            f"{run.path} was started with other options: {', '.join(changed)}. Pass the same to continue it with "
            "--resume, --overwrite to train again, or another --save-path."
            + (f" To train it longer, pass another --save-path and --extend-from {run.path}." if longer else "")
        )
    return True


def _check_overwrite(run: RunFolder, config: TrainConfig) -> None:
    if config.corrections and Path(config.corrections).resolve().is_relative_to(run.path.resolve()):
        raise UserError(
            f"--corrections {config.corrections} lies in the run that --overwrite would delete. Move it elsewhere "
            "first, or pass another --save-path."
        )
    for path in run.folds().values():
        if path.is_symlink() and (path.resolve().parent / run.config.name).is_file():
            raise UserError(f"{path} is a link into another run, which --overwrite would delete. Remove it.")
    others = sorted(set(run.folds()) - set(config.folds or run.folds()))
    if others:
        raise UserError(
            f"{run.path} also holds fold {shorten_list(others)}, which --overwrite would delete. Leave --folds out to "
            "train all folds again, or pass another --save-path."
        )


def changed_options(earlier: dict[str, Any], config: TrainConfig) -> list[str]:
    """Return the options that differ from an earlier config.json and must not, each with both values."""
    paths = {f.name for f in options(TrainConfig) if f.metadata["path"]}
    before = {f.name: f.default for f in options(TrainConfig)} | earlier  # new options had their default
    changed = []
    for name, now in lasting_options(config).items():
        moved = name in paths and before[name] and now  # fingerprints compare the content of files
        if name == "metric":
            before[name], now = (value and value.rpartition(":")[2] for value in (before[name], now))
        taken = name == "batch_size" and now == "auto"  # the earlier number, see training.memory.choose_batch_size
        if before[name] != now and not moved and not taken:
            changed.append(f"{flag(name)} was {before[name]} and is {now}")
    return changed


def lasting_options(config: Config) -> dict[str, Any]:
    """Return the options that the weights depend on, which must not change between the parts of a run."""
    return {name: value for name, value in config.as_dict().items() if name not in FREE_OPTIONS}
