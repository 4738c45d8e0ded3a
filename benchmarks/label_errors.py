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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import train
from analysis.error_analysis import Answers, answers_of
from analysis.label_errors import OF_PEOPLE, suspect_people
from data.label_math import age_group
from data.tables import read_training_table
from data.tasks import AGE_GROUPS, GENDERS, MAIN_CLASSES
from utils import make_folder, write_text


def main() -> None:
    """Swap, train, and print what is found."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("train_root")
    options.add_argument("--work", required=True, help="folder for the corrections and the run")
    options.add_argument("--share", type=float, default=0.03, help="share of people to give a wrong label")
    options.add_argument("--top", type=float, default=0.05, help="share of people to look at")
    options.add_argument("--simulations", type=int, default=200, help="further swaps on the same answers")
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
    (run,) = (work / "models" / "main").glob("kfold-*")
    oof = pd.read_csv(run / "oof.csv")
    ids = oof["ImageID"].map(dict(zip(table["image"], table["id"], strict=True)))
    probabilities = oof[[f"p{k}" for k in range(len(MAIN_CLASSES))]].to_numpy()
    answers = answers_of("main", oof["label"].to_numpy(), probabilities)
    true = table.set_index("image").loc[oof["ImageID"]]
    rows = [("trained on them", *found(answers, ids, oof["fold"], swapped, given.top))]
    # The same answers with other people's labels swapped afterwards: many more people, though no network saw them.
    drawn = [swap(table, given.share, 1000 + k) for k in range(given.simulations)]
    later = [found(relabelled(answers, true, each), ids, oof["fold"], each, given.top) for each in drawn]
    rows += [(f"{len(later)} times swapped after training", *map(sum, zip(*later, strict=True)))] if later else []
    print(f"\nAmong the {given.top:.0%} of {ids.nunique()} people with the highest suspicion")
    print("| wrong labels | genders | found | age groups | found | found of all |")
    print("|---|---|---|---|---|---|")
    for what, genders, right, groups, older in rows:
        share = (right + older) / max(genders + groups, 1)
        print(f"| {what} | {genders} | {right} | {groups} | {older} | {share:.0%} |")


def found(
    answers: dict[str, Answers], ids: pd.Series, folds: pd.Series, swapped: pd.DataFrame, top: float
) -> tuple[int, int, int, int]:
    """How many genders were swapped, how many of these people are among the first, and the same of age groups."""
    ranked = suspect_people(answers, ids, folds)
    first = swapped["id"].isin(ranked.head(math.ceil(top * len(ranked)))["id"])
    genders = swapped["gender"] != ""
    return sum(genders), sum(genders & first), sum(~genders), sum(~genders & first)


def relabelled(answers: dict[str, Answers], true: pd.DataFrame, swapped: pd.DataFrame) -> dict[str, Answers]:
    """The answers with the true labels of all but the swapped people."""
    labels = {name: true[name].to_numpy(copy=True) for name in OF_PEOPLE}
    for row in swapped.itertuples():
        own = (true["id"] == row.id).to_numpy()
        if row.gender:
            labels["gender"][own] = GENDERS.index(row.gender)
        else:
            labels["ageg"][own] = age_group(row.age)
    return {name: replace(answers[name], labels=labels[name]) for name in OF_PEOPLE}


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
