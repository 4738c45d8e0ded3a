"""Find labels that are likely wrong, for a person to check: python -m tools find_label_errors --task main"""

from config import LabelErrorConfig


def run(config: LabelErrorConfig) -> None:
    """Print the most suspicious labels of a run, and write its file of suspects and its suspects.jpg."""
    from analysis.label_errors import find_label_errors
    from storage.find_runs import find_run

    find_label_errors(
        find_run(config.root, config.typed("task"), config.typed("model_type")),
        share=config.share,
        show=config.show,
        overwrite=config.overwrite,
    )
