"""Losses against numbers worked out in NumPy, one sample at a time."""

import math

import numpy as np
import pytest
import torch

from loss import CLASSIFICATION_LOSSES, LOSSES, REGRESSION_LOSSES, create_criterion


def random_logits(classes: int, samples: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) and targets (B,), every class a target where there are enough samples."""
    return torch.randn(samples, classes) * 3, torch.arange(samples) % classes


# ------------------------------------------------------------------------------------------------ classification


def smoothed(log_p: np.ndarray, label: int) -> float:
    """Cross entropy with 0.8 for the target, and the rest spread over the other classes."""
    return -0.8 * log_p[label] - 0.2 * np.delete(log_p, label).mean()


FORMULAS = {
    "labelsmoothingloss": smoothed,
    "focalloss": lambda log_p, label: -((1 - math.exp(log_p[label])) ** 5) * log_p[label],
    "crossentropyloss": lambda log_p, label: -log_p[label],
}


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("classes", [2, 3, 18])
def test_a_loss_is_the_mean_of_its_formula(name, classes):
    logits, target = random_logits(classes, samples=8)
    rows = logits.double().numpy()
    log_p = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    expected = np.mean([FORMULAS[name](row, label) for row, label in zip(log_p, target.tolist(), strict=True)])
    assert LOSSES[name](logits, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_the_loss_of_shares_is_the_mean_over_the_classes(name):
    logits = random_logits(4)[0]
    one, other = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    shares = torch.tensor([0.25, 0.75, 0, 0]).expand(6, 4)
    expected = 0.25 * LOSSES[name](logits, one) + 0.75 * LOSSES[name](logits, other)
    assert LOSSES[name](logits, shares).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_logit_adjustment_adds_the_log_of_the_frequency_of_a_class(strength):
    logits, target = random_logits(3)
    counts = {"mask": torch.tensor([70, 20, 10]), "gender": torch.tensor([1, 1])}
    criterion = create_criterion("crossentropyloss", logit_adjustment=strength, counts=counts)
    moved = logits + strength * torch.tensor([0.7, 0.2, 0.1]).log()
    expected = torch.nn.functional.cross_entropy(moved, target)
    assert criterion({"mask": logits}, {"mask": target}).item() == pytest.approx(expected.item(), rel=1e-6)
    plain = create_criterion("crossentropyloss")
    two = {"gender": logits[:, :2]}, {"gender": target % 2}
    assert criterion(*two).item() == pytest.approx(plain(*two).item(), rel=1e-6)  # equally frequent classes


def test_an_absent_class_is_adjusted_as_one_image():
    logits, target = random_logits(3)
    counts = [{"mask": torch.tensor([70, 20, count])} for count in (0, 1)]
    absent, one = (create_criterion("crossentropyloss", logit_adjustment=1.0, counts=each) for each in counts)
    assert absent({"mask": logits}, {"mask": target}) == one({"mask": logits}, {"mask": target})


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("target", [0, 1])
def test_extreme_logits_have_finite_losses_and_gradients(name, target):
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    loss = create_criterion(name)({"gender": logits}, {"gender": torch.tensor([target])})
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# ------------------------------------------------------------------------------------------------ regression


@pytest.mark.parametrize(
    ("name", "years", "expected"),
    [
        ("mseloss", [22.0, 57.0, 30.0], (4 + 9 + 0) / 3),  # errors of 2, -3 and 0 years
        ("smoothl1loss", [23.0, 59.5, 31.0], (2.5 + 0.125 + 0.5) / 3),  # 3 - 1/2, 0.5^2 / 2 and 1 - 1/2 years
    ],
)
def test_regression_is_in_years(name, years, expected):
    """Outputs (B, 1) and ages (B,) are not broadcast to (B, B)."""
    output, target = torch.tensor(years)[:, None], torch.tensor([20, 60, 30])
    assert create_criterion(name)({"age": output}, {"age": target}).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_regression_takes_ages_of_any_type_in_the_precision_of_the_network(name, kind):
    output = torch.tensor([[25.0]], requires_grad=True)
    loss = create_criterion(name)({"age": output}, {"age": torch.tensor([20], dtype=kind)})
    assert loss.dtype == torch.float32
    loss.backward()
    assert output.grad.item() > 0


# ------------------------------------------------------------------------------------------------ heads


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_heads_are_summed(name):
    sizes = {"mask": 3, "ageg": 3, "gender": 2, "main": 18}
    outputs = {head: random_logits(classes)[0].requires_grad_() for head, classes in sizes.items()}
    targets = {head: random_logits(classes)[1] for head, classes in sizes.items()}
    targets["age"] = torch.arange(6) * 10.0  # of no head
    expected = sum(LOSSES[name](outputs[head], targets[head]).item() for head in sizes)
    got = create_criterion(name)(outputs, targets)
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, rel=1e-6)
    got.backward()
    assert all(output.grad.abs().sum() > 0 for output in outputs.values())
