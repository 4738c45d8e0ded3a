"""Test confident learning against numbers computed by hand, and the command on runs with known wrong labels."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import label_errors
from analysis.error_analysis import split_predictions
from config import TrainConfig
from data.face_corrections import suggest_corrections
from data.face_layout import CORRECTION_COLUMNS, read_corrections, read_training_table
from data.faces import AGE_GROUP, FACES, GENDER
from data.prepare import read_labels
from storage.run_folder import prediction_columns
from utils import make_folder, write_json, write_text


def test_images_are_pooled_by_the_mean_of_their_log_probabilities():
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0], *[[0.99, 0.01]] * 6])
    got = label_errors.pool_images(probabilities, np.array([0, 0, 1, *[2] * 7]))
    # sqrt(0.9 * 0.5) : sqrt(0.1 * 0.5) = 3 : 1
    assert got[:2] == pytest.approx(np.array([[0.75, 0.25], [0.2, 0.8]]))
    assert got[2, 0] > 0.5  # one image with probability 0 does not rule a class out


def test_confident_classes_by_hand():
    # Rows labelled 0 give class 0 probabilities 0.9, 0.6 and 0.3, mean 0.6; rows labelled 1 give class 1 a mean of 0.6.
    # The third row is confidently of class 1; the last has exactly the mean of class 0.
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    assert label_errors.confident_classes(probabilities, np.array([0, 0, 0, 1, 1])).tolist() == [0, 0, 1, 1, 0]


def test_rows_without_a_confident_class_keep_their_label():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.3, 0.0, 0.7], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    labels = np.array([0, 0, 1, 0])  # means 0.567 and 1; class 2 has no mean
    assert label_errors.confident_classes(probabilities, labels).tolist() == [0, 0, 1, 0]


def test_calibration_fits_the_share_of_correct_labels():
    # Three of four labels are the more probable class, so its calibrated probability is 3/4, not 0.99.
    probabilities = np.array([[0.99, 0.01]] * 4)
    got = label_errors.calibrate(probabilities, np.array([0, 0, 0, 1]))
    assert got[:, 0] == pytest.approx(0.75, abs=0.01)
    assert label_errors.calibrate(got, np.array([0, 0, 0, 1])) == pytest.approx(got, abs=0.01)


def test_label_confidence_by_hand():
    got = label_errors.label_confidence(np.array([[0.5, 0.5, 0.0], [0.02, 0.9, 0.08]]), np.array([0, 0]))
    assert got == pytest.approx([0.97 * 0.5 / (0.97 * 0.5 + 0.03 * 0.25), 0.97 * 0.02 / (0.97 * 0.02 + 0.03 * 0.49)])


def predict_genders(labels, female):
    """Return predictions of gender with these probabilities of female."""
    return [*split_predictions(GENDER, np.array(labels), np.stack([1 - np.array(female), female], axis=1)).values()]


def test_every_person_has_one_row_with_a_suspicion():
    predictions = predict_genders([0, 0, 0, 1, 1], [0.1, 0.1, 0.95, 0.9, 0.8])
    table = label_errors.rate_labels(predictions, ["b", "b", "a", "c", "d"], [0] * 5)
    assert table["name"].tolist() == ["a", "d", "b", "c"]
    assert (np.diff(table["suspicion"]) < 1e-9).all()
    assert label_errors.select_candidates(table)["name"].tolist() == ["a"]
    assert table.loc[0, ["label gender", "found gender"]].tolist() == [0, 1]


def test_an_overconfident_fold_ranks_no_higher():
    # Both folds are right for 8 of 10 people, the first with confidence 0.8, the second with 0.999.
    labels, right, sure = np.arange(20) % 2, np.arange(20) % 10 < 8, np.repeat([0.8, 0.999], 10)
    predictions = predict_genders(labels, np.where((labels == 1) == right, sure, 1 - sure))
    table = label_errors.rate_labels(predictions, [f"{k:02d}" for k in range(20)], np.repeat([0, 1], 10))
    assert set(table.head(4)["name"]) == {"08", "09", "18", "19"}
    assert table.head(4)["suspicion"].max() == pytest.approx(table.head(4)["suspicion"].min(), abs=0.01)


def test_suspicions_of_gender_and_age_group_combine():
    groups = np.array([[0.6, 0.4, 0], [1, 0, 0], [0.6, 0.4, 0]])
    ages = split_predictions(AGE_GROUP, np.zeros(3, int), groups).values()
    predictions = [*predict_genders([0] * 3, [0.4, 0.4, 0]), *ages]
    table = label_errors.rate_labels(predictions, ["both", "gender", "age"], [0] * 3)
    assert table["name"].tolist() == ["both", "gender", "age"]


@pytest.mark.parametrize(
    ("labelled", "suggested", "age"),
    [(0, 1, "30"), (0, 2, "60"), (1, 0, "29"), (1, 2, "60"), (2, 1, "59"), (2, 0, "29")],
)
def test_the_suggested_age_is_the_nearest_in_its_group(labelled, suggested, age):
    suspect = {"group": "a", "image": "", "label ageg": labelled, "found ageg": suggested}
    (row,) = suggest_corrections([suspect], [])
    assert [row.get(name, "") for name in CORRECTION_COLUMNS] == ["a", "", age, "", ""]


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run with one finished fold, which predicts the labels of the table `truth`."""

    def make(data, truth=None, task="main", corrections=None, **options):
        folder = make_folder(tmp_path / "models" / task / "kfold-ensemble-VanillaTorchvision" / "fold00").parent
        labels, _ = read_training_table(data.train_root, corrections)
        truth = labels if truth is None else truth
        config = TrainConfig(task=task, train_root=str(data.train_root), cv=2, epochs=1, **options)
        config.corrections = corrections and str(corrections)
        write_json(folder / "config.json", config.as_dict())
        column, count = "label" if task == "main" else task, FACES[task].outputs
        known = truth.set_index("image").loc[labels["image"], column].to_numpy()
        probabilities = np.where(np.eye(count)[known] == 1, 0.9, 0.1 / (count - 1))
        about = {"ImageID": labels["image"], "person": labels["person"], "fold": 0, "label": labels[column]}
        oof = pd.concat([pd.DataFrame(about), prediction_columns(FACES[task], probabilities)], axis=1)
        write_text(folder / "oof.csv", oof.to_csv(index=False, float_format="%.8g"))
        return folder

    return make


