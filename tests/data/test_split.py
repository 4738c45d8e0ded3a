"""Folds by person or another group, stratified over the labels of groups or of images."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from data.face_layout import age_group
from data.faces import FACES
from data.split import split_people, strata
from data.tasks import Task, Tasks
from utils import UserError

# People of each stratum (gender number, an age in it) as fractions of the 2,700 of the competition.
REAL = {(1, 25): 0.271, (1, 45): 0.303, (1, 60): 0.040, (0, 25): 0.203, (0, 45): 0.152, (0, 60): 0.031}


def table_of(people, images=2):
    """A table with one row an image of (id, gender, age) people."""
    rows = [
        {
            "id": i,
            "person": i.split("-")[0],
            "gender": g,
            "age": a,
            "ageg": age_group(a),
            "mask": 0,
            "image": f"{i}/{k}",
        }
        for i, g, a in people
        for k in range(images)
    ]
    return pd.DataFrame(rows)


def numbered(counts):
    """(id, gender, age) people by the count of each (gender, age), with the strata in turn while they last."""
    left, people = Counter(counts), []
    while left.total():
        for stratum in counts:
            if left[stratum]:
                left[stratum] -= 1
                people.append((f"{len(people):06d}", *stratum))
    return people


@pytest.fixture(scope="module")
def real():
    counts = {stratum: round(share * 2700) for stratum, share in REAL.items()}
    assert sum(counts.values()) == 2700
    return table_of(numbered(counts))


@pytest.fixture(scope="module")
def five(real):
    return split_people(real, FACES, cv=5, seed=42)


# ------------------------------------------------------------------------------------------------ the real strata


def test_each_person_is_validated_on_in_one_fold_and_trained_on_in_the_others(real, five):
    everyone = sorted(set(real.person))
    assert len(five.folds) == 5
    assert sorted(person for fold in five.folds for person in fold.valid) == everyone
    for fold in five.folds:
        assert sorted(fold.train + fold.valid) == everyone
        assert (fold.train, fold.valid) == (sorted(fold.train), sorted(fold.valid))


def test_each_stratum_is_spread_evenly_over_the_folds(real, five):
    stratum = strata(real, FACES)
    assert len(set(stratum)) == 6
    counts = [Counter(stratum[person] for person in fold.valid) for fold in five.folds]
    for name in set(stratum):
        assert max(c[name] for c in counts) - min(c[name] for c in counts) <= 1, name
    assert five.notes == []


def test_one_fold_holds_out_a_tenth(real):
    split = split_people(real, FACES, cv=1, seed=42)
    assert len(split.folds) == 1
    fold = split.folds[0]
    assert (len(fold.train), len(fold.valid)) == (2430, 270)
    stratum = strata(real, FACES)
    held = Counter(stratum[person] for person in fold.valid)
    for name, count in stratum.value_counts().items():
        assert abs(held[name] - count / 10) < 1, name


# ------------------------------------------------------------------------------------------------ seed and order


def test_the_order_of_rows_does_not_matter(real, five):
    shuffled = real.sample(frac=1, random_state=1)
    assert split_people(shuffled, FACES, cv=5, seed=42) == five


def test_the_order_of_rows_does_not_matter_for_a_person_with_two_labels():
    people = [*numbered(dict.fromkeys(REAL, 10)), ("000003-1", 1, 25), ("000003-2", 0, 60)]
    table = table_of(people)
    expected = split_people(table, FACES, cv=5, seed=42)
    for seed in range(5):
        assert split_people(table.sample(frac=1, random_state=seed), FACES, cv=5, seed=42) == expected


def test_the_number_of_images_of_a_person_does_not_matter(five):
    counts = {stratum: round(share * 2700) for stratum, share in REAL.items()}
    assert split_people(table_of(numbered(counts), images=1), FACES, cv=5, seed=42).folds == five.folds


def test_another_seed_gives_another_split(real, five):
    other = split_people(real, FACES, cv=5, seed=43)
    assert other.folds != five.folds
    assert other.fingerprint != five.fingerprint


def test_the_fingerprint_depends_on_the_place_of_every_person(real, five):
    assert split_people(real, FACES, cv=5, seed=42).fingerprint == five.fingerprint
    assert len(five.fingerprint) == 16
    int(five.fingerprint, 16)
    without_one = real[real.person != "000000"]
    assert split_people(without_one, FACES, cv=5, seed=42).fingerprint != five.fingerprint
    assert split_people(real, FACES, cv=4, seed=42).fingerprint != five.fingerprint


def test_the_written_split_lists_the_people_of_each_fold(five):
    written = json.loads(json.dumps(five.as_dict()))
    assert (written["seed"], written["fingerprint"]) == (42, five.fingerprint)
    assert [fold["fold"] for fold in written["folds"]] == [0, 1, 2, 3, 4]
    assert written["folds"][2]["valid"] == five.folds[2].valid
    assert written["folds"][2]["train"] == five.folds[2].train


# ------------------------------------------------------------------------------------------------ people


def test_ids_with_a_suffix_stay_together():
    people = numbered(dict.fromkeys(REAL, 10))
    twins = [(f"{i}-1", g, a) for i, g, a in people[::3]]
    split = split_people(table_of([*people, *twins]), FACES, cv=5, seed=0)
    assert sorted(person for fold in split.folds for person in fold.valid) == sorted(i for i, _, _ in people)


def test_strata_are_of_people_by_gender_and_age_group():
    table = table_of([("2", 0, 29), ("1", 1, 60), ("3", 1, 59)], images=7)
    assert strata(table, FACES).to_dict() == {"1": "female >=60", "2": "male <30", "3": "female 30-59"}


def test_scarce_strata_are_named():
    split = split_people(table_of(numbered({(0, 25): 8, (1, 25): 8, (1, 60): 3})), FACES, cv=5, seed=0)
    assert len(split.notes) == 1
    assert "female >=60 (3)" in split.notes[0]
    assert "male <30" not in split.notes[0].replace("female", "")
    assert sorted(len(fold.valid) for fold in split.folds) == [3, 4, 4, 4, 4]


def test_people_of_scarce_strata_alone_can_be_split():
    people = numbered(dict.fromkeys(REAL, 2))
    split = split_people(table_of(people), FACES, cv=5, seed=0)
    assert sorted(person for fold in split.folds for person in fold.valid) == sorted(i for i, _, _ in people)
    assert all(len(fold.valid) in (2, 3) for fold in split.folds)


@pytest.mark.parametrize(("count", "cv"), [(4, 5), (1, 2), (1, 1)])
def test_fewer_people_than_folds(count, cv):
    with pytest.raises(UserError, match=rf"{count} people cannot be split into {max(cv, 2)} folds"):
        split_people(table_of(numbered({(0, 25): count})), FACES, cv=cv, seed=0)


def test_few_people_can_be_split_once():
    fold = split_people(table_of(numbered({(0, 25): 3, (1, 25): 1})), FACES, cv=1, seed=0).folds[0]
    assert (len(fold.train), len(fold.valid)) == (3, 1)


# ------------------------------------------------------------------------------------------------ --valid-root


def test_no_one_is_held_out_with_a_validation_folder():
    table = table_of(numbered({(0, 25): 3, (1, 60): 1}))
    (fold,) = split_people(table, FACES, cv=1, seed=0, valid_people=["x"]).folds
    assert (fold.train, fold.valid) == (sorted(set(table.person)), ["x"])


def test_one_person_is_enough_with_a_validation_folder():
    (fold,) = split_people(table_of([("1", 0, 20)]), FACES, cv=1, seed=0, valid_people=["x"]).folds
    assert fold.train == ["1"]


def test_folds_train_on_other_people_with_a_validation_folder():
    table = table_of(numbered(dict.fromkeys(REAL, 5)))
    elsewhere, here = (split_people(table, FACES, cv=5, seed=0, valid_people=each) for each in (["x"], None))
    assert [fold.train for fold in elsewhere.folds] == [fold.train for fold in here.folds]
    assert all(fold.valid == ["x"] for fold in elsewhere.folds)
    assert elsewhere.fingerprint != here.fingerprint


# ------------------------------------------------------------------------------------------------ labels vary in groups

CLASSES = Tasks(Task("sign", "sign", tuple("abcdef")))


def images_of(groups, labels):
    """A table with one row per image of a group and a class number each."""
    rows = {"person": [f"g{number:03d}" for number in groups], "label": labels, "sign": labels}
    return pd.DataFrame({**rows, "image": [f"{number:05d}" for number in range(len(labels))]})


def skewed(seed):
    """A random table: groups of very different sizes, each with its own shares of the classes."""
    random = np.random.default_rng(seed)
    count, classes = random.integers(5, 61), random.integers(2, 7)
    groups = np.repeat(np.arange(count), random.lognormal(2, 1, count).astype(int) + 1)
    shares = random.dirichlet(random.dirichlet(np.full(classes, 2)) * classes + 1e-3, count)
    return images_of(groups, (random.random(len(groups))[:, None] > shares[groups].cumsum(axis=1)[:, :-1]).sum(axis=1))


def fold_numbers(table, split):
    """The fold that validates each image of a table."""
    return table.person.map({person: k for k, fold in enumerate(split.folds) for person in fold.valid}).to_numpy()


def shares_of(table, numbers):
    """The share of the images of each class that each fold holds, then that of all images: (folds, classes + 1)."""
    counts = np.bincount(6 * numbers + table.label.to_numpy(), minlength=6 * (numbers.max() + 1)).reshape(-1, 6)
    counts = np.column_stack([counts[:, counts.any(axis=0)], counts.sum(axis=1)])
    return counts / counts.sum(axis=0)


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_classes_are_as_even_as_with_scikit_learn():
    figures = []
    for seed in range(200):
        table, cv = skewed(seed), 2 + seed % 4
        split = split_people(table, CLASSES, cv=cv, seed=seed)
        everyone = sorted(set(table.person))
        assert sorted(person for fold in split.folds for person in fold.valid) == everyone  # each in one fold
        assert all(sorted(fold.train + fold.valid) == everyone and fold.valid for fold in split.folds)
        theirs = np.empty(len(table), int)
        for k, (_, valid) in enumerate(StratifiedGroupKFold(cv).split(table, table.label, table.person)):
            theirs[valid] = k
        for numbers in (fold_numbers(table, split), theirs):
            off = np.abs(shares_of(table, numbers) - 1 / cv)
            figures.append((off[:, :-1].mean(), off[:, :-1].max(), off[:, -1].max()))
    (classes, worst, images), theirs = (np.mean(figures[first::2], axis=0) for first in (0, 1))
    assert classes < 1.03 * theirs[0] and worst < 1.03 * theirs[1] and images < 0.95 * theirs[2]


def test_large_groups_of_all_classes_do_not_unbalance_the_folds():
    """They have no spread over the classes, but count as images."""
    groups = np.repeat(np.arange(44), [20] * 40 + [100] * 4)
    split = split_people(images_of(groups, np.arange(len(groups)) % 2), CLASSES, cv=4, seed=0)
    assert [sum(person >= "g040" for person in fold.valid) for fold in split.folds] == [1, 1, 1, 1]
    assert [len(fold.valid) for fold in split.folds] == [11, 11, 11, 11]


def test_varying_labels_are_split_by_the_seed_alone():
    table = skewed(3)
    split = split_people(table, CLASSES, cv=5, seed=1)
    assert split_people(table.sample(frac=1, random_state=0), CLASSES, cv=5, seed=1) == split
    parts = {frozenset(tuple(f.valid) for f in split_people(table, CLASSES, cv=5, seed=s).folds) for s in range(5)}
    assert len(parts) == 5


def test_one_fold_holds_out_a_tenth_of_the_images_of_each_class():
    groups = np.repeat(np.arange(200), [500] + [10] * 199)  # the first group is a fold of its own, but not this one
    table = images_of(groups, np.arange(len(groups)) % 7 % 3)
    split = split_people(table, CLASSES, cv=1, seed=0)
    (fold,) = split.folds
    assert sorted(fold.train + fold.valid) == sorted(set(table.person))
    shares = shares_of(table, table.person.isin(fold.train).to_numpy().astype(int))[0]
    assert len(shares) == 4 and np.all(np.abs(shares - 0.1) < 0.03)
    assert split.notes[0].startswith("Labels vary within groups: the share of class ")
    assert "in the two parts" in split.notes[0]


def test_notes_on_varying_labels_name_scarce_classes_and_the_widest_range():
    table = images_of([0, 0, 1, 1, 2, 2, 2, 3, 3, 3], [0, 1, 0, 1, 0, 1, 2, 0, 1, 3])
    split = split_people(table, CLASSES, cv=2, seed=0)
    assert split.notes[0] == "Classes in fewer groups than the 2 parts of the split: c (1), d (1)."
    assert split.notes[1].startswith("Labels vary within groups: the share of class ")
    assert split.notes[1].endswith(" in the folds, the widest range.")
    both = images_of([0, 0, 1, 1], [0, 1, 0, 1])
    (note,) = split_people(both, CLASSES, cv=2, seed=0).notes
    assert note == "Labels vary within groups: the share of class a is 0.500 to 0.500 in the folds, the widest range."


def test_varying_labels_with_a_validation_folder():
    table = skewed(0)
    elsewhere, here = (split_people(table, CLASSES, cv=3, seed=0, valid_people=each) for each in (["x"], None))
    assert [fold.train for fold in elsewhere.folds] == [fold.train for fold in here.folds]
    assert all(fold.valid == ["x"] for fold in elsewhere.folds)


def test_messages_call_groups_by_their_noun():
    table = images_of([0, 0, 1], [0, 1, 0]).assign(id=["x", "y", "z"])
    with pytest.raises(UserError) as caught:
        split_people(table, CLASSES, cv=3, seed=0)
    assert str(caught.value) == "2 groups cannot be split into 3 folds. Each fold needs at least one group."


# ------------------------------------------------------------------------------------------------ fixed folds


def test_a_column_of_folds_fixes_them():
    table = images_of([0, 0, 1, 1, 2, 2], [0, 1, 0, 0, 1, 1]).assign(fold=[1, 1, 0, 0, 2, 2])
    for tasks in (CLASSES, Tasks(Task("sign", "sign", tuple("abcdef"), of_group=True))):
        split = split_people(table.sample(frac=1, random_state=0), tasks, cv=3, seed=0)
        assert [fold.valid for fold in split.folds] == [["g001"], ["g000"], ["g002"]]
        assert [fold.train for fold in split.folds] == [["g000", "g002"], ["g001", "g002"], ["g000", "g001"]]
        range_of_a = "the share of class a is 0.000 to 1.000 in the folds, the widest range."
        assert split.notes[-1] == f"The folds are fixed: {range_of_a}"


@pytest.mark.parametrize(
    ("folds", "cv", "message"),
    [
        ([0, 0, 1, 2], 5, "has 3 folds, but --cv is 5. Pass --cv 3."),
        ([0, 0, 1, 1], 1, "has 2 folds, but --cv is 1. Pass --cv 2."),
        ([0, 0, 0, 0], 1, "has a single value. It needs at least two."),
    ],
)
def test_the_number_of_fixed_folds_is_that_of_cv(folds, cv, message):
    table = images_of([0, 0, 1, 2], [0, 1, 0, 1]).assign(fold=folds)
    with pytest.raises(UserError, match=message):
        split_people(table, CLASSES, cv=cv, seed=0)
