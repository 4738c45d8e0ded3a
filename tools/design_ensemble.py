"""Choose an ensemble by out-of-fold answers: python -m tools design_ensemble --task main --tta 2"""

from __future__ import annotations

from config import DesignConfig


def run(config: DesignConfig) -> None:
    """See `design.design_ensemble`. What is missing is told before torch is imported, which takes seconds."""
    from storage.find_runs import find_runs

    runs = find_runs(config.root, config.typed("task"))
    from inference.ensemble_design import design_ensemble

    design_ensemble(config, runs)
