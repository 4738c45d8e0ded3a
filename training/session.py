"""The steps of a run around its folds: check, load, open, report. Importing this does not import torch."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.metrics import try_metric
from analysis.summary import print_summary, summarise_run
from cli.checks import check_folds, own_data, train_size
from cli.choices import MODELS
from cli.command import Context
from cli.interrupts import Interrupted, StopRequest
from config import LabelErrorConfig, TrainConfig
from data.images import needed_side
from data.label_math import make_targets
from data.layout import MANY
from data.prepare import Data, Tables, prepare_images, read_tables
from data.split import Split
from storage.find_runs import checkpoint_files, existing_checkpoint
from storage.lock import FoldLocks
from storage.run_folder import RunFolder, can_continue
from training.tracking import check_tracker, track_summary
from utils import (
    DiskError,
    UserError,
    file_digest,
    first_line,
    make_folder,
    process_number,
    remove_tree,
    shorten_list,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    import torch

    from training.distributed import Processes
    from training.fold import Weights
    from training.loaders import FoldLoaders

# Fingerprints that runs of earlier versions lack.
EARLIER = {"pixels": "ImageNet's mean, bilinear, whole square", "head": "ImageNet logits"}
# What each fingerprint of a run covers.
FINGERPRINTS = {
    "split": "groups or another split",
    "labels": "images or labels (files added, lost or unreadable, train.csv, --corrections)",
    "load_state_dict": "weights in --load-state-dict",
    "extend_from": "options of the run in --extend-from",
    "pretrained": "weights in --pretrained",
    "pixels": "mean, standard deviation, interpolation or crop of the images",
    "head": "inputs of the head",
    "classes": "classes",
    "metric": "code in the file of --metric",
    "pseudo_labels": "predictions in --pseudo-labels",
}


# ------------------------------------------------------------------------------------------------ before training


def read_run(config: TrainConfig) -> Tables:
    """Return the labels of a run, and fill in the options that depend on those of --data; no image is decoded."""
    tables = read_tables(
        train_root=config.train_root,
        valid_root=config.valid_root,
        corrections=config.corrections,
        two_genders=config.two_genders,
        own=own_data(config),
        cv=config.cv,
        seed=config.seed,
    )
    if config.data:
        config.labels, default = tables.tasks.as_plain(), tables.tasks.default.name
        if config.task not in tables.tasks:
            reason = f"has no joint classes: more than {MANY} combinations, or two of one name"
            if "task" in config.given:
                raise UserError(f"--task {config.task} {reason}. Pass one of the labels, or fewer in --label.")
            print(f"{config.task} {reason}. Training on {default}; pass --task for another label.")
            config.task = default
        if config.oversample and len(tables.tasks.attributes) > 1 and not tables.tasks.joint:
            raise UserError(
                "--oversample needs joint classes of all labels, and these have too many combinations. Pass fewer in "
                "--label, or leave it out."
            )
        if config.folds_from:
            config.cv = len(tables.split.folds)
            check_folds(config)
    for fold in tables.split.folds:
        rows = tables.valid if tables.valid is not None else tables.train[tables.train["person"].isin(fold.valid)]
        try_metric(config.record, make_targets(rows, tables.tasks)[config.task])
    return tables


def check_run(config: TrainConfig, run: RunFolder, folds: Sequence[int], split: Split) -> None:
    """Raise a UserError if a run cannot start; torch is not imported."""
    if process_number() == 0:
        lock_folds(config, run, folds).check()
        can_continue(run, config)
    if config.load_state_dict:
        existing_checkpoint(config.load_state_dict)
    if isinstance(config.pretrained, str):
        existing_checkpoint(config.pretrained)
    missing = [name for name in ("matplotlib", "jinja2") if config.report and not find_spec(name)]
    if missing:
        raise UserError(
            f"The report needs {shorten_list(missing)}. Run pip install -r requirements.txt, or pass --no-report."
        )
    if config.extend_from:
        _check_extended(config, run, folds, split)
    if process_number() == 0:
        check_tracker(config)  # last: it imports torch


def _check_extended(config: TrainConfig, run: RunFolder, folds: Sequence[int], split: Split) -> None:
    """Check that --extend-from names another run of the same split, in which the folds are finished."""
    source = RunFolder(config.extend_from)
    if not source.config.is_file():
        raise UserError(f"--extend-from {source.path} is not the folder of a run, which has a config.json. Pass one.")
    if source.path.resolve().is_relative_to(run.path.resolve()):
        raise UserError(f"--extend-from {source.path} is where this run saves. Pass another --save-path.")
    if config.on_bad_image == "stop":  # otherwise the split is known once all images are read
        _check_same_split(config, split)
    finished = source.finished()
    missing = [k for k in folds if k not in finished or not checkpoint_files(source.fold(k))]
    if missing:
        raise UserError(
            f"Fold {shorten_list(missing)} of {source.path} is not finished. Train it with --resume, or pass --folds."
        )


def _check_same_split(config: TrainConfig, split: Split) -> None:
    """Check that the run of --extend-from has the same people in the same folds."""
    source = RunFolder(config.extend_from)
    if source.read_split()["fingerprint"] != split.fingerprint:
        earlier = source.read_config()
        raise UserError(
            f"{source.path} has another split (--cv {earlier.cv}, --seed {earlier.seed}, or other images or labels), "
            "so its folds were trained on images that these validate. Pass the same images, labels, --cv and --seed."
        )


def lock_folds(config: TrainConfig, run: RunFolder, folds: Sequence[int]) -> FoldLocks:
    """Return the locks of the folds to train, and of those that --overwrite would delete."""
    return run.locks({*folds, *(run.folds() if config.overwrite else ())})


def check_batch_size(size: int | str, dist: Processes) -> None:
    """Check that each process gets two images of a batch, which BatchNorm needs; "auto" is chosen later."""
    least = 2 * dist.world_size
    if size != "auto" and size < least:
        raise UserError(
            f"--batch-size {size} is less than two images for each of {dist.world_size} processes. Pass "
            f"{least} or more."
        )


def load_data(config: TrainConfig, tables: Tables, dist: Processes) -> Data:
    """Decode the images once per machine, and check that all machines have the same.

    Raises:
        UserError: images are unreadable, too few people are left, or machines differ.
    """
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
    fingerprints = data.pseudo_fingerprint, data.split.fingerprint, data.fingerprint
    (first, *own), *others = dist.gather((socket.gethostname(), *fingerprints))
    for host, *theirs in others:
        if theirs != own:
            raise UserError(
                f"{host} has other images or labels than {first} (pseudo labels, split, labels: {' '.join(theirs)} and "
                f"{' '.join(own)}). Copy the same to both."
            )
    return data


# ------------------------------------------------------------------------------------------------ session


@dataclass
class Session:
    """A run that is being trained."""

    config: TrainConfig
    run: RunFolder
    folds: Sequence[int]  # to train
    data: Data
    weights: Weights | None  # to start from; of the first fold with --extend-from
    dist: Processes
    device: torch.device
    pixels: dict[str, Any] = field(init=False)  # mean, std, interpolation, crop share of images, if not the defaults
    on_logits: bool = field(init=False)  # see `training.fold.starts_on_logits`
    loaders: dict[int, FoldLoaders] = field(init=False)  # of each fold
    locks: FoldLocks = field(init=False)  # of the folds; only the main process locks them
    stop: StopRequest = field(init=False)  # notes the signals that ask to stop
    networks: dict[torch.dtype, Any] = field(default_factory=dict, init=False)  # on a GPU, that validated last
    summary: dict[str, Any] = field(default_factory=dict, init=False)  # of the finished folds, in the main process
    report: Path | None = field(default=None, init=False)  # of the finished folds

    def __post_init__(self) -> None:
        from augmentation import Settings
        from backbones.create import expected_pixels
        from training.fold import starts_on_logits
        from training.loaders import fold_loaders

        config, info = self.config, self.weights and self.weights.info
        self.on_logits = starts_on_logits(config, self.weights)
        if info:  # the weights were trained with it
            expected = {name: getattr(info, name) for name in ("mean", "std", "interpolation", "crop_share")}
        else:
            expected = expected_pixels(config.model_type, config.backbone, on_logits=self.on_logits)
        default = Settings(config.image_size)
        self.pixels = {name: value for name, value in expected.items() if value != getattr(default, name)}
        self.loaders = fold_loaders(config, self.data, self.folds, self.device, self.dist, pixels=self.pixels)
        self.locks = lock_folds(self.config, self.run, self.folds) if self.dist.is_main else FoldLocks({})
        self.stop = StopRequest(patient=self.dist.world_size > 1)

    @contextmanager
    def open(self, context: Context) -> Iterator[None]:
        """Lock the folds, start or continue the run in its folder, and note signals, for the length of a block."""
        if self.dist.is_main:
            make_folder(self.run.path.parent)
        with self.locks:
            if self.dist.is_main:
                start_run(self.config, self.run, self.data, self.folds, self.pixels, on_logits=self.on_logits)
                context.started = True
            print(self.describe())
            with self.stop:
                yield

    def describe(self) -> str:
        """Return what is trained, on what and where."""
        config, data = self.config, self.data
        count = f"{self.dist.world_size} processes on " if self.dist.world_size > 1 else ""
        trained = train_size(config.train_side, config.image_size)
        size = f"{config.image_size} px" + (f", trained on {trained} px" if trained != config.image_size else "")
        kept = f"\n{data.reader}." if config.cache != "off" else ""
        if config.preset is None and config.pretrained and self.weights is None and not config.resume:
            kept += "\nPresets train better than the defaults: --preset strong, or --preset vit for transformers."
        return (
            f"Training {config.model_type} ({config.backbone}, {size}) on {config.record.title}, "
            f"{data.table['person'].nunique()} {config.record.noun}, {len(data.table)} images, {count}device "
            f"{self.device}.\n"
            f"Saving to {self.run.path}{kept}"
        )

    def stop_if_asked(self, save: Callable[[], str]) -> None:
        """Raise if a signal asked to stop or a lock is lost; called by all processes at the same step.

        `save` saves the state before a stop and returns its place, as in "before fold 1".

        Raises:
            Interrupted: a signal asked to stop, in any of the processes.
            UserError: another run took a fold.
        """
        self.locks.raise_if_lost()
        signum = self.dist.max(self.stop.take())
        if signum:
            raise Interrupted(signum, f"saved {save()}")

    def summarise(self) -> None:
        """Write the summary and the report of the folds that are finished."""
        if self.dist.is_main:
            self.summary, self.report = summarise_run(self.run, self.config), report_run(self.config, self.run)

    def print_result(self) -> None:
        """Print and track the summary, after the last fold."""
        if self.dist.is_main:
            track_summary(self.config, self.run, self.summary)
            print_result(self.config, self.summary, f"Saved in {self.run.path}", self.report)


def start_run(
    config: TrainConfig, run: RunFolder, data: Data, folds: Sequence[int], pixels: dict[str, Any], *, on_logits: bool
) -> None:
    """Start a run in its folder, or raise a UserError if the one in it cannot be continued."""
    fingerprints = {"split": data.split.fingerprint, "labels": data.fingerprint}
    if config.labels is not None:
        fingerprints["classes"] = "; ".join(f"{task.name}: {', '.join(task.classes)}" for task in config.tasks.values())
    if data.pseudo:
        fingerprints["pseudo_labels"] = data.pseudo_fingerprint
    function = config.metric.rpartition(":")[0] if config.metric else ""
    pretrained = config.pretrained if isinstance(config.pretrained, str) else None
    files = {"load_state_dict": config.load_state_dict, "pretrained": pretrained, "metric": function}
    fingerprints |= {name: file_digest(file) for name, file in files.items() if file}
    if pixels:
        fingerprints["pixels"] = "; ".join(f"{name} {value}" for name, value in pixels.items())
    if MODELS[config.model_type].library in ("torchvision", "timm") and not on_logits:
        fingerprints["head"] = "pooled features"
    if config.extend_from:
        _check_same_split(config, data.split)
        fingerprints["extend_from"] = file_digest(RunFolder(config.extend_from).config)
    if can_continue(run, config):
        _check_fingerprints(run, {**EARLIER, **fingerprints})
        run.check_tables(config.record)  # the summary needs them: better now than after hours of training
    else:
        if config.resume:
            print(f"Found nothing to resume in {run.path}, starting the run.")
        if config.overwrite:
            # Without its config, a run that is deleted in part is not recognised.
            remove_tree(run.path, keep=run.folds().values(), last=run.config.name)
        make_folder(run.path)
        if function:
            shutil.copyfile(function, run.metric)
        write_json(run.split, data.split.as_dict())
        labels = {} if config.labels is None else {"labels": config.labels}
        write_json(run.config, {**config.as_dict(), **labels, "fingerprints": fingerprints})
    run.prepare(folds)
    if data.unreadable:
        rows = pd.DataFrame({"file": list(data.unreadable), "why": list(data.unreadable.values())})
        write_text(run.unreadable, rows.to_csv(index=False))


def _check_fingerprints(run: RunFolder, fingerprints: dict[str, str]) -> None:
    earlier = {**EARLIER, **run.fingerprints()}
    for name, now in fingerprints.items():
        if earlier.get(name) != now and earlier.get(name) == EARLIER.get(name, ""):
            raise UserError(
                f"{run.path} was begun by an earlier version, or from other weights, with other {FINGERPRINTS[name]} "
                f"({earlier.get(name)}, now {now}). Continue it as it was begun, or pass --overwrite or another "
                "--save-path to train again."
            )
        if earlier.get(name) != now:
            raise UserError(
                f"{run.path} was started with other {FINGERPRINTS[name]} (fingerprint {earlier.get(name)}, now {now}). "
                "Use the same to continue it, or pass --overwrite or another --save-path to train again."
            )


# ------------------------------------------------------------------------------------------------ after training


def report_run(config: TrainConfig, run: RunFolder) -> Path | None:
    """Write the report and return its path, or None without one; an error in it does not end a training."""
    if not config.report:
        return None
    try:
        from analysis.run_report import write_report  # imports matplotlib, which takes a second

        return write_report(run, suspect_share=LabelErrorConfig.share)
    except DiskError:
        raise
    except Exception as error:
        print(
            f"The report could not be written ({first_line(error)}). Try again with: python -m tools make_report "
            f"--root {run.path}"
        )
        return None


def join_folds(run: RunFolder) -> None:
    """Write the files of a run over all its folds, and print the summary.

    For folds that were trained at the same time, or on several machines and copied into one folder.

    Raises:
        UserError: no fold is finished, or files of one are missing, damaged, or of another run.
    """
    config = run.read_config()
    run.check_tables(config.record)
    finished = run.finished()
    if not finished:
        found = shorten_list(run.unfinished()) or "it has none"
        raise UserError(f"No fold of {run.path} is finished: {found}. Train with --resume.")
    from storage.members import check_fold  # imports torch

    fingerprint = run.read_split()["fingerprint"]
    for number in run.folds():
        if checkpoint_files(run.fold(number)) or number in finished:
            check_fold(run, number, config, fingerprint)
    print_result(config, summarise_run(run, config), f"Joined in {run.path}", report_run(config, run))


def print_result(config: TrainConfig, summary: dict[str, Any], done: str, report: Path | None) -> None:
    """Print the scores of a run, and the places of its files and its report."""
    print_summary(config, summary)
    print(done)
    if report:
        print(f"Report: {report}")
