"""Read image files as RGB, and find those that cannot be read."""

import hashlib
import math
import os
import stat
import struct
import threading
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils import UserError

Image.MAX_IMAGE_PIXELS = None  # --max-megapixels takes the place of Pillow's own limit
# Raised by Pillow on files that are truncated, damaged, or not images at all.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError, ArithmeticError),
    *(struct.error, zlib.error),
)
# Pillow reads some thirty formats more, such as PostScript, which it would pass to another program.
Image.init()
_FORMATS = tuple(
    set(Image.OPEN) & {"JPEG", "MPO", "PNG", "BMP", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO"}
)
_LARGE = 20e6  # pixels above which images are decoded one at a time, to save memory
_PORTION = 256  # files per submission to the thread pool


def needed_side(image_size: int, crop_scale: float = 0.08) -> int:
    """Return the shorter side in pixels below which a random crop has less detail than the network can see.

    The smallest crop has the share `crop_scale` of the area of the centre square and sides of 3 : 4. Crops above 0.08,
    torchvision's default, are counted as 0.08, so that images keep some pixels to spare.
    """
    return math.ceil(image_size / math.sqrt(min(crop_scale, 0.08) * 3 / 4))


def read_image(path: str | Path, side: int | None = None, max_megapixels: float | None = None) -> Image.Image:
    """Return an image as PIL RGB, as a viewer shows it.

    It is rotated by its EXIF tag, transparent pixels are white, of several frames the first is taken, and of 16 bits of
    grey the 8 highest. It is shrunk by the largest whole number that leaves the shorter side `side` pixels long, which
    also saves most of the decoding of a JPEG; None keeps all pixels.

    Raises:
        UserError: the file is missing, not an image, damaged, or larger than `max_megapixels`.
    """
    with warnings.catch_warnings(action="ignore"), _opened(path, max_megapixels) as image:
        return _to_rgb(image, side)


def read_thumbnail(path: str | Path, side: int) -> Image.Image | None:
    """Return an image whose longer side has at most `side` pixels, or None if it cannot be read."""
    try:
        image = read_image(path, side=side)
    except (UserError, OSError):
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


@contextmanager
def _opened(path: str | Path, max_megapixels: float | None = None) -> Iterator[Image.Image]:
    """Open an image; errors of the block are reported as those of the file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would block
            raise ValueError("it is a folder" if os.path.isdir(path) else "it is not a regular file")
        with Image.open(path, formats=_FORMATS) as image:
            megapixels = image.width * image.height / 1e6
            if max_megapixels is not None and megapixels > max_megapixels:
                size = f"{image.width} x {image.height} = {megapixels:.3g} megapixels"
                raise UserError(f"{path} has {size}, more than --max-megapixels {max_megapixels:g}.")
            yield image
    except UserError:
        raise
    except _DAMAGED as error:
        if isinstance(error, Image.UnidentifiedImageError):
            why = "it is empty" if os.path.getsize(path) == 0 else "its format is unknown"
        else:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({why}).") from None


def _to_rgb(image: Image.Image, side: int | None = None) -> Image.Image:
    times = 1 if side is None else max(1, min(image.size) // side)
    size = [max(1, round(length / times)) for length in image.size]
    if times > 1:
        image.draft("RGB", (image.width // times, image.height // times))  # JPEGs: by 2, 4 or 8, no smaller than this
    image.load()  # before the EXIF tag, which may be the damaged part
    decoded = image.size
    ImageOps.exif_transpose(image, in_place=True)
    if image.size != decoded:
        size.reverse()
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode == "I" or image.mode.startswith("I;"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    if image.mode != "RGB" or image.format not in ("JPEG", "MPO"):  # a loaded JPEG needs neither its file nor a copy
        image = image.convert("RGB")
    return image if times == 1 else image.resize(size, Image.Resampling.BOX)


def find_unreadable(
    paths: Sequence[str | Path],
    max_megapixels: float | None = None,
    *,
    side: int | None = None,
    keep: Callable[[str, Image.Image], None] | None = None,
    sizes: dict[str, tuple[int, int]] | None = None,
) -> dict[str, str]:
    """Return the images that cannot be read or are too large, as `{path: reason}` in the order of `paths`.

    Every file is decoded to its end. `keep` is called with each path and its image, shrunk to `side` as by
    `read_image`, by several threads at once. Without it, JPEGs are decoded at an eighth of their size, which is faster.
    `sizes` gets the width and height of each file, before its EXIF tag rotates it.
    """
    one_at_a_time = threading.Lock()

    def find_fault(path: str | Path) -> str | None:
        try:
            with (
                _opened(path, max_megapixels) as image,
                one_at_a_time if image.width * image.height > _LARGE else nullcontext(),
            ):
                if sizes is not None:
                    sizes[str(path)] = image.size
                if keep is None:
                    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                    _to_rgb(image)
                else:
                    keep(str(path), _to_rgb(image, side))
        except UserError as error:
            return str(error)
        return None

    faults, workers = {}, min(8, os.cpu_count() or 1)
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(workers) as pool:  # threads share it
        for start in range(0, len(paths), _PORTION):  # Ctrl-C waits for one portion, not for all files
            portion = paths[start : start + _PORTION]
            found = zip(portion, pool.map(find_fault, portion), strict=True)
            faults |= {str(path): fault for path, fault in found if fault}
    return faults


def stop_if_unreadable(unreadable: dict[str, str], on_bad_image: str) -> None:
    """Raise a UserError about the images of `find_unreadable`, if any, unless `on_bad_image` is "skip"."""
    if unreadable and on_bad_image == "stop":
        raise UserError("\n".join(unreadable.values()) + " Pass --on-bad-image skip to leave such images out.")


def find_identical_files(paths: Sequence[str | Path]) -> list[list[str]]:
    """Return groups of two or more files with the same bytes; missing and forbidden files are left out."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        if Path(path).is_file():
            by_size[Path(path).stat().st_size].append(str(path))
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for group in by_size.values():
        for path in group if len(group) > 1 else ():
            with suppress(OSError), Path(path).open("rb") as file:  # find_unreadable reports it
                by_digest[hashlib.file_digest(file, "sha256").digest()].append(path)
    return [group for group in by_digest.values() if len(group) > 1]


def find_shared_images(paths: Sequence[str], people: Sequence[str]) -> dict[tuple[str, ...], list[list[str]]]:
    """Return groups of identical files by the people that they are of; `people` has the person on each image."""
    owners = dict(zip(paths, people, strict=True))
    shared: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for group in find_identical_files(paths):
        shared[tuple(sorted({owners[path] for path in group}))].append(group)
    return shared
