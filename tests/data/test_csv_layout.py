"""Tables of images, labels and groups, and the sentences about wrong ones."""

import os

import pytest

from data.csv_layout import read_csv_layout, read_csv_list
from data.label_math import encode_classes
from utils import UserError

FILES = ("a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg", "sub/c1.png", "sub/c2.PNG")
ROWS = "a1.jpg,cat,p1\na2.jpg,dog,p1\nb1.jpg,cat,p2\nb2.jpg,dog,p2\n"
TABLE = "file,kind,patient\n" + ROWS
REQUIRED = {"labels": ["kind"], "group": "patient"}
ALONE = "Each image is its own group. Pass --group"


@pytest.fixture
def read(tmp_path):
    """read(text, files=FILES, **options) writes photos.csv and empty files into images/, and reads them."""

    def read_text(text, *, files=FILES, encoding="utf-8", **options):
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in files:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "photos.csv").write_bytes(text.replace("{root}", str(tmp_path / "images")).encode(encoding))
        options = {"image_root": tmp_path / "images", **REQUIRED, **options}
        return read_csv_layout(tmp_path / "photos.csv", **options)

    return read_text


def kinds(labels):
    """{image: class name} of labels with the task kind."""
    names = labels.tasks["kind"].classes
    return {image: names[k] for image, k in zip(labels.table["image"], labels.table["kind"], strict=True)}


def problems(labels):
    """The errors and notes on labels."""
    return labels.report.errors, labels.report.notes


# ------------------------------------------------------------------------------------------------ tables


def test_a_table(read, tmp_path):
    labels = read("file,kind,patient,note\nb1.jpg,10,p2,\nb2.jpg,9,p2,x\nsub/c1.png,9,p1,\na1.jpg,10,p1,007\n")
    assert problems(labels) == ([], [])
    assert list(labels.table) == ["image", "path", "person", "kind", "label", "file", "patient", "note"]
    assert labels.table.iloc[:, :5].to_numpy().tolist() == [
        ["a1.jpg", str(tmp_path / "images/a1.jpg"), "p1", 1, 1],
        ["b1.jpg", str(tmp_path / "images/b1.jpg"), "p2", 1, 1],
        ["b2.jpg", str(tmp_path / "images/b2.jpg"), "p2", 0, 0],
        ["sub/c1.png", str(tmp_path / "images/sub/c1.png"), "p1", 0, 0],
    ]
    assert labels.table["note"].tolist() == ["007", "", "x", ""]
    assert labels.tasks["kind"].classes == ("9", "10")


def test_the_root_is_the_folder_of_the_csv(read):
    text = TABLE.replace("a1.jpg", "images/a1.jpg").replace("a2", "images/a2").replace("\nb", "\nimages/b")
    assert read(text, image_root=None).table["image"].tolist() == [f"images/{name}" for name in FILES[:4]]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\r"),
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        '"file, of the image";kind;patient\n' + ROWS.replace(",", ";"),
        TABLE.replace(",", " , "),
        TABLE.replace("\n", ",\n"),  # an empty column
        "file,kind,patient\n" + ROWS.replace("\n", ",, \n"),  # empty cells without a column
        "file,kind,patient,note\n" + ROWS.replace("\n", ',"a, b\nc"\n'),
        TABLE.replace("a1.jpg", "\n\na1.jpg") + "\n",
        TABLE.replace("file", "ImageID"),
        TABLE.replace("file", "FileName"),
        TABLE.replace(".jpg", ""),
        TABLE.replace("a1.jpg", "./sub//../a1.jpg").replace("b1.jpg", "{root}/b1.jpg"),
        TABLE.replace("a1.jpg", "sub\\..\\a1.jpg"),
    ],
)
def test_spellings_of_a_table(read, text):
    quoted = "file, of the image"
    labels = read(text, image_column=quoted if quoted in text else None)
    assert kinds(labels) == {"a1.jpg": "cat", "a2.jpg": "dog", "b1.jpg": "cat", "b2.jpg": "dog"}
    assert (problems(labels), labels.table["person"].tolist()) == (([], []), ["p1", "p1", "p2", "p2"])


