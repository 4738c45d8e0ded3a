"""Neck, shoulders and clothes."""

import numpy as np

from tools.portrait.canvas import Canvas, Colour, clip, fold, mirror, mix, oval, smooth
from tools.portrait.people import Person


def paint_body(canvas: Canvas, person: Person) -> None:
    """Paint neck, shoulders and clothes."""
    canvas.upright = True
    n, s = person.neck, person.shoulders
    neck = [(n * 0.96, 0.7), (n, 1.5), (n + 0.06, 1.8), (n + 0.12, 2.1), (0.5, 2.6)]
    canvas.shaded(smooth(mirror(neck)), mix(person.skin, (150, 84, 70), 0.14), edge=30)
    shade = oval(canvas.shot.turn * 0.5, person.length + 0.02, person.chin + 0.26, 0.26)
    canvas.soft(shade, (*fold(person.skin, 0.6), 170), 0.12, within=smooth(mirror(neck)))
    for k, y in enumerate((1.58, 1.72)):
        line = [(-n * 0.7, y - 0.05), (0, y + 0.05), (n * 0.7, y - 0.05)]
        canvas.stroke(line, 0.022, (*fold(person.skin, 0.6), int(190 * clip(person.wrinkles - 0.15 * k))))
    low = {"tee": 2.02, "hoodie": 2.0, "shirt": 2.25, "blazer": 2.55, "turtleneck": 1.8}[person.garment]
    edge = n + (0.2 if person.garment == "tee" else 0.06)
    torso = [(0, low), (0.22, low - 0.08), (edge - 0.06, 1.86), (edge, 1.78), (s * 0.62, 1.95), (s * 0.9, 2.12),
             (s, 2.6), (s + 0.12, 5), (0, 5)]  # fmt: skip
    folds = [
        (-s * 0.62, 2.9, 0.08, 0.5, -40),
        (s * 0.62, 2.9, 0.08, 0.5, -40),
        (0.4 * canvas.shot.light, 2.5, 0.5, 0.2, 22),
    ]
    torso = smooth(mirror(torso), steps=4)
    if person.garment == "blazer":  # a shirt shows between the lapels
        canvas.fill([(-0.62, 1.8), (0, 2.1), (0.62, 1.8), (0.6, 3), (-0.6, 3)], mix(person.trim, (250, 248, 244), 0.8))
    striped = person.garment == "tee" and person.grain % 3 == 0
    canvas.shaded(torso, person.cloth, folds, "stripes" if striped else "plain", edge=26)
    GARMENTS[person.garment](canvas, person)
    canvas.upright = False


def _tee(canvas: Canvas, person: Person) -> None:
    e = person.neck + 0.17
    canvas.stroke(
        [(-e, 1.8), (-e * 0.7, 1.94), (0, 2.06), (e * 0.7, 1.94), (e, 1.8)],
        0.08,
        mix(person.cloth, (20, 20, 30), 0.22),
        0.2,
    )


def _hoodie(canvas: Canvas, person: Person) -> None:
    e = person.neck + 0.2
    for side in (-1, 1):
        hood = np.array(
            [(e - 0.16, 1.62), (e + 0.16, 1.6), (e + 0.34, 1.8), (e * 0.7, 2.14), (0, 2.32), (0, 2.08), (e - 0.2, 1.9)]
        )
        canvas.shaded(smooth(hood * (side, 1)), mix(person.cloth, (255, 255, 255), 0.08), edge=30)
        canvas.stroke([(side * 0.2, 2.2), (side * 0.25, 2.5), (side * 0.22, 2.8)], 0.04, (246, 242, 234), 0.2)


def _shirt(canvas: Canvas, person: Person) -> None:
    pale = mix(person.cloth, (255, 255, 255), 0.14)
    for side in (-1, 1):
        collar = np.array(
            [(person.neck + 0.02, 1.6), (person.neck + 0.14, 1.74), (0.52, 2.24), (0.1, 2.2), (0.3, 1.98)]
        )
        canvas.shaded(collar * (side, 1), pale, edge=16)
    canvas.stroke([(0, 2.22), (0, 3), (0, 3.9)], 0.03, (*mix(person.cloth, (20, 20, 30), 0.4), 150), 0.2)
    for y in (2.5, 2.95, 3.4):
        canvas.fill(oval(0.06, y, 0.035, 0.035), (250, 246, 238))


def _blazer(canvas: Canvas, person: Person) -> None:
    for side in (-1, 1):
        lapel = np.array(
            [
                (person.neck + 0.06, 1.7),
                (person.neck + 0.28, 1.82),
                (0.98, 2.3),
                (0.8, 2.42),
                (0.86, 2.52),
                (0.02, 3.4),
                (0.34, 2.3),
            ]
        )
        canvas.shaded(lapel * (side, 1), mix(person.cloth, (15, 15, 25), 0.12), edge=16)
    if person.gender == 0 and person.grain % 2:
        canvas.shaded(
            [(-0.1, 2.1), (0.1, 2.1), (0.09, 2.26), (0.17, 3.1), (0, 3.4), (-0.17, 3.1), (-0.09, 2.26)],
            person.trim,
            edge=20,
        )


def _turtleneck(canvas: Canvas, person: Person) -> None:
    paint_roll(canvas, person, person.cloth, 1.46)


def paint_roll(canvas: Canvas, person: Person, colour: Colour, top: float) -> None:
    """Paint a roll collar with its upper edge at height `top`."""
    n = person.neck + 0.07
    roll = [(0, top + 0.1), (n * 0.7, top + 0.04), (n, top), (n + 0.06, top + 0.24), (n + 0.1, 1.95), (0, 2.1)]
    canvas.shaded(smooth(mirror(roll)), mix(colour, (255, 255, 255), 0.06), edge=34)
    for x in np.linspace(-0.85, 0.85, 9) * n:
        canvas.stroke([(x, top + 0.16), (x * 1.05, 1.9)], 0.02, (*mix(colour, (20, 20, 30), 0.5), 70), 0.3)


GARMENTS = {"tee": _tee, "hoodie": _hoodie, "shirt": _shirt, "blazer": _blazer, "turtleneck": _turtleneck}
