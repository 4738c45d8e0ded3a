"""score_submission: scores worked out by hand. tests/commands has the files that do not fit each other."""

import math
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
    outcome = score(numbered([0, 1, 9, 14]), numbered([0, 0, 9, 17]), "--task", "main")
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


def test_files_alone_have_the_classes_that_they_name(score):
    # true a a b, predicted a b b: both classes F1 = 2*1 / (1 + 2) = 2/3
    outcome = score(numbered(["a", "b", "b"]), numbered(["a", "a", "b"]))
    assert value(outcome, "macro.f1") == pytest.approx(2 / 3, abs=1e-4)
    assert value(outcome, "balanced accuracy") == pytest.approx(3 / 4)
    assert "log loss" not in outcome.out  # answers without probabilities


def test_files_alone_with_numbers(score):
    """Whole numbers are classes in their order, others are numbers."""
    outcome = score(numbered([0, 10, 2, 2]), numbered([0, 10, 2, 10]))
    assert value(outcome, "accuracy") == pytest.approx(3 / 4)
    # classes 0, 2, 10 are 0, 1, 2: one image is off by 1; by chance the squares are 0.5 * 0.25 * 4 + ... = 1.25
    assert value(outcome, "quadratic weighted kappa") == pytest.approx(1 - 0.25 / 1.25, abs=1e-4)
    assert "mask" not in outcome.out
    outcome = score(numbered([0.5, 10, 2]), numbered([1.5, 10, 2]))
    assert value(outcome, "MAE") == pytest.approx(1 / 3, abs=1e-4)
    score(numbered(["a", 1]), numbered(["a", 2])).assert_error("Answers are empty, or names and numbers: 1, 2, a")


def test_scores_of_probabilities_need_them(score):
    outcome = score(numbered(["a", "b"]), numbered(["a", "b"]), "--metric", "auc")
    outcome.assert_error("--metric auc needs probabilities. Predict with --proba")


@pytest.fixture
def score_probabilities(run, write_csv, tmp_path):
    """Score rows of probabilities of some classes against the answers a, b, a."""

    def command(classes, rows, *words):
        rows = [[f"{k:02d}.jpg", *row] for k, row in enumerate(rows)]
        submission = write_csv(tmp_path / "submission.csv", ["ImageID", *classes], rows)
        answers = write_csv(tmp_path / "answers.csv", COLUMNS, numbered(["a", "b", "a"]).items())
        return run("score_submission", "--submission", submission, "--answers", answers, *words)

    return command


def test_probabilities_by_hand(score_probabilities):
    outcome = score_probabilities(["a", "b"], [(0.5, 0.5), (0.25, 0.75), (0.125, 0.875)])
    assert value(outcome, "accuracy") == pytest.approx(2 / 3, abs=1e-4)
    assert value(outcome, "log loss") == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(8)) / 3, abs=1e-4)
    assert value(outcome, "AUC") == pytest.approx(1 / 2)  # b ranks above one of two images of a


def test_a_function_of_the_user_gets_the_probabilities(score_probabilities, tmp_path):
    (tmp_path / "own.py").write_text("def share_of_b(labels, probabilities):\n    return probabilities[:, 1].mean()\n")
    rows = [(0.5, 0.5), (0.25, 0.75), (0.75, 0.25)]
    outcome = score_probabilities(["a", "b"], rows, "--metric", f"{tmp_path / 'own.py'}:share_of_b")
    assert value(outcome, "share_of_b") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("classes", "rows", "message"),
    [
        (["a", "b"], [(1, 0), (0, 1), (2, 2)], "do not sum to 1, as 4"),
        (["a", "b"], [(1, 0), (0, 1), (2, -1)], "has probabilities that are negative or do not sum to 1, as -1"),
        (["a", "b"], [(1, 0), (0, 1), (2, "")], "holds an answer that is not a number"),
        (["a", "b"], [(1, 0), (0, 1)], "do not list the same images: 02.jpg"),
        (["a", "c"], [(1, 0), (0, 1), (1, 0)], "has the columns a, c. Task class needs ans, or a, b, c"),
        ([], [(), (), ()], "has no column ans"),
    ],
)
def test_wrong_probabilities(score_probabilities, classes, rows, message):
    score_probabilities(classes, rows).assert_error(message)


def test_groups_of_the_answers_give_intervals(run, write_csv, tmp_path):
    rows = [(f"{k:02d}.jpg", "ab"[k % 3 == 0], f"P{k // 2}") for k in range(40)]
    answers = write_csv(tmp_path / "answers.csv", [*COLUMNS, "patient"], rows)
    wrong = [(name, "a" if k in (3, 6, 21) else answer) for k, (name, answer, _) in enumerate(rows)]
    words = ("--submission", write_csv(tmp_path / "submission.csv", COLUMNS, wrong), "--answers", answers)
    outcome = run("score_submission", *words, "--group", "patient").assert_success()
    low, high = map(float, re.search(r"accuracy 0.9250 \((\d\.\d+) to (\d\.\d+)\)", outcome.out).groups())
    assert 0.8 < low < 0.9250 < high <= 1
    assert "95 % intervals over groups" in outcome.out
    run("score_submission", *words, "--group", "site").assert_error("answers.csv has no column site. Pass --group")


def test_whole_numbers_with_a_decimal_are_the_same_classes(score):
    outcome = score(numbered(["0", "1", "2"]), numbered(["0.0", "1.0", "1.0"]))
    assert value(outcome, "accuracy") == pytest.approx(2 / 3, abs=1e-4)


def test_answers_may_have_semicolons_but_all_need_a_group(run, tmp_path):
    (tmp_path / "answers.csv").write_text("ImageID;ans;site\na.jpg;x;1\nb.jpg;y;\n")
    (tmp_path / "submission.csv").write_text("ImageID,ans\na.jpg,x\nb.jpg,y\n")
    words = ("--submission", tmp_path / "submission.csv", "--answers", tmp_path / "answers.csv")
    assert value(run("score_submission", *words).assert_success(), "accuracy") == 1
    run("score_submission", *words, "--group", "site").assert_error("answers.csv has no site for b.jpg. Fill in")
    run("score_submission", *words[:2], "--answers", tmp_path / "lost.csv").assert_error("lost.csv. Pass --answers.")
