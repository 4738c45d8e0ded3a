"""The processes of a run that torchrun started: who is who, and what they tell each other; or one process alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    """This process among those of a run; alone it is number 0 of 1, and nothing is exchanged.

    What exchanges something must be called by all of them, in the same order.

    Args:
        rank, size: the number of this process, and how many there are.
        local_rank, local_size: the same among those of this machine.
        node: the number of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    group: Any = None  # that values on the CPU are exchanged in

    @classmethod
    def here(cls) -> Processes:
        """As torchrun told this process (https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables)."""
        names = {
            "size": "WORLD_SIZE",
            "local_rank": "LOCAL_RANK",
            "local_size": "LOCAL_WORLD_SIZE",
            "node": "GROUP_RANK",
        }
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(process_number(), **{name: int(os.environ[variable]) for name, variable in names.items()})

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: the one called `name`, of several GPUs the one with its number.

        Raises:
            UserError: no such device here, or fewer GPUs than processes.
        """
        device = choose_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or device.index is not None:
            raise UserError(f"--device {name} is one device for {self.size} processes; pass cuda, cpu or auto.")
        if self.local_size > torch.cuda.device_count():
            raise UserError(
                f"{self.local_size} processes share {torch.cuda.device_count()} GPUs; pass --nproc-per-node "
                f"{torch.cuda.device_count()} to torchrun."
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """A block in which the processes can exchange values."""
        if self.size == 1:
            yield
            return
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            self.group = distributed.new_group(backend="gloo")
            yield
        finally:
            distributed.destroy_process_group()

    def share(self, make: Callable[[], Value]) -> Value:
        """What the main process makes."""
        if self.size == 1:
            return make()
        box = [make() if self.main else None]
        distributed.broadcast_object_list(box, src=0, group=self.group, device=torch.device("cpu"))
        return box[0]

    def share_locally(self, make: Callable[[], Value]) -> Value:
        """What the first process of this machine makes."""
        mine = make() if self.local_rank == 0 else None
        made = self.gather((self.node, mine) if self.local_rank == 0 else None)
        if self.local_rank == 0:
            return mine  # no copy of it: it may be what keeps memory that all share
        return next(value for node, value in filter(None, made) if node == self.node)

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, by their numbers."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def largest(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        if self.size == 1:
            return number
        box = torch.tensor(number)
        distributed.all_reduce(box, distributed.ReduceOp.MAX, group=self.group)
        return int(box)

    def add(self, values: Tensor) -> Tensor:
        """The sum of the tensors of all processes, in place; a GPU is not waited for."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def mine(self, values: Sequence[Value]) -> Sequence[Value]:
        """The part of some values that this process works on."""
        return values[self.rank :: self.size]

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network as all processes train it together: gradients are averaged over them.

        BatchNorm is over the images of each process, and its running statistics are those of the main one.
        """
        if self.size == 1:
            return network
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)

    def spread(self, network: nn.Module) -> None:
        """Give all processes the buffers of the main one, such as the running statistics of BatchNorm."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)


ALONE = Processes()
