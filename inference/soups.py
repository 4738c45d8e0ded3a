"""Average the weights of a fold's checkpoints: "Model soups", Wortsman et al. 2022, https://arxiv.org/abs/2203.05482."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from analysis.metrics import score
from inference.oof_members import Candidate, OofRun, Validation, Voter
from inference.selection import Scorer
from model import Network
from storage.best_checkpoints import checkpoint_name
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.members import Member
from utils import library_versions, make_folder, shorten_list


def make_soups(voter: Voter, validation: Validation, scorer: Scorer, folder: Path, prefix: str) -> list[Candidate]:
    """Return the soups of a run's folds as a candidate, or an empty list if they score worse.

    They are saved in `folder`, under names that begin with `prefix`.
    """
    run = voter.runs[0]
    best = run.ranked(validation.settings.views)[0]
    answers, soups, counts = best.copy(), {}, []
    for fold, rows in enumerate(run.rows):
        count, soup = _make_soup(run, fold, best[run.seat(fold), rows], validation, scorer)
        counts.append(count)
        if soup is not None:
            network, scores, answers[run.seat(fold), rows] = soup
            soups[fold] = network, scores
    before, after = (scorer.goodness(each.mean(axis=0)) for each in (best, answers))
    title = f"Soups of {run.name} (of {shorten_list(counts, 20)} checkpoints per fold)"
    if not soups or after < before:
        print(f"{title} are left out: they {'score worse than' if soups else 'equal'} the best checkpoints.")
        return []
    print(f"{title} take part: they score {scorer.sign * after:.4f}, the best checkpoints {scorer.sign * before:.4f}.")
    make_folder(folder)
    members = run.of_rank(0)
    for fold, (network, scores) in soups.items():
        info = replace(members[fold].info, scores=scores, versions=library_versions())
        path = folder / f"{prefix}_fold{fold:02d}_{checkpoint_name(info.epoch, info.monitor, info.score)}"
        save_checkpoint(path, network, info)
        members[fold] = Member(path, info, fold)
    return [Candidate(voter, None, members, answers)]


def _make_soup(
    run: OofRun, fold: int, answers: np.ndarray, validation: Validation, scorer: Scorer
) -> tuple[int, tuple[Network, dict[str, float], np.ndarray] | None]:
    """Make the greedy soup of a fold: from the best checkpoint on, each one joins if the score is not worse with it.

    Statistics of BatchNorm are averaged like the weights, counters are those of the best checkpoint, whose predictions
    are `answers (n, C)`.

    Returns:
        The number of checkpoints, and the network, its scores and its predictions; None if no checkpoint joined.
    """
    rows, members = run.rows[fold], run.members[fold]
    weights = [load_checkpoint(member.path)[0] for member in members]
    kept, soup = weights[:1], None
    for each in weights[1:]:
        network = members[0].info.build()
        network.load_state_dict(_average([*kept, each]))
        ready = validation.settings.make_ready(network, members[0].info.image_size)
        found = validation.predict([ready], members[:1], run.task, rows)[0]  # (n, V, C)
        mean = found.mean(axis=1)
        if np.isfinite(mean).all() and scorer.goodness(mean, rows) >= scorer.goodness(answers, rows):
            kept.append(each)
            answers = mean
            soup = network, score(run.task, found[:, 0], scorer.labels[rows]), mean
    return len(kept), soup


def _average(weights: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack([each[name] for each in weights]).mean(dim=0) if value.is_floating_point() else value
        for name, value in weights[0].items()
    }
