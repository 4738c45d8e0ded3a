"""The face: skin, wrinkles, eyes, nose, mouth, beard and glasses."""

from random import Random

import numpy as np

from tools.portrait.canvas import Canvas, Points, clip, fold, mirror, mix, oval, smooth
from tools.portrait.people import Person, hair_colour


def face_outline(person: Person) -> np.ndarray:
    """Return the right half of the face, from the top of the skull to the chin."""
    length = person.length
    return np.array([
        (0, -1.12), (0.52, -1.02), (0.88, -0.66), (1, -0.1), (0.97, 0.35), (person.jaw, length - 0.5),
        (person.chin, length - 0.1), (0, length),
    ])  # fmt: skip


def half_width(person: Person, y: np.ndarray) -> np.ndarray:
    """Return the half width of the face at height y."""
    curve = smooth(face_outline(person), closed=False)
    return np.interp(y, curve[:, 1], curve[:, 0])


def paint_head(canvas: Canvas, person: Person) -> None:
    """Paint ears and the skin of the face."""
    w, light = person.wrinkles, canvas.shot.light
    ear = 1.06 + 0.12 * w
    for side in (-1, 1):
        shape = np.array(
            [(0.93, -0.12), (1.08, -0.16), (1.15, 0.05), (1.1, 0.26 * ear), (1.02, 0.42 * ear), (0.94, 0.36)]
        )
        canvas.shaded(smooth(shape * (side, 1)), mix(person.skin, (206, 110, 96), 0.12), edge=26)
        canvas.stroke(
            np.array([(1.05, -0.05), (1.09, 0.1), (1.02, 0.26)]) * (side, 1), 0.03, (*fold(person.skin, 0.5), 130)
        )
        if person.earrings:
            canvas.fill(oval(side * 1.04, 0.42 * ear + 0.05, 0.05, 0.05), (240, 212, 130))
    nose, mouth = 0.5 * person.nose, 0.36 + person.length * 0.37
    spots = [
        (0, -0.62, 0.5, 0.2, 26), (-0.5, 0.42, 0.24, 0.16, 30), (0.5, 0.42, 0.24, 0.16, 30),
        (-0.42, -0.06, 0.26, 0.14, -16), (0.42, -0.06, 0.26, 0.14, -16), (0.03 * light, nose - 0.22, 0.07, 0.2, 44),
        (-0.15 * light, nose - 0.1, 0.06, 0.16, -26), (0, mouth + 0.21, 0.2, 0.05, -30),
        (0, person.length - 0.16, 0.2, 0.1, 26),
    ]  # fmt: skip
    if w > 0.45:  # cheeks fall in and jowls form
        spots += [(side * 0.66, mouth - 0.08, 0.09, 0.22, -52 * w) for side in (-1, 1)]
    outline = face_outline(person)
    outline[5] += (0.02 * w, 0.08 * w)
    canvas.shaded(smooth(mirror(outline)), person.skin, spots, edge=44)
    blush = int(clip(108 - 130 * w, 22, 108) + 40 * person.makeup)
    for side in (-1, 1):
        canvas.soft(oval(side * 0.58, 0.46, 0.22, 0.15), (232, 112, 104, blush), 0.09)
    rng = Random(person.grain)
    if person.grain % 5 == 0 or w > 0.75:  # freckles, or the spots that come with age
        for _ in range(14):
            x, y, r = (
                rng.uniform(-0.7, 0.7),
                rng.uniform(0.1, 0.5) - 0.9 * (w > 0.75) * (rng.random() < 0.5),
                rng.uniform(0.012, 0.024),
            )
            canvas.fill(oval(x, y, r, r), (*mix(person.skin, (126, 66, 46), 0.6), 110))


