"""Predict images with several members."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from augmentation import Settings, build_transform
from cli.choices import MODELS
from cli.command import Context
from data.image_cache import ImageReader
from data.images import needed_side, stop_if_unreadable
from data.tables import PredictionList
from data.tasks import Task
from dataset import ViewDataset
from inference import voting
from inference.recipe import REMAKE, Recipe
from model import inference_network
from storage.checkpoint import CUTS
from storage.members import Member, open_member
from training.cuda_graph import GraphedNetwork, graphs_of
from training.device import count_workers, free_memory
from training.distributed import Processes
from training.engine import inference_dtype, predict, prepare
from training.loaders import PIXEL, Loader, view_loader
from utils import UserError, file_digest, shorten_list

# Options of both prediction commands that are arguments of PredictionSettings.choose.
OPTIONS = (
    *("batch_size", "num_workers", "device", "precision", "cuda_graphs"),
    *("transform_type", "max_megapixels", "on_bad_image"),
)


@dataclass(frozen=True)
class PredictionSettings:
    """How images are predicted."""

    views: int  # test-time views of each image
    batch_size: int  # views per step
    num_workers: int  # loader processes; -1 chooses a number
    device: torch.device
    dtype: torch.dtype  # of the weights
    dist: Processes  # that share the images
    transform_type: str | None = None  # of all members; None leaves it to their training
    members_at_once: int = 0  # in memory; 0 is all that fit
    max_megapixels: float | None = None  # of the largest image to read; None allows any
    on_bad_image: str = "stop"  # or "skip"
    cuda_graphs: bool = True  # replay networks as CUDA graphs, on a GPU

    @classmethod
    def choose(cls, dist: Processes, *, device: str, precision: str, **others: Any) -> PredictionSettings:
        """Return settings for the names of a device and a precision, which may be "auto"."""
        chosen = dist.choose_device(device)
        return cls(device=chosen, dtype=inference_dtype(precision, chosen), dist=dist, **others)

    def make_ready(self, network: nn.Module, image_size: int) -> nn.Module:
        """Return a copy of a network to predict with."""
        ready = prepare(inference_network(network, image_size), self.device, self.dtype)
        if self.device.type != "cuda":
            return ready
        return GraphedNetwork(ready, graphs_of(self.device, self.cuda_graphs))


@dataclass(frozen=True)
class Prediction:
    """The predictions of several members."""

    members: Sequence[Member]
    tasks: Sequence[Task]  # of each member
    images: PredictionList
    settings: PredictionSettings
    probabilities: list[np.ndarray]  # (N, C) of each member, or (N, 1) numbers
    unreadable: dict[str, str]  # reasons by image id; these images got the prediction of `usual_prediction`

    def combine(self, method: str) -> dict[str, np.ndarray]:
        """Return the submissions of a method by file stem: `(N, C)` predictions, or `(N,)` classes of hardvoting."""
        votes, info = np.stack(self.probabilities), self.members[0].info
        if method == "hardvoting":
            return {"submission_hardvoting": voting.hard_vote(votes)}
        scores = [member.info.score for member in self.members]
        weights = voting.member_weights(scores, higher_is_better=bool(info.higher_is_better))
        if weights is None:
            print("Some members have no validation score above 0. The weighted mean is the arithmetic mean.")
            weights = np.ones(len(votes))
        found = {
            "submission_arithmetic": votes.mean(axis=0),
            "submission_weighted_mean": voting.weighted_mean(votes, weights),
        }
        if self.tasks[0].has_geometric_mean:
            found["submission_geometric"] = voting.geometric_mean(votes, years=self.tasks[0].regression)
        return dict(sorted(found.items()))


def predict_images(
    members: Sequence[Member],
    tasks: Sequence[Task],
    images: PredictionList,
    settings: PredictionSettings,
    context: Context,
) -> Prediction:
    """Predict every image with every member, each for its task; an image is decoded once.

    Raises:
        UserError: images are missing or unreadable, an option does not fit the members, or weights their network.
    """
    dist, device = settings.dist, settings.device
    transforms = build_transforms(members, settings.views, settings.transform_type)
    for note in images.notes:
        print(note)
    with dist.connect(device):
        context.joined = True
        if any(ids != images.ids for ids in dist.gather(images.ids)):
            raise UserError("The machines have different images to predict. Copy the same images to all of them.")
        at_once = settings.members_at_once or _count_fitting(members, device, dist.local_size)
        networks = Networks(members, settings)
        if at_once >= len(members):
            networks = [*networks]
        else:
            print(f"The {len(members)} members take turns, {at_once} at a time.")
            for member in members:
                member.load()  # raises an error here, not after the first turns
        side = max(needed_side(member.info.image_size, member.info.crop_scale) for member in members)
        reader = ImageReader(side, max_megapixels=settings.max_megapixels)
        paths, errors = [str(path) for path in images.paths], {}
        answers = predict_views(
            networks, tasks, transforms, paths, images.ids, reader, settings, at_once=at_once, errors=errors
        )
    context.joined = False
    readable = np.array([row not in errors for row in range(len(paths))])
    if not readable.any():
        raise UserError(f"None of the {len(paths)} images in {images.paths[0].parent} can be read. Check the folder.")
    check_finite(answers[:, readable], members, settings.dtype)
    probabilities = [rows[:, : task.outputs] for rows, task in zip(answers, tasks, strict=True)]
    if errors:
        probabilities = _fill_unreadable(probabilities, members, tasks, readable)
    unreadable = {images.ids[row]: errors[row] for row in sorted(errors)}
    return Prediction(members, tasks, images, settings, probabilities, unreadable)


def predict_views(
    networks: Sequence[nn.Module],
    tasks: Task | Sequence[Task],
    transforms: Sequence[Callable],
    paths: Sequence[str],
    ids: Sequence[str],
    reader: ImageReader,
    settings: PredictionSettings,
    *,
    at_once: int | None = None,
    apart: bool = False,
    errors: dict[int, str] | None = None,
) -> np.ndarray:
    """Return the predictions of each network, see `engine.predict`.

    A view is made once for all networks that share a transform. `errors` gets the unreadable images, `{number:
    reason}`; without it the first one raises.
    """
    graphs_of(settings.device, settings.cuda_graphs)  # leaves the default stream, on which the loader would start
    first, *others = kinds = list(dict.fromkeys(transforms))
    report = errors is not None
    dataset = ViewDataset(paths, ids, first, others=others, views=settings.views, reader=reader, report_errors=report)
    batch_size, device, dist = max(1, settings.batch_size // settings.views), settings.device, settings.dist
    size = batch_size * settings.views * PIXEL * sum(math.prod(transform.size) for transform in kinds)
    workers = count_workers(settings.num_workers, device, sharing=dist.local_size, batch_bytes=size)
    loader = view_loader(dataset, batch_size=batch_size, workers=workers, device=device, dist=dist)
    if report:
        loader = CheckedLoader(loader, settings, errors)
    seen = [kinds.index(transform) for transform in transforms]
    return predict(networks, loader, tasks, kinds=seen, at_once=at_once, apart=apart)


class CheckedLoader(Loader):
    """A loader of views that collects the unreadable images of all processes in `errors`, complete after one pass.

    With `on_bad_image` "stop" it raises a UserError at the end of the pass if an image is unreadable.
    """

    def __init__(self, loader: Loader, settings: PredictionSettings, errors: dict[int, str]) -> None:
        super().__init__(loader.processes, loader.number, loader.batch_sampler, loader.device, loader.dist)
        self.settings, self.errors = settings, errors

    def __iter__(self) -> Iterator:
        stop = self.settings.on_bad_image == "stop"
        for rows, (views, targets) in zip(self.batch_sampler, super().__iter__(), strict=True):
            self.errors |= {row: error for row, error in zip(rows, targets["error"], strict=True) if error}
            if not (stop and self.errors):  # else only the other unreadable images are wanted
                yield views, {}
        for errors in self.settings.dist.gather(self.errors):
            self.errors |= errors
        unreadable = {self.dataset.paths[row]: self.errors[row] for row in sorted(self.errors)}
        stop_if_unreadable(unreadable, self.settings.on_bad_image)


def build_transforms(members: Sequence[Member], views: int, transform_type: str | None = None) -> list[Callable]:
    """Return the transform of each member, the same object for all that share crop, size and normalisation.

    Raises:
        UserError: a transform has fewer views.
    """
    cuts, ignored = [], set()
    for info in (member.info for member in members):
        name, crop = transform_type or info.transform_type, info.inference_crop
        if name != info.transform_type and crop is not None:  # it need not suit another transform
            ignored.add(crop)
            crop = None
        trained = {cut: getattr(info, cut) for cut in CUTS}
        cuts.append((name, Settings(info.image_size, **trained | {"inference_crop": crop}, as_bytes=True)))
    if ignored:
        print(f"Transform {transform_type} ignores the inference crop of the training ({shorten_list(ignored)}).")
    made = {}
    for name, settings in dict.fromkeys(cuts):
        made[name, settings] = transform = build_transform(name, "inference", **vars(settings))
        if transform.max_views is not None and views > transform.max_views:
            raise UserError(
                f"--tta {views} is more than the {transform.max_views} fixed views of transform {name}. Pass at most "
                f"{transform.max_views}, or --transform-type tta, which has any number."
            )
    return [made[cut] for cut in cuts]


@dataclass(frozen=True, eq=False)
class Networks(Sequence):
    """The members' networks, each loaded when it is used."""

    members: Sequence[Member]
    settings: PredictionSettings

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> nn.Module:
        member = self.members[index]
        return self.settings.make_ready(member.load(), member.info.image_size)


