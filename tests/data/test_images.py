"""ImageReader: read as a person would see them, or named with the reason why not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data.images import find_identical_files, find_unreadable, needed_side, read_image
from data.tables import read_training_table
from utils import UserError


def test_a_photograph_is_turned_as_its_exif_tag_says(tmp_path):
    pixels = np.zeros((64, 48, 3), np.uint8)
    pixels[:32] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise when shown
    Image.fromarray(pixels).rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    got = np.asarray(read_image(tmp_path / "turned.jpg"))
    assert got.shape == (64, 48, 3)
    assert got[:24].min() > 200
    assert got[40:].max() < 50


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "RGB"])
def test_any_png_is_read_as_rgb(tmp_path, mode):
    grey = Image.new("L", (48, 64), 0)
    grey.paste(255, (0, 0, 48, 32))
    grey.convert(mode).save(tmp_path / "x.png")
    got = read_image(tmp_path / "x.png")
    assert (got.mode, got.size) == ("RGB", (48, 64))
    assert (got.getpixel((5, 5)), got.getpixel((5, 60))) == ((255, 255, 255), (0, 0, 0))


def test_pictures_that_cannot_be_decoded_are_found(small_data, make_photo, tmp_path):
    whole = small_data.photo(0).read_bytes()
    bad = {"cut.jpg": whole[: len(whole) // 2], "tail.jpg": whole[:-40], "empty.jpg": b"", "text.jpg": b"not a picture"}
    png = make_photo(tmp_path / "good.png").read_bytes()
    bad["cut.png"] = png[: len(png) // 2]
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read as an image"):
            read_image(tmp_path / name)
    paths = [small_data.photo(1), *(tmp_path / name for name in bad), tmp_path / "good.png", tmp_path / "gone.jpg"]
    sentences = find_unreadable(paths)
    assert list(sentences) == [str(path) for path in [*paths[1:-2], paths[-1]]]
    for path, sentence in sentences.items():
        assert sentence.startswith(f"{path} cannot be read as an image (")
        assert "\n" not in sentence


def test_a_tiny_picture_can_be_checked(make_photo, tmp_path):
    assert find_unreadable([make_photo(tmp_path / "tiny.jpg", size=(6, 6))]) == {}


def test_identical_files_are_found(small_data, tmp_path, make_photo):
    first, second = make_photo(tmp_path / "a.jpg"), tmp_path / "b.jpg"
    second.write_bytes(first.read_bytes())
    longer = tmp_path / "c.jpg"
    longer.write_bytes(first.read_bytes() + b"\x00")
    assert find_identical_files([first, small_data.photo(0), second, longer]) == [[str(first), str(second)]]
    table, _ = read_training_table(small_data.train_root)
    assert find_identical_files(table.path) == []


# ------------------------------------------------------------------------------------------------ shrinking


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((48, 64), 48, (48, 64)),
        ((48, 64), 25, (48, 64)),  # half would be too small
        ((48, 64), 24, (24, 32)),
        ((480, 640), 100, (120, 160)),
        ((640, 480), 150, (213, 160)),
        ((100, 1000), 9, (9, 91)),
        ((1000, 1000), 90, (91, 91)),
        ((6, 6), 224, (6, 6)),
        ((5, 500), 1, (1, 100)),
    ],
)
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_photograph_is_shrunk_to_no_less_than_what_is_needed(size, side, expected, extension, make_photo, tmp_path):
    image = read_image(make_photo(tmp_path / f"x{extension}", size=size), side)
    assert (image.mode, image.size) == ("RGB", expected)
    assert min(image.size) >= min(side, *size)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_shrunk_photograph_is_the_mean_of_the_pixels_it_stands_for(extension, tmp_path):
    across, down = np.meshgrid(np.linspace(0, 255, 600), np.linspace(0, 255, 400))
    pixels = np.stack([across, down, np.full_like(across, 128)], axis=2).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"x{extension}", quality=95)
    got = np.asarray(read_image(tmp_path / f"x{extension}", 66), np.float64)  # by 6: JPEGs by 4 in the decoder
    assert got.shape == (67, 100, 3)
    expected = np.asarray(Image.fromarray(pixels).resize((100, 67), Image.Resampling.BOX), np.float64)
    assert np.abs(got - expected).max() < 4


def test_a_photograph_that_is_turned_and_shrunk(tmp_path):
    pixels = np.zeros((640, 480, 3), np.uint8)
    pixels[:320] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    got = np.asarray(read_image(tmp_path / "turned.jpg", 100))
    assert got.shape == (160, 120, 3)
    assert got[:78].min() > 200
    assert got[82:].max() < 50


@pytest.mark.parametrize("image_size", [32, 112, 224])
def test_the_smallest_crop_of_a_shrunk_photograph_still_fills_the_network(image_size):
    side = needed_side(image_size)
    for ratio in (3 / 4, 4 / 3):
        width, height = (side**2 * 0.08 * ratio) ** 0.5, (side**2 * 0.08 / ratio) ** 0.5
        assert min(width, height) >= image_size - 1e-9
