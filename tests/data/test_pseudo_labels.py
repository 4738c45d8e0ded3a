"""Pseudo labels: the rows that a fold trains on, and errors."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from data.faces import MAIN, MASK
from data.pseudo_labels import PseudoLabels

NAME = "kfold-ensemble-VanillaTorchvision"


@pytest.fixture(scope="module")
def predicted(small_data, tiny_training, tmp_path_factory):
    """A prediction of 5 images by a run of two folds."""
    import submit_ensemble
    import train

    place = tmp_path_factory.mktemp("models")
    words = (*tiny_training, "--train-root", small_data.train_root, "--save-path", place, "--cv", 2)
    assert train.main([str(word) for word in words]) == 0
    options = ("--root", place / "main" / NAME, "--top-k", 1, "--data-root", small_data.data_root)
    options = (*options, "--save-path", place / "prediction", "--num-workers", 0, "--device", "cpu")
    assert submit_ensemble.main([str(word) for word in options]) == 0
    return place / "prediction" / "main" / NAME


@pytest.fixture
def copied(predicted, tmp_path):
    """A copy of the prediction, whose members a test may change."""
    return shutil.copytree(predicted, tmp_path / "predicted")


@pytest.fixture
def train(run, small_data, tiny_training, tmp_path):
    def command(prediction, *words):
        options = ("--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--cv", 2)
        return run("train", *tiny_training, *options, "--pseudo-labels", prediction, *words)

    return command


def set_answers(prediction, fold, classes):
    """Let the member of a fold predict these classes with certainty."""
    about = json.loads((prediction / "prediction.json").read_text())
    name = next(member["answers"] for member in about["members"] if member["fold"] == fold)
    rows = pd.read_csv(prediction / "members" / name)
    rows[[f"p{k}" for k in range(18)]] = np.eye(18)[classes]
    rows.to_csv(prediction / "members" / name, index=False)


def counts_of(folder, task="main"):
    """The number of training images of each class, by fold."""
    files = [next((folder / f"fold0{fold}").glob("*.pt")) for fold in (0, 1)]
    return [np.array(torch.load(file, weights_only=True)["info"]["training_counts"][task]) for file in files]


def test_a_fold_trains_on_the_predictions_of_its_own_members(copied, train, run, small_data, tiny_training, tmp_path):
    set_answers(copied, 0, [3, 3, 3, 3, 7])
    set_answers(copied, 1, [17, 17, 17, 17, 17])
    words = ("--train-root", small_data.train_root, "--save-path", tmp_path / "plain", "--cv", 2)
    assert run("train", *tiny_training, *words).code == 0
    outcome = train(copied, "--pseudo-share", 1)
    assert outcome.code == 0, outcome.err
    assert "fold 0: also trains on 5 images with the labels that its members predicted." in outcome.out

    def added(task):
        plain, more = (counts_of(tmp_path / name / "main" / NAME, task) for name in ("plain", "models"))
        return [(after - before).tolist() for before, after in zip(plain, more, strict=True)]

    assert added("main") == [[0, 0, 0, 4, 0, 0, 0, 1, *[0] * 10], [*[0] * 17, 5]]
    assert added("ageg") == [[4, 1, 0], [0, 0, 5]]
    oof = pd.read_csv(tmp_path / "models" / "main" / NAME / "oof.csv")
    assert len(oof) == 84  # none of them is validated on


def test_the_most_confident_of_each_class_are_taken():
    answers = np.full((6, 18), 1e-3)
    for row, (label, sure) in enumerate([(2, 0.9), (2, 0.5), (2, 0.7), (5, 0.3), (5, 0.4), (9, 0.2)]):
        answers[row, label] = sure
    labels = PseudoLabels(None, list("abcdef"), list("ABCDEF"), [answers], [("split", 1)])
    table = labels.fold_table("split", 1, MAIN, share=0.5, ages={0: 25.0, 1: 45.0, 2: 61.0})
    assert table["image"].tolist() == ["a", "c", "e", "f"]
    assert table["label"].tolist() == [2, 2, 5, 9]
    assert table[["mask", "gender", "ageg"]].to_numpy().tolist() == [[0, 0, 2], [0, 0, 2], [0, 1, 2], [1, 1, 0]]
    assert table["age"].tolist() == [61, 61, 61, 25]
    assert table["person"].nunique() == 4


def test_an_attribute_is_labelled_with_the_more_probable_one_of_all_classes():
    answers = np.zeros((1, 18))
    answers[0, [0, 13, 16]] = 0.4, 0.35, 0.25  # a worn mask is the best class, a bare face the best attribute
    labels = PseudoLabels(None, ["a"], ["A"], [answers], [("split", 0)])
    ages = {0: 25.0, 1: 45.0, 2: 61.0}
    assert labels.fold_table("split", 0, MAIN, share=1, ages=ages)["mask"].tolist() == [0]
    assert labels.fold_table("split", 0, MASK, share=1, ages=ages)["mask"].tolist() == [2]


def test_predicted_age_groups_stay_what_they_are_with_an_age_filter(copied, train, tmp_path):
    """In this data set the people of 30 to 59 are 45."""
    set_answers(copied, 0, [1] * 5)
    set_answers(copied, 1, [1] * 5)
    assert train(copied, "--age-filter", 40, "--pseudo-share", 1).code == 0
    assert counts_of(tmp_path / "models" / "main" / NAME)[0][1] == 5  # the age filter moved all others of this group


def test_resume_with_other_predictions(copied, train):
    assert train(copied).code == 0
    assert train(copied, "--resume").code == 0
    set_answers(copied, 1, [16] * 5)
    outcome = train(copied, "--resume")
    assert outcome.code == 2
    assert "was started with other predictions in --pseudo-labels" in outcome.err


def edit(prediction, **changes):
    file = prediction / "prediction.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (None, ("--seed", 7), "has no member of fold 0 of this split"),
        (None, ("--task", "age"), "--pseudo-labels needs classes, and task age has none"),
        (lambda made, data: edit(made, task="gender"), (), "predicts task gender. Pass a prediction of main"),
        (lambda made, data: edit(made, data_root=str(data.folder(0))), (), "which are validated on"),
        (lambda made, data: edit(made, data_root="moved"), (), "are missing: no folder moved. Predict again."),
        (lambda made, data: next((made / "members").iterdir()).unlink(), (), "is incomplete (FileNotFoundError"),
        (lambda made, data: (made / "prediction.json").unlink(), (), "is not a prediction"),
    ],
)
def test_errors(damage, words, message, copied, train, small_data, tmp_path):
    if damage:
        damage(copied, small_data)
    outcome = train(copied, *words)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert message in outcome.err
    assert not (tmp_path / "models").exists()
