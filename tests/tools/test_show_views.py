"""Test that the sheets of show_views show the exact pixels of training, validation and prediction."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import view_sheets
from analysis.contact_sheet import FOUND, HIGHLIGHT, WIDTH, Block, Cell, contact_sheet
from augmentation import VIEWS, build_transform, to_image
from cli.choices import TRANSFORMS
from config import TrainConfig
from data.face_box import face_crop_box
from data.faces import FACES, MAIN_CLASSES
from data.images import needed_side, read_image
from data.prepare import prepare_images, read_tables
from tools.show_views import spread
from training.loaders import fold_loaders

SMALL = ("--image-size", 32, "--draws", 2)


@pytest.fixture
def show(run, tmp_path, monkeypatch):
    """Run the command; return its output and what it drew: {file stem: (title, notes, blocks)}."""
    drawn = []

    def record(title, notes, blocks, **options):
        drawn.append((title, notes, blocks))
        return contact_sheet(title, notes, blocks, **options)

    monkeypatch.setattr(view_sheets, "contact_sheet", record)

    def command(*words):
        drawn.clear()
        outcome = run("show_views", *SMALL, "--save-path", tmp_path / "views", *words).assert_success()
        assert outcome.err == ""
        files = [line for line in outcome.out.splitlines() if line.endswith(".jpg")]
        return outcome.out, {file.rsplit("/", 1)[-1][:-4]: page for file, page in zip(files, drawn, strict=True)}

    return command


@pytest.fixture
def training_set(small_data):
    """Return what a training of the transform loads in fold 0, for --cv 3, seed 5 and 32 px."""

    def make(transform):
        options = {"train_root": str(small_data.train_root), "transform_type": transform, "oversample": True}
        config = TrainConfig(**options, cv=3, seed=5, image_size=32, num_workers=0)
        tables = read_tables(train_root=config.train_root, cv=3, seed=5)
        data = prepare_images(tables, side=needed_side(32), max_megapixels=100, on_bad_image="stop")
        return fold_loaders(config, data, (0,), torch.device("cpu"))[0][0].dataset

    return make


def same(picture, tensor):
    return np.array_equal(np.asarray(picture), np.asarray(to_image(tensor)))


def cells(block):
    return {cell.label: cell for line in [*block.lines, block.large] for cell in line}


def captions(page):
    """Return what the captions of a page say before the label."""
    return [block.caption.split(":")[0] for block in page[2]]


def test_a_sheet_for_each_transform_and_one_of_mixup(show, small_data, tmp_path):
    out, drawn = show("--train-root", small_data.train_root)
    files = [tmp_path / "views" / f"{name}.jpg" for name in (*TRANSFORMS, "mixup")]
    assert list(drawn) == [*TRANSFORMS, "mixup"]
    assert {str(path) for path in files} <= set(out.splitlines())
    assert sorted((tmp_path / "views").iterdir()) == sorted(files)
    assert all(read_image(path).width == WIDTH for path in files)
    for name in TRANSFORMS:
        title, _, blocks = drawn[name]
        assert (title, len(blocks)) == (f"{name}, 32 px", 4)
        assert {len(cells(block)) for block in blocks} == {2 + len(VIEWS) + 2}  # draws, views, the image, validation


def test_images_are_shown_as_the_weights_of_a_backbone_expect(show, small_data):
    words = ("--model-type", "VanillaTorchvision", "--backbone", "resnet18", "--transform-type", "base")
    _, drawn = show("--train-root", small_data.train_root, *words)
    for block in drawn["base"][2]:
        image = read_image(small_data.train_root / block.caption.split(": ")[0])
        square = image.resize((36, 48), Image.Resampling.BILINEAR).crop((2, 8, 34, 40))  # 0.875 of the shorter side
        assert np.array_equal(np.asarray(cells(block)["validation"].picture), np.asarray(square))


@pytest.mark.parametrize(
    ("transform", "size"), [("random", ()), ("facecrop", ()), ("random", ("--image-size", 64, "--train-side", 0.5))]
)
def test_training_draws_are_those_of_training(transform, size, show, small_data, training_set):
    words = ("--train-root", small_data.train_root, "--cv", 3, "--seed", 5, "--transform-type", transform, *size)
    _, drawn = show(*words, "--draws", 8, "--count", 5)
    train = training_set(transform)
    assert list(drawn) == [transform, "mixup"]
    assert len(drawn[transform][2]) == 5
    for block in drawn[transform][2]:
        image, name = block.caption.split(": ")
        index = train.paths.index(str(small_data.train_root / image))
        assert name == MAIN_CLASSES[train.targets["main"][index]]
        for epoch in range(8):
            assert same(cells(block)[f"training, epoch {epoch}"].picture, train[epoch, index][0])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_other_views_are_those_of_validation_and_prediction(transform, show, small_data):
    _, drawn = show("--train-root", small_data.train_root, "--transform-type", transform, "--count", 1)
    (block,), (image,) = drawn[transform][2], captions(drawn[transform])
    original, shown = read_image(small_data.train_root / image), cells(block)
    assert same(shown["validation"].picture, build_transform(transform, "valid", 32)(original))
    inference = build_transform(transform, "inference", 32)
    for number, view in enumerate(VIEWS):
        name = "random" if transform == "tta" else view.name
        assert same(shown[f"{number + 1} {name}"].picture, inference(original, number, image))


def test_mixtures_are_those_of_training(show, small_data, training_set):
    words = ("--train-root", small_data.train_root, "--cv", 3, "--seed", 5, "--transform-type", "random")
    _, drawn = show(*words, "--count", 20)
    train = training_set("random")
    _, notes, blocks = drawn["mixup"]
    assert set(captions(drawn["mixup"])) == {MAIN_CLASSES[c] for c in train.extra}
    assert f"{len(blocks)} are shown" in notes[1]
    for block, name in zip(blocks, captions(drawn["mixup"]), strict=True):
        label = MAIN_CLASSES.index(name)
        index = len(train.paths) + train.extra.tolist().index(label)
        mixture = train.mixture(0, index)
        first, first_drawn, second, second_drawn, both = block.lines[0]
        assert same(both.picture, train[0, index][0])
        rows = [train.paths.index(str(small_data.train_root / cell.label)) for cell in (first, second)]
        assert rows == list(mixture.rows)
        assert train.people[rows[0]] != train.people[rows[1]]
        assert (train.targets["main"][rows] == label).all()
        assert first_drawn.label == f"as cropped, {mixture.share:.0%}"
        assert second_drawn.label == f"as cropped, {1 - mixture.share:.0%}"


def test_classes_of_one_person_are_listed(show, make_data, make_person):
    people = [make_person(f"{k}", "male", 20) for k in range(8)] + [make_person("8", "female", 60)]
    data = make_data(people=people, shots=["normal", "mask1", "mask2"])
    out, drawn = show("--train-root", data.train_root, "--cv", 9, "--seed", 1)
    note = "Not mixed, with images of one person only: worn female >=60, bare female >=60."
    assert f"mixup: {note}" in out
    assert note in drawn["mixup"][1]
    assert set(captions(drawn["mixup"])) <= {"bare male <30"}


def test_nothing_to_mix_is_reported(show, make_data, make_person):
    data = make_data(people=[make_person(f"{k}") for k in range(4)], shots=["normal"])
    out, drawn = show("--train-root", data.train_root, "--cv", 2)
    assert "mixup: --oversample adds nothing" in out
    assert drawn["mixup"][2] == []


def test_the_box_shows_the_face_or_the_centre(show, tmp_path):
    bands = np.full((128, 96, 3), 200, np.uint8)
    bands[40:90] = 40
    Image.fromarray(bands).save(tmp_path / "face.png")
    Image.new("RGB", (96, 128), (90, 90, 90)).save(tmp_path / "flat.png")
    words = ("--images", f"{tmp_path / 'face.png'},{tmp_path / 'flat.png'}", "--transform-type")
    out, drawn = show(*words, "facecrop")
    assert "no face was found in 1 of 2 images" in out
    for block, found in zip(drawn["facecrop"][2], (True, False), strict=True):
        original = block.large[0]
        assert (original.box, not original.highlight) == face_crop_box(original.picture)
        assert original.highlight is not found
        assert original.label.startswith("box: the face" if found else "no face found")
    _, drawn = show(*words, "base")
    assert all(block.large[0].box is None for block in drawn["base"][2])


def test_images_are_spread_over_people_and_shots():
    rows = [(f"p{p}", m, m * 6 + p % 6) for p in range(50) for m in (0, 0, 0, 0, 0, 1, 2)]
    table = pd.DataFrame(rows, columns=["person", "mask", "label"])
    orders = [list(spread(table, FACES, seed)) for seed in range(5)]
    for order in orders:
        assert sorted(order) == list(range(350))
        first = table.loc[order[:6]]
        assert (first["person"].nunique(), first["label"].nunique()) == (6, 6)
        assert first["mask"].value_counts().to_dict() == {0: 2, 1: 2, 2: 2}
    assert len({tuple(order[:6]) for order in orders}) == 5


def test_the_same_command_draws_the_same(show, small_data, tmp_path):
    pages = []
    for seed in (42, 42, 7):
        show("--train-root", small_data.train_root, "--transform-type", "random", "--seed", seed)
        pages.append({path: path.read_bytes() for path in (tmp_path / "views").iterdir()})
    assert pages[0] == pages[1] != pages[2]


def test_a_folder_and_a_name_with_a_comma(show, make_photo, tmp_path):
    for name in ("a,b.jpg", "c.PNG", "d.webp", ".hidden.jpg"):
        make_photo(tmp_path / "some" / name)
    (tmp_path / "some" / "notes.txt").touch()
    words = ("--transform-type", "base", "--images")
    out, drawn = show(*words, tmp_path / "some")
    assert set(captions(drawn["base"])) == {"a,b.jpg", "c.PNG", "d.webp"}
    assert "Only 3 of 4 images can be shown." in out
    assert "mixup" not in drawn
    _, drawn = show(*words, tmp_path / "some", "--count", 1)
    assert len(drawn["base"][2]) == 1
    _, drawn = show(*words, tmp_path / "some" / "a,b.jpg")
    assert captions(drawn["base"]) == ["a,b.jpg"]


def test_unreadable_images_are_left_out_and_listed(show, make_data, make_person):
    people = [make_person(f"{k}") for k in range(6)]
    data = make_data(people=people, shots=["normal", "mask1", "mask2", "incorrect_mask"])
    for number in range(6):
        data.photo(number).write_bytes(b"no picture")
    out, drawn = show("--train-root", data.train_root, "--cv", 2)
    assert len(drawn["base"][2]) == 4
    assert not any("normal" in caption for caption in captions(drawn["base"]))
    assert "normal.jpg cannot be read as an image (its format is unknown)" in out
    assert "Left out of mixup: " in out
    assert captions(drawn["mixup"]) == ["wrong male <30"]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 500), (33, 47), (1500, 1000)])
def test_images_of_odd_sizes(size, show, make_photo, tmp_path):
    _, drawn = show("--images", make_photo(tmp_path / "odd.png", size=size))
    assert len(drawn) == len(TRANSFORMS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--images lost.jpg,photo.jpg", "--images names files that do not exist: lost.jpg."),
        ("--images ,", "--images names no files."),
        ("--images empty", "empty contains no images"),
        ("--images broken.jpg", "There is no readable image: broken.jpg cannot be read as an image"),
        ("--images photo.jpg,empty --cv 2", "--cv cannot be used with --images"),
        ("--images photo.jpg --max-megapixels 0.002", "more than --max-megapixels 0.002"),
        (f"--images {','.join(['photo.jpg'] * 21)}", "--images names 21 files. Pass at most 20, or a folder."),
        ("--images photo.jpg --save-path broken.jpg/views", "broken.jpg/views: Not a directory."),
        ("--count 21", "--count must be at most 20. Got 21."),
        ("--draws 61", "--draws must be at most 60. Got 61."),
        ("--seed 4294967296", "--seed must be below 4294967296"),
        ("--train-root people", "1 folder whose name is not"),
    ],
)
def test_user_errors_are_reported_in_one_line(words, message, run, make_photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photo(tmp_path / "photo.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "people" / "someone").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    options = () if "--save-path" in words else ("--save-path", "views")
    run("show_views", *options, *words.split()).assert_error(message)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_the_name_of_a_sheet_is_an_error(run, make_photo, tmp_path):
    (tmp_path / "views" / "base.jpg").mkdir(parents=True)
    photo = make_photo(tmp_path / "photo.jpg")
    words = ("--images", photo, "--save-path", tmp_path / "views")
    run("show_views", *SMALL, *words).assert_error("base.jpg could not be written", code=1)


def test_pictures_and_their_boxes_are_on_the_page():
    large = Cell("image", Image.new("RGB", (300, 400), (9, 9, 200)), box=(30, 40, 150, 200))
    small = [Cell("", Image.new("RGB", (32, 32), colour)) for colour in ((200, 9, 9), (9, 100, 9), (123, 45, 67))]
    page = contact_sheet("title", ["a note"], [Block("caption", [small[:2], small[2:]], [large])])
    counts = {colour: count for count, colour in page.getcolors(1 << 24)}
    assert [counts[cell.picture.getpixel((0, 0))] for cell in small] == [150 * 150] * 3
    assert FOUND in counts and HIGHLIGHT not in counts
    pixels = np.asarray(page)
    rows, columns = np.nonzero((pixels == FOUND).all(axis=2))
    blue_rows, blue_columns = np.nonzero((pixels == (9, 9, 200)).all(axis=2))
    width, height = (np.ptp(places) + 1 for places in (blue_columns, blue_rows))
    assert width / height == pytest.approx(3 / 4, abs=0.01)
    assert (columns.min() - blue_columns.min()) / width == pytest.approx(0.1, abs=0.01)
    assert (rows.min() - blue_rows.min()) / height == pytest.approx(0.1, abs=0.01)
    assert np.ptp(columns) / width == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["n" * 5000, "two\nlines\t" * 20, "bad\udcff.jpg", "얼굴.jpg", "", " "])
def test_any_name_fits_into_its_space(name):
    dark = Image.new("RGB", (10, 10))
    page = contact_sheet(name, ["a note"], [Block(name, [[Cell(name, dark)] * 6], [Cell(name, dark)] * 2)])
    assert (np.asarray(page)[:, WIDTH - 8 :] == 255).all()
