"""How many labels that were made wrong on purpose are found again.

    python benchmarks/label_errors.py input/data/train/images --work /tmp/swapped \
        --model-type VanillaResNet --backbone resnet18 --image-size 64 --no-pretrained --transform-type facecrop \
        --oversample --epochs 5 --lr 0.001

Gives 3 % of the people a wrong label by a file of corrections, without touching a photograph: the other gender, or an
age of another age group, in turn. Then trains 3 folds with the options of train.py that were passed, and prints how
many of these people stand among the 5 % with the highest suspicion. What --work holds already is not trained again.
"""

from __future__ import annotations

# First, since it makes the modules of the toolkit known.
from side_by_side import ROOT  # isort: skip  # noqa: F401

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

import train
from label_errors import suspect_people
from mistakes import answers_of
from table import read_training_table
from tasks import AGE_GROUPS, GENDERS, MAIN_CLASSES
from utils import make_folder, write_text


def main() -> None:
    """Swap, train, and print what is found."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("train_root")
    options.add_argument("--work", required=True, help="folder for the corrections and the run")
    options.add_argument("--share", type=float, default=0.03, help="share of people to give a wrong label")
    options.add_argument("--top", type=float, default=0.05, help="share of people to look at")
    options.add_argument("--swap-seed", type=int, default=0, help="seed of the choice of people")
    given, training = options.parse_known_args()
    table, report = read_training_table(given.train_root)
    report.raise_errors()
    work = make_folder(Path(given.work))
    swapped = swap(table, given.share, given.swap_seed)
    write_text(work / "swapped.csv", swapped.to_csv(index=False))
    words = ["--train-root", given.train_root, "--corrections", str(work / "swapped.csv"), "--cv", "3"]
    code = train.main([*words, "--save-path", str(work / "models"), "--resume", *training])
    if code:
        raise SystemExit(code)
    run, *_ = (work / "models" / "main").iterdir()
    oof = pd.read_csv(run / "oof.csv")
    ids = oof["ImageID"].map(dict(zip(table["image"], table["id"], strict=True)))
    probabilities = oof[[f"p{k}" for k in range(len(MAIN_CLASSES))]].to_numpy()
    answers = answers_of("main", oof["label"].to_numpy(), probabilities)
    ranked = suspect_people(answers, ids, oof["fold"])
    print_found(swapped, ranked, given.top)


def print_found(swapped: pd.DataFrame, ranked: pd.DataFrame, top: float) -> None:
    """Print how many of the swapped people stand among the first of those ranked by suspicion."""
    first = ranked.head(math.ceil(top * len(ranked)))["id"]
    genders = swapped["gender"].astype(bool)
    print(f"\nAmong the {len(first)} of {len(ranked)} people with the highest suspicion")
    print("| wrong label | people | found | share of them |")
    print("|---|---|---|---|")
    for what, rows in (("gender", swapped[genders]), ("age group", swapped[~genders]), ("all", swapped)):
        found = int(rows["id"].isin(first).sum())
        print(f"| {what} | {len(rows)} | {found} | {found / max(len(rows), 1):.0%} |")


def swap(table: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Corrections, `id,gender,age`, that give a share of the people a wrong label, by turns of gender and age group.

    A wrong age is that of anybody in one of the other two age groups.
    """
    random = np.random.default_rng(seed)
    people = table.drop_duplicates("id").sort_values("id")
    rows = []
    for k, at in enumerate(random.choice(len(people), size=round(share * len(people)), replace=False)):
        person = people.iloc[at]
        if k % 2:
            group = random.choice([group for group in range(len(AGE_GROUPS)) if group != person["ageg"]])
            ages = people.loc[people["ageg"] == group, "age"]
            rows.append((person["id"], "", int(random.choice(ages))))
        else:
            rows.append((person["id"], GENDERS[1 - person["gender"]], ""))
    return pd.DataFrame(rows, columns=["id", "gender", "age"])


if __name__ == "__main__":
    main()