@pytest.fixture
def swapped(make_data, make_person):
    """Return data with a wrong gender, a wrong age, both, and a wrong mask, and a table of the true labels."""
    people = [make_person(f"{k:06d}", ("male", "female")[k % 2], (20, 45, 60)[k % 3]) for k in range(1, 19)]
    data = make_data(people=[*people, make_person("000019-1", "female", 35)])
    truth, _ = read_training_table(data.train_root)
    wrong = {3: ("000004", "female", 45), 4: ("000005", "female", 33), 18: ("000019-1", "male", 61)}
    for number, person in wrong.items():
        folder = make_person(*person).folder
        data.folder(number).rename(data.train_root / folder)
        truth["image"] = truth["image"].str.replace(data.people[number].folder, folder, regex=False)
    shutil.copy(data.photo(0, "mask3"), data.photo(0, "normal"))
    truth.loc[truth["image"] == f"{data.people[0].folder}/normal.jpg", ["mask", "label"]] = [0, 3 + 1]
    return data, truth


@pytest.fixture
def swapped_run(make_run, swapped):
    """Return the folder of a run of task main on the data of `swapped`."""
    return make_run(*swapped)


@pytest.fixture
def find(run):
    """Return a function that runs the command on the run in a folder, without an error if its code is 0."""

    def command(folder, *words, code=0):
        outcome = run("find_label_errors", "--root", folder, *words)
        assert outcome.code == code, outcome.err
        return outcome

    return command


def assert_labels(truth, train_root, corrections):
    """Assert that the images have the labels of the table `truth` with these corrections."""
    table, report = read_training_table(train_root, corrections)
    report.raise_errors()
    columns = ["image", "mask", "gender", "ageg", "label"]
    right, wanted = (each.sort_values("image")[columns].to_numpy().tolist() for each in (table, truth))
    assert right == wanted


