"""Folders of images for each class."""

import os

import pytest

from data.folder_layout import read_folder_layout
from data.prediction_files import read_prediction_list
from utils import UserError

ENDINGS = ".jpg, .jpeg, .png, .bmp, .webp, .gif, .tif, .tiff, .avif, .jp2, .jfif, .ppm, .pgm"
FILES = ("10/p1_1.jpg", "10/p2_1.JPG", "9/deep/er/p1_2.webp", "9/p2_2.png")
REGEX = r"^(p\d+)"


@pytest.fixture
def make(tmp_path):
    """make(*files) writes empty files into the folder photos and returns it; names with a last / are folders."""

    def write(*files):
        for name in ("", *files):
            path = tmp_path / "photos" / name
            (path if name.endswith("/") or not name else path.parent).mkdir(parents=True, exist_ok=True)
            if not path.is_dir():
                path.touch()
        return tmp_path / "photos"

    return write


def test_classes_are_folders_and_groups_come_from_file_names(make):
    root = make(*FILES)
    tasks, table, report = read_folder_layout(root, group_regex=REGEX)
    assert (report.errors, report.notes) == ([], [])
    assert (tasks["class"].classes, tasks["class"].of_group) == (("9", "10"), False)
    assert table.to_dict("list") == {
        "image": list(FILES),
        "path": [str(root / name) for name in FILES],
        "person": ["p1", "p2", "p1", "p2"],
        "class": [1, 1, 0, 0],
        "label": [1, 1, 0, 0],
    }
    assert str(table["class"].dtype) == str(table["label"].dtype) == "int64"


@pytest.mark.parametrize("regex", [REGEX, r"p\d", "^p[12]", r"(?i)(P.)_", r"(?:x|(p\d))_"])
def test_a_regex_with_and_without_a_group(make, regex):
    assert read_folder_layout(make(*FILES), group_regex=regex).table["person"].tolist() == ["p1", "p2", "p1", "p2"]


def test_the_label_has_the_given_name(make):
    tasks, table, _ = read_folder_layout(make(*FILES), group_regex=REGEX, label="grade")
    assert (list(tasks), list(table)) == (["grade"], ["image", "path", "person", "grade", "label"])


def test_without_a_regex_each_image_is_its_own_group(make):
    _, table, report = read_folder_layout(make("cat/a.jpg", "cat/b.jpg", "dog/c.jpg", "dog/d.jpg"))
    assert table["person"].tolist() == table["image"].tolist()
    advice = r"Pass --group-regex, such as '^(P\d+)',"
    whole = f"Each image is its own group. {advice} if several images show the same person or object."
    assert (report.errors, report.notes) == ([], [whole])


def test_numbered_series_across_classes_are_noted(make):
    names = (f"{('cat', 'dog')[i]}/x{k}_{i}.jpg" for k in range(50) for i in range(2))
    assert read_folder_layout(make(*names)).report.notes[1:] == [
        "Images seem to be numbered within groups: x0_..., x10_..., x11_... and 47 more. "
        r"Pass --group-regex, such as '^(P\d+)', if they are."
    ]


def test_folders_to_train_on_and_to_predict_have_the_same_images(make):
    root = make("cat/a.TIF", "cat/b.gif", "cat/c.tiff", "dog/d.avif", "dog/e.jfif", "dog/f.heic")
    table = read_folder_layout(root).table
    assert table["image"].tolist() == ["cat/a.TIF", "cat/b.gif", "cat/c.tiff", "dog/d.avif", "dog/e.jfif"]
    assert read_prediction_list(root).ids == table["image"].tolist()


def test_files_that_are_no_images_of_a_class_are_noted(make):
    root = make(
        *FILES, "a.jpg", "z.PNG", "notes.txt", "9/notes.md", ".DS_Store", "9/._p2_2.png", ".cache/a.jpg", "@eaDir/b.jpg"
    )
    _, table, report = read_folder_layout(root, group_regex=REGEX)
    assert (len(table), report.errors) == (4, [])
    assert report.notes == [
        f"2 files in {root} left out: 9/notes.md, notes.txt. Names of images end in {ENDINGS}.",
        "3 hidden files left out: .DS_Store, .cache, 9/._p2_2.png.",
        f"2 images in {root} itself, left out: a.jpg, z.PNG. Move images into the folder of their class.",
    ]


