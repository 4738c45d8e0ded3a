"""Decide which epochs of a fold are the best and which is the last, name their checkpoints and keep them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

LOG_DIGITS = ".8g"  # of the scores in log.csv
Kept = tuple[int, float, str]  # epoch, score and file name of a checkpoint


def checkpoint_name(epoch: int, monitor: str, value: float) -> str:
    """Return the file name of a checkpoint, as in epoch012_f1-0.7706.pt; nothing is read back from it."""
    return f"epoch{epoch:03d}_{monitor.removeprefix('macro_')}-{value:.4f}.pt"


def is_finished(scores: Sequence[float], *, epochs: int, patience: int, higher_is_better: bool) -> bool:
    """Return whether a fold with these scores of its epochs is trained to its end.

    That is after `epochs`, or after `patience` epochs without a better score, if it is not 0. NaN and infinite scores
    are never better. Scores are compared by the digits that log.csv has, from which this is decided again later.
    """
    if not patience or len(scores) >= epochs:
        return len(scores) == epochs
    values = np.array([float(f"{score:{LOG_DIGITS}}") for score in scores]) * (1 if higher_is_better else -1)
    best = np.argmax([-np.inf, *np.where(np.isfinite(values), values, -np.inf)])  # 0 before the first score
    return bool(len(scores) - best >= patience)


class BestCheckpoints:
    """Keeps the best `top_n` checkpoints in a folder by the score `monitor`.

    Of equal scores the earlier epoch ranks higher. NaN and infinite scores are never kept. `kept` is (epoch, score,
    file name) of the existing checkpoints, best first.
    """

    def __init__(
        self, folder: Path, top_n: int, *, monitor: str, higher_is_better: bool, kept: Sequence[Kept] = ()
    ) -> None:
        self.folder, self.top_n, self.monitor = folder, top_n, monitor
        self.sign = -1 if higher_is_better else 1
        self.kept = [(int(epoch), float(value), str(name)) for epoch, value, name in kept]

    def offer(self, epoch: int, value: float, save: Callable[[Path], None]) -> Path | None:
        """Save an epoch's weights by `save(path)` if they are among the best; return their path, otherwise None.

        The checkpoints that they replace stay on disk until `remove_others`.
        """
        if not np.isfinite(value):
            return None
        entry = (epoch, value, checkpoint_name(epoch, self.monitor, value))
        best = sorted([*self.kept, entry], key=lambda kept: (self.sign * kept[1], kept[0]))[: self.top_n]
        if entry not in best:
            return None
        save(self.folder / entry[2])
        self.kept = best
        return self.folder / entry[2]

    def remove_others(self) -> None:
        """Delete the checkpoints that were replaced, and those of an epoch that was interrupted."""
        names = {name for _, _, name in self.kept}
        for path in self.folder.glob("epoch*.pt"):  # as `checkpoint_name`: files of others stay
            if path.name not in names:
                path.unlink()
