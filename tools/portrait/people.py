"""Draw all traits of a person and of a shot from a random stream."""

import math
from dataclasses import dataclass
from random import Random

from tools.portrait.canvas import BRIGHT, CLOTHES, DYES, HAIRS, SKINS, WALLS, Colour, clip, mix
from tools.portrait.scenes import SCENES

MASKS = {
    "surgical": ((158, 206, 226), (246, 247, 248), (52, 54, 60), (244, 190, 202), (168, 214, 196)),
    "kf94": ((248, 248, 249), (248, 248, 249), (48, 50, 56), (206, 204, 208)),
    "cloth": ((188, 92, 88), (88, 110, 150), (226, 206, 170), (70, 72, 80), (128, 152, 120), (232, 232, 230)),
}
MALE_STYLES = (("crop", 32), ("side", 26), ("quiff", 14), ("buzz", 10), ("curly", 8), ("pixie", 4), ("bob", 2),
               ("long", 2), ("wavy", 1), ("bun", 1))  # fmt: skip
FEMALE_STYLES = (("long", 22), ("wavy", 17), ("bob", 17), ("bangs", 11), ("ponytail", 10), ("bun", 7), ("pixie", 6),
                 ("curly", 3), ("side", 1), ("crop", 1))  # fmt: skip
MISPLACED = (("nose_out", 48), ("chin", 38), ("one_ear", 6), ("high", 5), ("eyes", 3))


@dataclass(frozen=True)
class Person:
    """Traits that are the same in all images of a person. Colours are RGB, strengths are 0 to 1."""

    gender: int  # 0 male, 1 female
    age: int
    jaw: float
    chin: float
    length: float
    skin: Colour
    style: str
    part: float
    hair: Colour
    grey: float
    temples: float
    brow: float
    eye: float
    slant: float
    iris: Colour
    nose: float
    lips: float
    makeup: float
    lipstick: Colour
    wrinkles: float
    beard: str
    glasses: str
    frame: Colour
    earrings: bool
    neck: float
    shoulders: float
    garment: str
    cloth: Colour
    trim: Colour
    scene: str
    wall: Colour
    grain: int  # seeds the placing of strands, freckles and books


@dataclass(frozen=True)
class Shot:
    """Traits of one image; `placing` is "worn", a wrong way of wearing the mask, or "bare"."""

    placing: str
    mask: str
    fabric: Colour
    pattern: str
    prop: str
    turn: float
    nod: float
    tilt: float
    zoom: float
    shift: tuple[float, float]
    smile: float
    mouth: float
    raise_brow: float
    lids: float
    gaze: float
    light: float  # where the light stands: -1 left, 1 right
    contrast: float
    gain: float
    warmth: float
    blur: float
    noise: float
    scene: str
    wall: Colour
    grain: int


def _pick(rng: Random, weighted: tuple[tuple[str, int], ...]) -> str:
    names, weights = zip(*weighted, strict=True)
    return rng.choices(names, weights)[0]


def hair_colour(person: Person) -> Colour:
    """Return the colour of the hair with its grey mixed in."""
    return mix(person.hair, (206, 204, 204), person.grey * 0.92)


def _style(rng: Random, gender: int, looks: float) -> str:
    if gender == 0 and rng.random() < (looks - 36) / 70:
        return rng.choices(("receding", "bald"), (5, 3))[0]
    if gender == 1 and looks > 52 and rng.random() < 0.45:  # shorter, curlier hair, some of it as men have it
        return rng.choices(("curly", "pixie", "bob", "bun"), (3, 2, 4, 3))[0]
    return _pick(rng, FEMALE_STYLES if gender else MALE_STYLES)


def _hair(rng: Random, looks: float) -> tuple[Colour, float, float]:
    """Return colour, greyness and greyness of the temples; some hide it, a few young people dye their hair."""
    hair = rng.choices(HAIRS, (7, 6, 5, 3, 2, 1))[0]
    if looks < 45 and rng.random() < (0.15 if looks < 31 else 0.04):
        hair = rng.choice(DYES)
    grey = clip(1 / (1 + math.exp((56 - looks) / 3)) * rng.uniform(0.8, 1.1))
    shown = 0.15 if rng.random() < 0.1 else 1
    return hair, grey * shown, clip((looks - 36) / 12) * shown


def _weathered(skin: Colour, years: float) -> Colour:
    """Return the skin of an age: yellower, and light skin slightly darker."""
    years *= max(skin) / 255
    return tuple(round(c * (1 - fade * years)) for c, fade in zip(skin, (0.10, 0.14, 0.24), strict=True))


