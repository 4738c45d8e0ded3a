"""Folders, options and weights that do not fit: one sentence, exit code 2, and nothing is left behind."""

import os
import shutil

import pytest
from broken import copy_run, edit, put
from cases import NETWORK, PREDICTION, Case, assert_error, give_case, rows

from augmentation import VIEWS
from data.faces import MASK


def empty(folder):
    """Delete the contents of a folder."""
    shutil.rmtree(folder)
    folder.mkdir()


def leave_one_person(world):
    for number in range(1, 6):
        shutil.rmtree(world.data.folder(number))


def leave_two_images(world):
    for number in range(2, 6):
        shutil.rmtree(world.data.folder(number))
    for number in range(2):
        world.data.photo(number, "mask1").unlink()


def break_twice(world):
    world.data.folder(0).rename(world.train / "someone")
    world.data.photo(1).rename(world.data.folder(1) / "mask6.jpg")


def copy_with_another_id(world):
    person = world.data.folder(0)
    shutil.copytree(person, world.tmp / "valid" / person.name.replace("_", "-1_", 1))


FOLDER_NAME = r"1 folder whose name is not <id>_<gender>_<race>_<age>.*: someone\."
SHOT_NAME = r"1 image whose name is none of the shots mask1\.\.mask5.*/mask6\.jpg\."
SHARED = "--train-root and --valid-root share people"
AGES, NO_GROUPS = "--age-filter 58 --task", ("mask", "gender", "age")
PATHS = ("--save-path", "--train-root", "--load-state-dict")
TRAIN_SIDE = r"vit_b_32 for --image-size 64 cannot train on images of 32 pixels \(.*\)\. Pass another --train-side"
WEIGHTS = "--load-state-dict {checkpoint}"
OTHER_BACKBONE = rf"holds {NETWORK} with shufflenet_v2_x0_5, not {NETWORK} with resnet34\. Pass --model-type"


@rows(
    "train",
    Case("no folder", r"There is no folder .*nowhere.*--train-root.*make_sample", words="--train-root {nowhere}"),
    Case("an empty folder", r"images holds no images", lambda w: empty(w.train)),
    Case("a file", r"There is no folder .*file\.txt", lambda w: put(w.file), "--train-root {file}"),
    Case("a folder name", FOLDER_NAME, lambda w: w.data.folder(0).rename(w.train / "someone")),
    Case("a shot name", SHOT_NAME, lambda w: w.data.photo(0).rename(w.data.folder(0) / "mask6.jpg")),
    Case("two problems", r"someone\.\n.*mask6\.jpg\.\n", break_twice, lines=2),
    Case("more folds than people", r"6 people cannot be split into 7 folds", words="--cv 7"),
    Case("one person", r"1 people cannot be split into 2 folds|one person", leave_one_person),
    Case("one image a fold", r"Fold \d has a single training image", leave_two_images, "--cv 2"),
    Case("a network for one size", TRAIN_SIDE, words="--backbone vit_b_32 --image-size 64 --train-side 0.5"),
    Case("a device", r"--device potato is not available", words="--device potato"),
    Case("a device that is not here", r"--device cuda:99 is not available", words="--device cuda:99"),
    Case("weights of another task", "was trained on task gender, not main", words=f"--task main {WEIGHTS}"),
    Case(
        "weights of a task with as many classes",
        "was trained on task mask, not ageg",
        lambda w: edit(w.checkpoint, w.weights, task="mask", classes=list(MASK.classes)),
        "--task ageg --load-state-dict {weights}",
    ),
    Case("weights of another backbone", OTHER_BACKBONE, words=f"--backbone resnet34 {WEIGHTS}"),
    Case("no weights", r"There is no checkpoint file .*nowhere", words="--load-state-dict {nowhere}"),
    Case("no corrections", r"There is no file .*nowhere", words="--corrections {nowhere}"),
    Case("no validation folder", r"There is no folder .*nowhere.*--valid-root", words="--valid-root {nowhere}"),
    Case("the same people to validate on", SHARED, words="--valid-root {train}"),
    Case("a person with two ids to validate on", SHARED, copy_with_another_id, "--valid-root {tmp}/valid"),
    Case("a save path that is a file", r"file\.txt", lambda w: put(w.file), "--save-path {file}"),
    *(Case(f"no ages in {task}", f"task {task} has none", words=f"{AGES} {task}") for task in NO_GROUPS),
    *(Case(f"an empty {name}", f"{name} must not be empty", words=f"{name}=") for name in PATHS),
)
def test_train(case, command, world, give):
    give_case(give, case, command, world)


VIEWS_LIMIT = rf"more than the {len(VIEWS)} fixed views of transform base"
OTHER_TASK = r"checkpoint of task gender and cannot predict task "


