"""Weights: damaged, of something else, carrying code, or not fitting."""

import pickle
import re
import urllib.error
import warnings
import zipfile

import numpy as np
import pytest
import torch
from broken import Evil, bare, clear, cut, dangling, edit, evil, first_checkpoint, first_half, folder, put, saved
from cases import BARE, NETWORK, WEIGHTS, Case, assert_error, give_case, rows


def change(source, target, **changes):
    """Save a checkpoint with changes to its parts."""
    return saved(torch.load(source) | changes, target)


def flip_a_bit(source, target):
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    put(target, bytes(content))


def script(target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), clear(target))


def other_zip(target):
    with zipfile.ZipFile(clear(target), "w") as file:
        file.writestr("hello.txt", "hello")


def legacy(source, target, share=1.0):
    content = saved(torch.load(source), target, _use_new_zipfile_serialization=False).read_bytes()
    put(target, content[: int(len(content) * share)])


def not_a_number(source, target):
    weights = torch.load(source)["state_dict"]
    weights["linear.bias"][0] = float("nan")
    change(source, target, state_dict=weights)


def wrapped(source, target):
    """Save bare weights as DataParallel names them."""
    saved({f"module.{name}": value for name, value in torch.load(source)["state_dict"].items()}, target)


def with_bias(value):
    return lambda good, bad: bare(good, bad, **{"linear.bias": value})


def weights(id, pattern, make, code=2):
    """A file of weights: `make(source, target)` writes it, with the help of a good one."""
    return Case(id, pattern, lambda world: make(world.checkpoint, world.weights), code=code)


CODE = r"\.pt cannot be read as a checkpoint \(it (contains|is a pickle without weights and may contain) code"
DAMAGED = r"\.pt cannot be read as a checkpoint \(it is truncated or damaged"
NOT_OF_TORCH = r"\(it is not a file of torch\)"
UNREADABLE = r"\.pt cannot be read as a checkpoint"
# torch.load raises different errors for different bytes.
BYTES = (b"submission\n", b"Good\n", b"\x89PNG\r\n", b"PK\x03\x04", b".", b"(1")
NEITHER = r"\.pt (holds neither|is a checkpoint with missing or wrong parts|has checkpoint format 99|cannot be read as)"
NO_CHECKPOINTS = ({}, [1, 2], {"epoch": 3}, {"state_dict": [1]}, {0: torch.zeros(1)}, {"format_version": 1})
PARTS = "with missing or wrong parts"
SIZE = rf"\.pt is a checkpoint {PARTS} \(its image size is"


@rows(
    "submit_singular",
    weights("a command", CODE + r", \w+\.system", lambda good, bad: saved(evil(bad), bad)),
    weights("a command among weights", CODE, lambda good, bad: change(good, bad, more=evil(bad))),
    weights("a command in a description", CODE, lambda good, bad: edit(good, bad, task=evil(bad))),
    weights("a command, old format", CODE, lambda _, bad: saved(evil(bad), bad, _use_new_zipfile_serialization=False)),
    *(
        weights(f"a command, pickle protocol {k}", CODE, lambda _, bad, k=k: put(bad, pickle.dumps(evil(bad), k)))
        for k in range(6)
    ),
    weights("a whole network", CODE + r", torch\.nn\S+Linear,", lambda good, bad: saved(torch.nn.Linear(2, 2), bad)),
    weights("arrays of NumPy", CODE, lambda good, bad: saved({"weight": np.ones(3)}, bad)),
    weights("TorchScript", CODE + r", TorchScript", lambda good, bad: script(bad)),
    weights("a cut file", DAMAGED, lambda good, bad: put(bad, first_half(good.read_bytes()))),
    *(
        weights(f"the first {size} bytes", UNREADABLE, lambda good, bad, size=size: put(bad, good.read_bytes()[:size]))
        for size in (1, 1_000, 1_000_000)
    ),
    *(weights(f"{text}", UNREADABLE, lambda _, bad, text=text: put(bad, text)) for text in BYTES),
    *(weights(f"{each}", NEITHER, lambda _, bad, each=each: saved(each, bad)) for each in NO_CHECKPOINTS),
    weights("only a later format", NEITHER, lambda _, bad: saved({"format_version": 99}, bad)),
    weights("a file without its last byte", DAMAGED, lambda good, bad: put(bad, good.read_bytes()[:-1])),
    weights("a flipped bit", DAMAGED, flip_a_bit),
    weights("the old format cut", DAMAGED, lambda good, bad: legacy(good, bad, 0.5)),
    weights("the old format cut early", DAMAGED, lambda good, bad: legacy(good, bad, 0.0001)),
    weights("the old format", "", legacy, code=0),
    weights("another zip file", r"\(it is a zip file, but not of torch\)", lambda good, bad: other_zip(bad)),
    weights("text", NOT_OF_TORCH, lambda good, bad: put(bad, "hello\n")),
    weights("a web page", NOT_OF_TORCH, lambda good, bad: put(bad, "<!DOCTYPE html><html></html>")),
    weights("a pointer of Git LFS", NOT_OF_TORCH, lambda good, bad: put(bad, "version https://git-lfs")),
    weights("nothing", r"\(it is empty\)", lambda good, bad: put(bad, b"")),
    weights("format 2", r"has checkpoint format 2, and this", lambda good, bad: change(good, bad, format_version=2)),
    weights("a tensor as format", r"\.pt has ", lambda good, bad: change(good, bad, format_version=torch.zeros(2))),
    weights("no description", r"missing or wrong parts", lambda good, bad: change(good, bad, info=None)),
    weights("weights with NaN", r"\.pt contains NaN or infinite weights: linear\.bias\.", not_a_number),
    *(
        weights(f"an image size of {size}", SIZE, lambda good, bad, size=size: edit(good, bad, image_size=size))
        for size in (-5, "large", None, 2.5, True)
    ),
    weights("an unknown network", "model type of .*must be one", lambda good, bad: edit(good, bad, model_type="ViT")),
    weights("a task that is a number", PARTS, lambda good, bad: edit(good, bad, task=7)),
    weights("other classes", r"was trained on other classes", lambda good, bad: edit(good, bad, classes=["a", "b"])),
    weights("a mean that is text", r"\.pt", lambda good, bad: edit(good, bad, mean="dark")),
    weights("no score", r"\.pt", lambda good, bad: edit(good, bad, scores={})),
    weights("options that miss one", r"\.pt", lambda good, bad: edit(good, bad, config={"seed": 1})),
)
def test_weights(case, command, world, give):
    case.breaks(world)
    give(command, "--load-state-dict {weights}", pattern=case.pattern, code=case.code)
    assert not list(world.tmp.rglob("ran"))


