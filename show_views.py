"""See what a network gets to see, before training: python show_views.py --train-root ./input/data/train/images"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from config import ShowConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(ShowConfig, argv)
    from utils import run_command

    return run_command(show, config)


def show(config: ShowConfig) -> None:
    """See `views.write_sheets`. What is wrong is told before torch is imported, which takes seconds."""
    from examples import choose_examples
    from utils import make_folder

    table, rows = choose_examples(config)
    folder = make_folder(Path(config.save_path))
    from views import write_sheets

    write_sheets(config, table, rows, folder)


if __name__ == "__main__":
    sys.exit(main())
