"""Find labels that are likely wrong, for a person to look at: python -m tools find_label_errors --task main"""

from __future__ import annotations

from config import LabelErrorConfig


def run(config: LabelErrorConfig) -> None:
    """Print the first suspects of a run, and write its corrections.csv and suspects.jpg.

    Raises:
        UserError: there is no run, none of its folds is finished, it learnt years, or somebody has edited its
            corrections.csv.
    """
    from analysis.label_errors import find_label_errors
    from storage.find_runs import find_run

    find_label_errors(
        find_run(config.root, config.typed("task"), config.typed("model_type")),
        share=config.share,
        show=config.show,
        overwrite=config.overwrite,
    )
