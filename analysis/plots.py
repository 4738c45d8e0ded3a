"""Draw the figures of reports with matplotlib."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from analysis.error_analysis import Predictions, confusion
from analysis.fonts import installed
from analysis.intervals import Estimate
from data.faces import AGE_BOUNDS
from data.tasks import Task, score_title

WIDTH, DPI = 7.2, 110  # inches, and pixels per inch
LETTER = 0.075  # inches of a character of a label; those of East Asia have twice the width
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
PAPER = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}  # behind text on lines
BLUE, RED, GREY = "#2563a8", "#c2410c", "#6b7280"


def png(figure: Figure) -> bytes:
    """Return a figure as PNG with 64 colours, a third of the size of full colour."""
    canvas = FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_fontfamily(installed())
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # one for each character of a name, at each drawing
        canvas.draw()  # faster than savefig, which draws twice and compresses what is decoded again here
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    small = io.BytesIO()
    picture.quantize(64, dither=Image.Dither.NONE).save(small, "PNG")
    return small.getvalue()


def _figure(height: float, columns: int = 1, rows: int = 1, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height * rows), dpi=DPI, layout="constrained")
        return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _shorten(names: Sequence[str], most: int = 28) -> list[str]:
    """Return names without their middle if they exceed `most` characters; longer or numbered if they become equal."""
    for kept in range(most // 2, most):
        short = [name if len(name) <= 2 * kept else f"{name[:kept]}…{name[1 - kept :]}" for name in names]
        if len({*short}) == len({*names}):
            break
    else:
        numbered = (f"{k}: {name[: most // 2]}…{name[1 - most // 2 :]}" for k, name in enumerate(names))
        short = [name if len(name) <= most else each for name, each in zip(names, numbered, strict=True)]
    return [name.replace("$", r"\$") for name in short]  # a dollar sign would begin a formula


def curves(task: Task, log: pd.DataFrame, epochs: int | None) -> Figure:
    """Draw the losses and the score over the epochs in log.csv, a line for each fold.

    The axis has all `epochs` of the run, or with None, where --patience may end it earlier, those in the log.
    """
    figure, (losses, scores) = _figure(3.0, 2)
    monitor = task.monitor
    for k, (fold, rows) in enumerate(log.groupby("fold")):
        colour, marker = f"C{k % 10}", "o" if len(rows) < 20 else ""
        losses.plot(rows["epoch"], rows["train_loss"], color=colour, linestyle=":", marker=marker, markersize=3)
        losses.plot(rows["epoch"], rows["valid_loss"], color=colour, marker=marker, markersize=3)
        scores.plot(rows["epoch"], rows[monitor], color=colour, marker=marker, markersize=3, label=f"fold {fold}")
    least = log[["train_loss", "valid_loss"]].min().min()
    if log["valid_loss"].max() > 20 * max(least, 1e-9) and least > 0:
        losses.set_yscale("log")  # the first epochs from random weights can have huge losses
    losses.plot([], [], color=GREY, linestyle=":", label="training")
    losses.plot([], [], color=GREY, label="validation")
    losses.set_title("loss")
    scores.set_title(f"{score_title(monitor)} of validation")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, (epochs or log["epoch"].max()) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(axes.get_legend_handles_labels()[0]) <= 10:  # colours, more of which would repeat
            axes.legend(fontsize=8, frameon=False)
    return figure


def intervals(groups: Mapping[str, Mapping[str, Estimate]], title: str, *, zero: bool = False) -> Figure:
    """Draw values with their intervals by name, a colour for each group, and a line at `zero`."""
    names = list(next(iter(groups.values())))
    figure, (axes,) = _figure(0.9 + 0.23 * len(names) * max(1, 0.7 * len(groups)))
    for k, (group, values) in enumerate(groups.items()):
        rows = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * 0.7 / len(groups)
        middle = np.array([values[name].value for name in names])
        ends = np.array([[values[name].low, values[name].high] for name in names]).T
        colour = f"C{k}" if len(groups) > 1 else BLUE
        axes.errorbar(middle, rows, xerr=np.abs(ends - middle), fmt="o", color=colour, markersize=4, label=group)
    if zero:
        axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(names)), _shorten(names, 60))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title(title)
    if len(groups) > 1:
        axes.legend(fontsize=8, frameon=False)
    return figure


def confusions(parts: Mapping[str, Predictions]) -> Figure:
    """Draw confusion matrices by title: counts, shaded by their share of the row. They are stacked if they are wide."""
    names = [_shorten(each.classes) for each in parts.values()]
    most = max(map(len, names))
    longest = LETTER * max(sum(1 + (letter > "\u2fff") for letter in name) for each in names for name in each)
    small = most > 6
    side = 0.2 * min(most, 40) if small else max(0.42 * most, 1.3)  # least inches in which the numbers do not overlap
    stacked = len(parts) * (side + longest + 0.3) > WIDTH
    room = WIDTH / (1 if stacked else len(parts)) - longest - 0.4
    turned = small or longest > min(room, max(side, 2.0)) / most
    height = max(6.6 if small else 2.7 + turned * longest, side + turned * longest + 0.7)
    shape = (1, len(parts)) if stacked else (len(parts), 1)
    figure, every = _figure(height, *shape, max(WIDTH, side + longest + 0.7))
    if not small:
        figure.set_layout_engine("compressed")  # made for square matrices
    for axes, (title, each), classes in zip(every, parts.items(), names, strict=True):
        counts = confusion(each)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.grid(False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto" if small else "equal")
        for row, column in np.argwhere(counts):
            text = f"{counts[row, column]}" if small else f"{counts[row, column]}\n{shares[row, column]:.0%}"
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7 if small else 8)
        axes.set_xticks(range(len(classes)), classes, rotation=90 if turned else 0)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_title(title)
    every[0].set_ylabel("true")
    every[-1 if stacked else len(every) // 2].set_xlabel("predicted")
    return figure


def attribute_costs(table: pd.DataFrame) -> Figure:
    """Draw what macro F1 would be if an attribute were always right, from `error_analysis.attribute_costs`."""
    figure, (axes,) = _figure(1.7)
    titles, real = table["attribute"], table["macro_f1"].iloc[0]
    axes.barh(titles, table["if_right"], color="#bfd4ec")
    axes.barh(titles, table["macro_f1"], color=BLUE)
    for k, row in enumerate(table.itertuples()):
        axes.text(max(row.if_right, real) + 0.01, k, f"{row.if_right:.3f} ({row.cost:+.3f})", va="center")
    axes.set_xlim(0, 1.18)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.invert_yaxis()
    axes.set_title(f"macro F1 as it is ({real:.3f}), and if the attribute were always right")
    return figure


def score_against_cost(table: pd.DataFrame, monitor: str) -> Figure:
    """Draw scores with their intervals over images per second, a colour for each run; label the marked ones.

    `table` has the columns letter (of the run), mark, images_per_s, low, high and the score `monitor`.
    """
    figure, (axes,) = _figure(3.4)
    for k, (letter, rows) in enumerate(table.groupby("letter", sort=False)):
        spread = 1.015 ** rows.groupby("images_per_s").cumcount()  # separates points of equal cost
        reach = [rows[monitor] - rows["low"], rows["high"] - rows[monitor]]
        place, style = rows["images_per_s"] * spread, {"fmt": "o", "markersize": 4, "linewidth": 0.7}
        axes.errorbar(place, rows[monitor], yerr=reach, color=f"C{k % 10}", label=letter, **style)
        for at, row in zip(place, rows.itertuples(), strict=True):
            if row.mark:
                text = f"{row.mark.replace(' ', ', ')}: {describe_vote(row._asdict())}"
                right = at > table["images_per_s"].median()
                side = {"xytext": (6 if right else -6, 4), "ha": "right" if right else "left"}
                side |= {"textcoords": "offset points", "fontsize": 8, "bbox": PAPER}
                axes.annotate(text, (at, row.high), **side)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("images per second")
    axes.set_title(score_title(monitor))
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=8)
    return figure


def describe_vote(row: Mapping[str, Any]) -> str:
    """Return how a row of table.csv combines predictions, as in "top 2, 1 view, arithmetic"."""
    return f"top {row['top_k']}, {row['views']} view{'s' * (row['views'] > 1)}, {row['method']}"


def reliability(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw confidence against accuracy, from tables of `error_analysis.reliability` by title."""
    figure, every = _figure(2.6, len(tables))
    for axes, (title, table) in zip(every, tables.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
        axes.plot(table["confidence"], table["accuracy"], color=BLUE, marker="o", markersize=4)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_title(title)
        axes.set_xlabel("confidence")
    every[0].set_ylabel("share of correct predictions")
    return figure


def errors_by_age(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw the share of wrong predictions over the true age, from `error_analysis.errors_by_age`."""
    parts = [(titles[task], rows) for task, rows in table.groupby("task", sort=False)]
    figure, every = _figure(2.6, len(parts))
    for axes, (title, rows) in zip(every, parts, strict=True):
        axes.fill_between(rows["age"], rows["low"], rows["high"], color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(rows["age"], rows["wrong"], color=BLUE, marker="o", markersize=3)
        _age_axes(axes, title)
        axes.set_ylim(0, 1)
    every[0].set_ylabel("share of wrong predictions")
    return figure


def year_errors(table: pd.DataFrame) -> Figure:
    """Draw the error of predicted years over the true age, from `error_analysis.year_errors`."""
    figure, (axes,) = _figure(2.6)
    axes.axhline(0, color=GREY, linewidth=1)
    mean = "mean (above 0: predicted older)"
    axes.plot(table["age"], table["mean_error"], color=RED, marker="o", markersize=3, label=mean)
    axes.plot(table["age"], table["mae"], color=BLUE, marker="o", markersize=3, label="mean absolute")
    _age_axes(axes, "error in years")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _age_axes(axes: Axes, title: str) -> None:
    for bound in AGE_BOUNDS:
        axes.axvline(bound, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlabel("true age")
    axes.set_title(title)
