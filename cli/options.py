"""Turn config dataclasses into command lines, help texts and tables of options."""

import argparse
import dataclasses
import gc
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

from cli.checks import preset_values
from cli.choices import flag, nearest, resolve_name
from utils import ROOT, UserError

IntOrAuto = int | Literal["auto"]  # a type of options


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    path: bool = False,
    text: str | None = None,
    word: bool = False,
) -> Any:
    """Return a dataclass field that is an option of a command.

    `choices` are the allowed names, `low` and `high` bound a number, `path` marks a file or folder, and --help shows
    `text` for a default of None. A `word` is typed without the name of the option.
    """
    about = {"choices": tuple(choices or ()), "low": low, "high": high, "path": path, "text": text, "word": word}
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
    name, low, high = spelling(f), f.metadata["low"], f.metadata["high"]
    value = tuple(value) if isinstance(value, list) else value  # of a JSON file
    if f.metadata["path"] and not value:
        raise UserError(f"{name} must not be empty.")
    if low is not None and value != "auto" and not (math.isfinite(value) and value >= low):
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


def spelling(f: dataclasses.Field) -> str:
    """Return how --help shows the name of an option: --model-type, or PATTERN for a word without a name."""
    return f.name.upper() if f.metadata["word"] else flag(f.name)


def preset_words(preset: dict[str, Any]) -> str:
    """Return the options of a preset as they would be typed."""
    return " ".join(flag(name) if value is True else f"{flag(name)} {value}" for name, value in preset.items())


def default_text(f: dataclasses.Field) -> str:
    """Return the default of an option as --help shows it."""
    if f.default is None and f.metadata["text"]:
        return f.metadata["text"]
    return str(f.default).lower() if isinstance(f.default, bool) else str(f.default)


EXPECTED = {  # of each type of option, for the message about a wrong value
    int: "a whole number",
    IntOrAuto: "a whole number or auto",
    float: "a number",
    tuple[int, ...]: "fold numbers with commas, as in 0,2",
    tuple[str, ...]: "names with commas between them, as in a,b",
}


def _parse(kind: Any, text: str) -> Any:
    """Return the value of an option of a type, one of EXPECTED or str."""
    try:
        if kind == tuple[int, ...]:
            return tuple(sorted({int(part) for part in text.split(",")}))
        if kind == IntOrAuto:
            return "auto" if text.lower() == "auto" else int(text)
        if kind != tuple[str, ...]:
            return kind(text)
        names = tuple(name.strip() for name in text.split(","))
        if all(names):
            return names
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be {EXPECTED[kind]}. Got '{text}'.")


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> None:
        if message.startswith("unrecognized arguments: "):
            unknown = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [name for action in self._actions for name in action.option_strings]
            words = [action.metavar for action in self._actions if not action.option_strings]
            if words and not unknown.startswith("-"):  # probably a pattern that the shell replaced by file names
                self.error(f"one {words[0]} at most, and '{unknown}' is another. Quote a pattern, as in '*vit*'.")
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
    if hint == bool | str:
        group.add_argument(flag(f.name), nargs="?", const=True, metavar="FILE", **kwargs)
        group.add_argument(f"--no-{flag(f.name)[2:]}", action="store_false", dest=f.name, default=argparse.SUPPRESS)
        return
    if hint is bool:
        group.add_argument(flag(f.name), action=argparse.BooleanOptionalAction, **kwargs)
        return
    kind = get_args(hint)[0] if get_args(hint) and hint != IntOrAuto else hint  # of `kind | None`
    if f.metadata["word"]:
        del kwargs["dest"]
        group.add_argument(f.name, type=partial(_parse, kind), metavar=spelling(f), nargs="?", **kwargs)
        return
    metavar = {int: "INT", float: "FLOAT", IntOrAuto: "INT"}.get(kind, "STR")
    group.add_argument(flag(f.name), type=partial(_parse, kind), metavar=metavar, **kwargs)


def configure_libraries() -> None:
    """Set what libraries read from the environment when they are imported, unless the user has set it.

    Also collect old garbage less often: a pass over the objects of torch takes 0.1 to 0.3 s, and imports cause several.
    """
    gc.set_threshold(*gc.get_threshold()[:2], 100)  # the usual is 10; young objects are collected as before
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
    words = sys.argv[1:] if argv is None else argv
    words = [re.sub("^--[^=]*", lambda name: name[0].replace("_", "-"), word) for word in words]
    typed = vars(parser.parse_args(words))
    values = {f.name: str(ROOT / f.default) for f in options(cls) if f.metadata["path"] and f.default is not None}
    try:
        if "preset" in typed:
            values |= preset_values(cls.presets[resolve_name("--preset", typed["preset"], cls.presets)], typed, cls)
        return cls(**values | typed, given=frozenset(typed))
    except UserError as error:
        parser.error(str(error))


def options_table(cls: type[Config]) -> str:
    """Return the options of a command as the Markdown tables of docs/options.md, one per group."""
    tables, hints = [], get_type_hints(cls)
    for title, fields in option_groups(cls).items():
        rows = [] if title == "Options" else [f"**{title}**", ""]
        rows += ["| option | default | what it does |", "|---|---|---|"]
        for f in fields:
            name = spelling(f) + (" [FILE]" if hints[f.name] == bool | str else "")
            name += f", --no-{flag(f.name)[2:]}" if isinstance(f.default, bool) else ""
            names = ": " + ", ".join(f"`{choice}`" for choice in f.metadata["choices"]) if f.metadata["choices"] else ""
            rows.append(f"| `{name}` | {default_text(f)} | {f.metadata['help'].replace('%%', '%')}{names} |")
        tables.append("\n".join(rows))
    return "\n\n".join(tables)
