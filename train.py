"""Train one network, or K of them by cross-validation: python train.py --task main --cv 5"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import TrainConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(TrainConfig, argv)
    # Torch is imported only once the command line is accepted, so that --help and mistakes are answered at once.
    from crossval import train_run
    from utils import run_command

    return run_command(train_run, config)


if __name__ == "__main__":
    sys.exit(main())
