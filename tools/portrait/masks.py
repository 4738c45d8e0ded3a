"""Masks, worn in every way, and other things near a chin."""

from random import Random

import numpy as np

from tools.portrait.body import paint_roll
from tools.portrait.canvas import CLOTHES, Canvas, Colour, fold, mirror, mix, oval, smooth
from tools.portrait.face import face_outline, half_width
from tools.portrait.people import MASKS, Person, Shot


def mask_outline(person: Person, top: float, bottom: float) -> np.ndarray:
    """Return the right half of a mask between two heights, which follows the face and closes below it."""
    reach = np.linspace(0, 1, 7)
    y = top + 0.17 + (bottom - top - 0.17) * reach
    x = np.maximum(half_width(person, y) * (0.9 + 0.1 * np.minimum(1, reach * 3)), 0.72 * np.sqrt(1 - reach**2))
    return np.vstack(
        [[(0, top), (0.28, top + 0.04)], np.stack([x, y], axis=1)[:-1], [(0.22, bottom), (0, bottom + 0.02)]]
    )


def _mask_details(canvas: Canvas, shot: Shot, half: np.ndarray) -> None:
    """Paint pleats, folds or a seam."""
    top, bottom = half[0, 1], half[-1, 1]
    dark = (*mix(shot.fabric, (40, 50, 70), 0.42), 140)
    tall = bottom - top
    if shot.mask == "surgical":
        for f in (0.38, 0.54, 0.7):
            y = top + tall * f
            wide = 0.93 * np.interp(y - 0.05, half[2:, 1], half[2:, 0])
            canvas.stroke([(-wide, y - 0.05), (0, y + 0.03), (wide, y - 0.05)], 0.022, dark, 0.5)
        canvas.stroke([(-0.26, top + 0.1), (0, top + 0.06), (0.26, top + 0.1)], 0.028, (255, 255, 255, 120), 0.5)
    elif shot.mask == "kf94":
        for f, bow in ((0.36, -0.12), (0.68, 0.14)):
            y = top + tall * f
            wide = 0.95 * np.interp(y + 0.04, half[2:, 1], half[2:, 0])
            canvas.stroke([(-wide, y + 0.04), (0, y + bow), (wide, y + 0.04)], 0.028, dark, 0.4)
    else:
        canvas.stroke([(0, top + 0.03), (0.02, top + tall * 0.5), (0, bottom - 0.02)], 0.026, dark, 0.4)


def paint_mask(canvas: Canvas, person: Person) -> None:
    """Paint the mask of the shot; nothing for a bare face."""
    shot, low = canvas.shot, person.length
    rng = Random(shot.grain)
    if shot.placing in ("bare", "one_ear"):
        return
    top, bottom = {
        "worn": (0.22, low + 0.1), "nose_out": (0.74, low + 0.16), "chin": (low - 0.27, low + 0.32),
        "high": (0.16, low - 0.32), "eyes": (-0.42, 0.4),
    }[shot.placing]  # fmt: skip
    top += rng.uniform(-0.05, 0.04)
    half = mask_outline(person, top, bottom)
    for side in (-1, 1):
        for start, ear in ((half[3], (1.04, -0.06)), (half[-4], (1.04, 0.32))):
            bow = (np.array(start) + ear) / 2 + (0.03, 0.02)
            canvas.stroke(np.array([start, bow, ear]) * (side, 1), 0.034, mix(shot.fabric, (236, 236, 238), 0.6), 0.1)
    outline = smooth(mirror(half), steps=4)
    canvas.soft(np.add(outline, (0, 0.04)), (70, 36, 36, 110), 0.06, within=smooth(mirror(face_outline(person))))
    middle = (top + bottom) / 2
    canvas.shaded(outline, shot.fabric, [(0.1 * shot.light, middle - 0.1, 0.3, (bottom - top) * 0.25, 40)],
                  shot.pattern, edge=30, depth=0.34)  # fmt: skip
    _mask_details(canvas, shot, half)


