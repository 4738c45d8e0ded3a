"""Pictures: read as a person would see them, or named with the reason why not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from config import UserError
from picture import identical_files, read_image, unreadable_images
from table import read_training_table


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
        with pytest.raises(UserError, match=rf"{name} cannot be read as a picture"):
            read_image(tmp_path / name)
    paths = [small_data.photo(1), *(tmp_path / name for name in bad), tmp_path / "good.png", tmp_path / "gone.jpg"]
    sentences = unreadable_images(paths)
    assert list(sentences) == [str(path) for path in [*paths[1:-2], paths[-1]]]
    for path, sentence in sentences.items():
        assert sentence.startswith(f"{path} cannot be read as a picture (")
        assert "\n" not in sentence


def test_a_tiny_picture_can_be_checked(make_photo, tmp_path):
    assert unreadable_images([make_photo(tmp_path / "tiny.jpg", size=(6, 6))]) == {}


def test_identical_files_are_found(small_data, tmp_path, make_photo):
    first, second = make_photo(tmp_path / "a.jpg"), tmp_path / "b.jpg"
    second.write_bytes(first.read_bytes())
    longer = tmp_path / "c.jpg"
    longer.write_bytes(first.read_bytes() + b"\x00")
    assert identical_files([first, small_data.photo(0), second, longer]) == [[str(first), str(second)]]
    table, _ = read_training_table(small_data.train_root)
    assert identical_files(table.path) == []
