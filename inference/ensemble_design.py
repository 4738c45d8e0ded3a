"""Designing an ensemble: what a run's checkpoints answer of people they were not trained on, and what that recommends.

The epochs that were kept were chosen by the score on these same people, and soups are too, so every score here is a
little too good; for choosing between ensembles that are flattered alike it serves.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.ensemble_report import write_ensemble
from analysis.intervals import Estimate, in_words
from analysis.metrics import log_loss, score, tempered
from analysis.summary import as_plain
from config import DesignConfig, TrainConfig
from data.images import needed_side
from data.label_math import make_targets
from data.prepare import Data, prepare_images, read_tables
from data.split import Fold, Split
from data.tasks import SCORE_TITLES, TASKS
from inference import voting
from inference.predict import Asked, check_numbers, networks_of, transforms_of
from inference.recipe import RECIPE_FORMAT
from inference.selection import (
    MEANS,
    Library,
    Mix,
    Rows,
    Truth,
    best_of,
    fit_calibration,
    greedy,
    is_enough,
    joint_answers,
    joint_part,
    nested,
)
from model import inference_network
from storage.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from storage.find_runs import checkpoint_files
from storage.members import Member, find_members
from storage.run_folder import KFOLD, RunFolder
from training.device import choose_device
from training.distributed import ALONE
from training.engine import inference_dtype, prepare
from utils import (
    UserError,
    file_digest,
    library_versions,
    make_folder,
    remove_tree,
    shorten_list,
    write_json,
    write_text,
)

RECIPE = "recipe.json"
Way = Callable[[Rows], np.ndarray]  # weights `(U,)` of the kinds, chosen by some of the photographs


@dataclass(eq=False)
class Run:
    """A K-fold run: the people and the members of each fold, and what those answer of the people they do not know.

    `answers` is `(S, R, V, N, C)`: S folds answer each photograph, all of them with --valid-root and else one, each
    with R members, best first, in V views. `seconds` is what a network's pass over a view takes here.
    """

    folder: RunFolder
    config: TrainConfig
    folds: list[Fold]
    members: list[list[Member]]
    rows: Sequence[np.ndarray] = ()  # the photographs that each fold validates
    answers: np.ndarray = field(default_factory=lambda: np.empty(0))
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return str(self.folder.path)

    @property
    def label(self) -> str:
        """What it is called where its name is told beside."""
        return self.folder.name

    @property
    def passes(self) -> int:
        """How many networks answer a photograph to be predicted, of each rank."""
        return len(self.folds)

    @property
    def cost(self) -> float:
        """The seconds that they take for a view of it."""
        return self.passes * self.seconds

    def of_rank(self, rank: int) -> list[Member]:
        """The members of a rank, one of each fold."""
        return [fold[rank] for fold in self.members]

    def error(self, rank: int) -> float | None:
        """How many years the members of a rank are off (RMSE); None of a run that answers with classes."""
        if not TASKS[self.config.task].regression:
            return None
        return float(np.mean([member.info.scores["rmse"] for member in self.of_rank(rank)]))

    def seat(self, fold: int) -> int:
        """Which of the S a fold's answers are."""
        return fold if self.config.valid_root else 0

    def ranked(self, views: int) -> np.ndarray:
        """What the members answer in the mean of the first views, `(R, S, N, C)`."""
        return self.answers[:, :, :views].mean(axis=2).swapaxes(0, 1)


