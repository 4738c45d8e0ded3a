"""Keep decoded images in memory that all processes of a run share."""

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.images import find_unreadable, read_image
from utils import free_ram

Index = dict[str, tuple[int, int, int]]  # {path: (offset of the pixels in bytes, width, height)}
UNKNOWN_MEMORY = 2 * 2**30  # bytes to use if the system does not report its free memory


class _KeptImage(Image.Image):
    """An image that is copied from `(H, W, 3) uint8` pixels at its first use; of a crop, only the pixels inside it."""

    pixels: np.ndarray | None = None  # before the first use

    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__()
        self._mode, self._size, self.pixels = "RGB", pixels.shape[1::-1], pixels

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        left, top, right, bottom = map(round, box or (0, 0, *self.size))
        if self.pixels is not None and 0 <= left < right <= self.width and 0 <= top < bottom <= self.height:
            return _KeptImage(self.pixels[top:bottom, left:right])
        return super().crop(box)

    def load(self) -> Any:  # Pillow calls it before it uses pixels, as for files
        if self.pixels is not None:
            self.im, self.pixels = Image.fromarray(self.pixels).im, None
        return super().load()


class ImageReader:
    """Reads the images of a run, from memory if they are kept there, else from their files by `images.read_image`.

    Both give the same pixels. A pickled reader holds the place of the pixels, not the pixels: `file` is the memory file
    with the pixels, `index` the place of each image in it.
    """

    def __init__(
        self,
        side: int | None = None,
        file: Path | None = None,
        index: Index | None = None,
        *,
        max_megapixels: float | None = None,
    ) -> None:
        self.side, self.file, self.index, self.max_megapixels = side, file, index or {}, max_megapixels
        self.pixels = self._map() if self.index else None

    def read(self, path: str) -> Image.Image:
        """Return an image as `images.read_image` does, with its errors if the image is not kept."""
        place = self.index.get(path)
        if place is None:
            return read_image(path, self.side, self.max_megapixels)
        if self.pixels is None:
            self.pixels = self._map()
        start, width, height = place
        return _KeptImage(self.pixels[start : start + 3 * width * height].reshape(height, width, 3))

    def _map(self) -> np.ndarray:
        return np.asarray(np.memmap(self.file, np.uint8, mode="r"))  # slices of a memmap are slow

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pixels": None}

    def __str__(self) -> str:
        size = sum(3 * width * height for _, width, height in self.index.values())
        return f"{len(self.index)} decoded images kept in memory, {size / 1e6:.0f} MB"


def load_images(
    paths: Sequence[str], *, cache: str, side: int, max_megapixels: float
) -> tuple[ImageReader, dict[str, str]]:
    """Decode every image once; return a reader of them, and `{path: reason}` of those that cannot be read.

    `cache` "ram" keeps as many images as half of the free memory holds, shrunk to `side` as by `images.read_image`;
    "off" keeps none.
    """
    if cache == "off":
        return ImageReader(side), find_unreadable(paths, max_megapixels)
    free = free_ram()
    room = UNKNOWN_MEMORY if free is None else free // 2
    index: Index = {}
    one_at_a_time = threading.Lock()

    def keep(path: str, image: Image.Image) -> None:
        pixels = image.tobytes()
        with one_at_a_time:
            start = target.tell()
            if start + len(pixels) <= room:
                target.write(pixels)
                index[path] = (start, *image.size)

    handle, file, release = _memory_file()
    try:
        with open(handle, "wb", closefd=False) as target:
            unreadable = find_unreadable(paths, max_megapixels, side=side, keep=keep)
        reader = ImageReader(side, file, index)
    except BaseException:
        release()
        raise
    weakref.finalize(reader, release)
    return reader, unreadable


def _memory_file() -> tuple[int, Path, Callable[[], None]]:
    """Create a file in memory; return its handle, its path for other processes, and a function that releases it."""
    if hasattr(os, "memfd_create"):  # unlike /dev/shm not limited to a few megabytes in containers
        handle = os.memfd_create("images")
        return handle, Path(f"/proc/{os.getpid()}/fd/{handle}"), partial(os.close, handle)
    handle, name = tempfile.mkstemp(prefix="images-")  # elsewhere a file, which the system usually keeps in memory

    def release() -> None:
        os.close(handle)
        with suppress(OSError):  # Windows deletes no file that is still mapped
            os.unlink(name)

    return handle, Path(name), release
