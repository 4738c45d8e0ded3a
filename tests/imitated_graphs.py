"""CUDA graphs that a CPU imitates: each replay repeats the call on the same memory."""

import weakref
from types import SimpleNamespace

import torch

from training.cuda_graph import CudaGraphs


class ImitatedGraphs(CudaGraphs):
    """Graphs whose replays call the function and overwrite its earlier outputs."""

    def __init__(self) -> None:
        self.users, self.inputs, self.printed = weakref.WeakSet(), {}, set()
        self.reason, self.error, self.captures, self.replays, self.releases = None, None, 0, 0, 0

    def watch(self, call):
        return call(), self.reason

    def capture(self, call):
        if self.error:
            raise RuntimeError(self.error)
        self.captures += 1
        graph = SimpleNamespace(outputs=None)

        def replay() -> None:
            self.replays += 1
            graph.outputs = _overwrite(graph.outputs, call())

        graph.replay = replay
        return graph

    def make_room(self) -> None:
        pass

    def release(self) -> bool:
        held = [user.captured.clear() for user in self.users if user.captured]
        self.releases += bool(held)
        return bool(held)


def _overwrite(old, new):
    """Copy new outputs into the tensors of the old ones, if there are any."""
    if isinstance(new, torch.Tensor):
        return new if old is None else old.copy_(new)
    if isinstance(new, dict):
        return {name: _overwrite(old and old[name], each) for name, each in new.items()}
    if isinstance(new, list | tuple):
        copied = [_overwrite(old and old[i], each) for i, each in enumerate(new)]
        if old is None:
            return copied
        old[:] = copied
        return old
    return new
