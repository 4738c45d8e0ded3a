"""Every loss against numbers worked out in NumPy, one sample at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from loss import (
    CLASSIFICATION_LOSSES,
    LOSSES,
    REGRESSION_LOSSES,
    create_criterion,
    focal_loss,
    label_smoothing_loss,
    mse_loss,
    smooth_l1_loss,
)


def random_logits(classes: int, samples: int = 6, *, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) and targets (B,), every class a target where there are enough samples."""
    return torch.randn(samples, classes) * scale, torch.arange(samples) % classes


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - row.max() - math.log(np.exp(row - row.max()).sum())


def by_hand(logits: torch.Tensor, target: torch.Tensor, weights_of) -> float:
    """The mean over samples of minus sum_c weights_of(target, c) * log p_c."""
    losses = []
    for row, label in zip(logits.double().numpy(), target.tolist(), strict=True):
        log_p = log_softmax(row)
        losses.append(-sum(weights_of(label, c) * log_p[c] for c in range(len(row))))
    return sum(losses) / len(losses)


# ------------------------------------------------------------------------------------------------ classification


@pytest.mark.parametrize("classes", [2, 3, 18])
def test_label_smoothing_spreads_over_the_other_classes(classes):
    logits, target = random_logits(classes)
    expected = by_hand(logits, target, lambda label, c: 0.8 if c == label else 0.2 / (classes - 1))
    assert label_smoothing_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_smallest_where_the_target_has_four_fifths():
    # The minimum over logits lies at p = the smoothed target itself: 0.8 and 0.1, 0.1.
    best = torch.tensor([[0.8, 0.1, 0.1]]).log()
    target = torch.tensor([0])
    entropy = -(0.8 * math.log(0.8) + 2 * 0.1 * math.log(0.1))
    assert label_smoothing_loss(best, target).item() == pytest.approx(entropy, rel=1e-6)
    for nearby in ([[0.81, 0.095, 0.095]], [[0.79, 0.105, 0.105]], [[0.8, 0.12, 0.08]]):
        assert label_smoothing_loss(torch.tensor(nearby).log(), target).item() > entropy


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_shares_of_one_class_are_that_class(name):
    logits, target = random_logits(4)
    shares = torch.nn.functional.one_hot(target, 4).float()
    assert LOSSES[name](logits, shares).item() == pytest.approx(LOSSES[name](logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_the_loss_of_shares_is_between_those_of_the_classes(name):
    logits = random_logits(4)[0]
    one, other = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    shares = torch.tensor([0.25, 0.75, 0, 0]).expand(6, 4)
    expected = 0.25 * LOSSES[name](logits, one) + 0.75 * LOSSES[name](logits, other)
    assert LOSSES[name](logits, shares).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_logit_adjustment_adds_the_log_of_how_frequent_a_class_is(strength):
    logits, target = random_logits(3)
    counts = {"mask": torch.tensor([70, 20, 10]), "gender": torch.tensor([1, 1])}
    criterion = create_criterion("crossentropyloss", logit_adjustment=strength, counts=counts)
    moved = logits + strength * torch.tensor([0.7, 0.2, 0.1]).log()
    expected = torch.nn.functional.cross_entropy(moved, target)
    assert criterion({"mask": logits}, {"mask": target}).item() == pytest.approx(expected.item(), rel=1e-6)
    plain = create_criterion("crossentropyloss")
    two = {"gender": logits[:, :2]}, {"gender": target % 2}
    assert criterion(*two).item() == pytest.approx(plain(*two).item(), rel=1e-6)  # classes that are equally frequent


def test_a_class_that_is_not_there_is_rare_and_no_infinity():
    criterion = create_criterion("crossentropyloss", logit_adjustment=1.0, counts={"mask": torch.tensor([70, 20, 0])})
    logits, target = random_logits(3)
    assert criterion({"mask": logits}, {"mask": target % 2}).isfinite()


def test_focal_loss_takes_its_factor_for_each_sample():
    logits, target = random_logits(4, samples=8)
    terms = []
    for row, label in zip(logits.double().numpy(), target.tolist(), strict=True):
        log_p = log_softmax(row)[label]
        terms.append(((1 - math.exp(log_p)) ** 5, -log_p))
    mean_of_products = np.mean([factor * loss for factor, loss in terms])
    product_of_means = np.mean([factor for factor, _ in terms]) * np.mean([loss for _, loss in terms])
    factor_of_mean = (1 - math.exp(-np.mean([loss for _, loss in terms]))) ** 5 * np.mean([loss for _, loss in terms])
    assert focal_loss(logits, target).item() == pytest.approx(mean_of_products, rel=1e-5)
    assert abs(mean_of_products - product_of_means) > 0.05  # the numbers tell the three apart
    assert abs(mean_of_products - factor_of_mean) > 0.05


def test_focal_loss_of_one_sample():
    # p = 1/2: (1 - 1/2)^5 * ln 2
    assert focal_loss(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(math.log(2) / 32)


def test_cross_entropy():
    logits, target = random_logits(18)
    expected = by_hand(logits, target, lambda label, c: float(c == label))
    got = create_criterion("crossentropyloss")({"main": logits}, {"main": target})
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("right", [True, False])
def test_certain_answers_have_finite_losses_and_gradients(name, right):
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    loss = create_criterion(name)({"gender": logits}, {"gender": torch.tensor([0 if right else 1])})
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# ------------------------------------------------------------------------------------------------ regression


def test_mse_is_in_years_squared():
    # errors 2, -3 and 0 years: (4 + 9 + 0) / 3
    output, target = torch.tensor([[22.0], [57.0], [30.0]]), torch.tensor([20, 60, 30])
    assert mse_loss(output, target).item() == pytest.approx(13 / 3)


def test_smooth_l1_is_in_years():
    # errors 3, -0.5 and 1: 3 - 1/2, 0.25 / 2, 1 - 1/2
    output, target = torch.tensor([[23.0], [59.5], [31.0]]), torch.tensor([20.0, 60.0, 30.0])
    assert smooth_l1_loss(output, target).item() == pytest.approx((2.5 + 0.125 + 0.5) / 3)


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
def test_regression_does_not_spread_the_output_over_the_batch(name):
    """(B, 1) against (B,) broadcasts to (B, B) where nobody looks: exact answers must have no loss."""
    ages = torch.tensor([20.0, 45.0, 70.0])
    assert create_criterion(name)({"age": ages[:, None]}, {"age": ages}).item() == 0


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_regression_takes_ages_of_any_kind_and_keeps_the_networks_precision(name, kind):
    output = torch.tensor([[25.0]], requires_grad=True)
    loss = create_criterion(name)({"age": output}, {"age": torch.tensor([20], dtype=kind)})
    assert loss.dtype == torch.float32
    loss.backward()
    assert output.grad.item() > 0


# ------------------------------------------------------------------------------------------------ criterion


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_heads_are_summed(name):
    sizes = {"mask": 3, "ageg": 3, "gender": 2, "main": 18}
    outputs = {head: random_logits(classes)[0] for head, classes in sizes.items()}
    targets = {head: random_logits(classes)[1] for head, classes in sizes.items()}
    targets["age"] = torch.arange(6) * 10.0  # no head answers it: it plays no part
    expected = sum(LOSSES[name](outputs[head], targets[head]).item() for head in sizes)
    got = create_criterion(name)(outputs, targets)
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_name_of_the_command_line_has_a_loss(name):
    head, outputs = ("age", 1) if name in REGRESSION_LOSSES else ("mask", 3)
    output = torch.randn(4, outputs, requires_grad=True)
    loss = create_criterion(name)({head: output}, {head: torch.tensor([0, 1, 2, 1])})
    loss.backward()
    assert loss.item() > 0
    assert output.grad.abs().sum() > 0
