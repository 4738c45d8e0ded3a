"""Draw contact sheets: labelled images on a page."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from analysis.fonts import font_file

WIDTH, MARGIN, GAP = 1188, 16, 8  # pixels
LARGE = 200  # width of the large images
LABEL = 17  # height of a line of text below an image
ACROSS = 6  # small images next to the large ones
PAPER, INK, FAINT, FOUND, HIGHLIGHT = (255, 255, 255), (25, 25, 25), (95, 95, 95), (0, 200, 60), (255, 90, 0)


@dataclass(frozen=True)
class Cell:
    """An image of any size with a label."""

    label: str  # below the image
    picture: Image.Image
    box: tuple[float, float, float, float] | None = None  # left, top, width, height of a frame, in its pixels
    highlight: bool = False  # draw the frame and the label in a warning colour


@dataclass(frozen=True)
class Block:
    """A caption above lines of small images, with large images on the left, two lines high."""

    caption: str
    lines: Sequence[Sequence[Cell]]
    large: Sequence[Cell] = ()


def contact_sheet(title: str, notes: Sequence[str], blocks: Sequence[Block], *, cell: int = 150) -> Image.Image:
    """Return a page of blocks below a title and notes, an RGB image of WIDTH pixels.

    `cell` is the side of a small image in pixels.
    """
    sentences = [line for note in notes for line in textwrap.wrap(note, 155)]
    step = cell + LABEL + GAP
    heights = [26 + step * max(len(block.lines), len(block.large) + bool(block.large)) + GAP for block in blocks]
    page = Image.new("RGB", (WIDTH, 2 * MARGIN + 30 + 20 * len(sentences) + 6 + sum(heights)), PAPER)
    pen = ImageDraw.Draw(page)
    _write(pen, (MARGIN, MARGIN), title, 20, INK)
    for k, line in enumerate(sentences):
        _write(pen, (MARGIN, MARGIN + 32 + 20 * k), line, 13, FAINT)
    y = MARGIN + 36 + 20 * len(sentences)
    for block, height in zip(blocks, heights, strict=True):
        pen.line((MARGIN, y, WIDTH - MARGIN, y), fill=(210, 210, 210))
        _write(pen, (MARGIN, y + 5), block.caption, 14, INK)
        top = y + 26
        for k, large in enumerate(block.large):
            lines = 2 if k == 0 else 1
            _put(page, (MARGIN, top), (LARGE, lines * step - LABEL - GAP), large)
            top += lines * step
        left = MARGIN + (LARGE + 2 * GAP if block.large else 0)
        for row, line in enumerate(block.lines):
            for column, small in enumerate(line):
                _put(page, (left + column * (cell + GAP), y + 26 + row * step), (cell, cell), small)
        y += height
    return page


def _put(page: Image.Image, at: tuple[int, int], room: tuple[int, int], cell: Cell) -> None:
    """Paste an image, as large as fits into `room`, with its box, and write its label below."""
    times = min(room[0] / cell.picture.width, room[1] / cell.picture.height)
    width, height = (max(1, round(times * length)) for length in cell.picture.size)
    # BOX keeps the pixels of an enlarged image as squares.
    picture = cell.picture.resize((width, height), Image.Resampling.LANCZOS if times < 1 else Image.Resampling.BOX)
    colour = HIGHLIGHT if cell.highlight else FOUND
    if cell.box is not None:
        left, top, wide, high = (times * length for length in cell.box)
        left, top = min(left, width - 1), min(top, height - 1)  # for images a few pixels wide
        right, bottom = min(left + wide, width - 1), min(top + high, height - 1)
        ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=colour, width=3)
    page.paste(picture, at)
    pen = ImageDraw.Draw(page)
    _write(pen, (at[0], at[1] + height + 1), cell.label, 11, HIGHLIGHT if cell.highlight else INK, room[0])


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: tuple, room: int = 0) -> None:
    """Write one line of text, its middle shortened to fit `room` pixels; 0 for up to the margin."""
    whole = " ".join(text.encode(errors="replace").decode().split())  # fonts can only draw Unicode
    font, room = _font(font_file(whole), size), room or WIDTH - MARGIN - at[0]
    text, kept = whole, min(len(whole), 400) // 2
    while font.getlength(text) > room and kept:
        text, kept = f"{whole[:kept]}...{whole[-kept:]}", kept - 1
    pen.text(at, text, font=font, fill=colour)


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
