"""score_submission: scores worked out by hand. tests/commands has the files that do not fit each other."""

import re

import pytest

COLUMNS = ["ImageID", "ans"]


@pytest.fixture
def score(run, write_csv, tmp_path):
    """Score predicted answers against true ones, both {image: answer}; the two files differ in the order of rows."""

    def command(predicted, true, *words):
        submission = write_csv(tmp_path / "submission.csv", COLUMNS, predicted.items())
        answers = write_csv(tmp_path / "answers.csv", COLUMNS, list(true.items())[::-1])
        return run("score_submission", "--submission", submission, "--answers", answers, *words)

    return command


def numbered(answers):
    return {f"{k:02d}.jpg": answer for k, answer in enumerate(answers)}


def value(outcome, name):
    """Return the number after a name in the line of scores."""
    return float(re.search(rf"(?:^|\s){name}\s+(-?[\d.]+)", outcome.out, re.IGNORECASE)[1])


def test_classes_by_hand(score):
    # true 0 0 9 17, predicted 0 1 9 14: F1 of class 0 is 2*1 / (1 + 2) = 2/3, of 9 it is 1, of 1, 14 and 17 it is 0
    outcome = score(numbered([0, 1, 9, 14]), numbered([0, 0, 9, 17]))
    assert (outcome.code, outcome.err) == (0, "")
    assert value(outcome, "macro.f1") == pytest.approx((2 / 3 + 1) / 5, abs=1e-4)
    assert value(outcome, "accuracy") == pytest.approx(2 / 4)
    # 0 worn male <30, 1 worn male 30-59, 9 wrong female <30, 17 bare female >=60, 14 bare male >=60
    assert value(outcome, "mask accuracy") == 1
    assert value(outcome, "gender accuracy") == pytest.approx(3 / 4)
    assert value(outcome, "age group accuracy") == pytest.approx(3 / 4)
    assert "4 images" in outcome.out
    assert "mean over 5 of 18 classes" in outcome.out
    predicted_all_the_same = outcome.out.rpartition("counted 0: ")[2]
    assert predicted_all_the_same == "worn male 30-59, bare male >=60.\n"


def test_a_subtask(score):
    # true 0 0 1, predicted 0 1 1: both classes F1 = 2*1 / (1 + 2) = 2/3
    outcome = score(numbered([0, 1, 1]), numbered([0, 0, 1]), "--task", "gender")
    assert value(outcome, "macro.f1") == pytest.approx(2 / 3, abs=1e-4)
    assert "mask" not in outcome.out
    assert "classes" not in outcome.out  # all have images


def test_ages(score):
    # errors -2, +4: MAE 3, RMSE sqrt(10); groups predicted 0 1, true 1 1: F1 0 and 2*1 / (1 + 2) = 2/3
    outcome = score(numbered([28.5, 44]), numbered([30.5, 40]), "--task", "age")
    assert value(outcome, "mae") == pytest.approx(3)
    assert value(outcome, "rmse") == pytest.approx(10**0.5, abs=1e-4)
    assert value(outcome, "macro.f1") == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize(("bad", "task"), [(18, "main"), (-1, "main"), (3.5, "main"), (2, "gender")])
def test_an_answer_that_is_not_a_class_of_the_task_is_an_error(score, bad, task):
    score(numbered([0, bad]), numbered([0, 1]), "--task", task).assert_error("python -m tools score_submission: ")


def test_the_nearest_task_is_suggested(score):
    score(numbered([0]), numbered([0]), "--task", "gendre").assert_error("Got 'gendre'. Did you mean 'gender'?")