@dataclass(frozen=True, eq=False)
class JointRun:
    """Runs of several tasks that answer main together: what is said of each attribute by the run that learnt it.

    `base` is the run of main that says the rest, None where all attributes have a run.
    """

    base: Run | None
    parts: list[Run]

    @property
    def runs(self) -> list[Run]:
        """All that take part."""
        return [self.base, *self.parts] if self.base else self.parts

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return " with ".join(run.name for run in self.runs)

    @property
    def label(self) -> str:
        """What it is called where its name is told beside."""
        return " with ".join(run.config.task for run in self.runs)

    @property
    def passes(self) -> int:
        """How many networks answer a photograph to be predicted, of each rank."""
        return sum(run.passes for run in self.runs)

    @property
    def cost(self) -> float:
        """The seconds that they take for a view of it."""
        return sum(run.cost for run in self.runs)

    def of_rank(self, rank: int) -> list[Member]:
        """The members of a rank, one of each fold of each run."""
        return [member for run in self.runs for member in run.of_rank(rank)]

    def ranked(self, views: int) -> np.ndarray:
        """What the members of each rank answer together in the mean of the first views, `(R, 1, N, 18)`."""
        found = [[] for _ in range(self.runs[0].answers.shape[1])]
        for run in self.runs:
            answers = run.ranked(views).mean(axis=1)  # of the folds that answer a photograph
            for rank, (parts, each) in enumerate(zip(found, answers, strict=True)):
                parts.append(joint_part(run.config.task, each, run.error(rank)))
        return np.stack([joint_answers(parts) for parts in found])[:, None]


AnyRun = Run | JointRun


@dataclass(frozen=True)
class Kind:
    """Members that are picked together: those of one rank in each fold, or the soups (None) of the folds.

    `answers` is what they answer out of fold, `(S, N, C)`.
    """

    run: AnyRun
    rank: int | None
    members: list[Member]
    answers: np.ndarray

    def __str__(self) -> str:
        return f"{self.run.name}, {'soups' if self.rank is None else f'rank {self.rank + 1}'}"


def design_ensemble(config: DesignConfig, folders: Sequence[RunFolder]) -> None:
    """Predict the validation people of every fold and write a recipe; the command of design_ensemble.py.

    Args:
        folders: the runs, as `finding.find_runs` found them.

    Raises:
        UserError: the runs do not belong together, are not whole, or lie beside other photographs.
    """
    runs = [_open(folder, config) for folder in folders]
    task = _common_task(runs, config)
    name = config.name or _name_of(runs, task)
    device = choose_device(config.device)
    dtype = inference_dtype(config.precision, device)
    data = _look_at_data(runs, config)
    table = data.table if data.valid is None else data.valid
    place = make_folder(Path(config.save_path) / task / name)  # a place that cannot be written to is found out now
    truth = Truth(task, make_targets(table)[task], table["person"].to_numpy(str), seed=config.seed)
    asked = Asked(task, config.tta, data.reader, config.batch_size, config.num_workers, device, ALONE)
    for run in runs:
        _answer(run, replace(asked, tasks=run.config.task), table, dtype)
    singles, joints = [run for run in runs if run.config.task == task], _joined(runs) if task == "main" else []
    voters: list[AnyRun] = [*singles, *joints]
    rows = _compare(voters, truth, config)
    _print_table(rows, truth.record.monitor)
    means = [row for row in rows if row["method"] in MEANS]  # that a recipe can use
    best = max(means, key=lambda row: truth.sign * row[truth.record.monitor])
    mean, views = best["method"], best["views"]
    if (place / RECIPE).is_file():
        print(f"Replacing the earlier recipe in {place}.")
        (place / RECIPE).unlink()  # before the soups that it names
    remove_tree(place / "soups")
    write_text(place / "table.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    kinds = [
        Kind(run, rank, run.of_rank(rank), answers) for run in voters for rank, answers in enumerate(run.ranked(views))
    ]
    if config.soups and config.top_k > 1:
        for number, run in enumerate(singles):
            kinds += _soup(run, replace(asked, views=views), table, truth, dtype, place / "soups", f"run{number}")
    library = Library([kind.answers for kind in kinds], mean, years=truth.record.regression)
    weights, way, scores = _choose(kinds, library, truth, config.top_k)
    temperature, offsets = _calibrate(library, way, truth, scores) if config.calibrate else (1.0, None)
    taken = [(kind, weight) for kind, weight in zip(kinds, weights, strict=True) if weight > 0]
    recipe = {
        "format": RECIPE_FORMAT,
        "task": task,
        "tta": views,
        "mean": mean,
        "temperature": temperature,
        "offsets": offsets,
        "members": _entries(taken, place, task),
        "scores": scores,
        "made": {
            "runs": [str(run.folder.path.resolve()) for run in runs],
            "top_k": config.top_k,
            "seed": config.seed,
            "people": len(np.unique(truth.people)),
            "images": len(table),
            "versions": library_versions(),
        },
    }
    write_json(place / RECIPE, recipe)
    gain = in_words(Estimate(**scores["greedy_gain"]))
    judged = f"{recipe['made']['people']} people, {len(table)} photographs, each answered by folds that held it out."
    write_ensemble(place / "ensemble.html", rows, recipe, gain=gain, about=judged)
    seconds = _seconds(runs, [kind for kind, _ in taken])
    print(
        f"\nThe recipe takes {len(seconds)} checkpoints x {views} view{'s' * (views > 1)}, about "
        f"{1 / (views * sum(seconds)):.3g} images/s on this machine. Predict with it by:\n"
        f"  python submit_ensemble.py --recipe {shlex.quote(str(place / RECIPE))}\n"
        f"To look at: {place / 'ensemble.html'}"
    )