def _count_fitting(members: Sequence[Member], device: torch.device, processes: int) -> int:
    """Return how many members fit into half of the free memory, which processes on a CPU share.

    The other half is for their activations.
    """
    free, largest = free_memory(device), max(member.path.stat().st_size for member in members)
    if free is None:
        return len(members)
    share = free // processes if device.type == "cpu" else free
    return max(1, min(len(members), share // 2 // largest))


def check_finite(answers: np.ndarray, members: Sequence[Member], dtype: torch.dtype) -> None:
    """Raise a UserError if predictions are NaN or infinite."""
    wrong = [member.path.name for member, rows in zip(members, answers, strict=True) if not np.isfinite(rows).all()]
    if wrong:
        advice = "Use other checkpoints" if dtype == torch.float32 else "Pass --precision float32"
        raise UserError(f"Predictions of {shorten_list(wrong)} in {dtype} are NaN or infinite. {advice}.")


def _fill_unreadable(
    probabilities: list[np.ndarray], members: Sequence[Member], tasks: Sequence[Task], readable: np.ndarray
) -> list[np.ndarray]:
    """Return the predictions `(N, C)` of each member with the usual one in the rows that are not `readable (N,)`."""
    usual = {}
    for own in dict.fromkeys(tasks):
        same = [rows[readable] for task, rows in zip(tasks, probabilities, strict=True) if task == own]
        usual[own] = usual_prediction(members, own, np.stack(same)).astype(same[0].dtype)
    return [np.where(readable[:, None], rows, usual[own]) for own, rows in zip(tasks, probabilities, strict=True)]


def usual_prediction(members: Sequence[Member], task: Task, answers: np.ndarray) -> np.ndarray:
    """Return the prediction for an unreadable image: the shares of the classes in training, or the median number.

    Bare state dicts have no training counts; then the predictions `(M, N, C)` of the readable images are counted, those
    of all members with this task. The result is `(C,)`, or `(1,)` for a number.
    """
    infos, known = [member.info for member in members], has_training_counts(members, task)
    if task.regression:
        return np.array([np.mean([info.training_age for info in infos]) if known else np.median(answers)])
    if known:
        counts = np.sum([info.training_counts[task.name] for info in infos], axis=0)
    else:
        counts = np.bincount(answers.mean(axis=0).argmax(axis=1), minlength=answers.shape[2])
    return counts / counts.sum()


def has_training_counts(members: Sequence[Member], task: Task) -> bool:
    """Return whether all members have the counts, or for numbers the median, of their training labels."""
    name = "training_age" if task.regression else "training_counts"
    return all(getattr(member.info, name) is not None for member in members)


def open_recipe(recipe: Recipe, path: str | Path) -> tuple[list[Member], list[Task], list[int]]:
    """Open the members of a recipe, each once; checkpoints are relative to the folder of its file.

    Returns:
        The members, their tasks, and for each entry of the recipe the number of its member.

    Raises:
        UserError: a checkpoint is missing, or is not the one of the recipe.
    """
    opened: dict[tuple[Any, ...], Member] = {}
    keys = []
    for entry in recipe.members:
        file, task = Path(path).parent / entry["file"], entry["task"]
        keys.append((file, entry["fold"], task))
        if keys[-1] in opened:
            continue
        if not file.is_file():
            raise UserError(f"There is no checkpoint file {file} of {path}. Restore it or write the recipe again.")
        if file_digest(file) != entry["digest"]:
            raise UserError(
                f"{file} is not the checkpoint of {path}: its digest is {file_digest(file)}, not {entry['digest']}. "
                "Restore it or write the recipe again."
            )
        member = opened[keys[-1]] = open_member(file, fold=entry["fold"])
        if not MODELS[member.info.model_type].answers(recipe.tasks[task], member.info.task):
            raise UserError(f"{path} is damaged: {file} predicts {member.info.task}, not {task}. {REMAKE}")
    return list(opened.values()), [recipe.tasks[task] for *_, task in opened], [list(opened).index(key) for key in keys]
