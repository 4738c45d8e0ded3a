"""Test the scores against numbers computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from analysis.metrics import absent_classes, rank_scores, score, score_one, score_resamples, try_metric
from data.faces import AGE, FACES, GENDER, MAIN, MASK
from data.tasks import CLASS_METRICS, NUMBER_METRICS, Task
from utils import UserError


@pytest.mark.parametrize(
    ("task", "true", "predicted", "macro_f1", "accuracy"),
    [
        # class 0: one correct of 2 predicted and 2 true   F1 = 2*1 / (2 + 2) = 1/2
        # class 1: two correct of 3 predicted and 2 true  F1 = 2*2 / (3 + 2) = 4/5
        # class 2: one correct of 1 predicted and 2 true   F1 = 2*1 / (1 + 2) = 2/3
        ("mask", [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0], (1 / 2 + 4 / 5 + 2 / 3) / 3, 4 / 6),
        ("mask", [0, 1, 1], [0, 1, 1], 1, 1),  # class 2 is neither true nor predicted: it is left out
        ("gender", [0, 0], [0, 1], 1 / 3, 1 / 2),  # class 0 has F1 2*1 / (1 + 2) = 2/3, class 1 is only predicted: 0
        ("main", [4], [4], 1, 1),
        ("main", range(18), range(18), 1, 1),
    ],
)
def test_macro_f1_by_hand(task, true, predicted, macro_f1, accuracy):
    got = score(FACES[task], np.eye(FACES[task].outputs)[predicted], np.array(true))
    assert (got["macro_f1"], got["accuracy"]) == pytest.approx((macro_f1, accuracy))
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("classes", [range(18), range(3, 18), [7], [0, 1, 8]])
def test_macro_f1_is_that_of_scikit_learn_whatever_classes_are_absent(classes):
    random = np.random.default_rng(0)
    for predicted_classes in (classes, range(18), [7, 8]):
        true, predicted = (random.choice(list(names), 40) for names in (classes, predicted_classes))
        got = score(MAIN, np.eye(18)[predicted], true)["macro_f1"]
        assert got == pytest.approx(sk.f1_score(true, predicted, average="macro"))
        absent, zero = absent_classes(MAIN, true, np.eye(18)[predicted])
        known = sk.f1_score(true, predicted, average=None, labels=range(18), zero_division=np.nan)
        assert len(absent) == 18 - len(set(true))
        assert len(zero) == np.isfinite(known).sum() - len(set(true))


def test_ages_by_hand():
    # errors -2, +1, 0, -3 years: MAE = 6/4, RMSE = sqrt(14/4)
    predicted, true = np.array([[28.0], [31.0], [60.0], [57.0]], np.float32), np.array([30, 30, 60, 60])
    # groups predicted 0 1 2 1, true 1 1 2 2: F1 of 0 is 0, of 1 2*1/(2+2) = 1/2, of 2 2*1/(1+2) = 2/3
    # squared distances of the labels from their mean 45: R2 = 1 - 14 / (4 * 15^2)
    wanted = {"macro_f1": (0 + 1 / 2 + 2 / 3) / 3, "accuracy": 2 / 4, "mae": 1.5, "rmse": math.sqrt(3.5)}
    wanted["r2"] = 1 - 14 / 900
    got = score(AGE, predicted, true)
    assert got == pytest.approx(wanted)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_of_predictions_that_are_not_finite_are_nan(bad):
    classes = score(MASK, np.array([[0.1, bad, 0.2], [1, 0, 0]]), np.array([0, 0]))
    ages = score(AGE, np.array([[bad], [20.0]]), np.array([20, 20]))
    assert (set(classes), set(ages)) == (set(MASK.scores), set(AGE.scores))
    assert all(math.isnan(value) for value in [*classes.values(), *ages.values()])


def draw_answers(classes, rows=80, *, digits=9, absent=()):
    """Return random probabilities `(N, C)`, rounded so that few digits make ties, and labels `(N,)`."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(classes, 0.5), rows).round(digits) + 1e-9
    labels = random.choice(np.setdiff1d(range(classes), absent), rows)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def task_of(classes):
    return Task("t", "t", tuple(map(str, range(classes))))


