"""Predict with members of different size, crop and normalisation, and with unreadable images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.command import Context
from data import images
from data.faces import MAIN
from data.prediction_files import read_prediction_list
from inference import predict as prediction
from inference.predict import Prediction, PredictionSettings, predict_images
from inference.submission import reserve_folder
from storage.checkpoint import save_checkpoint
from storage.members import Member, open_member
from training import engine
from training.distributed import ALONE
from utils import UserError

VIEWS = 3


@pytest.fixture(scope="module")
def members(train_run, tmp_path_factory) -> list[Member]:
    """Four networks: of 32 pixels, the same with another cut, of 40 pixels, and of 40 with another normalisation."""
    found = []
    for seed, (size, cut) in enumerate(((32, "base"), (32, "facecrop"), (40, "base"))):
        run = train_run("--seed", seed, "--image-size", size, "--transform-type", cut)
        found.append(open_member(next(run.rglob("*.pt"))))
    other = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "crop_share": 0.8}
    info = replace(found[2].info, **other)
    path = tmp_path_factory.mktemp("members") / "other.pt"
    save_checkpoint(path, found[2].load(), info)
    return [*found, Member(path, info)]


@pytest.fixture
def predict(small_data):
    def answers(members: list[Member], at_once: int = 0, **settings) -> Prediction:
        """Predict the images of `small_data` in three views."""
        settings = {"views": VIEWS, "batch_size": 6, "num_workers": 0, "members_at_once": at_once, **settings}
        settings = PredictionSettings.choose(ALONE, device="cpu", precision="auto", **settings)
        images = read_prediction_list(small_data.data_root)
        return predict_images(members, [MAIN] * len(members), images, settings, Context("test"))

    return answers


@pytest.mark.parametrize("at_once", [0, 1, 3])
def test_each_member_predicts_as_by_itself(at_once, members, predict):
    alone = [predict([member]).probabilities[0] for member in members]
    for one, other in zip(alone, predict(members, at_once).probabilities, strict=True):
        assert np.abs(one - other).max() < 1e-6
    assert np.abs(alone[2] - alone[3]).max() > 1e-6  # the normalisation matters


@pytest.fixture
def counted(monkeypatch):
    """The images that are decoded, and the views that are made."""
    decoded, made = [], []

    def read(image, side=None):
        decoded.append(Path(image.filename).name)
        return to_rgb(image, side)

    def build(*args, **kwargs):
        transform = build_transform(*args, **kwargs)

        def cut(image, view, key):
            made.append((args, tuple(kwargs.items()), view, key))
            return transform(image, view, key)

        cut.max_views, cut.size = transform.max_views, transform.size
        cut.mean, cut.std = transform.mean, transform.std
        return cut

    to_rgb, build_transform = images._to_rgb, prediction.build_transform
    monkeypatch.setattr(images, "_to_rgb", read)
    monkeypatch.setattr(prediction, "build_transform", build)
    return decoded, made


def test_an_image_is_decoded_once_and_a_view_made_once(members, predict, counted):
    decoded, made = counted
    predict([*members, *members], 3)
    assert len(decoded) == len(set(decoded)) == 5
    assert len(made) == len(set(made)) == 4 * VIEWS * 5


@pytest.fixture
def unreadable(small_data, monkeypatch):
    """The second and the fourth image cannot be read."""

    def open_image(path, *args, **kwargs):
        if Path(path).name in names:
            raise OSError(f"{Path(path).name} is damaged")
        return image_open(path, *args, **kwargs)

    names, image_open = list(small_data.eval_ids[1:4:2]), Image.open
    monkeypatch.setattr(Image, "open", open_image)
    return names


@pytest.mark.parametrize("workers", [0, 2])
def test_all_unreadable_images_are_named_at_once(workers, members, predict, unreadable, monkeypatch):
    ran, answer = [], engine.predict_task
    monkeypatch.setattr(engine, "predict_task", lambda outputs, task: ran.append(1) or answer(outputs, task))
    with pytest.raises(UserError) as caught:
        predict(members[:1], batch_size=VIEWS, num_workers=workers)
    lines = str(caught.value).splitlines()
    assert all(f"{name} is damaged" in line for name, line in zip(unreadable, lines, strict=True))
    assert "--on-bad-image skip" in lines[-1]
    assert len(ran) == 1  # of the batches of one image the first


def test_skipped_images_get_the_shares_of_training_and_the_others_keep_their_answers(
    members, predict, unreadable, counted
):
    found = predict(members[:1], on_bad_image="skip")
    decoded, _ = counted
    assert len(decoded) == len(set(decoded)) == 3
    assert list(found.unreadable) == unreadable
    counts = np.array(members[0].info.training_counts["main"])
    assert found.probabilities[0][[1, 3]] == pytest.approx(np.tile(counts / counts.sum(), (2, 1)))


def test_the_largest_image_to_read(members, predict):
    with pytest.raises(UserError, match=r"(?s)(more than --max-megapixels 0.001.*){5}"):
        predict(members[:1], max_megapixels=0.001)
    with pytest.raises(UserError, match="None of the 5 images in"):
        predict(members[:1], max_megapixels=0.001, on_bad_image="skip")


def test_a_reserved_folder_is_removed_if_nothing_comes_of_it(tmp_path):
    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "new" / "members", tmp_path / "old" / "members"):
        with pytest.raises(UserError), reserve_folder(folder):
            assert folder.is_dir()
            raise UserError
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
    with pytest.raises(UserError), reserve_folder(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
        raise UserError
    assert (tmp_path / "new" / "file").is_file()
