"""Which inference crop fits a trained run: each fold's best checkpoint on its held-out people, cut at several scales.

    python benchmarks/inference_crop.py saved_models/main/kfold-ensemble-VanillaEfficientNet input/data/train/images

Prints the out-of-fold macro F1 for each side of the centred square (1 is the whole shorter side, 0.583 the source's 224
of 384 pixels), with a 95 % interval over people, and the paired difference to the whole square.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from augmentation import SOURCE_CROP, SOURCE_SIDE, InferenceTransform
from checkpoint import find_members
from config import EnsembleConfig
from dataset import ViewDataset, view_loader
from engine import predict, prepare
from machine import choose_device, count_workers
from metrics import score
from runfolder import RunFolder
from table import read_training_table

FRACTIONS = (SOURCE_CROP / SOURCE_SIDE, 0.7, 0.8, 0.9, 1.0)
RESAMPLES = 1000


def main(run_path: str, train_root: str) -> None:
    """Score every crop on every fold and print the table."""

    device = choose_device("auto")
    run = RunFolder(run_path)
    table, _ = read_training_table(train_root)
    folds = json.loads(run.split.read_text())["folds"]
    parts, answers = [], {fraction: [] for fraction in FRACTIONS}
    for member in find_members(run, EnsembleConfig(), top_k=1, folds=None):
        rows = table[table["person"].isin(folds[member.fold]["valid"])]
        parts.append(rows)
        network, info = prepare(member.load(), device), member.info
        for fraction in FRACTIONS:
            transform = InferenceTransform(info.image_size, info.mean, info.std, fraction=fraction)
            dataset = ViewDataset(rows["path"].tolist(), rows["image"].tolist(), transform)
            loader = view_loader(dataset, batch_size=64, workers=count_workers(-1, device), device=device)
            answers[fraction].append(predict([network], loader, info.task, device)[0])
    labels = np.concatenate([rows["label"] for rows in parts])
    people = np.concatenate([rows["person"] for rows in parts])
    told = {fraction: np.concatenate(chunks) for fraction, chunks in answers.items()}
    resampled = {fraction: bootstrap(probabilities, labels, people) for fraction, probabilities in told.items()}
    print("side of the square   macro F1   95 % interval      against the whole square")
    for fraction, probabilities in told.items():
        low, high = np.percentile(resampled[fraction], (2.5, 97.5))
        value = score("main", probabilities, labels)["macro_f1"]
        less, more = np.percentile(resampled[fraction] - resampled[1.0], (2.5, 97.5))
        difference = value - score("main", told[1.0], labels)["macro_f1"]
        print(
            f"{fraction:18.3f} {value:10.4f}   {low:.4f} to {high:.4f}   {difference:+.4f} ({less:+.4f} to {more:+.4f})"
        )


def bootstrap(probabilities: np.ndarray, labels: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Macro F1 of resamples of people, `(RESAMPLES,)`; the same people in the same order for every caller."""
    draw = np.random.default_rng(0)
    rows = {person: np.flatnonzero(people == person) for person in np.unique(people)}
    names = list(rows)
    values = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([rows[names[i]] for i in draw.integers(len(names), size=len(names))])
        values.append(score("main", probabilities[chosen], labels[chosen])["macro_f1"])
    return np.array(values)


if __name__ == "__main__":
    main(*sys.argv[1:])
