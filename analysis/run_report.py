"""The report of a run: one HTML page with everything in it, for who wants to see what a model does and where it fails.

It is made of the run's files alone, and of the photographs where they still are. Torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import plots as figures
from analysis.error_analysis import (
    YEARS,
    Answers,
    answers_of,
    attribute_costs,
    calibration_error,
    class_scores,
    confident_mistakes,
    confusion,
    errors_by_age,
    largest_errors,
    reliability,
    year_errors,
)
from analysis.html import Drawn, estimate, grid, interval, render, thumbnail
from analysis.intervals import BEST, CORRECTED, NOT_CORRECTED, TITLES
from analysis.label_errors import find_suspects, suspect_name
from analysis.summary import score_kind
from cli.options import default_text, flag, options
from config import LabelErrorConfig, TrainConfig
from data.tables import read_training_table
from data.tasks import ATTRIBUTES, SCORE_TITLES, TASKS
from storage.run_folder import RunFolder, labels_and_predictions
from utils import UserError, make_folder, remove_leftovers, shorten_list

SHOWN, SUSPECTS = 24, 8  # mistakes, and people and photographs whose labels are suspected


def write_report(run: RunFolder, photographs: str | None = None) -> Path:
    """Write the report of a run that has finished a fold, its figures beside it in `report/`, and return its path.

    Args:
        photographs: where they lie; None for where they lay in training.

    Raises:
        UserError: no fold is finished, or files of the run are damaged.
    """
    config = run.read_config()
    log, oof = run.read_log(config.task), run.read_oof(config.task)
    summary = run.read_summary()
    task = TASKS[config.task]
    labels, answered = labels_and_predictions(oof, config.task)
    answers = answers_of(config.task, labels, answered)
    whole = next(iter(answers.values()))
    images, people = oof["ImageID"].tolist(), oof["person"].tolist()
    root = Path(photographs or config.validated_root)
    drawn = Drawn(make_folder(run.path / "report"))
    remove_leftovers(drawn.folder)
    drawn.add("curves", figures.curves(config.task, log, config.epochs), "Loss and score of every epoch of every fold.")
    drawn.add(
        "confusion",
        figures.confusion(confusion(whole), whole.classes),
        "Confusion matrix.",
        wide=len(whole.classes) > 6,
    )
    page: dict[str, Any] = {
        "title": f"{config.model_type} on {task.title}",
        "about": _about(config, summary),
        "scores": _scores(config, summary, whole),
        "folds": _folds(config, summary, log),
        "training": "Dotted: training, which is augmented; solid: validation.",
        "classes": _classes(summary, whole, drawn),
        **_attributes(answers, drawn),
        **_calibration(answers, drawn),
        "options": _options(config),
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        "people": _people(run, oof),
        "years": YEARS,
        "suspects": None if task.regression else _suspects(config, oof, answers, root),
    }
    verdicts, unfinished = [], run.unfinished()
    if unfinished:
        verdicts.append(
            f"Not all is trained: fold {shorten_list(unfinished)}. What follows is about the folds that are finished."
        )
    ages, note = _ages(root, config.corrections, images)
    page["verdicts"] = [*verdicts, *([note] if note else []), _verdict(config, summary)]
    if ages is not None:
        by_age = errors_by_age(answers, ages, oof["person"].to_numpy())
        titles = {config.task: "any of it", **ATTRIBUTES} if config.task == "main" else ATTRIBUTES
        drawn.add("ages", figures.errors_by_age(by_age, titles), "Share of wrong answers over the true age.")
    if task.regression:
        drawn.add(
            "years",
            figures.year_errors(year_errors(labels, answered[:, 0], oof["person"].to_numpy())),
            "Error of the predicted years over the true age.",
        )
    page["mistakes"] = _mistakes(whole, labels, answered, images, people, root, regression=task.regression)
    page["figures"] = dict.fromkeys(("attributes", "costs", "reliability", "ages", "years")) | drawn.figures
    page["sections"] = _sections(page)
    render("report.html", run.report, page)
    return run.report


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    drawn = page["figures"]
    parts = (
        ("scores", "Scores", True),
        ("training", "Training", True),
        ("classes", "Classes", True),
        ("confusion", "Confusion", True),
        ("costs", "Attributes", drawn["costs"]),
        ("calibration", "Confidence", drawn["reliability"]),
        ("age", "Age", drawn["ages"] or drawn["years"]),
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
        f"people, {oof['images']} photographs."
    )


def _verdict(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    monitor = TASKS[config.task].monitor
    known = summary["estimates"]
    best = known.get(CORRECTED, known[BEST])[monitor]
    how = "corrected for the choice of epochs" if CORRECTED in known else "not corrected for the choice of epochs"
    return f"The {score_kind(config.cv, config.valid_root)} {SCORE_TITLES[monitor]} is {interval(best)}, {how}."


def _scores(config: TrainConfig, summary: Mapping[str, Any], whole: Answers) -> dict[str, Any]:
    names = TASKS[config.task].scores
    rows = [
        [title, *(interval(summary["estimates"][what][name]) for name in names)]
        for what, title in TITLES.items()
        if what in summary["estimates"]
    ]
    note = (
        "In brackets: 95 % intervals, by bootstrap over people. The best epoch of each fold was chosen on the people "
        "it is scored on, which flatters; corrected is without that. "
    )
    if CORRECTED not in summary["estimates"]:
        note += f"{NOT_CORRECTED} "
    if not TASKS[config.task].regression:
        counts = np.bincount(whole.labels, minlength=len(whole.classes))
        usual = Answers(whole.task, whole.labels, np.full(len(whole.labels), counts.argmax()))
        note += (
            f"Who always answered {whole.classes[counts.argmax()]} would have a macro F1 of "
            f"{class_scores(usual)['f1'].mean():.3f} and an accuracy of {counts.max() / counts.sum():.3f}."
        )
    return grid(["", *(SCORE_TITLES[name] for name in names)], rows, note)


def _folds(config: TrainConfig, summary: Mapping[str, Any], log: pd.DataFrame) -> dict[str, Any]:
    names = TASKS[config.task].scores
    rows = [
        [f"fold {fold['fold']}", *(f"{fold[name]:.4f}" for name in names), fold["best_epoch"], f"{fold['seconds']:.0f}"]
        for fold in summary["folds"]
    ]
    if len(rows) > 1:
        for title, values in (("mean", summary["mean"]), ("standard deviation", summary["std"])):
            rows.append([title, *(f"{values[name]:.4f}" for name in names), "", ""])
    return grid(["", *(SCORE_TITLES[name] for name in names), "best epoch", "seconds"], rows)


def _classes(summary: Mapping[str, Any], whole: Answers, drawn: Drawn) -> dict[str, Any]:
    known = summary["estimates"][BEST]["f1"]
    scores = class_scores(whole)
    rows = [
        [row["class"], row["count"], interval(known[row["class"]]), f"{row['precision']:.3f}", f"{row['recall']:.3f}"]
        for row in scores.to_dict("records")
    ]
    there = {
        f"{row['class']} ({row['count']})": estimate(known[row["class"]])
        for row in scores.to_dict("records")
        if row["count"]
    }
    drawn.add(
        "classes", figures.intervals({"": there}, "F1 of each class (photographs) and its interval"), "F1 by class."
    )
    return grid(
        ["class", "photographs", "F1", "precision", "recall"],
        rows,
        "Of the best epochs, as everything below. Where none or all of a class is right, there is no interval.",
    )


def _attributes(answers: Mapping[str, Answers], drawn: Drawn) -> dict[str, Any]:
    if "main" not in answers:
        return {"costs": ""}
    parts = {title: answers[name] for name, title in ATTRIBUTES.items()}
    matrices = {title: (confusion(each), each.classes) for title, each in parts.items()}
    drawn.add(
        "attributes", figures.confusions(matrices), "Confusion matrices of mask, gender and age group.", wide=True
    )
    costs = attribute_costs(answers["main"])
    drawn.add("costs", figures.attribute_costs(costs, list(ATTRIBUTES.values())), "What each attribute costs.")
    most = costs.loc[costs["cost"].idxmax()]
    return {
        "costs": f"Were {ATTRIBUTES[most['attribute']]} always right and the rest as it is, macro F1 would be "
        f"{most['if_right']:.3f} instead of {most['macro_f1']:.3f}: it costs the most."
    }


def _calibration(answers: Mapping[str, Answers], drawn: Drawn) -> dict[str, Any]:
    known = {name: each for name, each in answers.items() if each.probabilities is not None}
    if not known:
        return {"calibration": ""}
    tables = {name: reliability(each) for name, each in known.items()}
    titles = {"main": "all together", **ATTRIBUTES}
    drawn.add(
        "reliability",
        figures.reliability({titles[k]: each for k, each in tables.items()}),
        "Confidence against accuracy.",
    )
    first = next(iter(known.values()))
    sure, right = first.probabilities.max(axis=1).mean(), 1 - first.wrong.mean()
    kind = "is as sure as it should be"
    if abs(sure - right) > 0.02:
        kind = "is too sure of itself" if sure > right else "is more often right than it believes"
    errors = ", ".join(f"{titles[name]} {calibration_error(each):.3f}" for name, each in tables.items())
    return {
        "calibration": f"It says {sure:.0%} in the mean and is right {right:.0%} of the time: it {kind}. Expected "
        f"calibration error: {errors}."
    }


def _ages(root: Path, corrections: str | None, images: Sequence[str]) -> tuple[np.ndarray | None, str]:
    """The true age of the person on each photograph, or None and why it is not known."""
    try:
        people, _ = read_training_table(root, corrections)
    except UserError as error:
        return None, f"Without the photographs and their labels there is nothing about ages here ({error})"
    ages = dict(zip(people["image"], people["age"], strict=True))
    if not all(image in ages for image in images):
        return None, f"{root} does not hold all photographs any more, so there is nothing about ages here."
    return np.array([ages[image] for image in images]), ""


def _mistakes(
    whole: Answers,
    labels: np.ndarray,
    answered: np.ndarray,
    images: Sequence[str],
    people: Sequence[str],
    root: Path,
    *,
    regression: bool,
) -> dict[str, Any]:
    if regression:
        found = largest_errors(labels, answered[:, 0], images, people)
        rows = [
            (row, f"{row['label']:.0f}", f"{row['pred']:.1f}", f"{row['error']:.1f} years off")
            for row in found.head(SHOWN).to_dict("records")
        ]
        title, note = "Largest errors", "The photographs furthest off, one of each person."
    else:
        found = confident_mistakes(whole, images, people)
        rows = [
            (
                row,
                whole.classes[row["label"]],
                whole.classes[row["pred"]],
                f"confidence {row['confidence']:.2f}; so are {row['images']} of this person's photographs",
            )
            for row in found.head(SHOWN).to_dict("records")
        ]
        title = "Most confident mistakes"
        note = f"One of each person and mistake, {len(rows)} of {len(found)}: the model, the photograph, or the label?"
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
        note += f" The photographs are not in {root} any more."
    return {"title": title, "note": note if shown else "There are none.", "rows": shown}


def _suspects(
    config: TrainConfig, oof: pd.DataFrame, answers: Mapping[str, Answers], root: Path
) -> dict[str, Any] | None:
    found = find_suspects(config, oof, answers, root, share=LabelErrorConfig.share)
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
    note = "Suspects to be looked at, not truths: the model may be wrong as well. find_label_errors.py lists them all."
    return {"note": note, "rows": rows}


def _options(config: TrainConfig) -> dict[str, Any]:
    every = [(f, getattr(config, f.name)) for f in options(TrainConfig)]
    hidden = ("resume", "overwrite", "save_path")
    default = TrainConfig(task=config.task, model_type=config.model_type).as_dict()  # some depend on these two
    default |= {"task": TrainConfig.task, "model_type": TrainConfig.model_type}
    told = [
        f"{flag(f.name)} {value}" if not isinstance(value, bool) else flag(f.name if value else f"no_{f.name}")
        for f, value in every
        if value != default[f.name] and f.name not in hidden
    ]
    rows = [(flag(f.name), default_text(f) if value is None else value) for f, value in every if f.name not in hidden]
    return {"given": f"Other than by default: {', '.join(told)}." if told else "All as by default.", "rows": rows}


def _people(run: RunFolder, oof: pd.DataFrame) -> dict[str, Any]:
    split = run.read_split()
    images = oof.groupby("fold").size()
    rows = [
        [f"fold {fold['fold']}", len(fold["train"]), len(fold["valid"]), images.get(fold["fold"], "not yet")]
        for fold in split["folds"]
    ]
    return grid(["", "people trained on", "people validated on", "photographs validated on"], rows)
