"""Predict with the checkpoints of all folds: python submit_ensemble.py --top-k 2 --tta 2"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cli.command import Context, run_command
from cli.options import parse_config
from config import EnsembleConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    config = parse_config(EnsembleConfig, argv)
    context = Context(config.command)
    return run_command(lambda: predict(config, context), context)


def predict(config: EnsembleConfig, context: Context) -> None:
    """See `prediction.predict_ensemble` and `predict_recipe`.

    What is missing is told before torch is imported, which takes seconds.
    """
    from data.prediction_files import read_prediction_list
    from inference.recipe import read_recipe
    from storage.find_runs import find_run

    if config.recipe:
        members = read_recipe(config.recipe)
    else:
        members = find_run(config.root, config.typed("task"), config.typed("model_type"), same_task=False)
    photographs = read_prediction_list(config.data_root)
    from inference.predict import predict_ensemble, predict_recipe

    (predict_recipe if config.recipe else predict_ensemble)(config, members, photographs, context)


if __name__ == "__main__":
    sys.exit(main())
