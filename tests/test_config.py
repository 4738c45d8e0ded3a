"""Tasks and labels, the options of every command with their defaults, and what the command line refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import config
from augmentation import TRANSFORMS
from cli import choices, options
from cli.choices import resolve_name
from cli.options import parse_config
from config import CheckConfig, EnsembleConfig, ScoreConfig, SingularConfig, TrainConfig
from data.tasks import (
    AGE_GROUPS,
    CLASSIFICATION_LOSSES,
    GENDERS,
    MAIN_CLASSES,
    MASKS,
    REGRESSION_LOSSES,
    SHOTS,
    TASKS,
    age_group,
    decode_class,
    encode_class,
)
from loss import LOSSES
from model import MODELS
from optim import OPTIMIZERS, SCHEDULES
from utils import UserError

COMMANDS = config.command_configs()
ROOT = Path(config.__file__).parent


# ------------------------------------------------------------------------------------------------ tasks


@pytest.mark.parametrize("number", range(18))
def test_class_numbers_and_names_go_round(number):
    mask, gender, group = decode_class(number)
    assert encode_class(mask, gender, group) == number
    assert MAIN_CLASSES[number] == f"{MASKS[mask]} {GENDERS[gender]} {AGE_GROUPS[group]}"


@pytest.mark.parametrize(
    ("gender", "mask", "numbers"),
    [
        ("male", "worn", (0, 1, 2)),
        ("male", "wrong", (6, 7, 8)),
        ("male", "bare", (12, 13, 14)),
        ("female", "worn", (3, 4, 5)),
        ("female", "wrong", (9, 10, 11)),
        ("female", "bare", (15, 16, 17)),
    ],
)
def test_class_table(gender, mask, numbers):
    named = tuple(MAIN_CLASSES.index(f"{mask} {gender} {group}") for group in ("<30", "30-59", ">=60"))
    encoded = tuple(encode_class(MASKS.index(mask), GENDERS.index(gender), group) for group in range(3))
    assert named == encoded == numbers


def test_there_are_18_classes_in_the_order_of_the_subtasks():
    assert len(MAIN_CLASSES) == len(set(MAIN_CLASSES)) == 18
    assert (MASKS, GENDERS) == (("worn", "wrong", "bare"), ("male", "female"))


@pytest.mark.parametrize(("age", "group"), [(0, 0), (29, 0), (29.99, 0), (30, 1), (59, 1), (59.9, 1), (60, 2), (99, 2)])
def test_bounds_of_age_groups(age, group):
    assert age_group(age) == group


def test_shots_are_the_stems_of_the_competition():
    assert [SHOTS[f"mask{i}"] for i in range(1, 6)] == ["worn"] * 5
    assert (SHOTS["incorrect_mask"], SHOTS["normal"], len(SHOTS)) == ("wrong", "bare", 7)


@pytest.mark.parametrize(
    ("task", "outputs", "loss", "monitor", "higher"),
    [
        ("main", 18, "labelsmoothingloss", "macro_f1", True),
        ("mask", 3, "labelsmoothingloss", "macro_f1", True),
        ("gender", 2, "labelsmoothingloss", "macro_f1", True),
        ("ageg", 3, "labelsmoothingloss", "macro_f1", True),
        ("age", 1, "mseloss", "rmse", False),
    ],
)
def test_tasks(task, outputs, loss, monitor, higher):
    record = TASKS[task]
    assert (record.outputs, record.losses[0], record.monitor, record.higher_is_better) == (
        outputs,
        loss,
        monitor,
        higher,
    )
    assert TrainConfig(task=task).loss_type == loss


def test_scores_of_age_and_of_classes():
    assert set(TASKS["age"].scores) == {"mae", "rmse", "macro_f1", "accuracy"}
    assert set(TASKS["main"].scores) == {"macro_f1", "accuracy"}


# ------------------------------------------------------------------------------------------------ defaults

TRAIN_DEFAULTS = {
    "task": "main",
    "model_type": "VanillaEfficientNet",
    "load_state_dict": None,
    "train_root": "input/data/train/images",
    "valid_root": None,
    "transform_type": "base",
    "age_filter": None,
    "epochs": 30,
    "cv": 1,
    "folds": None,
    "batch_size": 32,
    "optim_type": "adam",
    "loss_type": "labelsmoothingloss",
    "lr": 0.005,
    "lr_scheduler": "cosine",
    "seed": 42,
    "save_path": "saved_models",
    "top_n": 3,
    "image_size": 224,
    "pretrained": True,
    "freeze": False,
    "oversample": False,
    "resume": False,
    "overwrite": False,
    "corrections": None,
}
PREDICT_DEFAULTS = {
    "task": "main",
    "model_type": "VanillaEfficientNet",
    "transform_type": None,
    "data_root": "input/data/images",
    "save_path": "prediction",
    "tta": 1,
    "backbone": None,
    "image_size": None,
}
DEFAULTS = {
    TrainConfig: TRAIN_DEFAULTS,
    SingularConfig: {**PREDICT_DEFAULTS, "load_state_dict": None},
    EnsembleConfig: {**PREDICT_DEFAULTS, "root": None, "top_k": 3, "method": "softvoting", "folds": None},
}


@pytest.mark.parametrize(
    ("cls", "name", "value"), [(cls, name, value) for cls, values in DEFAULTS.items() for name, value in values.items()]
)
def test_default(cls, name, value, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the default folders lie beside the scripts, wherever a command is called from
    got = getattr(parse_config(cls, []), name)
    if name in ("train_root", "save_path", "data_root"):
        got, value = Path(got), ROOT / value
    assert got == value


@pytest.mark.parametrize(
    ("network", "backbone"),
    [
        ("VanillaEfficientNet", "efficientnet-b3"),
        ("VanillaResNet", "resnet50"),
        ("MultiClassTHANet_MK1", "efficientnet-b3"),
        ("MultiLabelTHANet", "efficientnet-b0"),
        ("THANet_MK1", "efficientnet-b3"),
    ],
)
def test_default_backbone(network, backbone):
    assert parse_config(TrainConfig, ["--model-type", network]).backbone == backbone


@pytest.mark.parametrize("cls", COMMANDS)
def test_nothing_is_given_by_an_empty_command_line(cls):
    words = ["--submission", "x.csv"] if cls is ScoreConfig else []
    assert parse_config(cls, words).given == frozenset(name[2:] for name in words[:1])


# ------------------------------------------------------------------------------------------------ accepted spellings


def test_dashes_and_underscores_are_one():
    dashes = parse_config(TrainConfig, ["--model-type", "VanillaResNet", "--batch-size=7", "--no-pretrained"])
    underscores = parse_config(TrainConfig, ["--model_type", "VanillaResNet", "--batch_size=7", "--no_pretrained"])
    assert dashes == underscores
    assert dashes.given == underscores.given == {"model_type", "batch_size", "pretrained"}


def test_underscores_in_values_stay():
    words = ["--lr_scheduler=cosine_restarts", "--train_root=a_b/c_d", "--save_path", "my_runs"]
    got = parse_config(TrainConfig, words)
    assert (got.lr_scheduler, got.train_root, got.save_path) == ("cosine_restarts", "a_b/c_d", "my_runs")


@pytest.mark.parametrize(
    ("cls", "option", "spelling", "name"),
    [
        (TrainConfig, "--task", "MAIN", "main"),
        (TrainConfig, "--model-type", "vanillaefficientnet", "VanillaEfficientNet"),
        (TrainConfig, "--model-type", "THANet", "THANet_MK1"),
        (TrainConfig, "--model-type", "multiclassthanet", "MultiClassTHANet_MK1"),
        (TrainConfig, "--model-type", "thanet_mk1", "THANet_MK1"),
        (TrainConfig, "--model-type", "MULTILABELTHANET", "MultiLabelTHANet"),
        (TrainConfig, "--optim-type", "AdamP", "adamp"),
        (TrainConfig, "--loss-type", "labelsmoothingLoss", "labelsmoothingloss"),
        (TrainConfig, "--loss-type", "focal", "focalloss"),
        (TrainConfig, "--loss-type", "LabelSmoothing", "labelsmoothingloss"),
        (TrainConfig, "--loss-type", "CrossEntropy", "crossentropyloss"),
        (TrainConfig, "--transform-type", "FaceCrop", "facecrop"),
        (TrainConfig, "--lr-scheduler", "Cosine", "cosine"),
        (TrainConfig, "--lr-scheduler", "None", "none"),
        (TrainConfig, "--backbone", "EfficientNet-B0", "efficientnet-b0"),
        (SingularConfig, "--model-type", "thanet", "THANet_MK1"),
        (EnsembleConfig, "--method", "soft", "softvoting"),
        (EnsembleConfig, "--method", "Hard", "hardvoting"),
        (EnsembleConfig, "--method", "HardVoting", "hardvoting"),
    ],
)
def test_names_in_any_case_and_their_aliases(cls, option, spelling, name):
    got = parse_config(cls, [option, spelling])
    assert getattr(got, option[2:].replace("-", "_")) == name


@pytest.mark.parametrize(("spelling", "name"), [("mse", "mseloss"), ("SmoothL1", "smoothl1loss")])
def test_short_names_of_regression_losses(spelling, name):
    assert parse_config(TrainConfig, ["--task", "age", "--loss-type", spelling]).loss_type == name


def test_folds_are_taken_once_and_in_order():
    assert parse_config(TrainConfig, ["--cv", "5", "--folds", "2,0,2"]).folds == (0, 2)


def test_typed_relative_paths_start_at_the_working_directory():
    assert parse_config(TrainConfig, ["--train-root", "photos"]).train_root == "photos"


def test_options_are_plain_values_in_files():
    values = parse_config(TrainConfig, ["--cv", "3", "--folds", "0,2"]).as_dict()
    assert values["folds"] == [0, 2]
    assert "given" not in values
    assert set(TRAIN_DEFAULTS) <= set(values)


@pytest.mark.parametrize(
    ("names", "factory"),
    [
        (choices.MODELS, MODELS),
        (choices.TRANSFORMS, TRANSFORMS),
        (choices.LOSSES, LOSSES),
        (choices.OPTIMIZERS, OPTIMIZERS),
        (choices.SCHEDULES, SCHEDULES),
    ],
    ids=["models", "transforms", "losses", "optimizers", "schedules"],
)
def test_names_on_the_command_line_are_those_of_the_factories(names, factory):
    assert set(names) == set(factory)
    assert len(names) == len(set(names))


def test_every_loss_belongs_to_one_kind_of_task():
    assert set(CLASSIFICATION_LOSSES) | set(REGRESSION_LOSSES) == set(LOSSES)
    assert not set(CLASSIFICATION_LOSSES) & set(REGRESSION_LOSSES)


def test_the_preset_of_the_source_is_its_best_model():
    words = "--cv=5 --lr=0.001 --lr-scheduler=cosine_restarts --transform-type=tta --backbone=efficientnet-b3"
    assert parse_config(TrainConfig, ["--preset", "source"]) == replace(
        parse_config(TrainConfig, words.split()), preset="source"
    )


@pytest.mark.parametrize("name", config.PRESETS)
def test_what_is_typed_wins_over_a_preset(name):
    got = parse_config(TrainConfig, ["--lr", "0.25", "--preset", name.upper()])
    values = got.as_dict()
    assert values["preset"] == name
    assert values["lr"] == 0.25
    assert {key: values[key] for key in config.PRESETS[name] if key != "lr"} == {
        key: value for key, value in config.PRESETS[name].items() if key != "lr"
    }
    assert got.given == {"lr", "preset"}


def test_a_backbone_of_a_preset_is_not_for_another_network():
    got = parse_config(TrainConfig, ["--preset", "source", "--model-type", "VanillaResNet"])
    assert (got.model_type, got.backbone, got.lr) == ("VanillaResNet", "resnet50", 0.001)
    for name in config.PRESETS:
        got = parse_config(TrainConfig, ["--preset", name, "--task", "age"])
        assert (got.model_type, got.loss_type, got.lr_scheduler) == (
            TrainConfig.model_type,
            "mseloss",
            config.PRESETS[name]["lr_scheduler"],
        )
    assert parse_config(TrainConfig, ["--model-type", "JointHeads", "--backbone", "ResNet18"]).backbone == "resnet18"
    got = parse_config(TrainConfig, ["--preset", "strong", "--model-type", "jointheads"])
    assert got.backbone == config.PRESETS["strong"]["backbone"]  # which is the network of the preset


def test_the_decay_of_a_preset_is_not_for_another_optimizer_or_beside_a_decay_that_is_typed():
    assert parse_config(TrainConfig, ["--preset", "strong"]).run_decay
    for words in ("--optim-type adam", "--optim-type AdamP", "--weight-decay 0"):
        assert parse_config(TrainConfig, ["--preset", "strong", *words.split()]).run_decay == 0


@pytest.mark.parametrize("name", config.PRESETS)
def test_help_shows_presets_as_they_are_typed(name, capsys):
    """The words that stand there say the same as the preset."""
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, ["--help"])
    words = options.preset_words(name)
    assert "".join(f"--preset {name}: {words}".split()) in "".join(capsys.readouterr().out.split())
    assert replace(parse_config(TrainConfig, words.split()), preset=name) == parse_config(
        TrainConfig, ["--preset", name]
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--freeze"],
        ["--freeze", "--no-pretrained", "--load-state-dict", "weights.pth"],
        ["--age-filter", "58"],
        ["--age-filter", "60"],
        ["--cv", "5", "--folds", "4"],
        ["--task", "age", "--loss-type", "smoothl1loss"],
        ["--model-type", "THANet", "--task", "gender", "--backbone", "resnet18"],
        ["--num-workers", "0"],
        ["--num-workers", "-1"],
        ["--seed", "0"],
    ],
    ids=" ".join,
)
def test_accepted(words):
    assert parse_config(TrainConfig, words).given


# ------------------------------------------------------------------------------------------------ refused


def refusal(cls, words, capsys):
    """The one line on stderr that a command line is refused with."""
    with pytest.raises(SystemExit) as stop:
        parse_config(cls, words)
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert told.out == ""
    assert told.err.startswith(f"{cls.command}: ")
    assert told.err.count("\n") == 1
    assert told.err.endswith("\n")
    return told.err


@pytest.mark.parametrize(
    ("cls", "words", "nearest"),
    [
        (TrainConfig, ["--epoch", "3"], "--epochs"),
        (TrainConfig, ["--model-typ=THANet"], "--model-type"),
        (TrainConfig, ["--btach-size", "3"], "--batch-size"),
        (TrainConfig, ["--no-pretraind"], "--no-pretrained"),
        (TrainConfig, ["--learning-rate", "3"], ""),
        (SingularConfig, ["--data-rot", "x"], "--data-root"),
        (EnsembleConfig, ["--topk", "2"], "--top-k"),
        (EnsembleConfig, ["--methods", "soft"], "--method"),
    ],
)
def test_mistyped_option(cls, words, nearest, capsys):
    line = refusal(cls, words, capsys)
    assert words[0].split("=")[0] in line
    if nearest:
        assert f"Did you mean '{nearest}'?" in line


@pytest.mark.parametrize(
    ("cls", "words", "nearest"),
    [
        (TrainConfig, ["--task", "man"], "main"),
        (TrainConfig, ["--task", "age_g"], "ageg"),
        (TrainConfig, ["--model-type", "VanilaEfficientNet"], "VanillaEfficientNet"),
        (TrainConfig, ["--model-type", "THANet_MK2"], "THANet_MK1"),
        (TrainConfig, ["--model-type", "MultiClasTHANet"], "MultiClassTHANet_MK1"),
        (TrainConfig, ["--transform-type", "face_crop"], "facecrop"),
        (TrainConfig, ["--transform-type", "randon"], "random"),
        (TrainConfig, ["--optim-type", "admw"], "adamw"),
        (TrainConfig, ["--optim-type", "momentun"], "momentum"),
        (TrainConfig, ["--loss-type", "labelsmootingloss"], "labelsmoothingloss"),
        (TrainConfig, ["--loss-type", "focaloss"], "focalloss"),
        (TrainConfig, ["--lr-scheduler", "cosinerestarts"], "cosine_restarts"),
        (TrainConfig, ["--backbone", "efficientnet-b9"], "efficientnet-b"),
        (TrainConfig, ["--backbone", "resnet-50"], "resnet50"),
        (SingularConfig, ["--task", "mian"], "main"),
        (EnsembleConfig, ["--method", "softvote"], "softvoting"),
        (ScoreConfig, ["--submission", "x.csv", "--task", "gendre"], "gender"),
    ],
)
def test_mistyped_name(cls, words, nearest, capsys):
    line = refusal(cls, words, capsys)
    assert words[-2] in line
    assert f"'{words[-1]}'" in line
    assert f"Did you mean '{nearest}" in line


def test_unknown_name_lists_those_there_are(capsys):
    line = refusal(TrainConfig, ["--optim-type", "zzz"], capsys)
    assert "adam, adamw, adamp, sgd, momentum" in line
    assert "Did you mean" not in line


THANETS = ("MultiClassTHANet_MK1", "MultiLabelTHANet", "THANet_MK1")


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("--loss-type mseloss", r"mseloss does not fit task main.*labelsmoothingloss, focalloss, crossentropyloss"),
        ("--task gender --loss-type smoothl1loss", r"smoothl1loss does not fit task gender"),
        ("--task age --loss-type focalloss", r"focalloss does not fit task age.*mseloss, smoothl1loss"),
        *((f"--task age --model-type {name}", rf"{name}.*age.*VanillaEfficientNet") for name in THANETS),
        ("--backbone resnet18", r"resnet18 does not fit VanillaEfficientNet.*efficientnet-b0"),
        ("--model-type VanillaResNet --backbone efficientnet-b0", r"efficientnet-b0 does not fit VanillaResNet"),
        ("--freeze --no-pretrained", r"--freeze.*--no-pretrained.*--load-state-dict"),
        ("--cv 5 --folds 5", r"--folds must be numbers from 0 to 4.*Got 5"),
        ("--folds 1", r"--folds.*0.*Got 1"),
        ("--cv 3 --folds=-1", r"--folds.*Got -1"),
        ("--folds a", r"--folds.*a"),
        ("--age-filter 30", r"--age-filter must be 31 to 60.*Got 30"),
        ("--age-filter 61", r"--age-filter must be 31 to 60.*Got 61"),
        ("--task age --age-filter 58", r"--age-filter.*task age"),
        ("--resume --overwrite", r"--resume.*--overwrite"),
        ("--preset strongest", r"--preset must be one of source, strong\. Got 'strongest'\. Did you mean 'strong'"),
        ("--crop-scale 0", r"--crop-scale must be 0\.01 or more"),
        ("--crop-scale 1.5", r"--crop-scale must be 1 or less\. Got 1\.5"),
        ("--crop-scale nan", r"--crop-scale must be"),
        ("--train-side 0", r"--train-side must be 0\.1 or more"),
        ("--train-side 1.2", r"--train-side must be 1 or less\. Got 1\.2"),
        ("--image-size 64 --train-side 0.4", r"--train-side 0\.4 of --image-size 64 is 26 pixels; the least is 32"),
        ("--transform-type facecrop --crop-scale 0.5", r"--crop-scale.*facecrop has not"),
        ("--transform-type tta --inference-crop 0.8", r"--inference-crop is about fixed crops"),
        ("--pseudo-share 0.2", r"--pseudo-share is about the photographs of --pseudo-labels"),
        ("--freeze --backbone-lr 0.1", r"--freeze.*--backbone-lr; pass one of the two"),
        ("--optim-type adamp --run-decay 0.1", r"--run-decay is for adamw, not adamp"),
        ("--optim-type adamw --run-decay 0.1 --weight-decay 0", r"--weight-decay and --run-decay"),
        ("--precise-bn 1", r"--precise-bn must be 2 photographs or more, or 0\. Got 1"),
        ("--ema 1", r"--ema must be 0\.99999 or less"),
        ("--erasing 2", r"--erasing must be 1 or less"),
        ("--task gender --age-sigma 3", r"--age-sigma is about age groups, which task gender has not"),
        ("--task age --logit-adjustment 1", r"--logit-adjustment is for classes and task age has none"),
        ("--balance 1 --logit-adjustment 1", r"pass one of the two"),
        ("--epochs 2 --warmup-epochs 2", r"--warmup-epochs must be below --epochs 2\. Got 2"),
        ("--lr 0", r"--lr must be greater than 0"),
        ("--lr nan", r"--lr must be.*nan"),
        ("--lr inf", r"--lr must be.*inf"),
        ("--lr=-0.1", r"--lr must be.*-0\.1"),
        ("--lr fast", r"--lr.*fast"),
        ("--epochs 0", r"--epochs must be 1 or more\. Got 0"),
        ("--epochs 1.5", r"--epochs.*1\.5"),
        ("--epochs", r"--epochs"),
        ("--cv 0", r"--cv must be 1 or more\. Got 0"),
        ("--batch-size 1", r"--batch-size must be 2 or more\. Got 1"),
        ("--top-n 0", r"--top-n must be 1 or more"),
        ("--restart-epochs 0", r"--restart-epochs must be 1 or more"),
        ("--image-size 8", r"--image-size must be 32 or more"),
        ("--num-workers=-2", r"--num-workers must be -1 or more"),
        ("--seed=-1", r"--seed must be 0 or more"),
        ("--pretrained=yes", r"--pretrained"),
        ("photos", r"photos"),
    ],
)
def test_refused_by_training(words, pattern, capsys):
    assert_matches(pattern, refusal(TrainConfig, words.split(), capsys))


@pytest.mark.parametrize(
    ("cls", "words", "pattern"),
    [
        (SingularConfig, "--tta 0", r"--tta must be 1 or more"),
        (SingularConfig, "--image-size 0", r"--image-size must be 32 or more"),
        (EnsembleConfig, "--top-k 0", r"--top-k must be 1 or more"),
        (EnsembleConfig, "--task age --method hard", r"hardvoting.*age.*softvoting"),
        (EnsembleConfig, "--load-state-dict x.pt", r"--load-state-dict"),
        (CheckConfig, "--cv 0", r"--cv must be 1 or more"),
        (CheckConfig, "--cv 5x", r"--cv.* must be a whole number\. Got '5x'"),
        (CheckConfig, "--max-megapixels many", r"--max-megapixels.* must be a number\. Got 'many'"),
        (ScoreConfig, "", r"--submission"),
    ],
)
def test_refused_by_the_other_commands(cls, words, pattern, capsys):
    assert_matches(pattern, refusal(cls, words.split(), capsys))


def assert_matches(pattern, line):
    assert re.search(pattern, line), line


def test_a_wrong_list_of_folds_says_what_is_allowed(capsys):
    line = refusal(TrainConfig, ["--cv", "5", "--folds", "first"], capsys)
    assert "0,2" in line or "numbers" in line
    assert "fold_list" not in line  # a name of the code, which says nothing to its user


def test_refusals_from_python_name_what_is_allowed():
    with pytest.raises(UserError, match="--task must be one of main, mask, gender, ageg, age"):
        TrainConfig(task="wrong")
    with pytest.raises(UserError, match="must be one of a, b"):
        resolve_name("--x", "c", ["a", "b"])


# ------------------------------------------------------------------------------------------------ --help, and speed


@pytest.mark.parametrize("cls", COMMANDS)
def test_help_tells_every_option(cls, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(cls, ["--help"])
    assert stop.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for field in options.options(cls):
        assert options.flag(field.name) in told
    assert "%%" not in told


def test_help_tells_defaults_and_choices(capsys):
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, ["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "(default: 0.005)" in told
    assert "cosine, cosine_restarts, onecycle, none (default: cosine)" in told
    assert "10 % of the people" in told


@pytest.mark.parametrize("cls", COMMANDS)
def test_options_table_has_a_row_for_every_option(cls):
    rows = options.options_table(cls).splitlines()[2:]
    assert [row.split("`")[1].split(",")[0] for row in rows] == [options.flag(f.name) for f in options.options(cls)]
    assert all(row.count(" | ") == 2 for row in rows)


# Prints the exit code and whether torch was imported, after the script ran as `python script.py words...` would.
CHILD = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    print("\\ncode", stop.code, "torch", "torch" in sys.modules, "numpy", "numpy" in sys.modules)
"""


