"""Write the report of a run anew: python make_report.py --root saved_models/main/kfold-ensemble-VanillaEfficientNet"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from config import ReportConfig, parse_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed) and return its exit code."""
    config = parse_config(ReportConfig, argv)
    from utils import run_command

    return run_command(report, config)


def report(config: ReportConfig) -> None:
    """See `report.write_report`."""
    from finding import find_runs

    runs = find_runs(config)
    from report import write_report  # imports matplotlib

    for run in runs:
        print(write_report(run, config.train_root))
        place = config.train_root or run.read_config().validated_root
        if not Path(place).is_dir():
            print(
                f"There is no folder {place}, so the report has no photographs; pass --train-root with where they are."
            )


if __name__ == "__main__":
    sys.exit(main())
