"""Optimizers by what one step does to a parameter, schedules by the rates they give batch for batch."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import config
from optim import OPTIMIZERS, SCHEDULES, create_optimizer, create_scheduler, learning_rate

LR = 0.1


def parameter(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def steps(name: str, gradients: list[float], value: float = 1.0) -> list[float]:
    """The values of one parameter after each step with these gradients."""
    weight = parameter(value)
    optimizer = create_optimizer(name, [weight], lr=LR)
    values = []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        values.append(weight.item())
    return values


def rates(name: str, *, epochs: int, steps_per_epoch: int, restart_epochs: int = 5) -> list[float]:
    """The learning rate of every batch of a run, and after them the one it ends with."""
    optimizer = create_optimizer("sgd", [parameter()], lr=LR)
    scheduler = create_scheduler(
        name, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch, restart_epochs=restart_epochs
    )
    found = [learning_rate(optimizer)]
    for _ in range(epochs * steps_per_epoch):
        optimizer.step()
        scheduler.step()
        found.append(learning_rate(optimizer))
    return found


# ------------------------------------------------------------------------------------------------ optimizers


def test_names_are_those_of_the_command_line():
    assert set(OPTIMIZERS) == set(config.OPTIMIZERS)
    assert set(SCHEDULES) == set(config.SCHEDULES)


def test_sgd_has_no_momentum_and_no_decay():
    assert steps("sgd", [1.0, 0.0, 0.0]) == pytest.approx([0.9, 0.9, 0.9])


def test_momentum_is_nine_tenths():
    # velocities 1, 0.9, 0.81
    assert steps("momentum", [1.0, 0.0, 0.0]) == pytest.approx([0.9, 0.81, 0.729])


def test_adam_steps_by_the_rate_whatever_the_gradient_and_does_not_decay():
    assert steps("adam", [1e-3])[0] == pytest.approx(1 - LR, rel=1e-4)
    assert steps("adam", [1e3])[0] == pytest.approx(1 - LR, rel=1e-4)
    assert steps("adam", [0.0]) == [1.0]


def test_adamp_decays_weights_by_a_hundredth_of_the_rate():
    # without a gradient only the decay is left: 1 - 0.1 * 0.01
    assert steps("adamp", [0.0]) == pytest.approx([0.999])
    # and with one, the decayed weight takes Adam's step
    assert steps("adamp", [1.0])[0] == pytest.approx(0.999 - LR, rel=1e-4)


@pytest.mark.parametrize("name", config.OPTIMIZERS)
def test_frozen_parameters_are_left_out(name):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    optimizer = create_optimizer(name, network.parameters(), lr=LR)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in network[1].parameters()]
    assert learning_rate(optimizer) == LR
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"1.weight", "1.bias"}


@pytest.mark.parametrize("name", config.OPTIMIZERS)
def test_every_optimizer_makes_a_small_problem_smaller(name):
    weight = nn.Parameter(torch.tensor([[3.0, -2.0], [1.0, 4.0]]))
    optimizer = create_optimizer(name, [weight], lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * 30


# ------------------------------------------------------------------------------------------------ schedules


def test_cosine_falls_from_the_rate_to_zero_over_the_run_batch_by_batch():
    run = 4 * 7
    expected = [LR * (1 + math.cos(math.pi * step / run)) / 2 for step in range(run + 1)]
    got = rates("cosine", epochs=4, steps_per_epoch=7)
    assert got == pytest.approx(expected, abs=1e-9)
    assert got[-1] == pytest.approx(0, abs=1e-9)
    assert all(later < earlier for earlier, later in pairwise(got))


def test_cosine_does_not_look_at_the_restarts():
    assert rates("cosine", epochs=4, steps_per_epoch=3, restart_epochs=1) == rates(
        "cosine", epochs=4, steps_per_epoch=3
    )


def test_restarts_go_back_up_after_the_epochs_of_a_cycle():
    cycle = 2 * 5
    expected = [LR * (1 + math.cos(math.pi * (step % cycle) / cycle)) / 2 for step in range(3 * cycle)]
    got = rates("cosine_restarts", epochs=6, steps_per_epoch=5, restart_epochs=2)[:-1]
    assert got == pytest.approx(expected, abs=1e-9)
    assert got[cycle] == got[2 * cycle] == LR
    assert got[cycle - 1] < 0.05 * LR


def test_without_a_schedule_the_rate_stays():
    assert set(rates("none", epochs=3, steps_per_epoch=4)) == {LR}


@pytest.mark.parametrize("name", config.SCHEDULES)
@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 1), (1, 3), (3, 1)])
def test_short_runs(name, epochs, steps_per_epoch):
    got = rates(name, epochs=epochs, steps_per_epoch=steps_per_epoch, restart_epochs=1)
    assert got[0] == LR
    assert all(0 <= rate <= LR for rate in got)


@pytest.mark.parametrize("name", config.SCHEDULES)
def test_a_resumed_schedule_gives_the_same_rates(name):
    """State of optimizer and schedule into new ones after 7 of 12 batches, as a resumed run does."""
    options = {"epochs": 4, "steps_per_epoch": 3, "restart_epochs": 2}
    expected = rates(name, **options)

    def new():
        optimizer = create_optimizer("adam", [parameter()], lr=LR)
        return optimizer, create_scheduler(name, optimizer, **options)

    optimizer, scheduler = new()
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    states = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = new()
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    got = [learning_rate(optimizer)]
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        got.append(learning_rate(optimizer))
    assert got == expected[7:]
