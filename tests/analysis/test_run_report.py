"""Test the contents of the reports of runs and comparisons, also with missing files."""

import base64
import io
import json
import re
import shutil
from functools import cache

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from samples import encode_class
from sklearn.metrics import precision_recall_fscore_support

from analysis import run_report
from analysis.error_analysis import split_predictions
from analysis.html import Figures
from analysis.run_report import draw_costs
from data.faces import MAIN
from training import session
from utils import UserError


@pytest.fixture(scope="module")
def trained(train_run):
    """Return a function that trains a run with its report on first use: trained(task) is its folder."""
    epochs = {"main": 2}
    return cache(lambda task: train_run("--cv", 2, "--task", task, "--epochs", epochs.get(task, 1), "--report"))


@pytest.fixture
def copy(trained, tmp_path):
    """Return a copy of the run of task main that a test may change."""
    return shutil.copytree(trained("main"), tmp_path / "models" / "main" / trained("main").name)


def text_of(page):
    return re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL))


def pictures_of(page):
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


@pytest.mark.parametrize("task", ["main", "gender", "age"])
def test_training_writes_a_self_contained_page(task, trained):
    page = trained(task) / "report.html"
    html = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:image/|#)", html)  # opened from the file system, without a network
    assert "<script" not in html
    assert html.count("<img") == len(pictures_of(page)) > 5
    for picture in pictures_of(page):
        picture.load()
    assert {path.suffix for path in (trained(task) / "report").iterdir()} == {".png"}
    for place in re.findall(r'href="#(\w+)"', html):
        assert f'<h2 id="{place}">' in html


def test_the_page_shows_the_results_of_the_run(trained):
    run = trained("main")
    summary, text = json.loads((run / "summary.json").read_text()), text_of(run / "report.html")
    for what in ("best_epochs", "last_epochs", "corrected"):
        found = summary["estimates"][what]["macro_f1"]
        assert f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})" in text
    oof = pd.read_csv(run / "oof.csv", dtype={"person": str})
    classes = re.search(r'<h2 id="classes">.*?</table>', (run / "report.html").read_text(), re.DOTALL)[0]
    head, *rows = (re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", classes))
    assert head == ["class", "images", "F1", "precision", "recall"]
    scores = precision_recall_fscore_support(oof["label"], oof["pred"], labels=range(18), zero_division=0)
    for row, precision, recall, f1, count in zip(rows, *scores, strict=True):
        assert row[1] == str(count)
        assert row[2].startswith(f"{f1:.3f}")
        assert row[3:] == [f"{precision:.3f}", f"{recall:.3f}"]
    wrong = oof[oof["label"] != oof["pred"]]
    first = wrong.assign(sure=wrong.filter(regex=r"^p\d+$").max(axis=1)).sort_values("sure").iloc[-1]
    assert first["ImageID"] in text
    assert f"confidence {first['sure']:.2f}" in text
    assert "12 people, 84 images" in text
    assert "--cv 2," in " ".join(text.split())
    for title in ("worn male &lt;30", "Suspected label errors", "Cost of each attribute"):
        assert title in text


def test_the_report_of_a_regression_shows_errors_in_years(trained):
    text = text_of(trained("age") / "report.html")
    assert "Largest errors" in text
    assert "RMSE" in text
    assert (trained("age") / "report" / "years.png").is_file()


def test_the_attribute_with_the_largest_gain_is_named_if_any_gains():
    young, old = encode_class(0, 0, 0), encode_class(0, 1, 2)
    labels = np.array([young] * 3 + [old] * 3)

    def describe(*predicted):
        return draw_costs(split_predictions(MAIN, labels, np.eye(18)[[*predicted]]), Figures())

    one_wrong = describe(encode_class(0, 1, 0), young, young, old, old, old)
    assert one_wrong.startswith(
        "If the gender were always right, macro F1 would be 1.000 instead of 0.600, the largest"
    )
    # If one attribute of mistakes in two is right, classes without images are predicted.
    two_wrong = describe(old, young, young, old, old, young)
    assert two_wrong == "No attribute alone, if it were always right, would raise macro F1 from 0.667."


def test_make_report_reproduces_the_report_from_the_files(run, copy):
    before = (copy / "report.html").read_bytes()
    shutil.rmtree(copy / "report")
    (copy / "report.html").unlink()
    assert run("make_report", "--root", copy).out.strip() == str(copy / "report.html")
    assert (copy / "report.html").read_bytes() == before


def test_a_report_without_the_images_lacks_only_their_sections(run, copy, make_data):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "train_root": "moved"}))
    assert run("make_report", "--root", copy).code == 0
    text = text_of(copy / "report.html")
    for part in ("There is no section on age", "The images are not in moved any more", "Most confident mistakes"):
        assert part in text
    assert not [each for each in pictures_of(copy / "report.html") if each.format == "JPEG"]
    assert run("make_report", "--root", copy, "--train-root", make_data(people=6).train_root).code == 0
    assert "lacks some of the images" in text_of(copy / "report.html")


