"""Folders, options and weights that do not fit: one sentence, exit code 2, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from cases import (
    NETWORK,
    assert_error,
    contents,
    cut,
    put,
)

from augmentation import VIEWS


@dataclass(frozen=True)
class Case:
    """One refused input. `words` may name the places of the fixture `world`; `breaks` changes it first."""

    id: str
    words: str
    pattern: str
    breaks: Callable[[SimpleNamespace], object] = field(default=lambda world: None)
    lines: int = 1


def rows(*cases: Case):
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.id.replace(" ", "-")) for case in cases])


def copy_run(source, target):
    """Copy the folder of a run; checkpoints are large, so files are linked."""
    return shutil.copytree(source, target, copy_function=os.link)


def filled_in(words, world):
    return [word.format(**vars(world)) for word in words.split()]


def empty(folder):
    """Delete what is in a folder."""
    shutil.rmtree(folder)
    folder.mkdir()


def leave_one_person(world):
    for number in range(1, 6):
        shutil.rmtree(world.data.folder(number))


def leave_two_photographs(world):
    for number in range(6):
        if number > 1:
            shutil.rmtree(world.data.folder(number))
        else:
            world.data.photo(number, "mask1").unlink()


def cut_two(world):
    cut(world.data.photo(1))
    cut(world.data.photo(4))


def break_twice(world):
    world.data.folder(0).rename(world.train / "someone")
    world.data.photo(1).rename(world.data.folder(1) / "mask6.jpg")


@rows(
    Case("no folder", "--train-root {nowhere}", r"There is no folder .*nowhere.*--train-root.*make_sample"),
    Case("an empty folder", "", r"images holds no images", lambda w: empty(w.train)),
    Case("a file for a folder", "--train-root {file}", r"There is no folder .*file\.txt", lambda w: put(w.file)),
    Case(
        "a folder name",
        "",
        r"1 folder whose name is not <id>_<gender>_<race>_<age>.*: someone\.",
        lambda w: w.data.folder(0).rename(w.train / "someone"),
    ),
    Case(
        "a shot name",
        "",
        r"1 image whose name is none of the shots mask1\.\.mask5.*/mask6\.jpg\.",
        lambda w: w.data.photo(0).rename(w.data.folder(0) / "mask6.jpg"),
    ),
    Case("two problems", "", r"someone\.\n.*mask6\.jpg\.\n", break_twice, lines=2),
    Case("more folds than people", "--cv 7", r"6 people cannot be split into 7 folds"),
    Case("one person", "", r"1 people cannot be split into 2 folds|one person", leave_one_person),
    Case("one photograph a fold", "--cv 2", r"Fold \d has a single training image", leave_two_photographs),
    Case(
        "a network for one size",
        "--backbone vit_b_32 --image-size 64 --train-side 0.5",
        r"vit_b_32 for --image-size 64 cannot train on images of 32 pixels \(.*\)\. Pass another --train-side",
    ),
    Case("a device", "--device potato", r"--device potato is not available"),
    Case("a device that is not here", "--device cuda:99", r"--device cuda:99 is not available"),
    Case("weights of another task", "--load-state-dict {checkpoint}", r"was trained on task gender, not main"),
    Case(
        "weights of another backbone",
        "--task gender --backbone resnet34 --load-state-dict {checkpoint}",
        r"holds VanillaTorchvision with shufflenet_v2_x0_5, not VanillaTorchvision with resnet34\. Pass --model-type",
    ),
    Case("no weights", "--load-state-dict {nowhere}", r"There is no checkpoint file .*nowhere"),
    Case("corrections", "--corrections {nowhere}", r"There is no file .*nowhere"),
    Case("no validation folder", "--valid-root {nowhere}", r"There is no folder .*nowhere.*--valid-root"),
    Case("the same people to validate on", "--valid-root {train}", r"--train-root and --valid-root share people"),
    Case(
        "a person with two ids to validate on",
        "--valid-root {tmp}/valid",
        r"--train-root and --valid-root share people",
        lambda w: shutil.copytree(w.data.folder(0), w.tmp / "valid" / w.data.folder(0).name.replace("_", "-1_", 1)),
    ),
)
def test_train(case, world, run, tiny_training):
    case.breaks(world)
    common = [*tiny_training, "--train-root", world.train, "--save-path", world.saved]
    printed = run("train", *common, *filled_in(case.words, world))
    assert_error(printed, rf"^train\.py: (?s:.*){case.pattern}", case.lines)
    assert not world.saved.exists()


@rows(
    Case("as it stands", "", r"already holds a run \(1 of 1 folds finished, 1 of 1 epochs\)\..*--resume.*--overwrite"),
    Case("continued otherwise", "--resume --lr 0.1", r"started with other options: --lr was 0\.005 and is 0\.1"),
    Case("continued longer", "--resume --epochs 2", r"--epochs was 1 and is 2"),
    Case("continued on others", "--resume --train-root {train}", r"started with other people"),
    Case("replaced without data", "--overwrite --train-root {nowhere}", r"There is no folder .*nowhere"),
    Case("replaced on a cut photograph", "--overwrite --train-root {train}", r"cannot be read", cut_two, lines=2),
    Case("replaced with other weights", "--overwrite --load-state-dict {nowhere}", r"There is no checkpoint file"),
)
def test_train_where_a_run_is(case, world, trained, run, tiny_training):
    """The run that is there stays as it was."""
    case.breaks(world)
    copy_run(world.single, world.saved / "gender" / world.single.name)
    before = contents(world.saved)
    common = [*tiny_training, "--task", "gender", "--train-root", trained.images, "--save-path", world.saved]
    printed = run("train", *common, *filled_in(case.words, world))
    assert_error(printed, case.pattern, case.lines)
    assert contents(world.saved) == before


def test_folds_of_one_run_are_not_validated_in_different_places(world, trained, run, tiny_training):
    copy_run(world.age, world.saved / "age" / world.age.name)
    before = contents(world.saved)
    common = [*tiny_training, "--task=age", "--cv=2", "--resume", "--save-path", world.saved]
    for path in world.train.iterdir():
        path.rename(path.with_name("1" + path.name))  # other people than those trained on
    printed = run("train", *common, "--train-root", trained.images, "--valid-root", world.train)
    assert_error(printed, r"valid")
    assert contents(world.saved) == before


def test_files_in_the_place_of_a_run_stay(world, run, tiny_training):
    notes = world.saved / "main" / f"single-{NETWORK}" / "notes.txt"
    put(notes)
    for more in ([], ["--resume"], ["--overwrite"]):
        printed = run("train", *tiny_training, "--train-root", world.train, "--save-path", world.saved, *more)
        assert_error(printed, r"holds files that are not of a run.*--save-path")
    assert list(contents(world.saved)) == [notes.relative_to(world.saved)]
    assert notes.read_text() == "hello\n"


def test_a_save_path_that_is_a_file(world, run, tiny_training):
    put(world.file)
    printed = run("train", *tiny_training, "--train-root", world.train, "--save-path", world.file)
    assert_error(printed, r"file\.txt")


def lose_first_image(world):
    (world.images / world.data.eval_ids[0]).unlink()


def cut_first_image(world):
    cut(world.images / world.data.eval_ids[0])


def lose_all_images(world):
    empty(world.images)


def list_nothing(world):
    put(world.info, "ImageID,ans\n")


PREDICTION_CASES = (
    Case("no folder", "--data-root {nowhere}", r"There is no folder .*nowhere.*--data-root"),
    Case("an empty folder", "", r"images holds no images", lose_all_images),
    Case("too many views", f"--tta {len(VIEWS) + 1}", rf"more than the {len(VIEWS)} fixed views of transform base"),
    Case("another network", "--model-type THANet", r"checkpoint with --model-type VanillaTorchvision, not THANet_MK1"),
    Case("another backbone", "--backbone resnet50", r"checkpoint with --backbone shufflenet_v2_x0_5, not resnet50"),
    Case("another image size", "--image-size 224", r"checkpoint with --image-size 32, not 224"),
    Case("another task", "--task main", r"checkpoint of task gender and cannot predict task main"),
    Case("ages of a classifier", "--task age", r"checkpoint of task gender and cannot predict task age"),
    Case("a device", "--device potato", r"--device potato is not available"),
    Case("a save path that is a file", "--save-path {file}", r"file\.txt", lambda w: put(w.file)),
)


def refuse_prediction(case, world, run, command, *words):
    case.breaks(world)
    before = contents(world.runs)
    places = ["--data-root", world.images, "--save-path", world.prediction]
    printed = run(command, *words, *places, "--num-workers=0", "--device=cpu", *filled_in(case.words, world))
    assert_error(printed, rf"^{command}\.py: (?s:.*){case.pattern}", case.lines)
    assert not world.prediction.exists()
    assert contents(world.runs) == before


@rows(
    *PREDICTION_CASES,
    Case("no weights", "--load-state-dict {nowhere}", r"There is no checkpoint file .*nowhere"),
    Case("a folder for a checkpoint", "--load-state-dict {single}", r"no checkpoint file .*single-VanillaTorchvision"),
    Case("bare weights of another network", "--load-state-dict {bare}", r"bare\.pth do not fit VanillaEfficientNet"),
    Case(
        "bare weights of another task",
        "--load-state-dict {bare} --model-type VanillaTorchvision --backbone shufflenet_v2_x0_5 --task mask",
        r"bare\.pth do not fit VanillaTorchvision \(.*, task mask\): linear\.weight has shape \(2, 1000\)",
    ),
    Case(
        "bare weights and a backbone that does not fit",
        "--load-state-dict {bare} --model-type VanillaResNet --backbone efficientnet-b0",
        r"efficientnet-b0 does not fit VanillaResNet",
    ),
    Case(
        "bare weights and a task that does not fit",
        "--load-state-dict {bare} --model-type THANet --task age",
        r"THANet_MK1 predicts classes and cannot learn task age",
    ),
)
def test_submit_singular(case, world, run):
    refuse_prediction(case, world, run, "submit_singular", "--load-state-dict", world.checkpoint)


# torch.load raises different errors for different bytes.
@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"submission\n", b"Good\n", b"\x89PNG\r\n", b"PK\x03\x04", b".", b"(1"]
)
def test_a_file_that_is_no_checkpoint(content, world, run):
    world.file.write_bytes(content)
    printed = run("submit_singular", "--load-state-dict", world.file, "--data-root", world.images)
    assert_error(printed, r"file\.txt cannot be read as a checkpoint")


@pytest.mark.parametrize("size", [1, 1_000, 1_000_000])
def test_a_checkpoint_of_which_only_the_beginning_is_there(size, world, run):
    world.file.write_bytes(world.checkpoint.read_bytes()[:size])
    printed = run("submit_singular", "--load-state-dict", world.file, "--data-root", world.images)
    assert_error(printed, r"file\.txt cannot be read as a checkpoint")


@pytest.mark.parametrize(
    "content",
    [{}, [1, 2], {"epoch": 3}, {"state_dict": [1]}, {0: torch.zeros(1)}, {"format_version": 1}, {"format_version": 99}],
    ids=str,
)
def test_a_file_of_torch_that_is_no_checkpoint(content, world, run):
    torch.save(content, world.file)
    printed = run("submit_singular", "--load-state-dict", world.file, "--data-root", world.images)
    assert_error(
        printed,
        r"file\.txt (holds neither a checkpoint|is a checkpoint with missing or wrong parts|has checkpoint format 99"
        r"|cannot be read as a checkpoint)",
    )


def test_submit_singular_before_anything_is_trained(world, run):
    printed = run("submit_singular", "--task", "gender", "--data-root", world.images)
    assert_error(printed, r"no single-run checkpoint in .*single-VanillaEfficientNet.*train\.py --task gender")


def no_second_fold(world):
    shutil.rmtree(world.folds / "fold01")


def fold_of_another_task(world):
    no_second_fold(world)
    copy_run(world.age / "fold00", world.folds / "fold01")


def two_runs(world):
    copy_run(world.folds, world.folds.with_name("kfold-ensemble-THANet_MK1"))


@rows(
    *PREDICTION_CASES,
    Case("no run", "--root {nowhere}", r"There is no folder .*nowhere.*train\.py --task main --cv 5.*--root"),
    Case("a folder without runs", "--root {images}", r"holds no kfold-ensemble-<network> folder"),
    Case(
        "a folder of two runs", "--root {runs}/folds", r"holds 2 runs \(kfold-ensemble-THANet_MK1, .*--root", two_runs
    ),
    Case("a missing fold", "", r"has no checkpoints for fold 1\. Train with --resume.*--folds 0", no_second_fold),
    Case("a fold that is not there", "--folds 0,5", r"has no checkpoints for fold 5"),
    Case("a fold not trained yet", "--root {age}", r"has no checkpoints for fold 1"),
    Case("a fold of another task", "", r"differ in task", fold_of_another_task),
    Case("more checkpoints than there are", "--top-k 2", r"holds 1 checkpoint, fewer than --top-k 2\. Pass --top-k 1"),
    Case("votes on ages", "--task age --method hard", r"hardvoting.*task age.*softvoting"),
    Case("votes of a run of ages", "--root {age} --folds 0 --method hard", r"hardvoting.*task age.*softvoting"),
)
def test_submit_ensemble(case, world, run):
    refuse_prediction(case, world, run, "submit_ensemble", "--root", world.folds, "--top-k", 1)


def test_submit_ensemble_before_anything_is_trained(world, run):
    printed = run("submit_ensemble", "--data-root", world.images)
    assert_error(printed, r"There is no folder .*main\. Train with: python train\.py --task main --cv 5")


@pytest.mark.parametrize("name", [NETWORK.lower(), NETWORK])
def test_the_network_that_a_folder_of_bare_weights_is_named_after_may_be_spelled_in_any_case(name, world, run):
    """Not refused: names are case-insensitive here as on the command line."""
    fold = world.tmp / f"kfold-ensemble-{name}" / "fold00"
    fold.mkdir(parents=True)
    os.link(world.bare, fold / "weights.pth")
    words = "--task gender --top-k 1 --backbone shufflenet_v2_x0_5 --image-size 32 --num-workers 0 --device cpu"
    places = ["--root", fold.parent, "--data-root", world.images, "--save-path", world.prediction]
    assert run("submit_ensemble", *words.split(), *places).code == 0