def test_corrections_restore_the_true_labels(find, swapped_run, swapped):
    data, truth = swapped
    outcome = find(swapped_run, "--share", 1)
    assert outcome.err == ""
    corrections = swapped_run / "corrections.csv"
    columns = [*CORRECTION_COLUMNS, *label_errors.MORE_COLUMNS]
    assert corrections.read_text().splitlines()[0] == ",".join(columns)
    assert {row["id"]: [*row.values()][1:] for _, row in read_corrections(corrections)} == {
        "000001": ["", "", "normal", "worn"],
        "000004": ["male", "", "", ""],
        "000005": ["", "60", "", ""],
        "000019-1": ["female", "59", "", ""],
    }
    assert_labels(truth, data.train_root, corrections)
    for part in ("The model may be wrong", "1 of 2 folds are finished", "male >=60             female 30-59"):
        assert part in outcome.out


def test_the_contact_sheet_has_a_line_for_each_suspect(find, swapped_run, swapped):
    swapped[0].photo(0, "mask1").write_bytes(b"not an image")
    heights = []
    for show in (1, 2, 3):
        find(swapped_run, "--share", 1, "--show", show)
        with Image.open(swapped_run / "suspects.jpg") as sheet:
            heights.append(sheet.height)
            red, green, blue = np.asarray(sheet, dtype=int).transpose(2, 0, 1)
    assert heights[2] - heights[1] == heights[1] - heights[0] > 0
    assert ((red > 200) & (green < 120) & (blue < 60)).sum() > 300  # the frame of the suspected image


@pytest.mark.parametrize("task", ["mask", "gender", "ageg"])
def test_other_tasks_correct_their_own_labels(task, find, make_run, swapped):
    data, truth = swapped
    folder = make_run(data, truth, task)
    find(folder, "--share", 1)
    right, _ = read_training_table(data.train_root, folder / "corrections.csv")
    assert right.sort_values("image")[task].tolist() == truth.sort_values("image")[task].tolist()


def test_age_raises_an_error(find, swapped_run):
    write_json(swapped_run / "config.json", TrainConfig(task="age", cv=2).as_dict())
    find(swapped_run, code=2).assert_error("predicts numbers")


def test_share_limits_the_number_of_suspects(find, make_run, swapped):
    folder = make_run(*swapped, "gender")
    find(folder)
    assert len(read_corrections(folder / "corrections.csv")) == 1  # 5 % of 19 people, rounded up
    find(folder, "--share", 5, code=2).assert_error("--share must be at most 1. Got 5.0")


def test_a_run_without_suspects_writes_an_empty_file(find, make_run, small_data):
    folder = make_run(small_data)
    assert "No label is suspicious." in find(folder).out
    assert not (folder / "suspects.jpg").exists()
    assert_labels(read_training_table(small_data.train_root)[0], small_data.train_root, folder / "corrections.csv")


def test_edited_corrections_are_replaced_only_with_overwrite(find, swapped_run):
    for _ in range(2):
        find(swapped_run)
    corrections = swapped_run / "corrections.csv"
    written = corrections.read_text()
    edited = written.splitlines()[0] + "\n000001,male,,,\n"
    corrections.write_text(edited)
    find(swapped_run, code=2).assert_error("--overwrite")
    assert corrections.read_text() == edited
    find(swapped_run, "--overwrite")
    assert corrections.read_text() == written


def test_corrections_of_the_training_are_kept(find, make_run, swapped, tmp_path, write_csv):
    # Earlier corrections confirm the gender of 000004 and correct the mask of an image of 000002.
    rows = [["000004", "Female", "", "", ""], ["000002", "", "", "Normal.jpg", "worn"]]
    earlier = write_csv(tmp_path / "earlier.csv", CORRECTION_COLUMNS, rows)
    folder = make_run(*swapped, corrections=earlier)
    outcome = find(folder, "--share", 1)
    rows = [list(row.values()) for _, row in read_corrections(folder / "corrections.csv")]
    assert rows[-2:] == [["000004", "female", "", "", ""], ["000002", "", "", "normal", "worn"]]
    assert {row[0] for row in rows[:-2]} == {"000001", "000005", "000019-1"}
    assert "Left out 2 suspects" in outcome.out
    earlier.unlink()
    assert "are gone" in find(folder, "--share", 1, "--overwrite").out


def test_missing_images_leave_out_the_contact_sheet(find, swapped_run, swapped, tmp_path):
    data, truth = swapped
    data.root.rename(tmp_path / "moved")
    assert "There is no contact sheet" in find(swapped_run, "--share", 1).out
    assert not (swapped_run / "suspects.jpg").exists()
    assert_labels(truth, tmp_path / "moved" / "train" / "images", swapped_run / "corrections.csv")


