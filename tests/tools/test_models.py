"""python -m tools models: the rows of each library, patterns, and errors; timm is replaced by a stand-in."""

import sys
import types

import pytest
from torch import nn

from tools import models

WEIGHTS = {  # of the stand-in: where they are published, and with which images
    "tall.in1k": {"hf_hub_id": "timm/tall.in1k", "mean": (0.5, 0.5, 0.5), "input_size": (3, 64, 32)},
    "tall.pinned": {"hf_hub_id": "timm/tall@first", "hf_hub_filename": "tall.bin"},
    "wide.url": {"url": "https://example.org/wide-1234.pth?download=true", "input_size": (3, 384, 384)},
    "wide.untrained": {},
    "new": None,
}


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm and huggingface_hub; `cached` are the files of the latter's cache, `created` the networks."""
    library, hub = types.ModuleType("timm"), types.ModuleType("huggingface_hub")
    library.__version__, library.cached, library.created = "9.9", set(), []
    defaults = {"url": None, "hf_hub_id": None, "hf_hub_filename": None, "input_size": (3, 224, 224)}
    defaults |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bicubic", "crop_pct": 1}
    library.is_model = WEIGHTS.__contains__

    def create(name, pretrained):
        assert not pretrained
        library.created.append(name)
        network = nn.Linear(1000, 1000)
        assert network.weight.is_meta
        return network

    def find(repository, file, revision):
        return f"/cache/{file}" if (repository, file, revision) in library.cached else None

    library.list_models = lambda pretrained=False, include_tags=True: [
        name for name, about in WEIGHTS.items() if about or not pretrained
    ]
    library.get_pretrained_cfg = lambda name: (
        None if WEIGHTS[name] is None else types.SimpleNamespace(**defaults | WEIGHTS[name])
    )
    library.create_model, hub.try_to_load_from_cache = create, find
    monkeypatch.setitem(sys.modules, "timm", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return library


@pytest.fixture
def checkpoints(monkeypatch, tmp_path):
    """The folder of downloaded weights of torch.hub, which is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def table(run):
    """Runs the command, and returns the rows by name, split into cells, and the lines that follow."""

    def command(*words):
        lines = run("models", *words).assert_success().out.splitlines()
        end = lines.index("")
        assert lines[0].split() == ["name", "library", "input", "million", "mean", "weights"]
        return {line.split()[0]: line.split()[1:] for line in lines[1:end]}, lines[end + 1 :]

    return command


def test_without_a_pattern_the_libraries_but_timm_are_listed(table, timm, checkpoints):
    (checkpoints / "resnet18-f37072fd.pth").touch()
    (checkpoints / "efficientnet-b0-355c32eb.pth").touch()
    rows, notes = table()
    imagenet = ["0.485", "0.456", "0.406"]
    assert rows["resnet18"] == ["torchvision", "224", "11.7", *imagenet, "here"]
    assert rows["efficientnet-b0"] == ["efficientnet_pytorch", "224", "5.3", *imagenet, "here"]
    assert rows["efficientnet-b3"] == ["efficientnet_pytorch", "300", "12.2", *imagenet, "-"]
    assert rows["efficientnet_v2_l"] == ["torchvision", "480", "118.5", "0.5", "0.5", "0.5", "-"]
    assert {cells[0] for cells in rows.values()} == {"torchvision", "efficientnet_pytorch"}
    assert notes[-1] == "timm 9.9 has 3 more. To list them: python -m tools models '*vit*', or '*' for all"
    assert not timm.created


def test_networks_of_timm_have_their_size_mean_parameters_and_weights(table, timm, checkpoints):
    timm.cached = {("timm/tall.in1k", "model.safetensors", None), ("timm/tall", "tall.bin", "first")}
    (checkpoints / "wide-1234.pth").touch()
    imagenet = ["0.485", "0.456", "0.406"]
    rows, notes = table("timm")
    assert rows == {
        "tall.in1k": ["timm", "64x32", "1.0", "0.5", "0.5", "0.5", "here"],
        "tall.pinned": ["timm", "224", "1.0", *imagenet, "here"],
        "wide.url": ["timm", "384", "1.0", *imagenet, "here"],
        "wide.untrained": ["timm", "224", "1.0", *imagenet, "none"],
        "new": ["timm", "-", "1.0", *imagenet, "none"],
    }
    assert notes[-1] == "Networks: --model-type VanillaTimm for timm"
    timm.cached = {("timm/tall.in1k", "tall.bin", None), ("timm/tall", "tall.bin", None)}
    (checkpoints / "wide-1234.pth").unlink()
    rows, _ = table("*.*")
    assert [cells[-1] for cells in rows.values()] == ["-", "-", "-", "none"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("wide", ["wide_resnet101_2", "wide_resnet50_2", "wide.url", "wide.untrained"]),
        ("wide*", ["wide_resnet101_2", "wide_resnet50_2", "wide.url", "wide.untrained"]),
        ("t?ll", ["tall.in1k", "tall.pinned"]),  # with or without a tag
        ("tall.in1k", ["tall.in1k"]),
        ("VIT_?_32", ["vit_b_32", "vit_l_32"]),
        ("resnet[13]8", ["resnet18"]),
    ],
)
def test_patterns(pattern, expected, table, timm):
    assert list(table(pattern)[0]) == expected


def test_many_networks_are_listed_without_their_parameters(table, timm, monkeypatch):
    monkeypatch.setattr(models, "COUNTED", 1)
    rows, notes = table("tall")
    assert [cells[2] for cells in rows.values()] == ["-", "-"]
    assert notes[-1].startswith("Parameters are counted for at most 1 networks of timm.")
    assert not timm.created
    assert table("*in1k")[0]["tall.in1k"][2] == "1.0"


def test_all_are_listed_by_a_star(table, timm):
    rows, _ = table("*")
    assert {*WEIGHTS, "resnet18", "efficientnet-b7"} < set(rows)


def test_without_timm_the_others_are_listed_with_how_to_install_it(table, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for words in ((), ("resnet18",)):
        rows, notes = table(*words)
        assert "resnet18" in rows
        assert notes[-1] == "timm has about 1,800 more. To list and use them: pip install timm"
    run("models", "*deit*").assert_error("No backbone matches '*deit*'")
    run("models", "*deit*").assert_error("pip install timm adds about 1,800.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convnxt_tiny"], "No backbone matches 'convnxt_tiny'. Did you mean convnext_tiny"),
        (["*tal.in*"], "No backbone matches '*tal.in*'. Did you mean tall"),
        (["photo.jpg"], "No backbone matches 'photo.jpg'. Leave PATTERN out to list backbones."),
        (["config.py", "data"], "one PATTERN at most, and 'data' is another. Quote a pattern, as in '*vit*'."),
        (["--pattern", "vit"], "there is no option --pattern."),
    ],
)
def test_errors_are_one_line(words, message, run, timm):
    run("models", *words).assert_error(message)


@pytest.mark.parametrize("name", ["convnext_atto.d2_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_networks_of_the_true_timm(name, table):
    timm = pytest.importorskip("timm")
    about = timm.get_pretrained_cfg(name)
    count = sum(weights.numel() for weights in timm.create_model(name).parameters())
    mean = [f"{value:.3g}" for value in about.mean]
    assert table(name)[0][name][:-1] == ["timm", str(about.input_size[1]), f"{count / 1e6:.1f}", *mean]
