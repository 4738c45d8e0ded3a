"""Find labels that are likely wrong, for a person to look at: python -m tools find_label_errors --task main"""

from __future__ import annotations

from collections.abc import Sequence

from cli.command import run_tool
from config import LabelErrorConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    return run_tool(LabelErrorConfig, find, argv)


def find(config: LabelErrorConfig) -> None:
    """Print the first suspects of a run, and write its corrections.csv and suspects.jpg.

    Raises:
        UserError: there is no run, none of its folds is finished, it learnt years, or somebody has edited its
            corrections.csv.
    """
    from analysis.label_errors import find_label_errors
    from storage.find_runs import find_run

    find_label_errors(find_run(config), share=config.share, show=config.show, overwrite=config.overwrite)
