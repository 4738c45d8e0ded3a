"""Summarise the scores of a run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.intervals import TITLES, Estimate, FoldPredictions, describe_run, estimate_run, sum_run
from analysis.metrics import absent_classes, describe_classes, score
from config import TrainConfig
from data.tasks import Task, score_title
from storage.run_folder import RunFolder, labels_and_predictions
from utils import UserError, library_versions, shorten_list, write_json

Rows = list[list[str]]  # cells of a table, row by row


def best_epochs(task: Task, log: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each fold's best epoch, the earliest of equals; folds without a score are left out."""
    ranked = log.dropna(subset=[task.monitor]).sort_values(
        [task.monitor, "epoch"], ascending=[not task.higher_is_better, True], kind="stable"
    )
    return ranked.groupby("fold").head(1).sort_values("fold")


def as_plain(task: Task, found: dict[str, Estimate]) -> dict[str, Any]:
    """Return estimates as summary.json holds them: one per score that has one, and below `f1` one per class."""
    scores = {name: asdict(found[name]) for name in task.scores if name in found}
    return scores | {"f1": {name: asdict(found[name]) for name in task.classes}}


def read_folds(run: RunFolder, task: Task, oof: pd.DataFrame) -> Iterator[FoldPredictions]:
    """Yield the predictions of each fold that has rows in `oof`, of its best epoch and of all its epochs.

    Raises:
        UserError: a file of predictions is damaged.
    """
    for number, rows in oof.groupby("fold"):
        labels, best = labels_and_predictions(rows, task)
        every = run.read_epoch_predictions(number, len(rows), task)
        yield FoldPredictions(labels, rows["person"].to_numpy(str), best, every)


def summarise_run(run: RunFolder, config: TrainConfig) -> dict[str, Any]:
    """Write oof.csv and summary.json from the finished folds, and return the summary.

    Raises:
        UserError: a fold has out-of-fold rows of people that it was trained on.
    """
    while True:
        summary, finished = _summarise_finished(run, config)
        # Another command may have finished a fold meanwhile. The last one to write checks again.
        if finished == run.finished():
            return summary


def _summarise_finished(run: RunFolder, config: TrainConfig) -> tuple[dict[str, Any], list[int]]:
    """Write the files of `summarise_run` once; return the summary and the folds in it."""
    split, task = run.read_split(), config.record
    finished = run.finished()  # folds in training are left out
    log = run.join_logs(task)
    log = log[log["fold"].isin(finished)]
    oof = run.join_oof(task, finished)
    for fold in split["folds"]:
        if foreign := set(oof.loc[oof["fold"] == fold["fold"], "person"]) - set(fold["valid"]):
            raise UserError(
                f"{run.fold_oof(fold['fold'])} scores {task.noun} that fold {fold['fold']} does not validate "
                f"on: {shorten_list(sorted(foreign))}. It belongs to another split. Delete {run.fold(fold['fold'])} to "
                "train it again with --resume."
            )
    best = best_epochs(task, log)
    folds = [
        {"fold": int(row["fold"]), "best_epoch": int(row["epoch"]), **{name: float(row[name]) for name in task.scores}}
        | {"seconds": float(log.loc[log["fold"] == row["fold"], "seconds"].sum())}
        for row in best.to_dict("records")
    ]
    labels, probabilities = labels_and_predictions(oof, task)
    absent, predicted = absent_classes(task, labels, probabilities)
    about = {"people": oof["person"].nunique(), "images": len(oof), "absent": absent, "absent_predicted": predicted}
    estimates = estimate_run(task, sum_run(task, read_folds(run, task, oof)))
    summary = {
        "task": config.task,
        "model_type": config.model_type,
        "backbone": config.backbone,
        "folds_finished": len(folds),
        "folds_planned": config.cv,
        "folds": folds,
        "mean": {name: float(best[name].mean(skipna=False)) for name in task.scores},
        "std": {name: float(best[name].std(skipna=False)) if len(best) > 1 else math.nan for name in task.scores},
        "oof": score(task, probabilities, labels) | about,
        "seconds": float(log["seconds"].sum()),
        "estimates": {what: as_plain(task, each) for what, each in estimates.items()},
        "split_fingerprint": split["fingerprint"],
        "versions": library_versions(),
    }
    write_json(run.summary, summary)
    return summary, finished


def fold_rows(task: Task, summary: dict[str, Any]) -> tuple[list[str], Rows]:
    """Return the columns and rows of the scores of each fold's best epoch, with their mean and deviation."""
    names, folds = task.shown, summary["folds"]
    found = [(f"fold {fold['fold']}", fold, str(fold["best_epoch"]), f"{fold['seconds']:.0f}") for fold in folds]
    if len(folds) > 1:
        found += [("mean", summary["mean"], "", ""), ("standard deviation", summary["std"], "", "")]
    rows = [[title, *(f"{scores[name]:.4f}" for name in names), *others] for title, scores, *others in found]
    return ["", *(score_title(name) for name in names), "best epoch", "seconds"], rows


def score_rows(names: Sequence[str], summary: dict[str, Any], digits: int = 4) -> tuple[list[str], Rows]:
    """Return the columns and rows of the named scores over all people with intervals, rounded to `digits`."""
    rows = [
        [title, *(estimate_text(summary["estimates"][what].get(name), digits) for name in names)]
        for what, title in TITLES.items()
        if what in summary["estimates"]
    ]
    return ["", *(score_title(name) for name in names)], rows


def estimate_text(plain: dict[str, float | None] | None, digits: int = 4) -> str:
    """Return an estimate of summary.json as text: 0.7706 (0.7501 to 0.7912), "undefined", or for None nothing."""
    return read_estimate(plain).text(digits) if plain else ""


def read_estimate(plain: dict[str, float | None]) -> Estimate:
    """Return an estimate of summary.json, in which NaN is null."""
    return Estimate(**{name: math.nan if value is None else value for name, value in plain.items()})


def score_kind(cv: int, valid_root: str | None) -> str:
    """Return "out-of-fold" if each person is validated by one fold, otherwise "validation"."""
    return "out-of-fold" if cv > 1 and not valid_root else "validation"


def print_rows(columns: Sequence[str], rows: Rows, *, first: int, others: int) -> None:
    """Print a table; `first` and `others` are the widths of its columns, of which large numbers take more."""
    others = max(others, *(len(cell) + 2 for row in (columns, *rows) for cell in row[1:]))
    for title, *cells in [columns, *rows]:
        print(f"{title:<{first}}{''.join(f'{cell:>{others}}' for cell in cells)}".rstrip())


def print_summary(config: TrainConfig, summary: dict[str, Any]) -> None:
    """Print the closing tables of a run: scores per fold, and over all people with intervals."""
    oof = summary["oof"]
    columns, rows = fold_rows(config.record, summary)
    overall = [f"{oof[name]:.4f}" for name in config.record.shown]
    print()
    print_rows(columns, [*rows, [score_kind(config.cv, config.valid_root), *overall]], first=22, others=12)
    print(f"{oof['people']} {config.record.noun}, {oof['images']} images, best epoch of each fold.")
    print(f"{describe_classes(config.record, oof['absent'], oof['absent_predicted'])}\n")
    print_rows(*score_rows(config.record.shown, summary), first=22, others=33)
    print(describe_run(config.record, oof["people"], summary["estimates"]))
    if missing := summary["folds_planned"] - summary["folds_finished"]:
        print(f"{missing} of {summary['folds_planned']} folds are not trained yet. Train them with --resume.")
