"""Predict with one network: python submit_singular.py --task main"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import SingularConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(SingularConfig, argv)
    from utils import run_command

    return run_command(predict, config)


def predict(config: SingularConfig) -> None:
    """See `prediction.predict_singular`. What is missing is told before torch is imported, which takes seconds."""
    from finding import find_single
    from table import read_prediction_list

    place, photographs = find_single(config), read_prediction_list(config.data_root)
    from prediction import predict_singular

    predict_singular(config, place, photographs)


if __name__ == "__main__":
    sys.exit(main())
