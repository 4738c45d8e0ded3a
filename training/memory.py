"""Measure the largest batch that fits into the memory of a GPU, for --batch-size auto and when the memory runs out."""

import gc
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.create import find_library
from cli.checks import train_size
from config import TrainConfig
from data.prepare import Data
from data.tasks import Tasks
from model import inference_network
from storage.run_folder import RunFolder, can_continue
from training.cuda_graph import graphs_of
from training.device import is_out_of_memory, random_state, set_random_state
from training.distributed import Processes
from training.engine import evaluate, inference_dtype, prepare, train_one_epoch
from training.fold import Weights, create_network
from training.loaders import create_loaders
from training.session import Session, check_batch_size
from training.step import configured_criterion, configured_optimizer, create_step, explain_compile_errors
from utils import UserError

LEAST_BATCHES, LARGEST = 16, 512  # of --batch-size auto: batches of an epoch, images of a batch
RESERVE = 0.05  # share of the memory that stays free, since allocations leave gaps
STEPS = 1000  # of a schedule; any number


def gpu_memory(device: torch.device) -> tuple[int, int] | None:
    """Return the free and the total bytes of a GPU; None for other devices, whose memory is not measured."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else None


# ------------------------------------------------------------------------------------------------ measuring


class RandomImages(Dataset):
    """Random images `shape float32`, with a target for every task."""

    def __init__(self, tasks: Tasks, *shape: int) -> None:
        self.tasks, self.shape = tasks, shape

    def __getitem__(self, key: Any) -> tuple[Tensor, dict[str, int | float]]:
        return torch.rand(self.shape), {name: 30.0 if task.regression else 0 for name, task in self.tasks.items()}


@dataclass(frozen=True)
class Trial:
    """Training and validation with random images, to measure which batch size fits."""

    config: TrainConfig
    weights: Weights | None
    device: torch.device
    processes: int  # that share a batch
    train_images: int  # of the largest fold
    valid_images: int
    dist: Processes = field(default_factory=Processes)  # processes that try a batch size at the same time, and agree

    @property
    def least(self) -> int:
        """Return the smallest batch size."""
        return 2 * self.processes

    def halves(self, size: int) -> Iterator[int]:
        """Yield half of a batch size, half of that and so on, and at last the least."""
        while size > self.least:
            size = max(size // 2, self.least)
            yield size

    def first_that_fits(self, sizes: Iterable[int]) -> int | None:
        """Return the first of some batch sizes that fits, in every process, or None. No random state changes."""
        state = random_state(self.device)
        found = next((size for size in sizes if not self.dist.max(int(not self._fits(size)))), None)
        set_random_state(state, self.device)
        return found

    def _fits(self, size: int) -> bool:
        try:
            with explain_compile_errors():
                self._run(size)
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            free_gpu(self.config, self.device)

    def _run(self, size: int) -> None:
        """Train and validate as a fold does, with all that needs memory at the same time."""
        config, device = self.config, self.device
        reserve = torch.empty(int(RESERVE * gpu_memory(device)[1]), dtype=torch.uint8, device=device)
        network, average = create_network(config, self.weights, device)
        counts = {name: torch.ones(task.outputs) for name, task in config.tasks.items()}
        optimizer = configured_optimizer(config, network, config.epochs * STEPS)
        step = create_step(config, network, optimizer, device, steps=STEPS, counts=counts)
        # The optimizer makes its state in the first step, so the second needs most. With --accumulate, the gradients
        # of the first batch of a step are there in the forward pass of the next.
        accumulate = min(2, config.accumulate)
        side, images = train_size(config.train_side, config.image_size), min(size, self.train_images)
        train = RandomImages(config.tasks, 3, side, side), [range(-(-images // self.processes))] * 2 * accumulate
        side, images = config.image_size, min(2 * size, self.valid_images)
        valid = RandomImages(config.tasks, 1, 3, side, side), [range(images)]
        train, valid = create_loaders([train, valid], workers=0, device=device, pin=False)
        title = f"batch size {size}"
        train_one_epoch(
            step,
            train,
            accumulate=accumulate,
            title=title,
            after_step=lambda _: average and average.update_parameters(network),
        )
        dtype = inference_dtype(config.precision, device)
        validated = inference_network(average.module if average else network, config.image_size)
        criterion = configured_criterion(config)
        evaluate(prepare(validated, device, dtype), valid, criterion, config.record, title=title)
        del reserve


def free_gpu(config: TrainConfig, device: torch.device) -> None:
    """Free the memory that CUDA graphs and deleted objects hold on a GPU."""
    if graphs := graphs_of(device, config.cuda_graphs):
        graphs.release()
    if config.compile:
        torch.compiler.reset()
    gc.collect()  # some refer to each other
    torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------------ auto


def choose_batch_size(
    config: TrainConfig, run: RunFolder, data: Data, weights: Weights | None, dist: Processes, device: torch.device
) -> int:
    """Return the batch size of a run; for "auto" that of the run to continue, or the largest that fits the GPU.

    It leaves LEAST_BATCHES batches in an epoch of every fold. Devices other than GPUs take the default.

    Raises:
        UserError: not even two images per process fit.
    """
    if config.batch_size != "auto":
        return config.batch_size
    earlier = dist.run_on_main(lambda: run.read_config().batch_size if can_continue(run, config) else None)
    if earlier is not None:
        check_batch_size(earlier, dist)
        print(f"--batch-size auto: {earlier}, as the run to continue.")
        return earlier
    tables = [data.fold_tables(fold) for fold in data.split.folds]
    train, valid = ([len(table) for table in kind] for kind in zip(*tables, strict=True))
    trial = Trial(config, weights, device, dist.world_size, max(train), max(valid), dist)
    if gpu_memory(device) is None:
        preset = config.presets.get(config.preset, {})
        size = max(preset.get("batch_size", TrainConfig.batch_size), trial.least)
        print(f"--batch-size auto: {size}, since only the memory of a GPU of CUDA is measured, not of {device}.")
        return size
    largest = max(1, min(LARGEST, min(train) // LEAST_BATCHES))
    first = max(trial.least, 2 ** (largest.bit_length() - 1))
    size = trial.first_that_fits([first, *trial.halves(first)])
    if size is None:
        raise UserError(
            f"--batch-size auto: not even 2 images per process fit into the memory of {_describe(device)}. Pass "
            f"{_savings(config)}."
        )
    fits = f"{size} fits into the memory of {_describe(device)}"
    print(f"--batch-size auto: {fits}. A larger batch usually needs a larger --lr.")
    return size


# ------------------------------------------------------------------------------------------------ out of memory


@contextmanager
def explain_full_memory(session: Session) -> Iterator[None]:
    """Raise a UserError with the batch size that fits if the memory of the GPU runs out in a block."""
    try:
        yield
    except RuntimeError as error:
        if gpu_memory(session.device) is None or not is_out_of_memory(error):
            raise
        failed: BaseException | None = error
        while failed is not None:  # the network and its gradients are local variables of what failed
            traceback.clear_frames(failed.__traceback__)
            failed = failed.__context__
        session.networks.clear()
        free_gpu(session.config, session.device)
        raise UserError(_advise(session)) from None


def _advise(session: Session) -> str:
    """Return what did not fit, what does, and how to train again."""
    config, loaders = session.config, session.loaders.values()
    train = max(len(each.train.dataset) for each in loaders)
    valid = max(len(each.valid.dataset) for each in loaders)
    # Other processes of the run may wait for this one, so it tries alone.
    trial = Trial(config, session.weights, session.device, session.dist.world_size, train, valid)
    size = trial.first_that_fits(trial.halves(config.batch_size))
    place, others = f"the memory of {_describe(session.device)}", _savings(config)
    if size is None:
        text = f"--batch-size {config.batch_size} does not fit into {place}, nor do 2 images per process. Pass {others}"
    else:
        parts = round(config.batch_size / size)
        same = "the same" if parts * size == config.batch_size else "about the same"
        text = (
            f"--batch-size {config.batch_size} does not fit into {place}. {size} fits: pass --batch-size {size} "
            f"--accumulate {parts * config.accumulate} for {same} steps, or {others}"
        )
    return (
        f"{text}. The run in {session.run.path} has begun with these options: add --overwrite or another --save-path, "
        "or continue it as it is with --resume on a GPU with more memory."
    )


def _describe(device: torch.device) -> str:
    """Return the name of a GPU and the size of its memory, with what is free if others use it."""
    free, total = gpu_memory(device)
    used = f", {free / 2**30:.0f} of them free" if free < 0.9 * total else ""
    return f"{device} ({total / 2**30:.0f} GiB{used})"


def _savings(config: TrainConfig) -> str:
    """Return the other options that save memory."""
    has_checkpointing = find_library(config.model_type, config.backbone) == "timm" and not config.grad_checkpointing
    return f"{'--grad-checkpointing, ' if has_checkpointing else ''}a smaller --image-size, or another --backbone"