# ------------------------------------------------------------------------------------------------ the runs


def _open(folder: RunFolder, config: DesignConfig) -> Run:
    """A run with its people and members; refused where it is not whole or not certain who was trained on whom."""
    trained, split = folder.read_config(), folder.read_split()
    try:
        folds = [Fold(fold["train"], fold["valid"]) for fold in split["folds"]]
        sound = Split(trained.seed, folds, []).fingerprint == split["fingerprint"]
        sound &= not any(set(fold.train) & set(fold.valid) for fold in folds)
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{folder.split} is damaged: it does not say who was trained on; take that of the training.")
    missing = folder.unfinished() or [k for k in range(len(folds)) if not checkpoint_files(folder.fold(k))]
    if missing:
        raise UserError(
            f"{folder.path} is not trained to its end: fold {shorten_list(missing)}. Train on with --resume."
        )
    members = find_members(folder, top_k=config.top_k, folds=range(len(folds)))
    transforms_of(members, config.tta)  # more views than there are is found out now
    for member in members:
        if member.info.split_fingerprint != split["fingerprint"]:
            raise UserError(
                f"{member.path} is of another split ({member.info.split_fingerprint}, that of {folder.split} is "
                f"{split['fingerprint']}), so it may have been trained on the people it would be judged by."
            )
    if trained.load_state_dict:
        print(f"{folder.path} started from {trained.load_state_dict}: if that knew these people, its scores flatter.")
    by_fold = [[member for member in members if member.fold == k] for k in range(len(folds))]
    return Run(folder, trained, folds, by_fold)


def _common_task(runs: Sequence[Run], config: DesignConfig) -> str:
    """The task of all runs, or main where those of several answer it together; calibrated only where it has classes."""
    learnt = list(dict.fromkeys(run.config.task for run in runs))
    if len(learnt) > 1 and not is_enough(learnt):
        raise UserError(
            f"The runs learnt {' and '.join(learnt)}, which do not make the classes of main; pass runs of one task, of "
            "mask, gender and ageg or age, or one of main with them."
        )
    task = learnt[0] if len(learnt) == 1 else "main"
    if config.calibrate and TASKS[task].regression:
        raise UserError(f"--calibrate is for classes and task {task} has none; leave it out.")
    return task


