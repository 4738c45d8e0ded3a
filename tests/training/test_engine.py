"""The loops over batches, compared with the same computation written out, on networks small enough to follow."""

import copy
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.utils.data import Dataset

from cli.choices import OPTIMIZERS
from data.faces import AGE, AGE_GROUP, FACES, MAIN, MASK
from dataset import ViewBatches
from loss import create_criterion
from model import create_model, inference_network, predict_task
from optim import create_optimizer, create_scheduler, learning_rate
from training.engine import (
    TrainStep,
    evaluate,
    inference_dtype,
    predict,
    prepare,
    train_one_epoch,
    training_dtype,
    update_statistics,
)
from training.loaders import Loader, create_loaders
from training.train_step import gradient_scaler

CPU = torch.device("cpu")
OUTPUTS = {task: record.outputs for task, record in FACES.items()}
CROSS_ENTROPY = create_criterion("crossentropyloss")


class Toy(nn.Module):
    """A linear map of all pixels for each head, by default after BatchNorm; notes the mode it is called in."""

    def __init__(self, *heads: str, norm: bool | nn.Module = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = norm if isinstance(norm, nn.Module) else nn.BatchNorm2d(3) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({head: nn.Linear(3 * 4 * 4, OUTPUTS[head]) for head in heads})
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.modes.append(self.training)
        x = self.dropout(self.norm(images)).flatten(1)
        return {name: head(x) for name, head in self.heads.items()}


class Images(Dataset):
    """Random images with their targets: `(3, side, side)`, or with views `(V, 3, side, side)`."""

    def __init__(self, count: int, *, views: int | None = None, side: int = 4) -> None:
        generator = torch.Generator().manual_seed(count)
        self.images = torch.randn(count, *([] if views is None else [views]), 3, side, side, generator=generator)
        self.targets = {task: (torch.arange(count) * 7) % OUTPUTS[task] for task in OUTPUTS if task != "age"}
        self.targets["age"] = torch.linspace(18, 70, count, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.images[index], {task: values[index].item() for task, values in self.targets.items()}


def loader_of(images: Dataset, batch_size: int, *, workers: int = 0) -> Loader:
    return create_loaders([(images, ViewBatches(len(images), batch_size))], workers=workers, device=CPU)[0]


def train(
    network, loader, *, loss="crossentropyloss", lr=0.1, schedule="none", epochs=1, accumulate=1, optim="sgd", **options
):
    """Train one epoch of `epochs` and return its progress and the optimizer; `options` are of TrainStep."""
    optimizer = create_optimizer(optim, network, lr=lr)
    steps = {"epochs": epochs, "steps_per_epoch": math.ceil(len(loader) / accumulate), "restart_epochs": epochs}
    scheduler = create_scheduler(schedule, optimizer, **steps)
    step = TrainStep(network, create_criterion(loss), optimizer, scheduler, CPU, **options)
    return train_one_epoch(step, loader, accumulate=accumulate), optimizer


@torch.no_grad()
def outputs_of(network, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return network(images)


def state_of(network) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.state_dict())


def changed(network, before: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of the weights and buffers that differ from those before."""
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


# ------------------------------------------------------------------------------------------------ training


def test_an_epoch_is_the_training_loop_written_out_and_its_loss_the_mean_over_images():
    images, network = Images(10), Toy("mask")
    images.images[8:] *= 30  # the last batch has two images and a large loss
    expected = copy.deepcopy(network)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    total = 0.0
    for batch in (slice(0, 4), slice(4, 8), slice(8, 10)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(expected(images.images[batch])["mask"], images.targets["mask"][batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(images.images[batch])
    result, _ = train(network, loader_of(images, 4))
    assert result.loss == pytest.approx(total / 10, rel=1e-5)
    assert result.images == 10
    assert result.seconds > 0
    for name, value in expected.state_dict().items():
        assert torch.allclose(network.state_dict()[name], value, atol=1e-6), name


@pytest.mark.parametrize("share", [0.5, 2])
def test_gradients_are_clipped_by_their_norm_over_all_weights(share):
    images, network = Images(8), Toy("mask", "gender")
    free, before = copy.deepcopy(network), state_of(network)
    train(free, loader_of(images, 8), lr=1)

    def change(of):
        return torch.cat([(of.state_dict()[name] - before[name]).flatten() for name, _ in of.named_parameters()])

    norm = change(free).norm().item()  # that of the gradients
    train(network, loader_of(images, 8), lr=1, clip_grad=share * norm)
    assert torch.allclose(change(network), min(share, 1) * change(free), atol=1e-6)


@pytest.mark.parametrize("clip_grad", [0, 0.1])
@pytest.mark.parametrize(
    ("count", "accumulate"),
    [
        (22, 2),  # batches of 4 4, 4 4, 4 2
        (18, 4),  # 4 4 4 4, 2
        (10, 3),  # 4 4 2
        (16, 99),
    ],
)
def test_the_gradients_of_several_batches_make_the_step_of_a_large_one(count, accumulate, clip_grad):
    images = Images(count)
    images.images[count - 2 :] *= 30  # the smaller batch weighs by its images
    networks = [Toy("mask", "gender", norm=nn.LayerNorm([3, 4, 4]))]
    networks.append(copy.deepcopy(networks[0]))
    options = {"epochs": 2, "schedule": "cosine", "optim": "adamw", "lr": 0.01, "clip_grad": clip_grad}
    large, optimizer = train(networks[0], loader_of(images, 4 * accumulate), **options)
    small, other = train(networks[1], loader_of(images, 4), accumulate=accumulate, **options)
    assert small.loss == pytest.approx(large.loss, rel=1e-5)
    assert small.images == large.images == count
    assert learning_rate(other) == learning_rate(optimizer)
    for one, two in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_after_step_is_called_after_the_steps_of_the_optimizer_when_no_gradient_is_left():
    network, batches = Toy("mask"), []
    before = state_of(network)
    optimizer = create_optimizer("sgd", network, lr=0.1)
    scheduler = create_scheduler("none", optimizer, epochs=1, steps_per_epoch=3, restart_epochs=1)

    def after_step(progress):
        batches.append(progress.step)
        assert all(weights.grad is None for weights in network.parameters())
        assert "heads.mask.weight" in changed(network, before)

    step = TrainStep(network, CROSS_ENTROPY, optimizer, scheduler, CPU)
    train_one_epoch(step, loader_of(Images(10), 2), accumulate=2, after_step=after_step)
    assert batches == [2, 4, 5]


def test_the_losses_of_all_heads_are_summed_and_all_heads_are_trained():
    network, images = Toy("mask", "gender", "ageg", "main"), Images(8)
    before, outputs = state_of(network), outputs_of(copy.deepcopy(network), images.images)
    expected = sum(nn.functional.cross_entropy(o, images.targets[head]).item() for head, o in outputs.items())
    result, _ = train(network, loader_of(images, 8))
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert {f"heads.{head}.weight" for head in network.heads} < changed(network, before)


@pytest.mark.parametrize(("epochs", "rate"), [(1, 0), (2, 0.05)])
def test_the_schedule_is_stepped_after_every_batch(epochs, rate):
    _, optimizer = train(Toy("gender"), loader_of(Images(10), 4), schedule="cosine", epochs=epochs)
    assert learning_rate(optimizer) == pytest.approx(rate, abs=1e-12)


def test_training_is_in_training_mode_and_inference_is_not_also_in_turns():
    network = Toy("mask")
    train(network.eval(), loader_of(Images(8), 4))
    evaluate(network, loader_of(Images(8, views=1), 4), CROSS_ENTROPY, MASK)
    predict([network], loader_of(Images(8, views=1), 4), MASK)
    result, _ = train(network, loader_of(Images(8), 4))
    assert network.modes == [True] * 2 + [False] * 4 + [True] * 2
    assert math.isfinite(result.loss)


def test_a_frozen_backbone_stays_frozen_in_the_loop():
    options = {"task": MASK, "tasks": FACES, "backbone": "resnet18", "image_size": 32, "pretrained": False}
    network = create_model("VanillaResNet", **options, freeze=True)
    before = state_of(network)
    train(network, loader_of(Images(8, side=32), 4))
    assert changed(network, before)
    update_statistics(network, loader_of(Images(8, views=1, side=32), 4))
    assert all(name.startswith(("batchnorm", "linear")) for name in changed(network, before))
    assert not network.features.training


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet-b0"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_memory_layout_of_a_prepared_network_does_not_change_the_step_of_an_optimizer(name, backbone):
    network = create_model("THANet_MK1", task=MAIN, tasks=FACES, backbone=backbone, image_size=32, pretrained=False)
    networks = network.eval(), prepare(copy.deepcopy(network), CPU).eval()  # evaluation: nothing is drawn
    before = nn.utils.parameters_to_vector(network.parameters()).detach()
    batch = torch.randn(4, 3, 32, 32)
    targets = {task: torch.arange(4) % OUTPUTS[task] for task in ("mask", "ageg", "gender", "main")}
    for one in networks:
        optimizer = create_optimizer(name, one, lr=1e-3)
        CROSS_ENTROPY(one(batch), targets).backward()
        optimizer.step()
    plain, prepared = (nn.utils.parameters_to_vector(p.contiguous() for p in one.parameters()) for one in networks)
    step, difference = (plain - before).abs().mean().item(), (plain - prepared).abs().mean().item()
    assert step > 0
    assert difference < 0.1 * step


def test_ages_are_learned_in_years():
    """From 0 towards ages of 18 to 70, which the loader returns as float64."""
    network, images = Toy("age", norm=False), Images(16)
    first, _ = train(network, loader_of(images, 8), loss="mseloss", lr=0.0)
    errors = outputs_of(network, images.images)["age"][:, 0].double() - images.targets["age"]
    assert first.loss == pytest.approx((errors**2).mean().item(), rel=1e-4)
    for _ in range(30):
        last, _ = train(network, loader_of(images, 8), loss="mseloss", lr=0.005)
    assert last.loss < 0.3 * first.loss


def test_batchnorm_statistics_are_recomputed_from_the_first_views_and_nothing_else_changes():
    network, images = Toy("mask", dropout=0.5), Images(12, views=2)
    train(network, loader_of(Images(10), 4))
    before, state = state_of(network), torch.get_rng_state()
    update_statistics(network, loader_of(images, 4))
    seen = images.images[:, 0]
    assert torch.allclose(network.norm.running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-6)
    variances = torch.stack([seen[k : k + 4].var(dim=(0, 2, 3)) for k in (0, 4, 8)])
    assert torch.allclose(network.norm.running_var, variances.mean(dim=0), atol=1e-6)
    assert not changed(network, before) & dict(network.named_parameters()).keys()
    assert torch.equal(torch.get_rng_state(), state)
    network.train()(10 + seen)  # running averages as before
    assert network.norm.momentum == 0.1
    assert (network.norm.running_mean < 2).all()


# ------------------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
@pytest.mark.parametrize(
    ("task", "heads", "loss"),
    [
        (MAIN, ["main"], "crossentropyloss"),
        (MAIN, ["mask", "ageg", "gender"], "crossentropyloss"),
        (AGE, ["age"], "mseloss"),
    ],
)
def test_evaluation_is_in_the_order_of_the_loader_with_the_mean_loss(task, heads, loss, batch_size):
    network, images, criterion = Toy(*heads).eval(), Images(10, views=2), create_criterion(loss)
    images.images[8:] *= 30
    outputs = outputs_of(network, images.images[:, 0])
    result = evaluate(network, loader_of(images, batch_size), criterion, task)
    assert result.probabilities.shape == (10, task.outputs)
    assert result.probabilities.dtype == np.float32
    assert result.probabilities == pytest.approx(predict_task(outputs, task).numpy(), abs=1e-5)
    assert result.loss == pytest.approx(criterion(outputs, images.targets).item(), rel=1e-5)


@pytest.mark.parametrize(
    "run",
    [
        lambda network, loader: evaluate(network, loader, create_criterion("focalloss"), MASK).probabilities,
        lambda network, loader: predict([network], loader, MASK),
    ],
    ids=["evaluate", "predict"],
)
def test_inference_draws_nothing_and_changes_nothing(run):
    network, loader = Toy("mask", dropout=0.5), loader_of(Images(10, views=2), 4)
    before, state = state_of(network), torch.get_rng_state()
    assert (run(network, loader) == run(network, loader)).all()
    assert torch.equal(torch.get_rng_state(), state)
    assert not changed(network, before)
    assert all(parameter.grad is None for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------ prediction


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("views", [1, 2, 5])
@pytest.mark.parametrize(
    ("task", "heads"),
    [
        (MAIN, [("main",), ("main", "mask"), ("mask", "gender", "ageg")]),
        (AGE_GROUP, [("mask", "gender", "ageg", "main")]),
        (AGE, [("age",), ("age",)]),
    ],
)
def test_prediction_is_the_mean_over_the_views_of_probabilities_or_years(task, heads, batch_size, views):
    networks, images = [Toy(*each).eval() for each in heads], Images(7, views=views)
    images.images *= 3  # so that the mean of logits would differ
    loader = loader_of(images, batch_size)
    got, apart = predict(networks, loader, task), predict(networks, loader, task, apart=True)
    assert got.shape == (len(networks), 7, task.outputs)
    assert got.dtype == np.float32
    for network, mean, each in zip(networks, got, apart, strict=True):
        expected = predict_task(outputs_of(network, images.images.flatten(0, 1)), task).view(7, views, -1)
        assert each == pytest.approx(expected.numpy(), abs=1e-5)
        assert mean == pytest.approx(expected.mean(dim=1).numpy(), abs=1e-5)


class LazyNetworks:
    """Networks that are created when they are indexed; `most` is the largest number that existed at a time."""

    def __init__(self, networks) -> None:
        self.networks, self.made, self.most = networks, [], 0

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, index: int) -> nn.Module:
        self.made.append(weakref.ref(network := copy.deepcopy(self.networks[index])))
        self.most = max(self.most, sum(reference() is not None for reference in self.made))
        return network


@pytest.mark.parametrize("at_once", [1, 2, 3, None])
@pytest.mark.parametrize("held", [1, 1100, 2**30])  # an image with two views is 384 bytes
def test_networks_that_take_turns_predict_the_same_and_at_most_at_once_are_held(at_once, held, monkeypatch):
    monkeypatch.setattr("training.engine.HELD_BYTES", held)
    networks, loader = [Toy("main", dropout=0.5) for _ in range(3)], loader_of(Images(7, views=2), 2)
    expected = predict(networks, loader, MAIN)
    turns = LazyNetworks(networks)
    assert (predict(turns, loader, MAIN, at_once=at_once) == expected).all()
    assert turns.most == (at_once or 3)
    parts = {1: 4, 1100: 2, 2**30: 1}[held]
    assert len(turns.made) == (3 * parts if at_once in (1, 2) else 3)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_images_held_for_the_next_networks_are_not_in_shared_memory():
    """A container may have 64 MB of it."""
    shared = []

    class Watching(LazyNetworks):
        def __getitem__(self, index: int) -> nn.Module:
            maps = Path("/proc/self/maps").read_text()
            shared.append(maps.count("/dev/shm/torch_") + maps.count("/memfd:"))
            return super().__getitem__(index)

    networks, loader = Watching([Toy("main"), Toy("main")]), loader_of(Images(60, views=1), 1, workers=1)
    predict(networks, loader, MAIN, at_once=1)
    assert len(shared) == 2  # all images were held for both
    assert max(shared) < 20


# ------------------------------------------------------------------------------------------------ precision

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "in_training", "in_inference"),
    [
        ("cpu", False, torch.float32, torch.float32),
        ("cuda", True, torch.bfloat16, torch.float16),
        ("cuda", False, torch.float16, torch.float16),
    ],
)
def test_auto_precision_depends_on_the_device(device, has_bfloat16, in_training, in_inference, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    device = torch.device(device)
    assert (training_dtype("auto", device), inference_dtype("auto", device)) == (in_training, in_inference)
    for choose in (training_dtype, inference_dtype):
        assert tuple(choose(name, device) for name in ("float32", "bfloat16", "float16")) == DTYPES


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision_differs_in_the_last_digits_only(dtype):
    loader, full = loader_of(Images(16), 4), Toy("mask", "gender")
    half = copy.deepcopy(full)
    expected, _ = train(full, loader)
    scaler = GradScaler("cpu", init_scale=8.0, enabled=dtype == torch.float16)
    result, _ = train(half, loader, dtype=dtype, scaler=scaler)
    assert result.loss == pytest.approx(expected.loss, rel=0.02)
    assert result.loss != expected.loss
    for got, value in zip(half.parameters(), full.parameters(), strict=True):
        assert got.dtype == torch.float32
        assert torch.allclose(got, value, atol=0.02)


def test_a_step_with_gradients_too_large_for_float16_is_skipped():
    network = Toy("mask", norm=False)
    before = state_of(network)
    scaler = gradient_scaler(torch.float16, CPU)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**40})
    for _ in range(15):  # the scale is halved until the gradients fit
        train(network, loader_of(Images(12), 4), schedule="cosine", dtype=torch.float16, scaler=scaler)
        assert all(value.isfinite().all() for value in network.state_dict().values())
    assert scaler.get_scale() < 2.0**30
    assert "heads.mask.weight" in changed(network, before)


def test_the_scale_of_float16_gradients_changes_between_the_steps_of_several_batches_only():
    network = Toy("mask", norm=False)
    before, scaler = state_of(network), gradient_scaler(torch.float16, CPU)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**40})
    train(network, loader_of(Images(20), 4), accumulate=2, dtype=torch.float16, scaler=scaler)
    assert scaler.get_scale() == 2.0**37  # halved after each of 3 steps of 5 batches
    assert not changed(network, before)
    half, full = copy.deepcopy(network), copy.deepcopy(network)
    train(full, loader_of(Images(20), 4), accumulate=2)
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=1)  # another scale for the next step
    train(half, loader_of(Images(20), 4), accumulate=2, dtype=torch.float16, scaler=scaler)
    assert scaler.get_scale() == 8.0 * 2**3
    for got, value in zip(half.parameters(), full.parameters(), strict=True):
        assert torch.allclose(got, value, atol=0.02)


@pytest.mark.parametrize(
    ("name", "backbone"), [("VanillaEfficientNet", "efficientnet-b0"), ("MultiLabelTHANet", "resnet18")]
)
def test_predictions_in_half_precision_are_close(name, backbone):
    network = create_model(name, task=MAIN, tasks=FACES, backbone=backbone, image_size=32, pretrained=False)
    images = Images(16, views=2, side=32)
    for batch in images.images.flatten(0, 1).split(8):  # for the statistics of BatchNorm
        network(batch)
    answers = {}
    for dtype in DTYPES:
        prepared = prepare(inference_network(network, 32), CPU, dtype)
        assert all(weight.dtype == dtype for weight in prepared.parameters())
        answers[dtype] = predict([prepared], loader_of(images, 8), MAIN)[0]
    assert answers[torch.float16] == pytest.approx(answers[torch.float32], abs=2e-3)
    assert answers[torch.bfloat16] == pytest.approx(answers[torch.float32], abs=2e-2)
    assert (answers[torch.float16].argmax(axis=1) == answers[torch.float32].argmax(axis=1)).all()
