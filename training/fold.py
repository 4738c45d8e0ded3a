"""Training one fold of a run, from its start or from where it was cut."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.metrics import score
from augmentation import BatchMixing
from cli.checks import train_size
from cli.choices import MODELS
from cli.interrupts import Interrupted, StopRequest
from config import TrainConfig
from data.tasks import AGE_BOUNDS, SCORE_TITLES, TASKS
from dataset import EpochSampler
from loss import create_criterion
from model import Network, check_train_size, create_model, inference_network
from optim import create_optimizer, create_scheduler, run_decay, step_average
from storage.checkpoint import load_checkpoint, load_weights
from storage.lock import FoldLocks
from training.device import random_state, seed_everything, set_random_state
from training.distributed import ALONE, Processes
from training.engine import (
    EpochProgress,
    EvalResult,
    evaluate,
    gradient_scaler,
    inference_dtype,
    prepare,
    renew_statistics,
    train_one_epoch,
    training_dtype,
)
from training.fold_state import FoldFiles
from training.loaders import FoldLoaders
from training.tracking import Tracker
from utils import UserError, shorten_list

CHECK_EVERY = 50  # steps after which a GPU is asked whether all losses are numbers, for which it has to be waited for


def initial_weights(config: TrainConfig) -> dict[str, torch.Tensor] | None:
    """The weights of --load-state-dict, or None; says so when they were chosen or trained on people validated here.

    Raises:
        UserError: they do not fit, or the ImageNet weights, where those are to be started from, cannot be had.
    """
    if not config.load_state_dict:
        build_network(config, None)
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
    build_network(config, weights, say=True)
    return weights


def build_network(config: TrainConfig, initial: dict[str, torch.Tensor] | None, *, say: bool = False) -> Network:
    """A network of the run, with random, ImageNet or the given initial weights; `say` lists what was left out of those.

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
    check_train_size(network, config.backbone, config.image_size, train_size(config.train_side, config.image_size))
    if initial is not None:
        kind = f"{config.model_type} ({config.backbone}, task {config.task})"
        left_out = load_weights(network, initial, config.load_state_dict, kind, new_head=config.new_head)
        if say and left_out:
            print(
                f"The head starts anew; of {config.load_state_dict} was left out: {shorten_list(left_out, len(left_out))}."
            )
    return network


