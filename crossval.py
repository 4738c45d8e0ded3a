"""Training a run: the folds one after another, their checkpoints, logs and out-of-fold predictions."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from augmentation import build_transform
from checkpoint import BestKeeper, ModelInfo, load_checkpoint, load_weights, read_file, save_checkpoint
from config import MODELS, TrainConfig, UserError
from dataset import EpochSampler, TrainDataset, ViewDataset, targets_of, train_loader, view_loader
from engine import EvalResult, TrainResult, evaluate, prepare, train_one_epoch
from loss import create_criterion
from metrics import score
from model import Network, create_model
from optim import create_optimizer, create_scheduler, learning_rate
from runfolder import RunFolder, oof_columns
from split import Fold, Split, split_people
from table import read_training_tables, unreadable_images
from tasks import SCORE_TITLES, TASKS
from utils import (
    atomic_write,
    choose_device,
    count_workers,
    library_versions,
    read_json,
    seed_everything,
    some,
    write_json,
)


@dataclass(frozen=True)
class Data:
    """Everything a run trains and validates on: tables with one row an image, and the split of the people.

    `valid` is None when every fold validates on its own held-out people.
    """

    table: pd.DataFrame
    valid: pd.DataFrame | None
    split: Split

    def fold_tables(self, fold: Fold) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The training and the validation rows of a fold."""
        train = self.table[self.table["person"].isin(fold.train)]
        valid = self.valid if self.valid is not None else self.table[self.table["person"].isin(fold.valid)]
        return train.reset_index(drop=True), valid.reset_index(drop=True)


def train_run(config: TrainConfig) -> None:
    """Train what the options ask for and leave the run's files; the command of train.py.

    Raises:
        UserError: something the user can put right; nothing has been trained then.
    """
    device = choose_device(config.device)
    run = RunFolder.of(config.save_path, config.task, config.model_type, cv=config.cv)
    continued = run.holds(config)
    data = load_data(config)
    initial = initial_weights(config)
    build_network(config, initial)  # weights that are missing or do not fit are found out before anything is written
    if continued:
        check_same_people(run, data.split)
    else:
        if config.resume:
            print(f"There is nothing to resume in {run.path} yet: starting.")
        run.clear()
        write_json(run.split, data.split.as_dict())
        write_json(run.config, config.as_dict())
    print(
        f"Training {config.model_type} ({config.backbone}, {config.image_size} px) on {TASKS[config.task].title}, "
        f"{data.table['person'].nunique()} people, {len(data.table)} images, device {device}.\nSaving to {run.path}"
    )
    for number in config.folds if config.folds is not None else range(config.cv):
        FoldTrainer(config, run, data, number, device, initial).train()
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
    elsewhere = None if valid is None else sorted(set(valid["person"]))
    split = split_people(table, cv=config.cv, seed=config.seed, valid_people=elsewhere)
    paths = [*table["path"], *(valid["path"] if valid is not None else ())]
    unreadable = unreadable_images(paths)
    if unreadable:
        raise UserError("\n".join(unreadable))
    for note in [*report.notes, *split.notes]:
        print(note)
    data = Data(table, valid, split)
    for number, fold in enumerate(split.folds):
        if len(data.fold_tables(fold)[0]) < 2:
            raise UserError(f"Fold {number} would be trained on a single photograph; there must be two for a batch.")
    return data