def test_an_unreadable_image_is_left_out(run, copy, make_data):
    data = make_data()
    whole = len(pictures_of(copy / "report.html"))
    for path in data.train_root.rglob("mask1.jpg"):
        path.write_bytes(b"")
    assert run("make_report", "--root", copy, "--train-root", data.train_root).code == 0
    assert 5 < len(pictures_of(copy / "report.html")) < whole


def test_the_report_of_an_unfinished_run_gives_its_finished_folds(train_run, tmp_path):
    folder = train_run("--cv", 2, "--report", "--folds", 1, place=tmp_path)
    assert "1 of 2 folds of 1 epochs" in text_of(folder / "report.html")
    train_run("--cv", 2, "--report", "--resume", place=tmp_path)
    assert "2 of 2 folds of 1 epochs" in text_of(folder / "report.html")


@pytest.fixture
def train(run, small_data, tiny_training, tmp_path):
    words = ("--train-root", small_data.train_root, "--save-path", tmp_path / "models")
    return lambda *more: run("train", *tiny_training, *words, *more)


def test_a_failing_report_does_not_fail_the_training(train, monkeypatch):
    def fail(run, suspect_share):
        raise UserError("The images are on the moon.")

    monkeypatch.setattr(run_report, "write_report", fail)
    outcome = train("--report")
    assert outcome.code == 0
    assert "The report could not be written (The images are on the moon). Try again with: python" in outcome.out
    assert "Report: " not in outcome.out


def test_a_missing_library_is_reported_before_training(train, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "find_spec", lambda name: None)
    train("--report").assert_error("pip install -r requirements.txt, or pass --no-report")
    assert not (tmp_path / "models").exists()
    assert train().code == 0


@pytest.mark.parametrize("lost", ["summary.json", "oof.csv", "fold00/log.csv"])
def test_a_damaged_file_is_named(lost, run, copy):
    (copy / lost).write_text("{}")
    run("make_report", "--root", copy).assert_error(str(copy / lost))


def test_the_report_of_a_comparison(run, copy, trained, tmp_path):
    page = tmp_path / "both.html"
    outcome = run("compare_runs", "--root", f"{trained('main')},{copy}", "--report", page)
    assert outcome.code == 0, outcome.err
    assert f"Report: {page}" in outcome.out
    text = text_of(page)
    assert "No clear difference between A and B: they score the same in macro F1." in text
    assert str(copy) in text
    assert len(pictures_of(page)) == 2 + 2 + 2  # differences and classes, curves and confusions of each


def test_a_run_of_an_earlier_version_is_read(copy, run, tmp_path):
    """Its log.csv and its summary.json have two scores, and its options have no metric."""
    later = set(MAIN.scores) - set(MAIN.shown)
    for path in (copy / "log.csv", *copy.glob("fold*/log.csv")):
        pd.read_csv(path).drop(columns=list(later)).to_csv(path, index=False)
    config, summary = (json.loads((copy / f"{name}.json").read_text()) for name in ("config", "summary"))
    del config["metric"]
    scores = (*summary["folds"], *(summary[part] for part in ("mean", "std", "oof")), *summary["estimates"].values())
    for each in scores:
        for name in later & set(each):
            del each[name]
    for name, content in (("config", config), ("summary", summary)):
        (copy / f"{name}.json").write_text(json.dumps(content))
    run("make_report", "--root", copy).assert_success()
    assert "The out-of-fold macro F1 is " in text_of(copy / "report.html")
    other = shutil.copytree(copy, tmp_path / "other" / "main" / copy.name)
    compared = run("compare_runs", "--root", f"{copy},{other}").assert_success()
    assert "they score the same in macro F1." in compared.out
    run("join_folds", "--root", copy).assert_success()
    assert json.loads((copy / "summary.json").read_text())["oof"]["log_loss"] > 0
