"""Build self-contained HTML pages: embedded figures and images, tables, templates."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from analysis import plots
from data.images import read_thumbnail
from utils import atomic_write, write_text

THUMBNAIL = 160  # pixels of the longer side
DIGITS = 3  # decimals of the scores on pages


@dataclass
class Figures:
    """The figures of a page, embedded in it and, if there is a folder, also saved there as PNG files."""

    folder: Path | None = None
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, figure: Figure, alt: str, *, wide: bool = False) -> None:
        """Add a figure with its alternative text; phones scroll a `wide` one instead of shrinking it."""
        content = plots.png(figure)
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


def grid(head: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "", *, text: bool = False) -> dict[str, Any]:
    """Return a table for a template, with a note below it; `text` aligns its cells to the left."""
    return {"head": head, "rows": list(rows), "note": note, "text": text}


def thumbnail(path: Path) -> str | None:
    """Return a thumbnail of an image as a data URL, or None if the image cannot be read."""
    picture = read_thumbnail(path, THUMBNAIL)
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return _source(buffer.getvalue(), "jpeg")