def machine_of(device: torch.device, precision: str, processes: int = 1) -> dict[str, Any]:
    """What decides the last digits of a result, beside what the options say."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "numbers": str(training_dtype(precision, device)).removeprefix("torch."),
        "processes": processes,
    }


class FoldTrainer:
    """Trains one fold of a run, from its start or from where its resume state stands."""

    def __init__(
        self,
        config: TrainConfig,
        files: FoldFiles,
        own_loaders: FoldLoaders,
        device: torch.device,
        initial: dict[str, torch.Tensor] | None,
        stop: StopRequest,
        locks: FoldLocks,
        dist: Processes = ALONE,
    ) -> None:
        self.config, self.files, self.device, self.initial = config, files, device, initial
        self.stop, self.locks, self.dist = stop, locks, dist
        self.train_loader, self.valid_loader, self.plain_loader = own_loaders
        self.number, self.task = files.number, TASKS[config.task]
        self.epoch: int = files.state.get("epoch", 0)  # epochs done
        self.progress = EpochProgress()  # of the epoch that is trained
        self.machine = machine_of(device, config.precision, dist.world_size)  # that the fold was begun on
        self.rows: list[dict[str, Any]] = files.state.get("rows", [])
        self.best: torch.Tensor | None = files.state.get("best")  # (N, C), what the best epoch answers out of fold

    @property
    def judged(self) -> Network:
        """What is validated and saved: the network, or with --ema the running mean of its weights."""
        return self.average.module if self.average else self.network

    @property
    def sampler(self) -> EpochSampler:
        """What orders the images of an epoch."""
        return self.train_loader.batch_sampler

    def train(self) -> None:
        """Train the epochs that are left, leaving the fold's checkpoints, log and out-of-fold rows.

        Raises:
            UserError: the loss is no longer a number, or files of the fold are gone or of another run.
            Interrupted: a signal asked to stop; the state is saved.
        """
        self._heed_signals()
        self.files.check()
        if self.best is not None:
            # An epoch that was cut may have written other ones, of weights that another machine need not find again.
            self.files.write_oof(self.best.numpy())
        if self.epoch == self.config.epochs:
            print(f"fold {self.number}: finished earlier")
        else:
            self._build()
            with Tracker(self.config, self.files.run, self.files.run.fold(self.number).name, self.rows) as self.tracker:
                while self.epoch < self.config.epochs:
                    self._train_epoch()
        if not self.files.keeper.kept:
            raise UserError(f"No epoch of fold {self.number} had a score that is a number; lower --lr.")

    def _build(self) -> None:
        config, seed = self.config, (self.config.seed, self.number)
        seed_everything("weights", *seed)
        self.network = prepare(build_network(config, self.initial), self.device)
        self.average = step_average(self.network, config.ema) if config.ema else None
        if config.compile:
            self.network.compile()
        self.parallel = self.dist.wrap(self.network, self.device)
        self.dtype = training_dtype(config.precision, self.device)
        self.scaler = gradient_scaler(self.dtype, self.device)
        extra = len(self.train_loader.dataset.extra)
        if extra:
            print(f"fold {self.number}: {extra} images mixed within scarce classes are added")
        self.mixing = BatchMixing(
            mixup=config.mixup,
            cutmix=config.cutmix,
            age_sigma=config.age_sigma,
            bounds=(AGE_BOUNDS[0], config.age_filter or AGE_BOUNDS[1]),
        )
        self.criterion = create_criterion(
            config.loss_type, logit_adjustment=config.logit_adjustment, counts=self.train_loader.dataset.counts()
        )
        self.plain_criterion = create_criterion(config.loss_type)  # of the logits as they are predicted with
        weight_decay = config.weight_decay
        if config.run_decay:
            weight_decay = run_decay(config.run_decay, lr=config.lr, steps=config.epochs * len(self.sampler))
        self.optimizer = create_optimizer(
            config.optim_type,
            self.network,
            lr=config.lr,
            weight_decay=weight_decay,
            backbone_lr=config.backbone_lr,
        )
        self.scheduler = create_scheduler(
            config.lr_scheduler,
            self.optimizer,
            epochs=config.epochs,
            steps_per_epoch=len(self.sampler),
            restart_epochs=config.restart_epochs,
            warmup_epochs=config.warmup_epochs,
        )
        if "network" in self.files.state:
            self._take_up()

    def _take_up(self) -> None:
        """Put everything back to where the state was saved."""
        state, self.files.state = self.files.state, {}  # which may be large
        step = f" and step {len(state['losses'])} of the next" if len(state["losses"]) else ""
        print(f"fold {self.number}: continuing after epoch {self.epoch}{step}")
        begun, self.machine = state["machine"], state["machine"]
        now = machine_of(self.device, self.config.precision, self.dist.world_size)
        begun = {"processes": 1, **begun}  # what was begun before there could be more does not say
        differ = [f"{name} {begun.get(name)}, now {now[name]}" for name in now if begun.get(name) != now[name]]
        if differ:
            print(f"fold {self.number}: begun with {'; '.join(differ)}: the last digits may come out otherwise")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if state["scaler"]:  # empty where it was not needed
            self.scaler.load_state_dict(state["scaler"])
        losses = list(state["losses"].to(self.device).unbind())
        self.progress = EpochProgress(state["images"], state["seconds"], losses, state["rates"])
        if losses:
            states = state["random"] if isinstance(state["random"], list) else [state["random"]]
            if self.dist.rank < len(states):
                set_random_state(states[self.dist.rank], self.device)

    def _train_epoch(self) -> None:
        start = time.perf_counter() - self.progress.seconds
        if not self.progress.step:
            # For dropout and the like, which processes that train together draw each by itself.
            others = (self.dist.rank,) if not self.dist.is_main else ()
            seed_everything("epoch", self.config.seed, self.number, self.epoch, *others)
        self.sampler.set_epoch(self.epoch, self.progress.step)
        title = f"fold {self.number} epoch {self.epoch + 1}/{self.config.epochs}"
        try:
            trained = train_one_epoch(
                self.parallel,
                self.train_loader,
                self.criterion,
                self.optimizer,
                self.scheduler,
                self.device,
                dtype=self.dtype,
                scaler=self.scaler,
                title=title,
                progress=self.progress,
                mixing=self.mixing,
                dist=self.dist,
                sizes=self.sampler.sizes(),
                after_step=self._after_step,
            )
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):  # its compiler
                why = " ".join(str(error).split("\n\n")[0].split())  # then come hints on its own tracing
                raise UserError(f"--compile does not work here ({why.rstrip('.')}); leave it out.") from None
            raise
        self._check_losses()
        if self.plain_loader is not None:
            renew_statistics(self.judged, self.plain_loader, self.device, dtype=self.dtype, title=f"{title} statistics")
        self.dist.broadcast_buffers(self.network)
        if self.average:
            self.dist.broadcast_buffers(self.average.module)
        result = self._evaluate(inference_dtype(self.config.precision, self.device), title)
        scores = score(self.config.task, result.probabilities, self.valid_loader.dataset.targets[self.config.task])
        self.epoch += 1
        self.files.write_predictions(self.epoch, result.probabilities)
        saved, is_best = self.files.offer(self.epoch, scores, self.judged)
        if is_best:
            self.best = torch.from_numpy(result.probabilities)
            self.files.write_oof(result.probabilities)
        self._log(trained, result, scores, saved, seconds=time.perf_counter() - start)
        self.progress = EpochProgress()
        self._save_state()
        self.files.remove_others()  # only now, so that a state never names a checkpoint that is gone

    def _evaluate(self, dtype: torch.dtype, title: str) -> EvalResult:
        network = prepare(inference_network(self.judged, self.config.image_size), self.device, dtype)
        result = evaluate(
            network,
            self.valid_loader,
            self.plain_criterion,
            self.config.task,
            self.device,
            title=f"{title} valid",
            dist=self.dist,
            # Processes that have not the same number of batches cannot agree on stopping after each of them.
            after_batch=self._heed_signals if self.dist.world_size == 1 else lambda: None,
        )
        if dtype != torch.float32 and not np.isfinite(result.probabilities).all():
            print(f"fold {self.number}: its answers do not fit into {dtype}; validating again in float32")
            return self._evaluate(torch.float32, title)
        return result

    def _after_step(self, progress: EpochProgress) -> None:
        every, step = self.config.save_every_steps, progress.step
        if self.average:
            self.average.update_parameters(self.network)
        wrong_now = self.device.type == "cpu" and not progress.losses[-1].isfinite()
        if wrong_now or step % CHECK_EVERY == 0:
            self._check_losses()
        if every and step % every == 0 and step < len(self.sampler):
            self._save_state()
        self._heed_signals()

    def _heed_signals(self) -> None:
        """Save and stop if a signal asked for it, or another run took the fold."""
        self.locks.raise_if_lost()
        signum = self.dist.max(self.stop.signum or 0)
        if not signum:
            return
        where = f"before fold {self.number}"
        if self.progress.step:
            self._save_state()
            where = (
                f"after fold {self.number}, epoch {self.epoch + 1}, step {self.progress.step} of {len(self.sampler)}"
            )
        raise Interrupted(signum, f"saved {where}")

    def _check_losses(self) -> None:
        """Stop the fold if the loss of a step was no number, which no later step mends."""
        step = self.progress.first_bad_step()
        if step is None:
            return
        if not self.dist.is_main:
            raise SystemExit(2)  # all find it at the same step, and the main one tells
        images = [self.train_loader.dataset.name(index) for index in self.sampler.batches()[step]]
        raise UserError(
            f"The loss of fold {self.number} is {self.progress.losses[step].item()} in epoch {self.epoch + 1}, step "
            f"{step + 1}, at learning rate {self.progress.rates[step]:.3g}, on {shorten_list(images, len(images))}. The best "
            f"checkpoints before it stay in {self.files.run.fold(self.number)}. Look at these images, lower --lr, and "
            "pass --overwrite or another --save-path."
        )

    def _log(
        self,
        trained: EpochProgress,
        result: EvalResult,
        scores: dict[str, float],
        saved: Path | None,
        *,
        seconds: float,
    ) -> None:
        speed, rate = trained.images / trained.seconds, trained.rates[0]
        row = {
            "fold": self.number,
            "epoch": self.epoch,
            "lr": rate,
            "train_loss": trained.loss,
            "valid_loss": result.loss,
        }
        self.rows.append({**row, **scores, "images_per_s": speed, "seconds": seconds})
        self.files.write_log(self.rows)
        self.tracker.log(self.rows[-1])
        told = "  ".join(f"{SCORE_TITLES[name]} {scores[name]:.4f}" for name in self.task.scores)
        print(
            f"fold {self.number}  epoch {self.epoch:3d}/{self.config.epochs}  lr {rate:.2e}  "
            f"train loss {trained.loss:.4f}  valid loss {result.loss:.4f}  {told}  {speed:.0f} images/s"
            + (f"  saved {saved.name}" if saved else ""),
            flush=True,
        )

    def _save_state(self) -> None:
        """Write what the fold is resumed from: after an epoch, or within one."""
        progress = self.progress
        self._check_losses()  # weights after a loss that is no number are not worth keeping
        random_states = self.dist.gather(random_state(self.device))
        within: dict[str, Any] = {}
        if self.epoch < self.config.epochs:
            within = {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average.state_dict() if self.average else {},
                "random": random_states,
                "images": progress.images,
                "seconds": progress.seconds,
                "losses": torch.stack(progress.losses).cpu() if progress.losses else torch.empty(0),
                "rates": progress.rates,
                "machine": self.machine,
            }
        self.files.write_state(self.epoch, self.rows, self.best, within)
