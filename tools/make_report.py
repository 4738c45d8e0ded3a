"""Write the report of a run: python -m tools make_report --root RUN"""

from __future__ import annotations

from pathlib import Path

from config import ReportConfig


def run(config: ReportConfig) -> None:
    """See `report.write_report`."""
    from storage.find_runs import find_runs

    runs = find_runs(config.root, config.typed("task"))
    from analysis.run_report import write_report  # imports matplotlib

    for run in runs:
        print(write_report(run, config.train_root))
        place = config.train_root or run.read_config().validated_root
        if not Path(place).is_dir():
            print(
                f"There is no folder {place}, so the report has no photographs; pass --train-root with where they are."
            )