def _look_at_data(runs: Sequence[Run], config: DesignConfig) -> Data:
    """The photographs that all runs were trained on, and the rows of them that each fold validates."""
    first = runs[0]
    prints = [run.folder.fingerprints().get("labels") for run in runs]
    for run, found in zip(runs, prints, strict=True):
        if found != prints[0]:
            raise UserError(
                f"{run.folder.path} was trained on other photographs or labels than {first.folder.path} (fingerprint "
                f"{found} and {prints[0]}), so their answers cannot be joined."
            )
    places = ("train_root", "valid_root", "corrections")
    moved = {name: getattr(config, name) or getattr(first.config, name) for name in places}
    tables = read_tables(**moved, cv=first.config.cv, seed=first.config.seed)
    side = max(needed_side(run.config.image_size, run.config.crop_scale) for run in runs)
    limits = {"max_megapixels": first.config.max_megapixels, "on_bad_image": first.config.on_bad_image}
    data = prepare_images(tables, side=side, cache="ram", **limits)
    if data.fingerprint != prints[0]:
        raise UserError(
            f"{moved['train_root']} holds other photographs or labels than {first.folder.path} was trained on (files "
            f"added, lost or unreadable, train.csv, corrections; fingerprint {data.fingerprint}, in training "
            f"{prints[0]}); pass --train-root and --corrections with what they were."
        )
    people = (data.table if data.valid is None else data.valid)["person"]
    for run in runs:
        run.rows = [np.flatnonzero(people.isin(fold.valid)) for fold in run.folds]
        seats, outputs = len(run.folds) if run.config.valid_root else 1, TASKS[run.config.task].outputs
        if (np.bincount(np.concatenate(run.rows), minlength=len(people)) != seats).any():
            raise UserError(f"{run.folder.split} does not have everybody of {moved['train_root']} validated once.")
        run.answers = np.empty((seats, config.top_k, config.tta, len(people), outputs), np.float32)
    if any(run.folds != first.folds for run in runs):
        print(
            "The runs split the people differently. Each is judged on people that its own fold held out all the same."
        )
    return data


def _joined(runs: Sequence[Run]) -> list[JointRun]:
    """Ways to answer main by runs of other tasks, one for each attribute: by themselves, and with each one of main."""
    by_attribute: dict[str, list[Run]] = {}
    for run in runs:
        if run.config.task != "main":
            by_attribute.setdefault(TASKS[run.config.task].class_task, []).append(run)
    if not by_attribute:
        return []
    bases: list[Run | None] = [None] if is_enough(by_attribute) else []
    bases += [run for run in runs if run.config.task == "main"]
    return [JointRun(base, list(parts)) for base in bases for parts in product(*by_attribute.values())]


def _answer(run: Run, asked: Asked, table: pd.DataFrame, dtype: torch.dtype) -> None:
    """Let the members of every fold answer the people that the fold validates, and nobody else."""
    passes, seconds = 0, 0.0
    for fold, (rows, members) in enumerate(zip(run.rows, run.members, strict=True)):
        networks, start = networks_of(members, asked.device, dtype, len(members)), time.perf_counter()
        found = _ask(asked, networks, members, table.iloc[rows])
        seconds += time.perf_counter() - start
        passes += found[..., 0].size
        check_numbers(found, members, dtype)
        run.answers[run.seat(fold)][:, :, rows] = found.swapaxes(1, 2)
    run.seconds = seconds / passes
    print(
        f"{run.folder.path}: {passes} passes over the people whom each fold held out, {passes / seconds:.0f} a second."
    )


def _ask(
    asked: Asked, networks: Sequence[torch.nn.Module], members: Sequence[Member], table: pd.DataFrame
) -> np.ndarray:
    """`(M, N, V, C)`, what each network answers to each view of the photographs of a table."""
    transforms = transforms_of(members, asked.views)
    return asked.answers(networks, transforms, table["path"].tolist(), table["image"].tolist(), apart=True)


# ------------------------------------------------------------------------------------------------ the table


