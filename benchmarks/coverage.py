"""Count how often intervals contain the true score, in simulated cross-validations.

    python benchmarks/coverage.py

In each run the networks of the folds predict people of skewed genders and age groups, seven images each. The images of
a person share a part of the errors, which change from epoch to epoch. The best epoch of each fold is chosen on the
people that it is scored on. The true score follows from the probabilities of confusing one class with another. It is
over the classes that the score itself is over, among very many people of the kinds that are there. The predictions:

- "learned" get better from epoch to epoch;
- "shuffled" are independent of the labels;
- "one man over 60": learned, and three classes have a single person, the same one;
- "folds of one": learned, and every fold validates one person.

The 95 % intervals are those of the last epochs, of the best epochs, and of the best epochs corrected for the choice.
The best epochs of folds of one person have no interval.
"""

# First: it makes the modules of the toolkit importable.
from side_by_side import ROOT  # isort: skip  # noqa: F401

import argparse

import numpy as np

from analysis.intervals import LAST, TITLES, FoldPredictions, estimate_run, sum_run
from analysis.metrics import class_f1, score
from data.faces import MAIN, MASKS, SHOTS

FOLDS, EPOCHS = 5, 12
COUNT, PARTS = MAIN.outputs, [part.outputs for part in MAIN.parts]
KINDS = ("learned", "shuffled", "one man over 60", "folds of one")
SHOT = np.array([MASKS.index(mask) for mask in SHOTS.values()])
# shares of the classes of mask, gender and age group
SHARES = (np.bincount(SHOT) / len(SHOT), np.array([0.42, 0.58]), np.array([0.46, 0.46, 0.08]))
ERRORS = ((0.01, 0.05, 0.02), (0.12, 0.10), (0.12, 0.20, 0.50))  # error of each class at the end of training


def main() -> None:
    """Simulate and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=300)
    options.add_argument("--people", type=int, nargs="+", default=[24, 40, 60, 120, 300])
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    given = options.parse_args()
    print("| people | predictions | score of the | true macro F1 | higher than true by | width | contains the truth |")
    print("|---|---|---|---|---|---|---|")
    for people in given.people:
        for kind in given.kinds:
            found = [simulate(people, kind, seed=run) for run in range(given.runs)]
            for what in found[0]:
                true, value, low, high = np.array([each[what] for each in found]).T
                row = f"| {people} | {kind} | {TITLES[what]} | {true.mean():.3f} | {np.mean(value - true):+.4f} |"
                holds = np.mean((low <= true) & (true <= high))
                none = np.isnan(low).all()
                print(
                    f"{row} | no interval |" if none else f"{row} {np.mean(high - low):.3f} | {holds:.1%} |", flush=True
                )


def simulate(people: int, kind: str, *, seed: int) -> dict[str, tuple[float, float, float, float]]:
    """Simulate a cross-validation; return for each of TITLES the true macro F1, the measured one, and its interval."""
    random = np.random.default_rng(seed)
    gender, age = (random.choice(len(share), people, p=share) for share in SHARES[1:])
    shares = np.outer(*SHARES[1:])
    if kind == "one man over 60":
        age[(gender == 0) & (age == 2)] = 0
        one = random.integers(people)
        gender[one], age[one] = 0, 2
        shares[0, 2] = 0
        shares *= (1 - 1 / people) / shares.sum()
        shares[0, 2] = 1 / people
    there = np.zeros(shares.shape, bool)
    there[gender, age] = True
    share = np.kron(SHARES[0], (shares * there / shares[there].sum()).ravel())  # of each class
    parts = np.array_split(np.arange(people), people if kind == "folds of one" else FOLDS)
    folds = [_fold(gender[part], age[part], part, random, shuffled=kind == "shuffled") for part in parts]
    every, found = sum_run(MAIN, [fold for fold, _, _ in folds]), {}
    estimates = estimate_run(MAIN, every)
    for what, sums in every.items():
        counts = np.zeros((3, COUNT))
        for fold, best, joints in folds:
            own = joints[-1 if what == LAST else best]
            counts += len(fold.labels) * np.stack([share * np.diag(own), share @ own, share])
        scored = np.isfinite(class_f1(sums.total[: 3 * COUNT].reshape(3, COUNT)))
        true = np.where(there.ravel()[np.arange(COUNT) % there.size], class_f1(counts), 0)[scored].mean()
        macro_f1 = estimates[what]["macro_f1"]
        found[what] = (true, macro_f1.value, macro_f1.low, macro_f1.high)
    return found


def _fold(
    gender: np.ndarray, age: np.ndarray, people: np.ndarray, random: np.random.Generator, *, shuffled: bool
) -> tuple[FoldPredictions, int, list[np.ndarray]]:
    """Return the predictions of a fold, its best epoch, and how likely each epoch confuses the classes, `(C, C)`."""
    shape = len(people), len(SHOT)
    truth = [np.broadcast_to(each, shape) for each in (SHOT, gender[:, None], age[:, None])]
    labels = np.ravel_multi_index(truth, PARTS).ravel()
    # An error comes from the person, from the image, or from this epoch alone.
    of_person = [random.random((shape[0], 1)) for _ in truth]
    of_image = [random.random(shape) for _ in truth]
    predictions, joints = [], []
    for epoch in range(EPOCHS):
        tables = [_confusion(k, epoch, random, shuffled=shuffled) for k in range(len(truth))]
        classes = []
        for k, table in enumerate(tables):
            which, alone = random.random(shape), random.random(shape)
            drawn = np.where(which < 0.5, of_person[k], np.where(which < 0.7, of_image[k], alone))
            classes.append((drawn[..., None] > table.cumsum(axis=1)[truth[k], :-1]).sum(axis=-1))
        predictions.append(np.eye(COUNT)[np.ravel_multi_index(classes, PARTS).ravel()])
        joints.append(np.kron(np.kron(tables[0], tables[1]), tables[2]))
    best = int(np.argmax([score(MAIN, each, labels)["macro_f1"] for each in predictions]))
    owners = np.repeat(people, len(SHOT))
    return FoldPredictions(labels, owners, predictions[best], np.array(predictions)), best, joints


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
