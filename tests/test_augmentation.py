"""Transforms and views of images of any size: results, seeds and settings; and the face box."""

import pickle
import random

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw
from samples import encode_class
from torchvision.transforms import v2

import augmentation
from augmentation import TRANSFORMS, VIEWS, BatchMixing, build_transform, normalise, to_image, to_tensor
from backbones.create import expected_pixels
from cli import choices
from data.face_box import face_box, face_crop_box
from data.face_layout import soft_ages
from data.faces import AGE, FACES
from utils import seeded

NAMES = tuple(TRANSFORMS)
PHASES = ("train", "valid", "inference")
FIXED = tuple(name for name in NAMES if name != "tta")  # their inference views are a fixed list
RANDOM = tuple(name for name in NAMES if name != "facecrop")  # their training crops are random resized
CENTRED = tuple(name for name in FIXED if name != "facecrop")
ODD_SIZES = ((1, 1), (7, 500), (500, 7), (33, 47), (224, 224), (384, 512), (512, 384))
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # leaves pixels as fractions of 255


def flat(size, colour=(128, 128, 128)) -> Image.Image:
    return Image.new("RGB", size, colour)


def noise(size=(48, 64), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def portrait(size=(96, 128), *, x: float = 0.5, y: float = 0.5) -> Image.Image:
    """A drawn head and shoulders; `x` and `y` place its middle as shares of the image."""
    width, height = 80 / 384 * min(size), 110 / 384 * min(size)
    middle, level = x * size[0], y * size[1]
    image = flat(size, (90, 120, 150))
    draw = ImageDraw.Draw(image)

    def box(left, top, right, bottom):
        return (middle + left * width, level + top * height, middle + right * width, level + bottom * height)

    draw.rectangle((*box(-1.9, 1.25, 1.9, 0)[:3], size[1]), fill=(40, 40, 60))  # shoulders
    draw.rectangle(box(-0.4, 0.7, 0.4, 1.3), fill=(200, 160, 130))  # neck
    draw.ellipse(box(-1.12, -1.3, 1.12, 0.3), fill=(25, 18, 15))  # hair
    draw.ellipse(box(-1, -1, 1, 1), fill=(225, 180, 150))
    for eye in (-0.4, 0.4):
        draw.ellipse(box(eye - 0.15, -0.25, eye + 0.15, -0.1), fill=(20, 20, 20))
    draw.ellipse(box(-0.35, 0.45, 0.35, 0.6), fill=(150, 40, 50))  # mouth
    return image


def ramp(first: int, last: int) -> Image.Image:
    """From one grey on the left to another on the right."""
    return Image.fromarray(np.tile(np.linspace(first, last, 384)[None, :, None], (512, 1, 3)).astype(np.uint8))


def pixels(image: Image.Image) -> torch.Tensor:
    """(3, H, W) in 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def apply(name: str, phase: str, image: Image.Image, size: int = 32, *, view: int = 0, key: str = "", **options):
    transform = build_transform(name, phase, size, **options)
    return transform(image) if phase == "train" else transform(image, view, key)


# ------------------------------------------------------------------------------------------------ any image


@pytest.fixture
def no_colours(monkeypatch):
    """Replace RandAugment, which changes colours, by the identity."""
    monkeypatch.setattr(augmentation.v2, "RandAugment", lambda *numbers: torch.nn.Identity())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
@pytest.mark.parametrize("side", [32, 75])
def test_every_image_becomes_a_square_of_finite_numbers_and_stays_as_it_is(name, phase, size, side):
    transform = build_transform(name, phase, side)
    for image in (flat(size), flat(size, (0, 0, 0)), noise(size)):
        before = image.tobytes()
        last = 0 if phase == "train" else (transform.max_views or 3) - 1
        for view in {0, last}:
            got = transform(image) if phase == "train" else transform(image, view, "a.jpg")
            assert got.shape == (3, side, side)
            assert got.dtype == torch.float32
            assert torch.isfinite(got).all()
        assert image.tobytes() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", PHASES)
def test_bytes_that_are_normalised_later_are_the_same_numbers(name, phase):
    """Random erasing, in training, works on normalised images, which stay float32."""
    scales = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.7)}
    mean, std = (torch.tensor(each)[:, None, None] for each in scales.values())
    for erasing in (0.0, 1.0):
        options = {"size": 33, "key": "a", "mirror": True, "erasing": erasing, **scales}
        with seeded(1):
            expected = apply(name, phase, noise((48, 64)), **options)
        with seeded(1):
            got = apply(name, phase, noise((48, 64)), **options, as_bytes=True)
        assert got.dtype == (torch.float32 if erasing and phase == "train" else torch.uint8)
        assert torch.equal(got if got.dtype == torch.float32 else normalise(got[None], mean, std)[0], expected)


@pytest.mark.parametrize("name", FIXED)
def test_nothing_is_padded(name):
    """A white image is white up to its border in every view, at any size."""
    transform = build_transform(name, "inference", 32, **PLAIN)
    padded = []
    for width in (*range(1, 41), 395):
        for height in {width, width + 1, width * 4 // 3}:
            image = flat((width, height), (255, 255, 255))
            padded += [(width, height, view) for view in range(len(VIEWS)) if transform(image, view).min() < 1]
    assert padded == []


@pytest.mark.parametrize("name", ["base", "facecrop"])
def test_nothing_is_padded_in_training(name):
    transform = build_transform(name, "train", 32, **PLAIN)
    for size in ((15, 20), (35, 35), (47, 33), (395, 520)):
        assert all(transform(flat(size, (255, 255, 255))).min() == 1 for _ in range(5))


@pytest.mark.parametrize("x", [0.38, 0.42, 0.62])
def test_nothing_is_padded_around_a_face_at_the_border(x):
    for width in range(45, 145, 10):
        bright = Image.eval(portrait((width, width * 4 // 3), x=x), lambda value: 128 + value // 2)
        assert face_box(bright) is not None
        assert apply("facecrop", "train", bright, **PLAIN).min() > 0.5
        assert all(apply("facecrop", "inference", bright, view=view, **PLAIN).min() > 0.5 for view in range(len(VIEWS)))


def test_names_are_those_of_the_command_line():
    assert set(TRANSFORMS) == set(choices.TRANSFORMS)
    assert all(set(phases) == set(PHASES) for phases in TRANSFORMS.values())


@pytest.mark.parametrize(("name", "phase"), [("crop", "train"), ("base", "test")])
def test_an_unknown_name_or_phase(name, phase):
    with pytest.raises(KeyError):
        build_transform(name, phase, 32)


# ------------------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ({"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 1.0)}, (0.5, 0.4, 0.3), (0.25, 0.5, 1.0)),
    ],
    ids=["ImageNet", "of a checkpoint"],
)
def test_pixels_are_normalised(name, phase, settings, mean, std, no_colours):
    got = apply(name, phase, flat((48, 64), (255, 51, 0)), **settings)
    for channel, value, m, s in zip(got, (1, 0.2, 0), mean, std, strict=True):
        assert channel.flatten().tolist() == pytest.approx([(value - m) / s] * 32 * 32, abs=1e-5)


# ------------------------------------------------------------------------------------------------ crops


@pytest.mark.parametrize("name", ["base_source", "random_source"])
def test_the_source_crop_is_the_centre_pixel_for_pixel(name):
    image = noise((384, 512))
    got = apply(name, "inference", image, 224, **PLAIN)
    assert torch.equal((255 * got).round(), (255 * pixels(image.crop((80, 144, 304, 368)))).round())


@pytest.mark.parametrize("name", ["base", "random"])
def test_the_default_inference_crop_shows_what_training_is_cut_from(name):
    image = portrait((384, 512))
    got = apply(name, "inference", image, 224, **PLAIN)
    expected = pixels(image.crop((0, 64, 384, 448)).resize((224, 224), Image.Resampling.BILINEAR))
    assert torch.allclose(got, expected, atol=1.5 / 255)


@pytest.mark.parametrize("backbone", ["convnext_tiny", "vit_b_16", "efficientnet_v2_s", "swin_t"])
@pytest.mark.parametrize("size", [(384, 512), (301, 227)])
def test_images_are_evaluated_as_torchvision_evaluates_its_weights(backbone, size):
    theirs = torchvision.models.get_model_weights(backbone).DEFAULT.transforms()
    settings = expected_pixels("VanillaTorchvision", backbone)
    for image in (portrait(size), noise(size)):
        for phase in ("valid", "inference"):
            got = apply("base", phase, image, theirs.crop_size[0], **settings)
            assert torch.allclose(got, theirs(image), atol=1e-5)


@pytest.mark.parametrize(("size", "share"), [(224, 0.95), (224, 0.9), (260, 0.89), (256, 0.888), (97, 1.0)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_are_evaluated_as_timm_evaluates_its_weights(size, share, interpolation):
    """timm 1.0.31 resizes the shorter side to the size / the share, rounded down, and cuts the centre."""
    mode = v2.InterpolationMode(interpolation)
    theirs = v2.Compose([v2.Resize(int(size // share), mode), v2.CenterCrop(size), to_tensor((0.5,) * 3, (0.5,) * 3)])
    image = noise((301, 427))
    settings = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": interpolation, "crop_share": share}
    assert torch.allclose(apply("random", "inference", image, size, **settings), theirs(image), atol=1e-5)
    mirrored = apply("random", "inference", image, size, view=1, **settings)
    assert torch.allclose(mirrored, theirs(image).flip(-1), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_224", "vit_base_patch16_clip_224", "mobilevitv2_050"])
def test_images_are_evaluated_as_timm_says_itself(name):
    timm = pytest.importorskip("timm")
    about = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs, image = timm.data.create_transform(**about, is_training=False), portrait((384, 512))
    got = apply("base", "inference", image, about["input_size"][1], **expected_pixels("VanillaTimm", name))
    assert torch.allclose(got, theirs(image), atol=1e-5)


def test_zoomed_views_of_a_crop_share_are_parts_of_its_crop():
    whole, zoomed = (apply("base", "inference", ramp(0, 250), 64, view=k, crop_share=0.8, **PLAIN) for k in (0, 2))
    assert 0.19 < 1 - (whole.max() - whole.min()) / (250 / 255) < 0.23
    assert (zoomed.max() - zoomed.min()) / (whole.max() - whole.min()) == pytest.approx(0.9, abs=0.02)


def test_a_typed_inference_crop_replaces_the_crop_share():
    image, crop = portrait(), {"inference_crop": 0.7}
    assert torch.equal(apply("base", "valid", image, **crop), apply("base", "valid", image, crop_share=0.9, **crop))
    assert torch.equal(apply("facecrop", "valid", image), apply("facecrop", "valid", image, crop_share=0.9))


@pytest.mark.parametrize("name", NAMES)
def test_the_interpolation_of_the_weights_is_used(name):
    image = noise((96, 96))
    for phase in PHASES:
        found = []
        for kind in ("bilinear", "bicubic"):
            torch.manual_seed(3)
            found.append(apply(name, phase, image, interpolation=kind))
        assert 0.01 < (found[0] - found[1]).abs().mean() < 0.4


def test_validation_of_tta_has_no_random_views():
    image = portrait()
    for key in "ab":
        assert torch.equal(apply("tta", "valid", image, key=key), apply("base", "valid", image))


@pytest.mark.parametrize("name", CENTRED)
@pytest.mark.parametrize("size", [(384, 512), (512, 384), (400, 400), (150, 260), (1000, 800)], ids=str)
def test_nothing_is_stretched(name, size):
    """A disc stays a disc, and takes the same part of the shorter side in every image."""
    image = flat(size, (0, 0, 0))
    radius = 0.2 * min(size)
    x, y = size[0] / 2, size[1] / 2
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255))
    shown = apply(name, "inference", image, 120, **PLAIN)[0] > 0.5
    across, down = shown.any(dim=0).sum().item(), shown.any(dim=1).sum().item()
    fraction = 224 / 384 if name.endswith("_source") else 1.0
    assert across == pytest.approx(0.4 / fraction * 120, abs=2.5)
    assert abs(across - down) <= 1


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("size", [(48, 64), (64, 48)], ids=str)
def test_training_crops_lie_in_the_centre_square(name, size, no_colours):
    """Everything outside of it is red."""
    image = flat(size, (255, 0, 0))
    image.paste((0, 255, 0), (0, 8, 48, 56) if size[1] > size[0] else (8, 0, 56, 48))
    transform = build_transform(name, "train", 32, **PLAIN)
    seen = torch.stack([transform(image) for _ in range(40)])
    assert seen[:, 0].max() == 0
    assert seen[:, 1].min() == 1


@pytest.mark.parametrize("image_size", [32, 64, 224])
def test_facecrop_trains_on_random_crops_of_the_source_proportions(image_size):
    """On a ramp from left to right no face is found: the centred box is cut, 224 of whose 234 columns are shown."""
    image = ramp(0, 255)
    assert face_box(image) is None
    transform = build_transform("facecrop", "train", image_size, **PLAIN)
    seen = [transform(image)[0, 0] for _ in range(20)]
    widths = [(row.max() - row.min()).item() for row in seen]
    assert widths == pytest.approx([0.85 * 224 / 234] * 20, abs=0.04)
    assert len({row.min().item() for row in seen}) > 1
    middle = apply("facecrop", "inference", image, image_size, **PLAIN)[0, 0]
    assert (middle.max() - middle.min()).item() == pytest.approx(0.85 * 224 / 234, abs=0.04)
    assert ((middle.max() + middle.min()) / 2).item() == pytest.approx(0.5, abs=0.02)


def test_facecrop_shows_the_centre_of_the_face_box():
    image = portrait((384, 512), x=0.45)
    left, top, width, height = face_box(image)
    box = (round(left), round(top), round(left + width), round(top + height))
    face = image.crop(box).resize((234, 312), Image.Resampling.BILINEAR)  # the source's two steps
    expected = pixels(face.crop((5, 44, 229, 268)))
    got = apply("facecrop", "inference", image, 224, **PLAIN)
    assert (got - expected).abs().mean() < 0.02
    assert (got - apply("base", "inference", image, 224, **PLAIN)).abs().mean() > 0.05


@pytest.mark.parametrize("x", [0.42, 0.58])
def test_facecrop_trains_on_the_face_wherever_it_is(x):
    """A green line at the middle of the face is in the middle third of every training crop."""
    image = portrait((384, 512), x=x)
    line = round(384 * x)
    image.paste((0, 255, 0), (line - 4, 0, line + 4, 512))
    assert face_box(image) is not None
    transform = build_transform("facecrop", "train", 224, **PLAIN)
    for _ in range(10):
        crop = transform(image)
        shown = ((crop[1] - crop[0]).mean(dim=0) > 0.5).nonzero().float().mean().item()
        assert shown / 224 == pytest.approx(0.5, abs=0.06)


# ------------------------------------------------------------------------------------------------ settings


def narrowest_crop(name: str, phase: str, scale: float) -> float:
    """The smallest width of 200 crops: the range of values on a ramp."""
    image, transform = ramp(0, 255), build_transform(name, phase, 32, crop_scale=scale, **PLAIN)
    seen = [transform(image) if phase == "train" else transform(image, view, "a") for view in range(200)]
    return min((view.max() - view.min()).item() for view in seen)


@pytest.mark.parametrize(("name", "phase"), [*((name, "train") for name in RANDOM), ("tta", "inference")])
def test_the_smallest_random_crop_has_the_area_of_crop_scale(name, phase, no_colours):
    # A crop is at most 4 high by 3 wide: the narrowest has the root of 3/4 of the area for its width.
    assert 0.5**0.5 * 0.75**0.5 - 0.02 < narrowest_crop(name, phase, 0.5) < 0.8
    assert narrowest_crop(name, phase, 0.08) < 0.4


@pytest.mark.parametrize("name", NAMES)
def test_mirroring_is_for_every_second_training_image_and_for_no_other_phase(name, no_colours):
    image = ramp(255, 0)

    def falling(phase, mirror, *view):
        seen = build_transform(name, phase, 32, mirror=mirror, **PLAIN)(image, *view)[0]
        return (seen[:, 0].mean() > seen[:, -1].mean()).item()

    assert 30 < sum(falling("train", True) for _ in range(100)) < 70
    assert all(falling("train", False) for _ in range(20))
    for phase in ("valid", "inference"):
        assert all(falling(phase, True, 0, key) for key in "abcd")


def test_erasing_blanks_a_box_with_its_probability():
    white = flat((48, 48), (255, 255, 255))
    transform = build_transform("base", "train", 32, erasing=0.5)
    seen = [transform(white) for _ in range(200)]
    erased = [(view == 0).float().mean().item() for view in seen]  # 0 is the mean colour
    assert 70 < sum(share > 0 for share in erased) < 130
    assert max(erased) < 0.4
    for phase in ("valid", "inference"):
        assert (build_transform("tta", phase, 32, erasing=1.0)(white, 0, "a") != 0).all()


@pytest.mark.parametrize("name", FIXED)
def test_the_inference_crop_has_its_share_of_the_side(name):
    image = portrait((384, 512))
    whole = apply(name, "inference", image, 224, inference_crop=1.0, **PLAIN)
    half = apply(name, "inference", image, 224, inference_crop=0.5, **PLAIN)
    middle = torch.nn.functional.interpolate(whole[None, :, 56:168, 56:168], size=(224, 224), mode="bilinear")[0]
    assert (half - middle).abs().mean() < 0.02
    assert torch.equal(half, apply(name, "valid", image, 224, inference_crop=0.5, **PLAIN))


# ------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("name", FIXED)
def test_fixed_views_differ_and_draw_nothing(name):
    """The first is plain, the second mirrored; the key does not matter."""
    image = portrait(x=0.47, y=0.52)
    transform, state = build_transform(name, "inference", 64), torch.get_rng_state()
    assert transform.max_views == len(VIEWS) == 12
    views = [transform(image, view, "a") for view in range(12)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert all(torch.equal(transform(image, view, "b"), views[view]) for view in range(12))
    assert torch.equal(views[0], apply(name, "valid", image, 64))
    assert torch.equal(views[1], views[0].flip(2))
    assert all(not torch.equal(views[i], views[j]) for i in range(12) for j in range(i))


def test_random_views_depend_on_image_and_number_alone():
    image, seen, state = noise((384, 512)), {}, torch.get_rng_state()
    for key in ("a/mask1.jpg", "a/mask2.jpg"):
        for view in range(4):
            seen[key, view] = apply("tta", "inference", image, view=view, key=key)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(tensor.flatten()[:200].tolist()) for tensor in seen.values()}) == len(seen)
    transform = build_transform("tta", "inference", 32)
    assert transform.max_views is None
    for (key, view), expected in reversed(seen.items()):  # in another order, from other states
        torch.manual_seed(view + 100)
        np.random.seed(view)
        random.seed(view)
        assert torch.equal(transform(image, view, key), expected)


@pytest.mark.parametrize("view", [0, 1, 50])
def test_random_views_are_random_resized_crops_of_the_centre_square(view):
    """The crop of two ramps is a rectangle of 8 to 100 % of the square, in proportion 3:4 to 4:3."""
    x, y = np.meshgrid(np.linspace(0, 255, 384), np.linspace(0, 255, 384))
    square = np.stack([x, y, 0 * x], axis=2)
    image = Image.fromarray(np.pad(square, ((64, 64), (0, 0), (0, 0))).astype(np.uint8))
    got = apply("tta", "inference", image, 224, view=view, key="a.jpg", **PLAIN)
    width, height = ((channel.max() - channel.min()).item() for channel in got[:2])
    assert 0.07 < width * height <= 1
    assert 0.7 < width / height < 1.4


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
@pytest.mark.parametrize(("name", "augmentations"), [("base", []), ("random", [v2.RandAugment(2, 9)])])
def test_training_images_and_draws_are_those_of_torchvision(name, augmentations, size):
    mode, image = v2.InterpolationMode.BICUBIC, noise(size)
    crops = [v2.CenterCrop(min(size)), v2.RandomResizedCrop(33, (0.2, 1), interpolation=mode)]
    theirs = v2.Compose([*crops, v2.RandomHorizontalFlip(), *augmentations, v2.PILToTensor()])
    ours = build_transform(name, "train", 33, crop_scale=0.2, mirror=True, interpolation=mode.value, as_bytes=True)
    for seed in range(5):
        found = []
        for transform in (ours, theirs):
            torch.manual_seed(seed)
            found.append((transform(image), torch.get_rng_state()))
        assert all(map(torch.equal, *found))


@pytest.mark.parametrize("name", NAMES)
def test_training_depends_on_torchs_seed_alone(name):
    image, transform = noise((96, 128)), build_transform(name, "train", 32)

    def draw(seed: int, other: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        np.random.seed(other)
        random.seed(other)
        return [transform(image) for _ in range(3)]

    first, again, others = draw(1, 1), draw(1, 2), draw(2, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(first, others, strict=True))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", PHASES)
def test_transforms_travel_to_workers(name, phase):
    transform = build_transform(name, phase, 32)
    copy = pickle.loads(pickle.dumps(transform))
    image = portrait()
    results = []
    for one in (transform, copy):
        torch.manual_seed(3)
        results.append(one(image) if phase == "train" else one(image, 1, "a.jpg"))
    assert torch.equal(*results)


# ------------------------------------------------------------------------------------------------ face box


def assert_box(box, size) -> None:
    left, top, width, height = box
    assert width * 4 == pytest.approx(height * 3)
    assert min(left, top) >= -1e-6
    assert left + width <= size[0] + 1e-6
    assert top + height <= size[1] + 1e-6
    assert min(width, height) > 0


@pytest.mark.parametrize("dx", [-0.1, 0, 0.1])
@pytest.mark.parametrize("dy", [-0.1, 0, 0.1])
@pytest.mark.parametrize("size", [(96, 128), (384, 512)], ids=str)
def test_a_face_is_found_where_it_is(dx, dy, size):
    box = face_box(portrait(size, x=0.5 + dx, y=0.5 + dy))
    assert_box(box, size)
    left, top, width, height = box
    middle, level = (0.5 + dx) * size[0], (0.5 + dy) * size[1]
    assert left + width / 2 == pytest.approx(middle, abs=0.06 * size[0])
    half_width, half_height = 80 / 384 * size[0], 110 / 512 * size[1]
    assert left <= middle - half_width < middle + half_width <= left + width
    assert top <= level - half_height < level + half_height <= top + height


@pytest.mark.parametrize("x", [0.44, 0.5, 0.56])
def test_the_box_mirrors_with_the_image(x):
    image = portrait((96, 128), x=x)
    left, top, width, height = face_box(image)
    mirrored = face_box(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert mirrored == pytest.approx((96 - left - width, top, width, height), abs=3)


@pytest.mark.parametrize("size", [*ODD_SIZES, (600, 200), (200, 601)], ids=str)
@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255)], ids=str)
def test_a_blank_image_has_no_face(size, colour):
    assert face_box(flat(size, colour)) is None


@pytest.mark.parametrize("size", [*ODD_SIZES, (2, 3), (3, 2), (5, 15), (16, 5), (48, 144), (300, 100)], ids=str)
def test_the_box_is_inside_of_any_image(size):
    for seed in range(3):
        symmetric = np.array(noise(size, seed))
        symmetric = Image.fromarray(np.concatenate([symmetric, symmetric[:, ::-1]], axis=1)).resize(size)
        for image in (noise(size, seed), symmetric, portrait(size, x=0.1 * seed + 0.4)):
            box = face_box(image)
            if box is not None:
                assert_box(box, size)


def test_a_face_box_is_found_in_portraits_of_any_size():
    """The test above is not about None alone."""
    assert all(face_box(portrait(size)) is not None for size in ((48, 64), (64, 64), (224, 224), (512, 384), (33, 47)))


def test_a_face_crop_reports_whether_there_is_a_face():
    image = portrait()
    assert face_crop_box(image) == (face_box(image), True)
    (left, top, width, height), found = face_crop_box(flat((96, 128)))
    assert not found
    assert (left + width / 2, top + height / 2) == pytest.approx((48, 64))
    assert width / height == pytest.approx(3 / 4)


def test_an_image_can_be_restored_from_its_tensor():
    image = noise()
    assert pixels(to_image(to_tensor()(image))).equal(pixels(image))
    assert pixels(to_image(to_tensor(**PLAIN)(image), **PLAIN)).equal(pixels(image))


def test_every_view_has_a_name_of_its_own():
    names = [view.name for view in VIEWS]
    assert names[:6] == ["plain", "mirrored", "zoomed", "zoomed mirrored", "zoomed up", "zoomed up mirrored"]
    assert names[6:] == [f"zoomed {way}{more}" for way in ("down", "left", "right") for more in ("", " mirrored")]


# ------------------------------------------------------------------------------------------------ batches


def batch(count: int = 6):
    """Images that each hold one number, 0 to count - 1, and targets of all tasks."""
    images = torch.arange(float(count))[:, None, None, None].expand(count, 3, 8, 8).clone()
    mask, gender, group = (torch.arange(count) % outputs for outputs in (3, 2, 3))
    main, age = encode_class(mask, gender, group), 20.0 + 10 * torch.arange(count)
    return images, {"main": main, "mask": mask, "gender": gender, "ageg": group, "age": age}


def test_without_options_a_batch_stays_as_it_is():
    images, targets = batch()
    mixed, new = BatchMixing(FACES)(images, targets)
    assert mixed is images
    assert new is targets


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_mixed_as_the_images_are(kind):
    images, targets = batch()
    for _ in range(20):
        mixed, new = BatchMixing(FACES, **{kind: 1.0})(images, targets)
        assert mixed.shape == images.shape
        # The two parts of an image are neighbours, so its mean gives their shares.
        numbers, others = torch.arange(6.0), torch.arange(6.0).roll(1)
        share = (mixed.mean(dim=(1, 2, 3)) - others) / (numbers - others)
        assert -1e-5 <= share.min() <= share.max() <= 1 + 1e-5
        for task, outputs in (("main", 18), ("mask", 3), ("gender", 2), ("ageg", 3)):
            classes = torch.nn.functional.one_hot(targets[task], outputs)
            expected = share[:, None] * classes + (1 - share[:, None]) * classes.roll(1, 0)
            assert torch.allclose(new[task], expected, atol=1e-4)
        years = share * targets["age"] + (1 - share) * targets["age"].roll(1)
        assert torch.allclose(new["age"], years, atol=1e-2)


def test_mixup_blends_and_cutmix_pastes():
    torch.manual_seed(1)
    images, targets = batch()
    blended, pasted = (BatchMixing(FACES, **{kind: 1.0})(images, targets)[0] for kind in ("mixup", "cutmix"))
    assert all(len(image.unique()) == 1 for image in blended)
    assert {float(value) for value in pasted.unique()} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert any(len(image.unique()) == 2 for image in pasted)


def test_both_alternate_at_random_by_the_seed_alone():
    images, targets = batch()

    def made(seed):
        torch.manual_seed(seed)
        return [BatchMixing(FACES, mixup=1.0, cutmix=1.0)(images, targets)[0] for _ in range(10)]

    first = made(3)
    assert {max(len(image.unique()) for image in mixed) for mixed in first} == {1, 2}
    assert all(torch.equal(a, b) for a, b in zip(first, made(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, made(4), strict=True))


def test_soft_age_groups_and_the_classes_of_main_agree():
    images, targets = batch()
    soft = {AGE: torch.from_numpy(soft_ages(4.0, None)).float()}
    _, new = BatchMixing(FACES, soft=soft)(images, targets)
    shares = new["main"].view(-1, 3, 2, 3)
    assert torch.allclose(shares.sum(dim=(1, 2)), new["ageg"], atol=1e-6)
    assert torch.equal(shares.sum(dim=(2, 3)).argmax(dim=1), targets["mask"])
    assert torch.equal(shares.sum(dim=(1, 3)).argmax(dim=1), targets["gender"])
    assert torch.equal(new["age"], targets["age"])
