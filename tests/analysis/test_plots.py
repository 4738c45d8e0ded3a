"""Test that the texts of figures can be read: inside the figure, apart, and distinct."""

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis import plots
from analysis.error_analysis import Predictions
from analysis.intervals import Estimate
from data.faces import MAIN
from data.tasks import Task

LESIONS = ("actinic keratosis", "basal cell carcinoma", "dermatofibroma", "pigmented benign keratosis")
PRICES = ("<1.41e+05", "1.41e+05 to 1.74e+05", "1.74e+05 to 2.04e+05", "2.04e+05 to 2.63e+05", ">=2.63e+05")
LONG = ("benign melanocytic nevus (compound), type 1", "malignant melanoma of the skin, in stage II")


def predict(classes):
    """Return 200 right predictions of each class and 20 of each other one."""
    pairs = np.argwhere(np.ones([len(classes)] * 2)).repeat(20, axis=0)
    right = np.arange(len(classes)).repeat(180)
    labels, predicted = np.concatenate([pairs, np.stack([right, right], axis=1)]).T
    return Predictions(Task("x", "x", tuple(classes)), labels, predicted)


@pytest.mark.parametrize(
    "labels",
    [
        [("yes", "no")],
        [LESIONS],
        [PRICES],
        [LONG],
        [[f"class {k} of an unusually long name" for k in range(30)]],
        [("worn", "incorrect", "not worn"), ("male", "female"), ("<30", "30-59", ">=60")],
        [("Mélanome malin, d'un nom bien long", "Nävus"), ("01", "02")],
        [LONG, LESIONS, PRICES],
        [("$100 to $200", "a formula: $\\x$")],
        [[f"{'a' * 30}{k}{'b' * 30}" for k in range(3)]],
    ],
)
def test_confusion_matrices_are_readable(labels):
    figure = plots.confusions({f"title {k}": predict(classes) for k, classes in enumerate(labels)})
    plots.png(figure)
    for axes, classes in zip(figure.axes, labels, strict=True):
        ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        assert len({text.get_text() for text in axes.get_xticklabels()}) == len(classes)
        first = axes.texts[: 2 * len(classes)]  # two rows of the matrix
        boxes = [text.get_window_extent() for text in (*first, *ticks)]
        assert all(figure.bbox.containsx(x) and figure.bbox.containsy(y) for box in boxes for x, y in box.corners())
        assert not any(box.overlaps(other) for box, other in itertools.combinations(boxes, 2))


def test_ticks_are_whole_epochs():
    log = pd.DataFrame({"fold": [0], "epoch": [1], "train_loss": [0.5], "valid_loss": [0.6], "macro_f1": [0.4]})
    for axes in plots.curves(MAIN, log, 1).axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_intervals_of_long_names_are_readable():
    names = [f"{k} {'very ' * 30}long" for k in range(2)]
    figure = plots.intervals({"": dict.fromkeys(names, Estimate(0.5, 0.4, 0.6))}, "F1")
    plots.png(figure)
    assert all(figure.bbox.containsx(text.get_window_extent().x0) for text in figure.axes[0].get_yticklabels())
