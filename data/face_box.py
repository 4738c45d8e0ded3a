"""Find a face by symmetry and edges."""

from __future__ import annotations

import numpy as np
from PIL import Image

FACE_SIZE = (312, 234)  # height and width of the source's face crop, of which 224 x 224 is cut
Box = tuple[float, float, float, float]  # left, top, width, height in pixels
# ------------------------------------------------------------------------------------------------ boxes


def centre_box(width: int, height: int, fraction: float = 1.0) -> Box:
    """The centred square whose side is `fraction` of the shorter side."""
    side = fraction * min(width, height)
    return (width - side) / 2, (height - side) / 2, side, side


def face_box(image: Image.Image) -> Box | None:
    """The box around the face, 3 wide by 4 high, or None where none is found.

    On a small grey copy: the vertical line about which the picture mirrors best is taken for the middle of the face,
    and the two strongest horizontal edges near that line (hair, mask, chin, collar) for its height.

    Args:
        image: PIL image of any size.
    """
    width, height = image.size
    if max(width, height) > 3 * min(width, height):
        return None
    scale = 48 / min(width, height)
    small = image.convert("L").resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BILINEAR, reducing_gap=2
    )
    grey = np.asarray(small, dtype=np.float32)
    column = _symmetry_column(grey)
    rows = None if column is None else _edge_rows(grey, column)
    if rows is None:
        return None
    top, bottom = rows
    largest = min(height, width * 4 / 3)
    box_height = float(np.clip(1.8 * (bottom - top) / scale, 0.75 * largest, largest))
    box_width = box_height * 3 / 4
    # Which two edges are the strongest differs (brow and mask, hair and collar), so their middle is only half believed.
    middle = ((top + bottom) / 2 / scale + height / 2) / 2
    left = np.clip(column / scale - box_width / 2, 0, width - box_width)
    upper = np.clip(middle - box_height / 2, 0, height - box_height)
    return float(left), float(upper), box_width, box_height


def _symmetry_column(grey: np.ndarray) -> float | None:
    """Column (x, in pixels of `grey`) about which the picture mirrors best; None when it mirrors about none."""
    height, width = grey.shape
    rows = grey[height // 8 : height - height // 8]
    half = width // 4
    best, found = 0.3, None  # correlation below 0.3 is no symmetry
    for column in range(half + width // 12, width - half - width // 12 + 1):
        left = rows[:, column - half : column]
        right = rows[:, column : column + half][:, ::-1]
        a, b = left - left.mean(), right - right.mean()
        norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
        correlation = float((a * b).sum()) / norm if norm > 1e-3 else 0.0
        if correlation > best:
            best, found = correlation, float(column)
    return found


def _edge_rows(grey: np.ndarray, column: float) -> tuple[float, float] | None:
    """The two strongest horizontal edges in a band about `column`, upper first; None when the band is flat."""
    height, width = grey.shape
    band = grey[:, max(0, int(column) - width // 6) : int(column) + width // 6].mean(axis=1)
    edges = np.abs(band[2:] - band[:-2])
    edges[: height // 12] = edges[len(edges) - height // 12 :] = 0  # the picture's own rim
    first = int(edges.argmax())
    strength = edges[first]
    apart = edges.copy()
    apart[max(0, first - height // 6) : first + height // 6 + 1] = 0
    second = int(apart.argmax())
    if strength < 4 or apart[second] < 2:  # grey levels of 255
        return None
    return min(first, second) + 1.0, max(first, second) + 1.0


def _fallback_box(width: int, height: int) -> Box:
    """The centred 3 x 4 box that stands in where no face is found."""
    box_height = 0.85 * min(height, width * 4 / 3)
    box_width = box_height * 3 / 4
    return (width - box_width) / 2, (height - box_height) / 2, box_width, box_height


def face_crop_box(image: Image.Image) -> tuple[Box, bool]:
    """The 3 x 4 box that a face crop cuts, and whether it is around a face or stands in where none is found."""
    box = face_box(image)
    return box or _fallback_box(*image.size), box is not None
