"""Create the optimizer and the training step of a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from augmentation import BatchMixing
from config import TrainConfig
from data.face_layout import soft_ages
from data.faces import AGE
from loss import create_criterion
from model import Network
from optim import create_optimizer, create_scheduler, run_decay
from training.cuda_graph import CudaGraphs, graphs_of
from training.distributed import ALONE, Processes
from training.engine import training_dtype
from training.train_step import TrainStep
from utils import UserError


def configured_optimizer(config: TrainConfig, network: Network, steps: int) -> Optimizer:
    """Return the optimizer of a network, for this many steps in all."""
    decay = run_decay(config.run_decay, lr=config.lr, steps=steps) if config.run_decay else config.weight_decay
    rates = {"lr": config.lr, "backbone_lr": config.backbone_lr, "layer_decay": config.layer_decay}
    return create_optimizer(config.optim_type, network, weight_decay=decay, **rates)


def configured_criterion(
    config: TrainConfig, *, counts: Mapping[str, Tensor] | None = None
) -> Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]:
    """Return the loss of a run, with the logit adjustment if `counts` are given; see `loss.create_criterion`."""
    scales = {name: (task.center, task.scale) for name, task in config.tasks.items() if task.regression}
    adjustment = config.logit_adjustment if counts else 0.0
    return create_criterion(config.loss_type, logit_adjustment=adjustment, counts=counts, scales=scales)


def create_step(
    config: TrainConfig,
    network: Network,
    optimizer: Optimizer,
    device: torch.device,
    *,
    steps: int,
    counts: Mapping[str, Tensor],
    full: int = 0,
    dist: Processes = ALONE,
) -> TrainStep:
    """Return the training step of a network, for epochs of this many steps of the optimizer.

    `counts` is the number of training images of each class, see `loss.create_criterion`, and `full` the images of a
    batch that is not the last one.
    """
    graphs = _choose_graphs(config, device, dist)  # first, since it leaves the default stream
    scheduler = create_scheduler(
        config.lr_scheduler,
        optimizer,
        epochs=config.epochs,
        steps_per_epoch=steps,
        restart_epochs=config.restart_epochs,
        warmup_epochs=config.warmup_epochs,
    )
    soft, criterion = {}, configured_criterion(config, counts=counts)
    if config.age_sigma:
        soft = {AGE: torch.from_numpy(soft_ages(config.age_sigma, config.age_filter)).float()}
    return TrainStep(
        dist.wrap(network, device),
        criterion,
        optimizer,
        scheduler,
        device,
        training_dtype(config.precision, device),
        clip_grad=config.clip_grad,
        mixing=BatchMixing(config.tasks, mixup=config.mixup, cutmix=config.cutmix, soft=soft),
        dist=dist,
        full=0 if config.compile else full // dist.world_size,  # torch.compile would trace its special case
        graphs=graphs,
    )


def _choose_graphs(config: TrainConfig, device: torch.device, dist: Processes) -> CudaGraphs | None:
    graphs = graphs_of(device, config.cuda_graphs)
    reason = "--grad-checkpointing restores random states" if config.grad_checkpointing else None
    reason = "several processes exchange gradients" if dist.world_size > 1 else reason
    if graphs is None or reason is None:
        return graphs
    graphs.print_once(f"Training runs without CUDA graphs: {reason}.")
    return None


@contextmanager
def explain_compile_errors() -> Iterator[None]:
    """Raise the errors of torch.compile in a block as a UserError."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = " ".join(str(error).split("\n\n")[0].split())  # without the advice that follows
            raise UserError(f"--compile does not work here ({reason.rstrip('.')}). Leave it out.") from None
        raise
