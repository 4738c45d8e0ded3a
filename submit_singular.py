"""Predict with one network: python submit_singular.py --task main"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cli.command import Context, run_command
from cli.options import parse_config
from config import SingularConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    config = parse_config(SingularConfig, argv)
    context = Context(config.command)
    return run_command(lambda: predict(config, context), context)


def predict(config: SingularConfig, context: Context) -> None:
    """See `prediction.predict_singular`. What is missing is told before torch is imported, which takes seconds."""
    from data.prediction_files import read_prediction_list
    from storage.find_runs import existing_checkpoint, find_single

    typed = config.load_state_dict
    place = existing_checkpoint(typed) if typed else find_single(config.task, config.model_type)
    photographs = read_prediction_list(config.data_root)
    from inference.predict import predict_singular

    predict_singular(config, place, photographs, context)


if __name__ == "__main__":
    sys.exit(main())
