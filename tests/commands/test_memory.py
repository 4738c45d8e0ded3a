"""Memory of a GPU that is too small for a batch, which the CPU plays here, and --batch-size auto."""

import json
import weakref
from types import SimpleNamespace

import pytest
import torch
from broken import assert_same_weights
from cases import NETWORK

from config import PRESETS, TrainConfig
from model import VanillaTorchvision
from storage.checkpoint import load_checkpoint
from training import memory
from training.memory import Trial

SINGLE = f"single-{NETWORK}"
GB = 2**30


@pytest.fixture
def limit(monkeypatch):
    """Gives the CPU the memory of a GPU for some images, from a forward pass on; `trained` has the batch sizes."""

    def set_limit(training, validation=1000, *, start=0, error=None):
        seen = SimpleNamespace(trained=[], network=None)

        def forward(self, images):
            seen.trained += [len(images)] if self.training else []
            if len(seen.trained) > start and len(images) > (training if self.training else validation):
                seen.network = seen.network or weakref.ref(self)
                raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines")
            return original(self, images)

        monkeypatch.setattr(VanillaTorchvision, "forward", forward)
        return seen

    original = VanillaTorchvision.forward
    monkeypatch.setattr(memory, "gpu_memory", lambda device: (2 * GB, 2 * GB))
    return set_limit


def test_a_batch_that_does_not_fit_names_the_largest_that_does(train, limit, monkeypatch, tmp_path):
    folder = tmp_path / "models" / "main" / SINGLE
    failed = limit(5)
    alive = []
    fits = Trial._fits
    monkeypatch.setattr(Trial, "_fits", lambda *args: alive.append(failed.network() is not None) or fits(*args))
    words = ("--batch-size", 16, "--accumulate", 2, "--ema", 0.9)
    train(*words, code=2).assert_error(
        "train.py: --batch-size 16 does not fit into the memory of cpu (2 GiB). 4 fits: pass --batch-size 4 "
        "--accumulate 8 for the same steps, or a smaller --image-size, or another --backbone. The run in "
        f"{folder} has begun with these options: add --overwrite or another --save-path, or continue it as it is with "
        "--resume on a GPU with more memory.\n"
    )
    assert alive == [False, False]  # the fold was freed before
    assert set(failed.trained) == {16, 8, 4}
    train(*words, "--batch-size", 4, "--accumulate", 8, "--overwrite")


def test_a_fold_that_did_not_fit_later_is_resumed_elsewhere(train, limit, tmp_path):
    words = ("--epochs", 2)
    limit(2, start=12)  # in the second epoch
    assert " 2 fits: pass --batch-size 2 --accumulate 4 for the same steps" in train(*words, code=2).err
    limit(1000)
    outcome = train(*words, "--resume")
    assert "fold 0: continuing after epoch 1\n" in outcome.out


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA", 2),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", 2),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", 2),
        ("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried", 1),
    ],
)
def test_errors_that_mean_a_full_gpu(message, code, train, limit):
    limit(1, error=RuntimeError(message))
    expected = "nor do 2 images per process. Pass a smaller --image-size" if code == 2 else "Out of memory"
    train(code=code).assert_error(expected, code)


def test_a_validation_that_does_not_fit(train, limit):
    failed = limit(1000, 9)  # images of it: 14, in batches of twice the size
    assert " 4 fits: pass --batch-size 4 --accumulate 4 for the same steps" in train("--batch-size", 16, code=2).err
    assert set(failed.trained) >= {16, 8, 4}


def test_half_of_an_odd_batch_makes_about_the_same_steps(train, limit):
    limit(5)
    error = train("--batch-size", 11, code=2).err
    assert " 5 fits: pass --batch-size 5 --accumulate 2 for about the same steps" in error


