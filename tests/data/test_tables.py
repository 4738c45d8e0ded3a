"""Folders, train.csv, corrections, info.csv and answers."""

import re

import pytest

from data.face_layout import describe_problems, parse_person, read_training_table
from data.faces import MAIN_CLASSES
from data.prediction_files import read_answers, read_prediction_list
from data.prepare import read_tables
from data.tables import Report
from utils import UserError


def problems(table) -> list[str]:
    """The notes on a table."""
    report = Report()
    describe_problems(table, report)
    return report.notes


def labels(table):
    """{image without its extension: class name} of a table."""
    return {image.rsplit(".", 1)[0]: MAIN_CLASSES[label] for image, label in zip(table.image, table.label, strict=True)}


def only(sentences):
    """The one sentence of a list."""
    assert len(sentences) == 1, sentences
    return sentences[0]


# ------------------------------------------------------------------------------------------------ names to labels


def test_labels_come_from_folder_names_and_stems(make_data, make_person):
    data = make_data(people=[make_person("000007", "female", 60), make_person("000001", "male", 29)])
    table, report = read_training_table(data.train_root)
    assert (report.errors, report.notes) == ([], [])
    assert len(table) == 14
    got = labels(table)
    assert {got[f"000007_female_Asian_60/mask{i}"] for i in range(1, 6)} == {"worn female >=60"}
    assert got["000007_female_Asian_60/incorrect_mask"] == "wrong female >=60"
    assert got["000001_male_Asian_29/normal"] == "bare male <30"
    assert list(table.image) == sorted(table.image)
    assert all(path.endswith(image) for path, image in zip(table.path, table.image, strict=True))
    first = table.iloc[0]
    assert (first.id, first.person, first.gender, first.age, first.ageg) == ("000001", "000001", 0, 29, 0)


def test_extensions_in_any_case_mixed_within_a_person(make_data):
    data = make_data(people=2, extensions=(".jpg", ".JPG", ".png", ".jpeg", ".PNG", ".JPEG"))
    table, report = read_training_table(data.train_root)
    assert (len(table), report.errors, report.notes) == (14, [], [])


def test_hidden_files_are_ignored(make_data):
    data = make_data(people=2)
    for name in ("._mask1.jpg", ".DS_Store"):
        (data.folder(0) / name).write_bytes(b"\x00\x05\x16\x07")
        (data.train_root / name).write_bytes(b"\x00\x05\x16\x07")
    (data.train_root / "._000001_male_Asian_20").mkdir()
    table, report = read_training_table(data.train_root)
    assert (len(table), report.errors, report.notes) == (14, [], [])


def test_the_label_is_of_the_stem_however_few_or_many_images(make_data, make_person):
    data = make_data(people=[make_person("1")], shots=["mask3", "normal"])
    (data.train_root / "000009_female_Asian_33").mkdir()
    table, report = read_training_table(data.train_root)
    assert labels(table) == {"1_male_Asian_25/mask3": "worn male <30", "1_male_Asian_25/normal": "bare male <30"}
    assert (report.errors, report.notes) == ([], ["1 folder without images: 000009_female_Asian_33."])
    missing = "1 (incorrect_mask, mask1, mask2, mask4, mask5)"
    assert problems(table) == [f"1 folder with missing shots: {missing}."]


@pytest.mark.parametrize(
    ("folder", "person"),
    [
        ("000001_female_Asian_45", ("000001", "000001", 1, 45)),
        ("001498-1_male_Asian_23", ("001498-1", "001498", 0, 23)),
        ("6_FEMALE_South_East_Asian_5", ("6", "6", 1, 5)),
        ("photos", None),
        ("000001_femal_Asian_45", None),
        ("000001_female_45", None),
        ("000001_female_Asian_old", None),
        ("000001_female_Asian_450", None),
        ("_female_Asian_45", None),
    ],
)
def test_folder_names(folder, person):
    got = parse_person(folder)
    assert (got and (got["id"], got["person"], got["gender"], got["age"])) == person