def other_network(source, target):
    bare(source, target, without=["linear.bias"], **{"linear.weight": torch.ones(3, 512), "other": torch.ones(1)})


DEEPER = {f"layer5.{k}": torch.ones(1) for k in range(9)}
OTHER_PARTS = (
    r"linear\.bias is missing, other is not part of it, linear\.weight has shape \(3, 512\) instead of \(2, \d+\)\."
)
MORE_PARTS = r".* is not part of it, .* and \d+ more\."
DO_NOT_FIT = rf"\.pt do not fit {NETWORK} \(shufflenet_v2_x0_5, task gender\): "


@rows(
    "submit_singular",
    weights("of another network", DO_NOT_FIT + OTHER_PARTS, other_network),
    weights("of a deeper network", DO_NOT_FIT + MORE_PARTS, lambda good, bad: bare(good, bad, **DEEPER)),
    weights("with NaN", r"NaN or infinite weights: linear\.bias", with_bias(torch.full((2,), torch.nan))),
    weights("without values", r"\.pt", with_bias(torch.ones(2, device="meta"))),
    weights("of whole numbers", "", with_bias(torch.ones(2, dtype=torch.int8)), code=0),
    weights("of a wrapped network", "", wrapped, code=0),
)
def test_bare_weights(case, command, world, give):
    case.breaks(world)
    give(command, f"--load-state-dict {{weights}} {BARE}", pattern=case.pattern, code=case.code)


def replace_first(world, source):
    put(first_checkpoint(world.folds), source.read_bytes())


MOVED = r"is a checkpoint of fold 1, not of fold 0\. Move it back"


@rows(
    "submit_ensemble",
    Case("a fold of another split", "differ in split fingerprint", lambda w: replace_first(w, w.checkpoint)),
    Case("a folder for weights", r"\.pt", lambda w: folder(first_checkpoint(w.folds))),
    Case("a dangling link for weights", r"\.pt", lambda w: dangling(first_checkpoint(w.folds))),
    Case("a file for a fold", r"fold 1\b", lambda w: put(w.folds / "fold01", b"")),
    Case("a checkpoint of another fold", MOVED, lambda w: replace_first(w, first_checkpoint(w.folds, 1))),
)
def test_a_run_with_weights_that_do_not_belong_there(case, command, world, give):
    give_case(give, case, command, world)


@pytest.mark.parametrize("command", WEIGHTS.split())
def test_weights_that_are_a_pipe(command, world, give, pipe):
    ensemble = command == "submit_ensemble"
    pipe(first_checkpoint(world.folds) if ensemble else world.weights)
    give(command, "" if ensemble else "--load-state-dict {weights}", pattern=r"\.pt")


def test_the_pickle_of_these_rows_would_run_a_command(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty TORCH_HOME and no way out; the folder where torch keeps weights."""

    def fail(*args, **kwargs):
        raise urllib.error.URLError("no way out")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize(
    ("network", "backbone", "file"),
    [
        ("VanillaTorchvision", "shufflenet_v2_x0_5", "shufflenetv2_x0.5-f707e7126e.pth"),
        ("VanillaEfficientNet", "efficientnet-b0", "efficientnet-b0-355c32eb.pth"),
        ("THANet", "resnet18", "resnet18-f37072fd.pth"),
    ],
)
def test_imagenet_weights_without_a_network(network, backbone, file, world, no_network, run, tiny_training):
    common = [*tiny_training, "--train-root", world.train, "--save-path", world.saved]
    printed = run("train", *common, "--pretrained", "--model-type", network, "--backbone", backbone)
    assert printed.code == 2
    line = printed.err.splitlines()[-1]  # after what torch says of its download
    assert re.search(rf"no way out.*Put https?://\S+{re.escape(file)} at {re.escape(str(no_network / file))}", line)
    assert "--no-pretrained" in line
    assert not world.saved.exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 and no more", "cut", "another network"])
def test_imagenet_weights_that_are_broken(content, world, no_network, run, tiny_training):
    file = no_network / "shufflenetv2_x0.5-f707e7126e.pth"
    file.parent.mkdir(parents=True)
    if isinstance(content, str):
        torch.save({"conv1.weight": torch.zeros(1000 if content == "cut" else 3)}, file)
        if content == "cut":
            cut(file)
    else:
        file.write_bytes(content)
    printed = run("train", *tiny_training, "--pretrained", "--train-root", world.train, "--save-path", world.saved)
    reason = ".*" if content == "another network" else " cannot be read.*"
    assert_error(printed, rf"{re.escape(str(file))}{reason}--no-pretrained")
    assert not world.saved.exists()
