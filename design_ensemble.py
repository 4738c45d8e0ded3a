"""Choose an ensemble by out-of-fold answers: python design_ensemble.py --task main --tta 2"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import DesignConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(DesignConfig, argv)
    from utils import run_command

    return run_command(design, config)


def design(config: DesignConfig) -> None:
    """See `design.design_ensemble`. What is missing is told before torch is imported, which takes seconds."""
    from finding import find_runs

    runs = find_runs(config)
    from design import design_ensemble

    design_ensemble(config, runs)


if __name__ == "__main__":
    sys.exit(main())