def test_spellings_of_folders_and_groups_are_noted(make):
    files = ("Cat/p1_1.jpg", "Cat/P1_1.jpg", "cat/p1_2.jpg", "cat/P1_2.jpg")
    report = read_folder_layout(make(*files), group_regex="(?i)p1").report
    assert (report.errors, report.notes) == (
        [],
        [
            "1 class in several spellings, kept apart: Cat / cat. Correct them if they mean the same.",
            "1 group in several spellings, kept apart: P1 / p1. Correct them if they mean the same.",
        ],
    )


def test_linked_folders_are_classes(make, tmp_path):
    root = make(*FILES)
    (root / "9").rename(tmp_path / "nine")
    os.symlink(tmp_path / "nine", root / "9")
    assert len(read_folder_layout(root, group_regex=REGEX).table) == 4


RESERVED = "has a slash or only dots, or is image, path, person, label or fold, which the toolkit uses"
WRONG = {
    "no folder": (None, {}, "There is no folder {root}. Pass another --data."),
    "nothing": ((), {}, "{root} has no folders. Create one for each class, with its images."),
    "only files": (("a.jpg", ".git/b.jpg"), {}, "{root} has no folders. Create one for each class, with its images."),
    "parts of a split": (
        ("train/cat/a.jpg", "Val/cat/a.jpg", "test/cat/a.jpg"),
        {},
        "The folders of {root} are not classes but parts: Val, test, train. Pass --data {root}/train.",
    ),
    "one part": (
        ("train/a.jpg",),
        {},
        "The folders of {root} are not classes but parts: train. Pass --data {root}/train.",
    ),
    "one class": (
        ("cat/p1.jpg", "cat/p2.jpg"),
        {},
        "All images have the same class, cat. Add images of a second class or pass other labels.",
    ),
    "empty folders": (
        (*FILES, "owl/", "ant/notes.txt"),
        {},
        f"2 folders of {{root}} without images ({ENDINGS}): ant, owl. Add images or delete the folder.",
    ),
    "all empty": (
        ("cat/", "dog/"),
        {},
        f"2 folders of {{root}} without images ({ENDINGS}): cat, dog. Add images or delete the folder.",
    ),
    "wrong regex": (
        FILES,
        {"group_regex": "(p"},
        "--group-regex '(p' is not a regular expression (missing ), unterminated subpattern at position 0). "
        "Correct it.",
    ),
    "no match": (
        (*FILES, "9/x.jpg", "10/p.jpg"),
        {"group_regex": REGEX},
        r"2 images whose file name has no match of --group-regex '^(p\d+)': 10/p.jpg, 9/x.jpg. "
        "Correct it or rename images.",
    ),
    "an empty match": (
        FILES,
        {"group_regex": "p1()|p2"},
        "4 images whose file name has no match of --group-regex 'p1()|p2': "
        "10/p1_1.jpg, 10/p2_1.JPG, 9/deep/er/p1_2.webp, "
        "9/p2_2.png. Correct it or rename images.",
    ),
    "a class of one group": (
        ("cat/p1_1.jpg", "cat/p2_1.jpg", "dog/p1_2.jpg", "dog/p1_3.jpg"),
        {"group_regex": REGEX},
        "1 class of the label class in a single group, which no fold can both train on and validate: dog (p1). "
        "Add images of other groups or remove the class.",
    ),
    "a label named fold": (FILES, {"label": "fold"}, f"1 label whose name {RESERVED}: fold. Use another name."),
    "a label with a slash": (FILES, {"label": "a/b"}, f"1 label whose name {RESERVED}: a/b. Use another name."),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_folders_and_options(make, tmp_path, name):
    files, options, expected = WRONG[name]
    with pytest.raises(UserError) as error:
        if files is not None:
            make(*files)
        read_folder_layout(tmp_path / "photos", **options).report.raise_errors()
    assert str(error.value) == expected.replace("{root}", str(tmp_path / "photos"))
