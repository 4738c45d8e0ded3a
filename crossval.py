"""Training a run: what it is trained on, its folds one after another, and its closing table."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cache import look_at_pictures
from config import TrainConfig, UserError, train_size_of
from finding import checkpoint_files, existing_checkpoint
from intervals import CORRECTED, NOT_CORRECTED, TITLES, Estimate
from lock import FoldLocks
from picture import needed_side, skip_or_stop
from pseudo import PseudoLabels, read_pseudo_labels
from runfolder import RunFolder, score_kind
from split import Data, Split, split_people
from stop import StopRequest
from table import read_training_tables
from tasks import AGE_BOUNDS, AGE_GROUPS, MAX_AGE, SCORE_TITLES, TASKS
from tracker import check_tracker, track_summary
from utils import (
    DiskError,
    file_digest,
    first_line,
    make_folder,
    process_number,
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
    run = RunFolder.of(config.save_path, config.task, config.model_type, cv=config.cv)
    numbers = config.folds if config.folds is not None else tuple(range(config.cv))
    if process_number() == 0:
        run.locks(config, numbers).check()
        run.holds(config)  # a run that is in the way is found out before the photographs are read
    if config.load_state_dict:
        existing_checkpoint(config.load_state_dict)
    missing = [name for name in ("matplotlib", "jinja2") if config.report and not find_spec(name)]
    if missing:
        raise UserError(f"The report needs {some(missing)}: pip install -r requirements.txt, or pass --no-report.")
    tables = read_tables(config)
    if process_number() == 0:
        check_tracker(config)
    # Torch takes seconds to import, and looking at all photographs may take minutes: what stands in the way is told
    # before the one or the other, as soon as it can be known.
    from foldfiles import FoldFiles
    from foldtrainer import FoldTrainer, fold_loaders, initial_weights
    from machine import set_deterministic
    from processes import Processes

    together = Processes.here()
    if config.batch_size < 2 * together.size:
        raise UserError(
            f"--batch-size {config.batch_size} leaves less than two images for each of {together.size} processes; pass "
            f"{2 * together.size} or more."
        )
    device = together.device(config.device)
    set_deterministic(config.deterministic)
    with ExitStack() as held:
        held.enter_context(together.joined(device))
        config.joined = True
        # Weights that do not fit are found out before anything is written.
        initial = together.share(lambda: initial_weights(config))
        data = together.share_locally(lambda: look_at_data(config, *tables))
        everything = data.pseudo_fingerprint, data.split.fingerprint, data.fingerprint
        _check_same_everywhere(together.gather((socket.gethostname(), *everything)))
        locks = FoldLocks({})
        if together.main:
            make_folder(run.path.parent)
            locks = held.enter_context(run.locks(config, numbers))
            begin(config, run, data, numbers)
        count = f"{together.size} processes on " if together.size > 1 else ""
        trained = train_size_of(config)
        size = f"{config.image_size} px" + (f", trained on {trained} px" if trained != config.image_size else "")
        print(
            f"Training {config.model_type} ({config.backbone}, {size}) on {TASKS[config.task].title}, "
            f"{data.table['person'].nunique()} people, {len(data.table)} images, {count}device {device}.\n"
            f"Saving to {run.path}"
        )
        if config.cache != "off":
            print(f"{data.pictures}.")
        stop = held.enter_context(StopRequest(patient=together.size > 1))
        loaders = fold_loaders(config, data, numbers, device, together)
        for number in numbers:
            files = FoldFiles(config, run, data, number, together)
            FoldTrainer(config, files, loaders[number], device, initial, stop, locks, together).train()
            if together.main:
                summary = run.finish(config)
                page = _report(run) if config.report else None
    if together.main:
        print_summary(config, summary)
        track_summary(config, run, summary)
        print(f"Saved in {run.path}")
        if page:
            print(f"To look at: {page}")


def _report(run: RunFolder) -> Path | None:
    """Write the report and return its path; what keeps it from being made is told, and no reason to end a training."""
    try:
        from report import write_report  # imports matplotlib, which takes a second

        return write_report(run)
    except DiskError:
        raise
    except Exception as error:
        print(f"There is no report ({first_line(error)}); python make_report.py --root {run.path} makes it.")
        return None


def _check_same_everywhere(found: Sequence[tuple[str, str, str]]) -> None:
    """Refuse to train together on machines that do not have the same photographs."""
    (first, *own), *others = found
    for host, *theirs in others:
        if theirs != own:
            raise UserError(
                f"{host} has other photographs or labels than {first} (pseudo labels, split, labels: "
                f"{' '.join(theirs)} and {' '.join(own)}); copy the same to both."
            )


# ------------------------------------------------------------------------------------------------ before training


def read_tables(config: TrainConfig) -> tuple[pd.DataFrame, pd.DataFrame | None, Split, list[str]]:
    """The tables of the photographs to train on and, with --valid-root, to validate on, the split, and notes on them.

    Raises:
        UserError: everything that stands in the way, one line each; or too few people.
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
    return table, valid, _split(config, table, valid), report.notes


