"""Training steps and networks as CUDA graphs."""

import copy
import re

import pytest
import torch
from imitated_graphs import ImitatedGraphs
from torch import nn
from torch.amp import GradScaler

from loss import create_criterion
from model import inference_network
from optim import create_optimizer, create_scheduler
from training import cuda_graph
from training.cuda_graph import CudaGraphs, Graphed, GraphedNetwork
from training.train_step import TrainStep

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """A convolution, BatchNorm, dropout and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mask": self.linear(self.dropout(self.norm(self.conv(images)).mean(dim=(2, 3))))}


def train(
    graphs, *, sizes, accumulate=1, optim="adamw", steps_on_gpu=False, prepare=None, **options
) -> tuple[TrainStep, list[float]]:
    """Train on batches of these sizes and return the step and the losses."""
    torch.manual_seed(0)
    network = Tiny()
    optimizer = create_optimizer(optim, network, lr=0.02)
    scheduler = create_scheduler("cosine", optimizer, epochs=1, steps_per_epoch=len(sizes), restart_epochs=1)
    criterion = create_criterion("crossentropyloss")
    trained = TrainStep(network, criterion, optimizer, scheduler, CPU, graphs=graphs, **options)
    if steps_on_gpu:  # where the optimizer is part of a graph, with its learning rates in a tensor
        trained.rates = torch.zeros(len(optimizer.param_groups))
    if prepare:
        prepare(trained)
    losses = []
    for number, size in enumerate(sizes):
        opened = number - number % accumulate
        group = sizes[opened : opened + accumulate]
        images, targets = torch.randn(size, 3, 6, 6), {"mask": torch.arange(size) % 3}
        loss, _ = trained.run(images, targets, sum(group), last=number + 1 == opened + len(group))
        losses.append(loss.item())
    return trained, losses


@pytest.mark.parametrize("steps_on_gpu", [True, False], ids=["optimizer inside", "optimizer outside"])
@pytest.mark.parametrize(
    ("accumulate", "captures"),
    # Of batches of 8 and of 5; of the first, the second and the last batch of a step, which has 8 or 5 images.
    [(1, 2), (3, 4)],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_replayed_steps_train_as_eager_ones(accumulate, captures, steps_on_gpu, scaled):
    sizes = (8, 8, 8, 8, 8, 5) * 4
    options = {"sizes": sizes, "accumulate": accumulate, "clip_grad": 0.5}
    scaler = {"scaler": GradScaler("cpu", init_scale=4.0, growth_interval=3)} if scaled else {}
    eager, expected = train(None, **options, **copy.deepcopy(scaler))
    graphs = ImitatedGraphs()
    replayed, losses = train(graphs, **options, **scaler, steps_on_gpu=steps_on_gpu)
    assert graphs.captures == captures
    assert graphs.replays >= len(sizes) // 2
    assert losses == pytest.approx(expected, abs=1e-5)
    for name, value in eager.network.state_dict().items():
        assert torch.allclose(replayed.network.state_dict()[name], value, atol=1e-5), name
    assert all(weights.grad is None for weights in replayed.weights)
    assert replayed.optimizer.state_dict()["param_groups"] == eager.optimizer.state_dict()["param_groups"]


@pytest.mark.parametrize("optim", ["adam", "adamp", "sgd", "momentum"])
def test_every_optimizer_trains_alike_with_graphs(optim):
    eager, _ = train(None, sizes=(6,) * 5, optim=optim)
    replayed, _ = train(ImitatedGraphs(), sizes=(6,) * 5, optim=optim, steps_on_gpu=optim != "adamp")
    for name, value in eager.network.state_dict().items():
        assert torch.allclose(replayed.network.state_dict()[name], value, atol=1e-5), name


def test_a_step_that_cannot_be_captured_trains_on_after_one_line(capsys):
    sizes, expected = (6, 6, 6, 6, 4) * 2, None
    for attribute, reason in ((None, None), ("reason", "net.py, line 7, waits for the GPU"), ("error", "no memory.")):
        graphs = ImitatedGraphs()
        if attribute:
            setattr(graphs, attribute, reason)
        trained, _ = train(graphs if attribute else None, sizes=sizes, scaler=GradScaler("cpu", init_scale=8.0))
        printed = f"Training runs without CUDA graphs: {reason.rstrip('.')}.\n" if attribute else ""
        assert capsys.readouterr().out == printed
        assert graphs.replays == 0
        expected = expected or trained.network.state_dict()
        for name, value in expected.items():
            assert torch.equal(trained.network.state_dict()[name], value), name


def test_a_capture_that_fails_within_a_step_keeps_its_gradients():
    graphs, capture = ImitatedGraphs(), ImitatedGraphs.capture

    def fail_at_the_second(trained):
        def attempt(call):
            if graphs.captures == 1:
                trained.optimizer.zero_grad()
                raise RuntimeError("unjoined work")
            return capture(graphs, call)

        graphs.capture = attempt

    options = {"sizes": (6,) * 10, "accumulate": 2}
    _, losses = train(graphs, **options, prepare=fail_at_the_second)
    assert (graphs.captures, graphs.replays) == (1, 3)
    assert losses == train(None, **options)[1]


def test_an_accumulated_step_is_captured_again_once_where_memory_is_short(monkeypatch):
    graphs = ImitatedGraphs()
    monkeypatch.setattr(graphs, "make_room", graphs.release)  # each eager step needs the memory of the graphs
    options = {"sizes": (6,) * 39 + (4,) * 2 + (6,) * 19, "accumulate": 2}
    _, losses = train(graphs, **options)
    assert graphs.captures <= 6
    assert graphs.replays > 40
    assert losses == pytest.approx(train(None, **options)[1], abs=1e-5)


def test_memory_that_is_too_small_for_the_inputs_of_a_graph_is_no_error(capsys, monkeypatch):
    graphs, other = ImitatedGraphs(), ImitatedGraphs()
    full = torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr(graphs, "input_like", lambda *args: (_ for _ in ()).throw(full))
    double = lambda tensors: 2 * tensors[0]  # noqa: E731
    graphed = Graphed(graphs, "Doubling runs")
    assert [graphed(double, [torch.ones(1)]).item() for _ in range(4)] == [2] * 4
    assert capsys.readouterr().out == "Doubling runs without CUDA graphs: CUDA out of memory.\n"
    several = [Graphed(other, "Doubling runs") for _ in range(3)]
    assert [each(double, [torch.full((1,), number)]).item() for number in range(4) for each in several][-1] == 6
    assert (other.captures, len(other.inputs)) == (3, 1)  # their graphs read the same memory


def test_graphs_are_released_and_captured_again():
    graphs = ImitatedGraphs()
    graphed = Graphed(graphs, "Doubling runs")
    double = lambda tensors: 2 * tensors[0]  # noqa: E731
    for number in range(8):
        assert graphed(double, [torch.full((2,), float(number))]).tolist() == [2 * number] * 2
        if number == 5:
            assert graphs.release()
    assert (graphs.captures, graphs.replays) == (2, 6)


@pytest.mark.parametrize(("free", "kept"), [(100, True), (99, False)])
def test_graphs_are_deleted_where_an_eager_call_needs_their_memory(free, kept, monkeypatch):
    graphs = ImitatedGraphs()
    graphs.device, graphs.needed = CPU, 100
    monkeypatch.setattr(cuda_graph.torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(cuda_graph.torch.cuda, "mem_get_info", lambda device: (free, 1000))
    one, other = (Graphed(graphs, "Adding runs") for _ in range(2))
    for _ in range(3):
        one(lambda tensors: tensors[0] + 1, [torch.zeros(2)])
    monkeypatch.setattr(graphs, "make_room", lambda: CudaGraphs.make_room(graphs))
    other(lambda tensors: tensors[0], [torch.zeros(2)])
    assert bool(one.captured) is kept


def test_a_network_in_inference_is_replayed_with_new_weights_and_a_smaller_last_batch():
    networks = [inference_network(Tiny(), 6) for _ in range(2)]
    batches = [torch.randn(size, 3, 6, 6) for size in (4, 4, 4, 3)]
    graphs = ImitatedGraphs()
    for each in (graphs, None):
        ready = GraphedNetwork(copy.deepcopy(networks[1]), each)
        for network in networks:
            assert ready.take_weights(network)
            with torch.inference_mode():
                for batch in batches:
                    outputs = ready(batch)["mask"]
                    assert torch.allclose(outputs, network(batch)["mask"], atol=1e-6)
                    assert len(outputs) == len(batch)
    assert (graphs.captures, graphs.replays) == (1, 6)
    assert not ready.take_weights(nn.Linear(2, 2))


def test_functions_that_wait_for_the_gpu_or_draw_on_the_cpu_are_found(monkeypatch):
    """The warnings are those of torch; see torch.cuda.set_sync_debug_mode."""
    import warnings

    for name in ("set_sync_debug_mode", "reset_peak_memory_stats"):
        monkeypatch.setattr(cuda_graph.torch.cuda, name, lambda *args: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(cuda_graph.torch.cuda, name, lambda device: 0)
    graphs = ImitatedGraphs()
    graphs.device, graphs.needed = CPU, 0

    def wait() -> int:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at x.cpp:1.)", stacklevel=1)
        return 3

    assert CudaGraphs.watch(graphs, lambda: 2) == (2, None)
    result, reason = CudaGraphs.watch(graphs, wait)
    assert result == 3
    assert re.fullmatch(r"test_cuda_graph.py, line \d+, waits for the GPU", reason)
    assert CudaGraphs.watch(graphs, lambda: torch.rand(1).item())[1] == "the network draws random numbers on the CPU"
