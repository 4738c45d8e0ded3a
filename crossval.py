"""Training a run: what it is trained on, its folds one after another, and its closing table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pandas as pd
import torch

from checkpoint import load_checkpoint
from config import MODELS, TrainConfig, UserError
from foldtrainer import FoldTrainer, build_network
from picture import images_to_skip
from runfolder import RunFolder
from split import Data, Split, split_people
from stop import StopRequest
from table import read_training_tables
from tasks import SCORE_TITLES, TASKS
from utils import (
    choose_device,
    file_digest,
    make_folder,
    read_json,
    set_deterministic,
    some,
    write_json,
    write_text,
)


def train_run(config: TrainConfig) -> None:
    """Train what the options ask for and leave the run's files; the command of train.py.

    Raises:
        UserError: something the user can put right; nothing has been trained then, or what has been is saved.
        Interrupted: Ctrl-C or SIGTERM, after saving.
        DiskError: a file could not be written.
    """
    device = choose_device(config.device)
    set_deterministic(config.deterministic)
    run = RunFolder.of(config.save_path, config.task, config.model_type, cv=config.cv)
    numbers = config.folds if config.folds is not None else tuple(range(config.cv))
    run.locks(config, numbers).check()
    run.holds(config)  # a run that is in the way is found out before the photographs are read
    data = load_data(config)
    initial = initial_weights(config)
    build_network(config, initial, say=True)  # weights that do not fit are found out before anything is written
    with ExitStack() as held:
        make_folder(run.path.parent)
        locks = held.enter_context(run.locks(config, numbers))
        begin(config, run, data, numbers)
        print(
            f"Training {config.model_type} ({config.backbone}, {config.image_size} px) on {TASKS[config.task].title}, "
            f"{data.table['person'].nunique()} people, {len(data.table)} images, device {device}.\nSaving to {run.path}"
        )
        stop = held.enter_context(StopRequest())
        for number in numbers:
            FoldTrainer(config, run, data, number, device, initial, stop, locks).train()
            summary = run.finish(config)
    held_out = config.cv > 1 and not config.valid_root
    print_summary(config.task, summary, overall="out-of-fold" if held_out else "validation")
    print(f"Saved in {run.path}")


# ------------------------------------------------------------------------------------------------ before training


def load_data(config: TrainConfig) -> Data:
    """Read, check and split the photographs, saying what is worth knowing.

    Raises:
        UserError: everything that stands in the way, one line each.
    """
    roots = {"--train-root": config.train_root}
    if config.valid_root:
        roots["--valid-root"] = config.valid_root
    (table, *rest), report = read_training_tables(roots, config.corrections)
    report.raise_errors()
    valid = rest[0] if rest else None
    if valid is not None:
        both = sorted(set(table["person"]) & set(valid["person"]))
        if both:
            raise UserError(
                f"People of --valid-root are also in --train-root, so the score would flatter: {some(both)}."
            )
    split = _split(config, table, valid)
    paths = [*table["path"], *(valid["path"] if valid is not None else ())]
    unreadable = images_to_skip(paths, config.max_megapixels, config.on_bad_image)
    if unreadable:
        for option, part in (("--train-root", table), ("--valid-root", valid)):
            if part is not None and part["path"].isin(list(unreadable)).all():
                raise UserError(f"None of the {len(part)} photographs of {option} can be read: {min(unreadable)}.")
        table, valid = (_without(part, unreadable) for part in (table, valid))
        split = _split(config, table, valid)
        print(f"{len(unreadable)} of {len(paths)} photographs cannot be read and are left out: {some(unreadable)}.")
    for note in [*report.notes, *split.notes]:
        print(note)
    data = Data(table, valid, split, unreadable)
    for number, fold in enumerate(split.folds):
        if len(data.fold_tables(fold)[0]) < 2:
            raise UserError(f"Fold {number} would be trained on a single photograph; there must be two for a batch.")
    return data


def _split(config: TrainConfig, table: pd.DataFrame, valid: pd.DataFrame | None) -> Split:
    elsewhere = None if valid is None else sorted(set(valid["person"]))
    return split_people(table, cv=config.cv, seed=config.seed, valid_people=elsewhere)


def _without(table: pd.DataFrame | None, unreadable: dict[str, str]) -> pd.DataFrame | None:
    return None if table is None else table[~table["path"].isin(list(unreadable))].reset_index(drop=True)


def begin(config: TrainConfig, run: RunFolder, data: Data, numbers: Sequence[int]) -> None:
    """Start a run in its folder, or make sure that the one that is there is this one.

    Raises:
        UserError: it is another one.
    """
    fingerprints = {"split": data.split.fingerprint, "labels": data.fingerprint}
    if config.load_state_dict:
        fingerprints["load_state_dict"] = file_digest(config.load_state_dict)
    if run.holds(config):
        check_same_data(run, fingerprints)
        run.check(config)  # what the summary is made of: better now than after hours of training
    else:
        if config.resume:
            print(f"There is nothing to resume in {run.path} yet: starting.")
        if config.overwrite:
            run.clear()
        make_folder(run.path)
        write_json(run.split, data.split.as_dict())
        write_json(run.config, {**config.as_dict(), "fingerprints": fingerprints})
    config.begun = True
    run.prepare(numbers)
    if data.unreadable:
        rows = pd.DataFrame({"file": list(data.unreadable), "why": list(data.unreadable.values())})
        write_text(run.unreadable, rows.to_csv(index=False))


def check_same_data(run: RunFolder, fingerprints: dict[str, str]) -> None:
    """Refuse to continue a run with other people, photographs, labels or initial weights than it was begun with."""
    earlier = read_json(run.config).get("fingerprints", {})
    what = {
        "split": "people or another split",
        "labels": "photographs or labels (files added, lost or unreadable, train.csv, --corrections)",
        "load_state_dict": "weights in --load-state-dict",
    }
    for name, now in fingerprints.items():
        if earlier.get(name) != now:
            raise UserError(
                f"{run.path} was begun with other {what[name]} (fingerprint {earlier.get(name)}, now {now}). Use the "
                "same to continue it, pass --overwrite to train anew, or another --save-path."
            )


def initial_weights(config: TrainConfig) -> dict[str, torch.Tensor] | None:
    """The weights of --load-state-dict, or None; says so when they were chosen or trained on people validated here."""
    if not config.load_state_dict:
        return None
    weights, info = load_checkpoint(config.load_state_dict)
    if info is not None and (info.model_type, info.backbone) != (config.model_type, config.backbone):
        raise UserError(
            f"{config.load_state_dict} holds {info.model_type} with {info.backbone}, not {config.model_type} with "
            f"{config.backbone}; pass --model-type {info.model_type} --backbone {info.backbone} or other weights."
        )
    if info is not None and not config.new_head and not MODELS[info.model_type].answers(config.task, info.task):
        raise UserError(
            f"{config.load_state_dict} was trained on task {info.task}, not {config.task}; pass other weights, "
            f"--task {info.task}, or --new-head to take the backbone alone."
        )
    if not config.valid_root:
        print(
            f"Starting from {config.load_state_dict}. If these weights were trained on people of this data set, the "
            "validation scores below are too good: people they know are validated on."
        )
    return weights


# ------------------------------------------------------------------------------------------------ after training


def print_summary(task: str, summary: dict[str, Any], *, overall: str) -> None:
    """The closing table: the best epoch of each fold, mean and deviation, and the `overall` score over all people."""
    names = TASKS[task].scores

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
    missing = summary["folds_planned"] - summary["folds_finished"]
    if missing:
        print(f"{missing} of {summary['folds_planned']} folds are still to be trained: pass --resume to add them.")