def _compare(runs: Sequence[AnyRun], truth: Truth, config: DesignConfig) -> list[dict[str, Any]]:
    """How each run scores with so many checkpoints, views and each way to vote, the best and the cheapest marked."""
    monitor = truth.record.monitor
    rows, measured = [], []
    for run in runs:
        for views in range(1, config.tta + 1):
            ranked = run.ranked(views)
            for k in range(1, config.top_k + 1):
                for method, answers in _votes(run, ranked[:k], truth).items():
                    measured.append(truth.measure(answers))
                    passes = run.passes * k * views
                    row = {"run": run.name, "views": views, "top_k": k, "method": method}
                    value = measured[-1].value
                    row |= {monitor: value.value, "low": value.low, "high": value.high, "passes": passes}
                    rows.append(row | {"images_per_s": 1 / (k * views * run.cost), "label": run.label})
    goodness = truth.sign * np.array([row[monitor] for row in rows])
    best = int(np.argmax(goodness))
    gains = [truth.gain(measured[best], each) for each in measured]
    equal = [n for n, gain in enumerate(gains) if gain.low <= 0]
    cheapest = min(equal, key=lambda n: (-rows[n]["images_per_s"], -goodness[n]))
    for n, (row, gain) in enumerate(zip(rows, gains, strict=True)):
        row |= {"behind": gain.value, "behind_low": gain.low, "behind_high": gain.high}
        row["mark"] = " ".join(mark for mark, at in (("best", best), ("cheapest", cheapest)) if n == at)
    return rows


def _print_table(rows: Sequence[dict[str, Any]], monitor: str) -> None:
    print(
        f"\nOut-of-fold {SCORE_TITLES[monitor]} and how far it is behind the best, with intervals of 95 % over people. "
        "images/s: what predicting\nwith folds x top-k x views passes an image comes to by the passes just made, "
        "decoding and cutting included."
    )
    for run in dict.fromkeys(row["run"] for row in rows):
        print(
            f"{run}:\n{'views':>5} {'top-k':>5}  {'vote':<14}{SCORE_TITLES[monitor]:<25} {'behind the best':<28}"
            f"{'images/s':>8}"
        )
        for row in [row for row in rows if row["run"] == run]:
            score = Estimate(row[monitor], row["low"], row["high"])
            behind = Estimate(row["behind"], row["behind_low"], row["behind_high"])
            print(
                f"{row['views']:>5} {row['top_k']:>5}  {row['method']:<14}{score!s:<25} "
                f"{str(behind) if behind.value else '':<28}{row['images_per_s']:>8.3g}  {row['mark']}".rstrip()
            )
    print("cheapest: the least passes among those that a paired comparison does not tell apart from the best.")


def _votes(run: AnyRun, ranked: np.ndarray, truth: Truth) -> dict[str, np.ndarray]:
    """`(N, C)` for each way to vote of the best k members, `(k, S, N, C)`, of the folds that answer a photograph."""
    members = ranked.reshape(-1, *ranked.shape[2:])
    if len(members) == 1:  # all ways are the same
        return {"arithmetic": members[0]}
    found = {
        "arithmetic": voting.arithmetic_mean(members),
        "geometric": voting.geometric_mean(members, years=truth.record.regression),
    }
    if isinstance(run, JointRun):  # whose members' scores are of several tasks
        return found | {"hardvoting": np.eye(members.shape[2])[voting.hard_vote(members)]}
    scores = [member.info.score for fold in run.members for member in fold[: len(ranked)]]
    of_members = voting.member_weights(scores, higher_is_better=truth.record.higher_is_better)
    if of_members is not None:
        weights = np.empty(ranked.shape[:3])
        for fold, own in enumerate(of_members.reshape(len(run.folds), -1)):
            own = own if own.any() else np.ones_like(own)
            weights[:, run.seat(fold), run.rows[fold]] = own[:, None]
        found["weighted_mean"] = voting.weighted_mean(members, weights.reshape(members.shape[:2]))
    if not truth.record.regression:
        found["hardvoting"] = np.eye(members.shape[2])[voting.hard_vote(members)]
    return found


# ------------------------------------------------------------------------------------------------ soups