def paint_hanging_mask(canvas: Canvas, person: Person) -> None:
    """Paint a mask that dangles from one ear, next to the cheek."""
    shot = canvas.shot
    side = 1 if shot.grain % 2 else -1
    for x in (0.88, 1.2):
        canvas.stroke(
            np.array([(1.04, 0.0), (x, 0.3), (x, 0.62)]) * (side, 1), 0.03, mix(shot.fabric, (236, 236, 238), 0.6), 0.1
        )
    shape = np.array([(0.78, 0.6), (1.28, 0.56), (1.36, 0.95), (1.28, 1.42), (0.82, 1.46), (0.72, 1.0)])
    canvas.soft(np.add(shape * (side, 1), (0.03, 0.05)), (50, 30, 36, 90), 0.06)
    canvas.shaded(
        smooth(shape * (side, 1)), shot.fabric, [(1.05 * side, 0.9, 0.15, 0.25, 40)], shot.pattern, edge=28, depth=0.34
    )
    for x in (0.92, 1.05, 1.18):
        canvas.stroke(
            np.array([(x, 0.64), (x + 0.03, 1.0), (x, 1.4)]) * (side, 1),
            0.02,
            (*mix(shot.fabric, (40, 50, 70), 0.42), 120),
        )


def paint_prop(canvas: Canvas, person: Person) -> None:
    """Paint a scarf, a high collar, a hand or a cup near the chin."""
    shot, low = canvas.shot, person.length
    rng = Random(shot.grain + 1)
    cloth = rng.choice(CLOTHES + MASKS["surgical"])
    canvas.upright = True
    if shot.prop == "roll":
        paint_roll(canvas, person, cloth, low + rng.uniform(-0.16, 0.06))
    elif shot.prop == "scarf":
        n, top = person.neck, low + rng.uniform(-0.2, 0.1)
        for dy in (0.3, 0.0):
            wrap = [
                (0, top + 0.1 + dy),
                (n + 0.1, top - 0.03 + dy),
                (n + 0.34, top + 0.16 + dy),
                (n + 0.2, top + 0.42 + dy),
                (0, top + 0.56 + dy),
            ]
            canvas.shaded(smooth(mirror(wrap)), cloth, (), rng.choice(("plain", "plain", "stripes", "check")), edge=40)
    elif shot.prop in ("hand", "cup"):
        side = rng.choice((-1, 1))
        _hand(canvas, person, side, cup=shot.prop == "cup", cloth=cloth)
    canvas.upright = False


def _hand(canvas: Canvas, person: Person, side: int, cup: bool, cloth: Colour) -> None:
    """Paint a hand that holds the chin, or a cup in front of it."""
    flip, low = np.array((side, 1)), person.length
    top = low - (0.5 if cup else 0.12)
    sleeve = np.array([(0.5, low + 0.75), (1.0, low + 0.62), (1.7, 3.9), (0.8, 3.9)])
    canvas.shaded(smooth(sleeve * flip), person.cloth, edge=26)
    if cup:
        mug = [(0.36, top), (0.33, top + 0.5), (0.28, top + 0.78), (0, top + 0.82)]
        canvas.shaded(mirror([(0, top), *mug]), cloth, [(-0.12, top + 0.3, 0.05, 0.25, 60)], edge=36)
        canvas.fill(oval(0, top, 0.36, 0.07), mix(cloth, (255, 255, 255), 0.4))
    palm = np.array(
        [
            (0.2, top + 0.22),
            (0.62, top + 0.16),
            (0.84, top + 0.6),
            (0.9, top + 1.0),
            (0.5, top + 1.08),
            (0.24, top + 0.62),
        ]
    )
    canvas.shaded(smooth(palm * flip), person.skin, edge=34)
    for k in range(4):
        y = top + 0.18 + 0.13 * k
        finger = np.array(
            [(0.62, y - 0.07), (0.2, y - 0.08), (-0.02, y - 0.02), (0.0, y + 0.05), (0.2, y + 0.06), (0.62, y + 0.08)]
        )
        canvas.shaded(smooth(finger * flip), person.skin, edge=30)
        canvas.stroke(finger[[5, 4, 3]] * flip, 0.016, (*fold(person.skin, 0.6), 150))
