"""Choose how to vote, which members take part and how to calibrate them, from out-of-fold predictions.

The epochs that were kept, and the soups, were chosen by the score on the same people. So all scores here are a little
too high, but they are so for all ensembles alike.
"""

import math
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.ensemble_report import write_ensemble
from analysis.intervals import Estimate, describe_difference, describe_intervals
from analysis.metrics import absent_classes, describe_classes, log_loss, tempered
from analysis.summary import as_plain
from data.tasks import Task, score_title
from inference import voting
from inference.oof_members import Candidate, OofRun, Validation, Voter, list_voters
from inference.recipe import RECIPE_FORMAT
from inference.selection import (
    MEANS,
    Library,
    Mix,
    Rows,
    Scorer,
    cross_select,
    fit_calibration,
    select_best,
    select_greedily,
)
from inference.soups import make_soups
from utils import file_digest, library_versions, remove_tree, write_json, write_text

RECIPE = "recipe.json"
TITLES = {"greedy": "greedy selection", "plain": "plain mean of a run"}
ALL = slice(None)


def design_ensemble(
    runs: Sequence[OofRun],
    validation: Validation,
    scorer: Scorer,
    folder: Path,
    *,
    top_k: int,
    soups: bool,
    calibrated: bool,
) -> None:
    """Choose an ensemble and write its recipe, the table of all votes and a page.

    Args:
        validation, scorer: predict the images that folds held out, and score predictions of them.
        top_k: the largest number of checkpoints per fold.
        soups: whether to try averaged weights.
        calibrated: whether to calibrate the probabilities.
    """
    task, monitor = scorer.task, scorer.task.monitor
    voters = list_voters(runs, task)
    about = _describe_data(scorer)
    rows = compare_votes(voters, scorer, top_k=top_k, views=validation.settings.views)
    print_votes(rows, monitor, about)
    if (folder / RECIPE).is_file():
        print(f"Replacing the earlier recipe in {folder}.")
        (folder / RECIPE).unlink()
    remove_tree(folder / "soups")  # after the recipe that names them
    write_text(folder / "table.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    best = max((row for row in rows if row["method"] in MEANS), key=lambda row: scorer.sign * row[monitor])
    mean, views = best["method"], best["views"]
    validation = replace(validation, settings=replace(validation.settings, views=views))
    candidates = [
        Candidate(voter, rank, voter.of_rank(rank), each)
        for voter in voters
        for rank, each in enumerate(voter.ranked(views))
    ]
    single = [voter for voter in voters if not voter.joint] if soups and top_k > 1 else []
    for number, voter in enumerate(single):
        candidates += make_soups(voter, validation, scorer, folder / "soups", f"run{number}")
    library = Library([each.answers for each in candidates], mean, years=scorer.task.regression)
    selection = select_members(candidates, library, scorer, top_k)
    temperature, offsets, scores = calibrate(library, selection, scorer) if calibrated else (1.0, None, {})
    taken = [(each, weight) for each, weight in zip(candidates, selection.weights, strict=True) if weight > 0]
    made = {"runs": [str(run.folder.path.resolve()) for run in runs], "top_k": top_k, "seed": scorer.seed}
    made |= {"people": scorer.count, "images": len(scorer.labels), "versions": library_versions()}
    recipe = {
        "format": RECIPE_FORMAT,
        "task": task.name,
        **({} if runs[0].config.labels is None else {"labels": runs[0].config.labels}),
        "tta": views,
        "mean": mean,
        "temperature": temperature,
        "offsets": offsets,
        "members": list_members(taken, folder, task),
        "scores": {**selection.scores, **scores},
        "made": made,
    }
    write_json(folder / RECIPE, recipe)
    write_ensemble(folder / "ensemble.html", task, rows, recipe, gain=describe_difference(selection.gain), about=about)
    print_recipe(folder, views, taken)


def _describe_data(scorer: Scorer) -> str:
    task, absent = scorer.task, absent_classes(scorer.task, scorer.labels)[0]
    return (
        f"{scorer.count} {task.noun}, {len(scorer.labels)} images, each predicted by folds that held it out. "
        f"{describe_intervals(scorer.count, task.noun)}{f' {describe_classes(task, absent)}' if absent else ''}"
    )


def print_recipe(folder: Path, views: int, taken: Sequence[tuple[Candidate, float]]) -> None:
    """Print how fast the checkpoints of the taken candidates predict, and how to use their recipe."""
    # Soups are as fast as the checkpoints of their run. The runs of a joint voter have different tasks.
    seconds = {
        member.path: run.seconds
        for each, _ in taken
        for run in each.voter.runs
        for member in each.members
        if member.info.record == run.task
    }
    print(
        f"\nThe recipe takes {len(seconds)} checkpoints x {views} view{'s' * (views > 1)}, about "
        f"{1 / (views * sum(seconds.values())):.3g} images/s on this machine. Predict with:\n"
        f"  python submit_ensemble.py --recipe {shlex.quote(str(folder / RECIPE))}\n"
        f"Report: {folder / 'ensemble.html'}"
    )


def compare_votes(voters: Sequence[Voter], scorer: Scorer, *, top_k: int, views: int) -> list[dict[str, Any]]:
    """Return the score and cost of each run with 1 to `top_k` members per fold, 1 to `views` views and each vote.

    They are the rows of table.csv. One is marked as the best, and the cheapest that a paired comparison cannot
    distinguish from it.
    """
    monitor = scorer.task.monitor
    rows, measured = [], []
    for voter in voters:
        names = (run.task.name if voter.joint else run.folder.name for run in voter.runs)  # without the folders
        label = " with ".join(names)
        networks = sum(len(run.folds) for run in voter.runs)  # of a rank
        seconds = sum(len(run.folds) * run.seconds for run in voter.runs)  # of the networks of a rank for a view
        for count in range(1, views + 1):
            ranked = voter.ranked(count)
            for k in range(1, top_k + 1):
                for method, answers in _vote(voter, ranked[:k], scorer).items():
                    measured.append(scorer.measure(answers))
                    value = measured[-1].value
                    row = {"run": voter.name, "views": count, "top_k": k, "method": method, monitor: value.value}
                    row |= {"low": value.low, "high": value.high, "passes": networks * k * count}
                    rows.append(row | {"images_per_s": 1 / (k * count * seconds), "label": label})
    goodness = scorer.sign * np.array([row[monitor] for row in rows])
    best = int(np.argmax(goodness))
    gains = [scorer.gain(measured[best], each) for each in measured]
    equal = [n for n, gain in enumerate(gains) if gain.low <= 0 or gain.value == 0]  # the latter without intervals
    cheapest = min(equal, key=lambda n: (-rows[n]["images_per_s"], -goodness[n]))
    for n, (row, gain) in enumerate(zip(rows, gains, strict=True)):
        row |= {"behind": gain.value, "behind_low": gain.low, "behind_high": gain.high}
        row["mark"] = " ".join(mark for mark, at in (("best", best), ("cheapest", cheapest)) if n == at)
    return rows


def _vote(voter: Voter, ranked: np.ndarray, scorer: Scorer) -> dict[str, np.ndarray]:
    """Return `(N, C)` predictions by each method from those of the best k members of each fold, `(k, S, N, C)`."""
    members = ranked.reshape(-1, *ranked.shape[2:])
    if len(members) == 1:  # all methods are the same
        return {"arithmetic": members[0]}
    found = {"arithmetic": members.mean(axis=0)}
    if scorer.task.has_geometric_mean:
        found["geometric"] = voting.geometric_mean(members, years=scorer.task.regression)
    if not voter.joint:  # else the scores are those of several tasks
        weights = _weigh_rows(voter.runs[0], ranked)
        if weights is not None:
            found["weighted_mean"] = voting.weighted_mean(members, weights.reshape(members.shape[:2]))
    if not scorer.task.regression:
        found["hardvoting"] = np.eye(members.shape[2])[voting.hard_vote(members)]
    return found


def _weigh_rows(run: OofRun, ranked: np.ndarray) -> np.ndarray | None:
    """Return the weight of each prediction in the weighted mean, `(k, S, N)`: that of its member."""
    scores = [member.info.score for fold in run.members for member in fold[: len(ranked)]]
    of_members = voting.member_weights(scores, higher_is_better=run.task.higher_is_better)
    if of_members is None:
        return None
    weights = np.empty(ranked.shape[:3])
    for fold, own in enumerate(of_members.reshape(len(run.folds), -1)):
        own = own if own.any() else np.ones_like(own)
        weights[:, run.seat(fold), run.rows[fold]] = own[:, None]
    return weights


def print_votes(rows: Sequence[dict[str, Any]], monitor: str, about: str) -> None:
    """Print the rows of `compare_votes` as a table for each run, after a few sentences about them."""
    title = score_title(monitor)
    print(
        f"\n{about}\nOut-of-fold {title} and its gap to the best. images/s is the measured speed of predicting an "
        "image with folds x top-k\nx views networks, decoding and cropping included."
    )
    for run in dict.fromkeys(row["run"] for row in rows):
        print(f"{run}:\n{'views':>5} {'top-k':>5}  {'vote':<14}{title:<25} {'behind the best':<28}{'images/s':>8}")
        for row in [row for row in rows if row["run"] == run]:
            score = Estimate(row[monitor], row["low"], row["high"])
            behind = Estimate(row["behind"], row["behind_low"], row["behind_high"])
            print(
                f"{row['views']:>5} {row['top_k']:>5}  {row['method']:<14}{score!s:<25} "
                f"{str(behind) if behind.value else '':<28}{row['images_per_s']:>8.3g}  {row['mark']}".rstrip()
            )
    unclear = (
        "have the best score" if math.isnan(rows[0]["low"]) else "a paired comparison cannot distinguish from the best"
    )
    print(f"cheapest: the least work among those that {unclear}.")


@dataclass(frozen=True)
class Selection:
    """A choice of candidates."""

    weights: np.ndarray  # (U,), one for each candidate; they sum to 1
    choose: Callable[[Rows], np.ndarray]  # chose them, and can choose by other rows
    scores: dict[str, Any]  # of both ways to choose, for recipe.json
    gain: Estimate  # how much better greedy selection is on people it was not made on


def select_members(candidates: Sequence[Candidate], library: Library, scorer: Scorer, top_k: int) -> Selection:
    """Select by greedy selection or take the best plain mean of a run's k best, whichever is better on other people."""
    plain = [
        [each.voter is voter and each.rank is not None and each.rank < k for each in candidates]
        for voter in dict.fromkeys(each.voter for each in candidates)
        for k in range(1, top_k + 1)
    ]
    ways: dict[str, Callable[[Rows], np.ndarray]] = {
        "greedy": lambda rows: select_greedily(library, scorer, rows),
        "plain": lambda rows: select_best(np.array(plain, np.float64), library, scorer, rows),
    }
    weights = {name: choose(ALL) for name, choose in ways.items()}
    same = {name: scorer.measure(library.mix(each)) for name, each in weights.items()}
    other = {
        name: scorer.measure(cross_select(partial(_choose_mix, library, choose), scorer.groups))
        for name, choose in ways.items()
    }
    gain = scorer.gain(other["greedy"], other["plain"])
    taken = "greedy" if gain.value > 0 else "plain"
    print(f"\nGreedy selection from {len(candidates)} candidates, {weights['greedy'].sum()} picks:")
    for count, each in sorted(zip(weights["greedy"], candidates, strict=True), key=lambda pair: -pair[0]):
        if count:
            print(f"  {count} x {each}")
    print(f"{'':<22}{'chosen and scored on the same':>32}{'scored on others':>34}")
    for name, title in TITLES.items():
        print(f"{title:<22}{same[name].value!s:>32}{other[name].value!s:>34}")
    print(f"Greedy selection, scored on others: {describe_difference(gain)}. The recipe is the {TITLES[taken]}.")
    scores = {f"{name}_same_people": as_plain(scorer.task, same[name].scores) for name in ways}
    scores |= {f"{name}_other_people": as_plain(scorer.task, other[name].scores) for name in ways}
    scores = {"taken": taken, **scores, "greedy_gain": vars(gain)}
    return Selection(weights[taken] / weights[taken].sum(), ways[taken], scores, gain)


def _choose_mix(library: Library, choose: Callable[[Rows], np.ndarray], rows: Rows) -> Mix:
    return partial(library.mix, choose(rows))


def calibrate(
    library: Library, selection: Selection, scorer: Scorer
) -> tuple[float, list[float] | None, dict[str, Any]]:
    """Fit a temperature and offsets, and keep each only if it is not worse on people it was not fitted on.

    Returns:
        The temperature, 1 if unused; the offsets `(C,)` of the log probabilities, or None; scores for recipe.json.
    """

    def fit(temper: bool, move: bool, rows: Rows) -> Mix:
        mix = _choose_mix(library, selection.choose, rows)
        values = fit_calibration(mix(rows), scorer, rows, temper=temper, move=move)
        return lambda others: tempered(mix(others), *values)

    def predict_others(temper: bool, move: bool) -> np.ndarray:
        return cross_select(partial(fit, temper, move), scorer.groups)

    bare = predict_others(False, False)
    losses = [log_loss(answers, scorer.labels) for answers in (bare, predict_others(True, False))]
    temper = losses[1] <= losses[0]
    before, after = scorer.measure(bare), scorer.measure(predict_others(temper, True))
    gain = scorer.gain(after, before)
    move = gain.value >= 0
    mixed = _choose_mix(library, selection.choose, ALL)(ALL)
    temperature, offsets = fit_calibration(mixed, scorer, ALL, temper=temper, move=move)
    print(
        f"Calibration, scored on {scorer.task.noun} it was not fitted on:\n"
        f"  temperature: log loss {losses[1]:.4f}, without {losses[0]:.4f}: "
        f"{f'used, {temperature:.3g}' if temper else 'not used'}\n  offsets of the classes: "
        f"{after.value}, without {before.value.value:.4f}, {describe_difference(gain)}: "
        f"{'used' if move else 'not used'}"
    )
    scores = {"log_loss": losses, "offsets_other_people": as_plain(scorer.task, after.scores)}
    scores["offsets_gain"] = vars(gain)
    return temperature, offsets.tolist() if move else None, {"calibration": scores}


def list_members(taken: Sequence[tuple[Candidate, float]], folder: Path, task: Task) -> list[dict[str, Any]]:
    """Return the members of a recipe in `folder` from candidates with their weights, each checkpoint once."""
    home, entries = folder.resolve(), {}
    for number, (candidate, weight) in enumerate(taken):
        joint = number if candidate.voter.joint else None
        for member in candidate.members:
            path, info = member.path.resolve(), member.info
            own = task if joint is None else info.record
            file = os.path.relpath(path, home) if path.drive == home.drive else path  # drives of Windows
            entry = {"task": own.name, "file": Path(file).as_posix(), "digest": file_digest(path)}
            entry |= {"fold": member.fold, "epoch": info.epoch, "score": info.score, "weight": 0.0}
            if joint is not None:
                entry["joint"] = joint
            if own.regression and joint is not None:
                entry["rmse"] = next(run for run in candidate.voter.runs if run.task == own).error(candidate.rank)
            entries.setdefault((path, joint), entry)["weight"] += float(weight) / len(candidate.members)
    return list(entries.values())