def _soup(
    run: Run, asked: Asked, table: pd.DataFrame, truth: Truth, dtype: torch.dtype, place: Path, prefix: str
) -> list[Kind]:
    """The averaged weights of each fold's checkpoints as a kind of its own; none where they score worse.

    The greedy soup of "Model soups" (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482): from the best checkpoint
    on, each further one stays in the mean if the fold's score is not worse with it. Statistics of BatchNorm are
    averaged as the weights are, counters are those of the best.
    """
    best = run.ranked(asked.views)[0]
    answers, soups, counts = best.copy(), {}, []
    for fold, (rows, members) in enumerate(zip(run.rows, run.members, strict=True)):
        weights = [load_checkpoint(member.path)[0] for member in members]
        kept = weights[:1]
        for each in weights[1:]:
            network = members[0].info.build()
            network.load_state_dict(_mean_weights([*kept, each]))
            ready = prepare(inference_network(network, members[0].info.image_size), asked.device, dtype)
            found = _ask(asked, [ready], members[:1], table.iloc[rows])[0]  # (n, V, C)
            mean, before = found.mean(axis=1), answers[run.seat(fold), rows]
            if np.isfinite(mean).all() and truth.goodness(mean, rows) >= truth.goodness(before, rows):
                answers[run.seat(fold), rows] = mean
                kept.append(each)
                soups[fold] = network, score(truth.task, found[:, 0], truth.labels[rows])
        counts.append(len(kept))
    before, after = (truth.goodness(each.mean(axis=0)) for each in (best, answers))
    told = f"Soups of {run.folder.path} (of {shorten_list(counts, 20)} checkpoints a fold)"
    if not soups or after < before:
        print(f"{told} {'score worse than' if soups else 'are no more than'} the best checkpoints: left out.")
        return []
    print(f"{told} take part: {truth.sign * after:.4f}, the best checkpoints {truth.sign * before:.4f}.")
    make_folder(place)
    members = [fold[0] for fold in run.members]
    for fold, (network, scores) in soups.items():
        info = replace(members[fold].info, scores=scores, versions=library_versions())
        path = place / f"{prefix}_fold{fold:02d}_{checkpoint_name(info.epoch, info.monitor, info.score)}"
        save_checkpoint(path, network, info)
        members[fold] = Member(path, info, fold)
    return [Kind(run, None, members, answers)]


def _mean_weights(several: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack([each[name] for each in several]).mean(dim=0) if value.is_floating_point() else value
        for name, value in several[0].items()
    }


# ------------------------------------------------------------------------------------------------ the choice


def _choose(
    kinds: Sequence[Kind], library: Library, truth: Truth, top_k: int
) -> tuple[np.ndarray, Way, dict[str, Any]]:
    """Greedy selection or the best plain mean of a run's k best, whichever scores better on people not chosen on.

    Returns:
        The weights of all kinds, which sum to 1, the way to choose them, and what to write of the scores.
    """
    plain = [
        [kind.run is run and kind.rank is not None and kind.rank < k for kind in kinds]
        for run in dict.fromkeys(kind.run for kind in kinds)
        for k in range(1, top_k + 1)
    ]
    ways: dict[str, Way] = {
        "greedy": lambda rows: greedy(library, truth, rows),
        "plain": lambda rows: best_of(np.array(plain, np.float64), library, truth, rows),
    }
    weights = {name: way(slice(None)) for name, way in ways.items()}
    inside = {name: truth.measure(library.mix(each)) for name, each in weights.items()}
    honest = {name: truth.measure(nested(partial(_mixing, library, way), truth.groups)) for name, way in ways.items()}
    gain = truth.gain(honest["greedy"], honest["plain"])
    taken = "greedy" if gain.value > 0 else "plain"
    print(f"\nGreedy selection from {len(kinds)} kinds of members, {weights['greedy'].sum()} picks:")
    for count, kind in sorted(zip(weights["greedy"], kinds, strict=True), key=lambda pair: -pair[0]):
        if count:
            print(f"  {count} x {kind}")
    titles = {"greedy": "greedy selection", "plain": "plain mean of a run"}
    print(f"{'':<22}{'chosen and scored on the same':>32}{'scored on others':>34}")
    for name, title in titles.items():
        print(f"{title:<22}{inside[name].value!s:>32}{honest[name].value!s:>34}")
    print(f"Greedy selection, scored on others: {in_words(gain)}. The recipe is the {titles[taken]}.")
    scores = {f"{name}_same_people": as_plain(truth.task, inside[name].scores) for name in ways}
    scores |= {f"{name}_other_people": as_plain(truth.task, honest[name].scores) for name in ways}
    return weights[taken] / weights[taken].sum(), ways[taken], {"taken": taken, **scores, "greedy_gain": vars(gain)}


