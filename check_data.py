"""Look at training photographs before training: python check_data.py --train-root ./input/data/train/images"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config import CheckConfig, UserError, parse_config
from tasks import MAIN_CLASSES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those typed); its exit code is 2 where training could not start."""
    config = parse_config(CheckConfig, argv)
    from utils import run_command

    return run_command(check, config)


def check(config: CheckConfig) -> None:
    """Print people, images, classes, strata and everything that is wrong.

    Raises:
        UserError: all that keeps training from starting, one line each.
    """
    from picture import identical_files, unreadable_images
    from split import split_people, strata
    from table import describe_problems, read_training_table
    from utils import some

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
        report.errors += unreadable_images(table["path"].tolist(), config.max_megapixels).values()
        for group in identical_files(table["path"].tolist()):
            report.notes.append(f"{len(group)} files are identical: {some(group)}.")
        try:
            report.notes += split_people(table, cv=config.cv, seed=0).notes
        except UserError as error:
            report.errors.append(str(error))
    for note in report.notes:
        print(note)
    report.raise_errors()
    print(f"Training can start: {len(report.notes)} note{'s' if len(report.notes) != 1 else ''}, nothing in the way.")


if __name__ == "__main__":
    sys.exit(main())
