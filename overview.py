"""Pages about more than one run: several side by side, and the design of an ensemble."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd

import figures
from comparison import Compared, verdict
from intervals import Estimate
from mistakes import answers_of, attribute_costs, confusion
from page import Drawn, grid, interval, render
from runfolder import answers_in
from tasks import ATTRIBUTES, SCORE_TITLES, TASKS
from utils import some


def write_comparison(compared: Compared, path: Path) -> None:
    """Write a page with several runs side by side.

    Raises:
        UserError: files of a run are damaged.
    """
    record = TASKS[compared.task]
    names, monitor = record.scores, SCORE_TITLES[record.monitor]
    found, told = compared.estimates, compared.differences
    drawn = Drawn()
    titles = {f"{b} - {a}": each for (a, b), each in told.items()}
    shown = {pair: {SCORE_TITLES[name]: each[name] for name in names} for pair, each in titles.items()}
    drawn.add("differences", figures.intervals(shown, "differences", zero=True), "Differences of the scores.")
    classes = {letter: {name: each[name] for name in record.classes} for letter, each in found.items()}
    drawn.add("classes", figures.intervals(classes, "F1 of each class"), "F1 of each class in each run.")
    costs = []
    for letter, run in compared.runs.items():
        config = compared.configs[letter]
        drawn.add(f"curves {letter}", figures.curves(config.task, run.read_log(config), config.epochs), "Curves.")
        answers = answers_of(config.task, *answers_in(compared.tables[letter], config.task))
        whole = next(iter(answers.values()))
        wide = len(whole.classes) > 6
        drawn.add(f"confusion {letter}", figures.confusion(confusion(whole), whole.classes), "Confusions.", wide=wide)
        if "main" in answers:
            costs.append(
                [letter, *(f"{each.if_right:.3f} (+{each.cost:.3f})" for each in attribute_costs(whole).itertuples())]
            )
    page = {
        "title": f"{len(found)} runs on {record.title}",
        "about": compared.about(),
        "verdicts": [
            f"{verdict(pair, each[record.monitor], record.monitor)} in {monitor}." for pair, each in told.items()
        ],
        "runs": grid(["", "folder"], [[letter, run.path] for letter, run in compared.runs.items()]),
        "changed": grid(["option", *found], [[name, *values] for name, values in compared.changed().items()]),
        "scores": grid(
            ["", *(SCORE_TITLES[name] for name in names)],
            [[row, *(each[name].told(3) for name in names)] for row, each in (found | titles).items()],
            "In brackets: 95 % intervals over people, who are the same in all runs: differences are known better than "
            "scores.",
        ),
        "classes": grid(
            ["F1 of class", *found, *titles],
            [[name, *(each[name].told(3) for each in (found | titles).values())] for name in record.classes],
        ),
        "curves": [(letter, drawn.figures[f"curves {letter}"]) for letter in found],
        "confusions": [(letter, drawn.figures[f"confusion {letter}"]) for letter in found],
        "costs": grid(["macro F1 if it were always right", *ATTRIBUTES.values()], costs),
        "figures": drawn.figures,
    }
    render("comparison.html", path, page)


# ------------------------------------------------------------------------------------------------ an ensemble


def write_ensemble(
    path: Path, rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], *, gain: str, about: str
) -> None:
    """Write a page about the design of an ensemble.

    Args:
        rows: those of its table.csv. recipe: what stands in its recipe.json.
        gain: what greedy selection gains, in words. about: whom it is judged on.
    """
    title = SCORE_TITLES[TASKS[recipe["task"]].monitor]
    monitor, scores = TASKS[recipe["task"]].monitor, recipe["scores"]
    alphabet = string.ascii_uppercase
    letters = dict(
        zip(
            dict.fromkeys(row["run"] for row in rows),
            chain(alphabet, map("".join, product(alphabet, repeat=2))),
            strict=False,
        )
    )
    rows = [{**row, "letter": letters[row["run"]]} for row in rows]
    drawn = Drawn()
    drawn.add("costs", figures.score_against_cost(pd.DataFrame(rows), monitor), f"{title} over images a second.")
    best, cheapest = (next(row for row in rows if mark in row["mark"]) for mark in ("best", "cheapest"))
    verdicts = [
        f"{what}: {_way(row)}, {title} {row[monitor]:.3f}." for what, row in (("Best", best), ("Cheapest", cheapest))
    ]
    told = {"greedy": "greedy selection over all checkpoints", "plain": "the plain mean of one run's best checkpoints"}
    verdicts.append(f"The recipe is {told[scores['taken']]}. Greedy selection, scored on others: {gain}.")
    choice = [
        [
            told[name],
            interval(scores[f"{name}_same_people"][monitor]),
            interval(scores[f"{name}_other_people"][monitor]),
        ]
        for name in told
    ]
    page = {
        "title": f"Ensemble for {TASKS[recipe['task']].title}",
        "about": about,
        "verdicts": verdicts,
        "rows": grid(
            ["", "views", "top-k", "vote", title, "behind the best", "images/s", ""],
            [
                [
                    f"{row['letter']} {row['label']}",
                    *(row["views"], row["top_k"], row["method"]),
                    Estimate(row[monitor], row["low"], row["high"]).told(3),
                    Estimate(row["behind"], row["behind_low"], row["behind_high"]).told(3) if row["behind"] else "",
                    f"{row['images_per_s']:.3g}",
                    row["mark"],
                ]
                for row in rows
            ],
            "Out of fold, with 95 % intervals over people. The cheapest makes the fewest passes among those that are "
            "not told apart from the best.",
        ),
        "runs": grid(["", "folder"], [[letter, run] for run, letter in letters.items()]),
        "choice": grid(
            ["", "scored on the same people", "scored on others"],
            choice,
            "On others: chosen on nine tenths of the people and scored on the last one, ten times.",
        ),
        "members": grid(
            ["checkpoint", "fold", "epoch", "score", "weight"],
            [
                [each["file"], each["fold"], each["epoch"], f"{each['score']:.4f}", f"{each['weight']:.3f}"]
                for each in recipe["members"]
            ],
            f"{recipe['mean']} mean of {recipe['tta']} views; temperature {recipe['temperature']:.3g}; offsets of the "
            f"classes: {'none' if recipe['offsets'] is None else some(recipe['offsets'], len(recipe['offsets']))}.",
        ),
        "figures": drawn.figures,
    }
    render("ensemble.html", path, page)


def _way(row: Mapping[str, Any]) -> str:
    how = f"top {row['top_k']}, {row['views']} views, {row['method']}"
    return f"{row['letter']} {row['label']}, {how}, {row['images_per_s']:.3g} images/s"