def test_corrections_use_the_ids_of_train_csv(find, make_run, make_data, write_csv):
    data = make_data(people=12)
    rows = [[f"id{k}", p.gender, p.race, p.age, p.folder] for k, p in enumerate(data.people)]
    truth, _ = read_training_table(data.train_root)
    rows[3][1] = "male"
    write_csv(data.train_csv, ["id", "gender", "race", "age", "path"], rows)
    folder = make_run(data, truth)
    find(folder)
    assert_labels(truth, data.train_root, folder / "corrections.csv")
    assert read_corrections(folder / "corrections.csv")[0][1]["id"] == "id3"


def test_images_that_every_fold_validates_count_once(find, make_run, swapped):
    data, truth = swapped
    folder = make_run(data, truth, valid_root=str(data.train_root))
    oof = pd.read_csv(folder / "oof.csv", converters={"person": str})
    pd.concat([oof, oof.assign(fold=1)]).to_csv(folder / "oof.csv", index=False)
    outcome = find(folder, "--share", 1)
    assert "1 of 2 folds" not in outcome.out
    assert "19 people, 133 images" in outcome.out
    assert len(read_corrections(folder / "corrections.csv")) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: None, "Finish a fold"),
        (lambda text: "", "is damaged"),
        (lambda text: text.replace(",p17", ",q17"), "it has no column p17"),
        (lambda text: text.splitlines()[0] + "\n", "it has no rows"),
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: text.replace("0.9", "often"), "is damaged"),
        (lambda text: text.replace(",0,4,", ",0,18,"), "an unknown label"),
    ],
)
def test_missing_or_damaged_out_of_fold_predictions_raise_an_error(damage, message, find, make_run, small_data):
    folder = make_run(small_data)
    text = damage((folder / "oof.csv").read_text())
    (folder / "oof.csv").unlink() if text is None else (folder / "oof.csv").write_text(text)
    find(folder, code=2).assert_error(message)
    assert not (folder / "corrections.csv").exists()


def test_overwrite_keeps_the_corrections_of_the_training(find, run, make_run, small_data, tiny_training, tmp_path):
    folder = make_run(small_data)
    find(folder)
    words = ("--train-root", small_data.train_root, "--save-path", tmp_path / "models", "--cv", 2)
    outcome = run("train", *tiny_training, *words, "--overwrite", "--corrections", folder / "corrections.csv")
    outcome.assert_error("Move it elsewhere")
    assert (folder / "corrections.csv").is_file()


# ------------------------------------------------------------------------------------------------ own data


@pytest.fixture
def make_own(tmp_path, write_csv):
    """Return a function that writes a table, its images, and a run of one finished fold that predicts it, or `true`."""

    def make(columns, rows, labels, true, group=None):
        for name, *_ in rows:
            path = tmp_path / "photos" / name
            make_folder(path.parent)
            Image.new("RGB", (8, 8), (200, 200, 200)).save(path)
        about = {"data": str(write_csv(tmp_path / "photos.csv", columns, rows)), "label": labels, "group": group}
        about["image_root"] = str(tmp_path / "photos")
        tasks, table, report = read_labels(**about)
        report.raise_errors()
        task = tasks.default
        config = TrainConfig(task=task.name, labels=tasks.as_plain(), cv=2, epochs=1, **about)
        folder = make_folder(tmp_path / "models" / "own" / "kfold-ensemble-VanillaTorchvision" / "fold00").parent
        write_json(folder / "config.json", {**config.as_dict(), "labels": config.labels})
        labels = [true.get(image, task.classes[k]) for image, k in zip(table["image"], table["label"], strict=True)]
        known = [task.classes.index(each) for each in labels]
        share = 0.1 / (task.outputs - 1)
        probabilities = prediction_columns(task, share + (0.9 - share) * np.eye(task.outputs)[known])
        oof = table[["image", "person", "label"]].rename(columns={"image": "ImageID"}).assign(fold=0)
        write_text(folder / "oof.csv", pd.concat([oof, probabilities], axis=1).to_csv(index=False))
        return folder

    return make


