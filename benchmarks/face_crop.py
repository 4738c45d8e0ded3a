"""Whether the face crop finds faces: photographs are cut off their centre, and the box should move with the face.

    python benchmarks/face_crop.py input/data/train/images

Needs photographs that all show the face in the same place, as cropped ones of a collection do. Each is cut by a window
that is placed at random; a finder that sees the face moves its box with it: by all of the shift (1), not by none (0) as
the centre of the window does, which stands in where no face is found. Printed by the way the mask is worn: how often a
face is found, how much of the shift the box follows sideways and upwards, and how far from the face it still is, in
hundredths of the window's side.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.face_box import face_box
from data.tables import read_training_table
from data.tasks import MASKS

SHARE = 0.8  # side of the window, of the photograph's shorter side
PEOPLE = 200

Finder = Callable[[Image.Image], tuple[float, float, float, float] | None]


def followed(shifts: np.ndarray, places: np.ndarray) -> tuple[float, float]:
    """The share of the shifts that places follow, and how far they are from where they should be, both `(N,)`."""
    share = np.polyfit(shifts, places, 1)[0]
    return float(share), float((places - shifts).std())


def main(train_root: str) -> None:
    """Ask every finder about every photograph and print the table."""
    table, _ = read_training_table(train_root)
    table = table[table["person"].isin(sorted(table["person"].unique())[:PEOPLE])]
    finders: dict[str, Finder] = {"facecrop": face_box, "the centre": lambda image: (0, 0, *image.size)}
    draw = np.random.default_rng(0)
    seen: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for path, mask in zip(table["path"], table["mask"], strict=True):
        with Image.open(path) as file:
            image = file.convert("RGB")
        side = round(SHARE * min(image.size))
        corner = [int(draw.integers(most - side + 1)) for most in image.size]
        window = image.crop((*corner, corner[0] + side, corner[1] + side))
        shift = [-100 * (at - (most - side) / 2) / side for at, most in zip(corner, image.size, strict=True)]
        for name, finder in finders.items():
            box = finder(window)
            left, top, width, height = box or (0, 0, side, side)
            place = [100 * (left + width / 2) / side, 100 * (top + height / 2) / side]
            seen.setdefault((name, MASKS[mask]), []).append((box is not None, *shift, *place))
    print("| finder | mask | photographs | found | follows sideways | upwards | off sideways | upwards |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, mask), rows in seen.items():
        found, across, down, x, y = np.array(rows, dtype=float).T
        (share_x, off_x), (share_y, off_y) = followed(across, x), followed(down, y)
        told = f"{share_x:.2f} | {share_y:.2f} | {off_x:.1f} | {off_y:.1f}"
        print(f"| {name} | {mask} | {len(rows)} | {found.mean():.2f} | {told} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