@rows(
    PREDICTION,
    Case("no folder", r"There is no folder .*nowhere.*--data-root", words="--data-root {nowhere}"),
    Case("an empty folder", r"images holds no images", lambda w: empty(w.images)),
    Case("too many views", VIEWS_LIMIT, words=f"--tta {len(VIEWS) + 1}"),
    Case("another network", rf"checkpoint with --model-type {NETWORK}, not THANet_MK1", words="--model-type THANet"),
    Case("another backbone", r"with --backbone shufflenet_v2_x0_5, not resnet50", words="--backbone resnet50"),
    Case("another image size", r"checkpoint with --image-size 32, not 224", words="--image-size 224"),
    Case("another task", OTHER_TASK + "main", words="--task main"),
    Case("ages of a classifier", OTHER_TASK + "age", words="--task age"),
    Case("a device", r"--device potato is not available", words="--device potato"),
    Case("a save path that is a file", r"file\.txt", lambda w: put(w.file), "--save-path {file}"),
)
def test_prediction(case, command, world, give):
    give_case(give, case, command, world)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("{nowhere}", r"There is no checkpoint file .*nowhere"),
        ("{single}", rf"no checkpoint file .*single-{NETWORK}"),
        ("{bare}", r"bare\.pth do not fit VanillaEfficientNet"),
        (
            f"{{bare}} --model-type {NETWORK} --backbone shufflenet_v2_x0_5 --task mask",
            rf"bare\.pth do not fit {NETWORK} \(.*, task mask\): linear\.weight has shape \(2, 1024\)",
        ),
        ("{bare} --model-type VanillaResNet --backbone efficientnet-b0", "efficientnet-b0 does not fit VanillaResNet"),
        ("{bare} --model-type THANet --task age", "THANet_MK1 predicts classes and cannot learn task age"),
    ],
)
def test_weights_that_do_not_fit(words, pattern, world, give):
    give("submit_singular", f"--load-state-dict {words}", pattern=pattern)


@pytest.mark.parametrize(
    ("command", "words", "pattern"),
    [
        ("submit_singular", ["--task=gender"], r"no single-run checkpoint in .*EfficientNet.*train\.py --task gender"),
        ("submit_ensemble", [], r"There is no folder .*main\. Train with: python train\.py --task main --cv 5"),
        ("submit_ensemble", ["--task=dx"], r"Got 'dx'\. For a run that was saved elsewhere, pass --root\."),
        ("submit_singular", ["--task=dx"], r"For a run that was saved elsewhere, pass --load-state-dict\."),
        ("submit_ensemble", ["--root=."], r"holds no .* folder\. Pass the folder of a run, or of its task\."),
    ],
)
def test_a_prediction_before_anything_is_trained(command, words, pattern, world, run):
    assert_error(run(command, *words, "--data-root", world.images), pattern)


def no_second_fold(world):
    shutil.rmtree(world.folds / "fold01")


def fold_of_another_task(world):
    no_second_fold(world)
    copy_run(world.age / "fold00", world.folds / "fold01")


def two_runs(world):
    copy_run(world.folds, world.folds.with_name("kfold-ensemble-THANet_MK1"))


NO_RUN = r"There is no folder .*nowhere\. Pass the folder of a run, or of its task\."
TWO_RUNS = r"holds 2 runs \(kfold-ensemble-THANet_MK1, .*--root"
NO_FOLD = "has no checkpoints for fold"
FEWER = r"holds 1 checkpoint, fewer than --top-k 2\. Pass --top-k 1"
VOTES = r"hardvoting.*task age.*softvoting"


@rows(
    "submit_ensemble",
    Case("no run", NO_RUN, words="--root {nowhere}"),
    Case("a folder without runs", r"holds no kfold-ensemble-<network> folder", words="--root {images}"),
    Case("a folder of two runs", TWO_RUNS, two_runs, "--root {runs}/folds"),
    Case("a missing fold", rf"{NO_FOLD} 1\. Train with --resume.*--folds 0", no_second_fold),
    Case("a fold that does not exist", rf"{NO_FOLD} 5", words="--folds 0,5"),
    Case("a fold not trained yet", rf"{NO_FOLD} 1", words="--root {age}"),
    Case("a fold of another task", r"differ in task", fold_of_another_task),
    Case("more checkpoints than there are", FEWER, words="--top-k 2"),
    Case("votes on ages", "cannot predict task age", words="--task age --method hard"),
    Case("votes of a run of ages", VOTES, words="--root {age} --folds 0 --method hard"),
)
def test_submit_ensemble(case, command, world, give):
    give_case(give, case, command, world)


@pytest.mark.parametrize("name", [NETWORK.lower(), NETWORK])
def test_a_folder_of_bare_weights_names_their_network_in_any_case(name, world, give):
    fold = world.tmp / f"kfold-ensemble-{name}" / "fold00"
    fold.mkdir(parents=True)
    os.link(world.bare, fold / "weights.pth")
    words = "--task gender --backbone shufflenet_v2_x0_5 --image-size 32"
    give("submit_ensemble", f"--root {fold.parent} {words}", code=0)
