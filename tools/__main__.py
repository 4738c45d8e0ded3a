"""The secondary commands: python -m tools NAME; without a name, list them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from cli.choices import nearest
from config import command_configs

PREFIX = "python -m tools "


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that is named first, or list the commands; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    tools = {cls.command.removeprefix(PREFIX): cls for cls in command_configs() if cls.command.startswith(PREFIX)}
    name = words[0].replace("-", "_").removesuffix(".py") if words else "--help"
    if name in tools:
        return import_module(f"tools.{name}").main(words[1:])
    if name in ("__help", "_h", "--help"):
        print(f"usage: {PREFIX}NAME [options]; {PREFIX}NAME --help lists the options of a command\n")
        for tool, cls in sorted(tools.items()):
            print(f"  {tool:<18} {cls.__doc__}")
        return 0
    print(
        f"{PREFIX.strip()}: there is no command {words[0]}.{nearest(name, tools)} --help lists them.", file=sys.stderr
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
