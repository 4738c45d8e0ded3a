"""Check training images before training: python -m tools check_data --train-root ./input/data/train/images"""

from cli.checks import own_data
from config import CheckConfig
from data.face_layout import check_people, describe_problems, read_training_table
from data.faces import FACES
from data.images import find_shared_images, find_unreadable
from data.prepare import read_labels
from data.split import split_people, strata
from utils import UserError, shorten_list


def run(config: CheckConfig) -> None:
    """Print the number of people and images, by class and stratum, and everything that is wrong.

    Raises:
        UserError: everything that prevents training, one line each.
    """
    if config.data:
        tasks, table, report = read_labels(**own_data(config))
    else:
        tasks, (table, report) = FACES, read_training_table(config.train_root, config.corrections)
    task = tasks.default
    print(f"{table['person'].nunique()} {task.noun}, {len(table)} images in {config.data or config.train_root}")
    if len(table):
        counts, stratum = table["label"].value_counts(), strata(table, tasks)
        print("\nImages of each class")
        for number, name in enumerate(task.classes):
            print(f"  {number:2d}  {name:<20} {counts.get(number, 0):6d}")
        if any(stratum):
            print(f"\n{task.noun.capitalize()} of each stratum")
            for name, count in stratum.value_counts().sort_index().items():
                print(f"  {name:<16} {count:6d}  {count / len(stratum):.3f}")
        print()
        if not config.data:
            check_people(table, report, two_genders=config.two_genders)
            describe_problems(table, report)
        paths = table["path"].tolist()
        report.errors += find_unreadable(paths, config.max_megapixels).values()
        for people, groups in find_shared_images(paths, table["person"]).items():
            more = f" {len(groups)} groups of such files are of {' and '.join(people)}." if len(groups) > 1 else ""
            report.notes.append(f"{len(groups[0])} files are identical: {shorten_list(groups[0])}.{more}")
        try:
            cv = table["fold"].nunique() if "fold" in table else config.cv
            report.notes += split_people(table, tasks, cv=cv, seed=0).notes
        except UserError as error:
            report.errors.append(str(error))
    for note in report.notes:
        print(note)
    report.raise_errors()
    count = len(report.notes)
    print(f"No errors, {count} warning{'' if count == 1 else 's'}. Ready to train.")
