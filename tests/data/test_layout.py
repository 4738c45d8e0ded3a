"""Tasks from labels, and the table of any layout."""

import numpy as np
import pandas as pd
import pytest

from data.label_math import decode_classes, make_targets
from data.layout import check_label_names, make_labels, make_number_tasks, make_tasks, sort_names
from data.tables import Report
from data.tasks import Task, Tasks

ADVICE = "Correct the cells, leave them empty, or leave --regression out."


def make_rows(text, **columns):
    """A row for each word such as a:p1:cat, which has the image, its group and its kind."""
    words = [word.split(":") for word in text.split()]
    rows = [(f"{image}.jpg", f"/data/{image}.jpg", person, kind) for image, person, kind in words]
    return pd.DataFrame(rows, columns=["image", "path", "person", "kind"]).assign(**columns)


def notes_on(rows, advice=None):
    """The notes and errors on rows with the label kind."""
    report = make_labels(rows, ["kind"], Report(), advice).report
    return report.errors, report.notes


# ------------------------------------------------------------------------------------------------ tasks


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ("10 2 1 2", "1 2 10"),
        ("-1 +3 0", "-1 0 +3"),
        ("10.0 9.0 2.0", "2.0 9.0 10.0"),
        ("01 1 2 10", "01 1 2 10"),
        ("10 2 1a", "10 1a 2"),
        ("dog cat Dog", "Dog cat dog"),
        ("0.5 10 2", "0.5 10 2"),
        ("", ""),
    ],
)
def test_classes_are_sorted_by_number_if_all_are_whole_numbers(names, ordered):
    assert sort_names(names.split()) == ordered.split()


def test_one_label_is_one_task():
    tasks, numbers = make_tasks(["grade"], {"grade": ["10", "2", "2"]}, ["a", "a", "b"])
    assert list(tasks.values()) == [Task("grade", "grade", ("2", "10"))]
    assert (tasks.columns, tasks.attributes, tasks.heads) == (("grade",), (tasks.default,), (tasks.default,))
    assert (list(numbers), numbers["grade"].tolist(), numbers["grade"].dtype) == (["grade"], [1, 0, 0], np.int64)


def test_several_labels_have_a_joint_task_first():
    values = {"sex": ["m", "f", "m"], "age": ["10", "9", "9"], "mood": ["sad", "sad", "sad"]}
    tasks, numbers = make_tasks(["sex", "age", "mood"], values, ["a", "b", "c"])
    assert (list(tasks), tasks.default.title) == (["sex+age+mood", "sex", "age", "mood"], "sex, age and mood")
    assert tasks.default.classes == ("f 9 sad", "f 10 sad", "m 9 sad", "m 10 sad")
    assert tasks.default.parts == tasks.attributes == (tasks["sex"], tasks["age"], tasks["mood"])
    assert numbers["sex+age+mood"].tolist() == [3, 0, 2]
    assert tasks.columns == ("sex", "age", "mood")
    assert {name: each.tolist() for name, each in decode_classes(tasks.default, np.array([3, 0, 2])).items()} == {
        name: numbers[name].tolist() for name in tasks.columns
    }


@pytest.mark.parametrize(("first", "second", "joint"), [(10, 10, True), (10, 11, False), (101, 1, False)])
def test_a_joint_task_has_at_most_100_classes(first, second, joint):
    values = {"a": [str(k % first) for k in range(110)], "b": [str(k % second) for k in range(110)]}
    tasks, numbers = make_tasks(["a", "b"], values, list("p" * 110))
    assert list(tasks) == list(numbers)[: len(tasks)] == (["a+b", "a", "b"] if joint else ["a", "b"])
    assert tasks.default.name == ("a+b" if joint else "a")


def test_combinations_of_one_name_have_no_joint_task():
    tasks, _ = make_tasks(["a", "b"], {"a": ["x", "x y"], "b": ["y z", "z"]}, ["p", "q"])
    assert list(tasks) == ["a", "b"]


