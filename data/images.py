"""Reading pictures: any file as the RGB photograph a person would see, or a sentence that says why not."""

from __future__ import annotations

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

# Pillow's own limit would warn at 89 and refuse at 179 megapixels; --max-megapixels takes its place.
Image.MAX_IMAGE_PIXELS = None
# What Pillow raises on files that are cut short, damaged, or no pictures at all.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
# What cameras, phones and the web make, whatever the extension says; Pillow knows some thirty more, such as PostScript,
# which it would hand to another program.
Image.init()
_FORMATS = tuple(
    set(Image.OPEN) & {"JPEG", "MPO", "PNG", "BMP", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO"}
)
_LARGE = 20e6  # pixels above which pictures are decoded one at a time, for the sake of memory
_PORTION = 256  # files that are checked at a time


def needed_side(image_size: int) -> int:
    """The shorter side in pixels that a photograph needs for a network of this size to see all that it can of it.

    The smallest random crop, 8 % of a square with sides of 3 : 4 (torchvision's RandomResizedCrop), still has as many
    pixels on its shorter side as the network; fixed views and face crops are larger parts.
    """
    return math.ceil(image_size / math.sqrt(0.08 * 3 / 4))


def read_image(path: str | Path, side: int | None = None, max_megapixels: float | None = None) -> Image.Image:
    """A photograph as PIL RGB, as a person sees it: turned the way its EXIF tag says, the first frame of several, what
    is transparent on white, and 16 bits of grey as the 8 highest of them.

    Args:
        path: the file.
        side: shrink it by the largest whole number that leaves its shorter side this long, which spares JPEGs most of
            the decoding; None keeps all pixels.
        max_megapixels: the largest size to decode; None allows any.

    Raises:
        UserError: it is not there, is no picture, cannot be decoded to the end, or is too large.
    """
    with _quiet(), _opened(path, max_megapixels) as image:
        return _as_rgb(image, side)


@contextmanager
def _quiet() -> Iterator[None]:
    """A block without Pillow's warnings of odd but readable files; not to be entered by several threads at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _as_rgb(image: Image.Image, side: int | None = None) -> Image.Image:
    times = 1 if side is None else max(1, min(image.size) // side)
    size = [max(1, round(length / times)) for length in image.size]
    if times > 1:
        image.draft("RGB", (image.width // times, image.height // times))  # of JPEGs: no smaller, by 2, 4 or 8
    image.load()  # before the EXIF tag is asked for, which in a damaged file may be what cannot be read
    decoded = image.size
    ImageOps.exif_transpose(image, in_place=True)
    if image.size != decoded:
        size.reverse()
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode == "I" or image.mode.startswith("I;"):
        # Pillow would cut off what is above 255, which leaves a white picture.
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode != "RGB" or image.format not in ("JPEG", "MPO"):  # those need their file no more, and no copy
        image = image.convert("RGB")
    return image if times == 1 else image.resize(size, Image.Resampling.BOX)


@contextmanager
def _opened(path: str | Path, max_megapixels: float | None = None) -> Iterator[Image.Image]:
    try:
        # A pipe called x.jpg would be waited for, and a folder is no picture.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is no file" + (" but a folder" if os.path.isdir(path) else ""))
        with Image.open(path, formats=_FORMATS) as image:
            megapixels = image.width * image.height / 1e6
            if max_megapixels is not None and megapixels > max_megapixels:
                raise UserError(
                    f"{path} is {image.width} x {image.height} = {megapixels:.3g} megapixels large, more than "
                    f"--max-megapixels {max_megapixels:g}."
                )
            yield image
    except UserError:
        raise
    except _DAMAGED as error:
        if isinstance(error, Image.UnidentifiedImageError):
            why = "it is empty" if os.path.getsize(path) == 0 else "it is of no kind that is known"
        else:
            why = (
                error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
            )
        raise UserError(f"{path} cannot be read as a picture ({why}).") from None


def unreadable_images(
    paths: Sequence[str | Path],
    max_megapixels: float | None = None,
    *,
    side: int | None = None,
    keep: Callable[[str, Image.Image], None] | None = None,
) -> dict[str, str]:
    """The pictures that cannot be read or are larger than `max_megapixels`, each with a sentence that says why.

    Every file is decoded to the end, JPEGs at an eighth of their size, which reads every byte and is quicker.

    Args:
        paths: the files.
        max_megapixels: None allows any size.
        side: see `read_image`, for `keep`.
        keep: gets each path that can be read and its picture, from several threads at once.

    Returns:
        `{path: sentence}` in the order of `paths`.
    """

    one_at_a_time = threading.Lock()

    def check(path: str | Path) -> str | None:
        try:
            with (
                _opened(path, max_megapixels) as image,
                one_at_a_time if image.width * image.height > _LARGE else nullcontext(),
            ):
                if keep is None:
                    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                    _as_rgb(image)
                else:
                    keep(str(path), _as_rgb(image, side))
        except UserError as error:
            return str(error)
        return None

    with _quiet(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        bad = {}
        # In portions, so that a Ctrl-C need not wait for all of them and 100,000 paths are not 100,000 futures.
        for start in range(0, len(paths), _PORTION):
            portion = paths[start : start + _PORTION]
            sentences = zip(portion, pool.map(check, portion), strict=True)
            bad |= {str(path): sentence for path, sentence in sentences if sentence}
    return bad


def skip_or_stop(unreadable: dict[str, str], on_bad_image: str) -> None:
    """Refuse the pictures that `unreadable_images` found, unless a command is to "skip" them.

    Raises:
        UserError: there are some and they are not to be skipped; a sentence for each.
    """
    if unreadable and on_bad_image == "stop":
        raise UserError("\n".join(unreadable.values()) + " --on-bad-image skip goes on without.")


def identical_files(paths: Sequence[str | Path]) -> list[list[str]]:
    """Groups of files with the same bytes, each of two or more; what is no file or may not be read is left out."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        if Path(path).is_file():
            by_size[Path(path).stat().st_size].append(str(path))
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for group in by_size.values():
        for path in group if len(group) > 1 else ():
            with suppress(OSError), Path(path).open("rb") as file:  # what may not be read is told as unreadable
                by_digest[hashlib.file_digest(file, "sha256").digest()].append(path)
    return [group for group in by_digest.values() if len(group) > 1]


def small_picture(path: str | Path, side: int) -> Image.Image | None:
    """A photograph whose longer side has so many pixels at most, or None where it cannot be read."""
    try:
        picture = read_image(path, side=side)
    except (UserError, OSError):
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture
