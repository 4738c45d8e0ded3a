"""Transforms for training and inference, test-time views, and the mixing of batches.

Crops are boxes in the image's own pixels that are then resized, so sizes are shares of the shorter side and hold for
images and networks of any size. Images come in as PIL RGB and leave as normalised `(3, S, S) float32`, or as uint8 that
`normalise` turns into the same numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from config import CROP_SCALE
from data.face_box import Box, face_crop_box
from data.tasks import Task, Tasks
from utils import seeded

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Sizes in pixels of the competition entry that the transforms come from.
SOURCE_SIDE = 384  # shorter side of an image
SOURCE_CROP = 224
FACE_SIZE = (312, 234)  # height and width of a face crop, of which SOURCE_CROP is cut


@dataclass(frozen=True)
class Settings:
    """The options of a transform.

    `inference_crop` is the side of the square cut at validation and inference, as a share of the shorter side of the
    image or of the width of the face box; None is the transform's own.

    `mean`, `std`, `interpolation` and `crop_share` are those that the weights of the network expect. With a crop share,
    the transforms that show the whole square make the shorter side of the image S / `crop_share` pixels long and cut
    the centre, as timm and torchvision do to evaluate their weights. None resizes the whole square to S.
    """

    image_size: int  # side S of the result in pixels
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bilinear"  # a value of `torchvision.transforms.InterpolationMode`
    crop_share: float | None = None
    crop_scale: float = CROP_SCALE  # smallest area of a random resized crop, as a share of the centre square
    mirror: bool = False  # every second training image
    erasing: float = 0.0  # probability in training (Zhong et al. 2020, https://arxiv.org/abs/1708.04896)
    inference_crop: float | None = None
    as_bytes: bool = False  # return uint8 for `normalise`; random erasing needs float32


def centre_square(image: Image.Image) -> Image.Image:
    """Return the centred square of the shorter side."""
    return F.center_crop(image, [min(image.size)])


class RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's, without its search for images in any kind of input, which takes longer than to draw the crop."""

    def forward(self, image: Image.Image) -> Image.Image:
        return self.transform(image, self.make_params([image]))


class FaceCrop(v2.Transform):
    """Cut the face, or the centre if none is found, and resize it to `size` = (height, width)."""

    def __init__(self, size: tuple[int, int], interpolation: str = "bilinear") -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation

    def transform(self, inpt: Image.Image, params: dict) -> Image.Image:
        return crop_box(inpt, face_crop_box(inpt)[0], self.size, self.interpolation)


