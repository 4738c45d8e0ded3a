"""check_data: what it prints about a folder, and that it lists everything wrong at once."""

import re
import subprocess
import sys
from pathlib import Path

import config
from data.faces import MAIN_CLASSES


def counts(out):
    """Return {name: count} of the indented lines of the report."""
    lines = (re.fullmatch(r"  (?:\s*\d+  )?(\S.*?)\s+(\d+)(?:\s+0\.\d+|\s+1\.\d+)?", line) for line in out.splitlines())
    return {match[1]: int(match[2]) for match in lines if match}


def test_a_clean_set_is_not_written_to(run, small_data):
    before = {path: path.stat().st_mtime_ns for path in small_data.root.rglob("*")}
    outcome = run("check_data", "--train-root", small_data.train_root)
    assert (outcome.code, outcome.err) == (0, "")
    assert "12 people, 84 images" in outcome.out
    assert outcome.out.splitlines()[-1] == "No errors, 1 warning. Ready to train."
    assert {path: path.stat().st_mtime_ns for path in small_data.root.rglob("*")} == before


def test_counts_of_classes_and_strata(run, make_data, make_person):
    people = [make_person(f"{k}", "female", 60) for k in range(3)] + [make_person("9", "male", 20)]
    data = make_data(people=people)
    outcome = run("check_data", "--train-root", data.train_root, "--cv", 2)
    got = counts(outcome.assert_success().out)
    assert [got[name] for name in ("worn female >=60", "wrong female >=60", "bare female >=60")] == [15, 3, 3]
    assert [got[name] for name in ("worn male <30", "wrong male <30", "bare male <30")] == [5, 1, 1]
    assert sum(got[name] for name in MAIN_CLASSES) == 28
    assert (got["female >=60"], got["male <30"]) == (3, 1)
    assert re.search(r"female >=60\s+3\s+0\.750", outcome.out)


def test_scarce_strata_missing_shots_and_copies_are_notes(run, make_data):
    data = make_data(people=6)
    data.photo(0, "mask2").unlink()
    data.photo(1, "mask2").write_bytes(data.photo(1, "mask1").read_bytes())
    for shot in ("mask3", "normal"):
        data.photo(3, shot).write_bytes(data.photo(2, shot).read_bytes())
    outcome = run("check_data", "--train-root", data.train_root, "--cv", 3)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("files are identical") == 2
    copies = r"4 files identical to a file with another label: \S+ \((worn|bare) male >=60\), \S+ \(\1 female <30\),"
    assert re.search(copies, outcome.out), outcome.out
    assert "2 groups of such files are of 000003 and 000004." in outcome.out
    assert re.search(r"missing shots: 000001 \(mask2\)", outcome.out)
    assert re.search(r"2 files are identical: .*mask1\.jpg, .*mask2\.jpg", outcome.out)
    assert re.search(r"Strata with fewer people than the 3 parts", outcome.out)


def test_corrections_are_applied_and_reported(run, make_data, write_csv, tmp_path):
    data = make_data(people=6)  # one in each stratum
    path = write_csv(tmp_path / "fix.csv", ["id", "gender"], [["000001", "female"]])
    outcome = run("check_data", "--train-root", data.train_root, "--corrections", path, "--cv", 2).assert_success()
    assert "changed the labels of 7 images" in outcome.out
    assert counts(outcome.out)["female <30"] == 2


def test_a_broken_set_lists_all_problems_at_once(run, make_data, write_csv, tmp_path):
    data = make_data(people=4)
    data.folder(0).rename(data.train_root / "someone")
    data.photo(1, "mask1").rename(data.folder(1) / "mask7.jpg")
    for number in (2, 3):
        whole = data.photo(number).read_bytes()
        data.photo(number).write_bytes(whole[: len(whole) // 2])
    path = write_csv(tmp_path / "fix.csv", ["id", "gender"], [["999999", "female"]])
    outcome = run("check_data", "--train-root", data.train_root, "--corrections", path, "--cv", 5)
    problems = outcome.err.splitlines()
    assert outcome.code == 2
    patterns = (
        r"1 folder whose name is not <id>_<gender>_<race>_<age>.*: someone\.",
        r"1 image whose name is none of the shots .*mask7\.jpg\.",
        r"999999",
        rf"{re.escape(str(data.photo(2)))} cannot be read as an image",
        rf"{re.escape(str(data.photo(3)))} cannot be read as an image",
        r"3 people cannot be split into 5 folds",
    )
    assert len(problems) == len(patterns)
    for pattern in patterns:
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, pattern
    assert "3 people, 20 images" in outcome.out and "Ready to train" not in outcome.out


def test_a_set_without_people(run, tmp_path):
    run("check_data", "--train-root", tmp_path).assert_error("holds no images")


def test_a_closed_pipe_prints_no_traceback(small_data):
    words = [sys.executable, "-m", "tools", "check_data", "--train-root", small_data.train_root]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=Path(config.__file__).parent, **pipes) as child:
        child.stdout.close()
        error = child.stderr.read().decode()
    assert child.returncode == 1
    assert error == "python -m tools check_data: nobody reads the output.\n"