def test_checkpointing_is_for_backbones_of_timm():
    words = {"model_type": "VanillaTimm", "backbone": "convnext_nano"}
    assert memory._savings(TrainConfig(**words)).startswith("--grad-checkpointing, a smaller")
    for config in (TrainConfig(**words, grad_checkpointing=True), TrainConfig()):
        assert memory._savings(config) == "a smaller --image-size, or another --backbone"


# ------------------------------------------------------------------------------------------------ auto


def batch_sizes(folder):
    """Return the batch sizes in config.json and in the checkpoints of a run."""
    infos = [load_checkpoint(path)[1].config["batch_size"] for path in folder.rglob("*.pt")]
    return {json.loads((folder / "config.json").read_text())["batch_size"], *infos}


def test_auto_is_the_largest_batch_that_fits_and_changes_nothing_else(train, limit, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "LEAST_BATCHES", 2)
    words = ("--mixup", 0.5, "--ema", 0.9, "--precise-bn", 12)
    tried = limit(9)
    outcome = train(*words, "--batch-size", "auto", "--save-path", tmp_path / "auto")
    line = "--batch-size auto: 8 fits into the memory of cpu (2 GiB). A larger batch usually needs a larger --lr.\n"
    assert outcome.out.count(line) == 1
    assert tried.trained[:4] == [32, 16, 8, 8]  # half of the 70 images, as a power of 2
    train(*words, "--batch-size", 8, "--save-path", tmp_path / "typed")
    assert_same_weights(tmp_path / "auto", tmp_path / "typed")
    assert batch_sizes(tmp_path / "auto" / "main" / SINGLE) == {8}
    for typed in ("auto", 8):
        outcome = train(*words, "--batch-size", typed, "--save-path", tmp_path / "auto", "--resume")
        assert "finished earlier" in outcome.out


def test_folds_of_separate_commands_share_the_chosen_number(train, limit, monkeypatch, folds_folder):
    words = ("--cv", 2, "--batch-size", "auto", "--resume")
    limit(1000)
    assert "--batch-size auto: 2 fits" in train(*words, "--folds", 0).out  # 16 batches of 35 images
    monkeypatch.delattr(Trial, "first_that_fits")
    assert "--batch-size auto: 2, as the run to continue.\n" in train(*words, "--folds", 1).out
    assert batch_sizes(folds_folder) == {2}
    assert "--cv was 2 and is 3" in train(*words, "--cv", 3, "--folds", 1, code=2).err


def test_auto_without_room_for_two_images_begins_no_run(train, limit, tmp_path):
    limit(1)
    train("--batch-size", "auto", code=2).assert_error(
        "--batch-size auto: not even 2 images per process fit into the memory of cpu (2 GiB). Pass a smaller --image"
    )
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("preset", "size"), [((), 32), (("--preset", "source"), 9)], ids=["default", "preset"])
def test_auto_on_a_cpu_is_the_default(preset, size, train, monkeypatch, tmp_path):
    monkeypatch.setitem(PRESETS["source"], "batch_size", 9)
    network = ("--transform-type", "base", "--cv", 1)
    outcome = train(*preset, *network, "--batch-size", "auto")
    line = f"--batch-size auto: {size}, since only the memory of a GPU of CUDA is measured, not of cpu.\n"
    assert line in outcome.out
    assert batch_sizes(tmp_path / "models" / "main" / SINGLE) == {size}


def test_processes_agree_on_the_smallest_and_share_a_batch(monkeypatch):
    tried = []
    monkeypatch.setattr(Trial, "_fits", lambda self, size: tried.append(size) or size <= 24)
    others = iter([1, 1, 1, 0])  # failures
    dist = SimpleNamespace(max=lambda failed: max(failed, next(others)))
    trial = Trial(TrainConfig(), None, torch.device("cpu"), 3, 1000, 1000, dist)
    assert trial.first_that_fits([48, *trial.halves(48)]) == 6
    assert tried == [48, 24, 12, 6]
    assert list(trial.halves(20)) == [10, 6]