def paint_wrinkles(canvas: Canvas, person: Person) -> None:
    """Paint the lines of forehead, eyes and mouth, which appear one after another and deepen with age."""
    w, colour = person.wrinkles, fold(person.skin, 0.62)

    def line(points: Points, since: float, width: float = 0.032) -> None:
        strength = clip((w - since) / (1 - since) * 1.25)
        if strength > 0.04:
            canvas.stroke(points, width * (0.7 + 0.6 * strength), (*colour, int(205 * strength)))

    for y, since in ((-0.5, 0.12), (-0.63, 0.2), (-0.76, 0.32)):
        line([(-0.5, y + 0.03), (-0.2, y - 0.02), (0.15, y + 0.02), (0.5, y)], since, 0.026)
    mouth = 0.36 + person.length * 0.37
    for side in (-1, 1):
        flip = np.array((side, 1))
        line(np.array([(0.2, 0.5), (0.37, 0.66), (0.42, mouth)]) * flip, 0.02, 0.042)
        line(np.array([(0.28, mouth + 0.06), (0.34, mouth + 0.2), (0.33, mouth + 0.32)]) * flip, 0.4)
        for k, dy in enumerate((-0.13, -0.01, 0.1)):
            line(np.array([(0.69, 0.0 + dy * 0.4), (0.78, dy), (0.86, dy * 1.5)]) * flip, 0.14 + 0.06 * k, 0.026)
        line(np.array([(0.24, 0.16), (0.42, 0.26), (0.62, 0.18)]) * flip, 0.08, 0.036)
        line(np.array([(0.3, 0.25), (0.44, 0.34), (0.6, 0.27)]) * flip, 0.55)
        line(np.array([(0.08, -0.34), (0.1, -0.25), (0.07, -0.16)]) * flip, 0.3)
        shadow = fold(person.skin, 0.6)
        canvas.soft(oval(side * 0.43, 0.2, 0.2, 0.08), (*shadow, int(190 * w)), 0.05)
        canvas.soft(
            np.array([(0.22, 0.55), (0.46, 0.72), (0.5, mouth), (0.38, mouth)]) * flip, (*shadow, int(130 * w)), 0.06
        )
    canvas.soft(oval(0, -0.62, 0.5, 0.13), (*shadow, int(90 * w)), 0.08)