def test_a_folder_that_cannot_be_read_is_an_error(make_data):
    data = make_data(people=2)
    data.folder(0).rename(data.train_root / "someone")
    table, report = read_training_table(data.train_root)
    assert len(table) == 7
    with pytest.raises(UserError, match=r"^1 folder whose name is not <id>_<gender>_<race>_<age> .*: someone\.$"):
        report.raise_errors()


def test_an_unknown_shot_is_an_error_and_other_files_are_noted(make_data):
    data = make_data(people=2)
    data.photo(0, "mask5").rename(data.folder(0) / "mask6.jpg")
    data.photo(1, "mask1").rename(data.folder(1) / "mask1 (1).jpg")
    (data.folder(0) / "notes.txt").write_text("hello")
    table, report = read_training_table(data.train_root)
    assert "2 images whose name is none of the shots" in only(report.errors)
    assert f"{data.folder(0).name}/mask6.jpg" in report.errors[0]
    assert f"{data.folder(0).name}/notes.txt" in only(report.notes)
    assert len(table) == 12


def test_long_lists_of_names_are_shortened(make_data):
    data = make_data(people=9, shots=["normal"])
    for number in range(8):
        data.folder(number).rename(data.train_root / f"someone{number}")
    sentence = only(read_training_table(data.train_root)[1].errors)
    assert sentence.startswith("8 folders")
    assert "someone4 and 3 more" in sentence
    assert "someone5" not in sentence


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*nowhere.*--train-root.*make_sample"):
        read_training_table(tmp_path / "nowhere")
    table, report = read_training_table(tmp_path)
    assert (len(table), "holds no images" in only(report.errors)) == (0, True)


# ------------------------------------------------------------------------------------------------ train.csv


def train_csv(write_csv, data, *rows):
    return write_csv(data.train_csv, ["id", "gender", "race", "age", "path"], rows)


def test_train_csv_with_the_same_labels_changes_nothing(make_data):
    with_csv, without = make_data(people=3, train_csv=True), make_data(people=3, name="other")
    table, report = read_training_table(with_csv.train_root)
    assert (report.errors, report.notes) == ([], [])
    assert labels(table) == labels(read_training_table(without.train_root)[0])


def test_train_csv_wins_over_a_folder_name_with_a_note(make_data, write_csv, monkeypatch):
    data = make_data(people=2, shots=["normal"])
    folder = data.people[0].folder  # 000001_male_Asian_20
    train_csv(write_csv, data, ["000001", "female", "Asian", 60, folder])
    monkeypatch.chdir(data.train_root)
    for root in (data.train_root, "."):
        table, report = read_training_table(root)
        assert labels(table)[f"{folder}/normal"] == "bare female >=60"
        assert only(report.notes) == f"1 folder whose name and train.csv disagree, train.csv is used: {folder}."


def test_train_csv_can_label_a_folder_of_any_name(make_data, write_csv):
    data = make_data(people=2, shots=["normal"])
    data.folder(0).rename(data.train_root / "someone")
    train_csv(write_csv, data, ["000005", "female", "Asian", 31, "someone"])
    table, report = read_training_table(data.train_root)
    assert labels(table)["someone/normal"] == "bare female 30-59"
    assert "000005" in set(table.id)
    assert (report.errors, report.notes) == ([], [])


# ------------------------------------------------------------------------------------------------ corrections

COLUMNS = ["id", "gender", "age", "file", "mask"]


@pytest.fixture
def correct(make_data, make_person, write_csv, tmp_path):
    """Reads a set of three folders, two of them of one person, with rows of corrections."""
    people = [make_person("001498", "female", 23), make_person("001498-1", "female", 23), make_person("004432")]
    data = make_data(people=people, shots=["mask1", "incorrect_mask", "normal"])

    def read(*rows, columns=COLUMNS):
        path = write_csv(tmp_path / "corrections.csv", columns, rows)
        table, report = read_training_table(data.train_root, path)
        return {key.split("_", 1)[0] + "/" + key.split("/")[1]: name for key, name in labels(table).items()}, report

    return read