@pytest.mark.parametrize(
    ("script", "words", "code"),
    [
        ("train.py", ["--help"], 0),
        ("train.py", ["--epoch", "3"], 2),
        ("train.py", ["--task", "age", "--model-type", "THANet"], 2),
        ("submit_singular.py", ["--help"], 0),
        ("submit_ensemble.py", ["--method", "sofd"], 2),
        ("join_folds.py", ["--help"], 0),
        ("compare_runs.py", ["--root", "a,,b"], 2),
        ("check_data.py", ["--help"], 0),
        ("show_views.py", ["--transform-type", "rando"], 2),
        ("score_submission.py", [], 2),
    ],
)
def test_help_and_mistakes_are_answered_before_torch_is_imported(script, words, code, tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT / script), *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.splitlines()[-1] == f"code {code} torch False numpy False", child.stderr
    assert child.stderr.count("\n") == (1 if code else 0)


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("train.py", ["--train-root", "lost"], "There is no folder lost"),
        ("train.py", ["--train-root", "faces", "--valid-root", "lost"], "There is no folder lost"),
        ("train.py", ["--train-root", "empty"], "empty"),
        ("train.py", ["--train-root", "faces", "--corrections", "lost.csv"], "There is no file lost.csv"),
        ("train.py", ["--train-root", "faces", "--load-state-dict", "lost.pt"], "There is no checkpoint file lost.pt"),
        ("train.py", ["--train-root", "faces", "--save-path", "used"], "already holds a run"),
        ("submit_singular.py", ["--load-state-dict", "lost.pt"], "There is no checkpoint file lost.pt"),
        ("submit_singular.py", ["--load-state-dict", "a.pt", "--data-root", "lost"], "There is no folder lost"),
        ("submit_ensemble.py", ["--root", "lost"], "There is no folder lost"),
        ("submit_ensemble.py", ["--root", "empty"], "empty holds no kfold-ensemble-<network> folder"),
        ("compare_runs.py", ["--root", "empty,lost"], "empty holds no kfold-ensemble-<network> folder"),
        ("join_folds.py", ["--root", "lost"], "There is no folder lost"),
        ("join_folds.py", ["--root", "used"], "used holds no kfold-ensemble-<network> folder"),
        ("design_ensemble.py", ["--root", "empty,lost"], "empty holds no kfold-ensemble-<network> folder"),
        ("submit_ensemble.py", ["--recipe", "lost.json"], "lost.json is missing or damaged"),
        ("check_data.py", ["--train-root", "lost"], "There is no folder lost"),
        ("show_views.py", ["--train-root", "lost"], "There is no folder lost"),
        ("show_views.py", ["--train-root", "empty"], "empty holds no photographs"),
        ("show_views.py", ["--images", "lost.jpg,a.pt"], "--images names what is not there: lost.jpg"),
        ("show_views.py", ["--images", "empty"], "empty holds no photographs"),
        ("show_views.py", ["--images", "a.pt"], "a.pt cannot be read as a picture (it is empty)"),
        ("show_views.py", ["--images", "photo.jpg", "--save-path", "a.pt"], "a.pt: File exists"),
        ("score_submission.py", ["--submission", "lost.csv"], "There is no file"),
    ],
)
def test_what_is_missing_is_told_before_torch_is_imported(script, words, told, tmp_path, make_photo):
    make_photo(tmp_path / "faces" / "000001_male_Asian_20" / "normal.jpg")
    make_photo(tmp_path / "photo.jpg")
    (tmp_path / "empty").mkdir()
    run = tmp_path / "used" / "main" / "single-VanillaEfficientNet"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"task": "main", "cv": 1, "epochs": 1}')
    (tmp_path / "a.pt").touch()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT / script), *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.splitlines()[-1].startswith("code 2 torch False"), child.stderr
    assert child.stderr.startswith(f"{script}: ")
    assert told in child.stderr
    assert child.stderr.count("\n") == 1


def test_a_default_edited_in_place_of_an_empty_one_is_shown():
    fields = {f.name: f for f in options.options(TrainConfig)}
    assert options.default_text(fields["backbone"]) == "the network's own"
    fields["backbone"].default = "resnet18"
    try:
        assert options.default_text(fields["backbone"]) == "resnet18"
    finally:
        fields["backbone"].default = None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "2000", "PILLOW_BLOCKS_MAX": "4"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "PILLOW_BLOCKS_MAX": "4"}),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_WAIT_POLICY": "PASSIVE", "PILLOW_BLOCKS_MAX": "4"}),
    ],
)
def test_settings_of_libraries_that_the_user_made_stay(monkeypatch, given, expected):
    monkeypatch.setattr("os.environ", dict(given))
    options.settle_libraries()
    assert config.os.environ == expected


def test_the_arms_of_the_study_are_options_of_training():
    from benchmarks.study import ARMS

    for words in ARMS.values():
        parse_config(TrainConfig, ["--preset", "strong", *words.split()])
