"""Predict with the checkpoints of all folds: python submit_ensemble.py --top-k 2 --tta 2"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import EnsembleConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(EnsembleConfig, argv)
    from utils import run_command

    return run_command(predict, config)


def predict(config: EnsembleConfig) -> None:
    """See `prediction.predict_ensemble` and `predict_recipe`.

    What is missing is told before torch is imported, which takes seconds.
    """
    from ensemble import read_recipe
    from finding import find_run
    from table import read_prediction_list

    members = read_recipe(config.recipe) if config.recipe else find_run(config)
    photographs = read_prediction_list(config.data_root)
    from prediction import predict_ensemble, predict_recipe

    (predict_recipe if config.recipe else predict_ensemble)(config, members, photographs)


if __name__ == "__main__":
    sys.exit(main())