def test_gender_and_age_are_corrected_and_reported(correct):
    got, report = correct(["004432", "female", "", "", ""], ["001498-1", "male", "60", "", ""])
    assert got["004432/normal"] == "bare female <30"
    assert got["001498-1/mask1"] == "worn male >=60"
    assert got["001498/mask1"] == "worn female <30"  # another id, though the same person
    assert report.errors == []
    assert "changed the labels of 6 images" in only(report.notes)


def test_the_mask_of_one_file_is_corrected(correct):
    got, report = correct(["004432", "", "", "incorrect_mask", "bare"], ["004432", "", "", "Normal.JPG", "wrong"])
    assert got["004432/incorrect_mask"] == "bare male <30"
    assert got["004432/normal"] == "wrong male <30"
    assert got["004432/mask1"] == "worn male <30"
    assert "changed the labels of 2 images" in only(report.notes)


def test_an_image_that_two_rows_correct_counts_once(correct):
    _, report = correct(["004432", "", "", "normal", "worn"], ["004432", "female", "", "", ""])
    assert "changed the labels of 3 images" in only(report.notes)


def test_a_correction_with_the_same_label_changes_nothing(correct):
    _, report = correct(["004432", "male", "25", "mask1", "worn"])
    assert (report.errors, "changed the labels of 0 images" in only(report.notes)) == ([], True)


@pytest.mark.parametrize("row", ["004432,woman,,,", "004432,,-3,,", "004432,,,mask1,", "004432,,,mask1,off"])
def test_a_correction_that_cannot_be_applied_is_an_error(correct, row):
    got, report = correct(row.split(","))
    assert "1 row of " in only(report.errors)
    assert "line 2 (004432)" in report.errors[0]
    assert got["004432/mask1"] == "worn male <30"


def test_the_order_of_corrections_does_not_matter(correct):
    rows = [["001498", "male", "", "", ""], ["001498-1", "male", "", "", ""]]
    assert correct(*rows)[0] == correct(*rows[::-1])[0]


# ------------------------------------------------------------------------------------------------ people


@pytest.mark.parametrize(
    ("ids", "people"),
    [
        (["001498", "001498-1", "001498-12"], {"001498"}),
        (["site0-000004", "site0-000005", "a-b", "a-c"], {"site0-000004", "site0-000005", "a-b", "a-c"}),
        (["7-01", "7-100", "-1", "8-", "site-1"], {"7-01", "7-100", "-1", "8-", "site-1"}),
    ],
)
def test_an_id_with_a_small_number_at_its_end_is_the_same_person(ids, people, make_data, make_person):
    table, _ = read_training_table(make_data(people=[make_person(name) for name in ids]).train_root)
    assert set(table["id"]) == set(ids)
    assert set(table["person"]) == people


def test_people_with_several_folders_are_named_and_two_genders_are_an_error(make_data, make_person, write_csv):
    """They may be two people, as in merged data sets that both count from 1."""
    data = make_data(people=[make_person("01", "female", 23), make_person("01", "male", 23), make_person("02")])
    both = "01 (01_female_Asian_23, 01_male_Asian_23)"
    folders = f"1 person with several folders, counted as one each: {both}."
    with pytest.raises(UserError, match=re.escape("1 person with two genders (correct them, rename folders")) as error:
        read_tables(train_root=data.train_root, two_genders="stop", cv=2, seed=0)
    assert both in str(error.value)
    notes = read_tables(train_root=data.train_root, two_genders="keep", cv=2, seed=0).notes
    assert notes == [folders, f"1 person with two genders: {both}."]
    corrections = write_csv(data.root / "corrections.csv", ["id", "gender"], [["01", "male"]])
    notes = read_tables(train_root=data.train_root, corrections=corrections, two_genders="stop", cv=2, seed=0).notes
    assert folders in notes


