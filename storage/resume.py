"""Decide whether a folder holds an earlier part of a run, and compare their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.choices import flag
from cli.options import Config, options
from config import TrainConfig
from storage.run_folder import FREE_OPTIONS, RunFolder
from utils import UserError, read_json, shorten_list


def can_continue(run: RunFolder, config: TrainConfig) -> bool:
    """Return whether a folder holds a part of the run to train; False if it can start there. Change nothing.

    Raises:
        UserError: the folder holds another run, or one and neither --resume nor --overwrite was passed.
    """
    names = {path.name for path in run.path.iterdir()} if run.path.exists() else set()
    if all(name.startswith(".") or name == run.split.name for name in names):
        return False  # it is empty, or a run was interrupted at its very start
    if not run.config.is_file():
        raise UserError(f"{run.path} holds files that are not of a run. Pass another --save-path.")
    if config.overwrite:
        _check_overwrite(run, config)
        return False
    earlier = read_json(run.config, ("task", "cv", "epochs"))
    if not config.resume:
        counts, folds, epochs = run.epochs_done().values(), earlier["cv"], earlier["epochs"]
        raise UserError(
            f"{run.path} already holds a run ({len(run.finished(epochs))} of {folds} folds finished, {sum(counts)} of "
            f"{folds * epochs} epochs). Pass --resume to continue it, --overwrite to delete it and train again, or "
            "another --save-path."
        )
    changed = changed_options(earlier, config)
    if changed:
        raise UserError(
            f"{run.path} was started with other options: {', '.join(changed)}. Pass the same to continue it with "
            "--resume, --overwrite to train again, or another --save-path."
        )
    return True


def _check_overwrite(run: RunFolder, config: TrainConfig) -> None:
    if config.corrections and Path(config.corrections).resolve().is_relative_to(run.path.resolve()):
        raise UserError(
            f"--corrections {config.corrections} lies in the run that --overwrite would delete. Move it elsewhere "
            "first, or pass another --save-path."
        )
    others = sorted(set(run.folds()) - set(config.folds or run.folds()))
    if others:
        raise UserError(
            f"{run.path} also holds fold {shorten_list(others)}, which --overwrite would delete. Leave --folds out to "
            "train all folds again, or pass another --save-path."
        )


def changed_options(earlier: dict[str, Any], config: TrainConfig) -> list[str]:
    """Return the options that differ from an earlier config.json and must not, each with both values."""
    paths = {f.name for f in options(TrainConfig) if f.metadata["path"]}
    before = {f.name: f.default for f in options(TrainConfig)} | earlier  # new options had their default
    changed = []
    for name, now in lasting_options(config).items():
        moved = name in paths and before[name] and now  # fingerprints compare the content of files
        if before[name] != now and not moved:
            changed.append(f"{flag(name)} was {before[name]} and is {now}")
    return changed


def lasting_options(config: Config) -> dict[str, Any]:
    """Return the options that the weights depend on, which must not change between the parts of a run."""
    return {name: value for name, value in config.as_dict().items() if name not in FREE_OPTIONS}
