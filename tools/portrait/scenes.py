"""Backgrounds, drawn small and out of focus."""

from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from tools.portrait.canvas import CLOTHES, HEIGHT, OVERSAMPLE, WIDTH, Colour, mix


def _plain(brush: ImageDraw.ImageDraw, wall: Colour, rng: Random) -> None:
    for k in range(12):  # a glow on the wall
        brush.ellipse((8 * k - 50, 8 * k - 20, 242 - 8 * k, 276 - 8 * k), fill=mix(wall, (255, 255, 255), 0.035 * k))


def _shelf(brush: ImageDraw.ImageDraw, wall: Colour, rng: Random) -> None:
    wood = mix(wall, (122, 88, 62), 0.7)
    for y in (62, 122, 182):
        x = rng.randrange(0, 14)
        while x < 192:
            width, height = rng.randrange(5, 12), rng.randrange(24, 46)
            if rng.random() < 0.85:
                book = mix(rng.choice(CLOTHES), wall, 0.35)
                brush.rectangle((x, y - height, x + width - 1, y), fill=book)
                brush.rectangle(
                    (x, y - height + 5, x + width - 1, y - height + 8), fill=mix(book, (255, 250, 230), 0.5)
                )
            x += width
        brush.rectangle((0, y, 192, y + 5), fill=wood)


def _window(brush: ImageDraw.ImageDraw, wall: Colour, rng: Random) -> None:
    x = rng.choice((-40, 100))
    brush.rectangle((x, 18, x + 120, 168), fill=(250, 246, 236))
    for px in (x + 6, x + 64):
        for py in (24, 98):
            brush.rectangle((px, py, px + 50, py + 64), fill=(196, 224, 240))
            brush.ellipse((px - 10, py + 40, px + 60, py + 110), fill=(166, 204, 170))
            brush.rectangle((px, py + 65, px + 50, py + 73), fill=(250, 246, 236))
    curtain = rng.choice(CLOTHES)
    for k in range(4):
        left = (x + 100 + k * 7) if x < 0 else (x - 12 + k * 7)
        brush.rectangle((left, 10, left + 7, 200), fill=mix(curtain, (255, 255, 255), 0.35 + 0.1 * (k % 2)))
    brush.rectangle((0, 172, 192, 256), fill=mix(wall, (120, 100, 90), 0.15))


def _outdoor(brush: ImageDraw.ImageDraw, wall: Colour, rng: Random) -> None:
    for y in range(0, 150, 3):
        brush.rectangle((0, y, 192, y + 3), fill=mix((150, 198, 232), (246, 236, 214), y / 150))
    for _ in range(3):
        x, y = rng.randrange(192), rng.randrange(20, 70)
        for dx, dy, r in ((0, 0, 12), (12, 3, 9), (-12, 4, 9)):
            brush.ellipse((x + dx - r, y + dy - r * 0.6, x + dx + r, y + dy + r * 0.6), fill=(252, 250, 246))
    for y, green in ((128, (150, 186, 156)), (148, (122, 168, 118)), (172, (98, 148, 92))):
        x = rng.randrange(-60, 60)
        brush.rectangle((0, y + 22, 192, 256), fill=green)
        brush.ellipse((x - 90, y, x + 130, y + 90), fill=green)
        brush.ellipse((x + 70, y + 6, x + 270, y + 90), fill=green)
    for _ in range(4):
        x, y, r = (
            rng.choice((rng.randrange(0, 50), rng.randrange(140, 192))),
            rng.randrange(104, 150),
            rng.randrange(14, 24),
        )
        brush.rectangle((x - 2, y, x + 2, y + 46), fill=(112, 84, 62))
        brush.ellipse((x - r, y - r * 1.2, x + r, y + r), fill=mix((74, 122, 76), (150, 170, 84), rng.random()))


def _lights(brush: ImageDraw.ImageDraw, wall: Colour, rng: Random) -> None:
    brush.rectangle((0, 0, 192, 256), fill=mix(wall, (52, 58, 88), 0.62))
    for _ in range(26):
        x, y, r = rng.randrange(192), rng.randrange(256), rng.randrange(6, 17)
        glow = rng.choice(((255, 214, 150), (250, 178, 150), (176, 206, 240), (240, 232, 214)))
        brush.ellipse((x - r, y - r, x + r, y + r), fill=(*glow, 90))


def _room(brush: ImageDraw.ImageDraw, wall: Colour, rng: Random) -> None:
    for x in range(0, 192, 16):
        brush.rectangle((x, 0, x + 7, 186), fill=mix(wall, (255, 255, 255), 0.22))
    x = rng.choice((8, 124))
    brush.rectangle((x, 26, x + 58, 96), fill=(120, 92, 70))
    brush.rectangle((x + 5, 31, x + 53, 91), fill=(246, 240, 228))
    brush.ellipse((x + 14, 42, x + 44, 74), fill=mix(rng.choice(CLOTHES), (255, 255, 255), 0.2))
    brush.rectangle((0, 186, 192, 256), fill=mix(wall, (140, 108, 84), 0.55))
    pot = 166 if x < 60 else 22
    for k in range(9):
        lean = (k - 4) * 7
        brush.polygon((pot - 3, 190, pot + lean, 112 + abs(lean), pot + lean + 8, 118 + abs(lean), pot + 3, 190),
                      fill=mix((84, 134, 92), (150, 176, 110), k / 9))  # fmt: skip
    brush.polygon((pot - 14, 184, pot + 14, 184, pot + 10, 216, pot - 10, 216), fill=(196, 122, 92))


SCENE_PAINTERS = {
    "plain": _plain, "shelf": _shelf, "window": _window, "outdoor": _outdoor, "lights": _lights, "room": _room,
}  # fmt: skip
SCENES = tuple(SCENE_PAINTERS)


@lru_cache(maxsize=1)  # most images of a person have one background
def paint_scene(scene: str, wall: Colour, grain: int) -> Image.Image:
    """Return the background at canvas size, out of focus. Copy it before painting on it."""
    small = Image.new("RGB", (192, 256), wall)
    SCENE_PAINTERS[scene](ImageDraw.Draw(small, "RGBA"), wall, Random(grain))
    small = small.filter(ImageFilter.GaussianBlur(2))
    return small.resize((WIDTH * OVERSAMPLE, HEIGHT * OVERSAMPLE), Image.Resampling.BILINEAR)