def to_tensor(mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> v2.Compose:
    """Return the conversion of PIL RGB to a normalised `(3, H, W) float32` tensor."""
    return v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return `(..., 3, H, W) uint8` images as `to_tensor` does, bit for bit; `mean` and `std` are `(3, 1, 1)`."""
    return F.normalize(F.to_dtype(images, torch.float32, scale=True), mean, std, inplace=True)


def to_image(tensor: Tensor, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Image.Image:
    """Return the PIL image that `to_tensor` made a `(3, H, W) float32` tensor of."""
    shares = tensor * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((255 * shares).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def crop_box(image: Image.Image, box: Box, size: tuple[int, int], interpolation: str = "bilinear") -> Image.Image:
    """Return the part of an image inside `box`, resized to `size` = (height, width) with antialiasing."""
    left, top, width, height = box
    width, height = min(max(width, 1.0), image.width), min(max(height, 1.0), image.height)
    # Both edges are rounded inside the image: one pixel too far would be padded with black.
    x, y = (round(min(max(at, 0.0), most)) for at, most in ((left, image.width - width), (top, image.height - height)))
    right, bottom = min(x + max(1, round(width)), image.width), min(y + max(1, round(height)), image.height)
    mode = v2.InterpolationMode(interpolation)
    return F.resized_crop(image, y, x, bottom - y, right - x, list(size), interpolation=mode, antialias=True)


# ------------------------------------------------------------------------------------------------ training


def _training(crops: Sequence[Callable], settings: Settings, *augmentations: v2.Transform) -> v2.Compose:
    """Join crops, the augmentations of the settings, and those of the transform."""
    mirror = [v2.RandomHorizontalFlip()] if settings.mirror else []
    erase = [v2.RandomErasing(settings.erasing)] if settings.erasing else []  # to 0, for most weights the mean colour
    return v2.Compose([*crops, *mirror, *augmentations, _finish(settings, as_bytes=not erase), *erase])


def _finish(settings: Settings, *, as_bytes: bool = True) -> Callable[[Image.Image], Tensor]:
    return F.pil_to_tensor if settings.as_bytes and as_bytes else to_tensor(settings.mean, settings.std)


def _random_resized(settings: Settings, *augmentations: v2.Transform) -> v2.Compose:
    mode = v2.InterpolationMode(settings.interpolation)
    crop = RandomResizedCrop(settings.image_size, (settings.crop_scale, 1), interpolation=mode, antialias=True)
    return _training([centre_square, crop], settings, *augmentations)


def _rand_augment(settings: Settings) -> v2.Compose:
    # RandAugment with 2 operations of magnitude 9: Cubuk et al. 2020, https://arxiv.org/abs/1909.13719
    return _random_resized(settings, v2.RandAugment(2, 9))


def _random_face(settings: Settings) -> v2.Compose:
    size = tuple(round(side * settings.image_size / SOURCE_CROP) for side in FACE_SIZE)
    return _training([FaceCrop(size, settings.interpolation), v2.RandomCrop(settings.image_size)], settings)


# ------------------------------------------------------------------------------------------------ validation, inference


@dataclass(frozen=True)
class View:
    """A fixed test-time view: a mirrored, zoomed or shifted inference crop.

    `zoom` below 1 cuts a smaller box, so that the face is larger; `dx` and `dy` shift it by shares of the plain box.
    """

    mirror: bool = False
    zoom: float = 1.0
    dx: float = 0.0
    dy: float = 0.0

    @property
    def name(self) -> str:
        """Return the view's name, as in `zoomed up mirrored`; the direction is that of the box."""
        words = {"zoomed": self.zoom < 1, "left": self.dx < 0, "right": self.dx > 0, "up": self.dy < 0}
        words |= {"down": self.dy > 0, "mirrored": self.mirror}
        return " ".join(word for word, holds in words.items() if holds) or "plain"


_FRAMES = ((1.0, 0.0, 0.0), (0.9, 0.0, 0.0), (0.9, 0.0, -0.05), (0.9, 0.0, 0.05), (0.9, -0.05, 0.0), (0.9, 0.05, 0.0))
VIEWS = tuple(View(mirror, *frame) for frame in _FRAMES for mirror in (False, True))


class FixedViews:
    """A fixed crop and its test-time views, see `VIEWS`: first plain, then mirrored, then zoomed and shifted.

    `fraction` is the side of the square that is cut, as a share of the shorter side of the image, or with `face` of the
    width of the face box, unless the settings have an inference crop. None is the crop share of the settings, or the
    whole square if they have none.
    """

    in_pairs = True  # each odd view is the one before it, mirrored

    def __init__(self, settings: Settings, *, fraction: float | None = None, face: bool = False) -> None:
        self.size, self.face = (settings.image_size, settings.image_size), face
        self.interpolation = settings.interpolation
        self.resize: int | None = None  # shorter side of the image in pixels, whose centre is the plain view
        if settings.inference_crop is not None:
            fraction = settings.inference_crop
        elif fraction is None and settings.crop_share is not None:
            self.resize = math.floor(settings.image_size / settings.crop_share)  # as timm rounds it
            fraction = settings.image_size / self.resize
        self.fraction = 1.0 if fraction is None else fraction
        self.to_tensor = _finish(settings)
        self.max_views: int | None = len(VIEWS)

    def __call__(self, image: Image.Image, view: int = 0, key: str = "") -> Tensor:
        """Return view number `view` of a PIL RGB image as `(3, S, S) float32`; `key` is not used."""
        v = VIEWS[view]
        if self.resize is not None and (v.zoom, v.dx, v.dy) == (1, 0, 0):
            mode = v2.InterpolationMode(self.interpolation)
            shown = F.center_crop(F.resize(image, [self.resize], mode, antialias=True), list(self.size))
        else:
            shown = self._cut(image, v)
        return self.to_tensor(F.horizontal_flip(shown) if v.mirror else shown)

    def _cut(self, image: Image.Image, v: View) -> Image.Image:
        left, top, width, height = face_crop_box(image)[0] if self.face else (0, 0, *image.size)
        side = self.fraction * min(width, height)
        cut = side * v.zoom
        middle_x = left + (width - side) / 2 + side / 2 + v.dx * side
        middle_y = top + (height - side) / 2 + side / 2 + v.dy * side
        return crop_box(image, (middle_x - cut / 2, middle_y - cut / 2, cut, cut), self.size, self.interpolation)


class RandomViews:
    """Any number of random resized crops of the centre square, each fixed by its image and its number."""

    def __init__(self, settings: Settings) -> None:
        self.transform = _random_resized(replace(settings, mirror=False, erasing=0.0))
        self.size = (settings.image_size, settings.image_size)
        self.max_views: int | None = None

    def __call__(self, image: Image.Image, view: int = 0, key: str = "") -> Tensor:
        """Return view number `view` of the image called `key` as `(3, S, S) float32`."""
        with seeded("view", key, view):
            return self.transform(image)


_source_crop = partial(FixedViews, fraction=SOURCE_CROP / SOURCE_SIDE)
_centre_of_face = partial(FixedViews, fraction=SOURCE_CROP / FACE_SIZE[1], face=True)


TRANSFORMS = {
    "base": {"train": _random_resized, "valid": FixedViews, "inference": FixedViews},
    "random": {"train": _rand_augment, "valid": FixedViews, "inference": FixedViews},
    "tta": {"train": _rand_augment, "valid": FixedViews, "inference": RandomViews},
    "facecrop": {"train": _random_face, "valid": _centre_of_face, "inference": _centre_of_face},
    "base_source": {"train": _random_resized, "valid": _source_crop, "inference": _source_crop},
    "random_source": {"train": _rand_augment, "valid": _source_crop, "inference": _source_crop},
}


def build_transform(name: str, phase: str, image_size: int, **settings: Any) -> v2.Compose | FixedViews | RandomViews:
    """Return the transform `name`, one of TRANSFORMS, for a phase; `settings` are the other options of `Settings`.

    "train" returns a callable `image -> (3, S, S) float32` that draws from torch's global generator. "valid" and
    "inference" return one that is called as `transform(image, view, key)`, always gives the same, and has `max_views`,
    the number of views or None for any. "valid" never augments. All have the `mean` and the `std` of the settings, and
    with `as_bytes` return uint8 where the numbers after `normalise` are the same.

    Raises:
        KeyError: the name or the phase is unknown.
    """
    options = Settings(image_size, **settings)
    transform = TRANSFORMS[name][phase](options)
    transform.mean, transform.std = options.mean, options.std
    return transform


Targets = dict[str, Tensor]


class BatchMixing:
    """Mix the images and targets of a batch: `(images (B, 3, S, S), {task: (B,)})` to the same for training.

    Without options it returns the same batch. Otherwise class targets become probabilities, `{task: (B, C) float32}`,
    and numbers are mixed as the pixels are. It draws from torch's global generator.

    Args:
        tasks: those of the targets.
        mixup: alpha of MixUp (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).
        cutmix: alpha of CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899). With both, a batch gets one.
        soft: for tasks of numbers the probabilities of the ranges at the numbers 0, 1, ..., `(V, ranges) float32`,
            which replace the classes of the ranges.
    """

    def __init__(
        self, tasks: Tasks, *, mixup: float = 0.0, cutmix: float = 0.0, soft: Mapping[Task, Tensor] | None = None
    ) -> None:
        self.tasks, self.soft = tasks, dict(soft or {})
        self.kinds = [(kind, alpha) for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha]

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """Return the mixed batch."""
        if self.soft or self.kinds:
            targets = {name: _to_probabilities(self.tasks[name], values) for name, values in targets.items()}
        for task, shares in self.soft.items():
            self.soft[task] = shares.to(images.device)  # moved once
            targets[task.ranges.name] = self.soft[task][targets[task.name].round().long()]
        if self.soft:
            targets |= {name: _join(task, targets) for name, task in self.tasks.items() if task.parts}
        if self.kinds:
            kind, alpha = self.kinds[torch.randint(len(self.kinds), ()).item()]
            # The labels that torchvision mixes are row numbers, so that one mixture serves the targets of all tasks.
            count = len(images)
            images, parts = kind(alpha=alpha, num_classes=count)(images, torch.arange(count, device=images.device))
            targets = {name: parts @ values for name, values in targets.items()}
        return images, targets


def _to_probabilities(task: Task, values: Tensor) -> Tensor:
    return values if task.regression else nn.functional.one_hot(values, task.outputs).float()


def _join(task: Task, targets: Targets) -> Tensor:
    """Return the joint probabilities of the parts of a task, `(B, C)`, in the order of `label_math.encode_classes`."""
    first, *others = (targets[part.name] for part in task.parts)
    for each in others:
        first = (first[:, :, None] * each[:, None]).flatten(1)
    return first
