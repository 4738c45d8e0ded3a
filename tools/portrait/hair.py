"""Hair, behind the head and in front of it."""

from random import Random

import numpy as np

from tools.portrait.canvas import Canvas, mirror, mix, oval, smooth
from tools.portrait.face import face_outline
from tools.portrait.people import Person, hair_colour

# style: volume, where the side hair ends, hairline, how far the sides hang out, curl
STYLES = {
    "crop": (0.13, 0.08, -0.72, 0.00, 0),
    "buzz": (0.04, 0.05, -0.74, 0.00, 0),
    "side": (0.20, 0.10, -0.66, 0.00, 0),
    "quiff": (0.32, 0.05, -0.78, 0.00, 0),
    "curly": (0.30, 0.20, -0.62, 0.06, 1),
    "receding": (0.08, 0.12, -0.98, 0.00, 0),
    "bald": (0.02, 0.20, -1.20, 0.02, 0),
    "pixie": (0.19, 0.34, -0.58, 0.03, 0),
    "bob": (0.22, 1.18, -0.66, 0.16, 0),
    "bangs": (0.22, 1.30, -0.40, 0.16, 0),
    "long": (0.19, 2.35, -0.70, 0.20, 0),
    "wavy": (0.26, 2.10, -0.66, 0.26, 1),
    "ponytail": (0.12, 0.10, -0.76, 0.00, 0),
    "bun": (0.13, 0.12, -0.74, 0.00, 0),
}


def _curl(curve: np.ndarray, bumps: float, size: float) -> np.ndarray:
    """Return a wavy outline."""
    travelled = np.cumsum(np.linalg.norm(np.diff(curve, axis=0, prepend=curve[:1]), axis=1))
    middle = np.array([0, -0.2])
    return middle + (curve - middle) * (1 + size * np.sin(travelled * bumps))[:, None]


def hair_curves(person: Person) -> tuple[np.ndarray, np.ndarray]:
    """Return the outer edge of the front hair and the hairline, both from left to right."""
    volume, end, line, hang, curl = STYLES[person.style]
    p = person.part
    outer = [(0, -1.13 - volume), (0.5, -1.06 - volume * 0.95), (0.9 + volume * 0.45, -0.72 - volume * 0.4),
             (1.03 + volume * 0.5, -0.25)]  # fmt: skip
    inner = [(0, line), (0.4, line + 0.03), (0.74, line + 0.2), (0.9, max(line + 0.36, -0.34))]
    if person.style == "receding":
        inner[1:] = [(0.38, line - 0.06), (0.8, -0.72), (0.92, -0.36)]
    if end > 0.3:  # the sides hang down over the ears
        outer += [(1.06 + hang + volume * 0.3, end * 0.45), (1.04 + hang * 1.5, end * 0.72), (0.98 + hang, end * 0.97)]
        inner += [(0.95, 0.1), (0.9 + hang * 0.3, end * 0.5), (0.84, end * 0.8), (0.9 + hang * 0.8, end)]
    else:
        outer += [(1.05 + volume * 0.2, end * 0.4 - 0.06), (0.99, end + 0.08)]
        inner += [(0.95, end - 0.06)]
    outer, inner = (np.vstack([np.array(edge[:0:-1]) * (-1, 1), edge]) for edge in (outer, inner))
    if person.style not in ("bangs", "buzz", "receding", "bald"):
        inner[:, 1] += np.clip(0.2 - abs(inner[:, 0] - p) * 0.5, -0.3, 0.2) * -0.9 * (inner[:, 1] < -0.3)
    outer, inner = smooth(outer, closed=False), smooth(inner, closed=False)
    return (_curl(outer, 17, 0.03) if curl else outer), inner


