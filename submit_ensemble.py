"""Predict with the checkpoints of all folds: python submit_ensemble.py --top-k 2 --tta 2"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import EnsembleConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(EnsembleConfig, argv)
    from prediction import predict_ensemble  # imports torch: only once the command line is accepted
    from utils import run_command

    return run_command(predict_ensemble, config)


if __name__ == "__main__":
    sys.exit(main())
