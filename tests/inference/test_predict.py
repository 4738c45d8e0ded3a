"""Members that see photographs otherwise (size, cut, normalisation) in one prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import SingularConfig
from data.image_cache import ImageReader
from data.prediction_files import read_prediction_list
from inference import predict as prediction
from inference.predict import write_prediction
from storage.checkpoint import save_checkpoint
from storage.members import Member, open_member

VIEWS = 3


@pytest.fixture(scope="module")
def members(small_data, tiny_training, tmp_path_factory) -> list[Member]:
    """Four networks: of 32 pixels, the same with another cut, of 40 pixels, and of 40 with another normalisation."""
    import train

    place = tmp_path_factory.mktemp("members")
    found = []
    for number, (size, cut) in enumerate(((32, "base"), (32, "facecrop"), (40, "base"))):
        words = ("--train-root", small_data.train_root, "--save-path", place / str(number), "--seed", number)
        words = (*tiny_training, *words, "--image-size", size, "--transform-type", cut)
        assert train.main([str(word) for word in words]) == 0
        found.append(open_member(next((place / str(number)).rglob("*.pt"))))
    info = replace(found[2].info, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    path = place / "other.pt"
    save_checkpoint(path, found[2].load(), info)
    return [*found, Member(path, info)]


@pytest.fixture
def predict(small_data, tmp_path):
    def answers(members: list[Member], name: str, at_once: int = 0) -> list[np.ndarray]:
        """What each member's file says, in their order."""
        options = {"data_root": str(small_data.data_root), "save_path": str(tmp_path), "tta": VIEWS, "num_workers": 0}
        config = SingularConfig(**options, device="cpu", batch_size=6)
        folds = [replace(member, fold=number) for number, member in enumerate(members)]
        photographs = read_prediction_list(config.data_root)
        write_prediction(config, folds, photographs, name, method="softvoting", at_once=at_once)
        files = sorted((tmp_path / "main" / name / "members").glob("*.csv"))
        assert len(files) == len(members)
        return [pd.read_csv(path).drop(columns="ImageID").to_numpy() for path in files]

    return answers


@pytest.mark.parametrize("at_once", [0, 1, 3])
def test_each_member_answers_as_by_itself(at_once, members, predict):
    alone = [predict([member], f"alone{number}")[0] for number, member in enumerate(members)]
    together = predict(members, "together", at_once)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() < 1e-6
    assert np.abs(alone[2] - alone[3]).max() > 1e-6  # the normalisation is seen


def test_a_photograph_is_read_once_and_a_view_made_once_for_all_that_see_it(members, predict, monkeypatch):
    read, made = [], []

    class Counted(ImageReader):
        def read(self, path):
            read.append(Path(path).name)
            return super().read(path)

    def counted(*args, **kwargs):
        transform = build(*args, **kwargs)

        def cut(image, view, key):
            made.append((args, tuple(kwargs.items()), view, key))
            return transform(image, view, key)

        cut.max_views = transform.max_views
        return cut

    build = prediction.build_transform
    monkeypatch.setattr(prediction, "ImageReader", Counted)
    monkeypatch.setattr(prediction, "build_transform", counted)
    predict([*members, *members], "twice", 3)
    assert len(read) == len(set(read)) == 5
    assert len(made) == len(set(made)) == 4 * VIEWS * 5
