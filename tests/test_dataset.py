"""Datasets, samplers and loaders: items and their seeds, oversampling, the order of an epoch, and views."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from augmentation import build_transform, normalise
from cli.command import Context, run_command
from data.face_layout import age_group, filter_ages, read_training_table
from data.faces import FACES
from data.image_cache import ImageReader
from data.label_math import make_targets
from dataset import EpochSampler, TrainDataset, ViewBatches, ViewDataset, balanced_weights, extra_classes
from training.loaders import AHEAD, _CollateInPlace, create_loaders, view_loader
from utils import UserError

CPU = torch.device("cpu")
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # leaves pixels as fractions of 255


@pytest.fixture(scope="module")
def table(small_data) -> pd.DataFrame:
    return read_training_table(small_data.train_root)[0]


@pytest.fixture
def make_table(tmp_path):
    """A table of images of one colour: make_table([(person, gender, age, mask, colour), ...])."""

    def make(rows) -> pd.DataFrame:
        records = []
        for number, (person, gender, age, mask, colour) in enumerate(rows):
            path = tmp_path / f"{number:03d}.png"
            Image.new("RGB", (36, 48), colour).save(path)
            labels = {"gender": gender, "age": age, "mask": mask, "ageg": age_group(age)}
            records.append({"image": path.name, "path": str(path), "id": person, "person": person, **labels})
        return pd.DataFrame(records)

    return make


def train_set(table: pd.DataFrame, transform: str = "base", *, seed=(42, 0), settings=None, **options) -> TrainDataset:
    return TrainDataset(table, build_transform(transform, "train", 32, **settings or {}), FACES, seed=seed, **options)


def same(first, second) -> bool:
    """Return whether two items have the same image and targets."""
    return torch.equal(first[0], second[0]) and first[1] == second[1]


def passes(sampler: EpochSampler, epochs: int) -> Iterator[list[list]]:
    """Yield the batches of the first epochs."""
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        yield list(sampler)


# ------------------------------------------------------------------------------------------------ training items


def test_an_item_is_an_image_and_its_targets(table):
    dataset, targets = train_set(table), make_targets(table, FACES)
    assert len(dataset) == len(table) == 84
    image, target = dataset[0, 10]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert target == {task: values[10].item() for task, values in targets.items()}
    assert (targets["main"] == table["label"].to_numpy()).all()


def test_the_age_filter_changes_training_targets(table):
    dataset = train_set(filter_ages(table, 45))
    number = table.index[table["age"] == 45][0]
    target = dataset[0, number][1]
    assert (target["ageg"], target["main"] % 3, target["age"]) == (2, 2, 45)


@pytest.mark.parametrize("transform", ["base", "random", "tta", "facecrop"])
def test_an_item_depends_on_seed_epoch_and_index_alone(transform, table):
    def new(*seed):
        return train_set(table, transform, seed=seed, oversample=True)

    dataset, keys = new(42, 0), [(epoch, index) for epoch in (0, 1) for index in (0, 1, 50, 83)]
    first = {key: dataset[key] for key in keys}
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    again = new(42, 0)
    assert all(same(again[key], first[key]) for key in reversed(keys))
    assert not all(torch.equal(first[0, index][0], first[1, index][0]) for index in (0, 1, 50, 83))
    for other in (new(42, 1), new(43, 0)):
        assert not all(torch.equal(other[key][0], first[key][0]) for key in keys)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers(workers, table):
    """Also in the second pass, for which the workers are kept, and without draws from the generator of dropout."""
    state = torch.get_rng_state()
    dataset = train_set(table, "random", oversample=True)
    sampler = EpochSampler(len(dataset), 16, seed=(42, 0))
    loader = create_loaders([(dataset, sampler)], workers=workers, device=CPU)[0]
    assert len(loader) == len(sampler)
    for keys in passes(sampler, 2):
        for batch, (images, targets) in zip(keys, loader, strict=True):
            assert images.shape == (len(batch), 3, 32, 32)
            for k, key in enumerate(batch):
                target = {task: values[k].item() for task, values in targets.items()}
                assert torch.equal(images[k], dataset[key][0])
                assert target == pytest.approx(dataset[key][1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_bytes_become_the_float32_of_their_own_transform(workers, table):
    """Also with views for two networks that expect different pixels, and in the memory layout of networks."""

    def images(as_bytes: bool) -> list[list[torch.Tensor]]:
        options = {"as_bytes": as_bytes}
        train = train_set(table, settings=options), EpochSampler(len(table), 16, seed=(42, 0))
        cuts = [build_transform("base", "inference", 32, **pixels, **options) for pixels in ({}, PLAIN)]
        rows = table["path"].tolist()[:5]
        views = ViewDataset(rows, rows, cuts[0], others=cuts[1:], views=2), [range(3), range(3, 5)]
        loaders = create_loaders([train, views], workers=workers, device=CPU)
        return [part if isinstance(part, list) else [part] for loader in loaders for part, _ in loader]

    for got, expected in zip(images(True), images(False), strict=True):
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one, other)
            assert one.stride() == other.stride()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_kept_memory_is_not_filled_before_its_batch_was_used(workers, table, monkeypatch):
    """Also if that takes long, and if a batch is larger than those before."""

    def slowly(images, *scales):
        time.sleep(0.02)
        return normalise(images, *scales)

    monkeypatch.setattr("training.loaders.normalise", slowly)
    dataset = train_set(table, settings={"as_bytes": True})
    sampler = EpochSampler(len(table), 10, seed=(42, 0))  # of the last batch of four
    loader = create_loaders([(dataset, sampler)], workers=workers, device=CPU, keep_memory=True)[0]
    expected = train_set(table)
    for epoch, start in ((0, 8), (1, 0), (2, 0)):
        sampler.set_epoch(epoch, start)
        for keys, (images, targets) in zip(list(sampler), loader, strict=True):
            assert torch.equal(images, torch.stack([expected[key][0] for key in keys]))
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert targets["main"].tolist() == [expected[key][1]["main"] for key in keys]


def test_memory_of_batches_is_used_again(monkeypatch):
    monkeypatch.setattr("training.loaders.get_worker_info", lambda: "a loader process")
    collate, image = _CollateInPlace(), torch.zeros(3, 4, 4, dtype=torch.uint8)
    places = [collate([(image + k, {})] * 2)[0].untyped_storage().data_ptr() for k in range(9)]
    assert len(set(places)) == AHEAD + 1
    assert places[AHEAD + 1 :] == places[: -AHEAD - 1]


def test_batches_that_are_copied_ahead_come_in_order(monkeypatch):
    """With streams that do nothing, since a CPU has none."""
    waited, recorded, finished = [], [], []

    def record():
        recorded.append(len(recorded))
        return SimpleNamespace(synchronize=partial(finished.append, recorded[-1]))

    stream = SimpleNamespace(wait_stream=waited.append, record_event=record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "copies")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    dataset = [(torch.full((1, 3, 4, 4), float(number)), {"mask": number}) for number in range(9)]
    for count in (9, 0):
        loader = create_loaders([(dataset, ViewBatches(count, 2))], workers=0, device=CPU)[0]
        monkeypatch.setattr(loader, "device", torch.device("cuda"))
        monkeypatch.setattr(loader, "_finish", lambda images: images)
        batches = [*loader]
        assert [targets["mask"].tolist() for _, targets in batches] == [[*keys] for keys in ViewBatches(count, 2)]
        assert all(views[:, 0, 0, 0, 0].tolist() == targets["mask"].tolist() for views, targets in batches)
    assert waited == ["copies"] * 5
    assert (recorded, finished) == ([0, 1, 2, 3, 4], [0, 1, 2])  # AHEAD batches may wait for the GPU


def test_passes_that_begin_before_their_first_batch_is_wanted_give_the_same_batches(table):
    paths = table["path"].tolist()[:9]

    def loaders(workers):
        train = train_set(table, settings={"as_bytes": True}), EpochSampler(len(table), 10, seed=(42, 0))
        views = [ViewDataset(paths, paths, build_transform("base", "valid", 32)), ViewBatches(9, 2)]
        options = {"workers": workers, "device": CPU}
        return [*create_loaders([train], keep_memory=True, **options), *create_loaders([views, views], **options)]

    plain, ahead = loaders(0), loaders(1)
    ahead[0].following, ahead[2].following = ahead[1], ahead[0]
    begun = []
    for epoch, order in enumerate([(0, 1, 2), (0, 1, 2), (0, 2, 2), (0,)]):  # 1 is left out once, and 2 is repeated
        for number in order:
            for each in plain[0], ahead[0]:
                each.batch_sampler.set_epoch(epoch if number == 0 else epoch + 1)
            owner, _ = ahead[number].processes.batch_sampler.ahead or (None, None)
            begun.append(owner is ahead[number])
            for (images, _), (expected, _) in zip(ahead[number], plain[number], strict=True):
                assert torch.equal(images, expected)
    assert begun == [False] * 3 + [True, True, False] + [True, False, False] + [True]  # from the second epoch on


# ------------------------------------------------------------------------------------------------ oversampling


ONE_EACH = [f"p{k}" for k in range(20)]


@pytest.mark.parametrize(
    ("labels", "people", "expected"),
    [
        # 12 + 3 + 2 + 1 images: the mean over the classes that exist is 4.5, rounded to 4
        ([0] * 12 + [3] * 3 + [7] * 2 + [17], ONE_EACH[:18], [3, 7, 7]),
        ([5] * 9 + [6] * 3, ["a", "b", "c", "d"] * 3, [6, 6, 6]),
        ([0] * 10 + [1, 1] + [2, 2], ["a"] * 5 + ["b"] * 5 + ["c", "c"] + ["d", "e"], [2, 2, 2]),
        ([0, 0, 1, 1], ONE_EACH[:4], []),
        ([4, 4, 4], ONE_EACH[:3], []),
    ],
    ids=["mean count", "existing classes", "one person", "equal", "one class"],
)
def test_scarce_classes_of_several_people_are_filled_up_to_the_mean_count(labels, people, expected):
    extra = extra_classes(np.array(labels), np.array(people), count=18)
    assert extra.tolist() == expected
    assert np.issubdtype(extra.dtype, np.integer)


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOUR_AGES = torch.tensor([61.0, 70.0, 79.0])


@pytest.fixture
def scarce(make_table):
    """A frequent class of black images, and a scarce one of three people in red, green and blue, five images each."""
    frequent = [(f"x{k}", 0, 25, 0, (0, 0, 0)) for k in range(45)]
    three = [("r", 1, 61, 0, RED), ("g", 1, 70, 0, GREEN), ("b", 1, 79, 0, BLUE)]
    return make_table(frequent + [row for row in three for _ in range(5)])


def test_extra_images_are_mixed_of_two_people_of_one_class(scarce):
    dataset = train_set(scarce, settings=PLAIN, oversample=True)
    assert len(dataset) == 60 + 15  # the mean of 45 and 15 is 30
    for index, expected in ((0, (0, 0, 0)), (45, (1, 0, 0)), (50, (0, 1, 0)), (59, (0, 0, 1))):
        assert dataset[0, index][0].mean(dim=(1, 2)).tolist() == pytest.approx(expected)
    pairs, shares = Counter(), []
    for epoch in range(8):
        for index in range(60, 75):
            mixture, (image, target) = dataset.mixture(epoch, index), dataset[epoch, index]
            assert mixture.image.equal(image)
            colour = image.mean(dim=(1, 2))
            assert image.shape == (3, 32, 32)
            assert (image - colour[:, None, None]).abs().max() < 1e-5
            there = tuple(torch.nonzero(colour > 1e-7).flatten().tolist())
            assert len(there) == 2, "one person mixed with themselves, or someone of another class"
            assert colour.sum().item() == pytest.approx(1, abs=1e-5)
            assert target.pop("age") == pytest.approx((colour * COLOUR_AGES).sum().item(), abs=1e-3)
            assert target == {"main": 5, "mask": 0, "gender": 1, "ageg": 2}
            pairs[there] += 1
            shares.append(colour[there[0]].item())
    assert set(pairs) == {(0, 1), (0, 2), (1, 2)}
    assert min(shares) < 0.2 < 0.8 < max(shares)


def test_every_scarce_class_gets_the_images_that_it_lacks(make_table):
    """With its own labels and images: a class for each colour."""
    frequent = [(f"x{k}", 0, 25, 0, (0, 0, 0)) for k in range(16)]
    green = [(person, 1, 40, 0, GREEN) for person in "ab"]
    red = [(person, 0, 40, 2, RED) for person in "cd"]
    rows = make_table(frequent + green + red)
    dataset = train_set(rows, settings=PLAIN, oversample=True)
    added = [dataset[0, index] for index in range(len(rows), len(dataset))]
    assert Counter(target["main"] for _, target in added) == {4: 5, 13: 5}  # 20 images of three classes: the mean is 7
    for image, target in added:
        attributes, colour = {4: ((0, 1, 1), (0, 1, 0)), 13: ((2, 0, 1), (1, 0, 0))}[target["main"]]
        assert (target["mask"], target["gender"], target["ageg"]) == attributes
        assert image.mean(dim=(1, 2)).tolist() == pytest.approx(colour, abs=1e-5)


def test_classes_are_counted_after_the_age_filter(make_table):
    """Of four people of 58 two are 60 and over for training, and mixed as such."""
    young = [(f"x{k}", 0, 25, 0, (0, 0, 0)) for k in range(8)]
    rows = make_table([*young, ("a", 0, 58, 0, RED), ("b", 0, 65, 0, GREEN)])
    assert len(train_set(rows, oversample=True)) == 10
    filtered = train_set(filter_ages(rows, 58), oversample=True)
    assert len(filtered) == 10 + 3
    assert filtered[0, 12][1]["main"] == 2


# ------------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize(("size", "batch_size"), [(12, 4), (13, 5), (3, 8), (84, 32), (2, 2)])
def test_every_index_once_an_epoch(size, batch_size):
    sampler = EpochSampler(size, batch_size, seed=(1, 2))
    sampler.set_epoch(3)
    batches = list(sampler)
    assert list(sampler) == batches
    assert len(batches) == len(sampler) == -(-size // batch_size)
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(epoch == 3 for batch in batches for epoch, _ in batch)
    assert sorted(index for batch in batches for _, index in batch) == list(range(size))


@pytest.mark.parametrize(("size", "batch_size"), [(9, 4), (33, 32), (5, 2), (1, 8)])
def test_a_last_batch_of_one_is_left_out_a_different_image_each_time(size, batch_size):
    sampler = EpochSampler(size, batch_size, seed=(1, 2))
    left_out = set()
    for batches in passes(sampler, 30):
        assert len(batches) == len(sampler) == size // batch_size
        seen = [index for batch in batches for _, index in batch]
        assert len(seen) == len(set(seen)) == size - 1
        left_out |= set(range(size)) - set(seen)
    assert len(left_out) == 1 if size == 1 else len(left_out) > size // 4


def test_the_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(40, 8, seed=seed)
        sampler.set_epoch(epoch)
        return [index for batch in sampler for _, index in batch]

    state = torch.get_rng_state()
    first = order((42, 0), 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert order((42, 0), 0) == first
    others = [order((42, 0), 1), order((42, 1), 0), order((43, 0), 0), list(range(40))]
    assert all(other != first for other in others)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_scarce_classes_are_drawn_more_often(power):
    labels = np.repeat([0, 1, 2], [640, 320, 40])
    weights = balanced_weights(labels, power)
    sampler = EpochSampler(1000, 8, seed=(1,), weights=weights)
    drawn = np.zeros(3)
    for batches in passes(sampler, 20):
        assert [len(batch) for batch in batches] == [8] * len(sampler) == [8] * 125
        drawn += np.bincount(labels[[index for batch in batches for _, index in batch]], minlength=3)
    shares = np.array([640, 320, 40]) ** (1 - power)
    assert drawn / drawn.sum() == pytest.approx(shares / shares.sum(), abs=0.01)


def test_a_repeated_draw_in_an_epoch_is_augmented_differently(table):
    dataset = train_set(table)
    weights = np.where(np.arange(len(dataset)) == 5, 1.0, 1e-9)
    sampler = EpochSampler(len(dataset), 32, seed=(1,), weights=weights)
    sampler.set_epoch(2)
    keys = [key for batch in sampler for key in batch if key[1] == 5]
    assert len(keys) == len(set(keys)) > 80
    images = [dataset[key][0] for key in keys[:5]]
    assert all(not torch.equal(a, b) for k, a in enumerate(images) for b in images[:k])
    sampler.set_epoch(2, 1)  # a continued epoch has the same draws
    later = [key for batch in sampler for key in batch if key[1] == 5]
    assert later == keys[-len(later) :]


def test_counts_include_the_extra_images(table):
    plain, more = train_set(table), train_set(table, oversample=True)
    assert plain.counts()["mask"].tolist() == [60, 12, 12]
    assert plain.counts()["main"].tolist() == np.bincount(table["label"], minlength=18).tolist()
    counts = more.counts()
    assert {int(count.sum()) for count in counts.values()} == {len(more)}
    joint = counts["main"].view(3, 2, 3)
    assert torch.equal(joint.sum(dim=(1, 2)), counts["mask"])
    assert torch.equal(joint.sum(dim=(0, 2)), counts["gender"])
    assert torch.equal(joint.sum(dim=(0, 1)), counts["ageg"])


# ------------------------------------------------------------------------------------------------ views


@pytest.fixture
def views(table):
    """Make a dataset with three views of every image."""

    def make(transform: str = "tta", rows: pd.DataFrame = table, **options) -> ViewDataset:
        inference = build_transform(transform, "inference", 32)
        return ViewDataset(rows["path"].tolist(), rows["image"].tolist(), inference, views=3, **options)

    return make


def test_views_and_targets_of_an_image(views, table):
    dataset = views("base", targets=make_targets(table, FACES))
    images, target = dataset[20]
    assert len(dataset) == 84
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert torch.equal(images[1], images[0].flip(2))
    assert target == {task: values[20].item() for task, values in make_targets(table, FACES).items()}
    assert views("base")[20][1] == {}


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("transform", ["base", "facecrop", "tta"])
def test_all_views_are_those_of_the_transform(transform, as_bytes, table):
    cut = build_transform(transform, "inference", 32, as_bytes=as_bytes)
    path, key = table["path"][20], table["image"][20]
    views = ViewDataset([path], [key], cut, views=12)[0][0]
    image = ImageReader().read(path)
    assert all(torch.equal(shown, cut(image, number, key)) for number, shown in enumerate(views))


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 0), (84, 0), (32, 2)])
@pytest.mark.parametrize("transform", ["tta", "facecrop"])
def test_views_are_the_same_for_any_batch_size_and_workers(transform, batch_size, workers, views, table):
    dataset = views(transform)
    expected = torch.stack([dataset[k][0] for k in range(len(dataset))])
    state = torch.get_rng_state()
    loader = view_loader(dataset, batch_size=batch_size, workers=workers, device=CPU)
    batches = [images for images, _ in loader]
    assert batches[0].shape == (batch_size, 3, 3, 32, 32)
    assert torch.equal(torch.cat(batches), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_views_depend_on_the_key_alone(views, table, tmp_path):
    """Not on the other images, their order or their folder."""
    dataset, moved = views(), table.sample(frac=0.3, random_state=1)
    moved["path"] = [shutil.copy(path, tmp_path / f"{k}.jpg") for k, path in enumerate(moved["path"])]
    other = views(rows=moved)
    assert all(torch.equal(other[k][0], dataset[number][0]) for k, number in enumerate(moved.index))
    assert not torch.equal(dataset[0][0][0], dataset[0][0][1])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_disappears_is_an_error_of_one_line(workers, capsys, tmp_path):
    """Also in a worker, whose whole traceback torch passes on."""
    dataset = ViewDataset([str(tmp_path / "lost.jpg")], ["lost.jpg"], build_transform("base", "inference", 32))

    def command():
        list(view_loader(dataset, batch_size=1, workers=workers, device=CPU))

    assert run_command(command, Context("train.py")) == 2
    expected = f"train.py: {tmp_path / 'lost.jpg'} cannot be read as an image (No such file or directory).\n"
    assert capsys.readouterr().err == expected


class Slow(torch.utils.data.Dataset):
    """Images that take these seconds to read."""

    def __init__(self, *seconds):
        self.seconds = seconds

    def __len__(self):
        return len(self.seconds)

    def __getitem__(self, key):
        time.sleep(self.seconds[key])
        return torch.zeros(3, 2, 2), {}


def test_loader_processes_that_give_no_first_batch_are_ended(monkeypatch, capsys):
    monkeypatch.setattr("training.loaders.FIRST_BATCH", 2)
    assert len(list(view_loader(Slow(0, 2.5), batch_size=1, workers=1, device=CPU))) == 2  # a later one may take longer
    loader = view_loader(Slow(600), batch_size=1, workers=1, device=CPU)
    assert run_command(lambda: list(loader), Context("train.py")) == 2
    assert "The loader processes gave no batch in 2 s. They may hang: pass --num-workers 0." in capsys.readouterr().err


def test_an_unreadable_image_is_blank_views_and_a_reason(small_data, tmp_path):
    good, bad = next(small_data.data_root.glob("*.jpg")), tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    files = [str(good), str(bad)], ["good", "bad"]
    cut = build_transform("base", "inference", 32)
    for limit, wrong in ((None, [1]), (0.001, [0, 1])):
        reader = ImageReader(max_megapixels=limit)
        dataset = ViewDataset(*files, cut, views=2, reader=reader, report_errors=True)
        found = [dataset[k] for k in range(2)]
        assert [k for k, (_, target) in enumerate(found) if target["error"]] == wrong
        assert all(views.shape == (2, 3, 32, 32) for views, _ in found)
        assert found[1][1]["error"] == f"{bad} cannot be read as an image (it is empty)."
        with pytest.raises(UserError, match=r"bad\.jpg cannot be read"):
            ViewDataset(*files, cut, reader=reader)[1]
    assert "more than --max-megapixels 0.001" in found[0][1]["error"]