@pytest.fixture
def patients(make_own):
    """Return a run on 20 patients: the sex of P04 is wrong, and the diagnosis of one of the 20 images of P07."""
    counts = [20 if k == 7 else 3 for k in range(20)]
    rows = [
        [f"p{k:02d}/{n:02d}.png", f"P{k:02d}", ("nevus", "wart")[(k + n) % 2], "fm"[k % 2]]
        for k, count in enumerate(counts)
        for n in range(count)
    ]
    true = {f"p04/{n:02d}.png": f"{('nevus', 'wart')[n % 2]} m" for n in range(3)} | {"p07/11.png": "wart m"}
    return make_own(["file", "patient", "diagnosis", "sex"], rows, ("diagnosis", "sex"), true, "patient")


def test_own_labels_are_suspected_of_groups_or_images(find, patients, tmp_path):
    lines = find(patients).out.splitlines()
    rows = pd.read_csv(patients / "suspects.csv", keep_default_na=False)
    assert list(rows) == ["group", "image", *label_errors.MORE_COLUMNS]
    assert rows.drop(columns="suspicion").to_numpy().tolist() == [
        ["P04", "", "f", "m"],
        ["P07", "p07/11.png", "nevus", "wart"],
    ]
    assert lines[0] == f"20 groups, 77 images, out-of-fold predictions of {patients}."
    assert "the groups of the other folds are not checked yet" in lines[1]
    assert [line.split()[:-1] for line in lines if line.startswith("P")] == [
        ["P04", "f", "m"],
        ["P07", "p07/11.png", "nevus", "wart"],
    ]
    assert [line.split()[0] for line in lines if line.endswith("suspicion")] == ["group", "image"]
    assert f"Correct the labels that are wrong in {tmp_path / 'photos.csv'}, then train again" in lines[-2]
    assert not (patients / "corrections.csv").exists()
    with Image.open(patients / "suspects.jpg") as sheet:
        red, green, blue = np.asarray(sheet, dtype=int).transpose(2, 0, 1)
    assert ((red > 200) & (green < 120) & (blue < 60)).sum() > 300  # the frame of the suspected image


def test_edited_suspects_are_replaced_only_with_overwrite(find, patients):
    find(patients)
    written = (patients / "suspects.csv").read_text()
    (patients / "suspects.csv").write_text("group,image\n")
    find(patients, code=2).assert_error("--overwrite")
    assert (patients / "suspects.csv").read_text() == "group,image\n"
    find(patients, "--overwrite")
    assert (patients / "suspects.csv").read_text() == written


def test_images_without_groups_are_suspected_alone(find, make_own):
    # Names of labels may be those of columns of the toolkit, and texts longer than their columns.
    long = "a" * 30
    rows = [[f"{k:02d}-{long}.png", ("x", long)[k % 2]] for k in range(40)]
    folder = make_own(["file", "suspicion"], rows, ("suspicion",), {f"{k:02d}-{long}.png": "x" for k in (3, 5, 7)})
    out = find(folder).out
    found = pd.read_csv(folder / "suspects.csv")
    assert len(found) == 2  # 5 % of the images
    assert (found["group"] == found["image"]).all()
    assert f"\n{found['image'][0]}  {long}  x " in out
    assert [line.split()[0] for line in out.splitlines() if line.endswith("suspicion")] == ["image"]


def test_the_drawn_images_of_a_suspect_are_few():
    names = [f"{k:02d}.png" for k in range(30)]
    suspects = label_errors.Suspects([], [], (), {"a": names, "b": ["b.png"]}, [], [])
    assert suspects.shown({"group": "a", "image": ""}) == names[:14]
    assert suspects.shown({"group": "a", "image": "20.png"}) == [*names[:6], "20.png"]
    assert suspects.shown({"group": "a", "image": "02.png"}) == names[:7]
    assert suspects.shown({"group": "b", "image": "b.png"}) == ["b.png"]


def test_a_contact_sheet_fits_into_a_file(tmp_path):
    row = {"name": "a", "group": "a", "image": "", "labelled": "x", "predicted": "y", "suspicion": 0.5}
    suspects = label_errors.Suspects([row] * 500, [], (), {"a": ["x.png"] * 14}, [], [])
    label_errors.draw_suspects(suspects, tmp_path, 500).save(tmp_path / "suspects.jpg")
