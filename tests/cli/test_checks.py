"""Wrong command lines: one line on stderr that names the value, what is allowed, and the nearest name."""

from __future__ import annotations

import re

import pytest

from cli.choices import resolve_name
from cli.options import parse_config
from config import CheckConfig, EnsembleConfig, ScoreConfig, SingularConfig, TrainConfig
from utils import UserError


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


def refusal(cls, words, capsys):
    """Return the one line on stderr that a wrong command line ends with."""
    with pytest.raises(SystemExit) as stop:
        parse_config(cls, words)
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith(f"{cls.command}: ")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith("\n")
    return printed.err


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


def test_an_unknown_name_lists_the_allowed_ones(capsys):
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
        ("--crop-scale 0", r"--crop-scale must be at least 0\.01"),
        ("--crop-scale 1.5", r"--crop-scale must be at most 1\. Got 1\.5"),
        ("--crop-scale nan", r"--crop-scale must be"),
        ("--train-side 0", r"--train-side must be at least 0\.1"),
        ("--train-side 1.2", r"--train-side must be at most 1\. Got 1\.2"),
        ("--image-size 64 --train-side 0.4", r"--train-side 0\.4 of --image-size 64 is 26 pixels\. Use at least 32"),
        ("--transform-type facecrop --crop-scale 0.5", r"--crop-scale.*has no effect with transform facecrop"),
        ("--transform-type tta --inference-crop 0.8", r"--inference-crop has no effect with transform tta"),
        ("--pseudo-share 0.2", r"--pseudo-share has no effect without --pseudo-labels"),
        ("--freeze --backbone-lr 0.1", r"--backbone-lr has no effect with --freeze"),
        ("--optim-type adamp --run-decay 0.1", r"--run-decay needs --optim-type adamw, not adamp"),
        ("--optim-type adamw --run-decay 0.1 --weight-decay 0", r"--weight-decay and --run-decay"),
        ("--precise-bn 1", r"--precise-bn must be 0, or at least 2 images\. Got 1"),
        ("--ema 1", r"--ema must be at most 0\.99999"),
        ("--erasing 2", r"--erasing must be at most 1"),
        ("--task gender --age-sigma 3", r"--age-sigma needs age groups, and task gender has none"),
        ("--task age --logit-adjustment 1", r"--logit-adjustment needs classes, and task age has none"),
        ("--balance 1 --logit-adjustment 1", r"compensate for scarce classes\. Pass one of the two"),
        ("--epochs 2 --warmup-epochs 2", r"--warmup-epochs must be below --epochs 2\. Got 2"),
        ("--lr 0", r"--lr must be greater than 0"),
        ("--lr nan", r"--lr must be.*nan"),
        ("--lr inf", r"--lr must be.*inf"),
        ("--lr=-0.1", r"--lr must be.*-0\.1"),
        ("--lr fast", r"--lr.*fast"),
        ("--epochs 0", r"--epochs must be at least 1\. Got 0"),
        ("--epochs 1.5", r"--epochs.*1\.5"),
        ("--epochs", r"--epochs"),
        ("--cv 0", r"--cv must be at least 1\. Got 0"),
        ("--batch-size 1", r"--batch-size must be at least 2\. Got 1"),
        ("--top-n 0", r"--top-n must be at least 1"),
        ("--restart-epochs 0", r"--restart-epochs must be at least 1"),
        ("--image-size 8", r"--image-size must be at least 32"),
        ("--num-workers=-2", r"--num-workers must be at least -1"),
        ("--seed=-1", r"--seed must be at least 0"),
        ("--pretrained=yes", r"--pretrained"),
        ("photos", r"photos"),
    ],
)
def test_wrong_options_of_training(words, pattern, capsys):
    assert_matches(pattern, refusal(TrainConfig, words.split(), capsys))


@pytest.mark.parametrize(
    ("cls", "words", "pattern"),
    [
        (SingularConfig, "--tta 0", r"--tta must be at least 1"),
        (SingularConfig, "--image-size 0", r"--image-size must be at least 32"),
        (EnsembleConfig, "--top-k 0", r"--top-k must be at least 1"),
        (EnsembleConfig, "--task age --method hard", r"hardvoting.*age.*softvoting"),
        (EnsembleConfig, "--load-state-dict x.pt", r"--load-state-dict"),
        (CheckConfig, "--cv 0", r"--cv must be at least 1"),
        (CheckConfig, "--cv 5x", r"--cv.* must be a whole number\. Got '5x'"),
        (CheckConfig, "--max-megapixels many", r"--max-megapixels.* must be a number\. Got 'many'"),
        (ScoreConfig, "", r"--submission"),
    ],
)
def test_wrong_options_of_other_commands(cls, words, pattern, capsys):
    assert_matches(pattern, refusal(cls, words.split(), capsys))


def assert_matches(pattern, line):
    assert re.search(pattern, line), line


def test_a_wrong_list_of_folds_says_what_is_allowed(capsys):
    line = refusal(TrainConfig, ["--cv", "5", "--folds", "first"], capsys)
    assert "0,2" in line or "numbers" in line
    assert "fold_list" not in line  # a name in the code


def test_wrong_values_from_python_name_the_allowed_ones():
    with pytest.raises(UserError, match="--task must be one of main, mask, gender, ageg, age"):
        TrainConfig(task="wrong")
    with pytest.raises(UserError, match="must be one of a, b"):
        resolve_name("--x", "c", ["a", "b"])
