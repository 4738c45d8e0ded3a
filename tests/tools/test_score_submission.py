"""score_submission.py: scores worked out by hand, and files that do not fit each other."""

from __future__ import annotations

import re

import pytest

COLUMNS = ["ImageID", "ans"]


@pytest.fixture
def score(run, write_csv, tmp_path):
    """Scores answers against true ones, both {image: answer}; the order of rows differs between the two files."""

    def command(told, true, *words):
        submission = write_csv(tmp_path / "submission.csv", COLUMNS, told.items())
        answers = write_csv(tmp_path / "answers.csv", COLUMNS, list(true.items())[::-1])
        return run("score_submission", "--submission", submission, "--answers", answers, *words)

    return command


def numbered(answers):
    return {f"{k:02d}.jpg": answer for k, answer in enumerate(answers)}


def value(told, name):
    """The number after a name in the line of scores."""
    return float(re.search(rf"(?:^|\s){name}\s+(-?[\d.]+)", told.out, re.IGNORECASE)[1])


def test_classes_by_hand(score):
    # true 0 0 9 17, told 0 1 9 14: class 0 F1 = 2*1 / (1 + 2) = 2/3, class 9 F1 = 1, all other 16 classes 0
    told = score(numbered([0, 1, 9, 14]), numbered([0, 0, 9, 17]))
    assert (told.code, told.err) == (0, "")
    assert value(told, "macro.f1") == pytest.approx((2 / 3 + 1) / 18, abs=1e-4)
    assert value(told, "accuracy") == pytest.approx(2 / 4)
    # 0 worn male <30, 1 worn male 30-59, 9 wrong female <30, 17 bare female >=60, 14 bare male >=60
    assert value(told, "mask accuracy") == 1
    assert value(told, "gender accuracy") == pytest.approx(3 / 4)
    assert value(told, "age group accuracy") == pytest.approx(3 / 4)
    assert "4 images" in told.out


def test_all_right(score):
    told = score(numbered(range(18)), numbered(range(18)))
    assert value(told, "macro.f1") == 1


def test_a_subtask(score):
    # true 0 0 1, told 0 1 1: both classes F1 = 2*1 / (1 + 2) = 2/3
    told = score(numbered([0, 1, 1]), numbered([0, 0, 1]), "--task", "gender")
    assert value(told, "macro.f1") == pytest.approx(2 / 3, abs=1e-4)
    assert "mask" not in told.out


def test_ages(score):
    # errors -2, +4: MAE 3, RMSE sqrt(10); groups told 0 1, true 1 1: F1 0, 2*1 / (1 + 2) = 2/3, 0
    told = score(numbered([28.5, 44]), numbered([30.5, 40]), "--task", "age")
    assert value(told, "mae") == pytest.approx(3)
    assert value(told, "rmse") == pytest.approx(10**0.5, abs=1e-4)
    assert value(told, "macro.f1") == pytest.approx(2 / 9, abs=1e-4)


@pytest.mark.parametrize(
    ("told", "true", "name"),
    [
        (["a", "b"], ["a", "b", "c"], "c"),
        (["a", "b", "d"], ["a", "b"], "d"),
        (["a", "x"], ["a", "b"], "b, x"),
    ],
)
def test_other_images_are_refused(score, told, true, name):
    refused = score(dict.fromkeys(told, 0), dict.fromkeys(true, 0))
    assert refused.code == 2
    assert refused.err.endswith(f"do not list the same images: {name}.\n")
    assert refused.err.count("\n") == 1
    assert refused.out == ""


@pytest.mark.parametrize("bad", [18, -1, 3.5, "nan"])
def test_an_answer_that_is_no_class_is_refused(score, bad):
    refused = score(numbered([0, bad]), numbered([0, 1]))
    assert refused.code == 2
    assert refused.err.startswith("python -m tools score_submission: ")
    assert refused.err.count("\n") == 1


def test_an_answer_that_is_no_class_of_the_task_is_refused(score):
    assert score(numbered([0, 2]), numbered([0, 1]), "--task", "gender").code == 2


def test_files_without_rows_are_refused(score):
    assert score({}, {}).code == 2


def test_a_file_that_is_not_there_is_refused(run, write_csv, tmp_path):
    path = write_csv(tmp_path / "a.csv", COLUMNS, [["a", 0]])
    refused = run("score_submission", "--submission", tmp_path / "none.csv", "--answers", path)
    assert refused.code == 2
    assert re.fullmatch(r"python -m tools score_submission: There is no file .*none\.csv\.\n", refused.err)
    refused = run("score_submission", "--submission", path, "--answers", tmp_path / "none.csv")
    assert refused.code == 2
