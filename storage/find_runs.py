"""Finding what was trained: the runs and checkpoints that options name, or that train.py left."""

from __future__ import annotations

from pathlib import Path

from config import EnsembleConfig, JoinConfig, Runs, SingularConfig, TrainConfig
from storage.run_folder import KFOLD, RunFolder
from utils import ROOT, UserError, read_json, shorten_list

CHECKPOINTS = (".pt", ".pth")  # what their files end with


def find_run(config: EnsembleConfig | JoinConfig) -> RunFolder:
    """The K-fold run of --root: that folder, or the only one that it holds; by default the one train.py left.

    Raises:
        UserError: no such folder, no run in it, or more than one.
    """
    run = _find_run(config)
    # What an ensemble answers may be another task than it was trained on.
    if isinstance(config, JoinConfig) and "task" in config.given and run.config.is_file():
        task = read_json(run.config, ("task",))["task"]
        if task != config.task:
            raise UserError(f"{run.path} learnt task {task}, not {config.task}; leave --task out.")
    return run


def _find_run(config: EnsembleConfig | JoinConfig) -> RunFolder:
    root = Path(config.root) if config.root else _trained() / config.task
    if not root.is_dir():
        raise UserError(
            f"There is no folder {root}. Train with: python train.py --task {config.task} --cv 5, or pass --root."
        )
    if RunFolder(root).folds():
        return RunFolder(root)
    if RunFolder(root.parent).config.is_file():
        raise UserError(f"{root} is a part of a run; pass --root {root.parent}.")
    found = [*root.glob(f"{KFOLD}*")] or [*root.glob(f"{config.task}/{KFOLD}*")]  # the latter in a --save-path
    runs = sorted(path for path in found if path.is_dir())
    chosen = [path for path in runs if path.name == f"{KFOLD}{config.model_type}"]
    if "model_type" in config.given or (len(runs) > 1 and not config.root and len(chosen) == 1):
        runs = chosen
    if found and not runs:
        names = shorten_list(sorted(path.name for path in found))
        raise UserError(
            f"{root} holds {names}, but no run of {config.model_type}; pass --root or another --model-type."
        )
    if not runs:
        raise UserError(
            f"{root} holds no {KFOLD}<network> folder. Train with: python train.py --task {config.task} --cv 5, "
            "or pass --root."
        )
    if len(runs) > 1:
        raise UserError(
            f"{root} holds {len(runs)} runs ({shorten_list(path.name for path in runs)}); pass --model-type, or --root with "
            "one of them."
        )
    return RunFolder(runs[0])


def find_runs(config: Runs) -> list[RunFolder]:
    """The K-fold run of each of --root, see `find_run`; by default all of the task that train.py left.

    Raises:
        UserError: one is not there, or there twice.
    """
    roots = config.root
    if roots and Path(",".join(roots)).is_dir():
        roots = (",".join(roots),)  # the name of one folder
    roots = roots or sorted(map(str, (_trained() / config.task).glob(f"{KFOLD}*")))
    if not roots:
        raise UserError(f"There are no runs in {_trained() / config.task}; pass --root with those to take.")
    runs = [find_run(JoinConfig(task=config.task, root=root, given=config.given)) for root in roots]
    for number, run in enumerate(runs):
        if any(run.path.resolve() == other.path.resolve() for other in runs[:number]):
            raise UserError(f"--root names the run {run.path} twice.")
    return runs


def find_single(config: SingularConfig) -> Path:
    """The file of --load-state-dict, or the folder of the single run that train.py left of the task and network.

    Raises:
        UserError: no such file, or no checkpoint in that run.
    """
    if config.load_state_dict:
        return existing_checkpoint(config.load_state_dict)
    run = RunFolder.of(_trained(), config.task, config.model_type, cv=1)
    if not checkpoint_files(run.fold(0)):
        raise UserError(
            f"There is no single-run checkpoint in {run.fold(0)}. Train one with: python train.py --task {config.task} "
            f"--model-type {config.model_type}, or pass --load-state-dict."
        )
    return run.path


def _trained() -> Path:
    return ROOT / TrainConfig.save_path


def existing_checkpoint(path: str | Path) -> Path:
    """The path of a checkpoint, which must be there.

    Raises:
        UserError: there is no such file.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint file {path}.")
    return Path(path)


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in the folder of a fold, by name; none where there is no such folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in files if path.suffix.lower() in CHECKPOINTS and not path.name.startswith("."))
