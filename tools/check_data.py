"""Check training images before training: python -m tools check_data --train-root ./input/data/train/images"""

import numpy as np
import pandas as pd

from cli.checks import own_data
from config import CheckConfig
from data.face_layout import check_people, describe_problems, read_training_table
from data.faces import FACES
from data.images import find_shared_images, find_unreadable
from data.prepare import read_labels
from data.split import split_people, strata
from data.tasks import Tasks
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
        if config.data:
            _describe_labels(table, tasks)
        else:
            check_people(table, report, two_genders=config.two_genders)
            describe_problems(table, report)
        paths, sizes = table["path"].tolist(), {}
        report.errors += find_unreadable(paths, config.max_megapixels, sizes=sizes).values()
        if sizes:
            what = "much larger, smaller or narrower than most"
            report.note(_check_sizes(table, sizes), "image", what, "Check them before training.")
        words = (table[part.name].map(dict(enumerate(part.classes))) for part in tasks.attributes)
        labels, different = dict(zip(paths, map(" ".join, zip(*words, strict=True)), strict=True)), []
        for people, groups in find_shared_images(paths, table["person"]).items():
            more = f" {len(groups)} groups of such files are of {' and '.join(people)}." if len(groups) > 1 else ""
            report.notes.append(f"{len(groups[0])} files are identical: {shorten_list(groups[0])}.{more}")
            for group in (each for each in groups if len({labels[path] for path in each}) > 1):
                different += [f"{path} ({labels[path]})" for path in group]
        report.note(different, "file", "identical to a file with another label", "Correct or remove them.")
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


def _describe_labels(table: pd.DataFrame, tasks: Tasks) -> None:
    """Print which labels vary within groups."""
    for part in tasks.attributes:
        found = table.groupby("person")[part.name].unique()
        several = found[found.str.len() > 1]
        for group, numbers in several.iloc[:1].items():
            names = shorten_list(part.classes[k] for k in sorted(numbers))
            print(f"{part.name} varies within {len(several)} of {len(found)} {part.noun}, such as {group} ({names}).")


def _check_sizes(table: pd.DataFrame, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """Print the range of the sizes of images, `{path: (width, height)}`; return those far from the median."""
    table = table[table["path"].isin(list(sizes))]
    sides = np.array([sizes[path] for path in table["path"]])  # (N, 2)
    texts = [f"{width:,} x {height:,}" for width, height in sides]
    areas, shapes = sides.prod(axis=1), sides.max(axis=1) / sides.min(axis=1)
    ranked = areas.argsort(kind="stable")
    least, median, most = ranked[[0, len(ranked) // 2, -1]]
    span = f" (median), from {texts[least]} to {texts[most]}" if len(set(texts)) > 1 else ""
    print(f"Images are {texts[median]} pixels{span}.")
    far = (areas > 4 * areas[median]) | (4 * areas < areas[median]) | (shapes > 2 * np.median(shapes))
    return [f"{table['image'].iloc[k]} ({texts[k]})" for k in np.flatnonzero(far)]
