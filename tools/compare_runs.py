"""Compare runs over the same people: python -m tools compare_runs --root models/a,models/b"""

from __future__ import annotations

from pathlib import Path

from config import CompareConfig


def run(config: CompareConfig) -> None:
    """See `comparison.print_comparison` and `overview.write_comparison`."""
    from analysis import comparison
    from storage.find_runs import find_runs
    from utils import make_folder

    runs = find_runs(config.root, config.typed("task"))
    if config.report:
        make_folder(Path(config.report).parent)
    compared = comparison.compare(runs)
    comparison.print_comparison(compared)
    if config.report:
        from analysis.comparison_report import write_comparison  # imports matplotlib

        write_comparison(compared, Path(config.report))
        print(f"To look at: {config.report}")
