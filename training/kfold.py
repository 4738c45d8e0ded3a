"""Training a run: what it is trained on, its folds one after another, and its closing table."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from analysis.summary import print_summary, summarise_run
from cli.checks import train_size
from cli.command import Context
from cli.interrupts import StopRequest
from config import TrainConfig
from data.images import needed_side
from data.prepare import Data, prepare_images, read_tables
from data.tasks import TASKS
from storage.find_runs import checkpoint_files, existing_checkpoint
from storage.lock import FoldLocks
from storage.resume import can_continue
from storage.run_folder import RunFolder
from training.tracking import check_tracker, track_summary
from utils import (
    DiskError,
    UserError,
    file_digest,
    first_line,
    make_folder,
    process_number,
    shorten_list,
    write_json,
    write_text,
)


def train_run(config: TrainConfig, context: Context) -> None:
    """Train what the options ask for and leave the run's files; the command of train.py.

    Raises:
        UserError: something the user can put right; nothing has been trained then, or what has been is saved.
        Interrupted: Ctrl-C or SIGTERM, after saving.
        DiskError: a file could not be written.
    """
    run = RunFolder.of(config.save_path, config.task, config.model_type, cv=config.cv)
    numbers = config.folds if config.folds is not None else tuple(range(config.cv))
    if process_number() == 0:
        run.locks(_folds_to_lock(config, run, numbers)).check()
        can_continue(run, config)  # a run that is in the way is found out before the photographs are read
    if config.load_state_dict:
        existing_checkpoint(config.load_state_dict)
    missing = [name for name in ("matplotlib", "jinja2") if config.report and not find_spec(name)]
    if missing:
        raise UserError(
            f"The report needs {shorten_list(missing)}: pip install -r requirements.txt, or pass --no-report."
        )
    tables = read_tables(
        train_root=config.train_root,
        valid_root=config.valid_root,
        corrections=config.corrections,
        cv=config.cv,
        seed=config.seed,
    )
    if process_number() == 0:
        check_tracker(config)
    # Torch takes seconds to import, and looking at all photographs may take minutes: what stands in the way is told
    # before the one or the other, as soon as it can be known.
    from training.device import set_deterministic
    from training.distributed import Processes
    from training.fold import FoldTrainer, initial_weights
    from training.fold_state import FoldFiles
    from training.loaders import fold_loaders

    dist = Processes.from_environment()
    if config.batch_size < 2 * dist.world_size:
        raise UserError(
            f"--batch-size {config.batch_size} leaves less than two images for each of {dist.world_size} processes; pass "
            f"{2 * dist.world_size} or more."
        )
    device = dist.choose_device(config.device)
    set_deterministic(config.deterministic)
    with ExitStack() as held:
        held.enter_context(dist.connect(device))
        context.joined = True
        # Weights that do not fit are found out before anything is written.
        initial = dist.run_on_main(lambda: initial_weights(config))
        data = dist.run_once_per_machine(
            lambda: prepare_images(
                tables,
                side=needed_side(config.image_size, config.crop_scale),
                max_megapixels=config.max_megapixels,
                on_bad_image=config.on_bad_image,
                cache=config.cache,
                pseudo_labels=config.pseudo_labels,
                pseudo_share=config.pseudo_share,
                validated_root=config.validated_root,
                task=config.task,
                age_filter=config.age_filter,
            )
        )
        everything = data.pseudo_fingerprint, data.split.fingerprint, data.fingerprint
        _check_same_everywhere(dist.gather((socket.gethostname(), *everything)))
        locks = FoldLocks({})
        if dist.is_main:
            make_folder(run.path.parent)
            locks = held.enter_context(run.locks(_folds_to_lock(config, run, numbers)))
            begin(config, run, data, numbers)
            context.started = True
        count = f"{dist.world_size} processes on " if dist.world_size > 1 else ""
        trained = train_size(config.train_side, config.image_size)
        size = f"{config.image_size} px" + (f", trained on {trained} px" if trained != config.image_size else "")
        print(
            f"Training {config.model_type} ({config.backbone}, {size}) on {TASKS[config.task].title}, "
            f"{data.table['person'].nunique()} people, {len(data.table)} images, {count}device {device}.\n"
            f"Saving to {run.path}"
        )
        if config.cache != "off":
            print(f"{data.reader}.")
        stop = held.enter_context(StopRequest(patient=dist.world_size > 1))
        loaders = fold_loaders(config, data, numbers, device, dist)
        for number in numbers:
            files = FoldFiles(config, run, data, number, dist)
            FoldTrainer(config, files, loaders[number], device, initial, stop, locks, dist).train()
            if dist.is_main:
                summary = summarise_run(run, config)
                page = _report(run) if config.report else None
    if dist.is_main:
        print_summary(config, summary)
        track_summary(config, run, summary)
        print(f"Saved in {run.path}")
        if page:
            print(f"To look at: {page}")


def _folds_to_lock(config: TrainConfig, run: RunFolder, numbers: Sequence[int]) -> set[int]:
    """Return the folds to train and those that --overwrite would delete."""
    return {*numbers, *(run.folds() if config.overwrite else ())}


def _report(run: RunFolder) -> Path | None:
    """Write the report and return its path; what keeps it from being made is told, and no reason to end a training."""
    try:
        from analysis.run_report import write_report  # imports matplotlib, which takes a second

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
    if can_continue(run, config):
        check_same_data(run, fingerprints)
        run.check_tables(
            config.task, config.epochs
        )  # what the summary is made of: better now than after hours of training
    else:
        if config.resume:
            print(f"There is nothing to resume in {run.path} yet: starting.")
        if config.overwrite:
            run.clear()
        make_folder(run.path)
        write_json(run.split, data.split.as_dict())
        write_json(run.config, {**config.as_dict(), "fingerprints": fingerprints})
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
    run.check_tables(config.task, config.epochs)
    finished = run.finished(config.epochs)
    if not finished:
        raise UserError(f"No fold of {run.path} is finished yet: {shorten_list(run.unfinished()) or 'there is none'}.")
    from storage.members import check_fold  # imports torch

    fingerprint = run.read_split()["fingerprint"]
    for number in run.folds():
        if checkpoint_files(run.fold(number)) or number in finished:
            check_fold(run, number, config, fingerprint)
    print_summary(config, summarise_run(run, config))
    print(f"Joined in {run.path}")
    page = _report(run) if config.report else None
    if page:
        print(f"To look at: {page}")
