"""Decoded photographs, kept in memory or in a file that all processes and later runs share."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
from PIL import Image

from data.images import read_image, unreadable_images
from utils import DiskError, atomic_write, free_ram

Index = dict[str, tuple[int, int, int]]  # where the pixels of a path begin, their width and height
FORMAT = b"photographs-1\n"  # closes a cache file that is whole
UNKNOWN_MEMORY = 2 * 2**30  # bytes to keep where the system does not tell how much memory is free


class Pictures:
    """The photographs of a run by their paths, those that are kept from memory or a file, the others read anew.

    Both give the same pixels. Loader processes get the place of the kept pixels, not the pixels.

    Args:
        side: see `picture.read_image`.
        file: what the kept pixels are in.
        index: where in it those of a path are.
        max_megapixels: the largest size to decode; None allows any.
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
        """A photograph as `picture.read_image` reads it.

        Raises:
            UserError: it is not kept and cannot be read.
        """
        place = self.index.get(path)
        if place is None:
            return read_image(path, self.side, self.max_megapixels)
        if self.pixels is None:
            self.pixels = self._map()
        start, width, height = place
        pixels = self.pixels[start : start + 3 * width * height].reshape(height, width, 3)
        return Image.fromarray(pixels)

    def _map(self) -> np.ndarray:
        return np.memmap(self.file, np.uint8, mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pixels": None}

    def __str__(self) -> str:
        size = sum(3 * width * height for _, width, height in self.index.values())
        return f"{len(self.index)} photographs are kept decoded, {size / 1e6:.0f} MB"


def look_at_pictures(
    paths: Sequence[str], *, cache: str, side: int, max_megapixels: float, folder: Path, name: str = ""
) -> tuple[Pictures, dict[str, str]]:
    """Decode every photograph once, to keep it and to find those that cannot be read.

    A cache on disk is a file `.photographs-<name>-<digest>.cache`. The digest is of path, size and time of every
    photograph, so that a file is never used for others; one of the same name and another digest is deleted. It comes
    into being whole, so runs that make it at the same time do not disturb each other.

    Args:
        paths: the files.
        cache: "ram" keeps as many as half of the free memory holds, "disk" all, in a file, "off" none.
        side: see `picture.read_image`.
        max_megapixels: larger ones count as unreadable.
        folder: where the file is made.
        name: what tells the data set from others whose files lie there.

    Returns:
        The photographs, and of those that cannot be read `{path: sentence}`.
    """
    limits = {"side": side, "max_megapixels": max_megapixels}
    if cache == "disk":
        name = hashlib.sha256(f"{name} {side}".encode(errors="surrogateescape")).hexdigest()[:8]
        file = folder / f".photographs-{name}-{_digest(paths, limits)}.cache"
        try:
            index = _read_index(file, paths)
            if index is None:
                _write_file(file, paths, limits)
                index = _read_index(file, paths)
            pictures = Pictures(side, file, index)
            for other in folder.glob(f".photographs-{name}-*.cache"):
                if other != file:
                    other.unlink(missing_ok=True)
            return pictures, unreadable_images([path for path in paths if path not in pictures.index], max_megapixels)
        except (DiskError, OSError) as error:
            print(f"Photographs are decoded anew in every epoch: {error}")
    if cache != "ram":
        return Pictures(side), unreadable_images(paths, max_megapixels)
    free = free_ram()
    handle, file, release = _memory_file()
    try:
        with open(handle, "wb", closefd=False) as target:
            keeper = _Keeper(target, UNKNOWN_MEMORY if free is None else free // 2)
            unreadable = unreadable_images(paths, **limits, keep=keeper.keep)
        pictures = Pictures(side, file, keeper.index)
    except BaseException:
        release()
        raise
    weakref.finalize(pictures, release)
    return pictures, unreadable


class _Keeper:
    """Writes pictures one after another into a file, until `room` bytes are full."""

    def __init__(self, file: IO[bytes], room: int | None = None) -> None:
        self.file, self.room, self.size = file, room, 0
        self.index: Index = {}
        self.lock = threading.Lock()

    def keep(self, path: str, image: Image.Image) -> None:
        pixels = image.tobytes()
        with self.lock:
            if self.room is None or self.size + len(pixels) <= self.room:
                self.file.write(pixels)
                self.index[path] = (self.size, *image.size)
                self.size += len(pixels)


def _memory_file() -> tuple[int, Path, Callable[[], None]]:
    """A file in memory: its handle, a path by which other processes of this machine open it, and what releases it."""
    if hasattr(os, "memfd_create"):  # unlike /dev/shm not limited to a few megabytes in containers
        handle = os.memfd_create("photographs")
        return handle, Path(f"/proc/{os.getpid()}/fd/{handle}"), partial(os.close, handle)
    handle, name = tempfile.mkstemp(prefix="photographs-")  # what is read often stays in the system's memory

    def release() -> None:
        os.close(handle)
        with suppress(OSError):  # Windows deletes no file that is still mapped
            os.unlink(name)

    return handle, Path(name), release


# ------------------------------------------------------------------------------------------------ the file on disk


def _digest(paths: Sequence[str], limits: dict[str, float]) -> str:
    """16 hexadecimal digits that depend on everything the pixels do."""

    def state(path: str) -> tuple[str, int, int] | None:
        try:
            about = os.stat(path)
            return os.path.abspath(path), about.st_size, about.st_mtime_ns
        except OSError:
            return None  # it is not kept

    about = json.dumps([[state(path) for path in paths], limits, PIL.__version__])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def _write_file(file: Path, paths: Sequence[str], limits: dict[str, Any]) -> None:
    """The pixels, then as JSON where those of each path are (null for none), its length, and FORMAT."""

    def fill(target: IO[bytes]) -> None:
        keeper = _Keeper(target)
        unreadable_images(paths, **limits, keep=keeper.keep)
        index = json.dumps([keeper.index.get(path) for path in paths]).encode()
        target.write(index + struct.pack("<Q", len(index)) + FORMAT)

    atomic_write(file, fill)


def _read_index(file: Path, paths: Sequence[str]) -> Index | None:
    """What `_write_file` wrote of the pixels, or None where there is no whole file.

    Args:
        paths: those it was written for, in the same order; they may be spelt otherwise.
    """
    if not file.is_file():
        return None
    closing = struct.calcsize("<Q") + len(FORMAT)
    with file.open("rb") as source:
        size = source.seek(0, os.SEEK_END)
        if size < closing:
            return None
        source.seek(size - closing)
        end = source.read()
        if not end.endswith(FORMAT):
            return None
        (length,) = struct.unpack_from("<Q", end)
        source.seek(size - closing - length)
        places = json.loads(source.read(length))
        return {path: tuple(place) for path, place in zip(paths, places, strict=True) if place is not None}
