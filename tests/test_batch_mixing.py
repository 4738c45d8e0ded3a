"""MixUp, CutMix and soft age groups: images and targets worked out by hand."""

from __future__ import annotations

import pytest
import torch

from augmentation import BatchMixing
from data.label_math import encode_class


def batch(count: int = 6):
    """Images that each hold one number, 0 to count - 1, and targets of all tasks."""
    images = torch.arange(float(count))[:, None, None, None].expand(count, 3, 8, 8).clone()
    mask, gender, group = (torch.arange(count) % outputs for outputs in (3, 2, 3))
    main = torch.tensor([encode_class(*map(int, numbers)) for numbers in zip(mask, gender, group, strict=True)])
    return images, {"main": main, "mask": mask, "gender": gender, "ageg": group, "age": 20.0 + 10 * torch.arange(count)}


def test_without_options_a_batch_stays_as_it_is():
    images, targets = batch()
    mixed, new = BatchMixing()(images, targets)
    assert mixed is images
    assert new is targets


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_mixed_as_the_images_are(kind):
    images, targets = batch()
    for _ in range(20):
        mixed, new = BatchMixing(**{kind: 1.0})(images, targets)
        assert mixed.shape == images.shape
        for k in range(len(images)):
            # The two parts of an image are neighbours, so its mean gives their shares.
            other = (k - 1) % len(images)
            share = ((mixed[k].mean() - other) / (k - other)).item()
            assert -1e-5 <= share <= 1 + 1e-5
            for task, outputs in (("main", 18), ("mask", 3), ("gender", 2), ("ageg", 3)):
                expected = torch.zeros(outputs)
                expected[targets[task][k]] += share
                expected[targets[task][other]] += 1 - share
                assert torch.allclose(new[task][k], expected, atol=1e-4)
            years = share * targets["age"][k] + (1 - share) * targets["age"][other]
            assert new["age"][k].item() == pytest.approx(years.item(), abs=1e-2)


def test_mixup_blends_and_cutmix_pastes():
    torch.manual_seed(1)
    images, targets = batch()
    blended, pasted = BatchMixing(mixup=1.0)(images, targets)[0], BatchMixing(cutmix=1.0)(images, targets)[0]
    assert all(len(image.unique()) == 1 for image in blended)
    assert {float(value) for value in pasted.unique()} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert any(len(image.unique()) == 2 for image in pasted)


def test_both_alternate_at_random_by_the_seed_alone():
    images, targets = batch()

    def made(seed):
        torch.manual_seed(seed)
        return [BatchMixing(mixup=1.0, cutmix=1.0)(images, targets)[0] for _ in range(10)]

    first = made(3)
    assert {max(len(image.unique()) for image in mixed) for mixed in first} == {1, 2}
    assert all(torch.equal(a, b) for a, b in zip(first, made(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, made(4), strict=True))


def test_soft_age_groups_and_the_classes_of_main_agree():
    images, targets = batch()
    _, new = BatchMixing(age_sigma=4.0)(images, targets)
    shares = new["main"].view(-1, 3, 2, 3)
    assert torch.allclose(shares.sum(dim=(1, 2)), new["ageg"], atol=1e-6)
    assert torch.equal(shares.sum(dim=(2, 3)).argmax(dim=1), targets["mask"])
    assert torch.equal(shares.sum(dim=(1, 3)).argmax(dim=1), targets["gender"])
    assert torch.equal(new["age"], targets["age"])
