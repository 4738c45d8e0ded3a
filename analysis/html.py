"""The pieces of HTML pages that need nothing beside them: figures and photographs inside, tables, templates."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from analysis import plots as figures
from analysis.intervals import Estimate
from data.images import read_thumbnail
from utils import atomic_write, write_text

THUMBNAIL = 160  # pixels of the longer side


@dataclass
class Drawn:
    """The figures of a page: each stands in the page itself and, if there is a folder, in it as a PNG file."""

    folder: Path | None = None
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, figure: Figure, alt: str, *, wide: bool = False) -> None:
        """Draw a figure; `alt` says what is on it, `wide` that a phone scrolls it instead of shrinking it."""
        content = figures.png(figure)
        if self.folder is not None:
            atomic_write(self.folder / f"{name}.png", lambda file: file.write(content))
        self.figures[name] = {"source": _source(content, "png"), "alt": alt, "wide": wide}


def _source(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def render(template: str, path: Path, page: Mapping[str, Any]) -> None:
    """Write a page from its template, whole or absent."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    write_text(path, environment.get_template(template).render(page))


def grid(head: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> dict[str, Any]:
    """A table of a page, and the sentence below it."""
    return {"head": head, "rows": list(rows), "note": note}


def interval(plain: Mapping[str, float | None]) -> str:
    """An estimate of summary.json in words."""
    return "not known" if plain["value"] is None else estimate(plain).text(3)


def estimate(plain: Mapping[str, float | None]) -> Estimate:
    """An estimate of summary.json, where what is no number is null."""
    return Estimate(**{name: math.nan if value is None else value for name, value in plain.items()})


def thumbnail(path: Path) -> str | None:
    """A small picture of a photograph to stand in a page, or None where it cannot be read."""
    picture = read_thumbnail(path, THUMBNAIL)
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return _source(buffer.getvalue(), "jpeg")
