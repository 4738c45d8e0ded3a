"""The loops against the same thing written out by hand, with networks small enough to follow."""

from __future__ import annotations

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
from data.tasks import TASKS
from dataset import ViewBatches
from loss import create_criterion
from model import create_model, inference_network, predict_task
from optim import create_optimizer, create_scheduler, learning_rate
from training.engine import (
    TrainStep,
    evaluate,
    gradient_scaler,
    inference_dtype,
    predict,
    prepare,
    train_one_epoch,
    training_dtype,
    update_statistics,
)
from training.loaders import Loader, create_loaders

CPU = torch.device("cpu")
OUTPUTS = {task: record.outputs for task, record in TASKS.items()}


class Toy(nn.Module):
    """A linear map of all pixels for each head; notes the mode it is called in."""

    def __init__(self, *heads: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({head: nn.Linear(3 * 4 * 4, OUTPUTS[head]) for head in heads})
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.modes.append(self.training)
        x = self.dropout(self.norm(images)).flatten(1)
        return {name: head(x) for name, head in self.heads.items()}


class Linear(nn.Module):
    """One head without anything that depends on the batch."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.head, self.linear = head, nn.Linear(3 * 4 * 4, OUTPUTS[head])

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.head: self.linear(images.flatten(1))}


class Pictures(Dataset):
    """Random pictures with their targets: `(3, 4, 4)`, or with views `(V, 3, 4, 4)`."""

    def __init__(self, count: int, *, views: int | None = None) -> None:
        generator = torch.Generator().manual_seed(count)
        shape = (count, 3, 4, 4) if views is None else (count, views, 3, 4, 4)
        self.images = torch.randn(shape, generator=generator)
        self.targets = {task: (torch.arange(count) * 7) % OUTPUTS[task] for task in OUTPUTS if task != "age"}
        self.targets["age"] = torch.linspace(18, 70, count, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.images[index], {task: values[index].item() for task, values in self.targets.items()}


def loader_of(pictures: Dataset, batch_size: int, *, workers: int = 0) -> Loader:
    return create_loaders([(pictures, ViewBatches(len(pictures), batch_size))], workers=workers, device=CPU)[0]


def train(network, loader, criterion, *, lr: float = 0.1, schedule: str = "none", epochs: int = 1):
    """One epoch, and the optimizer it left."""
    optimizer = create_optimizer("sgd", network, lr=lr)
    scheduler = create_scheduler(
        schedule, optimizer, epochs=epochs, steps_per_epoch=len(loader), restart_epochs=max(1, epochs)
    )
    step = TrainStep(network, create_criterion(criterion), optimizer, scheduler, CPU)
    return train_one_epoch(step, loader), optimizer


def loss_of_each(network, pictures: Pictures, head: str) -> torch.Tensor:
    """The cross entropy of every picture alone."""
    with torch.no_grad():
        outputs = network(pictures.images)[head]
    return nn.functional.cross_entropy(outputs, pictures.targets[head], reduction="none")


# ------------------------------------------------------------------------------------------------ training


def test_the_training_loss_is_the_mean_over_images_not_over_batches():
    network, pictures = Linear("main"), Pictures(10)
    pictures.images[8:] *= 30  # the last batch is of two images with a large loss
    losses = loss_of_each(network, pictures, "main")
    batches = [losses[:4].mean(), losses[4:8].mean(), losses[8:].mean()]
    assert abs(np.mean(batches) - losses.mean().item()) > 1
    result, _ = train(network, loader_of(pictures, 4), "crossentropyloss", lr=0.0)
    assert result.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert result.images == 10
    assert result.seconds > 0


def test_training_is_the_loop_written_out():
    pictures, network = Pictures(10), Toy("mask")
    expected = copy.deepcopy(network)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    total = 0.0
    for start in (0, 4, 8):
        batch = slice(start, start + 4)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(expected(pictures.images[batch])["mask"], pictures.targets["mask"][batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(pictures.images[batch])
    result, _ = train(network, loader_of(pictures, 4), "crossentropyloss")
    assert result.loss == pytest.approx(total / 10, rel=1e-5)
    for name, value in expected.state_dict().items():
        assert torch.allclose(network.state_dict()[name], value, atol=1e-6), name


def test_all_heads_are_trained_at_once():
    network, pictures = Toy("mask", "gender", "ageg", "main"), Pictures(8)
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        outputs = copy.deepcopy(network).train()(pictures.images)
    expected = sum(nn.functional.cross_entropy(o, pictures.targets[head]).item() for head, o in outputs.items())
    result, _ = train(network, loader_of(pictures, 8), "crossentropyloss")
    assert result.loss == pytest.approx(expected, rel=1e-5)
    for head in network.heads:
        assert not torch.equal(network.heads[head].weight, before[f"heads.{head}.weight"])


def test_the_schedule_is_stepped_after_every_batch():
    result, optimizer = train(Linear("gender"), loader_of(Pictures(10), 4), "crossentropyloss", schedule="cosine")
    assert result.images == 10
    assert learning_rate(optimizer) == pytest.approx(0, abs=1e-12)  # the run is these three batches
    _, optimizer = train(Linear("gender"), loader_of(Pictures(10), 4), "crossentropyloss", schedule="cosine", epochs=2)
    assert learning_rate(optimizer) == pytest.approx(0.05)


def test_training_is_in_training_mode_and_evaluation_is_not():
    network = Toy("mask")
    train(network.eval(), loader_of(Pictures(8), 4), "crossentropyloss")
    assert network.modes == [True, True]
    network.modes.clear()
    evaluate(network, loader_of(Pictures(8, views=1), 4), create_criterion("crossentropyloss"), "mask")
    predict([network], loader_of(Pictures(8, views=1), 4), "mask")
    assert network.modes == [False] * 4


def test_a_frozen_backbone_stays_frozen_in_the_loop():
    network = create_model(
        "VanillaResNet", task="mask", backbone="resnet18", image_size=32, pretrained=False, freeze=True
    )
    before = copy.deepcopy(network.state_dict())

    class Larger(Pictures):
        def __getitem__(self, index):
            image, targets = super().__getitem__(index)
            return image.repeat_interleave(8, dim=-2).repeat_interleave(8, dim=-1), targets

    def moved() -> set[str]:
        return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}

    train(network, loader_of(Larger(8), 4), "crossentropyloss")
    assert moved()
    update_statistics(network, loader_of(Larger(8, views=1), 4))
    assert all(name.startswith(("batchnorm", "linear")) for name in moved())
    assert not network.features.training


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet-b0"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_a_prepared_network_as_an_unprepared_one(name, backbone):
    """The memory layout that convolutions are fastest in gives the same network."""
    network = create_model("THANet_MK1", task="main", backbone=backbone, image_size=32, pretrained=False)
    networks = network.eval(), prepare(copy.deepcopy(network), CPU).eval()  # evaluation: nothing is drawn
    before = nn.utils.parameters_to_vector(network.parameters()).detach()
    batch = torch.randn(4, 3, 32, 32)
    targets = {task: torch.arange(4) % OUTPUTS[task] for task in ("mask", "ageg", "gender", "main")}
    for one in networks:
        optimizer = create_optimizer(name, one, lr=1e-3)
        create_criterion("crossentropyloss")(one(batch), targets).backward()
        optimizer.step()
    plain, prepared = (nn.utils.parameters_to_vector(p.contiguous() for p in one.parameters()) for one in networks)
    step, difference = (plain - before).abs().mean().item(), (plain - prepared).abs().mean().item()
    assert step > 0
    assert difference < 0.1 * step


def test_ages_are_learned_in_years():
    """From 0 towards ages of 18 to 70; the loader's float64 targets do not disturb the float32 network."""
    network, pictures = Linear("age"), Pictures(16)
    first, _ = train(network, loader_of(pictures, 8), "mseloss", lr=0.0)
    with torch.no_grad():
        errors = network(pictures.images)["age"][:, 0].double() - pictures.targets["age"]
    assert first.loss == pytest.approx((errors**2).mean().item(), rel=1e-4)
    for _ in range(30):
        last, _ = train(network, loader_of(pictures, 8), "mseloss", lr=0.005)
    assert last.loss < 0.3 * first.loss


def test_a_loss_that_is_no_number_is_told():
    pictures = Pictures(4)
    pictures.images[1] = math.nan
    result, _ = train(Linear("mask"), loader_of(pictures, 2), "crossentropyloss")
    assert math.isnan(result.loss)


def test_a_problem_that_can_be_learned_is_learned():
    pictures = Pictures(32)
    pictures.images[:, 0, 0, 0] = pictures.targets["gender"] * 2.0 - 1
    network = Toy("gender")
    losses = [train(network, loader_of(pictures, 8), "labelsmoothingloss", lr=0.05)[0].loss for _ in range(15)]
    assert losses[-1] < 0.8 * losses[0]
    result = evaluate(network, loader_of(with_views(pictures), 8), create_criterion("labelsmoothingloss"), "gender")
    assert (result.probabilities.argmax(axis=1) == pictures.targets["gender"].numpy()).mean() > 0.9


def test_statistics_are_taken_anew_from_all_batches_of_the_plain_view():
    network, pictures = Toy("mask", dropout=0.5), Pictures(12, views=2)
    train(network, loader_of(Pictures(10), 4), "crossentropyloss")
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    update_statistics(network, loader_of(pictures, 4))
    seen = pictures.images[:, 0]
    assert torch.allclose(network.norm.running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-6)
    each = torch.stack([seen[k : k + 4].var(dim=(0, 2, 3)) for k in (0, 4, 8)])
    assert torch.allclose(network.norm.running_var, each.mean(dim=0), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)
    network.train()(10 + seen)  # from then on they run as before
    assert network.norm.momentum == 0.1
    assert (network.norm.running_mean < 2).all()


def with_views(pictures: Pictures) -> Pictures:
    """The same pictures as data sets for validation give them: one view each."""
    other = copy.deepcopy(pictures)
    other.images = pictures.images[:, None]
    return other


# ------------------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
def test_evaluation_answers_in_the_loaders_order_with_the_mean_loss(batch_size):
    network, pictures = Toy("main").eval(), Pictures(10, views=2)
    pictures.images[8:] *= 30
    with torch.no_grad():
        logits = network(pictures.images[:, 0])["main"]
    expected = logits.softmax(dim=1).numpy()
    loss = nn.functional.cross_entropy(logits, pictures.targets["main"]).item()
    result = evaluate(network, loader_of(pictures, batch_size), create_criterion("crossentropyloss"), "main")
    assert result.probabilities.shape == (10, 18)
    assert result.probabilities.dtype == np.float32
    assert result.probabilities == pytest.approx(expected, abs=1e-5)
    assert result.loss == pytest.approx(loss, rel=1e-5)


def test_evaluation_changes_nothing():
    network = Toy("mask", dropout=0.5)
    before = copy.deepcopy(network.state_dict())
    loader, criterion = loader_of(Pictures(10, views=1), 4), create_criterion("focalloss")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = evaluate(network, loader, criterion, "mask")
    again = evaluate(network, loader, criterion, "mask")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert (first.probabilities == again.probabilities).all()
    assert first.loss == again.loss


def test_a_network_can_be_trained_after_evaluation():
    network, pictures = Toy("mask"), Pictures(8)
    evaluate(network, loader_of(with_views(pictures), 4), create_criterion("crossentropyloss"), "mask")
    result, _ = train(network, loader_of(pictures, 4), "crossentropyloss")
    assert math.isfinite(result.loss)


def test_the_18_classes_of_a_network_without_a_main_head():
    network, pictures = Toy("mask", "ageg", "gender").eval(), Pictures(6, views=1)
    result = evaluate(network, loader_of(pictures, 4), create_criterion("crossentropyloss"), "main")
    assert result.probabilities.shape == (6, 18)
    assert result.probabilities.sum(axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    with torch.no_grad():
        outputs = network(pictures.images[:, 0])
    assert result.probabilities == pytest.approx(predict_task(outputs, "main").numpy(), abs=1e-5)
    heads = [nn.functional.cross_entropy(o, pictures.targets[head]).item() for head, o in outputs.items()]
    assert result.loss == pytest.approx(sum(heads), rel=1e-5)


def test_ages_are_answered_in_years():
    network, pictures = Linear("age"), Pictures(5, views=1)
    nn.init.constant_(network.linear.bias, 40)
    result = evaluate(network, loader_of(pictures, 2), create_criterion("mseloss"), "age")
    with torch.no_grad():
        years = network(pictures.images[:, 0])["age"]
    assert result.probabilities.shape == (5, 1)
    assert result.probabilities == pytest.approx(years.numpy(), rel=1e-5)
    assert result.loss == pytest.approx(((years[:, 0] - pictures.targets["age"]) ** 2).mean().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------ prediction


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("views", [1, 2, 5])
def test_prediction_is_the_mean_of_the_views_probabilities_for_each_network(batch_size, views):
    networks = [Toy("main").eval(), Toy("main", "mask").eval(), Toy("mask", "gender", "ageg").eval()]
    pictures = Pictures(7, views=views)
    pictures.images *= 3
    got = predict(networks, loader_of(pictures, batch_size), "main")
    assert got.shape == (3, 7, 18)
    assert got.dtype == np.float32
    for m, network in enumerate(networks):
        for n in range(7):
            answers = []
            for v in range(views):
                with torch.no_grad():
                    outputs = network(pictures.images[n, v][None])
                answers.append(predict_task(outputs, "main")[0].numpy())
            assert got[m, n] == pytest.approx(np.mean(answers, axis=0), abs=1e-5)


def test_views_that_are_kept_apart_have_the_mean_that_is_else_given():
    networks, loader = [Toy("main").eval(), Toy("mask", "gender", "ageg").eval()], loader_of(Pictures(7, views=3), 4)
    apart = predict(networks, loader, "main", apart=True)
    assert apart.shape == (2, 7, 3, 18)
    assert np.ptp(apart, axis=2).max() > 0.01
    assert apart.mean(axis=2) == pytest.approx(predict(networks, loader, "main"), abs=1e-6)


class MadeWhenAsked:
    """Networks that are made when they are asked for, and how many were held at most at a time."""

    def __init__(self, networks) -> None:
        self.networks, self.made, self.most = networks, [], 0

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, index: int) -> nn.Module:
        self.made.append(weakref.ref(network := copy.deepcopy(self.networks[index])))
        self.most = max(self.most, sum(reference() is not None for reference in self.made))
        return network


@pytest.mark.parametrize("at_once", [1, 2, 3, None])
@pytest.mark.parametrize("held", [1, 1100, 2**30])  # a photograph with two views is 384 bytes
def test_networks_that_take_turns_answer_the_same_and_no_more_are_held(at_once, held, monkeypatch):
    monkeypatch.setattr("training.engine.HELD_BYTES", held)
    networks, loader = [Toy("main", dropout=0.5) for _ in range(3)], loader_of(Pictures(7, views=2), 2)
    expected = predict(networks, loader, "main")
    turns = MadeWhenAsked(networks)
    assert (predict(turns, loader, "main", at_once=at_once) == expected).all()
    assert turns.most == (at_once or 3)
    parts = {1: 4, 1100: 2, 2**30: 1}[held]
    assert len(turns.made) == (3 * parts if at_once in (1, 2) else 3)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_images_that_are_kept_for_turns_are_not_kept_in_shared_memory():
    """A container may have 64 MB of it."""
    shared = []

    class Watching(MadeWhenAsked):
        def __getitem__(self, index: int) -> nn.Module:
            maps = Path("/proc/self/maps").read_text()
            shared.append(maps.count("/dev/shm/torch_") + maps.count("/memfd:"))
            return super().__getitem__(index)

    networks, loader = Watching([Toy("main"), Toy("main")]), loader_of(Pictures(60, views=1), 1, workers=1)
    predict(networks, loader, "main", at_once=1)
    assert len(shared) == 2  # all images were kept for both
    assert max(shared) < 20


def test_prediction_averages_probabilities_not_logits():
    """A sure view and an unsure one: 0.99.. and 0.5 make 0.75, logits 10 and 0 would make 0.99."""
    network = Linear("gender")
    with torch.no_grad():
        network.linear.weight.zero_()
        network.linear.bias.zero_()
        network.linear.weight[1, 0] = 1.0
    pictures = Pictures(1, views=2)
    pictures.images.zero_()
    pictures.images[0, 0, 0, 0, 0] = 10.0
    sure = 1 / (1 + math.exp(-10))
    got = predict([network], loader_of(pictures, 1), "gender")
    assert got[0, 0, 1] == pytest.approx((sure + 0.5) / 2, abs=1e-6)


def test_prediction_of_ages_is_the_mean_of_years():
    network, pictures = Linear("age").eval(), Pictures(4, views=3)
    got = predict([network, network], loader_of(pictures, 3), "age")
    with torch.no_grad():
        years = network(pictures.images.flatten(0, 1))["age"].view(4, 3).mean(dim=1)
    assert got.shape == (2, 4, 1)
    assert got[0, :, 0] == pytest.approx(years.numpy(), abs=1e-5)
    assert (got[0] == got[1]).all()


@pytest.mark.parametrize("task", ["mask", "gender", "ageg"])
def test_a_many_headed_network_predicts_its_attributes(task):
    network, pictures = Toy("mask", "gender", "ageg", "main").eval(), Pictures(4, views=1)
    with torch.no_grad():
        expected = network(pictures.images[:, 0])[task].softmax(dim=1).numpy()
    assert predict([network], loader_of(pictures, 3), task)[0] == pytest.approx(expected, abs=1e-5)


def test_prediction_changes_nothing():
    network = Toy("mask", dropout=0.5)
    before = copy.deepcopy(network.state_dict())
    loader = loader_of(Pictures(6, views=2), 4)
    state = torch.get_rng_state()
    first, again = predict([network], loader, "mask"), predict([network], loader, "mask")
    assert torch.equal(torch.get_rng_state(), state)
    assert (first == again).all()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("choose", [training_dtype, inference_dtype])
def test_numbers_on_a_cpu_are_float32_unless_others_are_asked_for(choose):
    assert choose("auto", CPU) == torch.float32
    assert [choose(name, CPU) for name in ("float32", "bfloat16", "float16")] == HALVES_AND_FULL


HALVES_AND_FULL = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_trains_in_bfloat16_if_it_has_it_and_predicts_in_float16(has_bfloat16, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    gpu = torch.device("cuda")
    assert training_dtype("auto", gpu) == expected
    assert inference_dtype("auto", gpu) == torch.float16
    assert training_dtype("float32", gpu) == inference_dtype("float32", gpu) == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision_is_training_to_fewer_digits(dtype):
    pictures, full = Pictures(16), Toy("mask", "gender")
    half = copy.deepcopy(full)
    results = []
    for network, numbers in ((full, torch.float32), (half, dtype)):
        optimizer = create_optimizer("sgd", network, lr=0.1)
        options = {"epochs": 1, "steps_per_epoch": 4, "restart_epochs": 1}
        scheduler = create_scheduler("none", optimizer, **options)
        criterion, loader = create_criterion("crossentropyloss"), loader_of(pictures, 4)
        options = {"dtype": numbers, "scaler": GradScaler("cpu", init_scale=8.0, enabled=numbers == torch.float16)}
        step = TrainStep(network, criterion, optimizer, scheduler, CPU, **options)
        results.append(train_one_epoch(step, loader))
    assert results[1].loss == pytest.approx(results[0].loss, rel=0.02)
    assert results[1].loss != results[0].loss
    for got, expected in zip(half.parameters(), full.parameters(), strict=True):
        assert got.dtype == torch.float32
        assert torch.allclose(got, expected, atol=0.02)


def test_a_step_whose_gradients_are_too_large_for_float16_is_left_out_and_training_goes_on():
    pictures, network = Pictures(12), Linear("mask")
    before = copy.deepcopy(network.state_dict())
    scaler = gradient_scaler(torch.float16, CPU)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**40})
    optimizer = create_optimizer("sgd", network, lr=0.1)
    scheduler = create_scheduler("cosine", optimizer, epochs=1, steps_per_epoch=3, restart_epochs=1)
    criterion = create_criterion("crossentropyloss")
    step = TrainStep(network, criterion, optimizer, scheduler, CPU, dtype=torch.float16, scaler=scaler)
    for _ in range(15):  # the scale is halved until the gradients fit
        train_one_epoch(step, loader_of(pictures, 4))
        assert all(value.isfinite().all() for value in network.state_dict().values())
    assert scaler.get_scale() < 2.0**30
    assert not torch.equal(network.state_dict()["linear.weight"], before["linear.weight"])


@pytest.mark.parametrize(
    ("name", "backbone"), [("VanillaEfficientNet", "efficientnet-b0"), ("MultiLabelTHANet", "resnet18")]
)
def test_half_precision_answers_alike(name, backbone):
    network = create_model(name, task="main", backbone=backbone, image_size=32, pretrained=False)
    batches = torch.randn(4, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for batch in batches:  # so that BatchNorm has seen what it is to normalise
        network(batch)
    answers = {}
    for dtype in HALVES_AND_FULL:
        prepared = prepare(inference_network(network, 32), CPU, dtype)
        assert all(weight.dtype == dtype for weight in prepared.parameters())
        pictures = Pictures(16, views=2)
        pictures.images = batches[:, :, None].expand(-1, -1, 2, -1, -1, -1).flatten(0, 1)[:16]
        answers[dtype] = predict([prepared], loader_of(pictures, 8), "main")[0]
    assert answers[torch.float16] == pytest.approx(answers[torch.float32], abs=2e-3)
    assert answers[torch.bfloat16] == pytest.approx(answers[torch.float32], abs=2e-2)
    assert (answers[torch.float16].argmax(axis=1) == answers[torch.float32].argmax(axis=1)).all()


def test_preparing_a_network_does_not_change_what_it_answers():
    network = create_model("VanillaResNet", task="mask", backbone="resnet18", image_size=32, pretrained=False).eval()
    batch = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(batch)["mask"]
        prepared = prepare(network, CPU)
        got = prepared(batch)["mask"]
    assert torch.allclose(got, expected, atol=1e-4)