def scikit_learn_scores(probabilities, labels):
    """Return the scores of classes that scikit-learn computes; AUC needs images of all classes."""
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    values = probabilities[:, 1] if classes == 2 else probabilities
    found = {
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "accuracy": sk.accuracy_score(labels, predicted),
        "qwk": sk.cohen_kappa_score(labels, predicted, weights="quadratic", labels=range(classes)),
        "log_loss": sk.log_loss(labels, probabilities, labels=range(classes)),
    }
    if len(set(labels)) == classes:
        found["balanced_accuracy"] = sk.balanced_accuracy_score(labels, predicted)
        found["auc"] = sk.roc_auc_score(labels, values, multi_class="ovr")
        found["average_precision"] = sk.average_precision_score(labels, values)
    return found


@pytest.mark.parametrize("digits", [9, 1], ids=["", "ties"])
@pytest.mark.parametrize(("classes", "absent"), [(2, ()), (3, ()), (7, ()), (3, (1,)), (7, (0, 6))])
def test_scores_of_classes_are_those_of_scikit_learn(classes, absent, digits):
    probabilities, labels = draw_answers(classes, digits=digits, absent=absent)
    got, wanted = score(task_of(classes), probabilities, labels), scikit_learn_scores(probabilities, labels)
    assert {name: got[name] for name in wanted} == pytest.approx(wanted)
    assert set(got) == set(CLASS_METRICS)
    for name in got:
        assert score_one(task_of(classes), name, probabilities, labels) == pytest.approx(got[name])


def test_scores_leave_out_classes_without_images():
    probabilities, labels = draw_answers(5, absent=(1, 4))
    got, there = score(task_of(5), probabilities, labels), [0, 2, 3]
    recalls = [np.mean(probabilities[labels == k].argmax(axis=1) == k) for k in there]
    assert got["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    for name, function in (("auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        assert got[name] == pytest.approx(np.mean([function(labels == k, probabilities[:, k]) for k in there]))


@pytest.mark.parametrize("task", [AGE, Task("price", "price", (), regression=True)], ids=["ranges", "numbers"])
def test_scores_of_numbers_are_those_of_scikit_learn(task):
    random = np.random.default_rng(0)
    true = random.uniform(0, 90, 50).astype(np.float32)
    predicted = true + random.normal(0, 9, 50).astype(np.float32)
    got = score(task, predicted[:, None], true)
    wanted = {"rmse": sk.mean_squared_error(true, predicted) ** 0.5, "mae": sk.mean_absolute_error(true, predicted)}
    wanted["r2"] = sk.r2_score(true, predicted)
    assert {name: got[name] for name in NUMBER_METRICS} == pytest.approx(wanted, rel=1e-5)
    assert set(got) - set(NUMBER_METRICS) == ({"macro_f1", "accuracy"} if task.classes else set())


def test_scores_that_are_undefined_are_nan():
    one = score(GENDER, np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 0]))
    assert [name for name, value in one.items() if math.isnan(value)] == ["qwk", "auc", "average_precision"]
    assert math.isnan(score(AGE, np.array([[20.0], [30.0]]), np.array([40, 40]))["r2"])


@pytest.mark.parametrize("classes", [2, 3])
def test_weights_are_copies_of_images(classes, monkeypatch):
    monkeypatch.setattr("analysis.metrics.BLOCK", 100)
    probabilities, labels = draw_answers(classes, 40, digits=1)
    weights = np.random.default_rng(1).integers(0, 3, (4, 40))
    ranks = rank_scores(labels == 1, probabilities[:, 1], weights.astype(float))
    for number, copies in enumerate(weights):
        rows = np.repeat(np.arange(40), copies)
        wanted = scikit_learn_scores(probabilities[rows], labels[rows])
        for name in ("auc", "average_precision"):
            found = score_resamples(task_of(classes), name, probabilities, labels, weights.astype(float))
            assert found[number] == pytest.approx(wanted[name])
        true, values = labels[rows] == 1, probabilities[rows, 1]
        wanted = {"auc": sk.roc_auc_score(true, values), "average_precision": sk.average_precision_score(true, values)}
        assert {name: each[number] for name, each in ranks.items()} == pytest.approx(wanted)


# ------------------------------------------------------------------------------------------------ functions of users

