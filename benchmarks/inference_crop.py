"""Which inference crop fits a trained run: each fold's best checkpoint on its held-out people, cut at several scales.

    python benchmarks/inference_crop.py saved_models/main/kfold-ensemble-VanillaEfficientNet input/data/train/images

Prints the out-of-fold macro F1 for each side of the square (1 is the largest that the transform cuts; without a face
crop 0.583 is the source's 224 of 384 pixels), of the plain view and of its mean with the mirrored one, and how much
higher each is than that of the plain view of the largest square, with 95 % intervals over people.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.intervals import BEST, FoldPredictions, estimate_differences, estimate_scores, sum_run
from augmentation import SOURCE_CROP, SOURCE_SIDE
from data.tables import read_training_table
from dataset import ViewDataset
from inference.predict import build_transforms
from storage.members import find_members
from storage.run_folder import RunFolder
from training.device import choose_device, count_workers
from training.engine import predict, prepare
from training.loaders import view_loader

SIDES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, SOURCE_CROP / SOURCE_SIDE)
VIEWS = 2  # plain, mirrored


def main(run_path: str, train_root: str) -> None:
    """Score every crop on every fold and print the table."""
    device = choose_device("auto")
    run = RunFolder(run_path)
    table, _ = read_training_table(train_root)
    folds = json.loads(run.split.read_text())["folds"]
    people = table["person"].astype("category").cat.codes.to_numpy()
    answers: dict[tuple[float, int], list[FoldPredictions]] = {}
    for member in find_members(run, top_k=1, folds=None):
        valid = table["person"].isin(folds[member.fold]["valid"]).to_numpy()
        rows, network = table[valid], prepare(member.load(), device)
        cuts = [replace(member, info=replace(member.info, inference_crop=side)) for side in SIDES]
        first, *others = build_transforms(cuts, VIEWS)
        dataset = ViewDataset(rows["path"].tolist(), rows["image"].tolist(), first, others=others, views=VIEWS)
        loader = view_loader(dataset, batch_size=64, workers=count_workers(-1, device), device=device)
        networks, kinds = [network] * len(SIDES), range(len(SIDES))
        told = predict(networks, loader, member.info.task, device, kinds=kinds, apart=True)  # (sides, N, VIEWS, C)
        for side, own in zip(SIDES, told, strict=True):
            for views in range(1, VIEWS + 1):
                mean = FoldPredictions(rows["label"].to_numpy(), people[valid], own[:, :views].mean(axis=1), None)
                answers.setdefault((side, views), []).append(mean)
    task = member.info.task
    sums = {key: sum_run(task, found)[BEST] for key, found in answers.items()}
    print("| side of the square | views | macro F1 | higher than that of the first |\n|---|---|---|---|")
    for (side, views), found in sums.items():
        score = estimate_scores(task, found)["macro_f1"].text(3)
        gain = estimate_differences(task, sums[1.0, 1], found)["macro_f1"].text(3)
        print(f"| {side:.3f} | {views} | {score} | {gain if (side, views) != (1.0, 1) else ''} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
