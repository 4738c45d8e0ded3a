"""Write the HTML page of an ensemble design."""

import string
from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import plots
from analysis.html import DIGITS, Figures, grid, render
from analysis.intervals import Estimate
from analysis.summary import estimate_text
from data.tasks import Task, score_title
from utils import shorten_list

TAKEN = {"greedy": "greedy selection over all checkpoints", "plain": "the plain mean of one run's best checkpoints"}


def write_ensemble(
    path: Path, task: Task, rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], *, gain: str, about: str
) -> None:
    """Write a page about the design of an ensemble, from the rows of its table.csv and its recipe.json.

    `gain` is that of greedy selection, and `about` is about the people and images that were scored, both in words.
    """
    monitor = task.monitor
    title = score_title(monitor)
    alphabet = string.ascii_uppercase
    names = chain(alphabet, map("".join, product(alphabet, repeat=2)))
    letters = dict(zip(dict.fromkeys(row["run"] for row in rows), names, strict=False))
    rows = [{**row, "letter": letters[row["run"]]} for row in rows]
    figures = Figures()
    figures.add("costs", plots.score_against_cost(pd.DataFrame(rows), monitor), f"{title} over images per second.")
    page = {
        "title": f"Ensemble for {task.title}",
        "about": about,
        "verdicts": _verdicts(rows, monitor, f"The recipe is {TAKEN[recipe['scores']['taken']]}.", gain),
        "rows": _ways(rows, monitor),
        "runs": grid(["run", "folder"], [[letter, run] for run, letter in letters.items()], text=True),
        "choice": _choice(recipe["scores"], monitor),
        "members": _members(recipe),
        "figures": figures.figures,
    }
    render("ensemble.html", path, page)


def _verdicts(rows: Sequence[Mapping[str, Any]], monitor: str, recipe: str, gain: str) -> list[str]:
    sentences = []
    for mark in ("best", "cheapest"):
        row = next(row for row in rows if mark in row["mark"])
        how = f"{plots.describe_vote(row)}, {row['images_per_s']:.3g} images/s"
        score = f"{score_title(monitor)} {row[monitor]:.3f}"
        sentences.append(f"{mark.capitalize()}: {row['letter']} {row['label']}, {how}, {score}.")
    return [*sentences, f"{recipe} Greedy selection against the plain mean, scored on others: {gain}."]


def _ways(rows: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, Any]:
    cells = [
        [
            *(row["letter"], row["views"], row["top_k"], row["method"]),
            Estimate(row[monitor], row["low"], row["high"]).text(DIGITS),
            Estimate(row["behind"], row["behind_low"], row["behind_high"]).text(DIGITS) if row["behind"] else "",
            *(f"{row['images_per_s']:.3g}", row["mark"].replace(" ", ", ")),
        ]
        for row in rows
    ]
    return grid(
        ["run", "views", "top-k", "vote", score_title(monitor), "behind the best", "images/s", ""],
        cells,
        "Out of fold. The cheapest is the fastest of those without a clear difference from the best, or without "
        "intervals of those with the best score.",
    )


def _choice(scores: Mapping[str, Any], monitor: str) -> dict[str, Any]:
    rows = [
        [title, *(estimate_text(scores[f"{name}_{people}_people"][monitor], DIGITS) for people in ("same", "other"))]
        for name, title in TAKEN.items()
    ]
    note = "Others: selected on nine tenths of the data and scored on the last tenth, ten times."
    return grid(["", "scored on the same", "scored on others"], rows, note)


def _members(recipe: Mapping[str, Any]) -> dict[str, Any]:
    offsets, views = recipe["offsets"], f"{recipe['tta']} view{'s' * (recipe['tta'] > 1)}"
    shown = "none" if offsets is None else shorten_list(offsets, len(offsets))
    return grid(
        ["checkpoint", "fold", "epoch", "score", "weight"],
        [
            [each["file"], each["fold"], each["epoch"], f"{each['score']:.4f}", f"{each['weight']:.3f}"]
            for each in recipe["members"]
        ],
        f"{recipe['mean'].capitalize()} mean of {views}; temperature {recipe['temperature']:.3g}; offsets of the "
        f"classes: {shown}.",
    )
