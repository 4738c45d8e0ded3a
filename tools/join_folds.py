"""Join folds that were trained by several commands: python -m tools join_folds --task main"""

from __future__ import annotations

from collections.abc import Sequence

from cli.command import run_tool
from config import JoinConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    return run_tool(JoinConfig, join, argv)


def join(config: JoinConfig) -> None:
    """See `crossval.join_folds`. What is missing is told before torch is imported, which takes seconds."""
    from storage.find_runs import find_run
    from training.kfold import join_folds

    join_folds(find_run(config))
