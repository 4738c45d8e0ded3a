"""Descriptions of small checkpoints."""

from data.faces import FACES
from storage.checkpoint import ModelInfo


def info(epoch: int = 1, score: float | None = 0.5, fold: int = 0, **others) -> ModelInfo:
    """The description of a small checkpoint, of task mask if no other is named."""
    network = {"model_type": "VanillaResNet", "backbone": "resnet18", "image_size": 32, "transform_type": "base"}
    task = {"task": "mask", "classes": FACES[others.get("task", "mask")].classes}
    scores = {"scores": {"macro_f1": score, "accuracy": 0.25}, "monitor": "macro_f1", "higher_is_better": True}
    run = {"fold": fold, "epoch": epoch, "split_fingerprint": "0123456789abcdef", "versions": {"torch": "2"}}
    config = {"task": "mask", "cv": 2, "folds": None, "lr": 0.005}
    return ModelInfo(**network | task | scores | run | {"config": config} | others)


def age_info(epoch: int, rmse: float, fold: int = 0) -> ModelInfo:
    scores = {"macro_f1": 0.5, "accuracy": 0.5, "mae": 5.0, "rmse": rmse}
    return info(epoch, fold=fold, task="age", scores=scores, monitor="rmse", higher_is_better=False)