# ------------------------------------------------------------------------------------------------ images to predict


def test_info_csv_fixes_the_order(small_data, monkeypatch):
    monkeypatch.chdir(small_data.data_root)
    for root in (small_data.data_root, "."):
        listed = read_prediction_list(root)
        assert listed.ids == list(small_data.eval_ids) != sorted(small_data.eval_ids)
        assert [path.name for path in listed.paths] == listed.ids
        assert listed.notes == []


def test_without_info_csv_names_are_sorted_with_a_note(make_data):
    data = make_data(people=1, info=False)
    listed = read_prediction_list(data.data_root)
    assert listed.ids == sorted(data.eval_ids)
    assert "ordered by file name" in only(listed.notes)


def test_an_id_without_an_image_is_an_error(make_data):
    data = make_data(people=1)
    (data.data_root / data.eval_ids[2]).unlink()
    with pytest.raises(UserError, match=rf"1 id of .*info\.csv without an image in .*: {data.eval_ids[2]}"):
        read_prediction_list(data.data_root)


def test_an_image_that_info_csv_does_not_list_is_left_out_and_named(make_data, make_photo):
    data = make_data(people=1)
    make_photo(data.data_root / "stranger.jpg")
    (data.data_root / ".DS_Store").write_bytes(b"\x00")
    listed = read_prediction_list(data.data_root)
    assert listed.ids == list(data.eval_ids)
    assert "stranger.jpg" in only(listed.notes)


@pytest.mark.parametrize("listed", [True, False])
def test_images_in_subfolders_are_predicted_by_their_paths(listed, make_data, make_photo, write_csv):
    data = make_data(people=1, eval_images=2, info=False)
    for name in ("a/x.jpg", "a/b/y.png", ".hidden/z.jpg"):
        make_photo(data.data_root / name)
    (data.data_root / "a" / "Thumbs.db").touch()
    (data.data_root / "a" / "loop").symlink_to(data.data_root)
    make_photo(data.data_root / "@eaDir" / "x.jpg")  # of a network storage
    ids = ["a/b/y.png", "a/x.jpg", *data.eval_ids]
    if listed:
        write_csv(data.info, ["ImageID"], [["a\\b\\y.png"], *([name] for name in ids[1:])])
    found = read_prediction_list(data.data_root)
    assert found.paths == [data.data_root / name for name in (ids if listed else sorted(ids))]
    assert any("Thumbs.db" in note for note in found.notes)
    assert any("2 images in subfolders" in note for note in found.notes) is not listed


def test_the_folder_above_the_images_is_an_error(make_data):
    data = make_data(people=1)
    with pytest.raises(UserError, match=rf"Pass --data-root {data.data_root}\."):
        read_prediction_list(data.root)


def test_info_csv_without_rows(make_data, write_csv):
    data = make_data(people=1)
    write_csv(data.info, ["ImageID", "ans"], [])
    with pytest.raises(UserError, match=r"info\.csv lists no images"):
        read_prediction_list(data.data_root)


def test_empty_and_missing_folders_to_predict(make_photo, tmp_path):
    """For a missing one, the folder of the original download is suggested."""
    make_photo(tmp_path / "eval" / "images" / "a.jpg")
    with pytest.raises(UserError, match=r"There is no folder .*--data-root\. There is one at .*eval/images"):
        read_prediction_list(tmp_path / "images")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        read_prediction_list(tmp_path / "images")


# ------------------------------------------------------------------------------------------------ answers


def test_answers_are_read_by_image(write_csv, tmp_path):
    path = write_csv(tmp_path / "answers.csv", ["ImageID", "ans"], [["b.jpg", 3], ["a.jpg", " old man"]])
    assert read_answers(path)["ans"].to_dict() == {"b.jpg": "3", "a.jpg": "old man"}
