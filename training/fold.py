"""Train one fold of a run, from its start or from its saved state."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from analysis.metrics import absent_classes, score
from backbones.sizes import check_train_size
from cli.checks import train_size
from cli.choices import MODELS
from config import TrainConfig
from data.tasks import score_title
from model import Network, create_model, inference_network
from optim import step_average
from storage.checkpoint import ModelInfo, has_logits_head, load_checkpoint, load_weights, read_file_weights
from storage.members import find_start
from storage.run_folder import RunFolder
from training.cuda_graph import Graphed, GraphedNetwork, graphs_of
from training.device import is_out_of_memory, random_state, seed_everything, set_random_state
from training.engine import (
    EpochProgress,
    EvalResult,
    evaluate,
    inference_dtype,
    prepare,
    train_one_epoch,
    update_statistics,
)
from training.fold_state import FoldFiles
from training.session import Session
from training.step import configured_criterion, configured_optimizer, create_step, explain_compile_errors
from training.tracking import Tracker
from training.train_step import TrainStep
from utils import UserError, shorten_list

LEAST_STEPS = 10  # of a run, for a schedule of the learning rate
CHECK_EVERY = 50  # steps after which the losses on a GPU, which has to be waited for, are checked


def train_fold(session: Session, number: int) -> None:
    """Train the remaining epochs of a fold, and leave its checkpoints, log and out-of-fold predictions.

    Raises:
        UserError: a loss is not finite, no epoch has a score, or files of the fold are missing or of another run.
        Interrupted: a signal asked to stop; the state is saved.
    """
    files = FoldFiles(session.config, session.run, session.data, number, session.dist, pixels=session.pixels)
    session.stop_if_asked(lambda: f"before fold {number}")
    files.restore()
    if files.finished:
        print(f"fold {number}: finished earlier")
    else:
        FoldTrainer(session, files).train()
    if not files.checkpoints.kept:
        raise UserError(f"No epoch of fold {number} has a finite score. Lower --lr.")


@dataclass(frozen=True)
class Weights:
    """Weights to start from, the file that they were read from, and their description; None for a bare state dict."""

    path: Path
    tensors: dict[str, torch.Tensor]
    info: ModelInfo | None


def initial_weights(config: TrainConfig, fold: int) -> Weights | None:
    """Return the weights that the first fold starts from by `read_weights`, after trying to load them.

    Raises:
        UserError: the weights do not fit, or the ImageNet weights cannot be loaded.
    """
    weights = read_weights(config, fold)
    if config.load_state_dict and not config.valid_root:
        print(
            f"Starting from {weights.path}. If these weights were trained on images of this data set, the validation "
            "scores are too high, since the folds validate on them."
        )
    left_out = build_network(config, weights)[1]
    if left_out:
        names = shorten_list(left_out, len(left_out))
        print(f"The head starts from random weights. Left out of {weights.path}: {names}.")
    return weights


def read_weights(config: TrainConfig, fold: int, fingerprint: str | None = None) -> Weights | None:
    """Return the weights that a fold starts from, or None for ImageNet or random ones.

    With --extend-from they are those of the fold itself in the earlier run, which must have the split with this
    fingerprint, if one is given.

    Raises:
        UserError: there are none, or they are of another network, task or split.
    """
    if not config.load_state_dict and not config.extend_from:
        return None
    path = Path(config.load_state_dict or "")
    if config.extend_from:
        path = find_start(RunFolder(config.extend_from), fold, config.extend_weights, fingerprint).path
    tensors, info = load_checkpoint(path)
    if info is not None and (info.model_type, info.backbone) != (config.model_type, config.backbone):
        raise UserError(
            f"{path} holds {info.model_type} with {info.backbone}, not {config.model_type} with {config.backbone}. "
            f"Pass --model-type {info.model_type} --backbone {info.backbone}, or other weights."
        )
    if info is not None and not config.new_head:
        _check_heads(path, info, config)
    return Weights(path, tensors, info)


def _check_heads(path: Path, info: ModelInfo, config: TrainConfig) -> None:
    """Check that weights have the heads of a run, with the same classes."""
    record, advice = MODELS[info.model_type], "other weights, or --new-head to load only the backbone"
    heads = {config.task: config.record} if record.has_one_head else config.tasks
    if not record.answers(config.record, info.task) or not heads.keys() <= info.tasks.keys():
        task = f"--task {info.task}, " if info.task in config.tasks else ""
        raise UserError(f"{path} was trained on task {info.task}, not {config.task}. Pass {task}{advice}.")
    for name, task in heads.items():
        if info.tasks[name].classes != task.classes:
            before, now = (shorten_list(each) for each in (info.tasks[name].classes, task.classes))
            raise UserError(f"{path} has the classes {before} of {name}, and the data {now}. Pass {advice}.")


def starts_on_logits(config: TrainConfig, weights: Weights | None) -> bool:
    """Return whether a network continues with a head of an earlier version, on ImageNet logits."""
    if weights is None or config.new_head:
        return False
    return not weights.info.pooled if weights.info else has_logits_head(weights.tensors)


def build_network(config: TrainConfig, weights: Weights | None) -> tuple[Network, list[str]]:
    """Return a network with the given, ImageNet or random weights, and the names of the given ones that it left out.

    Raises:
        UserError: the weights do not fit, or the ImageNet weights cannot be loaded.
    """
    network = create_model(
        config.model_type,
        task=config.record,
        tasks=config.tasks,
        backbone=config.backbone,
        image_size=config.image_size,
        pretrained=weights is None
        and (read_file_weights(config.pretrained) if isinstance(config.pretrained, str) else config.pretrained),
        freeze=config.freeze,
        drop_path=config.drop_path,
        grad_checkpointing=config.grad_checkpointing,
        architecture=weights and weights.info and weights.info.architecture,
        on_logits=starts_on_logits(config, weights),
    )
    check_train_size(network, config.backbone, config.image_size, train_size(config.train_side, config.image_size))
    if weights is None:
        return network, []
    kind = f"{config.model_type} ({config.backbone}, task {config.task})"
    return network, load_weights(network, weights.tensors, weights.path, kind, new_head=config.new_head)


def create_network(
    config: TrainConfig, weights: Weights | None, device: torch.device
) -> tuple[Network, AveragedModel | None]:
    """Return the network to train, on its device, and with --ema its average."""
    network = prepare(build_network(config, weights)[0], device)
    average = step_average(network, config.ema) if config.ema else None
    if config.compile:
        network.compile()
    return network, average


class FoldTrainer:
    """Trains one fold, from its start or from the state in its files."""

    def __init__(self, session: Session, files: FoldFiles) -> None:
        config = session.config
        self.session, self.files, self.config = session, files, config
        self.dist, self.device = session.dist, session.device
        self.number, self.task = files.number, config.record
        self.loaders = session.loaders[self.number]
        self.sampler = self.loaders.train.batch_sampler
        seed_everything("weights", config.seed, self.number)
        weights = session.weights
        if config.extend_from and "network" not in files.state:
            weights = self.dist.run_on_main(lambda: read_weights(config, self.number, files.fingerprint))
            print(f"fold {self.number}: starting from {weights.path}")
        self.network, self.average = create_network(config, weights, self.device)
        extra = len(self.loaders.train.dataset.extra)
        if extra:
            print(f"fold {self.number}: added {extra} images mixed within scarce classes")
        self.step = self._create_step()
        self.graphs = graphs_of(self.device, config.cuda_graphs)
        self.on_gpu = self.graphs is not None or self.device.type == "cuda"
        self.statistics = Graphed(self.graphs, "Computing BatchNorm statistics runs") if self.on_gpu else None
        self.valid_criterion = configured_criterion(config)  # without adjusted logits, as in prediction
        self.progress = EpochProgress()  # of the current epoch
        self.machine = {  # that the fold was started on: it changes the last digits of a result
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "numbers": str(self.step.dtype).removeprefix("torch."),
            "processes": self.dist.world_size,
        }
        if "network" in files.state:
            self._resume()
        targets = self.loaders.valid.dataset.targets[config.task]
        if absent := absent_classes(self.task, targets)[0]:
            names = shorten_list(absent)
            print(
                f"fold {self.number} validates no image of {names}, which macro F1 leaves out unless they are predicted"
            )

    @property
    def eval_model(self) -> Network:
        """Return the network to validate and save: with --ema the one with the average weights."""
        return self.average.module if self.average else self.network

    def _create_step(self) -> TrainStep:
        config, steps = self.config, self._count_steps(len(self.sampler))
        if config.epochs * steps < LEAST_STEPS and config.lr_scheduler != "none":
            few = f"too few steps for --lr-scheduler {config.lr_scheduler}, {config.epochs * steps} in all"
            smaller = "--batch-size" if config.accumulate == 1 else "--accumulate"
            advice = f"Pass more --epochs, a smaller {smaller}, or --lr-scheduler none."
            print(f"fold {self.number}: {few}. {advice}")
        if config.accumulate > (batches := len(self.sampler)):
            more = f"--accumulate {config.accumulate} is more than the batches of an epoch, {batches}"
            print(f"fold {self.number}: {more}, so that an epoch is one step")
        optimizer = configured_optimizer(config, self.network, config.epochs * steps)
        if config.layer_decay != 1:
            rates = {group["lr"] for group in optimizer.param_groups}
            lowest = f"{min(rates):.2g} for the first of {len(rates) - 1} layers of the backbone"
            advice = ". Pass a --layer-decay nearer to 1 to train it" if min(rates) < 1e-6 * max(rates) else ""
            print(f"fold {self.number}: learning rates from {max(rates):.2g} for the head to {lowest}{advice}")
        counts = self.loaders.train.dataset.counts()
        options = {"steps": steps, "counts": counts, "full": max(self.sampler.sizes()), "dist": self.dist}
        return create_step(config, self.network, optimizer, self.device, **options)

    def _resume(self) -> None:
        """Restore the saved state."""
        state, self.files.state = self.files.state, {}  # which may be large
        step = f" and step {self._count_steps(len(state['losses']))} of the next" if len(state["losses"]) else ""
        print(f"fold {self.number}: continuing after epoch {self.files.epoch}{step}")
        started = {"processes": 1, **state["machine"]}  # states of earlier versions lack the number
        now = self.machine.items()
        changes = [f"{name} {started.get(name)}, now {value}" for name, value in now if started.get(name) != value]
        if changes:
            print(f"fold {self.number}: started with {'; '.join(changes)}: results may differ in the last digits")
        self.machine = state["machine"]
        self.network.load_state_dict(state["network"])
        try:
            self.step.optimizer.load_state_dict(state["optimizer"])
        except ValueError:  # they are grouped by their weight decay
            raise UserError(
                f"Fold {self.number} was begun by an earlier version, in which the position embeddings of transformers "
                "had weight decay. Pass --overwrite to train the run again, or another --save-path."
            ) from None
        self.step.scheduler.load_state_dict(state["scheduler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if state["scaler"]:  # empty where it was not needed
            self.step.scaler.load_state_dict(state["scaler"])
        losses = list(state["losses"].to(self.device).unbind())
        self.progress = EpochProgress(state["images"], state["seconds"], losses, state["rates"])
        if losses:
            states = state["random"] if isinstance(state["random"], list) else [state["random"]]
            if self.dist.rank < len(states):
                set_random_state(states[self.dist.rank], self.device)

    # -------------------------------------------------------------------------------------------- epochs

    def train(self) -> None:
        """Train the remaining epochs."""
        files = self.files
        with Tracker(self.config, files.run, files.run.fold(self.number).name, files.rows) as tracker:
            while not files.finished:
                self._run_epoch(tracker)
        if self.graphs is not None:
            self.graphs.release()  # the next fold needs their memory
        if files.epoch < self.config.epochs:
            epochs = f"{self.config.patience} epoch{'s' if self.config.patience > 1 else ''}"
            print(f"fold {self.number}: stopped early, no better {score_title(self.task.monitor)} for {epochs}")

    def _run_epoch(self, tracker: Tracker) -> None:
        """Train and validate an epoch, save its weights if they are among the best, and log it."""
        start = time.perf_counter() - self.progress.seconds
        title = f"fold {self.number} epoch {self.files.epoch + 1}/{self.config.epochs}"
        self._train(title)
        if self.loaders.plain is not None:
            options = {"dtype": self.step.dtype, "graphed": self.statistics, "title": f"{title} statistics"}
            update_statistics(self.eval_model, self.loaders.plain, **options)
        self.dist.broadcast_buffers(self.network)
        if self.average:
            self.dist.broadcast_buffers(self.average.module)
        self.sampler.set_epoch(self.files.epoch + 1)  # since its first images are loaded at the end of validation
        if self.sampler.epoch == self.config.epochs:
            self.loaders.valid.following = None
        result = self._evaluate(inference_dtype(self.config.precision, self.device), title)
        targets = self.loaders.valid.dataset.targets[self.task.name]
        scores = score(self.task, result.probabilities, targets)
        saved = self.files.save_epoch(scores, result.probabilities, self.eval_model)
        trained = self.progress
        row = {
            "fold": self.number,
            "epoch": self.files.epoch,
            "lr": trained.rates[0],
            "train_loss": trained.loss,
            "valid_loss": result.loss,
            **scores,
            "images_per_s": trained.images / trained.seconds,
            "seconds": time.perf_counter() - start,
        }
        self.files.log(row)
        tracker.log(row)
        self._print(row, saved)
        self.progress = EpochProgress()
        self._save_state()

    def _train(self, title: str) -> None:
        """Train the remaining steps of the epoch."""
        if not self.progress.step:
            # For dropout and the like, which each process draws by itself.
            others = () if self.dist.is_main else (self.dist.rank,)
            seed_everything("epoch", self.config.seed, self.number, self.files.epoch, *others)
        self.sampler.set_epoch(self.files.epoch, self.progress.step)
        if self.graphs is not None and self.step.graphed.graphs is None:
            self.graphs.release()  # of validation: steps without graphs need the memory
        with explain_compile_errors():
            train_one_epoch(
                self.step,
                self.loaders.train,
                sizes=self.sampler.sizes(),
                accumulate=self.config.accumulate,
                progress=self.progress,
                title=title,
                after_step=self._after_step,
            )
        self._check_losses()

    def _evaluate(self, dtype: torch.dtype, title: str) -> EvalResult:
        """Validate in a dtype, and again in float32 if the predictions do not fit into it."""
        try:
            result = self._evaluate_once(dtype, title)
        except RuntimeError as error:
            if not is_out_of_memory(error) or self.graphs is None or not self.graphs.release():
                raise
            result = None  # again, once what the error holds is freed too
        result = result or self._evaluate_once(dtype, title)
        if dtype != torch.float32 and not np.isfinite(result.probabilities).all():
            print(f"fold {self.number}: predictions do not fit into {dtype}, validating again in float32")
            return self._evaluate(torch.float32, title)
        return result

    def _evaluate_once(self, dtype: torch.dtype, title: str) -> EvalResult:
        network = prepare(inference_network(self.eval_model, self.config.image_size), self.device, dtype)
        if self.on_gpu:
            networks = self.session.networks
            if dtype not in networks or not networks[dtype].take_weights(network):
                networks[dtype] = GraphedNetwork(network, self.graphs)
            network = networks[dtype]
        return evaluate(
            network,
            self.loaders.valid,
            self.valid_criterion,
            self.task,
            title=f"{title} valid",
            # Processes with different numbers of batches cannot agree on stopping after each of them.
            after_batch=self._stop_if_asked if self.dist.world_size == 1 else lambda: None,
        )

    def _print(self, row: dict[str, Any], saved: Path | None) -> None:
        scores = "  ".join(f"{score_title(name)} {row[name]:.4f}" for name in self.task.shown)
        print(
            f"fold {self.number}  epoch {row['epoch']:3d}/{self.config.epochs}  lr {row['lr']:.2e}  "
            f"train loss {row['train_loss']:.4f}  valid loss {row['valid_loss']:.4f}  {scores}  "
            f"{row['images_per_s']:.0f} images/s" + (f"  saved {saved.name}" if saved else ""),
            flush=True,
        )

    # -------------------------------------------------------------------------------------------- steps

    def _count_steps(self, batches: int) -> int:
        """Return the steps of the optimizer for the first batches of an epoch."""
        return math.ceil(batches / self.config.accumulate)

    def _after_step(self, progress: EpochProgress) -> None:
        """Average, check and save after a step of the optimizer, when there are no gradients that a state lacks."""
        every, step = self.config.save_every_steps, self._count_steps(progress.step)
        if self.average:
            self.average.update_parameters(self.network)
        losses = progress.losses[-self.config.accumulate :]
        is_bad = self.device.type == "cpu" and not all(loss.isfinite() for loss in losses)
        if is_bad or step % CHECK_EVERY == 0:
            self._check_losses()
        if every and step % every == 0 and progress.step < len(self.sampler):
            self._save_state()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        self.session.stop_if_asked(self._save_step)

    def _save_step(self) -> str:
        """Save the state within an epoch and return its place."""
        self._save_state()
        step, steps = (self._count_steps(batches) for batches in (self.progress.step, len(self.sampler)))
        return f"after fold {self.number}, epoch {self.files.epoch + 1}, step {step} of {steps}"

    def _check_losses(self) -> None:
        """Stop the fold if the loss of a batch is not finite, from which training does not recover."""
        batch = self.progress.first_bad_step()
        if batch is None:
            return
        if not self.dist.is_main:
            raise SystemExit(2)  # all processes find the same step, and the main one prints it
        images = [self.loaders.train.dataset.name(index) for index in self.sampler.batches()[batch]]
        raise UserError(
            f"The loss of fold {self.number} is {self.progress.losses[batch].item()} in epoch {self.files.epoch + 1}, "
            f"step {self._count_steps(batch + 1)}, at learning rate {self.progress.rates[batch]:.3g}, on "
            f"{shorten_list(images, len(images))}. Check these images, lower --lr, and pass --overwrite or another "
            f"--save-path. The best checkpoints so far are in {self.files.run.fold(self.number)}."
        )

    def _save_state(self) -> None:
        """Write the state that the fold is resumed from."""
        progress = self.progress
        self._check_losses()  # weights after a loss that is not finite are useless
        random_states = self.dist.gather(random_state(self.device))
        within: dict[str, Any] = {}
        if not self.files.finished:
            within = {
                "network": self.network.state_dict(),
                "optimizer": self.step.optimizer.state_dict(),
                "scheduler": self.step.scheduler.state_dict(),
                "scaler": self.step.scaler.state_dict(),
                "average": self.average.state_dict() if self.average else {},
                "random": random_states,
                "images": progress.images,
                "seconds": progress.seconds,
                "losses": torch.stack(progress.losses).cpu() if progress.losses else torch.empty(0),
                "rates": progress.rates,
                "machine": self.machine,
            }
        self.files.write_state(within)
