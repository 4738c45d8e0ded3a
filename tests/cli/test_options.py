"""The command line of every command: defaults, spellings, presets, --help, and the frozen list of options."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

import config
from cli import options
from cli.options import parse_config
from config import PRESETS, EnsembleConfig, ModelsConfig, ScoreConfig, SingularConfig, TrainConfig

COMMANDS = config.command_configs()
ROOT = Path(config.__file__).parent
FROZEN = Path(__file__).parent / "command_lines.txt"


def describe(cls) -> str:
    """Return one line per option of a command: name, type, default and choices."""
    hints, lines = get_type_hints(cls), [cls.command]
    for f in sorted(options.options(cls), key=lambda f: f.name):
        kind = getattr(hints[f.name], "__name__", str(hints[f.name]))
        kind = "int | auto" if hints[f.name] == options.IntOrAuto else kind  # which Python versions name differently
        choices = f" of {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
        lines.append(f"  {options.spelling(f)} {kind} {json.dumps(f.default)}{choices}")
    return "\n".join(lines) + "\n"


def test_the_command_lines_are_frozen():
    """Scripts and notebooks depend on them: change the file only with an entry in CHANGELOG.md."""
    assert "".join(describe(cls) for cls in COMMANDS) == FROZEN.read_text()


def test_default_folders_lie_in_the_toolkit_and_typed_ones_in_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    got = parse_config(TrainConfig, ["--train-root", "photos"])
    assert Path(got.save_path) == ROOT / "saved_models"
    assert got.train_root == "photos"


@pytest.mark.parametrize("cls", COMMANDS)
def test_nothing_is_given_by_an_empty_command_line(cls):
    words = ["--submission", "x.csv"] if cls is ScoreConfig else []
    assert parse_config(cls, words).given == frozenset(name[2:] for name in words[:1])


def test_dashes_and_underscores_are_the_same_in_names_but_not_in_values():
    dashes = parse_config(TrainConfig, ["--model-type", "VanillaResNet", "--batch-size=7", "--no-pretrained"])
    underscores = parse_config(TrainConfig, ["--model_type", "VanillaResNet", "--batch_size=7", "--no_pretrained"])
    assert dashes == underscores
    assert dashes.given == underscores.given == {"model_type", "batch_size", "pretrained"}
    got = parse_config(TrainConfig, ["--lr_scheduler=cosine_restarts", "--save_path", "my_runs"])
    assert (got.lr_scheduler, got.save_path) == ("cosine_restarts", "my_runs")


@pytest.mark.parametrize(
    ("cls", "words", "name"),
    [
        (TrainConfig, "--task MAIN", "main"),
        (TrainConfig, "--model-type vanillaefficientnet", "VanillaEfficientNet"),
        (TrainConfig, "--model-type THANet", "THANet_MK1"),
        (TrainConfig, "--model-type multiclassthanet", "MultiClassTHANet_MK1"),
        (TrainConfig, "--model-type thanet_mk1", "THANet_MK1"),
        (TrainConfig, "--optim-type AdamP", "adamp"),
        (TrainConfig, "--loss-type labelsmoothingLoss", "labelsmoothingloss"),
        (TrainConfig, "--loss-type focal", "focalloss"),
        (TrainConfig, "--loss-type CrossEntropy", "crossentropyloss"),
        (TrainConfig, "--task age --loss-type mse", "mseloss"),
        (TrainConfig, "--task age --loss-type SmoothL1", "smoothl1loss"),
        (TrainConfig, "--transform-type FaceCrop", "facecrop"),
        (TrainConfig, "--lr-scheduler None", "none"),
        (TrainConfig, "--backbone EfficientNet-B0", "efficientnet-b0"),
        (TrainConfig, "--model-type JointHeads --backbone ResNet18", "resnet18"),
        (SingularConfig, "--model-type thanet", "THANet_MK1"),
        (EnsembleConfig, "--method soft", "softvoting"),
        (EnsembleConfig, "--method HardVoting", "hardvoting"),
    ],
)
def test_names_in_any_case_and_their_aliases(cls, words, name):
    option = words.split()[-2]
    assert getattr(parse_config(cls, words.split()), option[2:].replace("-", "_")) == name


def test_spaces_around_names_do_not_count():
    config = parse_config(TrainConfig, ["--data", "photos.csv", "--label", "diagnosis, sex "])
    assert config.label == ("diagnosis", "sex")


def test_a_word_needs_no_name():
    assert parse_config(ModelsConfig, ["vit_b"]).pattern == "vit_b"
    assert parse_config(ModelsConfig, []).pattern is None


def test_as_dict_returns_plain_values():
    values = parse_config(TrainConfig, ["--cv", "5", "--folds", "2,0,2"]).as_dict()
    assert values["folds"] == [0, 2]
    assert set(values) == {f.name for f in options.options(TrainConfig)}  # not `given`


# ------------------------------------------------------------------------------------------------ presets


def test_the_source_preset_is_the_best_model_of_the_source():
    words = "--cv=5 --lr=0.001 --lr-scheduler=cosine_restarts --transform-type=tta --backbone=efficientnet-b3"
    expected = replace(parse_config(TrainConfig, words.split()), preset="source")
    assert parse_config(TrainConfig, ["--preset", "source"]) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_typed_options_win_over_a_preset(name):
    got = parse_config(TrainConfig, ["--lr", "0.25", "--preset", name.upper()])
    assert got.as_dict() == got.as_dict() | PRESETS[name] | {"preset": name, "lr": 0.25}
    assert got.given == {"lr", "preset"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("source --model-type VanillaResNet", {"model_type": "VanillaResNet", "backbone": "resnet50", "lr": 0.001}),
        ("source --task age", {"model_type": TrainConfig.model_type, "loss_type": "mseloss", "lr": 0.001}),
        ("strong --task age", {"model_type": TrainConfig.model_type, "loss_type": "mseloss", "lr": 0.002}),
        ("strong --model-type jointheads", {"backbone": "efficientnet-b3"}),  # the network of the preset
        ("strong", {"run_decay": 1.5}),
        ("strong --optim-type adam", {"run_decay": 0}),
        ("strong --optim-type AdamP", {"run_decay": 0}),
        ("strong --weight-decay 0", {"run_decay": 0}),
        ("vit --weight-decay 0.1", {"run_decay": 0, "weight_decay": 0.1, "layer_decay": 0.75}),
        ("vit --freeze", {"layer_decay": 1}),
        ("vit --backbone-lr 0.1", {"layer_decay": 1, "clip_grad": 1}),
    ],
)
def test_a_preset_leaves_out_what_does_not_fit_the_typed_options(words, expected):
    values = parse_config(TrainConfig, ["--preset", *words.split()]).as_dict()
    assert values == values | expected


@pytest.mark.parametrize("name", PRESETS)
def test_help_shows_a_preset_as_words_that_mean_the_same(name, capsys):
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, ["--help"])
    words = options.preset_words(PRESETS[name])
    assert "".join(f"--preset {name}: {words}".split()) in "".join(capsys.readouterr().out.split())
    expected = parse_config(TrainConfig, ["--preset", name])
    assert replace(parse_config(TrainConfig, words.split()), preset=name) == expected


# ------------------------------------------------------------------------------------------------ --help


@pytest.mark.parametrize("cls", COMMANDS)
def test_help_and_the_table_of_the_docs_show_every_option(cls, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(cls, ["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    flags = [options.spelling(f) for f in options.options(cls)]
    assert all(flag in printed for flag in flags)
    assert "%%" not in printed
    rows = [row for row in options.options_table(cls).splitlines() if row.startswith("| `")]
    assert [row.split("`")[1].split(",")[0].split()[0] for row in rows] == flags
    assert all(row.count(" | ") == 2 for row in rows)
    assert not [f.name for f in options.options(cls) if len(f.metadata["help"]) >= 70]


def test_help_shows_groups_defaults_and_choices(capsys):
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, ["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for title in ("Data:", "Model:", "Augmentation:", "Optimization:", "Checkpoints and reports:", "System:"):
        assert title in printed
    assert "(default: 0.005)" in printed
    assert "cosine, cosine_restarts, onecycle, none (default: cosine)" in printed
    assert "10 % of the people" in printed


@pytest.mark.parametrize("default", [None, "resnet18"])
def test_an_edited_default_is_shown(default, monkeypatch):
    backbone = next(f for f in options.options(TrainConfig) if f.name == "backbone")
    monkeypatch.setattr(backbone, "default", default)
    assert options.default_text(backbone) == (default or "by network")


# ------------------------------------------------------------------------------------------------ before torch

# Runs command lines as `python script.py words...` would, and prints the exit code, stderr and which of torch and NumPy
# were imported.
CHILD = """
import contextlib, io, json, runpy, sys
results, (root, *lines) = [], sys.argv[1:]
for line in lines:
    (script, *words), err = line.split(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            if script.endswith(".py"):
                sys.argv = [script, *words]
                runpy.run_path(f"{root}/{script}", run_name="__main__")
            else:
                sys.argv = ["tools", script, *words]
                runpy.run_module("tools", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            results.append([stop.code, err.getvalue(), [m for m in ("torch", "numpy") if m in sys.modules]])
print(json.dumps(results))
"""


def run_lines(lines: Iterable[str], folder: Path) -> list[tuple[int, str, list[str]]]:
    """Return the exit code, stderr and heavy imports after each command line, run in one process in `folder`."""
    command, environment = [sys.executable, "-c", CHILD, ROOT], {"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "100"}
    how = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    child = subprocess.run([*command, *lines], **how)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_help_and_wrong_options_import_neither_torch_nor_numpy(tmp_path):
    lines = (
        *("train.py --help", "train.py --epoch 3", "train.py --task age --model-type THANet", "join_folds --help"),
        *("submit_singular.py --help", "submit_ensemble.py --method sofd", "compare_runs --root a,,b", "chek_data"),
        *("check_data --help", "show_views --transform-type rando", "make_sample --help", "score_submission"),
        *("models --help", "models resnet18 resnet34", "models --patern vit"),
        *("design_ensemble --help", "find_label_errors --help", "make_report --help", "show_views --help"),
    )
    for line, (code, err, heavy) in zip(lines, run_lines(lines, tmp_path), strict=True):
        wrong = "--help" not in line
        assert (code, heavy, err.count("\n")) == (2 * wrong, [], wrong), (line, err)


MISSING = [
    ("train.py --train-root lost", "There is no folder lost"),
    ("train.py --train-root faces --valid-root lost", "There is no folder lost"),
    ("train.py --train-root faces --corrections lost.csv", "There is no file lost.csv"),
    ("train.py --train-root faces --load-state-dict lost.pt", "There is no checkpoint file lost.pt"),
    ("train.py --train-root faces --save-path used", "already holds a run"),
    ("submit_singular.py --load-state-dict lost.pt", "There is no checkpoint file lost.pt"),
    ("submit_singular.py --load-state-dict a.pt --data-root lost", "There is no folder lost"),
    ("submit_ensemble.py --root lost", "There is no folder lost"),
    ("submit_ensemble.py --recipe lost.json", "lost.json is missing or damaged"),
    ("compare_runs --root empty,lost", "empty holds no kfold-ensemble-<network> folder"),
    ("join_folds --root used", "used holds no kfold-ensemble-<network> folder"),
    ("design_ensemble --root empty,lost", "empty holds no kfold-ensemble-<network> folder"),
    ("check_data --train-root lost", "There is no folder lost"),
    ("show_views --train-root lost", "There is no folder lost"),
    ("show_views --images lost.jpg,a.pt", "lost.jpg"),
    ("show_views --images empty", "empty"),
    ("show_views --images photo.jpg --save-path a.pt", "a.pt: File exists"),
    ("score_submission --submission lost.csv", "There is no file"),
]


def test_missing_files_are_reported_before_torch_is_imported(tmp_path, make_photo):
    for number in (1, 2):
        make_photo(tmp_path / "faces" / f"{number:06d}_male_Asian_20" / "normal.jpg")
    make_photo(tmp_path / "photo.jpg")
    (tmp_path / "empty").mkdir()
    run = tmp_path / "used" / "main" / "single-VanillaEfficientNet"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"task": "main", "cv": 1, "epochs": 1}')
    (tmp_path / "a.pt").touch()
    results = run_lines((line for line, _ in MISSING), tmp_path)
    for (line, message), (code, err, heavy) in zip(MISSING, results, strict=True):
        name = line.split()[0]
        program = name if name.endswith(".py") else f"python -m tools {name}"
        assert (code, err.count("\n")) == (2, 1), (line, err)
        assert "torch" not in heavy, line
        assert err.startswith(f"{program}: "), err
        assert message in err, err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "2000", "PILLOW_BLOCKS_MAX": "4"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "PILLOW_BLOCKS_MAX": "4"}),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_WAIT_POLICY": "PASSIVE", "PILLOW_BLOCKS_MAX": "4"}),
    ],
)
def test_environment_variables_of_the_user_stay(monkeypatch, given, expected):
    monkeypatch.setattr("os.environ", dict(given))
    options.configure_libraries()
    assert options.os.environ == expected
