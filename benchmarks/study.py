"""Which options bring a better score: source, strong, and each candidate alone, on the same folds, weights and seconds.

    python benchmarks/study.py --train-root input/data/train/images --backbone efficientnet-b0 --image-size 112

Trains a run of every arm and seed, each as long as the other, and prints for each arm the out-of-fold macro F1,
corrected for the choice of epochs, and how much higher it is than that of `strong`, both with 95 % intervals over
people: the toolkit's own comparison of runs. Of several seeds the means are shown. What is trained already is taken as
it is, so that hours may be spent in parts.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.comparison import compare
from analysis.intervals import Estimate
from storage.run_folder import RunFolder
from train import main as train

STRONG = "--preset strong"
# Each as the words that follow those of `strong`; the first two are presets themselves.
ARMS = {
    "source": "--preset source",
    "strong": "",
    "random crops from 0.08 of the area": "--crop-scale 0.08",
    "random crops from 0.2 of the area": "--crop-scale 0.2",
    "random crops from 0.5 of the area": "--crop-scale 0.5",
    "random crops from 0.75 of the area": "--crop-scale 0.75",
    "not mirrored": "--no-mirror",
    "no RandAugment": "--transform-type base",
    "face crop": "--transform-type facecrop",
    "inference crop 0.9": "--inference-crop 0.9",
    "trained on 0.86 of the side": "--train-side 0.857",
    "trained on 0.79 of the side": "--train-side 0.786",
    "random erasing 0.25": "--erasing 0.25",
    "MixUp 0.2": "--mixup 0.2",
    "CutMix 1": "--cutmix 1",
    "MixUp within classes": "--oversample",
    "one head": "--model-type VanillaEfficientNet",
    "three heads, attention": "--model-type MultiLabelTHANet",
    "four heads": "--model-type THANet_MK1",
    "adam": "--optim-type adam",
    "cosine": "--lr-scheduler cosine",
    "cosine, warm-up": "--lr-scheduler cosine --warmup-epochs 1",
    "backbone at 0.1 of the rate": "--backbone-lr 0.1",
    "EMA 0.98": "--ema 0.98",
    "running statistics of BatchNorm": "--precise-bn 0",
    "label smoothing": "--loss-type labelsmoothingloss",
    "focal loss": "--loss-type focalloss",
    "no logit adjustment": "--logit-adjustment 0",
    "logit adjustment 1": "--logit-adjustment 1",
    "balanced sampling 0.5": "--logit-adjustment 0 --balance 0.5",
    "rate 0.001": "--lr 0.001",
    "weight decay 0.05": "--weight-decay 0.05",
    "weight decay 0.5": "--weight-decay 0.5",
    "warm-up of half an epoch": "--warmup-epochs 0.5",
    "rate 0.0005": "--lr 0.0005",
    "age groups as shares, 3 years": "--age-sigma 3",
}


def options() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-root", required=True)
    parser.add_argument("--save-path", type=Path, default=Path("study"), help="what is trained is kept here")
    parser.add_argument("--backbone", default="efficientnet-b0")
    parser.add_argument("--image-size", default="112")
    parser.add_argument("--cv", default="3")
    parser.add_argument("--seeds", default="42", help="with commas; each splits the people anew")
    parser.add_argument("--seconds", type=float, default=600, help="of training and validating, for all folds of a run")
    parser.add_argument("--epochs", type=int, help="train all arms for so many epochs instead")
    parser.add_argument("--arms", default="", help="names with semicolons between them; all by default")
    parser.add_argument("--more", default="", help="words that are added to all arms")
    return parser.parse_args()


def words_of(arm: str, chosen: argparse.Namespace) -> list[str]:
    """The command line of an arm, without epochs, seed and save path."""
    own = ARMS[arm] if arm == "source" else f"{STRONG} {ARMS[arm]}"
    shared = ("--backbone", chosen.backbone, "--image-size", chosen.image_size, "--cv", chosen.cv)
    return [*shlex.split(own), *shared, *shlex.split(chosen.more), "--train-root", chosen.train_root, "--no-report"]


def trained(place: Path, words: Sequence[str]) -> RunFolder:
    """The run that these words train, trained where it is not yet."""
    log = place / "printed.txt"
    place.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = train([*words, "--save-path", str(place), "--resume"])
    if code:
        raise SystemExit(f"{shlex.join(words)} ended with {code}; see {log}.")
    return RunFolder(next((place / "main").glob("kfold-ensemble-*")))


def seconds_an_epoch(arm: str, chosen: argparse.Namespace) -> float:
    """What one epoch of one fold takes: the second of two, since the first one reads the photographs."""
    place = chosen.save_path / "probe" / arm.replace(" ", "_")
    run = trained(place, [*words_of(arm, chosen), "--folds", "0", "--epochs", "2", "--top-n", "1"])
    return float(pd.read_csv(run.log)["seconds"].iloc[1])


def epochs_of(arm: str, per_epoch: dict[str, float], seconds: float) -> int:
    """How many epochs an arm trains in these seconds; as many as `strong` where it is not clearly slower or faster."""
    ratio = per_epoch[arm] / per_epoch["strong"]
    cost = per_epoch["strong"] * (ratio if abs(ratio - 1) > 0.12 else 1)  # measured times spread by some percent
    return max(2, round(seconds / cost))


def main() -> None:
    """Train what is missing and print the table."""
    chosen = options()
    arms = [name.strip() for name in chosen.arms.split(";") if name.strip()] or list(ARMS)
    unknown = set(arms) - set(ARMS)
    if unknown:
        raise SystemExit(f"There is no arm {', '.join(sorted(unknown))}; there are {'; '.join(ARMS)}.")
    arms = list(dict.fromkeys(["strong", *arms]))
    seeds = chosen.seeds.split(",")
    per_epoch = {} if chosen.epochs else {arm: seconds_an_epoch(arm, chosen) for arm in arms}
    runs: dict[str, list[RunFolder]] = {}
    for arm in arms:
        epochs = chosen.epochs or epochs_of(arm, per_epoch, chosen.seconds / int(chosen.cv))
        for seed in seeds:
            place = chosen.save_path / f"seed{seed}" / arm.replace(" ", "_")
            words = [*words_of(arm, chosen), "--epochs", str(epochs), "--seed", seed]
            runs.setdefault(arm, []).append(trained(place, words))
            print(f"{arm}, seed {seed}: {epochs} epochs", file=sys.stderr, flush=True)
    print_table(runs)


def mean_of(found: Sequence[Estimate]) -> Estimate:
    """The mean over seeds. So are its ends: the same people are in all, so that more seeds do not make it surer."""
    return Estimate(*(float(np.mean([getattr(each, end) for each in found])) for end in ("value", "low", "high")))


def print_table(runs: dict[str, list[RunFolder]]) -> None:
    """A Markdown table: score of each arm, difference to `strong`, epochs, seconds, images/s of training."""
    print("| arm | macro F1 | higher than strong by | epochs | seconds | images/s |")
    print("|---|---|---|---|---|---|")
    for arm, found in runs.items():
        # With itself too, which gives its score.
        pairs = [compare([strong, run]) for strong, run in zip(runs["strong"], found, strict=True)]
        scores = mean_of([pair.estimates["B"]["macro_f1"] for pair in pairs])
        gains = [pair.differences["A", "B"]["macro_f1"] for pair in pairs]
        logs = [pd.read_csv(run.log) for run in found]
        seconds = np.mean([log["seconds"].sum() for log in logs])
        speed = np.median(np.concatenate([log["images_per_s"] for log in logs]))
        gain = "" if arm == "strong" else mean_of(gains).text(3)
        if len(gains) > 1 and gain:
            gain += f": {', '.join(f'{each.value:+.3f}' for each in gains)}"
        epochs = logs[0]["epoch"].max()
        print(f"| {arm} | {scores.text(3)} | {gain} | {epochs} | {seconds:.0f} | {speed:.0f} |")


if __name__ == "__main__":
    main()
