"""Look at training photographs before training: python -m tools check_data --train-root ./input/data/train/images"""

from __future__ import annotations

from config import CheckConfig
from data.tasks import MAIN_CLASSES
from utils import UserError


def run(config: CheckConfig) -> None:
    """Print people, images, classes, strata and everything that is wrong.

    Raises:
        UserError: all that keeps training from starting, one line each.
    """
    from data.images import find_identical_files, find_unreadable
    from data.split import split_people, strata
    from data.tables import describe_problems, read_training_table
    from utils import shorten_list

    table, report = read_training_table(config.train_root, config.corrections)
    print(f"{table['person'].nunique()} people, {len(table)} images in {config.train_root}")
    if len(table):
        counts = table["label"].value_counts()
        print("\nImages of each class")
        for number, name in enumerate(MAIN_CLASSES):
            print(f"  {number:2d}  {name:<20} {counts.get(number, 0):6d}")
        people = strata(table)
        print("\nPeople of each stratum")
        for name, count in people.value_counts().sort_index().items():
            print(f"  {name:<16} {count:6d}  {count / len(people):.3f}")
        print()
        describe_problems(table, report)
        report.errors += find_unreadable(table["path"].tolist(), config.max_megapixels).values()
        for group in find_identical_files(table["path"].tolist()):
            report.notes.append(f"{len(group)} files are identical: {shorten_list(group)}.")
        try:
            report.notes += split_people(table, cv=config.cv, seed=0).notes
        except UserError as error:
            report.errors.append(str(error))
    for note in report.notes:
        print(note)
    report.raise_errors()
    print(f"Training can start: {len(report.notes)} note{'s' if len(report.notes) != 1 else ''}, nothing in the way.")
