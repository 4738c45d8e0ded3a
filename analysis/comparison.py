"""Compare runs over the same people by the differences of their scores, with intervals."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isnan

import pandas as pd

from analysis.intervals import (
    FEWEST,
    HOW,
    Estimate,
    Sums,
    describe_difference,
    describe_intervals,
    estimate_differences,
    estimate_run,
    sum_run,
)
from analysis.metrics import absent_classes, describe_classes
from analysis.summary import Rows, print_rows, read_folds
from cli.options import flag
from config import TrainConfig
from data.tasks import Task, find_metric, score_title
from storage.run_folder import RunFolder, lasting_options
from utils import UserError, shorten_list


@dataclass(frozen=True)
class Comparison:
    """Runs of one task over the same people, by letter."""

    task: Task
    runs: dict[str, RunFolder]
    configs: dict[str, TrainConfig]
    tables: dict[str, pd.DataFrame]  # the out-of-fold predictions for `folds`
    sums: dict[str, Sums]
    scored: str  # which scores of the runs, a key of HOW
    folds: list[int]  # those that all runs have finished

    def about(self) -> str:
        """Return a sentence that describes the scores."""
        every = "" if len(self.folds) == self.configs["A"].cv else f", fold {shorten_list(self.folds, 20)} only"
        return f"Scores {HOW[self.scored]}, {self.people} {self.task.noun}{every}"

    def notes(self) -> str:
        """Return sentences on the intervals, and on the classes without images."""
        absent, _ = absent_classes(self.task, self.tables["A"]["label"].to_numpy())
        classes = f" {describe_classes(self.task, absent)}" if absent else ""
        return f"{describe_intervals(self.people, self.task.noun)}{classes}"

    @property
    def people(self) -> int:
        """The number of people."""
        return self.tables["A"]["person"].nunique()

    @cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """The scores of each run, by letter."""
        return {letter: estimate_run(self.task, {self.scored: sums})[self.scored] for letter, sums in self.sums.items()}

    @cached_property
    def differences(self) -> dict[tuple[str, str], dict[str, Estimate]]:
        """The difference of every score for every pair of runs, second minus first."""
        pairs = combinations(self.sums, 2)
        return {(a, b): estimate_differences(self.task, self.sums[a], self.sums[b]) for a, b in pairs}

    @property
    def columns(self) -> dict[str, dict[str, Estimate]]:
        """The scores of each run and their differences, by column name: A, B, B - A."""
        return self.estimates | {f"{second} - {first}": each for (first, second), each in self.differences.items()}

    def score_rows(self, digits: int = 4) -> tuple[list[str], Rows]:
        """Return the columns and rows of the scores and of their differences, with this number of decimals."""
        names = self.task.shown
        rows = [[title, *(each[name].text(digits) for name in names)] for title, each in self.columns.items()]
        return ["", *(score_title(name) for name in names)], rows

    def verdicts(self) -> list[tuple[str, list[str]]]:
        """Return a sentence about each pair of runs, with sentences about the classes that clearly differ."""
        task, found = self.task, []
        for pair, each in self.differences.items():
            clear = [name for name in task.classes if each[name].low > 0 or each[name].high < 0]
            sentence = f"{verdict(pair, each[task.monitor], task.monitor)} in {score_title(task.monitor)}."
            found.append((sentence, [f"class {name}: {verdict(pair, each[name], 'f1')} in F1." for name in clear]))
        return found

    def changed(self) -> dict[str, list[object]]:
        """Return the options that change the weights and differ between the runs, with their values."""
        every = [lasting_options(config) for config in self.configs.values()]
        values = {flag(name): [each[name] for each in every] for name in every[0]}
        return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def compare(runs: Sequence[RunFolder]) -> Comparison:
    """Read the runs to compare.

    Raises:
        UserError: fewer than two runs, different people, labels or tasks, or no fold that all runs have finished.
    """
    if len(runs) < 2:
        raise UserError(f"There is only one run, {runs[0].path}. Pass --root with at least two, separated by commas.")
    if len(runs) > len(string.ascii_uppercase):
        raise UserError(f"--root names {len(runs)} runs. Compare at most {len(string.ascii_uppercase)}.")
    named = dict(zip(string.ascii_uppercase, runs, strict=False))
    configs = {letter: run.read_config() for letter, run in named.items()}
    for letter, run in named.items():
        if different := _differences(runs[0], configs["A"], run, configs[letter]):
            raise UserError(f"{runs[0].path} and {run.path} cannot be compared: {'; '.join(different)}.")
    task = configs["A"].record
    tables = {letter: run.read_oof(task) for letter, run in named.items()}
    folds = sorted(set.intersection(*(set(table["fold"]) for table in tables.values())))
    if not folds:
        raise UserError("No fold is finished in all of these runs. Train the same fold in each.")
    tables = {letter: table[table["fold"].isin(folds)] for letter, table in tables.items()}
    found = {letter: sum_run(task, read_folds(run, task, tables[letter])) for letter, run in named.items()}
    scored = next(name for name in HOW if all(name in sums for sums in found.values()))
    sums = {letter: each[scored] for letter, each in found.items()}
    return Comparison(task, named, configs, tables, sums, scored, folds)


def _differences(first: RunFolder, one: TrainConfig, second: RunFolder, other: TrainConfig) -> list[str]:
    """Return the reasons why two runs cannot be compared."""
    found = [
        f"{flag(name)} is {getattr(one, name)} and {getattr(other, name)}"
        + (", so their folds hold different images" if name != "task" else "")
        for name in ("task", "cv", "seed")
        if getattr(one, name) != getattr(other, name)
    ]
    if first.fingerprints().get("labels") != second.fingerprints().get("labels"):
        found.append("their images or labels differ (--train-root, --valid-root, --corrections)")
    if not found and first.read_split()["fingerprint"] != second.read_split()["fingerprint"]:
        found.append("they split the images differently")
    return found


def verdict(pair: tuple[str, str], difference: Estimate, score: str) -> str:
    """Return a sentence that says which run is better, or that there is no clear difference."""
    first, second = pair
    gain = difference if find_metric(score).higher_is_better else -difference  # of the second
    better, gain = (second, gain) if gain.value > 0 else (first, -gain)
    if gain.low > 0:
        return f"{better} is {describe_difference(gain)}"
    if gain.value == 0:
        return f"No clear difference between {first} and {second}: they score the same"
    unclear = "" if isnan(gain.low) else f"No clear difference between {first} and {second}: "
    return f"{unclear}{better} scores better by {gain}"


def print_comparison(compared: Comparison) -> None:
    """Print the scores of runs, their differences, and which runs are better."""
    for letter, run in compared.runs.items():
        print(f"{letter}  {run.path}")
    for name, values in compared.changed().items():
        print(f"   {name}: {', '.join(map(str, values))}")
    print(f"\n{compared.about()}:\n")
    print_rows(*compared.score_rows(), first=10, others=33)
    print(f"{compared.notes()}\n")
    for sentence, of_classes in compared.verdicts():
        print("\n    ".join([sentence, *of_classes]))
    count = len(compared.differences) * (1 + len(compared.task.classes))
    if compared.people >= FEWEST:
        print(f"{count} differences were tested. Between equal runs, 1 of 20 is called clear by chance.")
