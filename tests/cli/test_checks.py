"""Wrong command lines: one line on stderr that names the value, what is allowed, and the nearest name."""

import re

import pytest

from cli.options import parse_config
from config import CheckConfig, EnsembleConfig, LabelErrorConfig, ScoreConfig, SingularConfig, TrainConfig
from utils import UserError

ACCEPTED = (
    *("--freeze", "--freeze --no-pretrained --load-state-dict weights.pth", "--age-filter 58", "--age-filter 60"),
    *("--cv 5 --folds 4", "--task age --loss-type smoothl1loss", "--num-workers 0", "--num-workers -1", "--seed 0"),
    "--model-type THANet --task gender --backbone resnet18",
)


@pytest.mark.parametrize("words", ACCEPTED)
def test_options_that_fit_together_are_accepted(words):
    assert parse_config(TrainConfig, words.split()).given


def error_line(cls, words, capsys):
    """Return the one line on stderr that a wrong command line ends with."""
    with pytest.raises(SystemExit) as stop:
        parse_config(cls, words.split())
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err.startswith(f"{cls.command}: ")
    assert printed.err.endswith("\n")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("cls", "words", "nearest"),
    [
        (TrainConfig, "--epoch 3", "--epochs"),
        (TrainConfig, "--model-typ=THANet", "--model-type"),
        (TrainConfig, "--btach-size 3", "--batch-size"),
        (TrainConfig, "--no-pretraind", "--no-pretrained"),
        (SingularConfig, "--data-rot x", "--data-root"),
        (EnsembleConfig, "--topk 2", "--top-k"),
        (TrainConfig, "--task age_g", "ageg"),
        (TrainConfig, "--model-type VanilaEfficientNet", "VanillaEfficientNet"),
        (TrainConfig, "--model-type THANet_MK2", "THANet_MK1"),
        (TrainConfig, "--transform-type face_crop", "facecrop"),
        (TrainConfig, "--optim-type admw", "adamw"),
        (TrainConfig, "--loss-type focaloss", "focalloss"),
        (TrainConfig, "--lr-scheduler cosinerestarts", "cosine_restarts"),
        (TrainConfig, "--backbone efficientnet-b9", r"efficientnet-b\d"),
        (TrainConfig, "--backbone resnet-50", "resnet50"),
        (TrainConfig, "--preset strongest", "strong"),
        (EnsembleConfig, "--method softvote", "softvoting"),
    ],
)
def test_the_nearest_name_is_suggested(cls, words, nearest, capsys):
    line = error_line(cls, words, capsys)
    *_, option, value = ("", *words.split())
    wrong = rf"{option} must be one of .*\. Got '{value}'" if nearest[0] != "-" else r"there is no option --\S+"
    assert re.search(rf"{wrong}\. Did you mean '{nearest}'\?", line), line


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("--learning-rate 3", r"there is no option --learning-rate\..* --help lists all options"),
        ("--optim-type zzz", r"--optim-type must be one of adam, adamw, adamp, sgd, momentum\. Got 'zzz'\.$"),
        ("--preset zzz", r"--preset must be one of source, strong, vit\. Got 'zzz'"),
        ("--loss-type mseloss", r"mseloss does not fit task main.*labelsmoothingloss, focalloss, crossentropyloss"),
        ("--task age --loss-type focalloss", r"focalloss does not fit task age.*mseloss, smoothl1loss"),
        ("--task age --model-type THANet", r"THANet_MK1 predicts classes and.*age.*VanillaEfficientNet"),
        ("--task age --model-type MultiLabelTHANet", r"MultiLabelTHANet predicts classes"),
        ("--task age --model-type MultiClassTHANet", r"MultiClassTHANet_MK1 predicts classes"),
        ("--backbone resnet18", r"resnet18 does not fit VanillaEfficientNet.*efficientnet-b0"),
        ("--model-type VanillaResNet --backbone efficientnet-b0", r"efficientnet-b0 does not fit VanillaResNet"),
        ("--freeze --drop-path 0.1", r"--drop-path has no effect with --freeze"),
        ("--pretrained a.pth --load-state-dict b.pth", r"--pretrained FILE and --load-state-dict both set"),
        ("--freeze --no-pretrained", r"--freeze.*--no-pretrained.*--load-state-dict"),
        ("--new-head", r"--new-head needs the weights of --load-state-dict"),
        ("--cv 5 --folds 5", r"--folds must be numbers from 0 to 4.*Got 5"),
        ("--folds 1", r"--folds.*0.*Got 1"),
        ("--cv 3 --folds=-1", r"--folds.*Got -1"),
        ("--cv 5 --folds first", r"--folds: must be fold numbers with commas, as in 0,2\. Got 'first'"),
        ("--age-filter 30", r"--age-filter must be 31 to 60.*Got 30"),
        ("--age-filter 61", r"--age-filter must be 31 to 60.*Got 61"),
        ("--task age --age-filter 58", r"--age-filter needs age groups, and task age has none"),
        ("--task gender --age-sigma 3", r"--age-sigma needs age groups, and task gender has none"),
        ("--task age --logit-adjustment 1", r"--logit-adjustment needs classes, and task age has none"),
        ("--task age --pseudo-labels x", r"--pseudo-labels needs classes, and task age has none"),
        ("--balance 1 --logit-adjustment 1", r"compensate for scarce classes\. Pass one of the two"),
        ("--resume --overwrite", r"--resume.*--overwrite"),
        ("--crop-scale 0", r"--crop-scale must be at least 0\.01"),
        ("--crop-scale 1.5", r"--crop-scale must be at most 1\. Got 1\.5"),
        ("--train-side 0", r"--train-side must be at least 0\.1"),
        ("--train-side 1.2", r"--train-side must be at most 1\. Got 1\.2"),
        ("--image-size 64 --train-side 0.4", r"--train-side 0\.4 of --image-size 64 is 26 pixels\. Use at least 32"),
        ("--transform-type facecrop --crop-scale 0.5", r"--crop-scale.*has no effect with transform facecrop"),
        ("--transform-type tta --inference-crop 0.8", r"--inference-crop has no effect with transform tta"),
        ("--pseudo-share 0.2", r"--pseudo-share has no effect without --pseudo-labels"),
        ("--freeze --backbone-lr 0.1", r"--backbone-lr has no effect with --freeze"),
        ("--freeze --layer-decay 0.7", r"--layer-decay has no effect with --freeze"),
        ("--backbone-lr 0.1 --layer-decay 0.7", r"--backbone-lr and --layer-decay both set .*Pass one of the two"),
        ("--layer-decay 0", r"--layer-decay must be at least 0\.01"),
        ("--layer-decay 1.1", r"--layer-decay must be at most 1"),
        ("--optim-type adamp --run-decay 0.1", r"--run-decay needs --optim-type adamw, not adamp"),
        ("--optim-type adamw --run-decay 0.1 --weight-decay 0", r"--weight-decay and --run-decay"),
        ("--precise-bn 1", r"--precise-bn must be 0, or at least 2 images\. Got 1"),
        ("--ema 1", r"--ema must be at most 0\.99999"),
        ("--erasing 2", r"--erasing must be at most 1"),
        ("--epochs 2 --warmup-epochs 2", r"--warmup-epochs must be below --epochs 2\. Got 2"),
        ("--patience=-1", r"--patience must be at least 0\. Got -1"),
        ("--patience 5", r"before --lr-scheduler cosine has.* Pass --lr-scheduler none or cosine_restarts, or leave"),
        ("--preset strong --patience 5", r"before --lr-scheduler onecycle has lowered the learning rate"),
        ("--lr-scheduler cosine_restarts --patience 4", r"--patience must be at least --restart-epochs 5, .*Got 4"),
        ("--lr-scheduler none --patience 3 --epochs 3", r"--patience must be below --epochs 3\. Got 3"),
        ("--lr-scheduler none --patience 1 --warmup-epochs 1.5", r"--patience must be at least --warmup-epochs 1\.5"),
        ("--lr 0", r"--lr must be greater than 0"),
        ("--lr nan", r"--lr must be at least 0\. Got nan"),
        ("--lr inf", r"--lr must be.*inf"),
        ("--lr=-0.1", r"--lr must be.*-0\.1"),
        ("--lr fast", r"--lr.*must be a number\. Got 'fast'"),
        ("--batch-size all", r"--batch-size: must be a whole number or auto\. Got 'all'"),
        ("--batch-size 1", r"--batch-size must be at least 2\. Got 1"),
        ("--epochs 0", r"--epochs must be at least 1\. Got 0"),
        ("--epochs 1.5", r"--epochs.* must be a whole number\. Got '1\.5'"),
        ("--epochs", r"--epochs: expected one argument"),
        ("--cv 0", r"--cv must be at least 1\. Got 0"),
        ("--batch-size 1", r"--batch-size must be at least 2\. Got 1"),
        ("--accumulate 0", r"--accumulate must be at least 1\. Got 0"),
        ("--accumulate 2.5", r"--accumulate.* must be a whole number\. Got '2\.5'"),
        ("--top-n 0", r"--top-n must be at least 1"),
        ("--restart-epochs 0", r"--restart-epochs must be at least 1"),
        ("--image-size 8", r"--image-size must be at least 32"),
        ("--num-workers=-2", r"--num-workers must be at least -1"),
        ("--seed=-1", r"--seed must be at least 0"),
        (f"--seed {2**32}", r"--seed must be below 4294967296"),
        ("photos", r"photos"),
    ],
)
def test_wrong_options_of_training(words, pattern, capsys):
    assert re.search(pattern, error_line(TrainConfig, words, capsys))


@pytest.mark.parametrize(
    ("cls", "words", "pattern"),
    [
        (SingularConfig, "--tta 0", r"--tta must be at least 1"),
        (SingularConfig, "--image-size 0", r"--image-size must be at least 32"),
        (EnsembleConfig, "--top-k 0", r"--top-k must be at least 1"),
        (EnsembleConfig, "--load-state-dict x.pt", r"--load-state-dict"),
        (CheckConfig, "--cv 0", r"--cv must be at least 1"),
        (CheckConfig, "--max-megapixels many", r"--max-megapixels.* must be a number\. Got 'many'"),
        (LabelErrorConfig, "--share 5", r"--share must be at most 1\. Got 5"),
        (ScoreConfig, "", r"--submission"),
    ],
)
def test_wrong_options_of_other_commands(cls, words, pattern, capsys):
    assert re.search(pattern, error_line(cls, words, capsys))


def test_a_config_checks_values_that_no_command_line_passed():
    with pytest.raises(UserError, match="--task must be one of main, mask, gender, ageg, age"):
        TrainConfig(task="wrong")