def test_the_image_column_is_the_first_with_files(read):
    text = "id,path,image_id,kind,patient\n1,x,a1,cat,p1\n2,y,a2,dog,p1\n3,z,b1,cat,p2\n4,w,b2,dog,p2\n"
    assert list(kinds(read(text))) == ["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"]
    other = text.replace("image_id", "photo")
    assert list(kinds(read(other, image_column="photo"))) == ["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"]


def test_missing_extensions_in_subfolders_and_capitals(read):
    labels = read(
        "file,kind,patient\nsub/c1,cat,p1\nsub/c2,dog,p1\na.b,cat,p2\nx,dog,p2\n", files=(*FILES, "a.b.jpg", "x")
    )
    assert (list(kinds(labels)), problems(labels)) == (["a.b.jpg", "sub/c1.png", "sub/c2.PNG", "x"], ([], []))


def test_an_absolute_path_below_a_relative_root(read, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    labels = read(TABLE.replace("a1.jpg", "{root}/a1.jpg"), image_root="../images")
    assert labels.table["path"].tolist() == [os.path.join("..", "images", name) for name in FILES[:4]]
    assert labels.report.errors == []


def test_several_labels(read):
    text = "file,sex,grade,patient\na1.jpg,m,2,p1\na2.jpg,m,10,p1\nb1.jpg,f,10,p2\nb2.jpg,f,2,p2\n"
    text += "sub/c1.png,m,2,p3\nsub/c2.PNG,f,2,p4\n"
    labels = read(text, labels=["sex", "grade"])
    assert (list(labels.tasks), labels.tasks.default.title) == (["sex+grade", "sex", "grade"], "sex and grade")
    assert labels.tasks.default.classes == ("f 2", "f 10", "m 2", "m 10")
    assert [task.of_group for task in labels.tasks.values()] == [False, True, False]
    table = labels.table
    assert table["label"].tolist() == [2, 3, 1, 0, 2, 0]
    assert (encode_classes(labels.tasks.default, table) == table["label"]).all()


def test_unused_columns_are_kept_unless_the_toolkit_uses_their_names(read):
    text = "id,path,kind,patient,fold,label,person,Site\n"
    text += "1,a1.jpg,cat,p1,0,x,y,A\n2,a2.jpg,dog,p1,0,x,y,A\n3,b1.jpg,cat,p2,1,x,y,B\n4,b2.jpg,dog,p2,1,x,y,B\n"
    labels = read(text)
    assert list(labels.table) == ["image", "path", "person", "kind", "label", "id", "patient", "Site"]
    assert problems(labels) == (
        [],
        [
            "3 columns of photos.csv left out, whose name the toolkit uses: fold, label, person. "
            "Rename a column to keep it."
        ],
    )
    used = read(text, group="person", fold_column=None)
    assert used.table["person"].tolist() == ["y"] * 4
    assert "2 columns of photos.csv left out" in used.report.notes[0]


def test_folds(read):
    text = "file,kind,patient,site\na1.jpg,cat,p1,10\na2.jpg,dog,p1,10\nb1.jpg,cat,p2,9\nb2.jpg,dog,p2,9\n"
    labels = read(text, fold_column="site")
    assert (labels.table["fold"].tolist(), str(labels.table["fold"].dtype)) == ([1, 1, 0, 0], "int64")
    assert (labels.table["site"].tolist(), problems(labels)) == (["10", "10", "9", "9"], ([], []))
    by_group = read(text, fold_column="patient").table
    assert by_group["fold"].tolist() == [0, 0, 1, 1]
    own = read(text.replace("site", "fold"), fold_column="fold").table
    assert (own["fold"].tolist(), list(own).count("fold")) == ([1, 1, 0, 0], 1)


# ------------------------------------------------------------------------------------------------ notes


def test_rows_without_a_label_are_left_out(read):
    labels = read(TABLE + "sub/c1.png,,p3\nsub/c2.PNG, ,\n,,,,\n")
    assert problems(labels) == (
        [],
        ["3 rows of photos.csv without kind, left out: sub/c1.png, sub/c2.PNG, line 8."],
    )
    assert len(labels.table) == 4


def test_equal_rows_are_used_once(read):
    labels = read(TABLE + "a1.jpg,cat,p1\n./a1,cat,p1\nb2.jpg, dog ,p2\n")
    assert problems(labels) == ([], ["2 images in several equal rows of photos.csv, used once: a1.jpg, b2.jpg."])
    assert len(labels.table) == 4


def test_spellings_of_classes_and_groups(read):
    text = TABLE + "sub/c1.png,Cat,P1\nsub/c2.PNG,Cat,p2\n"
    assert problems(read(text)) == (
        [],
        [
            "1 class in several spellings, kept apart: Cat / cat. Correct them if they mean the same.",
            "1 group in several spellings, kept apart: P1 / p1. Correct them if they mean the same.",
        ],
    )
    assert problems(read(text.replace("Cat", " cat ").replace("P1", "p1 "))) == ([], [])
    composed = TABLE.replace("cat", "e\u0301", 1).replace("cat", "\u00e9")  # two ways to write é
    assert problems(read(composed)) == ([], [])


def test_without_groups_each_image_is_its_own(read):
    labels = read(TABLE.replace("patient", "camera"), group=None)
    assert labels.table["person"].tolist() == labels.table["image"].tolist()
    whole = f"{ALONE} with a column of groups if several images show the same person or object."
    assert problems(labels) == ([], [whole])


@pytest.mark.parametrize(
    ("column", "noted"),
    [
        *(("patient", True), ("PatientID", True), ("lesion_id", True), ("subject", True), ("Site of scan", True)),
        *(("ID", True), ("id_2", True), ("caseId", True), ("specimen", True)),
        *(("width", False), ("valid", False), ("video", False), ("camera", False), ("idea", False)),
    ],
)
def test_columns_that_may_be_groups_are_noted(read, column, noted):
    _, notes = problems(read(TABLE.replace("patient", column), group=None))
    whole = [f"1 column of photos.csv with repeated values, which may be groups: {column}."] if noted else []
    advice = (
        f"{ALONE} {column if noted else 'with a column of groups'} if several images show the same person or object."
    )
    assert notes == [*whole, advice]


def test_a_column_of_one_or_only_different_values_is_no_group(read):
    text = "file,kind,patient,site\na1.jpg,cat,p1,x\na2.jpg,dog,p2,x\nb1.jpg,cat,p3,x\nb2.jpg,dog,p4,x\n"
    assert len(problems(read(text, group=None))[1]) == 1


def test_numbered_series_are_noted(read):
    names = [f"p{k}_{i}" for k in range(4) for i in range(2)]
    text = "file,kind\n" + "".join(f"{name},{('cat', 'dog')[k % 2]}\n" for k, name in enumerate(names))
    _, notes = problems(read(text, files=[f"{name}.jpg" for name in names], group=None))
    assert notes[1:] == [
        "Images seem to be numbered within groups: p0_..., p1_..., p2_... and 1 more. "
        "Pass --group with a column of groups if they are."
    ]


# ------------------------------------------------------------------------------------------------ errors


def change(old, new):
    """The table with another text in one place, or in all that are equal."""
    assert old in TABLE
    return TABLE.replace(old, new)


COLUMNS = "file, kind, patient"
LONELY = "in a single group, which no fold can both train on and validate"
ADVICE = "Add images of other groups or remove the class."
NO_FILES = f"Pass another --image-root, or --image-column with one of {COLUMNS}."
OUTSIDE = "1 image of photos.csv outside of {root}: %s. Write paths relative to --image-root."
WIDE = "with more cells than its first line has names (3)"
QUOTE = " needs quotes, and a further column a name. Remove separators at the end of single rows."
QUOTE_COMMAS = f"A cell that contains ',', such as a text or a decimal comma,{QUOTE}"
QUOTE_SEMICOLONS = f"A cell that contains ';', such as a text,{QUOTE}"
RESERVED = (
    "1 label whose name has a slash or only dots, or is image, path, person, label or fold, which the toolkit uses: "
    "%s. Use another name."
)
WRONG = {
    "no file": (None, {}, "There is no file {csv}."),
    "no rows": ("file,kind,patient\n", {}, "{csv} has no rows below its first line. Add one for each image."),
    "nothing": ("", {}, "{csv} has no rows below its first line. Add one for each image."),
    "no label option": (
        TABLE,
        {"labels": []},
        f"{{csv}} needs a column of labels. Pass --label with one of {COLUMNS}.",
    ),
    "no label column": (
        TABLE,
        {"labels": ["kid"]},
        f"{{csv}} has no column kid. Pass --label with one of {COLUMNS}. Did you mean 'kind'?",
    ),
    "another case": (
        TABLE,
        {"labels": ["Kind"]},
        f"{{csv}} has no column Kind. Pass --label with one of {COLUMNS}. Did you mean 'kind'?",
    ),
    "no group column": (TABLE, {"group": "x"}, f"{{csv}} has no column x. Pass --group with one of {COLUMNS}."),
    "no fold column": (
        TABLE,
        {"fold_column": "fold"},
        f"{{csv}} has no column fold. Pass --folds-from with one of {COLUMNS}.",
    ),
    "no named image column": (
        TABLE,
        {"image_column": "files"},
        f"{{csv}} has no column files. Pass --image-column with one of {COLUMNS}. Did you mean 'file'?",
    ),
    "two columns missing": (
        TABLE,
        {"labels": ["kid"], "group": "patent"},
        f"{{csv}} has no column kid. Pass --label with one of {COLUMNS}. Did you mean 'kind'?\n"
        f"{{csv}} has no column patent. Pass --group with one of {COLUMNS}. Did you mean 'patient'?",
    ),
    "another separator": (
        TABLE.replace(",", "|"),
        {"group": None},
        "{csv} has no column kind. Pass --label with one of file|kind|patient.",
    ),
    "column twice": (
        change("patient", "kind"),
        {"group": None},
        "{csv} has the column kind more than once. Keep the right one.",
    ),
    "no image column": (
        change("file", "photo"),
        {},
        "{csv} has no column path, file, filename, file_name, image, image_path, image_id, id or ImageID. "
        "Pass --image-column with one of photo, kind, patient.",
    ),
    "UTF-16": (TABLE, {"encoding": "utf-16"}, "{csv} is not UTF-8. Save it as CSV in UTF-8."),
    "Latin-1": (change("cat", "ca\u00f1"), {"encoding": "latin-1"}, "{csv} is not UTF-8. Save it as CSV in UTF-8."),
    "open quote": (
        change("b2.jpg", '"b2.jpg').replace("a1.jpg", '"a1.jpg"').replace("p1\n", '"p\n1"\n\n', 1),
        {},
        "{csv} cannot be read as CSV (unexpected end of data). Check line 7, where a quote may not be closed.",
    ),
    "open quote in the first line": (
        change("kind", '"kind'),
        {},
        "{csv} cannot be read as CSV (unexpected end of data). Check line 1, where a quote may not be closed.",
    ),
    "texts with commas": (
        change("cat", "big, cat").replace("patient", "patient,"),
        {},
        f"2 rows of {{csv}} {WIDE}: line 2 (4 cells), line 4 (4 cells). {QUOTE_COMMAS}",
    ),
    "a decimal comma": (
        "file,kind,patient,cm\n" + ROWS.replace("\n", ",3,5\n", 1),
        {},
        f"1 row of {{csv}} {WIDE.replace('3', '4')}: line 2 (5 cells). {QUOTE_COMMAS}",
    ),
    "a decimal comma before an empty cell": (
        "cm,file,kind,patient\n" + "".join(f"3.5,{row},\n" for row in ROWS.split()) + "3,5,sub/c1.png,cat,,\n",
        {},
        f"1 row of {{csv}} {WIDE.replace('3', '4')}: line 6 (6 cells). {QUOTE_COMMAS}",
    ),
    "texts with semicolons": (
        change("cat,p2", "big; cat,p2").replace(",", ";"),
        {},
        f"1 row of {{csv}} {WIDE}: line 4 (4 cells). {QUOTE_SEMICOLONS}",
    ),
    "no root": (TABLE, {"image_root": "nowhere"}, "There is no folder nowhere. Pass another --image-root."),
    "label is the image column": (
        TABLE,
        {"labels": ["file"]},
        "The column file is used for both --label and --image-column. Pass another --label.",
    ),
    "label is the group": (
        TABLE,
        {"labels": ["kind", "patient"]},
        "The column patient is used for both --label and --group. Pass another --label.",
    ),
    "label is the fold": (
        TABLE,
        {"fold_column": "kind"},
        "The column kind is used for both --label and --folds-from. Pass another --label.",
    ),
    "label twice": (TABLE, {"labels": ["kind", "kind"]}, "1 label passed twice: kind. Pass each label once."),
    "label named label": (change("kind", "label"), {"labels": ["label", "patient"], "group": None}, RESERVED % "label"),
    "label named fold": (change("kind", "fold"), {"labels": ["fold"]}, RESERVED % "fold"),
    "label with a slash": (change("kind", "cat/dog"), {"labels": ["cat/dog"]}, RESERVED % "cat/dog"),
    "label with a backslash": (change("kind", "a\\b"), {"labels": ["a\\b"]}, RESERVED % "a\\b"),
    "no labels at all": (
        change("cat", "").replace("dog", " "),
        {},
        "{csv} has no row with kind. Fill them in or pass another --label.",
    ),
    "no group in a row": (
        TABLE + "sub/c1.png,dog, \n",
        {},
        "1 row of photos.csv without patient: sub/c1.png. Fill in the cells.",
    ),
    "no image in a row": (TABLE + " ,dog,p1\n", {}, "1 row of photos.csv without file: line 6. Fill in the cells."),
    "above the root": (change("a1.jpg", "../a1.jpg"), {}, OUTSIDE % "../a1.jpg"),
    "above, inside": (change("a1.jpg", "sub/../../a1.jpg"), {}, OUTSIDE % "sub/../../a1.jpg"),
    "absolute": (change("a1.jpg", "/photos/a1.jpg"), {}, OUTSIDE % "/photos/a1.jpg"),
    "a drive": (change("a1.jpg", "C:\\photos\\a1.jpg"), {}, OUTSIDE % "C:\\photos\\a1.jpg"),
    "a network drive": (change("a1.jpg", "\\\\nas\\photos\\a1.jpg"), {}, OUTSIDE % "\\\\nas\\photos\\a1.jpg"),
    "missing images": (
        change("a1.jpg", "x1.jpg").replace("b1.jpg", "y1.jpg"),
        {},
        f"2 images of photos.csv (column file) missing in {{root}}: x1.jpg, y1.jpg. {NO_FILES}",
    ),
    "a folder as an image": (
        change("a1.jpg", "sub"),
        {},
        f"1 image of photos.csv (column file) missing in {{root}}: sub. {NO_FILES}",
    ),
    "numbers instead of files": (
        change("file", "id")
        .replace("a1.jpg", "1")
        .replace("a2.jpg", "2")
        .replace("b1.jpg", "3")
        .replace("b2.jpg", "4"),
        {},
        "4 images of photos.csv (column id) missing in {root}: 1, 2, 3, 4. "
        "Pass another --image-root, or --image-column with one of id, kind, patient.",
    ),
    "another case of the file": (
        change("a1.jpg", "A1.jpg"),
        {},
        "1 image of photos.csv (column file) missing in {root}: A1.jpg. Did you mean a1.jpg?",
    ),
    "another extension": (
        change("a1.jpg", "sub/c1.jpg"),
        {},
        "1 image of photos.csv (column file) missing in {root}: sub/c1.jpg. Did you mean sub/c1.png?",
    ),
    "a folder too many": (
        change("a1.jpg", "train/a1.jpg"),
        {},
        "1 image of photos.csv (column file) missing in {root}: train/a1.jpg. Did you mean a1.jpg?",
    ),
    "a folder twice": (
        change("a1.jpg", "images/a1.jpg"),
        {},
        "1 image of photos.csv (column file) missing in {root}: images/a1.jpg. Did you mean --image-root {folder}?",
    ),
    "a folder too few": (
        TABLE,
        {"image_root": None},
        "4 images of photos.csv (column file) missing in {folder}: a1.jpg, a2.jpg, b1.jpg, b2.jpg. "
        "Did you mean --image-root {root}?",
    ),
    "another label": (
        TABLE + "a1.jpg,dog,p1\n",
        {},
        "1 image with different labels or groups in photos.csv: a1.jpg (cat p1, dog p1). Keep one row for each image.",
    ),
    "another group": (
        TABLE + "a1,cat,p2\n",
        {},
        "1 image with different labels or groups in photos.csv: a1.jpg (cat p1, cat p2). Keep one row for each image.",
    ),
    "another label without groups": (
        TABLE + "a1.jpg,dog,p1\n",
        {"group": None},
        "1 image with different labels or groups in photos.csv: a1.jpg (cat, dog). Keep one row for each image.",
    ),
    "one class": (
        change("dog", "cat"),
        {},
        "All images have the same kind, cat. Add images of a second class or pass other labels.",
    ),
    "a class of one group": (
        change("b2.jpg,dog", "b2.jpg,cat"),
        {},
        f"1 class of the label kind {LONELY}: dog (p1). {ADVICE}",
    ),
    "a class of one image": (
        change("a1.jpg,cat", "a1.jpg,dog"),
        {"group": None},
        f"1 class of the label kind {LONELY}: cat (b1.jpg). {ADVICE}",
    ),
    "one group": (change("p2", "p1"), {}, f"2 classes of the label kind {LONELY}: cat (p1), dog (p1). {ADVICE}"),
    "decimals": (
        change("cat", "36.5").replace("dog", "40"),
        {},
        "The label kind has 2 different numbers in 4 rows, such as 36.5, which do not look like classes. "
        "Pass --regression to predict them, or another --label.",
    ),
    "decimal commas": (
        TABLE.replace(",", ";").replace("cat", "36,5").replace("dog", "40"),
        {},
        "The label kind has 2 different numbers in 4 rows, such as 36,5, which do not look like classes. "
        "Pass --regression to predict them, or another --label.",
    ),
    "one fold": (
        change("kind,patient", "site,kind,patient").replace(".jpg,", ".jpg,A,"),
        {"fold_column": "site"},
        "All images have the same site, A. Pass another --folds-from.",
    ),
    "a group in two folds": (
        change("kind,patient", "site,kind,patient").replace("1.jpg,", "1.jpg,A,").replace("2.jpg,", "2.jpg,B,"),
        {"fold_column": "site"},
        "2 groups with several values of site: p1 (A, B), p2 (A, B). Give the images of a group one fold.",
    ),
    "no fold in a row": (
        change("kind,patient", "f,kind,patient")
        .replace("a1.jpg,", "a1.jpg,,")
        .replace("2.jpg,", "2.jpg,B,")
        .replace("b1.jpg,", "b1.jpg,A,")
        .replace("p1", "p3", 1),
        {"fold_column": "f"},
        "1 row of photos.csv without f: a1.jpg. Fill in the cells.\n"
        "1 group with several values of f: p2 (A, B). Give the images of a group one fold.\n"
        f"1 class of the label kind {LONELY}: cat (p2). {ADVICE}",
    ),
    "many at once": (
        change("a1.jpg", "/a1.jpg").replace("b1.jpg", "b9.jpg") + "a2.jpg,cat,p1\nsub/c1.png,owl,p3\n",
        {},
        "1 image of photos.csv outside of {root}: /a1.jpg. Write paths relative to --image-root.\n"
        f"1 image of photos.csv (column file) missing in {{root}}: b9.jpg. {NO_FILES}\n"
        "1 image with different labels or groups in photos.csv: a2.jpg (dog p1, cat p1). "
        "Keep one row for each image.\n"
        f"1 class of the label kind {LONELY}: owl (p3). {ADVICE}",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_and_options(read, tmp_path, monkeypatch, name):
    text, options, expected = WRONG[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        if text is None:
            read_csv_layout(tmp_path / "photos.csv", **REQUIRED)
        read(text, **options).report.raise_errors()
    places = {"{csv}": "photos.csv", "{root}": "images", "{folder}": ""}
    for place, path in places.items():
        expected = expected.replace(place, str(tmp_path / path))
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("value", "kind", "advice"),
    [("{}", "numbers", "--regression to predict them, or another"), ("name {}", "texts", "another")],
)
def test_labels_that_differ_in_most_rows(read, value, kind, advice):
    files = [f"{k}.jpg" for k in range(150)]
    text = "file,kind,patient\n" + "".join(f"{k}.jpg,{value.format(k % 120)},p{k % 9}\n" for k in range(150))
    assert read(text, files=files).report.errors == [
        f"The label kind has 120 different {kind} in 150 rows, such as {value.format(0)}, which do not look like "
        f"classes. Pass {advice} --label."
    ]


def test_rows_with_errors_do_not_stop_the_others(read):
    labels = read(TABLE + "/x.jpg,cat,p1\nx.jpg,dog,p2\n,cat,p1\n")
    assert (len(labels.report.errors), len(labels.table)) == (3, 4)


def test_no_image_at_all(read):
    labels = read(TABLE, files=(), image_root=None, group=None)
    assert (len(labels.table), len(labels.report.errors)) == (0, 1)
    blank = read("file,kind,patient\n,1.5,p1\n", regression=True)
    assert (len(blank.table), len(blank.report.errors)) == (0, 1)
    assert list(labels.table)[:5] == ["image", "path", "person", "kind", "label"]
    blank = read("file,kind,patient,f\n,cat,p1,1\n", fold_column="f")
    assert len(blank.table) == 0
    assert blank.report.errors == ["1 row of photos.csv without file: line 2. Fill in the cells."]


# ------------------------------------------------------------------------------------------------ images to predict


def test_a_list_of_images_to_predict_keeps_its_order_and_its_ids(tmp_path):
    for name in FILES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    (tmp_path / "test.csv").write_text("image_id;site\nb1;north\nsub/c1;south\na1;north\n")
    images = read_csv_list(tmp_path / "test.csv", image_root=tmp_path / "images")
    assert images.ids == ["b1", "sub/c1", "a1"]
    assert [path.name for path in images.paths] == ["b1.jpg", "c1.png", "a1.jpg"]
    (tmp_path / "test.csv").write_text("file\nb1.jpg\n\nx.jpg\nb1.jpg\n")
    with pytest.raises(UserError) as error:
        read_csv_list(tmp_path / "test.csv", image_root=tmp_path / "images")
    assert str(error.value).splitlines() == [
        "1 image listed twice in test.csv: b1.jpg.",
        f"1 image of test.csv (column file) missing in {tmp_path / 'images'}: x.jpg. Pass another --image-root, or "
        "--image-column with one of file.",
    ]
