"""Compare runs over the same people: python compare_runs.py --root models/a,models/b"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from config import CompareConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(CompareConfig, argv)
    from utils import run_command

    return run_command(compare, config)


def compare(config: CompareConfig) -> None:
    """See `comparison.print_comparison` and `overview.write_comparison`."""
    import comparison
    from finding import find_runs
    from utils import make_folder

    runs = find_runs(config)
    if config.report:
        make_folder(Path(config.report).parent)
    compared = comparison.compare(runs)
    comparison.print_comparison(compared)
    if config.report:
        from overview import write_comparison  # imports matplotlib

        write_comparison(compared, Path(config.report))
        print(f"To look at: {config.report}")


if __name__ == "__main__":
    sys.exit(main())
