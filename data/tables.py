"""Read tables of labels: CSV files and folders, with a report of their problems."""

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils import UserError, as_on_disk, shorten_list

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"),  # the common ones first: they may be missing in a CSV
    *(".tif", ".tiff", ".avif", ".jp2", ".jfif", ".ppm", ".pgm"),
)
DELIMITERS = ",;\t"


@dataclass
class Report:
    """Sentences about the data: `errors` stop training, `notes` do not."""

    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def error(self, names: Iterable[str], noun: str, what: str, advice: str = "") -> None:
        """Add an error like "2 folders whose name is ...: a, b." and the advice, unless there are no names."""
        self._add(self.errors, names, noun, what, advice)

    def note(self, names: Iterable[str], noun: str, what: str, advice: str = "") -> None:
        """Add a note in the same form."""
        self._add(self.notes, names, noun, what, advice)

    @staticmethod
    def _add(sentences: list[str], names: Iterable[str], noun: str, what: str, advice: str) -> None:
        names = list(names)
        if names:
            noun = noun if len(names) == 1 else {"person": "people", "class": "classes"}.get(noun, f"{noun}s")
            sentences.append(f"{len(names)} {noun} {what}: {shorten_list(names)}. {advice}".rstrip())

    def raise_errors(self) -> None:
        """Raise all errors as one UserError with a line each; do nothing if there are none."""
        if self.errors:
            raise UserError("\n".join(self.errors))


@dataclass(frozen=True)
class PredictionList:
    """The images to predict in the order of the submission: their ids and files, and notes to print."""

    ids: list[str]
    paths: list[Path]
    notes: list[str]


def normalize_name(name: str) -> str:
    """Return a name for comparisons: without outer spaces, and composed, since macOS decomposes letters like é."""
    return unicodedata.normalize("NFC", name.strip())


def visible_entries(folder: str | Path) -> list[os.DirEntry]:
    """Return the entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def read_csv_rows(path: Path, needed: Sequence[str], also: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV as dicts of strings, each with the number of the line it ends on.

    Missing cells are empty. Further cells are an error, unless they are empty in all rows. `needed` columns must be
    there, those of `also` may be, at most once. The separator is the one of DELIMITERS that divides the first line most
    often.

    Raises:
        UserError: the file is missing or not a CSV in UTF-8, a column is missing or repeated, or a row has too many
            cells.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    lines: list[tuple[int, list[str]]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = as_on_disk(file.read())
        if "\0" in text:
            raise UserError(f"{path} contains NUL characters, as UTF-16 does. Save it as CSV in UTF-8.")
        first = next(io.StringIO(text, newline=""), "")
        delimiter = max(DELIMITERS, key=lambda each: len(next(csv.reader([first], delimiter=each))))
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        for cells in reader:
            lines.append((reader.line_num, cells))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8. Save it as CSV in UTF-8.") from None
    except csv.Error as error:
        start = lines[-1][0] + 1 if lines else 1
        advice = f"Check line {start}, where a quote may not be closed."
        raise UserError(f"{path} cannot be read as CSV ({error}). {advice}") from None
    columns = [name.strip() for name in lines[0][1]] if lines else []
    rows = [line for line in lines[1:] if line[1]]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}. Its first line must name {','.join(needed)}.")
    repeated = [name for name in (*needed, *also) if columns.count(name) > 1]
    if repeated:
        raise UserError(f"{path} has the column {', '.join(repeated)} more than once. Keep the right one.")
    if rows and not any(columns):
        raise UserError(f"The first line of {path} is empty. It must name the columns.")
    _check_widths(path, columns, rows, delimiter)
    named = [(k, name) for k, name in enumerate(columns) if name]
    return [(number, {name: cells[k] if k < len(cells) else "" for k, name in named}) for number, cells in rows]


def _check_widths(path: Path, columns: Sequence[str], rows: Iterable[tuple[int, list[str]]], delimiter: str) -> None:
    """Raise a UserError about rows with more cells than columns, unless they are empty at the end of all rows."""
    report, filled = Report(), [row for row in rows if any(map(str.strip, row[1]))]
    width = max((k for k, name in enumerate(columns, 1) if name), default=0)
    most = max(len(columns), min((len(cells) for _, cells in filled), default=0))
    wide = [(number, len(cells)) for number, cells in filled if len(cells) > most or any(map(str.strip, cells[width:]))]
    names = (f"line {number} ({count} cells)" for number, count in wide)
    example = "a text or a decimal comma" if delimiter == "," else "a text"
    advice = (
        f"A cell that contains {delimiter!r}, such as {example}, needs quotes, and a further column a name. Remove "
        "separators at the end of single rows."
    )
    report.error(names, "row", f"of {path} with more cells than its first line has names ({width})", advice)
    report.raise_errors()