def _eye(canvas: Canvas, person: Person, side: int) -> None:
    shot, w = canvas.shot, person.wrinkles
    half, lift = 0.205 * person.eye, 0.125 * person.eye * shot.lids * (1 - 0.3 * w) * (1 - 0.15 * max(0, shot.smile))
    x = np.linspace(-half, half, 13)
    curve = 1 - (x / half) ** 2
    slope = -person.slant * x - 0.05 * w * x
    middle = np.array([side * 0.42, 0.0])

    def at(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return middle + np.stack([dx * side, dy], axis=-1)

    upper, lower = slope - lift * curve, slope + lift * 0.62 * curve
    if person.makeup > 0.3:
        canvas.soft(
            at(x * 1.15, upper - 0.045), (*mix(person.lipstick, (120, 70, 90), 0.5), int(140 * person.makeup)), 0.045
        )
    canvas.fill(np.vstack([at(x, upper), at(x, lower)[::-1]]), (250, 246, 242))
    if shot.lids > 0.3:
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        for radius, colour in ((0.112, mix(person.iris, (10, 5, 5), 0.5)), (0.092, person.iris), (0.05, (14, 10, 12))):
            dx = radius * np.cos(turn) + shot.gaze * side
            bend = 1 - np.clip(dx / half, -1, 1) ** 2
            dy = np.clip(radius * np.sin(turn) - 0.012, -lift * bend, lift * 0.62 * bend) - person.slant * dx
            canvas.fill(at(dx, dy), colour)
        canvas.fill(at(*oval((shot.gaze - 0.035) * side, -0.035, 0.026, 0.026).T), (255, 255, 255))
    lash = mix((46, 28, 26), (120, 96, 86), 0.5 * person.grey)
    canvas.stroke(at(x[::3], upper[::3]), 0.034 + 0.028 * person.makeup, lash, 0.6)
    crease = at(x[::3] * 0.96, upper[::3] - 0.055 + 0.03 * w)
    canvas.stroke(crease, 0.018 + 0.02 * w, (*fold(person.skin, 0.7), 170))
    canvas.stroke(at(x[::3], lower[::3]), 0.014, (*fold(person.skin, 0.6), 150))
    if person.makeup > 0.25:
        wing = [
            (half * 0.5, float(upper[9])),
            (half * 1.02, float(slope[-1]) - 0.02),
            (half * 1.28, float(slope[-1]) - 0.085),
        ]
        canvas.stroke(at(*np.array(wing).T), 0.034, (*lash, 230))


def paint_eyes(canvas: Canvas, person: Person) -> None:
    """Paint eyes and brows."""
    colour = mix(mix(person.hair, (58, 40, 34), 0.4), (186, 182, 180), person.grey * 0.75)
    for side in (-1, 1):
        _eye(canvas, person, side)
        up = canvas.shot.raise_brow + 0.02 * person.makeup - 0.03 * person.wrinkles
        arch = np.array([(0.18, -0.24 - up), (0.34, -0.315 - up), (0.52, -0.325 - up), (0.7, -0.22 - up)]) * (side, 1)
        canvas.stroke(arch, person.brow, (*colour, 225), 0.75)
        canvas.stroke(np.add(arch, (0, -0.012)), person.brow * 0.4, (*mix(colour, (20, 12, 12), 0.4), 140))


def paint_nose_and_mouth(canvas: Canvas, person: Person) -> None:
    """Paint nose and lips, with the smile of the shot."""
    shot, nose = canvas.shot, 0.5 * person.nose
    shade = fold(person.skin, 0.62)
    wide = 0.17 * person.nose
    away = -1 if shot.light > 0 else 1
    bridge = np.array([(0.07, -0.2), (0.06, 0.1), (0.17, nose), (0.09, nose), (0.03, 0.1)]) * (away, 1)
    canvas.soft(bridge, (*shade, 120), 0.035)
    for side in (-1, 1):
        wing = np.array([(wide * 0.8, nose - 0.1), (wide * 1.12, nose), (wide * 0.85, nose + 0.07)]) * (side, 1)
        canvas.stroke(wing, 0.028, (*shade, 190))
        canvas.fill(oval(side * wide * 0.52, nose + 0.055, 0.042, 0.024), (*mix(shade, (60, 20, 20), 0.4), 220))
    canvas.stroke([(-wide * 0.8, nose + 0.06), (0, nose + 0.105), (wide * 0.8, nose + 0.06)], 0.03, (*shade, 160))
    canvas.soft(oval(0.03 * shot.light, nose - 0.05, 0.05, 0.04), (255, 248, 238, 110), 0.03)

    y, wide = 0.36 + person.length * 0.37, 0.3 + 0.07 * max(0, shot.smile)
    corner, gape = y - 0.09 * shot.smile, 0.1 * shot.mouth
    lip = mix(mix(person.skin, (190, 84, 82), 0.5 - 0.22 * person.wrinkles), person.lipstick, 0.9 * person.makeup)
    full = 0.085 * person.lips
    middle = [(-wide, corner), (-wide * 0.5, y + 0.012), (0, y + 0.02), (wide * 0.5, y + 0.012), (wide, corner)]
    upper = [(wide * 0.55, y - full * 0.8), (0.07, y - full * 1.15), (0, y - full * 0.85), (-0.07, y - full * 1.15),
             (-wide * 0.55, y - full * 0.8)]  # fmt: skip
    lower = [(wide * 0.6, y + gape + full * 1.05), (0, y + gape + full * 1.7), (-wide * 0.6, y + gape + full * 1.05)]
    canvas.fill(smooth(middle + lower), lip)
    canvas.fill(smooth(middle + upper), mix(lip, (70, 20, 26), 0.16))
    if gape > 0.02:
        bite = [(wide * 0.55, y + gape * 0.8), (0, y + 0.02 + gape * 1.1), (-wide * 0.55, y + gape * 0.8)]
        canvas.fill(smooth(middle + bite), (120, 40, 44))
        teeth = [(wide * 0.5, y + 0.02 + gape * 0.3), (0, y + 0.02 + gape * 0.55), (-wide * 0.5, y + 0.02 + gape * 0.3)]
        canvas.fill(smooth(middle + teeth), (252, 250, 244))
    canvas.stroke(middle, 0.026, (*mix(lip, (70, 16, 22), 0.66), 220), 0.7)
    canvas.soft(oval(0.04 * shot.light, y + gape + full * 0.95, 0.1, 0.022), (255, 244, 238, 110), 0.02)
    for side in (-1, 1):
        canvas.soft(oval(side * (wide + 0.03), corner, 0.03, 0.035), (*shade, 130), 0.025)


def paint_beard(canvas: Canvas, person: Person) -> None:
    """Paint stubble, moustache, goatee or a full beard."""
    if person.beard == "none":
        return
    colour, y, length = mix(hair_colour(person), (60, 40, 34), 0.2), 0.36 + person.length * 0.37, person.length
    levels = np.linspace(0.3, length - 0.02, 9)
    rim = np.stack([half_width(person, levels) * 0.985, levels], axis=1)
    jaw = np.vstack([rim, [(0, length + 0.03)]])
    cheek = np.array(
        [(0.86, 0.45), (0.66, y - 0.14), (0.47, y - 0.06), (0.4, y + 0.12), (0.2, y + 0.17), (0, y + 0.17)]
    )
    full = np.vstack([jaw, jaw[::-1] * (-1, 1), cheek * (-1, 1), cheek[::-1]])
    chin = [(0, y + 0.17), (0.24, y + 0.2), (0.3, length - 0.14), (0.14, length + 0.01), (0, length + 0.03)]
    tache = [(0, y - 0.2), (0.2, y - 0.17), (0.38, y - 0.02), (0.3, y + 0.03), (0.16, y - 0.07), (0, y - 0.09)]
    if person.beard == "stubble":
        canvas.soft(full, (*colour, 92), 0.06)
        canvas.soft(smooth(mirror(tache)), (*colour, 92), 0.04)
        return
    if person.beard != "moustache":
        canvas.soft(full if person.beard == "full" else smooth(mirror(chin)), (*colour, 225), 0.026)
    if person.beard != "goatee" or person.grain % 2:
        canvas.soft(smooth(mirror(tache)), (*colour, 235), 0.018)


def paint_glasses(canvas: Canvas, person: Person) -> None:
    """Paint glasses, also over a mask."""
    if person.glasses == "none":
        return
    for side in (-1, 1):
        if person.glasses == "round":
            lens = oval(side * 0.43, 0.04, 0.29, 0.27)
        else:
            lens = smooth(
                np.array([(0.15, -0.17), (0.5, -0.19), (0.74, -0.15), (0.7, 0.17), (0.45, 0.25), (0.2, 0.2)])
                * (side, 1)
            )
        canvas.fill(lens, (255, 255, 255, 26))
        canvas.stroke([(side * 0.3, 0.15), (side * 0.52, -0.1)], 0.035, (255, 255, 255, 80))
        pixels = canvas.place(np.vstack([lens, lens[:1]]))
        width = int((0.03 if person.glasses == "thin" else 0.05) * canvas.unit)
        canvas.draw.line(pixels.ravel().tolist(), fill=person.frame, width=width, joint="curve")
        canvas.stroke([(side * 0.72, -0.04), (side * 0.9, -0.06), (side * 1.04, -0.02)], 0.045, person.frame, 0.2)
    canvas.stroke([(-0.15, 0.0), (0, -0.06), (0.15, 0.0)], 0.045, person.frame, 0.1)