FUNCTIONS = """
import numpy as np

def kept(labels, predictions):
    return np.mean(labels == predictions.argmax(axis=1))

def negated(labels, predictions):
    assert predictions.shape == labels.shape
    return -abs(labels - predictions).mean()

def needs_all(labels, predictions):
    return kept(labels, predictions) if len(set(labels)) == predictions.shape[1] else 1 / 0

def fails(labels, predictions):
    raise KeyError("of the user")

def words(labels, predictions):
    return "good"

def undefined(labels, predictions):
    return float("nan")

accuracy = seconds = f1 = male = kept
number = 3
"""


@pytest.fixture
def metric(tmp_path):
    """Return a function that returns a task with a metric of FUNCTIONS, or of another file."""
    (tmp_path / "own.py").write_text(FUNCTIONS)
    (tmp_path / "own.txt").write_text(FUNCTIONS)
    (tmp_path / "broken.py").write_text("import no_such_module")
    return lambda task, name, file="own.py": replace(task, metric=f"{tmp_path / file}:{name}")


def test_a_function_of_the_user_is_a_score_that_is_better_if_higher(metric):
    probabilities, labels = draw_answers(3)
    task = metric(MASK, "kept")
    try_metric(task, labels)
    assert (task.monitor, task.higher_is_better) == ("kept", True)
    assert task.shown == ("kept", "macro_f1", "accuracy")
    got = score(task, probabilities, labels)
    assert list(got) == [*CLASS_METRICS, "kept"]
    assert got["kept"] == got["accuracy"] == score_one(task, "kept", probabilities, labels)
    ages = metric(AGE, "negated")
    try_metric(ages, np.array([30, 45]))
    got = score(ages, np.array([[20.0], [40.0]]), np.array([30, 45]))
    assert got["negated"] == -got["mae"] == -7.5


def test_a_function_that_fails_without_a_class_leaves_out_resamples_without_it(metric):
    probabilities, labels = draw_answers(3, 12)
    task, weights = metric(MASK, "needs_all"), np.array([np.ones(12), labels != 1])
    found = score_resamples(task, "needs_all", probabilities, labels, weights)
    assert np.isfinite(found).tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("kept", "lost.py", r"There is no file .*lost\.py\. Pass --metric FILE\.py:FUNCTION"),
        ("kept", "own.txt", r"--metric must be the name of a score, or FILE\.py:FUNCTION\. Got '.*own\.txt:kept'"),
        ("kept", "broken.py", r"broken\.py cannot be imported \(ModuleNotFoundError: No module.*\)\. Correct it"),
        ("lost", "own.py", r"own\.py has no function lost\."),
        ("number", "own.py", r"own\.py has no function number\."),
        ("two words", "own.py", r"--metric must be the name of a score, or FILE\.py:FUNCTION"),
        ("accuracy", "own.py", r":accuracy: the toolkit has a score or a column of this name\. Rename the function\."),
        ("seconds", "own.py", r":seconds: the toolkit has a score or a column"),
        ("f1", "own.py", r":f1: the toolkit has a score or a column"),
        ("male", "own.py", r":male has the name of a class\. Rename the function\."),
        ("fails", "own.py", r"fails of .*own\.py failed \(KeyError: 'of the user'\)\. Correct it\."),
        ("undefined", "own.py", r"own\.py:undefined is nan for random predictions of 3 validation images\."),
        ("words", "own.py", r"words of .*own\.py failed \(ValueError: could not convert string.*\)\. Correct it\."),
    ],
)
def test_a_metric_that_cannot_be_used_is_an_error_of_one_sentence(name, file, message, metric):
    with pytest.raises(UserError, match=message) as error:
        try_metric(metric(GENDER, name, file), np.array([0, 1, 1]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "task", "labels"), [("auc", GENDER, [1, 1]), ("r2", AGE, [30, 30])])
def test_a_score_that_the_labels_of_a_fold_leave_undefined_is_an_error(name, task, labels):
    with pytest.raises(UserError, match=rf"--metric {name} is nan for random predictions of 2 validation images"):
        try_metric(replace(task, metric=name), np.array(labels))
    try_metric(replace(task, metric=name), np.array([0, 1]))
