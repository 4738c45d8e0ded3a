"""Run functions of tensors as CUDA graphs: the CPU launches each once, not kernel by kernel.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import random
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import first_line

# Calls before a graph is captured: optimizers, cuDNN and cuBLAS create in them what they must not create in a graph.
WARM_UP = 2


class CudaGraphs:
    """Captures functions on one GPU. Their graphs share memory, so outputs last until the next graph is replayed.

    It leaves the default stream, on which nothing can be captured.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.needed = device, 0  # bytes of the largest function, outside graphs
        self.inputs: dict[Hashable, Tensor] = {}  # of all graphs, since they are replayed one after another
        self.users: weakref.WeakSet[Graphed] = weakref.WeakSet()
        self.printed: set[str] = set()
        default = torch.cuda.default_stream(device)
        if torch.cuda.current_stream(device) == default:
            stream = torch.cuda.Stream(device)
            stream.wait_stream(default)
            torch.cuda.set_stream(stream)  # for everything: streams do not share freed memory

    def watch(self, call: Callable[[], Any]) -> tuple[Any, str | None]:
        """Return the result of a call, and the reason why a graph could not repeat it, or None."""
        states, held = _host_random_states(), torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        self.needed = max(self.needed, torch.cuda.max_memory_allocated(self.device) - held)
        waits = [warning for warning in caught if "called a synchronizing" in str(warning.message)]
        if waits:
            return result, f"{Path(waits[0].filename).name}, line {waits[0].lineno}, waits for the GPU"
        if any(a != b for a, b in zip(states, _host_random_states(), strict=True)):
            return result, "the network draws random numbers on the CPU"
        return result, None

    def input_like(self, number: int, tensor: Tensor) -> Tensor:
        """Return the memory from which graphs read this tensor of their inputs."""
        key = number, tensor.shape, tensor.stride(), tensor.dtype, torch.is_inference_mode_enabled()
        if key not in self.inputs:
            self.inputs[key] = torch.empty_like(tensor)
        return self.inputs[key]

    def capture(self, call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
        """Capture a call, which does not run yet, with the result as the attribute `outputs`.

        Raises:
            RuntimeError: it could not be captured.
        """
        if not any(user.captured for user in self.users):
            self.pool = torch.cuda.graph_pool_handle()  # the memory of an earlier one is freed with its last tensor
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        generator = torch.cuda.default_generators[stream.device_index]
        state = generator.clone_state()
        try:
            # The thread that pins the memory of batches may allocate some meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"):
                graph.outputs = call()
        except RuntimeError:
            with suppress(AttributeError, RuntimeError):  # if it still counts as being captured; torch renamed it
                end = getattr(torch._C, "_cuda_endAllocateToPool", None)
                (end or torch._C._cuda_endAllocateCurrentStreamToPool)(stream.device_index, self.pool)
                torch._C._cuda_releasePool(stream.device_index, self.pool)
            generator.graphsafe_set_state(state)  # the other state may count as that too, and graphs draw from it
            self.release()
            raise
        return graph

    def make_room(self) -> None:
        """Delete all graphs if the GPU has no memory left for the largest function outside them."""
        if any(user.captured for user in self.users):
            torch.cuda.empty_cache()
            if torch.cuda.mem_get_info(self.device)[0] < self.needed:
                self.release()

    def release(self) -> bool:
        """Delete all graphs to free their memory, and return whether there were any; they are captured again."""
        held = [user for user in self.users if user.captured]
        for user in held:
            user.captured.clear()
        self.inputs.clear()
        torch.cuda.empty_cache()
        return bool(held)

    def print_once(self, line: str) -> None:
        """Print a line, unless it was printed before."""
        if line not in self.printed:
            print(line)
        self.printed.add(line)


def _host_random_states() -> tuple[Hashable, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@cache
def graphs_of(device: torch.device, wanted: bool) -> CudaGraphs | None:
    """Return what captures CUDA graphs on a device, the same for all; None if it has none or they are not wanted."""
    return CudaGraphs(device) if wanted and device.type == "cuda" else None


class Graphed:
    """Calls functions, and from the third call with tensors of the same shapes replays them as CUDA graphs.

    If a function cannot be captured, a line with the reason is printed once, and all are called as they are.

    Args:
        graphs: captures them; with None, functions are called as they are.
        what: subject and verb of that line, as in "Training runs".
    """

    def __init__(self, graphs: CudaGraphs | None, what: str) -> None:
        self.graphs, self.what = graphs, what
        self.calls: Counter[Hashable] = Counter()
        self.captured: dict[Hashable, tuple[list[Tensor], torch.cuda.CUDAGraph]] = {}
        self.replayed: Hashable = None  # the key of the graph that the last call replayed
        if graphs is not None:
            graphs.users.add(self)

    def __call__(
        self,
        function: Callable[..., Any],
        tensors: Sequence[Tensor],
        *options: Hashable,
        eagerly: bool = False,
        remember: Callable[[], Callable[[], None]] | None = None,
    ) -> Any:
        """Return `function(tensors, *options)`; the next call may overwrite it.

        Args:
            function: always the same for an object of this class, if it is captured.
            tensors: on the GPU.
            options: a graph is captured for each combination of them.
            eagerly: call the function as it is.
            remember: called before the function is captured; returns what restores the state if that fails.
        """
        self.replayed = None
        key = (options, *((each.shape, each.stride(), each.dtype) for each in tensors))
        if self.graphs is not None and key not in self.captured:
            self.calls[key] += 1
            if self.calls[key] == WARM_UP:
                return self._watch(lambda: function(tensors, *options))
            if self.calls[key] > WARM_UP and not eagerly:
                restore = remember and remember()
                if not self._capture(key, function, tensors, options) and restore:
                    restore()
        if self.graphs is None or eagerly or key not in self.captured:
            if self.graphs is not None:
                self.graphs.make_room()
            return function(tensors, *options)
        inputs, graph = self.captured[key]
        for own, given in zip(inputs, tensors, strict=True):
            own.copy_(given)
        graph.replay()
        self.replayed = key
        return graph.outputs

    def _watch(self, call: Callable[[], Any]) -> Any:
        self.graphs.make_room()
        result, reason = self.graphs.watch(call)
        if reason:
            self._give_up(reason)
        return result

    def _capture(
        self, key: Hashable, function: Callable[..., Any], tensors: Sequence[Tensor], options: Iterable[Hashable]
    ) -> bool:
        try:
            inputs = [self.graphs.input_like(number, each) for number, each in enumerate(tensors)]
            self.captured[key] = inputs, self.graphs.capture(lambda: function(inputs, *options))
            return True
        except RuntimeError as error:
            self._give_up(first_line(error).rstrip("."))
            return False

    def _give_up(self, reason: str) -> None:
        self.graphs.print_once(f"{self.what} without CUDA graphs: {reason}.")
        self.captured.clear()
        self.graphs = None


class GraphedNetwork(nn.Module):
    """A network in inference on a GPU, replayed as a CUDA graph.

    A batch smaller than an earlier one is filled up, since cuDNN takes seconds to prepare for another size.
    """

    def __init__(self, network: nn.Module, graphs: CudaGraphs | None) -> None:
        super().__init__()
        self.network, self.largest = network, 0
        self.graphed = Graphed(graphs, "Inference runs")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        count = len(images)
        self.largest = max(self.largest, count)
        if count < self.largest:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, self.largest - count))
        return {head: outputs[:count] for head, outputs in self.graphed(self._run, [images]).items()}

    def _run(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return self.network(*tensors)

    def take_weights(self, network: nn.Module) -> bool:
        """Copy the weights of a network, and return whether they have the same names and shapes."""
        own, new = self.network.state_dict(), network.state_dict()
        same = {name: each.shape for name, each in own.items()} == {name: each.shape for name, each in new.items()}
        if same:
            self.network.load_state_dict(new)
        return same