@pytest.mark.parametrize(
    ("texts", "classes", "bounds"),
    [
        (
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            ("<1.5", "1.5 to 3.5", "3.5 to 4.5", "4.5 to 6.5", ">=6.5"),
            (1.5, 3.5, 4.5, 6.5),
        ),
        (["0"] * 9 + ["1"], ("<0.5", ">=0.5"), (0.5,)),  # most numbers are equal
        (["-3,5", "2", "0"] * 3, ("<-1.75", "-1.75 to 1", ">=1"), (-1.75, 1)),  # decimal commas
        (["1e6", "1000001"], ("<1000000.5", ">=1000000.5"), (1000000.5,)),
    ],
    ids=str,
)
def test_numbers_have_ranges_of_fifths(texts, classes, bounds):
    tasks, labels = make_number_tasks(["w"], {"w": texts}, [str(k // 2) for k in range(len(texts))])
    assert list(tasks) == ["w", "w_range"]
    assert (tasks["w"].regression, tasks["w"].outputs, tasks["w_range"].outputs) == (True, 1, len(classes))
    assert tasks["w"].bounds == bounds
    assert len(tasks["w"].classes) == len(classes)
    assert tasks["w"].classes == tasks["w_range"].classes
    if len(bounds) > 1:
        assert tasks["w"].classes == classes
    assert labels["w_range"].tolist() == [sum(number >= bound for bound in bounds) for number in labels["w"]]
    assert (tasks["w"].center, tasks["w"].scale) == pytest.approx((labels["w"].mean(), labels["w"].std()))
    assert Tasks.from_plain(tasks.as_plain()) == tasks


def test_cells_that_are_not_numbers_are_errors():
    rows = make_rows("a:p1:1.5 b:p2:much c:p3:nan")
    tasks, table, report = make_labels(rows, ["kind"], Report(), None, regression=True)
    assert report.errors == [f"2 images whose kind is not a number: b.jpg (much), c.jpg (nan). {ADVICE}"]
    assert (tasks.default.regression, table["kind"].tolist()) == (True, [1.5])  # no class for each number


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (["2", "2,0"], "All numbers of kind are equal, as 2. Pass another --label."),
        (["10000000", "10000001"], "All numbers of kind are nearly equal, as 10000000. Pass another --label."),
        (["5,000", "103"], "1 image whose kind may have a thousands separator: a.jpg (5,000). Remove it."),
        (["1e999", "2"], "1 image whose kind is not a number: a.jpg (1e999). " + ADVICE),
        (["5.000", "103"], "1 image whose kind may have a thousands separator: a.jpg (5.000). Remove it."),
        (["0,125", "1,500"], None),
        (["1.125", "1.500"], None),
    ],
)
def test_numbers_that_cannot_be_learned(texts, error):
    rows = make_rows("a:p1:0 b:p2:0").assign(kind=texts)
    assert make_labels(rows, ["kind"], Report(), None, regression=True).report.errors == [error] * bool(error)


def test_whole_numbers_that_pandas_wrote_as_decimals_are_classes():
    labels = make_labels(make_rows("a:p1:0.0 b:p2:0.0 c:p1:11.0 d:p2:11.0"), ["kind"], Report(), None)
    assert labels.tasks["kind"].classes == ("0", "11")


def test_several_labels_of_numbers():
    rows = make_rows("a:p1:0.5 b:p2:1.5 c:p3:2.5").assign(size=["10", "30", "20"])
    labels = make_labels(rows, ["kind", "size"], Report(), None, regression=True)
    assert list(labels.tasks) == ["kind", "size", "kind_range", "size_range"]
    assert labels.table["size"].tolist() == [10, 30, 20]
    assert labels.table["size_range"].tolist() == [0, 2, 1]
    assert labels.tasks.default.name == "kind"


def test_labels_of_a_group():
    values = {"sex": ["m", "m", "f"], "mood": ["sad", "glad", "sad"]}
    tasks, _ = make_tasks(["sex", "mood"], values, ["a", "a", "b"])
    assert [(name, task.of_group) for name, task in tasks.items()] == [
        ("sex+mood", False),
        ("sex", True),
        ("mood", False),
    ]
    assert make_tasks(["sex", "mood"], values, ["a", "b", "c"])[0].default.of_group


def test_no_images_have_no_classes():
    tasks, numbers = make_tasks(["a", "b"], {"a": [], "b": []}, [])
    assert (tasks["a"].classes, len(numbers["a"])) == ((), 0)


# ------------------------------------------------------------------------------------------------ tables


def test_the_table_is_sorted_by_image_and_has_numbers():
    rows = make_rows("b:p1:cat a:p1:dog d:p2:dog c:p2:cat", camera=["x", "y", "x", "y"], fold=[0, 0, 1, 1])
    tasks, table, report = make_labels(rows, ["kind"], Report(), None)
    assert list(table) == ["image", "path", "person", "kind", "label", "fold", "camera"]
    assert table["image"].tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert table["kind"].tolist() == table["label"].tolist() == [1, 0, 0, 1]
    assert {str(table[name].dtype) for name in ("kind", "label", "fold")} == {"int64"}
    assert table["camera"].tolist() == ["y", "x", "y", "x"]
    assert (report.errors, report.notes) == ([], [])
    assert make_targets(table, tasks)["kind"].tolist() == [1, 0, 0, 1]


def test_missing_images_count_for_classes_but_are_not_in_the_table():
    rows = make_rows("a:p1:cat b:p1:dog c:p2:cat d:p2:dog")
    rows.loc[rows["person"] == "p2", "path"] = ""
    _, table, report = make_labels(rows, ["kind"], Report(), None)
    assert (table["image"].tolist(), report.errors) == (["a.jpg", "b.jpg"], [])


def test_labels_are_not_checked_if_all_images_are_missing():
    rows = make_rows("a:p1:cat b:p1:dog").assign(path="")
    for regression in (False, True):
        tasks, table, report = make_labels(rows, ["kind"], Report(), None, regression=regression)
        assert (tasks["kind"].classes, len(table), report.errors) == ((), 0, [])


def test_the_label_is_the_class_of_the_joint_task():
    rows = make_rows("a:p1:cat b:p1:dog c:p2:cat d:p2:dog", size=["2", "10", "10", "2"])
    tasks, table, _ = make_labels(rows, ["size", "kind"], Report(), None)
    assert tasks.default.classes == ("2 cat", "2 dog", "10 cat", "10 dog")
    assert table[["size", "kind", "label"]].to_numpy().tolist() == [[0, 0, 0], [1, 1, 3], [1, 0, 2], [0, 1, 1]]
    assert (make_targets(table, tasks)["size+kind"] == table["label"]).all()


# ------------------------------------------------------------------------------------------------ problems


def test_names_of_labels():
    report = Report()
    check_label_names(["kind", "label", "a/b", "..", "c\\d", "kind"], report)
    reserved = "is image, path, person, label or fold, which the toolkit uses"
    assert report.errors == [
        f"4 labels whose name has a slash or only dots, or {reserved}: label, a/b, .., c\\d. Use another name.",
        "1 label passed twice: kind. Pass each label once.",
    ]


def test_classes_of_one_group():
    errors, _ = notes_on(make_rows("a:p1:cat b:p2:cat c:p1:owl d:p1:owl e:p2:10"))
    assert errors == [
        "2 classes of the label kind in a single group, which no fold can both train on and validate: "
        "10 (p2), owl (p1). Add images of other groups or remove the class."
    ]


def test_one_class():
    errors, _ = notes_on(make_rows("a:p1:cat b:p2:cat"))
    assert errors == ["All images have the same kind, cat. Add images of a second class or pass other labels."]


@pytest.mark.parametrize(("kinds", "errors"), [(100, 0), (101, 1)])
def test_more_than_100_classes_are_names_if_most_rows_differ(kinds, errors):
    rows = make_rows(" ".join(f"{k}:p{k}:{k % kinds}" for k in range(2 * kinds - 1)))
    assert sum("101 different numbers in 201 rows" in error for error in notes_on(rows)[0]) == errors
    rows = make_rows(" ".join(f"{k}:p{k}:{k % kinds}" for k in range(2 * kinds)))  # no more than half
    assert notes_on(rows)[0] == []


def test_spellings_are_noted():
    rows = "a:p1:Cat b:P1:cat c:p1:1 d:P1:01 e:p1:1.0 f:P1:1 g:p2:Cat h:p2:cat i:p2:01 j:p2:1.0"
    _, notes = notes_on(make_rows(rows))
    assert notes == [
        "2 classes in several spellings, kept apart: 01 / 1 / 1.0, Cat / cat. Correct them if they mean the same.",
        "1 group in several spellings, kept apart: P1 / p1. Correct them if they mean the same.",
    ]


def test_names_of_missing_values_are_noted():
    errors, notes = notes_on(make_rows("a:p1:nan b:NULL:nan c:p1:N/A d:p2:N/A e:p1:none f:NULL:none g:p2:NaN h:p1:NaN"))
    assert errors == []
    assert notes == [
        "1 class in several spellings, kept apart: NaN / nan. Correct them if they mean the same.",
        "3 classes named like a missing value: N/A, NaN, nan. Leave the cells empty to leave the images out.",
        "1 group named like a missing value: NULL. Fill in the cells.",
    ]


@pytest.mark.parametrize(
    ("images", "series"),
    [
        ("p001_1 p001_2 p002_1 p002_2 p003_1 p003_2", "p001_..., p002_..., p003_..."),
        ("cat/p001_1 dog/p001_2 cat/p002_1 dog/p002_2 cat/p3_1 dog/p3_2", "p001_..., p002_..., p3_..."),
        ("x/1 x/2 y/1 y/2 z/1 z/2 w/17", "x/..., y/..., z/..."),
        ("anna1left anna2left ben1left ben2left carl7 carl8 other", "anna..., ben..., carl..."),
        ("img_1 img_2 img_3 img_4 img_5 img_6", None),  # one series
        ("cat_1 dog_1 cat_2 dog_2 cat_3 dog_3", None),  # one for each class
        ("cat/1 dog/2 cat/3 dog/4 cat/5 dog/6", None),
        ("1 2 3 4 5 6", None),
        ("ab1 ab2 cd1 cd2 ef1 ef2 one two three four five six seven", None),  # most images are in none
    ],
)
def test_numbered_series_are_noted(images, series):
    rows = make_rows(" ".join(f"{name}:p{k}:{('cat', 'dog')[k % 2]}" for k, name in enumerate(images.split())))
    _, notes = notes_on(rows, "Pass --group")
    assert notes[0] == "Each image is its own group. Pass --group if several images show the same person or object."
    expected = f"Images seem to be numbered within groups: {series}. Pass --group if they are."
    assert notes[1:] == ([expected] if series else [])
