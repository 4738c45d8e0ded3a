"""Places of the tests of broken inputs, and functions that break the files in them."""

import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

GOOD = "ImageID,ans\na.jpg,0\nb.jpg,1\n"  # of a submission and of answers
PLACES = (
    *("saved", "prediction", "runs", "nowhere", "fix.csv", "answers.csv", "scored/submission.csv"),
    *("weights.pt", "file.txt"),
)


def make_world(place, trained, data):
    """Return the places of a data set, of copies of trained runs, and to save in, by name."""
    world = SimpleNamespace(
        tmp=place, trained=trained, data=data, ids=list(data.eval_ids), train=data.train_root, train_csv=data.train_csv
    )
    world.images, world.info, world.bare = data.data_root, data.info, trained.bare
    for name in PLACES:
        setattr(world, Path(name).stem, place / name)
    world.before = None  # the files of a run that lies in `saved` and must stay as it is
    for name in ("single", "folds", "age"):
        source = getattr(trained, name)
        setattr(world, name, copy_run(source, world.runs / name / source.name))
    world.checkpoint = first_checkpoint(world.single)
    put(world.submission, GOOD)
    put(world.answers, GOOD)
    return world


def link(source, target):
    """Link a checkpoint, which is large; copy other files, and checkpoints to another disk."""
    try:
        os.link(source, target) if source.endswith(".pt") else shutil.copy(source, target)
    except OSError:
        shutil.copy(source, target)


def copy_run(source, target):
    """Copy the folder of a run, whose checkpoints may be replaced, but not written to."""
    return shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)


def first_checkpoint(run, fold=0):
    return next((run / f"fold{fold:02d}").glob("*.pt"))


def put(path, content="hello\n"):
    """Write text or bytes in the place of whatever is there; other links to a file stay as they are."""
    clear(path)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def clear(path):
    """Make room for a path in a folder that exists afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def folder(path):
    clear(path).mkdir()


def dangling(path):
    clear(path).symlink_to(path.with_name("gone"))


def cut(path):
    """Leave half of a file, as an interrupted download does; other links to it stay whole."""
    put(path, first_half(path.read_bytes()))


def first_half(content):
    return content[: len(content) // 2]


def contents(place):
    """Return the files below a folder with their inode, size and time, which change when they are written."""
    files = {path.relative_to(place): path.stat() for path in place.rglob("*") if path.is_file()}
    return {name: (about.st_ino, about.st_size, about.st_mtime_ns) for name, about in files.items()}


def listing(*ids):
    """Return info.csv of some ids."""
    return "ImageID,ans\n" + "".join(f"{name},0\n" for name in ids)


def people_csv(world, *more, **changes):
    """Return train.csv with changes to the first person and more rows, which are {column: value} of that one."""
    people = [{**vars(person), "path": person.folder} for person in world.data.people]
    people[0] |= changes
    people += [people[0] | row for row in more]
    return "\n".join(",".join(map(str, line)) for line in [people[0], *(row.values() for row in people)]) + "\n"


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def evil(target):
    return Evil(target.with_name("ran"))


def saved(content, target, **options):
    with io.BytesIO() as file:
        torch.save(content, file, **options)
        return put(target, file.getvalue())


def edit(source, target, **changes):
    """Save a checkpoint with changes to what it says of itself."""
    content = torch.load(source)
    content["info"] |= changes
    return saved(content, target)


def bare(source, target, *, without=(), **more):
    """Save the weights of a checkpoint alone, with some more and without others."""
    weights = torch.load(source)["state_dict"] | more
    return saved({name: value for name, value in weights.items() if name not in without}, target)


def weights_of(folder):
    """Return the weights of every checkpoint below a folder, by file name below it."""
    files = sorted(folder.rglob("*.pt"))
    return {str(file.relative_to(folder)): torch.load(file, weights_only=True)["state_dict"] for file in files}


def assert_same_weights(first, second):
    a, b = weights_of(first), weights_of(second)
    assert a
    assert a.keys() == b.keys()
    for name, weights in a.items():
        for key, value in weights.items():
            assert torch.equal(value, b[name][key]), (name, key)


def assert_other_weights(first, second):
    with pytest.raises(AssertionError):
        assert_same_weights(first, second)


def weights_by_epoch(folder):
    """Return the weights of the checkpoints below a folder, in the order of their epochs, whatever their scores."""
    return [weights for _, weights in sorted(weights_of(folder).items())]