def make_person(gender: int, age: int, rng: Random) -> Person:
    """Draw a person of a gender (0 male, 1 female) and an age in years from `rng`."""
    looks = age + rng.gauss(0, 2)  # people look older or younger than they are, so no trait gives the age away
    soft = clip(rng.gauss(0.8 if gender else 0.2, 0.12))  # how feminine the features are: the genders overlap
    jaw, chin, length = rng.choice(((0.80, 0.37, 1.40), (0.87, 0.46, 1.31), (0.77, 0.36, 1.50), (0.90, 0.50, 1.38)))
    years = clip((looks - 18) / 55)
    hair, grey, temples = _hair(rng, looks)
    beards = (("none", 50), ("stubble", 24), ("moustache", 8), ("goatee", 8), ("full", 10))
    garments = (("hoodie", 42), ("tee", 34), ("shirt", 10), ("blazer", 7), ("turtleneck", 7))
    if looks > 32:
        garments = (("hoodie", 6), ("tee", 18), ("shirt", 33), ("blazer", 30), ("turtleneck", 13))
    wardrobe = BRIGHT if gender and rng.random() < 0.5 else CLOTHES
    return Person(
        gender=gender, age=age,
        jaw=jaw + 0.06 * (0.5 - soft) + 0.05 * years, chin=chin + 0.08 * (0.5 - soft),
        length=length + 0.12 * (years - 0.4) + rng.uniform(-0.03, 0.03),
        skin=_weathered(rng.choices(SKINS, (6, 8, 7, 5, 2, 1))[0], years),
        style=_style(rng, gender, looks), part=rng.uniform(-0.45, 0.45), hair=hair, grey=grey, temples=temples,
        brow=0.12 - 0.055 * soft + rng.gauss(0, 0.008), eye=1.04 + 0.13 * soft - 0.3 * years + rng.gauss(0, 0.03),
        slant=rng.uniform(-0.02, 0.14), iris=rng.choice(((58, 38, 28), (84, 54, 34), (46, 34, 32), (96, 110, 92))),
        nose=0.94 + 0.16 * (0.5 - soft) + 0.16 * years + rng.gauss(0, 0.04),
        lips=0.9 + 0.35 * soft - 0.45 * years + rng.gauss(0, 0.06),
        makeup=clip(rng.gauss(0.62, 0.25)) if gender and rng.random() < 0.85 else clip(rng.gauss(0.02, 0.04)),
        lipstick=rng.choice(((196, 62, 74), (214, 96, 100), (176, 70, 90), (206, 110, 96))),
        wrinkles=clip((looks - 24) / 42 + rng.gauss(0, 0.04)),
        beard=_pick(rng, beards) if gender == 0 else "none",
        glasses=rng.choice(("round", "square", "thin")) if rng.random() < 0.14 + 0.4 * years else "none",
        frame=rng.choice(((40, 38, 42), (92, 62, 40), (150, 120, 76), (120, 44, 50), (70, 84, 110))),
        earrings=rng.random() < (0.5 if gender else 0.05), neck=0.58 - 0.15 * soft + rng.gauss(0, 0.012),
        shoulders=2.02 - 0.42 * soft + rng.gauss(0, 0.05), garment=_pick(rng, garments),
        cloth=mix(rng.choice(wardrobe), (120, 112, 108), 0.3 * years), trim=rng.choice(CLOTHES),
        scene=rng.choice(SCENES), wall=rng.choice(WALLS), grain=rng.getrandbits(30),
    )  # fmt: skip


def _prop(rng: Random, placing: str) -> str:
    """Return something near the chin; masked people have it too, so that a scarf does not predict the mask."""
    if placing == "bare":
        return _pick(rng, (("none", 76), ("scarf", 8), ("hand", 6), ("cup", 5), ("roll", 5)))
    return _pick(rng, (("none", 93), ("scarf", 4), ("roll", 3)))


def make_shot(person: Person, wearing: str, rng: Random) -> Shot:
    """Draw the traits of one image of `person` from `rng`; `wearing` is "worn", "wrong" or "bare"."""
    placing = _pick(rng, MISPLACED) if wearing == "wrong" else wearing
    mask = rng.choices(("surgical", "kf94", "cloth"), (45, 33, 22))[0]
    patterned = (mask == "cloth" and rng.random() < 0.6) or (mask == "surgical" and rng.random() < 0.06)
    moved = rng.random() < 0.3
    return Shot(
        placing=placing, mask=mask, fabric=rng.choice(MASKS[mask]),
        pattern=rng.choice(("dots", "stripes", "check", "flowers")) if patterned else "plain",
        prop=_prop(rng, placing), turn=clip(rng.gauss(0, 0.09), -0.2, 0.2), nod=clip(rng.gauss(0, 0.05), -0.1, 0.1),
        tilt=clip(rng.gauss(0, 0.06), -0.14, 0.14), zoom=rng.uniform(0.92, 1.1),
        shift=(rng.gauss(0, 0.1), rng.gauss(0, 0.08)), smile=rng.choice((0.0, 0.2, 0.35, 0.6, 0.9, -0.15)),
        mouth=rng.uniform(0.3, 1) if rng.random() < 0.25 else 0.0, raise_brow=clip(rng.gauss(0, 0.03), -0.05, 0.08),
        lids=0.04 if rng.random() < 0.04 else rng.uniform(0.82, 1.08), gaze=rng.gauss(0, 0.015),
        light=rng.choice((-1, 1)) * rng.uniform(0.2, 1), contrast=rng.uniform(0.04, 0.2),
        gain=clip(rng.gauss(0.98, 0.07), 0.78, 1.1), warmth=rng.gauss(0.02, 0.025),
        blur=rng.uniform(0.5, 1.1) if rng.random() < 0.1 else 0.0, noise=rng.uniform(0.2, 1.2),
        scene=rng.choice(SCENES) if moved else person.scene, wall=rng.choice(WALLS) if moved else person.wall,
        grain=rng.getrandbits(30) if moved else person.grain,
    )  # fmt: skip