def check_same_people(run: RunFolder, split: Split) -> None:
    """Refuse to continue a run with people in other places than it was begun with."""
    earlier = read_json(run.split)["fingerprint"]
    if earlier != split.fingerprint:
        raise UserError(
            f"{run.path} was begun with other people or another split (fingerprint {earlier}, now "
            f"{split.fingerprint}). Use the same photographs, pass --overwrite to train anew, or another --save-path."
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
    if info is not None and not MODELS[info.model_type].answers(config.task, info.task):
        raise UserError(
            f"{config.load_state_dict} was trained on task {info.task}, not {config.task}; pass other weights, or "
            f"--task {info.task}."
        )
    if not config.valid_root:
        print(
            f"Starting from {config.load_state_dict}. If these weights were trained on people of this data set, the "
            "validation scores below are too good: people they know are validated on."
        )
    return weights


def build_network(config: TrainConfig, initial: dict[str, torch.Tensor] | None) -> Network:
    """A network of the run, with random, ImageNet or the given initial weights.

    Raises:
        UserError: the ImageNet weights cannot be had, or the initial ones do not fit.
    """
    network = create_model(
        config.model_type,
        task=config.task,
        backbone=config.backbone,
        image_size=config.image_size,
        pretrained=config.pretrained and initial is None,
        freeze=config.freeze,
    )
    if initial is not None:
        kind = f"{config.model_type} ({config.backbone}, task {config.task})"
        load_weights(network, initial, config.load_state_dict, kind)
    return network


# ------------------------------------------------------------------------------------------------ one fold


class FoldTrainer:
    """Trains one fold of a run, from its start or from where its resume state stands."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        data: Data,
        number: int,
        device: torch.device,
        initial: dict[str, torch.Tensor] | None,
    ) -> None:
        self.config, self.run, self.number, self.device, self.initial = config, run, number, device, initial
        self.task = TASKS[config.task]
        self.fingerprint = data.split.fingerprint
        self.train_table, self.valid_table = data.fold_tables(data.split.folds[number])
        state = read_file(run.state(number)) if run.state(number).is_file() else {}
        self.state: dict[str, Any] = state
        self.epoch = state.get("epoch", 0)  # epochs done
        self.rows: list[dict[str, Any]] = state.get("rows", [])
        self.keeper = BestKeeper(
            run.fold(number),
            config.top_n,
            monitor=self.task.monitor,
            higher_is_better=self.task.higher_is_better,
            kept=state.get("kept", ()),
        )

    def train(self) -> None:
        """Train the epochs that are left, leaving the fold's checkpoints, log and out-of-fold rows.

        Raises:
            UserError: the loss is no longer a number.
        """
        if self.epoch == self.config.epochs:
            self._check_whole()
            print(f"fold {self.number}: finished earlier")
        else:
            self._build()
        while self.epoch < self.config.epochs:
            self._train_epoch()
        if not self.keeper.kept:
            raise UserError(f"No epoch of fold {self.number} had a score that is a number; lower --lr.")

    def _check_whole(self) -> None:
        """Refuse a finished fold of which files are gone: its scores would be missing from the run's."""
        run, number = self.run, self.number
        kept = [run.fold(number) / name for *_, name in self.keeper.kept]
        gone = [path.name for path in (run.fold_log(number), run.fold_oof(number), *kept) if not path.is_file()]
        if kept and gone:
            raise UserError(
                f"{run.fold(number)} is a finished fold without {some(gone)}; put it back, or delete the folder to "
                "train the fold again."
            )

    def _build(self) -> None:
        config, seed = self.config, (self.config.seed, self.number)
        seed_everything("weights", *seed)
        self.network = prepare(build_network(config, self.initial), self.device)
        train_set = TrainDataset(
            self.train_table,
            build_transform(config.transform_type, "train", config.image_size),
            seed=seed,
            age_filter=config.age_filter,
            oversample=config.oversample,
        )
        if len(train_set.extra):
            print(f"fold {self.number}: {len(train_set.extra)} images mixed within scarce classes are added")
        self.sampler = EpochSampler(len(train_set), config.batch_size, seed=seed)
        workers = count_workers(config.num_workers, self.device)
        self.train_loader = train_loader(train_set, self.sampler, workers=workers, device=self.device)
        valid_set = ViewDataset(
            self.valid_table["path"].tolist(),
            self.valid_table["image"].tolist(),
            build_transform(config.transform_type, "valid", config.image_size),
            targets=targets_of(self.valid_table),
        )
        self.valid_loader = view_loader(
            valid_set, batch_size=2 * config.batch_size, workers=workers, device=self.device
        )
        self.criterion = create_criterion(config.loss_type)
        self.optimizer = create_optimizer(config.optim_type, self.network.parameters(), lr=config.lr)
        self.scheduler = create_scheduler(
            config.lr_scheduler,
            self.optimizer,
            epochs=config.epochs,
            steps_per_epoch=len(self.sampler),
            restart_epochs=config.restart_epochs,
        )
        self.keeper.remove_others()
        if self.epoch:
            print(f"fold {self.number}: continuing after epoch {self.epoch}")
            self.network.load_state_dict(self.state["network"])
            self.optimizer.load_state_dict(self.state["optimizer"])
            self.scheduler.load_state_dict(self.state["scheduler"])
            self.state = {}

    def _train_epoch(self) -> None:
        start = time.perf_counter()
        seed_everything("epoch", self.config.seed, self.number, self.epoch)  # dropout and the like
        self.sampler.set_epoch(self.epoch)
        rate = learning_rate(self.optimizer)
        title = f"fold {self.number} epoch {self.epoch + 1}/{self.config.epochs}"
        trained = train_one_epoch(
            self.network, self.train_loader, self.criterion, self.optimizer, self.scheduler, self.device, title=title
        )
        if not math.isfinite(trained.loss):
            raise UserError(
                f"The loss of fold {self.number} in epoch {self.epoch + 1} is {trained.loss}; lower --lr and pass "
                "--overwrite."
            )
        result = evaluate(
            self.network, self.valid_loader, self.criterion, self.config.task, self.device, title=f"{title} valid"
        )
        scores = score(self.config.task, result.probabilities, targets_of(self.valid_table)[self.config.task])
        self.epoch += 1
        saved = self.keeper.offer(self.epoch, scores[self.task.monitor], lambda path: self._save(path, scores))
        if saved is not None and saved.name == self.keeper.kept[0][2]:
            self._write_oof(result)
        self._log(rate, trained, result, scores, saved, seconds=time.perf_counter() - start)
        self._save_state()
        self.keeper.remove_others()  # only now, so that a state never names a checkpoint that is gone

    def _save(self, path: Path, scores: dict[str, float]) -> None:
        config = self.config
        info = ModelInfo(
            task=config.task,
            model_type=config.model_type,
            backbone=config.backbone,
            image_size=config.image_size,
            transform_type=config.transform_type,
            classes=self.task.classes,
            fold=self.number,
            epoch=self.epoch,
            scores=scores,
            monitor=self.task.monitor,
            higher_is_better=self.task.higher_is_better,
            split_fingerprint=self.fingerprint,
            config=config.as_dict(),
            versions=library_versions(),
        )
        save_checkpoint(path, self.network, info)

    def _write_oof(self, result: EvalResult) -> None:
        about = pd.DataFrame(
            {
                "ImageID": self.valid_table["image"],
                "person": self.valid_table["person"],
                "fold": self.number,
                "label": targets_of(self.valid_table)[self.config.task],
            }
        )
        answers = oof_columns(self.config.task, result.probabilities)
        self.run.write_fold_oof(self.number, pd.concat([about, answers], axis=1))

    def _log(
        self,
        rate: float,
        trained: TrainResult,
        result: EvalResult,
        scores: dict[str, float],
        saved: Path | None,
        *,
        seconds: float,
    ) -> None:
        speed = trained.images / trained.seconds
        row = {
            "fold": self.number,
            "epoch": self.epoch,
            "lr": rate,
            "train_loss": trained.loss,
            "valid_loss": result.loss,
        }
        self.rows.append({**row, **scores, "images_per_s": speed, "seconds": seconds})
        self.run.write_fold_log(self.number, self.rows)
        told = "  ".join(f"{SCORE_TITLES[name]} {scores[name]:.4f}" for name in self.task.scores)
        print(
            f"fold {self.number}  epoch {self.epoch:3d}/{self.config.epochs}  lr {rate:.2e}  "
            f"train loss {trained.loss:.4f}  valid loss {result.loss:.4f}  {told}  {speed:.0f} images/s"
            + (f"  saved {saved.name}" if saved else ""),
            flush=True,
        )

    def _save_state(self) -> None:
        state: dict[str, Any] = {"epoch": self.epoch, "rows": self.rows, "kept": self.keeper.kept}
        if self.epoch < self.config.epochs:
            state["network"] = self.network.state_dict()
            state["optimizer"] = self.optimizer.state_dict()
            state["scheduler"] = self.scheduler.state_dict()
        atomic_write(self.run.state(self.number), lambda file: torch.save(state, file))


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
