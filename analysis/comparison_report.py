"""Write the HTML page of a comparison."""

from pathlib import Path

from analysis import plots
from analysis.comparison import Comparison
from analysis.error_analysis import attribute_costs, split_predictions
from analysis.html import DIGITS, Figures, grid, render
from data.tasks import score_title
from storage.run_folder import labels_and_predictions

NOTE = "Intervals of differences are paired, since all runs have the same {}."


def write_comparison(compared: Comparison, path: Path) -> None:
    """Write a page with several runs side by side.

    Raises:
        UserError: files of a run are damaged.
    """
    task, letters, columns = compared.task, list(compared.runs), compared.columns
    figures = Figures()
    page = {
        "title": f"{len(letters)} runs on {task.title}",
        "about": f"{compared.about()}.",
        "verdicts": [sentence for sentence, _ in compared.verdicts()],
        "runs": grid(["run", "folder"], [[letter, run.path] for letter, run in compared.runs.items()], text=True),
        "changed": grid(["option", *letters], [[name, *each] for name, each in compared.changed().items()], text=True),
        "scores": grid(*compared.score_rows(DIGITS), f"{compared.notes()} {NOTE.format(compared.task.noun)}"),
        "classes": grid(
            ["F1 of class", *columns],
            [[name, *(each[name].text(DIGITS) for each in columns.values())] for name in task.classes],
        ),
        "costs": grid(
            ["macro F1 if it were always right", *(part.title for part in task.parts)], _draw(compared, figures)
        ),
        "curves": [(letter, figures.figures[f"curves {letter}"]) for letter in letters],
        "confusions": [(letter, figures.figures[f"confusion {letter}"]) for letter in letters],
        "figures": figures.figures,
    }
    render("comparison.html", path, page)


def _draw(compared: Comparison, figures: Figures) -> list[list[str]]:
    """Add the figures of a comparison, and return the rows of its table of attribute costs."""
    task = compared.task
    shown = {
        f"{b} - {a}": {score_title(name): each[name] for name in task.shown}
        for (a, b), each in compared.differences.items()
    }
    figures.add("differences", plots.intervals(shown, "differences", zero=True), "Differences of the scores.")
    classes = {letter: {name: each[name] for name in task.classes} for letter, each in compared.estimates.items()}
    figures.add("classes", plots.intervals(classes, "F1 of each class"), "F1 of each class in each run.")
    costs = []
    for letter, run in compared.runs.items():
        config = compared.configs[letter]
        epochs = None if config.patience else config.epochs
        own = config.record  # whose metric may be another
        figures.add(f"curves {letter}", plots.curves(own, run.read_log(own), epochs), "Curves.")
        parts = split_predictions(task, *labels_and_predictions(compared.tables[letter], task))
        whole = next(iter(parts.values()))
        wide = len(whole.classes) > 6
        figures.add(f"confusion {letter}", plots.confusions({"": whole}), "Confusion.", wide=wide)
        if task.parts:
            each = attribute_costs(whole).itertuples()
            costs.append([letter, *(f"{row.if_right:.3f} (+{row.cost:.3f})" for row in each)])
    return costs
