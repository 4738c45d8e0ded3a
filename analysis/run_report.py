"""Write the report of a run: one self-contained HTML page about its scores and its errors.

The page is made from the run's files, and from the images if they are still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    confusion,
    errors_by_age,
    largest_errors,
    reliability,
    split_predictions,
    year_errors,
)
from analysis.html import DIGITS, Figures, grid, render, thumbnail
from analysis.intervals import BEST, CORRECTED, NOT_CORRECTED
from analysis.label_errors import find_suspects, suspect_name
from analysis.summary import estimate_text, fold_rows, read_estimate, score_kind, score_rows
from cli.choices import MODELS
from cli.options import default_text, flag, options
from config import TrainConfig
from data.tables import read_training_table
from data.tasks import ATTRIBUTES, SCORE_TITLES, TASKS
from storage.run_folder import RunFolder, labels_and_predictions
from utils import UserError, make_folder, remove_leftovers, shorten_list

SHOWN, SUSPECTS = 24, 8  # mistakes, and people and images with suspected labels


def write_report(run: RunFolder, image_root: str | None = None, *, suspect_share: float) -> Path:
    """Write the report of a run with a finished fold, and its figures to `report/`; return its path.

    Args:
        run: the run.
        image_root: folder of the validated images; None for where they were in training.
        suspect_share: largest number of suspected label errors, as a share of the people.

    Raises:
        UserError: no fold is finished, or files of the run are damaged.
    """
    config = run.read_config()
    oof, summary = run.read_oof(config.task), run.read_summary()
    labels, predicted = labels_and_predictions(oof, config.task)
    parts = split_predictions(config.task, labels, predicted)
    root = Path(image_root or config.validated_root)
    figures = Figures(make_folder(run.path / "report"))
    remove_leftovers(figures.folder)
    log = run.read_log(config.task)
    figures.add("curves", plots.curves(config.task, log, config.epochs), "Loss and score of every epoch of every fold.")
    ages, note = _ages(root, config.corrections, oof["ImageID"])
    page = _page(config, summary, oof, parts, figures) | {
        "people": _people(run, oof),
        "suspects": None if TASKS[config.task].regression else _suspects(config, oof, parts, root, suspect_share),
        "mistakes": _mistakes(parts, labels, predicted, oof, root),
        "verdicts": [*_unfinished(run), *([note] if note else []), _verdict(config, summary)],
    }
    _draw_ages(config.task, parts, ages, labels, predicted, oof["person"].to_numpy(), figures)
    page["figures"] = dict.fromkeys(("attributes", "costs", "reliability", "ages", "years")) | figures.figures
    page["sections"] = _sections(page)
    render("report.html", run.report, page)
    return run.report


def _page(
    config: TrainConfig,
    summary: Mapping[str, Any],
    oof: pd.DataFrame,
    parts: Mapping[str, Predictions],
    figures: Figures,
) -> dict[str, Any]:
    """Return what the template needs of the scores, and add their figures."""
    whole = next(iter(parts.values()))
    wide = len(whole.classes) > 6
    figures.add("confusion", plots.confusion(confusion(whole), whole.classes), "Confusion matrix.", wide=wide)
    return {
        "title": f"{config.model_type} on {TASKS[config.task].title}",
        "about": _about(config, summary),
        "scores": _scores(config, summary, whole),
        "folds": grid(*fold_rows(summary)),
        "training": "Dotted: training, with augmentation. Solid: validation.",
        "classes": _classes(summary, whole, figures),
        **_attributes(parts, figures),
        **_calibration(parts, figures),
        "options": _options(config),
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        "years": YEARS,
    }


def _unfinished(run: RunFolder) -> list[str]:
    unfinished = run.unfinished()
    if not unfinished:
        return []
    return [f"Training is not complete: fold {shorten_list(unfinished)}. This page is about the finished folds."]


def _draw_ages(
    task: str,
    parts: Mapping[str, Predictions],
    ages: np.ndarray | None,
    labels: np.ndarray,
    predicted: np.ndarray,
    people: np.ndarray,
    figures: Figures,
) -> None:
    if ages is not None:
        titles = {task: "any attribute", **ATTRIBUTES} if task == "main" else ATTRIBUTES
        drawn = plots.errors_by_age(errors_by_age(parts, ages, people), titles)
        figures.add("ages", drawn, "Share of wrong predictions over the true age.")
    if TASKS[task].regression:
        drawn = plots.year_errors(year_errors(labels, predicted[:, 0], people))
        figures.add("years", drawn, "Error of the predicted years over the true age.")


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    figures = page["figures"]
    parts = (
        ("scores", "Scores", True),
        ("training", "Training", True),
        ("classes", "Classes", True),
        ("confusion", "Confusion", True),
        ("costs", "Attributes", figures["costs"]),
        ("calibration", "Confidence", figures["reliability"]),
        ("age", "Age", figures["ages"] or figures["years"]),
        ("mistakes", "Mistakes", True),
        ("labels", "Labels", page["suspects"]),
        ("options", "Options", True),
    )
    return [(place, name) for place, name, there in parts if there]


def _about(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    oof = summary["oof"]
    minutes = summary["seconds"] / 60
    took = f"{minutes:.0f} minutes" if minutes >= 1 else f"{summary['seconds']:.0f} seconds"
    return (
        f"{config.backbone}, {config.image_size} px, transform {config.transform_type}; {summary['folds_finished']} of "
        f"{summary['folds_planned']} folds of {config.epochs} epochs, trained in {took}; validated on {oof['people']} "
        f"people, {oof['images']} images."
    )


def _verdict(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    monitor = TASKS[config.task].monitor
    known = summary["estimates"]
    best = known.get(CORRECTED, known[BEST])[monitor]
    how = "corrected for the choice of epochs" if CORRECTED in known else "not corrected for the choice of epochs"
    kind = score_kind(config.cv, config.valid_root)
    return f"The {kind} {SCORE_TITLES[monitor]} is {estimate_text(best, DIGITS)}, {how}."


def _scores(config: TrainConfig, summary: Mapping[str, Any], whole: Predictions) -> dict[str, Any]:
    note = (
        "In brackets: 95 % intervals, by bootstrap over people. The best epoch of each fold was chosen on the people "
        'it is scored on, so its score is too good; "corrected" removes this bias. '
    )
    if CORRECTED not in summary["estimates"]:
        note += f"{NOT_CORRECTED} "
    if not TASKS[config.task].regression:
        counts = np.bincount(whole.labels, minlength=len(whole.classes))
        constant = Predictions(whole.task, whole.labels, np.full(len(whole.labels), counts.argmax()))
        note += (
            f"Always predicting {whole.classes[counts.argmax()]} would score a macro F1 of "
            f"{class_scores(constant)['f1'].mean():.3f} and an accuracy of {counts.max() / counts.sum():.3f}."
        )
    return grid(*score_rows(summary, DIGITS), note)


def _classes(summary: Mapping[str, Any], whole: Predictions, figures: Figures) -> dict[str, Any]:
    known = summary["estimates"][BEST]["f1"]
    scores = class_scores(whole)
    rows = [
        [
            *(row["class"], row["count"], estimate_text(known[row["class"]], DIGITS)),
            *(f"{row[name]:.{DIGITS}f}" for name in ("precision", "recall")),
        ]
        for row in scores.to_dict("records")
    ]
    there = {
        f"{row['class']} ({row['count']})": read_estimate(known[row["class"]])
        for row in scores.to_dict("records")
        if row["count"]
    }
    figures.add("classes", plots.intervals({"": there}, "F1 of each class (images) and its interval"), "F1 by class.")
    return grid(
        ["class", "images", "F1", "precision", "recall"],
        rows,
        "Of the best epochs, as everything below. A class that is always right or always wrong has no interval.",
    )


def _attributes(parts: Mapping[str, Predictions], figures: Figures) -> dict[str, Any]:
    if "main" not in parts:
        return {"costs": ""}
    matrices = {title: (confusion(parts[name]), parts[name].classes) for name, title in ATTRIBUTES.items()}
    alt = "Confusion matrices of mask, gender and age group."
    figures.add("attributes", plots.confusions(matrices), alt, wide=True)
    costs = attribute_costs(parts["main"])
    figures.add("costs", plots.attribute_costs(costs, list(ATTRIBUTES.values())), "Cost of each attribute.")
    most = costs.loc[costs["cost"].idxmax()]
    return {
        "costs": f"If the {ATTRIBUTES[most['attribute']]} were always right, macro F1 would be {most['if_right']:.3f} "
        f"instead of {most['macro_f1']:.3f}, the largest gain of the three."
    }


def _calibration(parts: Mapping[str, Predictions], figures: Figures) -> dict[str, Any]:
    known = {name: each for name, each in parts.items() if each.probabilities is not None}
    if not known:
        return {"calibration": ""}
    tables = {name: reliability(each) for name, each in known.items()}
    titles = {"main": "combined", **ATTRIBUTES}
    shown = plots.reliability({titles[name]: each for name, each in tables.items()})
    figures.add("reliability", shown, "Confidence against accuracy.")
    first = next(iter(known.values()))
    confidence, accuracy = 100 * first.probabilities.max(axis=1).mean(), 100 * (1 - first.wrong.mean())
    kind = "is well calibrated on average"
    if abs(confidence - accuracy) > 2:
        kind = "is overconfident" if confidence > accuracy else "is underconfident"
    errors = ", ".join(f"{titles[name]} {calibration_error(each):.3f}" for name, each in tables.items())
    text = f"The mean confidence is {confidence:.0f} % and the accuracy {accuracy:.0f} %: the model {kind}."
    return {"calibration": f"{text} Expected calibration error: {errors}."}


def _ages(root: Path, corrections: str | None, images: Sequence[str]) -> tuple[np.ndarray | None, str]:
    """Return the true age on each image, or None and the reason why it is unknown."""
    try:
        people, _ = read_training_table(root, corrections)
    except UserError as error:
        return None, f"There is no section on age without the images and their labels ({error})"
    ages = dict(zip(people["image"], people["age"], strict=True))
    if not all(image in ages for image in images):
        return None, f"There is no section on age: {root} lacks some of the images."
    return np.array([ages[image] for image in images]), ""


def _mistakes(
    parts: Mapping[str, Predictions], labels: np.ndarray, predicted: np.ndarray, oof: pd.DataFrame, root: Path
) -> dict[str, Any]:
    whole = next(iter(parts.values()))
    if whole.probabilities is None:
        found = largest_errors(labels, predicted[:, 0], oof["ImageID"], oof["person"])
        rows = [
            (row, f"{row['label']:.0f}", f"{row['pred']:.1f}", f"error {row['error']:.1f} years")
            for row in found.head(SHOWN).to_dict("records")
        ]
        title, note = "Largest errors", "The images with the largest errors, one per person."
    else:
        found = confident_mistakes(whole, oof["ImageID"], oof["person"])
        rows = [
            (
                row,
                whole.classes[row["label"]],
                whole.classes[row["pred"]],
                f"confidence {row['confidence']:.2f}; images with this mistake: {row['images']}",
            )
            for row in found.head(SHOWN).to_dict("records")
        ]
        title = "Most confident mistakes"
        note = f"One per person and mistake, {len(rows)} of {len(found)}. Is it the model, the image, or the label?"
    shown = [
        {
            "image": row["ImageID"],
            "label": label,
            "pred": pred,
            "more": more,
            "source": thumbnail(root / row["ImageID"]),
        }
        for row, label, pred, more in rows
    ]
    if shown and not any(each["source"] for each in shown):
        note += f" The images are not in {root} any more."
    return {"title": title, "note": note if shown else "There are none.", "rows": shown}


def _suspects(
    config: TrainConfig, oof: pd.DataFrame, parts: Mapping[str, Predictions], root: Path, share: float
) -> dict[str, Any] | None:
    found = find_suspects(config, oof, parts, root, share=share)
    if not len(found.rows):
        return None
    rows = [
        {
            "name": suspect_name(row),
            "labelled": row["labelled"],
            "predicted": row["predicted"],
            "suspicion": f"{row['suspicion']:.2f}",
            "pictures": [(thumbnail(path), path.stem == row["file"]) for path in found.files.get(row["id"], ())],
        }
        for part in found.first(SUSPECTS)
        for row in part.to_dict("records")
    ]
    note = "The model may be wrong instead of the label. python -m tools find_label_errors lists all of them."
    return {"note": note, "rows": rows}


def _options(config: TrainConfig) -> dict[str, Any]:
    every = [(f, getattr(config, f.name)) for f in options(TrainConfig)]
    hidden = ("resume", "overwrite", "save_path")
    default = {f.name: f.default for f, _ in every}
    default |= {"backbone": MODELS[config.model_type].backbone, "loss_type": TASKS[config.task].losses[0]}
    changed = [
        f"{flag(f.name)} {value}" if not isinstance(value, bool) else flag(f.name if value else f"no_{f.name}")
        for f, value in every
        if value != default[f.name] and f.name not in hidden
    ]
    rows = [(flag(f.name), default_text(f) if value is None else value) for f, value in every if f.name not in hidden]
    return {
        "given": f"Changed from the defaults: {', '.join(changed)}." if changed else "All at their defaults.",
        "rows": rows,
    }


def _people(run: RunFolder, oof: pd.DataFrame) -> dict[str, Any]:
    split = run.read_split()
    images = oof.groupby("fold").size()
    rows = [
        [f"fold {fold['fold']}", len(fold["train"]), len(fold["valid"]), images.get(fold["fold"], "not yet")]
        for fold in split["folds"]
    ]
    return grid(["", "people trained on", "people validated on", "images validated on"], rows)
