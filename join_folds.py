"""Join folds that were trained by several commands: python join_folds.py --task main"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import JoinConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(JoinConfig, argv)
    from utils import run_command

    return run_command(join, config)


def join(config: JoinConfig) -> None:
    """See `crossval.join_folds`. What is missing is told before torch is imported, which takes seconds."""
    from crossval import join_folds
    from finding import find_run

    join_folds(find_run(config))


if __name__ == "__main__":
    sys.exit(main())
