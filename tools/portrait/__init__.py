"""Draw portraits: an image is a pure function of a person (constant traits) and a shot (everything else).

Faces live in units of half a face width: x to the right, y down, (0, 0) between the eyes, the chin near y = 1.4.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from tools.portrait.body import paint_body
from tools.portrait.canvas import HEIGHT, OVERSAMPLE, WIDTH, Canvas
from tools.portrait.face import paint_beard, paint_eyes, paint_glasses, paint_head, paint_nose_and_mouth, paint_wrinkles
from tools.portrait.hair import paint_back_hair, paint_front_hair
from tools.portrait.masks import paint_hanging_mask, paint_mask, paint_prop
from tools.portrait.people import Person, Shot, make_person, make_shot
from tools.portrait.scenes import paint_scene

GRAIN = 64  # largest offset into the sheet of grain, in pixels

__all__ = ["Person", "Shot", "make_person", "make_shot", "paint"]


@cache
def _film() -> np.ndarray:
    """Return a sheet of grain; each image uses another part of it, which is cheaper than new grain."""
    return np.random.default_rng(0).standard_normal((HEIGHT + GRAIN, WIDTH + GRAIN), dtype=np.float32)


def _develop(image: Image.Image, shot: Shot) -> Image.Image:
    """Reduce an image to its final size and add light, colour temperature, blur and grain."""
    image = image.reduce(OVERSAMPLE)
    if shot.blur:
        image = image.filter(ImageFilter.GaussianBlur(shot.blur))
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    light = shot.gain * (1 + shot.contrast * (shot.light * x - 0.3 * y) - 0.07 * (x * x + y * y))
    warmth = np.array([1 + shot.warmth, 1, 1 - shot.warmth], dtype=np.float32)
    pixels = np.asarray(image) * (light[..., None] * warmth)
    down, along = divmod(shot.grain % (GRAIN * GRAIN), GRAIN)
    pixels += _film()[down : down + HEIGHT, along : along + WIDTH, None] * shot.noise
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def paint(person: Person, shot: Shot) -> Image.Image:
    """Return an RGB image of 384 x 512 pixels. The same records always give the same pixels."""
    canvas = Canvas(paint_scene(shot.scene, shot.wall, shot.grain).copy(), shot)
    paint_back_hair(canvas, person)
    paint_body(canvas, person)
    paint_head(canvas, person)
    paint_wrinkles(canvas, person)
    paint_nose_and_mouth(canvas, person)
    paint_beard(canvas, person)
    paint_eyes(canvas, person)
    if shot.prop == "roll":
        paint_prop(canvas, person)
    paint_mask(canvas, person)
    paint_glasses(canvas, person)
    paint_front_hair(canvas, person)
    if shot.placing == "one_ear":
        paint_hanging_mask(canvas, person)
    if shot.prop != "roll":
        paint_prop(canvas, person)
    return _develop(canvas.image, shot)
