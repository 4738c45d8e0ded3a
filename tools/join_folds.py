"""Join folds that were trained by several commands: python -m tools join_folds --task main"""

from config import JoinConfig
from storage.find_runs import find_run


def run(config: JoinConfig) -> None:
    """Write what one command would have left; see `training.session.join_folds`."""
    found = find_run(config.root, config.typed("task"), config.typed("model_type"))
    from training.session import join_folds  # imports torch, once the run is found

    join_folds(found)
