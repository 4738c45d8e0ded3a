"""Write the HTML page of an ensemble design."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import plots as figures
from analysis.html import Drawn, grid, interval, render
from analysis.intervals import Estimate
from data.tasks import SCORE_TITLES, TASKS
from utils import shorten_list

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
                    Estimate(row[monitor], row["low"], row["high"]).text(3),
                    Estimate(row["behind"], row["behind_low"], row["behind_high"]).text(3) if row["behind"] else "",
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
            f"classes: {'none' if recipe['offsets'] is None else shorten_list(recipe['offsets'], len(recipe['offsets']))}.",
        ),
        "figures": drawn.figures,
    }
    render("ensemble.html", path, page)


def _way(row: Mapping[str, Any]) -> str:
    how = f"top {row['top_k']}, {row['views']} views, {row['method']}"
    return f"{row['letter']} {row['label']}, {how}, {row['images_per_s']:.3g} images/s"
