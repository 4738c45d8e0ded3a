"""Summarise the scores of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.intervals import CORRECTED, NOT_CORRECTED, TITLES, Estimate, FoldAnswers, estimates, run_sums
from analysis.metrics import score
from config import TrainConfig
from data.tasks import SCORE_TITLES, TASKS
from storage.run_folder import SPLIT_KEYS, RunFolder, answers_in, log_columns, needed_oof_columns, score_kind
from utils import UserError, library_versions, read_json, shorten_list, write_json


def best_epochs(task: str, log: pd.DataFrame) -> pd.DataFrame:
    """The row of the best epoch of each fold, the earliest of equals; folds without a score are left out."""
    record = TASKS[task]
    ranked = log.dropna(subset=[record.monitor]).sort_values(
        [record.monitor, "epoch"], ascending=[not record.higher_is_better, True], kind="stable"
    )
    return ranked.groupby("fold").head(1).sort_values("fold")


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
    labels, probabilities = answers_in(oof, task)
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
            **score(task, probabilities, labels),
            "people": int(oof["person"].nunique()),
            "images": len(oof),
        },
        "seconds": float(log["seconds"].sum()),
    }


def as_plain(task: str, found: dict[str, Estimate]) -> dict[str, Any]:
    """Estimates as they stand in summary.json: of every score, and below `f1` of every class."""
    plain = {name: asdict(each) for name, each in found.items()}
    names = TASKS[task].scores
    return {**{name: plain[name] for name in names}, "f1": {name: plain[name] for name in TASKS[task].classes}}


def read_folds(run: RunFolder, config: TrainConfig, oof: pd.DataFrame) -> Iterator[FoldAnswers]:
    """Yield the predictions of each fold that `oof` has rows of.

    Raises:
        UserError: a file of predictions is damaged.
    """
    for number, rows in oof.groupby("fold"):
        labels, best = answers_in(rows, config.task)
        yield FoldAnswers(labels, rows["person"].to_numpy(str), best, run.read_answers(number, len(rows), config))


def summarise_run(run: RunFolder, config: TrainConfig) -> dict[str, Any]:
    """Write oof.csv and summary.json from the finished folds, and return the summary.

    Raises:
        UserError: the out-of-fold rows of a fold are of people that it was trained on.
    """
    while True:
        summary, finished = _summarise_finished(run, config)
        # Another command may have finished a fold meanwhile: the last one to write checks again.
        if finished == run.finished(config):
            return summary


def _summarise_finished(run: RunFolder, config: TrainConfig) -> tuple[dict[str, Any], list[int]]:
    split = read_json(run.split, SPLIT_KEYS)
    log = run.join(run.fold_log, run.log, log_columns(config))
    epochs = log.groupby("fold").size()
    finished = [int(k) for k in epochs.index[epochs == config.epochs]]  # folds in training are left out
    log = log[log["fold"].isin(finished)]
    oof = run.join(run.fold_oof, run.oof, needed_oof_columns(config), finished)
    for fold in split["folds"]:
        foreign = set(oof.loc[oof["fold"] == fold["fold"], "person"]) - set(fold["valid"])
        if foreign:
            raise UserError(
                f"{run.fold_oof(fold['fold'])} scores people that fold {fold['fold']} does not validate on: "
                f"{shorten_list(sorted(foreign))}. It belongs to another split. Delete {run.fold(fold['fold'])} to train it "
                "again with --resume."
            )
    summary = summarise(config.as_dict(), log, oof)
    sums = run_sums(config.task, read_folds(run, config, oof))
    summary["estimates"] = {what: as_plain(config.task, estimates(config.task, each)) for what, each in sums.items()}
    summary["split_fingerprint"] = split["fingerprint"]
    summary["versions"] = library_versions()
    write_json(run.summary, summary)
    return summary, finished


def print_summary(config: TrainConfig, summary: dict[str, Any]) -> None:
    """The closing table: the best epoch of each fold, mean and deviation, and the score over all people."""
    names = TASKS[config.task].scores
    overall = score_kind(config)

    def line(what: str, values: dict[str, float], more: str = "") -> str:
        return f"{what:<22}" + "".join(f"{values[name]:>12.4f}" for name in names) + more

    print("\n" + f"{'':<22}" + "".join(f"{SCORE_TITLES[name]:>12}" for name in names) + f"{'epoch':>8}")
    for fold in summary["folds"]:
        print(line(f"fold {fold['fold']}", fold, f"{fold['best_epoch']:>8}"))
    if len(summary["folds"]) > 1:
        print(line("mean", summary["mean"]))
        print(line("standard deviation", summary["std"]))
    oof = summary["oof"]
    print(line(overall, oof, f"    {oof['people']} people, {oof['images']} images, best epoch of each fold"))
    print(f"\n{'':<22}" + "".join(f"{SCORE_TITLES[name]:>33}" for name in names))
    for what, title in TITLES.items():
        if what in summary["estimates"]:
            told = (str(Estimate(**summary["estimates"][what][name])) for name in names)
            print(f"{title:<22}" + "".join(f"{text:>33}" for text in told))
    print(f"with 95 % intervals over {oof['people']} people.", end=" ")
    if CORRECTED in summary["estimates"]:
        print("The epochs were chosen on these people: corrected is without what that flatters.")
    else:
        print(NOT_CORRECTED)
    missing = summary["folds_planned"] - summary["folds_finished"]
    if missing:
        print(
            f"{missing} of {summary['folds_planned']} folds are still to be trained: train.py with --resume adds them."
        )
