"""Find a face by symmetry and edges, from pixel statistics alone."""

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, width, height in pixels


def face_crop_box(image: Image.Image) -> tuple[Box, bool]:
    """Return the 3 x 4 box of a face crop, and whether it is around a face or the centre, since none was found."""
    box = face_box(image)
    if box is not None:
        return box, True
    height = 0.85 * min(image.height, image.width * 4 / 3)
    width = height * 3 / 4
    return ((image.width - width) / 2, (image.height - height) / 2, width, height), False


def face_box(image: Image.Image) -> Box | None:
    """Return the box around the face, 3 wide by 4 high, or None if none is found.

    On a small grey copy, the middle of the face is the vertical line with the best mirror symmetry. Its height follows
    from the two strongest horizontal edges near that line, such as hair, mask, chin or collar.
    """
    width, height = image.size
    if max(width, height) > 3 * min(width, height):
        return None
    scale = 48 / min(width, height)
    size = round(width * scale), round(height * scale)
    small = image.convert("L").resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    grey = np.asarray(small, dtype=np.float32)
    column = _find_symmetry(grey)
    edges = None if column is None else _find_edges(grey, column)
    if edges is None:
        return None
    top, bottom = edges
    largest = min(height, width * 4 / 3)
    box_height = float(np.clip(1.8 * (bottom - top) / scale, 0.75 * largest, largest))
    box_width = box_height * 3 / 4
    # The two strongest edges may be brow and mask or hair and collar, so their middle counts only half.
    middle = ((top + bottom) / 2 / scale + height / 2) / 2
    left = np.clip(column / scale - box_width / 2, 0, width - box_width)
    upper = np.clip(middle - box_height / 2, 0, height - box_height)
    return float(left), float(upper), box_width, box_height


def _find_symmetry(grey: np.ndarray) -> float | None:
    """Return the column (x in pixels) with the best mirror symmetry of `(H, W)` grey levels, or None."""
    height, width = grey.shape
    rows = grey[height // 8 : height - height // 8]
    half = width // 4
    best, found = 0.3, None  # a lower correlation counts as no symmetry
    for column in range(half + width // 12, width - half - width // 12 + 1):
        left, right = rows[:, column - half : column], rows[:, column : column + half][:, ::-1]
        a, b = left - left.mean(), right - right.mean()
        norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
        correlation = float((a * b).sum()) / norm if norm > 1e-3 else 0.0
        if correlation > best:
            best, found = correlation, float(column)
    return found


def _find_edges(grey: np.ndarray, column: float) -> tuple[float, float] | None:
    """Return the two strongest horizontal edges in a band about `column`, upper first, or None if they are weak."""
    height, width = grey.shape
    band = grey[:, max(0, int(column) - width // 6) : int(column) + width // 6].mean(axis=1)
    edges = np.abs(band[2:] - band[:-2])
    edges[: height // 12] = edges[len(edges) - height // 12 :] = 0  # the border of the image
    first = int(edges.argmax())
    apart = edges.copy()
    apart[max(0, first - height // 6) : first + height // 6 + 1] = 0
    second = int(apart.argmax())
    if edges[first] < 4 or apart[second] < 2:  # grey levels of 255
        return None
    return min(first, second) + 1.0, max(first, second) + 1.0
