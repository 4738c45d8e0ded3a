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
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from config import CROP_SCALE
from data.face_box import FACE_SIZE, Box, centre_box, face_crop_box
from data.label_math import age_group_shares
from data.tasks import AGE_BOUNDS, MAX_AGE, TASKS
from utils import seeded

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SOURCE_SIDE = 384  # shorter side of the source's photographs; its other sizes are relative to this one
SOURCE_CROP = 224


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


def to_image(image: Tensor, *, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Image.Image:
    """The picture that `ToNormalised` made a `(3, H, W) float32` tensor of, for people to look at."""
    shares = image * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((255 * shares).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


class FixedViews:
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


def build_transform(name: str, phase: str, image_size: int, **settings: Any) -> v2.Compose | FixedViews | RandomViews:
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


def _whole_square(settings: Settings) -> FixedViews:
    return FixedViews(settings, fraction=1.0)


def _source_crop(settings: Settings) -> FixedViews:
    return FixedViews(settings, fraction=SOURCE_CROP / SOURCE_SIDE)


def _centre_of_face(settings: Settings) -> FixedViews:
    return FixedViews(settings, fraction=SOURCE_CROP / FACE_SIZE[1], face=True)


TRANSFORMS = {
    "base": {"train": _random_resized, "valid": _whole_square, "inference": _whole_square},
    "random": {"train": _rand_augment, "valid": _whole_square, "inference": _whole_square},
    "tta": {"train": _rand_augment, "valid": _whole_square, "inference": RandomViews},
    "facecrop": {"train": _random_face, "valid": _centre_of_face, "inference": _centre_of_face},
    "base_source": {"train": _random_resized, "valid": _source_crop, "inference": _source_crop},
    "random_source": {"train": _rand_augment, "valid": _source_crop, "inference": _source_crop},
}


Targets = dict[str, Tensor]


class BatchMixing:
    """Callable on a batch, `(images (B, 3, S, S), {task: (B,)})`, that answers with one to be trained on.

    Where nothing is mixed and ages are as they are, it is the same batch. Else the targets of classes are shares,
    `{task: (B, C) float32}`, and ages in years are mixed as the pixels are. It draws from torch's global generator.

    Args:
        mixup: alpha of MixUp (Zhang et al. 2018, https://arxiv.org/abs/1710.09412), 0 for none.
        cutmix: alpha of CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899), 0 for none; where there are both,
            each batch gets the one or the other.
        age_sigma: see `metrics.age_group_shares`; 0 leaves age groups as they are.
        bounds: years at which the second and the third age group begin.
    """

    def __init__(
        self, *, mixup: float = 0.0, cutmix: float = 0.0, age_sigma: float = 0.0, bounds: Sequence[float] = AGE_BOUNDS
    ) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.kinds = [(kind, alpha) for kind, alpha in kinds if alpha]
        years = np.arange(MAX_AGE + 1)
        self.shares = torch.from_numpy(age_group_shares(years, age_sigma, bounds)).float() if age_sigma else None

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        if self.shares is not None or self.kinds:
            targets = {task: _shares(task, values) for task, values in targets.items()}
        if self.shares is not None:
            targets |= self._softened(targets)
        if self.kinds:
            kind, alpha = self.kinds[torch.randint(len(self.kinds), ()).item()]
            # Mixed are the numbers of the images in the batch: what that makes of each is what its targets are made of.
            count = len(images)
            images, parts = kind(alpha=alpha, num_classes=count)(images, torch.arange(count, device=images.device))
            targets = {task: parts @ values for task, values in targets.items()}
        return images, targets

    def _softened(self, targets: Targets) -> Targets:
        self.shares = self.shares.to(targets["age"].device)
        groups = self.shares[targets["age"].round().long()]
        mask, gender = targets["mask"], targets["gender"]
        main = torch.einsum("bm,bg,ba->bmga", mask, gender, groups).flatten(1)  # in the order of `tasks.encode_class`
        return {"ageg": groups, "main": main}


def _shares(task: str, values: Tensor) -> Tensor:
    return values if TASKS[task].regression else nn.functional.one_hot(values, TASKS[task].outputs).float()
