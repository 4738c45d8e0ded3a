"""Find the runs and checkpoints that options name, or that train.py saved by default."""

from collections.abc import Sequence
from pathlib import Path

from cli.choices import resolve_name
from config import TrainConfig
from data.faces import FACES
from storage.run_folder import KFOLD, RunFolder
from utils import ROOT, UserError, read_json, shorten_list

CHECKPOINTS = (".pt", ".pth", ".pth.tar")  # file name endings
OTHER_WEIGHTS = (".safetensors", ".ckpt", ".bin", ".tar", ".pkl", ".h5", ".onnx")  # which are not read


def find_run(
    root: str | None, task: str | None = None, model_type: str | None = None, *, same_task: bool = True
) -> RunFolder:
    """Return the K-fold run in a folder, which is the run itself or holds one; by default where train.py saves.

    Options that were not typed are None. Without `same_task` the run may have been trained on another task than `task`.

    Raises:
        UserError: the folder or the run does not exist, there are several runs, or the run has another task.
    """
    run = RunFolder(_find_folder(root, task or TrainConfig.task, model_type))
    if same_task and task and run.config.is_file():
        trained_on = read_json(run.config, ("task",))["task"]
        if trained_on.lower() != task.lower():
            raise UserError(f"{run.path} was trained on task {trained_on}, not {task}. Leave --task out.")
    return run


def _find_folder(root: str | None, task: str, model_type: str | None) -> Path:
    folder = Path(root) if root else _task_folder(task)
    train = f"Train with: python train.py --task {task} --cv 5, or pass --root."
    advice = "Pass the folder of a run, or of its task." if root else train
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. {advice}")
    if RunFolder(folder).folds():
        return folder
    if RunFolder(folder.parent).config.is_file():
        raise UserError(f"{folder} is a part of a run. Pass --root {folder.parent}.")
    found = [*folder.glob(f"{KFOLD}*")] or [*folder.glob(f"{task}/{KFOLD}*")]  # the latter in a --save-path
    runs = sorted(path for path in found if path.is_dir())
    name = f"{KFOLD}{model_type or TrainConfig.model_type}"
    chosen = [path for path in runs if path.name == name]
    if model_type or (len(runs) > 1 and not root and len(chosen) == 1):
        runs = chosen
    if found and not runs:
        names = shorten_list(sorted(path.name for path in found))
        raise UserError(f"{folder} holds {names}, but not {name}. Pass --root or another --model-type.")
    if not runs:
        raise UserError(f"{folder} holds no {KFOLD}<network> folder. {advice}")
    if len(runs) > 1:
        names = shorten_list(path.name for path in runs)
        raise UserError(f"{folder} holds {len(runs)} runs ({names}). Pass --model-type, or --root with one of them.")
    return runs[0]


def _task_folder(task: str, option: str = "--root") -> Path:
    """Return the folder where train.py saves a task; raise a UserError that names an option for one without."""
    saved = ROOT / TrainConfig.save_path
    known = [path.name for path in saved.glob("*") if path.is_dir() and not path.name.startswith(".")]
    try:
        return saved / resolve_name("--task", task, dict.fromkeys([*FACES, *sorted(known)]))
    except UserError as error:
        raise UserError(f"{error} For a run that was saved elsewhere, pass {option}.") from None


def find_runs(roots: Sequence[str] | None, task: str | None = None) -> list[RunFolder]:
    """Return the K-fold run in each folder by `find_run`, each once; by default all where train.py saves the task."""
    if roots and Path(",".join(roots)).is_dir():
        roots = (",".join(roots),)  # a folder with commas in its name
    if not roots:
        place = _task_folder(task or TrainConfig.task)
        roots = sorted(map(str, place.glob(f"{KFOLD}*")))
        if not roots:
            raise UserError(f"There are no runs in {place}. Pass --root with the runs to use.")
    runs = [find_run(root, task) for root in roots]
    for number, run in enumerate(runs):
        if any(run.path.resolve() == other.path.resolve() for other in runs[:number]):
            raise UserError(f"--root names the run {run.path} twice. Name it once.")
    return runs


def find_single(task: str, model_type: str) -> Path:
    """Return the folder of the single run that train.py saved by default; raise a UserError without a checkpoint."""
    run = RunFolder.of(ROOT / TrainConfig.save_path, _task_folder(task, "--load-state-dict").name, model_type, cv=1)
    if not checkpoint_files(run.fold(0)):
        raise UserError(
            f"There is no single-run checkpoint in {run.fold(0)}. Train one with: python train.py --task {task} "
            f"--model-type {model_type}, or pass --load-state-dict."
        )
    return run.path


def existing_checkpoint(path: str | Path) -> Path:
    """Return the path of a checkpoint, or raise a UserError if there is no such file."""
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint file {path}. Pass an existing one.")
    return Path(path)


def checkpoint_files(folder: Path, endings: tuple[str, ...] = CHECKPOINTS) -> list[Path]:
    """Return the checkpoints in the folder of a fold, sorted by name; empty if there is no such folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in files if path.name.lower().endswith(endings) and not path.name.startswith("."))
