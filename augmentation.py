"""How a photograph becomes what a network sees: training augmentation, inference crops, test-time views, face crop.

Every cut is a box in the photograph's own pixels that is then resized, so the sizes of the source (centre crop 384 of a
384 x 512 photograph, random crops of 224) hold as fractions of the shorter side, for photographs and networks of any
size. Images come in as PIL RGB and leave as `(3, S, S) float32`, normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from config import CROP_SCALE
from machine import seeded

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

SOURCE_SIDE = 384  # shorter side of the source's photographs; its other sizes are relative to this one
SOURCE_CROP = 224
FACE_SIZE = (312, 234)  # height and width of the source's face crop, of which 224 x 224 is cut

Box = tuple[float, float, float, float]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Settings:
    """What a transform is made with, beside its name.

    Args:
        image_size: side S of the result in pixels.
        mean, std: what is taken out of the channels.
        crop_scale: the smallest share of the square's area that a random resized crop cuts; the largest is all of it.
        mirror: mirror every other training photograph.
        erasing: how often a box of a training photograph is blanked, as a probability (Zhong et al. 2020, random
            erasing, https://arxiv.org/abs/1708.04896).
        inference_crop: side of the square cut at validation and inference, as a share of the transform's largest (the
            shorter side of the photograph, or the width of the face box); None leaves it to the transform.
    """

    image_size: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    crop_scale: float = CROP_SCALE
    mirror: bool = False
    erasing: float = 0.0
    inference_crop: float | None = None


@dataclass(frozen=True)
class View:
    """One fixed test-time view: a mirrored, zoomed or shifted inference crop.

    `zoom` below 1 cuts a smaller box (the face looks larger); `dx` and `dy` shift it by fractions of the plain box.
    """

    mirror: bool = False
    zoom: float = 1.0
    dx: float = 0.0
    dy: float = 0.0

    @property
    def name(self) -> str:
        """What people call it, as in `zoomed up mirrored`; the direction is that in which the box is shifted."""
        told = {
            "zoomed": self.zoom < 1,
            "left": self.dx < 0,
            "right": self.dx > 0,
            "up": self.dy < 0,
            "down": self.dy > 0,
            "mirrored": self.mirror,
        }
        return " ".join(name for name, holds in told.items() if holds) or "plain"


_FRAMES = ((1.0, 0.0, 0.0), (0.9, 0.0, 0.0), (0.9, 0.0, -0.05), (0.9, 0.0, 0.05), (0.9, -0.05, 0.0), (0.9, 0.05, 0.0))
VIEWS = tuple(View(mirror, *frame) for frame in _FRAMES for mirror in (False, True))


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


def _cut(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """The box (kept inside the image) resized to `size` = (height, width), antialiased."""
    left, top, width, height = box
    width, height = min(max(width, 1.0), image.width), min(max(height, 1.0), image.height)
    # Both edges are rounded inside the image: one pixel too far would be padded with black.
    x, y = (round(min(max(at, 0.0), most)) for at, most in ((left, image.width - width), (top, image.height - height)))
    right, bottom = min(x + max(1, round(width)), image.width), min(y + max(1, round(height)), image.height)
    return F.resized_crop(image, y, x, bottom - y, right - x, list(size), antialias=True)


# ------------------------------------------------------------------------------------------------ transforms


class CentreSquare(v2.Transform):
    """Cut the centred square of the shorter side (the source's centre crop 384 of 384 x 512)."""

    def transform(self, inpt: Image.Image, params: dict) -> Image.Image:
        """PIL image in, square PIL image out."""
        return F.center_crop(inpt, [min(inpt.size)])


class FaceCrop(v2.Transform):
    """Cut the face, or the centre where none is found, and resize it to `size` = (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Image.Image, params: dict) -> Image.Image:
        """PIL image in, PIL image of `size` out."""
        return _cut(inpt, face_crop_box(inpt)[0], self.size)


class ToNormalised(v2.Transform):
    """PIL RGB to a `(3, H, W) float32` tensor with the given mean and deviation taken out."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)

    def transform(self, inpt: Image.Image, params: dict) -> Tensor:
        """PIL RGB image in, normalised tensor out."""
        pixels = torch.from_numpy(np.array(inpt)).permute(2, 0, 1)
        return F.normalize(F.to_dtype(pixels, torch.float32, scale=True), self.mean, self.std)


def to_picture(image: Tensor, *, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Image.Image:
    """The picture that `ToNormalised` made a `(3, H, W) float32` tensor of, for people to look at."""
    shares = image * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((255 * shares).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


class InferenceTransform:
    """A fixed crop and its fixed test-time views: the plain one first, then mirrored, then zoomed and shifted.

    Args:
        fraction: side of the square that is cut, as a fraction of the shorter side of the photograph, or with `face`
            of the width of the face box, where the settings do not say.
        face: cut around the face instead of the centre.
    """

    def __init__(self, settings: Settings, *, fraction: float, face: bool = False) -> None:
        self.size, self.face = (settings.image_size, settings.image_size), face
        self.fraction = fraction if settings.inference_crop is None else settings.inference_crop
        self.to_tensor = ToNormalised(settings.mean, settings.std)
        self.max_views: int | None = len(VIEWS)

    def __call__(self, image: Image.Image, view: int = 0, key: str = "") -> Tensor:
        """View number `view` of a PIL RGB image as `(3, S, S) float32`; `key` is not needed for fixed views."""
        left, top, side = self._square(image)
        v = VIEWS[view]
        cut = side * v.zoom
        middle_x, middle_y = left + side / 2 + v.dx * side, top + side / 2 + v.dy * side
        picture = _cut(image, (middle_x - cut / 2, middle_y - cut / 2, cut, cut), self.size)
        return self.to_tensor(F.horizontal_flip(picture) if v.mirror else picture)

    def _square(self, image: Image.Image) -> tuple[float, float, float]:
        if not self.face:
            return centre_box(*image.size, self.fraction)[:3]
        left, top, width, height = face_crop_box(image)[0]
        side = self.fraction * width
        return left + (width - side) / 2, top + (height - side) / 2, side


class RandomViews:
    """The source's random views (centre crop, random resized crop), each fixed by its image and its number."""

    def __init__(self, settings: Settings) -> None:
        self.transform = _random_resized(replace(settings, mirror=False, erasing=0.0))
        self.max_views: int | None = None

    def __call__(self, image: Image.Image, view: int = 0, key: str = "") -> Tensor:
        """View number `view` of the image called `key` as `(3, S, S) float32`: always the same one."""
        with seeded("view", key, view):
            return self.transform(image)


def build_transform(
    name: str, phase: str, image_size: int, **settings: Any
) -> v2.Compose | InferenceTransform | RandomViews:
    """The transform called `name` for a phase.

    Args:
        name: one of TRANSFORMS.
        phase: "train" gives a callable `image -> (3, S, S) float32` that draws from torch's global generator;
            "valid" and "inference" give one called as `transform(image, view, key)` that is the same at every call,
            with `max_views`, the number of views it has (None: any number). "valid" never augments.
        image_size: side S in pixels.
        settings: the others of `Settings`.

    Raises:
        KeyError: unknown name or phase.
    """
    return TRANSFORMS[name][phase](Settings(image_size, **settings))


def _training(crops: Sequence[v2.Transform], settings: Settings, *augmentations: v2.Transform) -> v2.Compose:
    """Crops, then what the settings change, then what the transform itself does."""
    mirror = [v2.RandomHorizontalFlip()] if settings.mirror else []
    erase = [v2.RandomErasing(settings.erasing)] if settings.erasing else []  # to the mean colour, which is 0 by then
    return v2.Compose([*crops, *mirror, *augmentations, ToNormalised(settings.mean, settings.std), *erase])


def _crops(settings: Settings) -> list[v2.Transform]:
    return [CentreSquare(), v2.RandomResizedCrop(settings.image_size, scale=(settings.crop_scale, 1), antialias=True)]


def _random_resized(settings: Settings) -> v2.Compose:
    return _training(_crops(settings), settings)


def _rand_augment(settings: Settings) -> v2.Compose:
    # RandAugment with 2 operations of magnitude 9: Cubuk et al. 2020, https://arxiv.org/abs/1909.13719
    return _training(_crops(settings), settings, v2.RandAugment(2, 9))


def _random_face(settings: Settings) -> v2.Compose:
    size = tuple(round(side * settings.image_size / SOURCE_CROP) for side in FACE_SIZE)
    return _training([FaceCrop(size), v2.RandomCrop(settings.image_size)], settings)


def _whole_square(settings: Settings) -> InferenceTransform:
    return InferenceTransform(settings, fraction=1.0)


def _source_crop(settings: Settings) -> InferenceTransform:
    return InferenceTransform(settings, fraction=SOURCE_CROP / SOURCE_SIDE)


def _centre_of_face(settings: Settings) -> InferenceTransform:
    return InferenceTransform(settings, fraction=SOURCE_CROP / FACE_SIZE[1], face=True)


TRANSFORMS = {
    "base": {"train": _random_resized, "valid": _whole_square, "inference": _whole_square},
    "random": {"train": _rand_augment, "valid": _whole_square, "inference": _whole_square},
    "tta": {"train": _rand_augment, "valid": _whole_square, "inference": RandomViews},
    "facecrop": {"train": _random_face, "valid": _centre_of_face, "inference": _centre_of_face},
    "base_source": {"train": _random_resized, "valid": _source_crop, "inference": _source_crop},
    "random_source": {"train": _rand_augment, "valid": _source_crop, "inference": _source_crop},
}
