"""Predict with the checkpoints of all folds: python submit_ensemble.py --top-k 2 --tta 2"""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which PYTHONSAFEPATH leaves out

from cli.checks import check_answers
from cli.command import Context, run_tool
from config import EnsembleConfig
from utils import shorten_list


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    return run_tool(EnsembleConfig, submit, argv)


def submit(config: EnsembleConfig, context: Context) -> None:
    """Predict all images with every member, combine the predictions and write the submissions."""
    from data.prediction_files import read_prediction_list
    from inference.recipe import read_recipe
    from storage.find_runs import find_run

    typed_task = config.typed("task")
    recipe = read_recipe(config.recipe, typed_task) if config.recipe else None
    run = None if recipe else find_run(config.root, typed_task, config.typed("model_type"), same_task=False)
    images = read_prediction_list(config.data_root, image_root=config.image_root, image_column=config.image_column)

    # Torch takes seconds to import, so missing files are reported before.
    from inference.predict import OPTIONS, PredictionSettings, open_recipe, predict_images
    from inference.submission import reserve_folder, write_prediction
    from storage.members import Expected, find_members
    from training.distributed import Processes

    if recipe:
        members, tasks, entries = open_recipe(recipe, config.recipe)
        task, name = recipe.record, Path(config.recipe).absolute().parent.name
    else:
        expected = Expected(**{f.name: config.typed(f.name) for f in fields(Expected)})
        members = find_members(run, expected, top_k=config.top_k, folds=config.folds)
        info, name = members[0].info, run.name
        task = expected.choose(info)
        tasks = [task] * len(members)
        if run.unfinished():
            print(f"Some folds of {run.path} are not fully trained: {shorten_list(run.unfinished())}.")
    check_answers(task, voted=config.method == "hardvoting", proba=config.proba)
    folder = Path(config.save_path) / task.name / name
    options = {name: getattr(config, name) for name in (*OPTIONS, "members_at_once")}
    views = recipe.tta if recipe else config.tta
    settings = PredictionSettings.choose(Processes.from_environment(), views=views, **options)
    with reserve_folder(folder / "members"):
        prediction = predict_images(members, tasks, images, settings, context)
    if not settings.dist.is_main:
        return
    if recipe:
        submissions = {"submission_recipe": recipe.mix([prediction.probabilities[k] for k in entries])}
        mixing = {**recipe.mixing(), "members": entries}
    else:
        submissions, mixing = prediction.combine(config.method), None
    write_prediction(
        folder, task, prediction, submissions, data_root=config.data_root, proba=config.proba, recipe=mixing
    )


if __name__ == "__main__":
    sys.exit(main())
