"""Predict with one network: python submit_singular.py --task main"""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which PYTHONSAFEPATH leaves out

from cli.checks import check_answers
from cli.command import Context, run_tool
from config import SingularConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    return run_tool(SingularConfig, submit, argv)


def submit(config: SingularConfig, context: Context) -> None:
    """Predict all images with one network and write a submission."""
    from data.prediction_files import read_prediction_list
    from storage.find_runs import existing_checkpoint, find_single

    if config.load_state_dict:
        place = existing_checkpoint(config.load_state_dict)
    else:
        place = find_single(config.task, config.model_type)
    images = read_prediction_list(config.data_root, image_root=config.image_root, image_column=config.image_column)

    # Torch takes seconds to import, so missing files are reported before.
    from inference.predict import OPTIONS, PredictionSettings, predict_images
    from inference.submission import name_prediction, reserve_folder, write_prediction
    from storage.members import Expected, find_best, open_member
    from training.distributed import Processes

    expected = Expected(**{f.name: config.typed(f.name) for f in fields(Expected)})
    member = find_best(place, expected) if place.is_dir() else open_member(place, expected)
    task = expected.choose(member.info)
    check_answers(task, voted=False, proba=config.proba)
    folder = Path(config.save_path) / task.name / name_prediction(place, member)
    options = {name: getattr(config, name) for name in OPTIONS}
    settings = PredictionSettings.choose(Processes.from_environment(), views=config.tta, **options)
    with reserve_folder(folder / "members"):
        prediction = predict_images([member], [task], images, settings, context)
    if settings.dist.is_main:
        submissions = {"submission": prediction.probabilities[0]}
        write_prediction(folder, task, prediction, submissions, data_root=config.data_root, proba=config.proba)


if __name__ == "__main__":
    sys.exit(main())
