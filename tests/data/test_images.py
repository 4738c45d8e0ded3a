"""Images read as RGB, shrunk to what a network can use, or reported with the reason."""

import numpy as np
import pytest
from PIL import Image

from data.face_layout import read_training_table
from data.images import find_identical_files, find_unreadable, needed_side, read_image, read_thumbnail
from utils import UserError


def save_rotated(path, size):
    """Save an image whose upper half is white and whose EXIF tag says that it must be turned by 90 degrees."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).rotate(90, expand=True).save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize(
    ("size", "side", "expected"), [((48, 64), None, (48, 64)), ((480, 640), 100, (120, 160))], ids=str
)
def test_an_image_is_rotated_by_its_exif_tag(size, side, expected, tmp_path):
    got = np.asarray(read_image(save_rotated(tmp_path / "turned.jpg", size), side))
    width, height = expected
    assert got.shape == (height, width, 3)
    assert got[: height // 2 - 8].min() > 200
    assert got[height // 2 + 8 :].max() < 50


def test_unreadable_images_are_found(small_data, make_photo, tmp_path):
    whole = small_data.photo(0).read_bytes()
    bad = {"cut.jpg": whole[: len(whole) // 2], "tail.jpg": whole[:-40], "empty.jpg": b"", "text.jpg": b"not an image"}
    png = make_photo(tmp_path / "good.png").read_bytes()
    bad["cut.png"] = png[: len(png) // 2]
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read as an image"):
            read_image(tmp_path / name)
    assert read_thumbnail(tmp_path / "cut.png", 20) is None
    paths = [small_data.photo(1), *(tmp_path / name for name in bad), tmp_path / "good.png", tmp_path / "gone.jpg"]
    faults = find_unreadable(paths)
    assert list(faults) == [str(path) for path in [*paths[1:-2], paths[-1]]]
    for path, fault in faults.items():
        assert fault.startswith(f"{path} cannot be read as an image (")
        assert "\n" not in fault


def test_a_tiny_image_can_be_checked(make_photo, tmp_path):
    path, sizes = make_photo(tmp_path / "tiny.jpg", size=(6, 7)), {}
    assert find_unreadable([path], sizes=sizes) == {}
    assert sizes == {str(path): (6, 7)}  # although a smaller one is decoded


def test_a_thumbnail_fits_its_side(make_photo, tmp_path):
    path = make_photo(tmp_path / "x.jpg", size=(480, 640))
    assert (read_thumbnail(path, 100).size, read_thumbnail(path, 1000).size) == ((75, 100), (480, 640))


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
def test_an_image_is_not_shrunk_below_the_side(size, side, expected, extension, make_photo, tmp_path):
    image = read_image(make_photo(tmp_path / f"x{extension}", size=size), side)
    assert (image.mode, image.size) == ("RGB", expected)
    assert min(image.size) >= min(side, *size)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_shrunk_image_has_the_mean_of_its_pixels(extension, tmp_path):
    across, down = np.meshgrid(np.linspace(0, 255, 600), np.linspace(0, 255, 400))
    pixels = np.stack([across, down, np.full_like(across, 128)], axis=2).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"x{extension}", quality=95)
    got = np.asarray(read_image(tmp_path / f"x{extension}", 66), np.float64)  # by 6: JPEGs by 4 in the decoder
    assert got.shape == (67, 100, 3)
    expected = np.asarray(Image.fromarray(pixels).resize((100, 67), Image.Resampling.BOX), np.float64)
    assert np.abs(got - expected).max() < 4


@pytest.mark.parametrize("crop_scale", [0.01, 0.05, 0.08, 0.35, 1.0])
@pytest.mark.parametrize("image_size", [32, 224])
def test_the_smallest_crop_of_a_shrunk_image_still_fills_the_network(image_size, crop_scale):
    side = needed_side(image_size, crop_scale)
    for ratio in (3 / 4, 4 / 3):
        width, height = (side**2 * crop_scale * ratio) ** 0.5, (side**2 * crop_scale / ratio) ** 0.5
        assert min(width, height) >= image_size - 1e-9
    assert (side > needed_side(image_size)) == (crop_scale < 0.08)