def _mixing(library: Library, way: Way, rows: Rows) -> Mix:
    return partial(library.mix, way(rows))


def _calibrate(library: Library, way: Way, truth: Truth, found: dict[str, Any]) -> tuple[float, list[float] | None]:
    """A temperature, and offsets of the classes, each only where it is not worse on people it was not fitted on."""

    def fitted(temper: bool, move: bool, rows: Rows) -> Mix:
        mix = _mixing(library, way, rows)
        values = fit_calibration(mix(rows), truth, rows, temper=temper, move=move)
        return lambda others: tempered(mix(others), *values)

    def scored_on_others(temper: bool, move: bool) -> np.ndarray:
        return nested(partial(fitted, temper, move), truth.groups)

    bare = scored_on_others(False, False)
    losses = [log_loss(answers, truth.labels) for answers in (bare, scored_on_others(True, False))]
    temper = losses[1] <= losses[0]
    before, after = truth.measure(bare), truth.measure(scored_on_others(temper, True))
    gain = truth.gain(after, before)
    move = gain.value >= 0
    mix = _mixing(library, way, slice(None))
    temperature, offsets = fit_calibration(mix(slice(None)), truth, slice(None), temper=temper, move=move)
    print(
        f"Calibration, scored on people it was not fitted on:\n  temperature: log loss {losses[1]:.4f}, without "
        f"{losses[0]:.4f}: {f'taken, {temperature:.3g}' if temper else 'left out'}\n  offsets of the classes: "
        f"{after.value}, without {before.value.value:.4f}, {in_words(gain)}: {'taken' if move else 'left out'}"
    )
    found["calibration"] = {
        "log_loss": losses,
        "offsets_other_people": as_plain(truth.task, after.scores),
        "offsets_gain": vars(gain),
    }
    return temperature, offsets.tolist() if move else None


def _seconds(runs: Sequence[Run], kinds: Sequence[Kind]) -> list[float]:
    """What a pass over a view takes of each checkpoint in some kinds, each once."""
    known = {member.path: run.seconds for run in runs for fold in run.members for member in fold}
    members = {member.path: kind for kind in kinds for member in kind.members}
    # Soups are as fast as what they are made of.
    return [known.get(path) or kind.run.seconds for path, kind in members.items()]


def _name_of(runs: Sequence[Run], task: str) -> str:
    """What the recipe of some runs is called: after their networks, with the task where that is another one."""
    names = [run.folder.name.removeprefix(KFOLD) for run in runs]
    tasks = ["" if run.config.task == task else f"{run.config.task}-" for run in runs]
    return "+".join(dict.fromkeys(own + name for own, name in zip(tasks, names, strict=True)))


def _entries(taken: Sequence[tuple[Kind, float]], place: Path, task: str) -> list[dict[str, Any]]:
    """The members of a recipe: each checkpoint once, by its path from the recipe's folder, with its digest."""
    entries: dict[tuple[Path, int | None], dict[str, Any]] = {}
    for number, (kind, weight) in enumerate(taken):
        joint = number if isinstance(kind.run, JointRun) else None
        for member in kind.members:
            path, info = member.path.resolve(), member.info
            own = task if joint is None else info.task
            about = {"task": own, "file": _from(place.resolve(), path), "digest": file_digest(path)}
            about |= {"fold": member.fold, "epoch": info.epoch, "score": info.score, "weight": 0.0}
            if joint is not None:
                about["joint"] = joint
            if TASKS[own].regression and joint is not None:
                about["rmse"] = next(run for run in kind.run.runs if run.config.task == own).error(kind.rank)
            entries.setdefault((path, joint), about)["weight"] += float(weight) / len(kind.members)
    return list(entries.values())


def _from(folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return str(path)