def _strands(canvas: Canvas, person: Person, outer: np.ndarray, inner: np.ndarray, count: int) -> None:
    """Paint strands between the two edges of the hair, some lighter, some darker, some grey."""
    rng, colour = Random(person.grain), hair_colour(person)
    samples = np.linspace(0, 1, 60)
    edges = [np.stack([np.interp(samples, np.linspace(0, 1, len(e)), e[:, k]) for k in range(2)], 1)
             for e in (outer, inner)]  # fmt: skip
    reach = 8 if STYLES[person.style][4] or person.style == "buzz" else 17
    lines, colours = [], []
    for _ in range(count):
        depth, start = rng.uniform(0.04, 0.5 if person.style == "bangs" else 0.97), rng.randrange(0, 60 - reach)
        part = slice(start, start + reach)
        lines.append(edges[0][part] * (1 - depth) + edges[1][part] * depth)
        bright = rng.random()
        if rng.random() < 4 * person.grey * (1 - person.grey):
            tint = mix(colour, (236, 234, 232), 0.7)
        else:
            tint = mix(colour, (255, 236, 214), 0.3 * bright) if bright > 0.45 else mix(colour, (20, 12, 14), 0.5)
        colours.append((*tint, 120))
    canvas.strokes(np.array(lines), 0.026, colours)


def paint_back_hair(canvas: Canvas, person: Person) -> None:
    """Paint the hair behind the head."""
    volume, end, _, hang, curl = STYLES[person.style]
    colour = mix(hair_colour(person), (20, 12, 16), 0.22)
    if person.style == "bun":
        canvas.shaded(oval(person.part * 0.3, -1.5, 0.42, 0.36), hair_colour(person), [(0, -1.6, 0.15, 0.1, 70)])
    if person.style == "ponytail":
        side = 1 if person.part > 0 else -1
        tail = np.array([(0.2, -1.2), (0.9, -1.22), (1.35, -0.6), (1.42, 0.5), (1.22, 1.6), (1.05, 1.0), (0.95, 0.0)])
        canvas.shaded(smooth(tail * (side, 1)), colour, [(1.25 * side, -0.2, 0.08, 0.5, 60)])
    if end > 0.6:
        half = [(0, -1.1 - volume), (0.95 + volume * 0.3, -0.6), (1.05 + hang, 0.2), (1.06 + hang, end * 0.7),
                (0.85 + hang, end), (0, end - 0.1)]  # fmt: skip
        outline = smooth(mirror(half))
        canvas.shaded(_curl(outline, 15, 0.02) if curl else outline, colour)


def paint_front_hair(canvas: Canvas, person: Person) -> None:
    """Paint the hair on the head and next to the face."""
    outer, inner = hair_curves(person)
    colour, (volume, end, _, _, curl) = hair_colour(person), STYLES[person.style]
    if person.style == "bald":  # a wreath of hair above the ears
        for side in (-1, 1):
            tuft = np.array([(0.97, -0.5), (1.1, -0.35), (1.12, 0.0), (1.03, 0.28), (0.96, 0.1), (0.93, -0.25)])
            canvas.shaded(smooth(tuft * (side, 1)), colour, edge=15)
        canvas.soft(oval(0.25 * canvas.shot.light, -0.9, 0.2, 0.09), (255, 250, 240, 120), 0.07)
        return
    outline = np.vstack([outer, inner[::-1]])
    if person.style == "buzz":
        canvas.soft(outline, (*colour, 228), 0.022)
        return
    canvas.soft(np.add(outline, (0, 0.08)), (70, 30, 24, 70), 0.07, within=smooth(mirror(face_outline(person))))
    top = -0.98 - volume * 0.6
    shine = [(-0.45, top + 0.1, 0.26, 0.08, 55), (0.35, top + 0.04, 0.34, 0.09, 62)]
    canvas.shaded(outline, colour, shine, edge=28, depth=0.5)
    if person.temples > 0.05:
        for side in (-1, 1):
            silver = (*mix(colour, (214, 212, 212), 0.7), int(170 * person.temples))
            canvas.soft(oval(side * 1.0, -0.15, 0.14, 0.3), silver, 0.07, within=outline)
    _strands(canvas, person, outer, inner, 60 if end > 0.6 or curl else 42)
    if person.style == "bangs":
        tips = np.linspace(-0.74, 0.74, 19)
        lines = np.array([[(x * 0.9, -0.98), (x * 0.98, -0.66), (x, -0.33 + 0.03 * (k % 2))]
                          for k, x in enumerate(tips)])  # fmt: skip
        canvas.strokes(lines, 0.03, [(*mix(colour, (15, 8, 10), 0.3), 110)] * len(tips))
