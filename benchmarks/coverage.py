"""Count how often intervals contain the true score, in simulated cross-validations.

    python benchmarks/coverage.py

In each run the networks of the folds predict people of skewed genders and age groups, seven images each. The images of
a person share a part of the errors, which change from epoch to epoch. The best epoch of each fold is chosen on the
people that it is scored on. The true score follows from the probabilities of confusing one class with another.
"shuffled" predictions are independent of the labels.

The 95 % intervals are those of the last epochs, of the best epochs, and of the best epochs corrected for the choice.
"""

# First: it makes the modules of the toolkit importable.
from side_by_side import ROOT  # isort: skip  # noqa: F401

import argparse

import numpy as np

from analysis.intervals import compute_scores, correct_sums, draw_resamples, estimate_scores, sum_tallies, tally_people
from data.label_math import encode_class
from data.tasks import MASKS, SHOTS, TASKS

FOLDS, EPOCHS, RESAMPLES = 5, 12, 1000
SHOT = np.array([MASKS.index(mask) for mask in SHOTS.values()])
# shares of the classes of mask, gender and age group
SHARES = (np.bincount(SHOT) / len(SHOT), np.array([0.42, 0.58]), np.array([0.46, 0.46, 0.08]))
ERRORS = ((0.01, 0.05, 0.02), (0.12, 0.10), (0.12, 0.20, 0.50))  # error of each class at the end of training
WHAT = ("last epochs", "best epochs", "best epochs, corrected")


def main() -> None:
    """Simulate and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--people", type=int, nargs="+", default=[120, 300, 700])
    given = options.parse_args()
    print("| people | predictions | score of the | true macro F1 | higher than true by | width | contains the truth |")
    print("|---|---|---|---|---|---|---|")
    for people in given.people:
        for shuffled in (False, True):
            found = np.array([simulate(people, shuffled=shuffled, seed=run) for run in range(given.runs)])
            for k, what in enumerate(WHAT):
                true, value, low, high = found[:, k].T
                holds = np.mean((low <= true) & (true <= high))
                kind = "shuffled" if shuffled else "learned"
                print(
                    f"| {people} | {kind} | {what} | {true.mean():.3f} | {np.mean(value - true):+.4f} | "
                    f"{np.mean(high - low):.3f} | {holds:.1%} |"
                )


def simulate(people: int, *, shuffled: bool, seed: int) -> list[tuple[float, float, float, float]]:
    """Simulate a cross-validation; return for each of WHAT the true macro F1, the measured one, and its interval."""
    random = np.random.default_rng(seed)
    tallies, expected = zip(*(_fold(people // FOLDS, random, shuffled=shuffled) for _ in range(FOLDS)), strict=True)
    draws = draw_resamples([each.shape[1] for each in tallies], seed=seed, resamples=RESAMPLES)
    last = [each[-1] for each in tallies]
    best = [int(_macro_f1(each.sum(axis=1)).argmax()) for each in tallies]
    chosen = [each[epoch] for each, epoch in zip(tallies, best, strict=True)]
    true_last = _macro_f1(sum(each[-1] for each in expected))
    true_best = _macro_f1(sum(each[epoch] for each, epoch in zip(expected, best, strict=True)))
    found = (
        (true_last, estimate_scores("main", sum_tallies(last, draws))),
        (true_best, estimate_scores("main", sum_tallies(chosen, draws))),
        (true_best, estimate_scores("main", correct_sums("main", tallies, draws))),
    )
    return [(true, *(getattr(each["macro_f1"], k) for k in ("value", "low", "high"))) for true, each in found]


def _macro_f1(tallies: np.ndarray) -> np.ndarray:
    return compute_scores("main", tallies)["macro_f1"]


def _fold(people: int, random: np.random.Generator, *, shuffled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return tallies of the epochs of a fold, `(E, P, T)`, and their expected values, `(E, T)`."""
    shots = len(SHOT)
    truth = [
        np.broadcast_to(SHOT, (people, shots)),
        *(np.repeat(random.choice(len(share), (people, 1), p=share), shots, axis=1) for share in SHARES[1:]),
    ]
    labels = encode_class(*truth).ravel()
    share = np.kron(np.kron(SHARES[0], SHARES[1]), SHARES[2])  # of each class
    owners = np.repeat(np.arange(people), shots)
    # An error comes from the person, from the image, or from this epoch alone.
    of_person = [random.random((people, 1)) for _ in truth]
    of_image = [random.random((people, shots)) for _ in truth]
    predictions, expected = [], []
    for epoch in range(EPOCHS):
        tables = [_confusion(k, epoch, random, shuffled=shuffled) for k in range(len(truth))]
        classes = []
        for k, table in enumerate(tables):
            which, alone = random.random((people, shots)), random.random((people, shots))
            drawn = np.where(which < 0.5, of_person[k], np.where(which < 0.7, of_image[k], alone))
            classes.append((drawn[..., None] > table.cumsum(axis=1)[truth[k], :-1]).sum(axis=-1))
        predictions.append(np.eye(TASKS["main"].outputs)[encode_class(*classes).ravel()])
        joint = np.kron(np.kron(tables[0], tables[1]), tables[2])
        expected.append(np.concatenate([share * np.diag(joint), share @ joint, share]))
    return tally_people("main", np.array(predictions), labels, owners), np.array(expected)


def _confusion(attribute: int, epoch: int, random: np.random.Generator, *, shuffled: bool) -> np.ndarray:
    """Return the probability of predicting each class (column) for each true class (row), `(C, C)`."""
    share, count = SHARES[attribute], len(SHARES[attribute])
    if shuffled:
        return np.tile(random.dirichlet(8 * share), (count, 1))
    unlearned = 0.25 * np.exp(-epoch / 3) + random.normal(0, 0.02, count)
    wrong = np.clip(np.array(ERRORS[attribute]) + (unlearned / 4 if attribute == 0 else unlearned), 0.002, 0.9)
    others = np.tile(share, (count, 1)) * (1 - np.eye(count))
    return np.diag(1 - wrong) + wrong[:, None] * others / others.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    main()
