"""Compare runs over the same people: python -m tools compare_runs --root models/a,models/b"""

from pathlib import Path

from config import CompareConfig


def run(config: CompareConfig) -> None:
    """Print a comparison of runs and, with --report, write it as an HTML page."""
    from analysis.comparison import compare, print_comparison
    from storage.find_runs import find_runs
    from utils import make_folder

    runs = find_runs(config.root, config.typed("task"))
    if config.report:
        make_folder(Path(config.report).parent)  # an error in the path is reported before the work
    comparison = compare(runs)
    print_comparison(comparison)
    if config.report:
        from analysis.comparison_report import write_comparison  # imports matplotlib

        write_comparison(comparison, Path(config.report))
        print(f"Report: {config.report}")
