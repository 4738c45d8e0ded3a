"""Write the report of a run: one self-contained HTML page about its scores and its errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import plots
from analysis.error_analysis import (
    YEARS,
    Predictions,
    attribute_costs,
    calibration_error,
    class_scores,
    confident_mistakes,
    errors_by_age,
    largest_errors,
    reliability,
    split_predictions,
    year_errors,
)
from analysis.html import DIGITS, Figures, grid, render, thumbnail
from analysis.intervals import BEST, CORRECTED, HOW, describe_run
from analysis.label_errors import find_suspects
from analysis.metrics import absent_classes, describe_classes
from analysis.summary import estimate_text, fold_rows, read_estimate, score_kind, score_rows
from cli.checks import OF_DATA, OF_FACES
from cli.choices import MODELS
from cli.options import default_text, flag, options
from config import TrainConfig
from data.face_layout import read_training_table
from data.tasks import score_title
from storage.run_folder import RunFolder, labels_and_predictions
from utils import UserError, make_folder, remove_leftovers, shorten_list

SHOWN, SUSPECTS = 24, 8  # mistakes, and groups and images with suspected labels
ANCHORS = ("scores", "training", "classes", "confusion", "costs", "calibration", "age", "mistakes", "labels", "options")
ANCHOR_TITLES = {"costs": "Attributes", "calibration": "Confidence"}  # where the anchor itself is not the title


def write_report(run: RunFolder, image_root: str | None = None, *, suspect_share: float) -> Path:
    """Write the report of a run with a finished fold, and its figures to `report/`; return its path.

    Args:
        image_root: folder of the validated images; None for where they were in training.
        suspect_share: largest number of suspected label errors, as a share of the groups.

    Raises:
        UserError: no fold is finished, or files of the run are damaged.
    """
    config = run.read_config()
    task = config.record
    oof, summary = run.read_oof(task), run.read_summary()
    parts = split_predictions(task, *labels_and_predictions(oof, task))
    whole = next(iter(parts.values()))
    root = Path(image_root or config.validated_root)
    figures = Figures(make_folder(run.path / "report"))
    remove_leftovers(figures.folder)
    log = run.read_log(task)
    epochs = None if config.patience else config.epochs
    figures.add("curves", plots.curves(task, log, epochs), "Loss and score of every epoch of every fold.")
    figures.add("confusion", plots.confusions({"": whole}), "Confusion matrix.", wide=len(whole.classes) > 6)
    verdicts = [*_draw_ages(config, parts, oof, root, figures), _verdict(config, summary)]
    if unfinished := shorten_list(run.unfinished()):
        verdicts.insert(0, f"Training is not complete: fold {unfinished}. This page is about the finished folds.")
    page = {
        "title": f"{config.model_type} on {task.title}",
        "about": _about(config, summary),
        "verdicts": verdicts,
        "scores": _scores(config, summary, whole, oof),
        "folds": grid(*fold_rows(task, summary)),
        "classes": _classes(summary, whole, figures),
        "costs": draw_costs(parts, figures),
        "calibration": _draw_calibration(parts, figures),
        "years": YEARS,
        "mistakes": _mistakes(whole, oof, root),
        "suspects": None if task.regression else _suspects(config, oof, root, suspect_share),
        "options": _options(config),
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        "people": _people(run, oof, task.noun),
    }
    drawn = dict.fromkeys(("attributes", "costs", "reliability", "ages", "years")) | figures.figures
    known = {"costs": drawn["costs"], "calibration": drawn["reliability"], "age": drawn["ages"] or drawn["years"]}
    known |= {"labels": page["suspects"]}
    sections = [(name, ANCHOR_TITLES.get(name, name.capitalize())) for name in ANCHORS if known.get(name, True)]
    render("report.html", run.report, page | {"figures": drawn, "sections": sections})
    return run.report


def _about(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    oof = summary["oof"]
    minutes = summary["seconds"] / 60
    took = f"{minutes:.0f} minutes" if minutes >= 1 else f"{summary['seconds']:.0f} seconds"
    noun = config.record.noun
    epochs = f"{'at most ' if config.patience else ''}{config.epochs} epochs"
    return (
        f"{config.backbone}, {config.image_size} px, transform {config.transform_type}; {summary['folds_finished']} of "
        f"{summary['folds_planned']} folds of {epochs}, trained in {took}; validated on {oof['people']} {noun}, "
        f"{oof['images']} images."
    )


def _verdict(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    monitor, known = config.record.monitor, summary["estimates"]
    what = next(name for name in HOW if name in known)
    kind = score_kind(config.cv, config.valid_root)
    return f"The {kind} {score_title(monitor)} is {estimate_text(known[what][monitor], DIGITS)}, {HOW[what]}."


def _scores(config: TrainConfig, summary: Mapping[str, Any], whole: Predictions, oof: pd.DataFrame) -> dict[str, Any]:
    task, absent = config.record, absent_classes(config.record, oof["label"].to_numpy())[0]
    note = f"{describe_run(task, summary['oof']['people'], summary['estimates'])} "
    note += f"{describe_classes(task, absent)} "
    if not task.regression:
        counts = np.bincount(whole.labels, minlength=len(whole.classes))
        constant = Predictions(whole.task, whole.labels, np.full(len(whole.labels), counts.argmax()))
        note += (
            f"Always predicting {whole.classes[counts.argmax()]} would score a macro F1 of "
            f"{class_scores(constant)['f1'].mean():.3f} and an accuracy of {counts.max() / counts.sum():.3f}."
        )
    columns, rows = score_rows(task.scores, summary, DIGITS)
    found = [["", *(title for title, *_ in rows)], *zip(columns[1:], *(cells for _, *cells in rows), strict=True)]
    return grid(found[0], [[*row] for row in found[1:] if any(row[1:])], note)


def _classes(summary: Mapping[str, Any], whole: Predictions, figures: Figures) -> dict[str, Any]:
    rows, shown = [], {}
    for row in class_scores(whole).to_dict("records"):
        name, f1 = row["class"], summary["estimates"][BEST]["f1"][row["class"]]
        others = (f"{row[score]:.{DIGITS}f}" for score in ("precision", "recall"))
        rows.append([name, row["count"], estimate_text(f1, DIGITS), *others])
        if row["count"]:
            shown[f"{name} ({row['count']})"] = read_estimate(f1)
    figures.add("classes", plots.intervals({"": shown}, "F1 of each class (images) and its interval"), "F1 by class.")
    note = "Of the best epochs, as everything below."
    if CORRECTED in summary["estimates"]:
        note += f" A class of one {whole.task.one} has no interval."
    return grid(["class", "images", "F1", "precision", "recall"], rows, note)


def draw_costs(parts: Mapping[str, Predictions], figures: Figures) -> str:
    """Draw the errors of the attributes in `parts`, if any; return a sentence on the one that costs the most."""
    whole, *attributes = parts.values()
    if not whole.task.parts:
        return ""
    shown = plots.confusions({each.task.title: each for each in attributes})
    figures.add("attributes", shown, f"Confusion matrices of {whole.task.title}.", wide=True)
    costs = attribute_costs(whole)
    figures.add("costs", plots.attribute_costs(costs), "Cost of each attribute.")
    most = costs.loc[costs["cost"].idxmax()]
    if most["cost"] <= 0:
        return f"No attribute alone, if it were always right, would raise macro F1 from {most['macro_f1']:.3f}."
    return (
        f"If the {most['attribute']} were always right, macro F1 would be {most['if_right']:.3f} instead "
        f"of {most['macro_f1']:.3f}, the largest gain of all attributes."
    )


def _draw_calibration(parts: Mapping[str, Predictions], figures: Figures) -> str:
    known = {name: each for name, each in parts.items() if each.probabilities is not None}
    if not known:
        return ""
    tables = {"combined" if each.task.parts else each.task.title: reliability(each) for each in known.values()}
    figures.add("reliability", plots.reliability(tables), "Confidence against accuracy.")
    first = next(iter(known.values()))
    confidence, accuracy = 100 * first.probabilities.max(axis=1).mean(), 100 * (1 - first.wrong.mean())
    kind = "is well calibrated on average"
    if abs(confidence - accuracy) > 2:
        kind = "is overconfident" if confidence > accuracy else "is underconfident"
    errors = ", ".join(f"{title} {calibration_error(each):.3f}" for title, each in tables.items())
    return (
        f"The mean confidence is {confidence:.0f} % and the accuracy {accuracy:.0f} %: the model {kind}. "
        f"Expected calibration error: {errors}."
    )


def _draw_ages(
    config: TrainConfig, parts: Mapping[str, Predictions], oof: pd.DataFrame, root: Path, figures: Figures
) -> list[str]:
    """Draw errors over the true age; return a sentence if the ages are unknown."""
    if config.data:
        return []
    if config.record.regression:
        drawn = plots.year_errors(year_errors(oof))
        figures.add("years", drawn, "Error of the predicted years over the true age.")
    try:
        people, _ = read_training_table(root, config.corrections)
    except UserError as error:
        return [f"There is no section on age without the images and their labels ({error})"]
    ages = oof["ImageID"].map(dict(zip(people["image"], people["age"], strict=True)))
    if ages.isna().any():
        return [f"There is no section on age: {root} lacks some of the images."]
    titles = {name: "any attribute" if each.task.parts else each.task.title for name, each in parts.items()}
    drawn = plots.errors_by_age(errors_by_age(parts, ages.to_numpy(), oof["person"]), titles)
    figures.add("ages", drawn, "Share of wrong predictions over the true age.")
    return []


def _mistakes(whole: Predictions, oof: pd.DataFrame, root: Path) -> dict[str, Any]:
    one = whole.task.one
    if whole.probabilities is None:
        found = largest_errors(oof)
        title, note = "Largest errors", f"The images with the largest errors, one per {one}."
        texts = {"label": "{label:.0f}", "pred": "{pred:.1f}", "more": "error {error:.1f} years"}
        if not whole.task.coded:
            texts = {"label": "{label:.6g}", "pred": "{pred:.4g}", "more": "error {error:.3g}"}
    else:
        found, classes = confident_mistakes(whole, oof), dict(enumerate(whole.classes))
        found = found.assign(label=found["label"].map(classes), pred=found["pred"].map(classes))
        title, shown = "Most confident mistakes", min(SHOWN, len(found))
        note = f"One per {one} and mistake, {shown} of {len(found)}. Is it the model, the image, or the label?"
        more = "confidence {confidence:.2f}; images with this mistake: {images}"
        texts = {"label": "{label}", "pred": "{pred}", "more": more}
    rows = [
        {"image": row["ImageID"], "source": thumbnail(root / row["ImageID"])}
        | {name: text.format_map(row) for name, text in texts.items()}
        for row in found.head(SHOWN).to_dict("records")
    ]
    if rows and not any(row["source"] for row in rows):
        note += f" The images are not in {root} any more."
    return {"title": title, "note": note if rows else "There are none.", "rows": rows}


def _suspects(config: TrainConfig, oof: pd.DataFrame, root: Path, share: float) -> dict[str, Any] | None:
    found = find_suspects(config, oof, root, share=share)
    if not found.rows:
        return None
    rows = [
        {name: row[name] for name in ("name", "labelled", "predicted")}
        | {"suspicion": f"{row['suspicion']:.2f}"}
        | {"pictures": [(thumbnail(root / name), name == row["image"]) for name in found.shown(row)]}
        for row in found.first(SUSPECTS)
    ]
    note = "The model may be wrong instead of the label. python -m tools find_label_errors lists all of them."
    return {"note": note, "rows": rows}


def _options(config: TrainConfig) -> dict[str, Any]:
    hidden = ("resume", "overwrite", "save_path", *(OF_FACES if config.data else OF_DATA))
    values = ((f, getattr(config, f.name)) for f in options(TrainConfig) if f.name not in hidden)
    every = [(f, ",".join(map(str, value)) if isinstance(value, tuple) else value) for f, value in values]
    default = {"backbone": MODELS[config.model_type].backbone, "loss_type": config.record.losses[0]}
    changed = ", ".join(
        flag(f.name if value else f"no_{f.name}") if isinstance(value, bool) else f"{flag(f.name)} {value}"
        for f, value in every
        if value != default.get(f.name, f.default)
    )
    rows = [(flag(f.name), default_text(f) if value is None else value) for f, value in every]
    return {"given": f"Changed from the defaults: {changed}." if changed else "All at their defaults.", "rows": rows}


def _people(run: RunFolder, oof: pd.DataFrame, noun: str) -> dict[str, Any]:
    split = run.read_split()
    images = oof.groupby("fold").size()
    rows = [
        [f"fold {fold['fold']}", len(fold["train"]), len(fold["valid"]), images.get(fold["fold"], "not yet")]
        for fold in split["folds"]
    ]
    return grid(["", f"{noun} trained on", f"{noun} validated on", "images validated on"], rows)
