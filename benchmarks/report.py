"""Measure time and memory at the end of a fold: the summary with its intervals, and the report.

    python benchmarks/report.py --people 2700 --epochs 30

Makes up a finished run of 5 folds with seven images per person and predictions of every epoch, summarises it as the end
of the last fold does, and writes its report.
"""

# First: it makes the modules of the toolkit importable.
from side_by_side import ROOT  # isort: skip  # noqa: F401

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from analysis.summary import summarise_run
from config import LabelErrorConfig, TrainConfig
from data.face_layout import read_training_table
from data.faces import FACES, SHOTS
from data.split import label_fingerprint, split_people
from storage.run_folder import RunFolder, prediction_columns
from utils import make_folder, write_json

FOLDS = 5


def main() -> None:
    """Make the run and print the cost of each part."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--people", type=int, default=2700)
    options.add_argument("--epochs", type=int, default=30)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        make_images(root, given.people)
        run, config = make_run(Path(place), root, given.epochs)
        before, start = peak(), time.perf_counter()
        summarise_run(run, config)
        finished, middle = peak(), time.perf_counter()
        from analysis.run_report import write_report

        page = write_report(run, suspect_share=LabelErrorConfig.share)
        end = time.perf_counter()
        print(f"{given.people} people, {7 * given.people} images, {FOLDS} folds, {given.epochs} epochs")
        print(f"summary with intervals: {middle - start:.1f} s, {finished - before:.0f} MB more at the peak")
        print(
            f"report: {end - middle:.1f} s, {peak() - finished:.0f} MB more, {page.stat().st_size / 1e6:.2f} MB large"
        )
        size = sum(path.stat().st_size for path in run.path.rglob("*.npy"))
        print(f"predictions of all epochs on disk: {size / 1e6:.0f} MB")


def make_images(root: Path, people: int) -> None:
    """Write seven images of 384 x 512 pixels per person, all of them links to one file."""
    random = np.random.default_rng(0)
    for k in range(people):
        gender, age = ("male", "female")[int(random.random() < 0.58)], int(random.integers(18, 66))
        folder = make_folder(root / f"{k:06d}_{gender}_Asian_{age}")
        first, *others = (folder / f"{shot}.jpg" for shot in SHOTS)
        colours = random.integers(0, 255, (8, 6, 3)).astype(np.uint8)
        Image.fromarray(colours).resize((384, 512), Image.Resampling.BICUBIC).save(first)
        for path in others:
            path.hardlink_to(first)


def make_run(place: Path, root: Path, epochs: int) -> tuple[RunFolder, TrainConfig]:
    """Write a finished run whose predictions improve from epoch to epoch."""
    config = TrainConfig(train_root=str(root), cv=FOLDS, epochs=epochs, save_path=str(place))
    run = RunFolder.of(place, config.task, config.model_type, cv=FOLDS)
    table, _ = read_training_table(root)
    split = split_people(table, FACES, cv=FOLDS, seed=config.seed)
    make_folder(run.path)
    write_json(run.split, split.as_dict())
    write_json(run.config, {**config.as_dict(), "fingerprints": {"labels": label_fingerprint(FACES, table)}})
    random = np.random.default_rng(0)
    for number, fold in enumerate(split.folds):
        run.prepare([number])
        rows = table[table["person"].isin(fold.valid)].reset_index(drop=True)
        labels = rows["label"].to_numpy()
        for epoch in range(1, epochs + 1):
            logits = random.normal(0, 1, (len(rows), 18))
            logits[np.arange(len(rows)), labels] += 1 + 2 * epoch / epochs
            predictions = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            run.write_epoch_predictions(number, epoch, predictions)
        about = pd.DataFrame({"ImageID": rows["image"], "person": rows["person"], "fold": number, "label": labels})
        run.write_fold_oof(number, pd.concat([about, prediction_columns(config.record, predictions)], axis=1))
        scores = {"lr": 0.1, "train_loss": 1.0, "valid_loss": 1.0, "macro_f1": 0.5, "accuracy": 0.5, "seconds": 1.0}
        run.write_fold_log(number, [{"fold": number, "epoch": k + 1, **scores} for k in range(epochs)])
    return run, config


def peak() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
