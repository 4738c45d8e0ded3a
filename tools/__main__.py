"""The other commands: python -m tools NAME; without a name, list them."""

import sys
from collections.abc import Sequence
from importlib import import_module

from cli.choices import nearest
from cli.command import run_tool
from config import command_configs

PREFIX = "python -m tools "


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, or list the commands; return the exit code.

    A command's module is imported once its options are accepted, so that --help answers at once.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    tools = {cls.command.removeprefix(PREFIX): cls for cls in command_configs() if cls.command.startswith(PREFIX)}
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {PREFIX}NAME [options]\n\n{PREFIX}NAME --help lists the options of a command.\n")
        for name, cls in sorted(tools.items()):
            print(f"  {name:<18}  {cls.__doc__}")
        return 0
    name = words[0].replace("-", "_").removesuffix(".py")
    if name not in tools:
        advice = nearest(name, list(tools))
        print(f"{PREFIX.strip()}: there is no command {words[0]}.{advice} --help lists them.", file=sys.stderr)
        return 2
    return run_tool(tools[name], lambda config, _: import_module(f"tools.{name}").run(config), words[1:])


if __name__ == "__main__":
    sys.exit(main())
