"""The files that a run leaves: their names, and the tables and summary that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cli.options import Config, flag, options
from config import TrainConfig
from data.tasks import TASKS
from storage.lock import FoldLocks
from utils import (
    UserError,
    atomic_write,
    first_line,
    make_folder,
    read_json,
    remove_leftovers,
    remove_tree,
    shorten_list,
    write_text,
)

KFOLD, SINGLE = "kfold-ensemble-", "single-"  # followed by the model type
# Options that may change between the parts of one run: they do not change its result. What lies in the training folder
# and which photographs can be read is compared by what was found, see `check_same_data`.
FREE_OPTIONS = (
    *("folds", "num_workers", "device", "resume", "overwrite", "save_path", "train_root", "save_every_steps"),
    *("on_bad_image", "max_megapixels", "cache", "report", "tracker", "preset"),
)
SPLIT_KEYS = ("fingerprint", "folds")
UNREADABLE_LIST = "unreadable.csv"  # the photographs that were skipped
_ANSWERS = "epoch{:03d}.npy"


class RunFolder:
    """The folder of one run, `<save path>/<task>/kfold-ensemble-<network>` or `.../single-<network>`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.split = self.path / "config.json", self.path / "split.json"
        self.log, self.oof, self.summary = self.path / "log.csv", self.path / "oof.csv", self.path / "summary.json"
        self.unreadable, self.report = self.path / UNREADABLE_LIST, self.path / "report.html"

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

    def fold_answers(self, number: int) -> Path:
        """The folder of what each epoch of one fold answered of its validation images."""
        return self.fold(number) / "answers"

    def state(self, number: int) -> Path:
        """The resume state of one fold; not a .pt file, so that it is never taken for a checkpoint."""
        return self.fold(number) / "resume.state"

    def lock(self, number: int) -> Path:
        """The lock of one fold; outside the folder, which a run may replace."""
        return self.path.with_name(f".{self.name}.fold{number:02d}.lock")

    def locks(self, config: TrainConfig, numbers: Iterable[int]) -> FoldLocks:
        """The locks of the folds to train, and of those that --overwrite would delete."""
        folds = {*numbers, *(self.folds() if config.overwrite else ())}
        return FoldLocks({self.lock(k): f"Fold {k} of {self.path}" for k in sorted(folds)})

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
            if config.corrections and Path(config.corrections).resolve().is_relative_to(self.path.resolve()):
                raise UserError(
                    f"--corrections {config.corrections} lies in the run that --overwrite would delete; move it "
                    "elsewhere first, or pass another --save-path."
                )
            others = sorted(set(self.folds()) - set(config.folds or self.folds()))
            if others:
                raise UserError(
                    f"{self.path} also holds fold {shorten_list(others)}, which --overwrite would delete; leave --folds out to "
                    "train all anew, or pass another --save-path."
                )
            return False
        earlier = read_json(self.config, ("task", "cv", "epochs"))
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
        remove_tree(self.path)

    def prepare(self, folds: Iterable[int]) -> None:
        """Make the folders of some folds, which are locked, and delete what a write that was cut left in the run's."""
        for number in folds:
            for folder in (self.fold(number), self.fold_answers(number)):
                remove_leftovers(make_folder(folder))
        locks = set(self.path.parent.glob(f".{self.name}.fold*.lock"))
        if locks <= {self.lock(number) for number in folds}:  # else somebody who trains other folds may be writing
            remove_leftovers(self.path)
            remove_leftovers(self.path.parent, self.name)

    def check(self, config: TrainConfig) -> None:
        """Refuse a run whose files cannot be joined to a summary; nothing is changed.

        Raises:
            UserError: one of them is damaged.
        """
        read_json(self.split, SPLIT_KEYS)
        for number in self.folds():
            if self.fold_log(number).is_file():
                _read_rows(self.fold_log(number), log_columns(config))
            if self.fold_oof(number).is_file():
                rows = _read_rows(self.fold_oof(number), needed_oof_columns(config))
                self.read_answers(number, len(rows), config)

    def read_summary(self) -> dict[str, Any]:
        """What summary.json says.

        Raises:
            UserError: it is missing or damaged, or of an earlier version.
        """
        try:
            return read_json(self.summary, ("oof", "folds", "estimates"))
        except UserError as error:
            raise UserError(f"{error} python join_folds.py --root {self.path} writes it anew.") from None

    def fingerprints(self) -> dict[str, str]:
        """What the run was begun with: `split`, `labels` (the photographs and their labels), and `load_state_dict`.

        Runs begun by an earlier version may lack some.
        """
        return read_json(self.config).get("fingerprints", {})

    def split_fingerprint(self) -> str:
        """What two runs share only when each person is in the same fold of both, as split.json says."""
        return read_json(self.split, SPLIT_KEYS)["fingerprint"]

    def read_config(self) -> TrainConfig:
        """The options that the run was begun with.

        Raises:
            UserError: config.json is missing, damaged, or not of train.py.
        """
        values = read_json(self.config, ("task", "cv", "epochs"))
        known = {f.name: values[f.name] for f in options(TrainConfig) if f.name in values}
        try:
            return TrainConfig(**{**known, "folds": None, "resume": False})
        except (UserError, TypeError) as error:
            raise UserError(f"{self.config} does not hold the options of a run ({first_line(error)}).") from None

    def unfinished(self) -> list[str]:
        """The folds of which not all epochs are trained, and how many are; none where the run does not tell."""
        if not self.config.is_file():
            return []
        epochs = read_json(self.config, ("epochs",))["epochs"]
        return [f"{k} ({count} of {epochs} epochs)" for k, count in self._epochs_done().items() if count < epochs]

    def describe(self, earlier: dict[str, Any]) -> str:
        """How far the run in this folder is, in a few words."""
        counts = self._epochs_done().values()
        done = sum(count == earlier["epochs"] for count in counts)
        return f"{done} of {earlier['cv']} folds finished, {sum(counts)} of {earlier['cv'] * earlier['epochs']} epochs"

    def _epochs_done(self) -> dict[int, int]:
        return {k: self._epochs_of(k) for k in self.folds() if self.fold_log(k).is_file()}

    def _epochs_of(self, number: int) -> int:
        path = self.fold_log(number)
        return len(_read_rows(path, ())) if path.is_file() else 0

    # -------------------------------------------------------------------------------------------- tables and summary

    def read_log(self, config: TrainConfig) -> pd.DataFrame:
        """The log of every fold so far, finished or not.

        Raises:
            UserError: nothing is trained yet, or a file is damaged.
        """
        parts = [_read_rows(self.fold_log(k), log_columns(config)) for k in self.folds() if self.fold_log(k).is_file()]
        if not parts:
            raise UserError(f"No epoch of {self.path} is trained yet.")
        return pd.concat(parts, ignore_index=True)

    def read_oof(self, config: TrainConfig) -> pd.DataFrame:
        """The out-of-fold answers of a run, as oof.csv holds them: ImageID, person, fold, label, pred, p0, ...

        Raises:
            UserError: there are none yet, or the file is damaged.
        """
        join = f"python join_folds.py --root {self.path}"
        if not self.oof.is_file():
            raise UserError(
                f"There is no {self.oof}: no fold of the run is finished yet, or its folds have to be joined by {join}"
            )
        columns, task = needed_oof_columns(config), TASKS[config.task]

        def sound(rows: pd.DataFrame) -> None:
            numbers = rows[[name for name in columns if name != "person"]].to_numpy(np.float64)
            if not len(rows) or not np.isfinite(numbers).all():
                raise ValueError("it has no rows" if not len(rows) else "it holds what is no number")
            if not task.regression and not rows["label"].isin(range(len(task.classes))).all():
                raise ValueError("it holds a label that is none")

        return _read_rows(self.oof, ("ImageID", *columns), f"{join} writes it anew", sound)

    def write_fold_log(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Write the log rows of one fold, and log.csv of all folds that are there."""
        write_text(self.fold_log(number), pd.DataFrame(rows).to_csv(index=False, float_format="%.8g"))
        self.join(self.fold_log, self.log, ())

    def write_fold_oof(self, number: int, rows: pd.DataFrame) -> None:
        """Write the out-of-fold rows of one fold."""
        write_text(self.fold_oof(number), rows.to_csv(index=False, float_format="%.8g"))

    def write_answers(self, number: int, epoch: int, answers: np.ndarray) -> None:
        """Write what an epoch answered of the validation images of its fold, `(N, C)` in the order of its oof.csv."""
        atomic_write(
            self.fold_answers(number) / _ANSWERS.format(epoch), lambda file: np.save(file, answers.astype(np.float32))
        )

    def read_answers(self, number: int, rows: int, config: TrainConfig) -> np.ndarray | None:
        """`(E, N, C)` answers of a fold's epochs; None where it is not finished or one is missing, as in older runs."""
        shape = (rows, TASKS[config.task].outputs)
        paths = [self.fold_answers(number) / _ANSWERS.format(k + 1) for k in range(config.epochs)]
        if self._epochs_of(number) != config.epochs or not all(path.is_file() for path in paths):
            return None
        answers = np.empty((len(paths), *shape), np.float32)
        for path, epoch in zip(paths, answers, strict=True):
            try:
                loaded = np.load(path)
                if loaded.shape != shape:
                    raise ValueError(f"its shape is {loaded.shape}, not {shape}")
                epoch[:] = loaded
            except (ValueError, EOFError) as error:
                raise UserError(
                    f"{path} is damaged ({first_line(error)}); put it back, or delete it to go without the score "
                    "corrected for the choice of epochs."
                ) from None
        return answers

    def join(
        self, part: Callable[[int], Path], whole: Path, columns: Sequence[str], folds: Iterable[int] | None = None
    ) -> pd.DataFrame:
        numbers = self.folds() if folds is None else folds
        parts = [_read_rows(part(k), columns) for k in numbers if part(k).is_file()]
        table = pd.concat(parts, ignore_index=True)
        write_text(whole, table.to_csv(index=False, float_format="%.8g"))
        return table

    def finished(self, config: TrainConfig) -> list[int]:
        """The folds of which all epochs are trained."""
        return [k for k, count in self._epochs_done().items() if count == config.epochs]


def answers_in(oof: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels `(N,)` and the answers `(N, C)` in a table of out-of-fold answers."""
    return oof["label"].to_numpy(), oof[[f"p{k}" for k in range(TASKS[task].outputs)]].to_numpy(np.float64)


def score_kind(config: TrainConfig) -> str:
    """What the scores of a run are called: out-of-fold, or validation where not everybody is validated by a fold."""
    return "out-of-fold" if config.cv > 1 and not config.valid_root else "validation"


def _read_rows(
    path: Path, columns: Sequence[str], cure: str | None = None, check: Callable[[pd.DataFrame], None] | None = None
) -> pd.DataFrame:
    """A table that must have some columns and pass a `check`; `cure` says what to do where it is damaged."""
    try:
        rows = pd.read_csv(path, converters={"person": str, "ImageID": str}, encoding_errors="surrogateescape")
        missing = [name for name in columns if name not in rows]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        if check:
            check(rows)
        return rows
    except ValueError as error:  # all that pandas makes of a damaged file
        cure = cure or f"delete {path.parent} to train the fold anew with --resume"
        raise UserError(f"{path} is damaged ({first_line(error)}); {cure}.") from None


def log_columns(config: TrainConfig) -> tuple[str, ...]:
    """The columns of log.csv that a summary is made of."""
    return ("fold", "epoch", "seconds", *TASKS[config.task].scores)


def needed_oof_columns(config: TrainConfig) -> tuple[str, ...]:
    """The columns of oof.csv that a summary is made of."""
    return ("fold", "person", "label", *(f"p{i}" for i in range(TASKS[config.task].outputs)))


def changed_options(earlier: dict[str, Any], config: TrainConfig) -> list[str]:
    """The options that differ from an earlier config.json and may not, each with both values."""
    paths = {f.name for f in options(TrainConfig) if f.metadata["path"]}
    # One that the toolkit did not have yet was as it is by default.
    before = {f.name: f.default for f in options(TrainConfig)} | earlier

    def same(name: str, now: Any) -> bool:
        if name in paths and before[name] and now:
            return True  # files may be moved: what they hold is compared by its fingerprint
        return before[name] == now

    return [
        f"{flag(name)} was {before[name]} and is {value}"
        for name, value in lasting_options(config).items()
        if not same(name, value)
    ]


def lasting_options(config: Config) -> dict[str, Any]:
    """The options that the weights depend on, which may not change between the parts of a run."""
    return {name: value for name, value in config.as_dict().items() if name not in FREE_OPTIONS}


def oof_columns(task: str, probabilities: np.ndarray) -> pd.DataFrame:
    """`pred, p0, ...` of `(N, C)` predictions; for age both are the years."""
    columns = {f"p{i}": probabilities[:, i] for i in range(probabilities.shape[1])}
    predicted = probabilities[:, 0] if TASKS[task].regression else probabilities.argmax(axis=1)
    return pd.DataFrame({"pred": predicted, **columns})
