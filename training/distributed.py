"""The processes of one run, started by torchrun, and the values that they exchange; or one process alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.device import choose_device
from utils import UserError, process_number

Value = TypeVar("Value")


@dataclass
class Processes:
    """The place of this process among those of a run; a single process exchanges nothing.

    All processes must call the methods that exchange values, in the same order.
    """

    rank: int = 0  # number of this process
    world_size: int = 1  # number of processes
    local_rank: int = 0  # number of this process on its machine
    local_size: int = 1  # number of processes on this machine
    node: int = 0  # number of this machine
    group: Any = None  # process group for values on the CPU, set by `connect`

    @classmethod
    def from_environment(cls) -> Processes:
        """Read the variables that torchrun sets: https://docs.pytorch.org/docs/stable/elastic/run.html"""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        names = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
        return cls(process_number(), *(int(os.environ[name]) for name in names))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def choose_device(self, name: str) -> torch.device:
        """Return the device called `name`; of several GPUs, the one with the local rank of this process.

        Raises:
            UserError: the device does not exist, or there are fewer GPUs than processes.
        """
        device = choose_device(name)
        if self.world_size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or device.index is not None:
            raise UserError(f"--device {name} is one device for {self.world_size} processes. Pass cuda, cpu or auto.")
        gpus = torch.cuda.device_count()
        if self.local_size > gpus:
            raise UserError(f"{self.local_size} processes share {gpus} GPUs. Pass --nproc-per-node {gpus} to torchrun.")
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def connect(self, device: torch.device) -> Iterator[None]:
        """Connect the processes for the length of a block."""
        if self.world_size == 1:
            yield
            return
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            self.group = distributed.new_group(backend="gloo")
            yield
        finally:
            distributed.destroy_process_group()

    def run_on_main(self, make: Callable[[], Value]) -> Value:
        """Call a function in the main process and return its result in all."""
        if self.world_size == 1:
            return make()
        box = [make() if self.is_main else None]
        distributed.broadcast_object_list(box, src=0, group=self.group, device=torch.device("cpu"))
        return box[0]

    def run_once_per_machine(self, make: Callable[[], Value]) -> Value:
        """Call a function in the first process of each machine and return its result in all processes there."""
        own = make() if self.local_rank == 0 else None
        made = self.gather((self.node, own) if self.local_rank == 0 else None)
        if self.local_rank == 0:
            return own  # not a copy of it: it may hold the memory that all share
        return next(value for node, value in filter(None, made) if node == self.node)

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def max(self, number: int) -> int:
        """Return the largest of the numbers of all processes."""
        if self.world_size == 1:
            return number
        box = torch.tensor(number)
        distributed.all_reduce(box, distributed.ReduceOp.MAX, group=self.group)
        return int(box)

    def sum(self, values: Tensor) -> Tensor:
        """Sum the tensors of all processes in place, without waiting for a GPU."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with gradients that are averaged over all processes.

        BatchNorm normalises over the images of each process; its running statistics are those of the main process.
        """
        if self.world_size == 1:
            return network
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)

    def exchange(self, network: nn.Module, wanted: bool) -> AbstractContextManager:
        """Return a block whose forward and backward pass average the gradients of a network of `wrap` only if wanted.

        Otherwise each process adds them to its own, for the next backward pass that exchanges them.
        """
        return nullcontext() if wanted or self.world_size == 1 else network.no_sync()

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy the buffers of the main process to all, such as the running statistics of BatchNorm."""
        if self.world_size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)


ALONE = Processes()
