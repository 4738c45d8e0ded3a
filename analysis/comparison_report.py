"""Write the HTML page of a comparison."""

from __future__ import annotations

from pathlib import Path

from analysis import plots as figures
from analysis.comparison import Compared, verdict
from analysis.error_analysis import answers_of, attribute_costs, confusion
from analysis.html import Drawn, grid, render
from data.tasks import ATTRIBUTES, SCORE_TITLES, TASKS
from storage.run_folder import labels_and_predictions


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
        drawn.add(f"curves {letter}", figures.curves(config.task, run.read_log(config.task), config.epochs), "Curves.")
        answers = answers_of(config.task, *labels_and_predictions(compared.tables[letter], config.task))
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
            [[row, *(each[name].text(3) for name in names)] for row, each in (found | titles).items()],
            "In brackets: 95 % intervals over people, who are the same in all runs: differences are known better than "
            "scores.",
        ),
        "classes": grid(
            ["F1 of class", *found, *titles],
            [[name, *(each[name].text(3) for each in (found | titles).values())] for name in record.classes],
        ),
        "curves": [(letter, drawn.figures[f"curves {letter}"]) for letter in found],
        "confusions": [(letter, drawn.figures[f"confusion {letter}"]) for letter in found],
        "costs": grid(["macro F1 if it were always right", *ATTRIBUTES.values()], costs),
        "figures": drawn.figures,
    }
    render("comparison.html", path, page)
