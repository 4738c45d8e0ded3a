"""Find labels that are likely wrong, for a person to look at: python find_label_errors.py --task main"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import LabelErrorConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(LabelErrorConfig, argv)
    from utils import run_command

    return run_command(find, config)


def find(config: LabelErrorConfig) -> None:
    """Print the first suspects of a run, and write its corrections.csv and suspects.jpg.

    Raises:
        UserError: there is no run, none of its folds is finished, it learnt years, or somebody has edited its
            corrections.csv.
    """
    from finding import find_run
    from label_errors import find_label_errors

    find_label_errors(find_run(config), share=config.share, show=config.show, overwrite=config.overwrite)


if __name__ == "__main__":
    sys.exit(main())
