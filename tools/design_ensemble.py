"""Select an ensemble from out-of-fold predictions: python -m tools design_ensemble --task main --tta 2"""

from dataclasses import replace
from pathlib import Path

from cli.checks import check_metric
from config import DesignConfig
from utils import UserError


def run(config: DesignConfig) -> None:
    """Predict the people that each fold held out, choose an ensemble by the predictions, and write its recipe."""
    from storage.find_runs import find_runs

    folders = find_runs(config.root, config.typed("task"))

    # Torch takes seconds to import, so missing runs are reported before.
    from analysis.metrics import try_metric
    from data.label_math import make_targets
    from inference import oof_members as oof
    from inference.ensemble_design import design_ensemble
    from inference.predict import PredictionSettings
    from inference.selection import Scorer
    from inference.submission import reserve_folder
    from training.distributed import ALONE

    trained = [oof.open_run(folder, top_k=config.top_k, views=config.tta) for folder in folders]
    task = oof.find_common_task(trained)
    if config.metric:
        task = replace(task, metric=check_metric(config.metric, task))
    if config.calibrate and task.regression:
        raise UserError(f"--calibrate needs classes, and task {task.name} has none. Leave it out.")
    names = ("device", "precision", "batch_size", "num_workers", "cuda_graphs")
    options = {name: getattr(config, name) for name in names}
    settings = PredictionSettings.choose(ALONE, views=config.tta, **options)
    places = {name: getattr(config, name) for name in ("train_root", "image_root", "valid_root", "corrections")}
    data = oof.read_data(trained, **places)
    table = data.table if data.valid is None else data.valid
    validation = oof.Validation(table, data.reader, settings)
    scorer = Scorer(task, make_targets(table, data.tasks)[task.name], table["person"].to_numpy(str), seed=config.seed)
    try_metric(task, scorer.labels)
    folder = Path(config.save_path) / task.name / (config.name or oof.name_recipe(trained, task))
    with reserve_folder(folder):
        runs = [oof.predict_out_of_fold(each, validation) for each in trained]
        design_ensemble(
            runs, validation, scorer, folder, top_k=config.top_k, soups=config.soups, calibrated=config.calibrate
        )