def look_at_data(
    config: TrainConfig, table: pd.DataFrame, valid: pd.DataFrame | None, split: Split, notes: list[str]
) -> Data:
    """Look at every photograph, and split the people anew where some are left out, saying what is worth knowing.

    Raises:
        UserError: photographs that cannot be read, or too few people without them.
    """
    pseudo = read_pseudo_labels(config.pseudo_labels, validated=config.validated_root) if config.pseudo_labels else None
    paths = [*table["path"], *(valid["path"] if valid is not None else ()), *(pseudo.paths if pseudo else ())]
    folder, roots = Path(config.save_path), (config.train_root, config.valid_root, config.pseudo_labels)
    pictures, unreadable = look_at_pictures(
        paths,
        cache=config.cache,
        side=needed_side(config.image_size),
        max_megapixels=config.max_megapixels,
        folder=make_folder(folder) if config.cache == "disk" else folder,
        name=" ".join(os.path.abspath(root) for root in roots if root),
    )
    skip_or_stop(unreadable, config.on_bad_image)
    if unreadable:
        for option, part in (("--train-root", table), ("--valid-root", valid)):
            if part is not None and part["path"].isin(list(unreadable)).all():
                raise UserError(f"None of the {len(part)} photographs of {option} can be read: {min(unreadable)}.")
        table, valid = (_without(part, unreadable) for part in (table, valid))
        print(f"{len(unreadable)} of {len(paths)} photographs cannot be read and are left out: {some(unreadable)}.")
    split = _split(config, table, valid) if unreadable else split
    for note in [*notes, *split.notes]:
        print(note)
    data = Data(table, valid, split, unreadable, pictures, _pseudo_tables(config, pseudo, table, split, unreadable))
    for number, fold in enumerate(split.folds):
        if len(data.fold_tables(fold)[0]) < 2:
            raise UserError(f"Fold {number} would be trained on a single photograph; there must be two for a batch.")
    return data


def _pseudo_tables(
    config: TrainConfig, pseudo: PseudoLabels | None, table: pd.DataFrame, split: Split, unreadable: dict[str, str]
) -> list[pd.DataFrame]:
    """What each fold is trained on beside its people, for all folds or none."""
    if pseudo is None:
        return []
    medians = table.groupby("ageg")["age"].median()
    edges = (0, AGE_BOUNDS[0], config.age_filter or AGE_BOUNDS[1], MAX_AGE + 1)
    # Years that stay in their age group, with --age-filter too.
    ages = {k: float(np.clip(medians.get(k, edges[k]), edges[k], edges[k + 1] - 1)) for k in range(len(AGE_GROUPS))}
    tables = []
    for number in range(len(split.folds)):
        own = pseudo.fold_table(split.fingerprint, number, task=config.task, share=config.pseudo_share, ages=ages)
        tables.append(_without(own, unreadable))
        print(
            f"fold {number}: {len(tables[-1])} photographs are trained on with the labels that its members predicted."
        )
    return tables


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
    if data.pseudo:
        fingerprints["pseudo_labels"] = data.pseudo_fingerprint
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
    earlier = run.fingerprints()
    what = {
        "split": "people or another split",
        "labels": "photographs or labels (files added, lost or unreadable, train.csv, --corrections)",
        "load_state_dict": "weights in --load-state-dict",
        "pseudo_labels": "predictions in --pseudo-labels",
    }
    for name, now in fingerprints.items():
        if earlier.get(name) != now:
            raise UserError(
                f"{run.path} was begun with other {what[name]} (fingerprint {earlier.get(name)}, now {now}). Use the "
                "same to continue it, pass --overwrite to train anew, or another --save-path."
            )


# ------------------------------------------------------------------------------------------------ after training


def join_folds(run: RunFolder) -> None:
    """Write what a run leaves over all its folds, and print its closing table; the command of join_folds.py.

    For folds that were trained at the same time, or on several machines and copied into one folder.

    Raises:
        UserError: no fold is finished, or files of one are missing, damaged, or of another run.
    """
    config = run.read_config()
    run.check(config)
    finished = run.finished(config)
    if not finished:
        raise UserError(f"No fold of {run.path} is finished yet: {some(run.unfinished()) or 'there is none'}.")
    from checkpoint import check_fold  # imports torch

    fingerprint = run.split_fingerprint()
    for number in run.folds():
        if checkpoint_files(run.fold(number)) or number in finished:
            check_fold(run, number, config, fingerprint)
    print_summary(config, run.finish(config))
    print(f"Joined in {run.path}")
    page = _report(run) if config.report else None
    if page:
        print(f"To look at: {page}")


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
