"""Turn config dataclasses into command lines, help texts and tables of options."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from cli.checks import preset_values
from cli.choices import flag, nearest, resolve_name
from utils import ROOT, UserError


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    path: bool = False,
    text: str | None = None,
) -> Any:
    """Return a dataclass field that is an option of a command.

    Args:
        default: the value when the option is not passed.
        help: a noun phrase.
        choices: the allowed names.
        low: the smallest allowed number.
        high: the largest allowed number.
        path: whether the value is a file or folder.
        text: what --help shows as the default when that is None.
    """
    about = {"choices": tuple(choices or ()), "low": low, "high": high, "path": path, "text": text}
    return field(default=default, metadata={"help": help, **about})


@dataclass
class Config:
    """Base of the configs of all commands: checks single values and records which options were typed."""

    command: ClassVar[str] = ""  # as it is typed, without options
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for f in options(type(self)):
            value = getattr(self, f.name)
            if value is not None:
                setattr(self, f.name, _checked(f, value))
        self.check()

    def check(self) -> None:
        """Check options that depend on each other; commands replace it by a function of cli/checks.py."""

    def typed(self, name: str) -> Any:
        """Return the value of an option that was typed, or None."""
        return getattr(self, name) if name in self.given else None

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values, for config.json and checkpoints."""
        values = {f.name: getattr(self, f.name) for f in options(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _checked(f: dataclasses.Field, value: Any) -> Any:
    name, low, high = flag(f.name), f.metadata["low"], f.metadata["high"]
    if f.metadata["path"] and not value:
        raise UserError(f"{name} must not be empty.")
    if low is not None and not (math.isfinite(value) and value >= low):
        raise UserError(f"{name} must be at least {low}. Got {value}.")
    if high is not None and not value <= high:
        raise UserError(f"{name} must be at most {high}. Got {value}.")
    return resolve_name(name, value, f.metadata["choices"]) if f.metadata["choices"] else value


AnyConfig = TypeVar("AnyConfig", bound=Config)


def option_groups(cls: type[Config]) -> dict[str, list[dataclasses.Field]]:
    """Return the options of a command by group, in the order of the classes that it inherits from.

    The title of a group is the docstring of its class; the options of the command's own class come first.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if "help" in f.metadata}
    home = {name: base for base in cls.__mro__ for name in vars(base).get("__annotations__", ()) if name in fields}
    groups: dict[str, list[dataclasses.Field]] = {}
    for base in cls.__mro__:
        own = [fields[name] for name in vars(base).get("__annotations__", ()) if home.get(name) is base]
        if own:
            title = "Options" if issubclass(base, Config) else (base.__doc__ or "").rstrip(".")
            groups[title] = own + groups.get(title, [])  # inherited options first
    return groups


def options(cls: type[Config]) -> Iterator[dataclasses.Field]:
    """Yield the options of a command in the order of --help."""
    for group in option_groups(cls).values():
        yield from group


def preset_words(preset: dict[str, Any]) -> str:
    """Return the options of a preset as they would be typed."""
    words = ((flag(key), value) for key, value in preset.items())
    return " ".join(word if value is True else f"{word} {value}" for word, value in words)


def default_text(f: dataclasses.Field) -> str:
    """Return the default of an option as --help shows it."""
    if f.default is None and f.metadata["text"]:
        return f.metadata["text"]
    return str(f.default).lower() if isinstance(f.default, bool) else str(f.default)


# ------------------------------------------------------------------------------------------------ parsing


def _fold_list(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be fold numbers with commas, as in 0,2. Got '{text}'.") from None


def _path_list(text: str) -> tuple[str, ...]:
    if not all(text.split(",")):
        raise argparse.ArgumentTypeError(f"must be folders with commas between them, as in a,b. Got '{text}'.")
    return tuple(text.split(","))


def _number(kind: type[int] | type[float], text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {wanted}. Got '{text}'.") from None


PARSERS = {
    int: partial(_number, int),
    float: partial(_number, float),
    str: str,
    tuple[int, ...]: _fold_list,
    tuple[str, ...]: _path_list,
}


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> None:
        if message.startswith("unrecognized arguments: "):
            unknown = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [name for action in self._actions for name in action.option_strings]
            message = f"there is no option {unknown}.{nearest(unknown.split('=')[0], known)} --help lists all options."
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser(cls: type[Config]) -> argparse.ArgumentParser:
    """Return the argument parser of a command."""
    presets = [f"--preset {name}: {preset_words(preset)}" for name, preset in cls.presets.items()]
    parser = _Parser(
        prog=cls.command,
        description=cls.__doc__,
        epilog="\n".join(textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False) for text in presets),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints = get_type_hints(cls)
    for title, fields in option_groups(cls).items():
        group = parser if title == "Options" else parser.add_argument_group(title)
        for f in fields:
            _add_option(group, f, hints[f.name])
    return parser


def _add_option(group: Any, f: dataclasses.Field, hint: Any) -> None:
    names = f": {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
    text = f"{f.metadata['help']}{names} (default: {default_text(f)})"
    kwargs: dict[str, Any] = {"dest": f.name, "help": text, "default": argparse.SUPPRESS}
    if hint is bool:
        group.add_argument(flag(f.name), action=argparse.BooleanOptionalAction, **kwargs)
        return
    kind = next((k for k in (int, float, str) if k is hint or k in getattr(hint, "__args__", ())), None)
    parse = PARSERS[kind or get_args(hint)[0]]
    group.add_argument(flag(f.name), type=parse, metavar=(kind or str).__name__.upper(), **kwargs)


def configure_libraries() -> None:
    """Set what libraries read from the environment when they are imported, unless the user has set it."""
    # How long a thread of GNU's OpenMP spins before it sleeps; docs/performance.md has the measurement.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Blocks of memory that Pillow keeps; with none the system clears new pages for every image.
    os.environ.setdefault("PILLOW_BLOCKS_MAX", "4")


def parse_config(cls: type[AnyConfig], argv: Sequence[str] | None = None) -> AnyConfig:
    """Return the options of a command line as a checked config; `given` holds the names of the typed ones.

    Both --model-type and --model_type are accepted. A typed relative path starts at the working directory, a default
    at the folder of the toolkit. A wrong option prints one line and exits with code 2.
    """
    configure_libraries()
    parser = build_parser(cls)
    typed = vars(parser.parse_args([_with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)]))
    anchored = {
        f.name: str(ROOT / f.default)
        for f in options(cls)
        if f.metadata["path"] and f.default is not None and f.name not in typed
    }
    try:
        chosen = {}
        if "preset" in typed:
            chosen = preset_values(cls.presets[resolve_name("--preset", typed["preset"], cls.presets)], typed, cls)
        return cls(**{**anchored, **chosen, **typed}, given=frozenset(typed))
    except UserError as error:
        parser.error(str(error))


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def options_table(cls: type[Config]) -> str:
    """Return the options of a command as the Markdown tables of docs/options.md, one per group."""
    tables = []
    for title, fields in option_groups(cls).items():
        rows = [] if title == "Options" else [f"**{title}**", ""]
        rows += ["| option | default | what it does |", "|---|---|---|"]
        for f in fields:
            name = flag(f.name)
            name = f"{name}, --no-{name[2:]}" if isinstance(f.default, bool) else name
            text = f.metadata["help"].replace("%%", "%")
            if f.metadata["choices"]:
                text += ": " + ", ".join(f"`{choice}`" for choice in f.metadata["choices"])
            rows.append(f"| `{name}` | {default_text(f)} | {text} |")
        tables.append("\n".join(rows))
    return "\n\n".join(tables)
