"""Records and helpers of the tests of inputs that are broken, missing or do not fit."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

NETWORK = "VanillaTorchvision"
NOBODY = 65534  # a user without rights
PATIENCE = 30  # seconds after which a reader that waits on a pipe is let go, and the row fails
LONGEST = 3_000  # characters of a line that a person still reads

PREDICT = "--data-root {images} --save-path {prediction} --num-workers 0 --device cpu"
COMMANDS = {
    "check_data": "--train-root {train} --cv 2",
    "train": "{tiny_training} --task gender --train-root {train} --save-path {saved}",
    "submit_singular": f"--load-state-dict {{checkpoint}} {PREDICT}",
    "submit_ensemble": f"--root {{folds}} --top-k 1 {PREDICT}",
    "score_submission": "--submission {submission} --answers {answers}",
}
DONE = {  # what a command says that came to its end
    "check_data": r"Ready to train",
    "train": r"Saved in ",
    "submit_singular": r"submission\.csv",
    "submit_ensemble": r"submission_arithmetic\.csv",
    "score_submission": r"accuracy|MAE",
}
PROGRAM = {name: f"python -m tools {name}" for name in COMMANDS} | {
    name: f"{name}.py" for name in ("train", "submit_singular", "submit_ensemble")
}
GOOD = "ImageID,ans\na.jpg,0\nb.jpg,1\n"  # of a submission and of answers
ALL = "check_data train submit_singular submit_ensemble"
TRAINING = "check_data train"
PREDICTION = "submit_singular submit_ensemble"
WEIGHTS = "train submit_singular submit_ensemble"


@dataclass(frozen=True)
class Case:
    """One input: `breaks` puts it into the fixture `world`, `words` are more options, which may name places there.

    `pattern` is looked for in stderr, or where the code is 0 in stdout. A refusal has `lines` lines, one a problem.
    """

    id: str
    to: str
    pattern: str
    breaks: Callable[[SimpleNamespace], object]
    words: str = ""
    code: int = 2
    lines: int = 1


def rows(*cases: Case):
    """Every case with each of its commands."""
    each = [(case, command) for case in cases for command in case.to.split()]
    marks = [pytest.param(case, command, id=f"{case.id}-{command}".replace(" ", "-")) for case, command in each]
    return pytest.mark.parametrize(("case", "command"), marks)


def give_case(give, case, command, world):
    case.breaks(world)
    return give(command, case.words, pattern=case.pattern, code=case.code, lines=case.lines)


def put(path, content="hello\n"):
    """Write text or bytes in the place of whatever is there; other links to a file stay as they are."""
    clear(path)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def clear(path):
    """Make room for a path, whose folder is there afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def folder(path):
    clear(path).mkdir()


def dangling(path):
    clear(path).symlink_to(path.with_name("gone"))


def link(source, target):
    """Checkpoints are large, so they are linked, or copied to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def first_checkpoint(run, fold=0):
    return next((run / f"fold{fold:02d}").glob("*.pt"))


def make_world(place, trained, data):
    world = SimpleNamespace(
        tmp=place,
        trained=trained,
        data=data,
        ids=list(data.eval_ids),
        train=data.train_root,
        train_csv=data.train_csv,
        images=data.data_root,
        info=data.info,
        saved=place / "saved",
        prediction=place / "prediction",
        fix=place / "fix.csv",
        submission=place / "scored" / "submission.csv",
        answers=place / "answers.csv",
        weights=place / "weights.pt",
        nowhere=place / "nowhere",
        file=place / "file.txt",
        runs=place / "runs",
        before=None,  # the files of a run that lies in `saved` and must stay as it is
    )
    for name in ("single", "folds", "age"):
        source = getattr(trained, name)
        target = place / "runs" / name / source.name
        shutil.copytree(source, target, copy_function=link)
        setattr(world, name, target)
    world.checkpoint, world.bare = first_checkpoint(world.single), trained.bare
    put(world.submission, GOOD)
    put(world.answers, GOOD)
    return world


RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def halves(left=RED, right=BLUE, mode="RGB", size=(48, 64)):
    """A picture of two colours, left and right."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def encoded(image, kind, **options):
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def place(world, make, suffix=".jpg", *, times=2):
    """Put a picture, made by `make(path)`, in the places of some to train on and of some to predict."""
    for number in (1, 4)[:times]:
        clear(world.data.photo(number))
        make(world.data.folder(number) / f"normal{suffix}")
    for k in (0, 2)[:times]:
        clear(world.images / world.ids[k])
        world.ids[k] = Path(world.ids[k]).stem + suffix
        make(world.images / world.ids[k])
    put(world.info, listing(*world.ids))


def listing(*ids):
    """info.csv of some ids."""
    return "ImageID,ans\n" + "".join(f"{name},0\n" for name in ids)


def first_half(content):
    return content[: len(content) // 2]


def contents(place):
    """Return the files below a folder with their inode, size and time, which change when they are written."""
    files = {path.relative_to(place): path.stat() for path in place.rglob("*") if path.is_file()}
    return {name: (about.st_ino, about.st_size, about.st_mtime_ns) for name, about in files.items()}


def people_csv(world, *more, number=0, **changes):
    """train.csv of all people, with changes to one of them and more rows, which are {column: value} of that one."""
    people = [
        {"id": p.id, "gender": p.gender, "race": p.race, "age": p.age, "path": p.folder} for p in world.data.people
    ]
    people[number] |= changes
    people += [people[number] | row for row in more]
    return "\n".join(",".join(map(str, line)) for line in [people[0], *(row.values() for row in people)]) + "\n"


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def edit(source, target, **changes):
    """Save a checkpoint with changes to what it says of itself."""
    content = torch.load(source)
    content["info"] |= changes
    return saved(content, target)


def bare(source, target, *, without=(), **more):
    weights = torch.load(source)["state_dict"] | more
    return saved({name: value for name, value in weights.items() if name not in without}, target)


def saved(content, target, **options):
    with io.BytesIO() as file:
        torch.save(content, file, **options)
        return put(target, file.getvalue())


def evil(target):
    return Evil(target.with_name("ran"))


BARE = f"--task gender --model-type {NETWORK} --backbone shufflenet_v2_x0_5 --image-size 32"


def assert_error(printed, pattern, lines=1):
    """Assert that a command ended with exit code 2 and this message, and without a traceback."""
    assert printed.code == 2, printed
    assert "Traceback" not in printed.err
    assert re.search(pattern, printed.err), printed.err
    assert len(printed.err.splitlines()) == lines, printed.err


def cut(path):
    """Leave half of a file, as an interrupted download does; other links to it stay whole."""
    put(path, first_half(path.read_bytes()))
