"""Paint curves and colours on a canvas in face units.

Shapes are filled at twice the final size and reduced at the end, which is what smooths every edge; soft light and
shade are worked out at a fraction of that and scaled up, which is what keeps a picture cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from tools.portrait.people import Shot


WIDTH, HEIGHT = 384, 512
OVERSAMPLE = 2
COARSE = 8  # side of the square of canvas pixels that shares one value of light
UNIT = 84 * OVERSAMPLE  # canvas pixels in one face unit at zoom 1

Colour = tuple[int, ...]
Points = list[tuple[float, float]] | np.ndarray

SKINS = ((250, 222, 199), (244, 206, 176), (233, 189, 154), (218, 170, 132), (176, 124, 89), (130, 88, 64))
HAIRS = ((34, 28, 30), (48, 34, 28), (72, 48, 34), (104, 68, 42), (150, 102, 58), (196, 156, 98))
DYES = ((150, 52, 48), (196, 104, 120), (88, 96, 150), (188, 188, 196))
CLOTHES = (
    (66, 92, 132), (186, 76, 70), (82, 128, 104), (226, 178, 92), (238, 234, 226), (58, 60, 70), (150, 118, 160),
    (206, 146, 132), (120, 160, 184), (112, 88, 72), (232, 200, 196), (92, 104, 84),
)  # fmt: skip
BRIGHT = tuple(CLOTHES[k] for k in (1, 3, 6, 7, 10))  # women wear these more
WALLS = ((222, 214, 200), (200, 214, 220), (214, 204, 218), (206, 220, 204), (236, 222, 206), (176, 188, 198))


def clip(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """Return the value, limited to `low` and `high`."""
    return min(high, max(low, value))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return colour a with a `share` of colour b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a[:3], b[:3], strict=True))


def fold(skin: Colour, strength: float = 0.6) -> Colour:
    """Return the colour of a line or hollow in skin of a colour, darker and redder."""
    return tuple(round(c * (1 - strength * share)) for c, share in zip(skin, (0.6, 0.8, 0.8), strict=True))


def smooth(points: Points, closed: bool = True, steps: int = 6) -> np.ndarray:
    """Return a Catmull-Rom curve through `points`, `steps` samples per span, as (x, y) rows."""
    b = np.asarray(points, dtype=float)
    if closed:
        a, c, d = np.roll(b, 1, 0), np.roll(b, -1, 0), np.roll(b, -2, 0)
    else:
        padded = np.vstack([b[:1], b, b[-1:]])
        a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.vstack([curve, c[-1:]])


def mirror(half: Points) -> np.ndarray:
    """Close the right half of a shape, listed from top to bottom, with its mirror image."""
    half = np.asarray(half, dtype=float)
    other = half[::-1] * (-1, 1)
    return np.vstack([half, other[abs(other[:, 0]) > 1e-9]])  # a point on the axis is not listed twice


def oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Return the outline of an ellipse."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def ramp(colour: Colour, depth: float = 0.42, shine: float = 0.42) -> np.ndarray:
    """Return 256 tones of a colour, 128 being the colour itself; shadows are slightly red, as on skin."""
    base = np.array(colour[:3], dtype=float)
    dark = base * (1 - depth) * (1.04, 0.96, 0.96)
    stops = np.stack([dark, base, base + (255 - base) * shine])
    return np.stack([np.interp(np.arange(256), (0, 128, 255), stops[:, k]) for k in range(3)], axis=1).astype(np.uint8)


class Canvas:
    """An image being painted with the pose and the light of a shot; methods take face units."""

    def __init__(self, image: Image.Image, shot: Shot):
        self.image = image
        self.draw = ImageDraw.Draw(image, "RGBA")
        self.shot = shot
        self.unit = UNIT * shot.zoom
        self.upright = False  # True while the body is painted: only the head turns and tilts
        self.origin = np.array([WIDTH * (0.5 + shot.shift[0] * 0.25), HEIGHT * (0.43 + shot.shift[1] * 0.25)])
        self.origin *= OVERSAMPLE

    def place(self, points: Points) -> np.ndarray:
        """Return the canvas pixels of points in face units."""
        points = np.asarray(points, dtype=float)
        x, y = points[..., 0], points[..., 1]
        if not self.upright:
            # What stands out from the head moves most when it turns: the middle of the face more than its rim.
            depth = np.clip(1 - x * x, 0, 1)
            x, y = x + self.shot.turn * depth, y + self.shot.nod * depth
            sin, cos = np.sin(self.shot.tilt), np.cos(self.shot.tilt)
            x, y = x * cos - (y - 1.2) * sin, x * sin + (y - 1.2) * cos + 1.2
        return np.stack([x, y], axis=-1) * self.unit + self.origin

    def fill(self, outline: Points, colour: Colour) -> None:
        """Fill a shape with a colour."""
        self.draw.polygon(self.place(outline).ravel().tolist(), fill=colour)

    def stroke(self, points: Points, width: float, colour: Colour, taper: float = 0.9) -> None:
        """Paint a brush stroke through `points`, widest in the middle."""
        self.strokes(smooth(points, closed=False)[None], width, [colour], taper)

    def strokes(self, lines: np.ndarray, width: float, colours: list[Colour], taper: float = 0.9) -> None:
        """Paint brush strokes along an array of lines (count, points, 2), one colour each."""
        lines = self.place(lines)
        step = np.gradient(lines, axis=1)
        normal = np.stack([-step[..., 1], step[..., 0]], axis=-1) / (np.linalg.norm(step, axis=-1)[..., None] + 1e-9)
        half = width * self.unit / 2 * (1 - taper * np.linspace(-1, 1, lines.shape[1]) ** 2)[None, :, None]
        outlines = np.concatenate([lines + normal * half, (lines - normal * half)[:, ::-1]], axis=1)
        for outline, colour in zip(outlines.reshape(len(lines), -1).tolist(), colours, strict=True):
            self.draw.polygon(outline, fill=colour)

    def _box(self, pixels: np.ndarray, margin: float = 0) -> tuple[int, int, int, int] | None:
        low, high = pixels.min(0) - margin, pixels.max(0) + margin
        x0, y0 = (int(max(0, v)) for v in low)
        x1, y1 = (int(min(size, v + 1)) for size, v in zip(self.image.size, high, strict=True))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def soft(self, outline: Points, colour: Colour, blur: float, within: Points | None = None) -> None:
        """Paint a shape in a colour (RGBA) with edges `blur` units wide, kept inside the outline `within`."""
        pixels, radius = self.place(outline), blur * self.unit
        box = self._box(pixels, 2 * radius)
        if box is None:
            return
        size = (box[2] - box[0], box[3] - box[1])
        coarse = COARSE if blur > 0.045 else 3
        small = Image.new("L", (size[0] // coarse + 1, size[1] // coarse + 1))
        ImageDraw.Draw(small).polygon(((pixels - box[:2]) / coarse).ravel().tolist(), fill=colour[3])
        alpha = small.filter(ImageFilter.GaussianBlur(radius / coarse)).resize(size, Image.Resampling.BILINEAR)
        if within is not None:
            inside = Image.new("L", size)
            ImageDraw.Draw(inside).polygon((self.place(within) - box[:2]).ravel().tolist(), fill=255)
            alpha = ImageChops.multiply(alpha, inside)
        self.image.paste(colour[:3], box, alpha)

    def shaded(self, outline: Points, colour: Colour, spots: Points | list = (), pattern: str = "plain",
               edge: int = 34, depth: float = 0.42) -> None:  # fmt: skip
        """Fill a shape as a rounded body, darker at its rim and away from the light.

        Args:
            outline: the shape.
            colour: its colour at medium light.
            spots: (x, y, rx, ry, tone) of ellipses, with the tone to add to 128.
            pattern: a pattern of `print_pattern`, or "plain".
            edge: tones by which the rim is darker.
            depth: share by which the darkest tone is darker.
        """
        pixels = self.place(outline)
        box = self._box(pixels)
        if box is None:
            return
        size = (box[2] - box[0], box[3] - box[1])
        tone = Image.new("L", (size[0] // COARSE + 1, size[1] // COARSE + 1), 128 - edge)
        brush = ImageDraw.Draw(tone)
        middle = pixels.mean(0)
        lit = (pixels - middle) * 0.86 + middle + (self.shot.light * 0.05 * self.unit, -0.03 * self.unit)
        brush.polygon(((lit - box[:2]) / COARSE).ravel().tolist(), fill=134)
        for x, y, rx, ry, value in spots:
            cx, cy = (self.place([(x, y)])[0] - box[:2]) / COARSE
            rx, ry = rx * self.unit / COARSE, ry * self.unit / COARSE
            brush.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=int(128 + value))
        tone = np.asarray(tone.filter(ImageFilter.GaussianBlur(0.085 * self.unit / COARSE)), dtype=np.float32)
        tilt = np.linspace(-1, 1, tone.shape[1], dtype=np.float32) * self.shot.light * 16
        patch = Image.fromarray(np.clip(tone + tilt, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        patch.putpalette(ramp(colour, depth).tobytes())  # one channel is scaled, not three
        patch = patch.convert("RGB")
        if pattern != "plain":
            print_pattern(patch, pattern, self.unit, colour)
        inside = Image.new("L", size)
        ImageDraw.Draw(inside).polygon((pixels - box[:2]).ravel().tolist(), fill=255)
        self.image.paste(patch, box, inside)


def print_pattern(patch: Image.Image, pattern: str, unit: float, colour: Colour) -> None:
    """Print dots, stripes, checks or flowers on a piece of cloth."""
    brush = ImageDraw.Draw(patch, "RGBA")
    light = sum(colour[:3]) > 480
    ink = (*mix(colour, (150, 70, 90) if light else (255, 250, 240), 0.75), 210)
    step, (width, height) = 0.2 * unit, patch.size
    if pattern in ("stripes", "check"):
        for y in np.arange(0, height, step):
            brush.rectangle((0, y, width, y + step * 0.4), fill=(*ink[:3], 120))
        for x in np.arange(0, width if pattern == "check" else 0, step):
            brush.rectangle((x, 0, x + step * 0.4, height), fill=(*ink[:3], 120))
        return
    for row, y in enumerate(np.arange(step / 2, height, step)):
        for x in np.arange(step / 2 * (1 + row % 2), width, step):
            petals = [(0, 0)] if pattern == "dots" else [(0, -0.2), (0.19, -0.06), (0.12, 0.16), (-0.12, 0.16),
                                                        (-0.19, -0.06)]  # fmt: skip
            r = step * (0.2 if pattern == "dots" else 0.13)
            for dx, dy in petals:
                cx, cy = x + dx * step, y + dy * step
                brush.ellipse((cx - r, cy - r, cx + r, cy + r), fill=ink)
