"""Folds by person, stratified over gender and age group."""

import json
from collections import Counter

import pandas as pd
import pytest

from data.face_layout import age_group
from data.faces import FACES
from data.split import split_people, strata
from utils import UserError

# People of each stratum (gender number, an age in it) as fractions of the 2,700 of the competition.
REAL = {(1, 25): 0.271, (1, 45): 0.303, (1, 60): 0.040, (0, 25): 0.203, (0, 45): 0.152, (0, 60): 0.031}


def table_of(people, images=2):
    """A table with one row an image of (id, gender, age) people."""
    rows = [
        {"id": i, "person": i.split("-")[0], "gender": g, "age": a, "ageg": age_group(a), "image": f"{i}/{k}"}
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
