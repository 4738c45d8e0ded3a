"""A training step: mixing, forward and backward pass, optimizer and schedule."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.cuda_graph import CudaGraphs, Graphed
from training.depthwise import avoid_compiling
from training.distributed import Processes

Batch = tuple[Tensor, dict[str, Tensor]]  # images (B, 3, S, S) and targets of each task
Criterion = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]


@dataclass
class TrainStep:
    """A training step, over one batch or several: mixing, forward and backward pass, optimizer and schedule."""

    network: nn.Module  # for several processes wrapped by `Processes.wrap`
    criterion: Criterion
    optimizer: Optimizer
    scheduler: LRScheduler  # stepped with the optimizer
    device: torch.device
    dtype: torch.dtype = torch.float32  # of torch.autocast, see `training_dtype`
    scaler: GradScaler | None = None  # of the gradients; by default the one that fits the dtype
    mixing: Callable[[Tensor, dict[str, Tensor]], Batch] = lambda *batch: batch  # see `augmentation.BatchMixing`
    clip_grad: float = 0.0  # largest norm of the gradients of all weights together; 0 does not clip
    dist: Processes = field(default_factory=Processes)
    graphs: CudaGraphs | None = None  # replay the step as CUDA graphs, which needs a single process
    full: int = 0  # images of a batch, unless it is the last one

    def __post_init__(self) -> None:
        self.scaler = self.scaler or gradient_scaler(self.dtype, self.device)
        self.graphed = Graphed(self.graphs, "Training runs")
        self.opened, self.source = False, None  # whether a step has begun, and the key of the graph with its gradients
        groups = self.optimizer.param_groups
        self.weights: list[Tensor] = [weights for group in groups for weights in group["params"]]
        fused = all(group.get("fused") for group in groups)
        on_gpu = fused and self.device.type == "cuda"
        self.rates = torch.zeros(len(groups), device=self.device) if on_gpu else None  # which the optimizer reads there

    def run(
        self, images: Tensor, targets: dict[str, Tensor], total: int, *, last: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Train on a batch and return its mean loss, and the sum of the losses over the batches of all processes.

        Images are `(B, 3, S, S)`, targets `{task: (B,)}`. The optimizer steps after the `last` batch of a group, on the
        mean gradient over the `total` images of the group, of all processes.
        """
        images, targets = self.mixing(*move_batch(images, targets, self.device))
        images = images.contiguous(memory_format=torch.channels_last)  # MixUp changes the layout on a GPU
        count = len(images)
        # Batches differ in size, and gradients are averaged over the processes.
        share = count * self.dist.world_size / total
        if last and self.rates is not None:
            rates = torch.tensor([group["lr"] for group in self.optimizer.param_groups])
            rates = rates.pin_memory() if self.device.type == "cuda" else rates  # else the copy waits
            self.rates.copy_(rates, non_blocking=True)
        loss = self._run_graphed(images, targets, share, last)
        if last:
            self.scheduler.step()
        return loss, self.dist.sum(loss * count)

    def _run_graphed(self, images: Tensor, targets: dict[str, Tensor], share: float, last: bool) -> Tensor:
        """Compute gradients and step, as a CUDA graph where possible, and return the loss.

        Graphs add to gradients in the memory of the graph of the first batch. So the others are replayed only after it.
        """
        first, self.opened = not self.opened, not last
        source = None if first else self.source
        inside = last and (self.rates is not None or self.graphs is None)  # the optimizer may be captured
        scaled = [] if share == 1 else [images.new_full((), share)]
        loss, gradients = self.graphed(
            self._compute,
            [images, *scaled, *targets.values()],
            *(tuple(targets), source, last, inside),
            eagerly=not (first or self.graphed.replayed),
            remember=self._remember,
        )
        if self.graphed.replayed:  # which changed only memory
            self.source = self.graphed.replayed if first else source
            for weights, gradient in zip(self.weights, gradients, strict=True):
                weights.grad = gradient
        if last and not inside:
            self._step()
        return loss

    def _compute(
        self, tensors: Sequence[Tensor], names: tuple[str, ...], _source: Hashable, last: bool, inside: bool
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the loss of a batch and all gradients; with `inside` the optimizer uses and deletes them."""
        images, *scaled, targets = tensors[0], *tensors[1 : -len(names)], tensors[-len(names) :]
        with self.dist.exchange(self.network, last):
            rare = self.device.type == "cuda" and len(images) < self.full
            with autocast(self.device, self.dtype), avoid_compiling(rare):
                outputs = self.network(images)
            loss = self.criterion(to_floats(outputs), dict(zip(names, targets, strict=True)))
            self.scaler.scale(loss * scaled[0] if scaled else loss).backward()
        if inside:
            self._step()
        return loss.detach(), [weights.grad for weights in self.weights]

    def _step(self) -> None:
        if self.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_grad)
        with _rates_on_gpu(self.optimizer, self.rates):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _remember(self) -> Callable[[], None]:
        """Return a function that restores what capturing may change outside the memory of the GPU."""
        gradients, scale = [weights.grad for weights in self.weights], self.scaler.state_dict()

        def restore() -> None:
            for weights, gradient in zip(self.weights, gradients, strict=True):
                weights.grad = gradient
            for name in ("grad_scale", "found_inf"):
                vars(self.optimizer).pop(name, None)
            self.scaler = gradient_scaler(self.dtype, self.device)
            if scale:
                self.scaler.load_state_dict(scale)

        return restore


@contextmanager
def _rates_on_gpu(optimizer: Optimizer, rates: Tensor | None) -> Iterator[None]:
    """Let an optimizer read the learning rates of its groups from a tensor in a block, so that a graph can."""
    before = [dict(group) for group in optimizer.param_groups]
    if rates is not None:
        for group, rate in zip(optimizer.param_groups, rates.unbind(), strict=True):
            group["lr"] = rate
            if "capturable" in group:  # which warns of steps outside graphs
                group["capturable"] = rates.is_cuda and torch.cuda.is_current_stream_capturing()
    try:
        yield
    finally:
        for group, options in zip(optimizer.param_groups, before, strict=True):
            group.update(options)


def gradient_scaler(dtype: torch.dtype, device: torch.device) -> GradScaler:
    """Return a scaler that keeps small float16 gradients from becoming zero; it does nothing for other dtypes."""
    return GradScaler(device.type, enabled=dtype == torch.float16)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Return a block that computes with a dtype where that is safe; float32 needs none."""
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()


def move_batch(
    images: Tensor, targets: dict[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32
) -> Batch:
    """Return images and targets on a device, the images in the dtype and in the layout of the network."""
    images = images.to(device, dtype, memory_format=torch.channels_last, non_blocking=True)
    narrow = {task: values.float() if values.is_floating_point() else values for task, values in targets.items()}
    return images, {task: values.to(device, non_blocking=True) for task, values in narrow.items()}


def to_floats(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return outputs as float32."""
    return {head: logits.float() for head, logits in outputs.items()}
