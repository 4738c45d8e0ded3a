"""Predict with one network: python submit_singular.py --task main"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import SingularConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(SingularConfig, argv)
    from prediction import predict_singular  # imports torch: only once the command line is accepted
    from utils import run_command

    return run_command(predict_singular, config)


if __name__ == "__main__":
    sys.exit(main())
