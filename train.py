"""Train one network, or K of them by cross-validation: python train.py --task main --cv 5"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cli.command import Context, run_command
from cli.options import parse_config
from config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    config = parse_config(TrainConfig, argv)
    context = Context(config.command, words=tuple(sys.argv[1:] if argv is None else argv))
    return run_command(lambda: train(config, context), context)


def train(config: TrainConfig, context: Context) -> None:
    """Train a run; torch is imported only once the command line is accepted."""
    from training.kfold import train_run

    train_run(config, context)


if __name__ == "__main__":
    sys.exit(main())
