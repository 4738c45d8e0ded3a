"""Write the report of a run: python -m tools make_report --root RUN"""

from pathlib import Path

from config import LabelErrorConfig, ReportConfig


def run(config: ReportConfig) -> None:
    """Write the report of each run and print its path."""
    from storage.find_runs import find_runs

    runs = find_runs(config.root, config.typed("task"))
    from analysis.run_report import write_report  # imports matplotlib

    for run in runs:
        print(write_report(run, config.train_root, suspect_share=LabelErrorConfig.share))
        folder = config.train_root or run.read_config().validated_root
        if not Path(folder).is_dir():
            print(f"The report has no images, since there is no folder {folder}. Pass --train-root with the images.")
