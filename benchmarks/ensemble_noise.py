"""What choosing an ensemble gains where there is nothing to gain: answers that have nothing to do with the labels.

    python benchmarks/ensemble_noise.py

In each run some kinds of members answer at random on people with seven photographs each, whose answers a person's
photographs share in part. Greedy selection picks among them; what it picked is scored on the same people, nested on
people it was not chosen on, and on as many fresh people. Each is compared with the mean of all kinds, in macro F1.
"""

from __future__ import annotations

# First, since it makes the modules of the toolkit known.
from side_by_side import ROOT  # isort: skip  # noqa: F401

import argparse
from functools import partial

import numpy as np

from data.label_math import encode_class
from data.tasks import MASKS, SHOTS, TASKS
from inference.selection import Library, Scorer, cross_select, select_greedily

SHOT = np.array([MASKS.index(mask) for mask in SHOTS.values()])
OUTPUTS = TASKS["main"].outputs
WHERE = ("the same people", "people it was not chosen on, nested", "fresh people")


def main() -> None:
    """Simulate and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--people", type=int, nargs="+", default=[60, 240])
    options.add_argument("--kinds", type=int, default=9)
    given = options.parse_args()
    print("| people | scored on | mean gain in macro F1 | standard error | runs with a gain |\n|---|---|---|---|---|")
    for people in given.people:
        gains = np.array([simulate(people, given.kinds, seed=seed) for seed in range(given.runs)])
        for where, each in zip(WHERE, gains.T, strict=True):
            error = each.std(ddof=1) / np.sqrt(len(each))
            print(f"| {people} | {where} | {each.mean():+.4f} | {error:.4f} | {np.mean(each > 0):.0%} |")


def simulate(people: int, kinds: int, *, seed: int) -> tuple[float, float, float]:
    """What greedy selection gains over the mean of all kinds on each of WHERE."""
    random = np.random.default_rng(seed)
    (scorer, library), (fresh, others) = (_people(people, kinds, random, seed) for _ in range(2))
    picked, alike = select_greedily(library, scorer), np.ones(kinds)
    honest = cross_select(lambda rows: partial(library.mix, select_greedily(library, scorer, rows)), scorer.groups)
    base = scorer.goodness(library.mix(alike))
    return (
        scorer.goodness(library.mix(picked)) - base,
        scorer.goodness(honest) - base,
        fresh.goodness(others.mix(picked)) - fresh.goodness(others.mix(alike)),
    )


def _people(people: int, kinds: int, random: np.random.Generator, seed: int) -> tuple[Scorer, Library]:
    """Labels of some people, and what the kinds answer without having seen them."""
    gender, group = random.integers(2, size=(people, 1)), random.choice(3, size=(people, 1), p=(0.46, 0.46, 0.08))
    labels = encode_class(SHOT[None], gender, group).ravel()
    logits = random.normal(size=(kinds, people, 1, OUTPUTS)) + random.normal(size=(kinds, people, len(SHOT), OUTPUTS))
    answers = np.exp(logits).reshape(kinds, 1, people * len(SHOT), OUTPUTS)
    answers /= answers.sum(axis=-1, keepdims=True)
    scorer = Scorer("main", labels, np.repeat(np.arange(people), len(SHOT)), seed=seed)
    return scorer, Library(list(answers), "arithmetic", years=False)


if __name__ == "__main__":
    main()
