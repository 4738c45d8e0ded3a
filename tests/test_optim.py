"""Optimizers by the steps of a parameter, schedules by the learning rate of every batch."""

import gc
import math
import weakref
from itertools import pairwise

import pytest
import torch
from efficientnet_pytorch import EfficientNet
from torch import nn
from torchvision import models

from optim import OPTIMIZERS, SCHEDULES, create_optimizer, create_scheduler, layer_depths, learning_rate, step_average

LR = 0.1
# Of older torch, whose SequentialLR does what it warns of; the loop of training ignores it.
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")


def parameter(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def run(optimizer: torch.optim.Optimizer, scheduler, steps: int) -> list[float]:
    """The learning rates of a number of steps, and after them the last one."""
    found = [learning_rate(optimizer)]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(learning_rate(optimizer))
    return found


def schedule(name: str, kind: str = "sgd", *, restart_epochs: int = 5, **options):
    """An optimizer of one parameter, and its schedule."""
    optimizer = create_optimizer(kind, nn.ParameterList([parameter()]), lr=LR)
    return optimizer, create_scheduler(name, optimizer, restart_epochs=restart_epochs, **options)


def rates(name: str, *, epochs: int, steps_per_epoch: int, **options) -> list[float]:
    """The learning rate of every batch of a run, and after them the last one."""
    steps = epochs * steps_per_epoch
    return run(*schedule(name, epochs=epochs, steps_per_epoch=steps_per_epoch, **options), steps)


# ------------------------------------------------------------------------------------------------ optimizers


@pytest.mark.parametrize(
    ("name", "gradients", "expected"),
    [
        ("sgd", [1, 0, 0], [0.9, 0.9, 0.9]),
        ("momentum", [1, 0, 0], [0.9, 0.81, 0.729]),  # velocities 1, 0.9, 0.81
        # Adam steps by the learning rate for any gradient.
        ("adam", [1e-3], [1 - LR]),
        ("adam", [1e3], [1 - LR]),
        ("adam", [0], [1]),
        ("adamw", [1], [1 - LR]),
        ("adamp", [0], [0.999]),  # decays by a hundredth of the learning rate
        ("adamp", [1], [0.999 - LR]),
    ],
)
def test_steps_of_an_optimizer(name, gradients, expected):
    weight, values = parameter(), []
    optimizer = create_optimizer(name, nn.ParameterList([weight]), lr=LR)
    for gradient in gradients:
        weight.grad = torch.tensor([float(gradient)])
        optimizer.step()
        values.append(weight.item())
    assert values == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_are_left_out(name):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    optimizer = create_optimizer(name, network, lr=LR)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in network[1].parameters()}
    assert learning_rate(optimizer) == LR
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"1.weight", "1.bias"}


@pytest.mark.parametrize(
    ("name", "options", "decay", "expected"),
    [("adamw", {}, 0.05, 1 - LR * 0.05), ("adam", {"weight_decay": 0.1}, 0.1, 1 - LR)],
)
def test_weight_decay_leaves_out_biases(name, options, decay, expected):
    network = nn.Linear(1, 1)
    for weights in network.parameters():
        nn.init.ones_(weights)
        weights.grad = torch.zeros_like(weights)
    optimizer = create_optimizer(name, network, lr=LR, **options)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [decay, 0]
    optimizer.step()
    assert (network.weight.item(), network.bias.item()) == pytest.approx((expected, 1))
    optimizer = create_optimizer(name, network, lr=LR, weight_decay=0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0]


def test_the_backbone_has_its_share_of_the_learning_rate():
    network = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("features", "head")})
    optimizer = create_optimizer("sgd", network, lr=LR, backbone_lr=0.25)
    scheduler = create_scheduler("cosine", optimizer, epochs=1, steps_per_epoch=2, restart_epochs=1)
    assert learning_rate(optimizer) == LR
    for share in (1, 0.5):  # of the learning rate, by the schedule
        before = [weights.item() for weights in network.parameters()]
        for weights in network.parameters():
            weights.grad = torch.ones_like(weights)
        optimizer.step()
        scheduler.step()
        moved = [old - weights.item() for old, weights in zip(before, network.parameters(), strict=True)]
        assert moved == pytest.approx([0.25 * LR * share, LR * share])


def tiny_transformer() -> models.VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    return models.VisionTransformer(**sizes)


def with_head(features: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"features": features, "head": nn.Linear(2, 2)})


def test_each_layer_has_its_share_of_the_rate_of_the_layer_above():
    network = with_head(tiny_transformer())
    optimizer = create_optimizer("adamw", network, lr=LR, layer_decay=0.5)
    names = {id(weights): name for name, weights in network.named_parameters()}
    rates = {names[id(weights)]: group["lr"] for group in optimizer.param_groups for weights in group["params"]}
    assert learning_rate(optimizer) == rates["head.weight"] == rates["features.heads.head.weight"] == LR
    expected = {"class_token": 0.125, "conv_proj.weight": 0.125, "encoder.ln.bias": 0.5}
    assert {name: rates[f"features.{name}"] / LR for name in expected} == expected
    blocks = [f"features.encoder.layers.encoder_layer_{k}.mlp.0.weight" for k in range(2)]
    assert [rates[name] / LR for name in blocks] == [0.25, 0.5]
    assert len(names) == len(rates)


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("alexnet", 5, {"features.0": 5, "features.10": 1, "classifier.1": 0}),
        ("convnext_tiny", 22, {"features.0": 22, "features.1.0": 21, "features.2.1": 18, "classifier.0": 1}),
        ("densenet121", 62, {"features.denseblock1.denselayer2": 60, "features.transition3": 17, "features.norm5": 1}),
        ("efficientnet_b0", 18, {"features.0": 18, "features.2.1": 15, "features.8": 1, "classifier": 0}),
        ("googlenet", 12, {"conv1": 12, "inception3a": 9, "inception5b": 1, "fc": 0}),
        ("inception_v3", 16, {"Conv2d_1a_3x3": 16, "Mixed_7c": 1, "fc": 0}),
        ("maxvit_t", 13, {"stem.0": 13, "blocks.0.layers.1": 10, "blocks.3.layers.1": 1, "classifier.5": 0}),
        ("mnasnet0_5", 20, {"layers.0": 20, "layers.8.1": 16, "layers.14": 1, "classifier": 0}),
        ("mobilenet_v2", 19, {"features.0": 19, "features.1": 18, "features.18": 1, "classifier": 0}),
        ("mobilenet_v3_small", 13, {"features.0": 13, "features.12": 1, "classifier.0": 0, "classifier.3": 0}),
        ("regnet_y_400mf", 17, {"stem": 17, "trunk_output.block2.block2-1": 14, "trunk_output.block4": None, "fc": 0}),
        ("resnet18", 9, {"conv1": 9, "bn1": 9, "layer1.0": 8, "layer1.1": 7, "layer4.1": 1, "fc": 0}),
        ("resnext50_32x4d", 17, {"conv1": 17, "layer1.0": 16, "layer4.2": 1}),
        ("shufflenet_v2_x0_5", 18, {"conv1": 18, "stage2.0": 17, "conv5": 1, "fc": 0}),
        ("squeezenet1_0", 10, {"features.0": 10, "features.3": 9, "classifier.1": 1}),
        ("swin_t", 16, {"features.0": 16, "features.1.1": 14, "features.2": 13, "norm": 1, "head": 0}),
        ("swin_v2_t", 16, {"features.0": 16, "features.7.1": 1}),
        ("vgg11_bn", 8, {"features.0": 8, "features.1": 8, "features.26": 1, "classifier.0": 0}),
        ("vit_b_16", 13, {"class_token": 13, "encoder.pos_embedding": 13, "encoder.layers.encoder_layer_0": 12}),
        ("vit_b_16", 13, {"encoder.layers.encoder_layer_11": 1, "encoder.ln": 1, "heads": 0}),
        ("efficientnet-b0", 18, {"_conv_stem": 18, "_bn0": 18, "_blocks.0": 17, "_blocks.15": 2, "_conv_head": 1}),
    ],
)
def test_layers_are_counted_from_the_head(name, layers, expected):
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # without memory, but RegNet computes its widths
        network = EfficientNet.from_name(name) if "-" in name else models.get_model(name, weights=None, **options)
    depths = layer_depths(network)
    found = {key: depths[id(weights)] for key, weights in network.named_parameters()}
    assert set(found.values()) - {0} == set(range(1, layers + 1))
    for prefix, depth in expected.items():
        in_layer = {number for key, number in found.items() if f"{key}.".startswith(f"{prefix}.")}
        assert in_layer == {depth} if depth is not None else len(in_layer) > 1, prefix


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "xcit_nano_12_p16_224", "efficientnet_b0"])
def test_networks_of_timm_have_the_rates_and_weight_decay_of_timm(name):
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    features = timm.create_model(name)
    exempt = features.no_weight_decay() if hasattr(features, "no_weight_decay") else ()
    groups = param_groups_layer_decay(features, 0.1, no_weight_decay_list=exempt, layer_decay=0.7)
    theirs = {id(w): (group["lr_scale"], group["weight_decay"]) for group in groups for w in group["params"]}
    optimizer = create_optimizer("adamw", with_head(features), lr=1, weight_decay=0.1, layer_decay=0.7)
    ours = {id(w): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for w in group["params"]}
    assert theirs == {key: ours[key] for key in theirs}
    depths = [layer_depths(each) for each in (features, timm.create_model(name, num_classes=0))]
    last, without_classes = (depth.values() for depth in depths)
    assert list(without_classes) == list(last)[: len(without_classes)]


@pytest.mark.parametrize(("name", "some_decay"), [("adamw", False), ("adamp", True)])
def test_embeddings_of_transformers_do_not_decay(name, some_decay):
    swin = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": [4, 4], "patch_size": [4, 4]}
    second = models.SwinTransformer(**swin, block=models.swin_transformer.SwinTransformerBlockV2)
    features = nn.ModuleList([tiny_transformer(), models.SwinTransformer(**swin), second])
    optimizer = create_optimizer(name, with_head(features), lr=LR, weight_decay=0.1)
    decays = {id(weights): group["weight_decay"] > 0 for group in optimizer.param_groups for weights in group["params"]}
    found = {key: decays[id(weights)] for key, weights in features.named_parameters() if weights.ndim > 1}
    special = ("class_token", "pos_embedding", "relative_position_bias_table", "logit_scale", "cpb_mlp")
    matches = {key: next((each for each in special if each in key), None) for key in found}
    assert set(matches.values()) == {*special, None}
    assert all(decay == (some_decay or matches[key] is None) for key, decay in found.items())


def test_a_step_average_is_the_moving_average_of_weights_and_buffers():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = step_average(network, 0.5)
    expected = None
    for step, value in enumerate((1.0, 2.0, 4.0, 8.0)):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(10 * value)
        average.update_parameters(network)
        kept = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else kept * expected + (1 - kept) * value
        assert average.module[0].weight.item() == pytest.approx(expected)
        assert average.module[1].running_mean.item() == pytest.approx(10 * expected)


def test_a_step_average_that_is_deleted_keeps_no_network_in_memory():
    gc.collect()
    gc.disable()  # it would find cycles
    try:
        network = nn.Linear(1, 1)
        alive, average = weakref.ref(network), step_average(network, 0.5)
        del network, average
        assert alive() is None
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "warmup_epochs"),
    [(2, 10, 0.1), (5, 4, 0.25), (3, 2, 0.5), (2, 4, 1.9), (2, 1, 1), (1, 1, 0), (1, 3, 0), (3, 1, 0)],
)
def test_short_runs_and_warm_ups(name, epochs, steps_per_epoch, warmup_epochs):
    got = rates(name, epochs=epochs, steps_per_epoch=steps_per_epoch, restart_epochs=1, warmup_epochs=warmup_epochs)
    assert all(math.isfinite(rate) and 0 <= rate <= LR + 1e-9 for rate in got)
    rises = warmup_epochs or (name == "onecycle" and epochs * steps_per_epoch > 1)
    assert got[0] < LR if rises else got[0] == LR


def test_cosine_falls_to_zero_over_the_run():
    run = 4 * 7
    expected = [LR * (1 + math.cos(math.pi * step / run)) / 2 for step in range(run + 1)]
    got = rates("cosine", epochs=4, steps_per_epoch=7, restart_epochs=1)
    assert got == pytest.approx(expected, abs=1e-9)
    assert got[-1] == pytest.approx(0, abs=1e-9)
    assert all(later < earlier for earlier, later in pairwise(got))


def test_cosine_restarts_fall_to_zero_in_every_cycle():
    cycle = 2 * 5
    expected = [LR * (1 + math.cos(math.pi * (step % cycle) / cycle)) / 2 for step in range(3 * cycle)]
    got = rates("cosine_restarts", epochs=6, steps_per_epoch=5, restart_epochs=2)[:-1]
    assert got == pytest.approx(expected, abs=1e-9)
    assert got[cycle] == got[2 * cycle] == LR
    assert got[cycle - 1] < 0.05 * LR


def test_without_a_schedule_the_rate_is_constant():
    assert set(rates("none", epochs=3, steps_per_epoch=4)) == {LR}


@pytest.mark.parametrize("name", ["cosine", "cosine_restarts", "none"])
def test_a_warm_up_rises_linearly_to_the_start_of_the_schedule(name):
    got = rates(name, epochs=5, steps_per_epoch=4, restart_epochs=2, warmup_epochs=1)
    assert got[:5] == pytest.approx([LR * share / 5 for share in (1, 2, 3, 4, 5)])
    assert got[4:] == pytest.approx(rates(name, epochs=4, steps_per_epoch=4, restart_epochs=2))


@pytest.mark.parametrize(("warmup_epochs", "highest"), [(0, 3 * 10 - 1), (2, 2 * 10 - 1)])
def test_one_cycle_rises_and_falls(warmup_epochs, highest):
    got = rates("onecycle", epochs=10, steps_per_epoch=10, warmup_epochs=warmup_epochs)
    assert got[0] == pytest.approx(LR / 25)
    assert got.index(max(got)) == highest
    assert max(got) == pytest.approx(LR)
    assert all(a < b for a, b in pairwise(got[: highest + 1]))
    assert all(a > b for a, b in pairwise(got[highest:-1]))
    assert got[-2] < LR / 1000


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_a_resumed_schedule_gives_the_same_rates(name, warmup):
    """The states of optimizer and schedule are loaded after 7 of 12 batches, as a resumed run does."""
    options = {"epochs": 4, "steps_per_epoch": 3, "restart_epochs": 2, "warmup_epochs": warmup}
    first, resumed = schedule(name, "adam", **options), schedule(name, "adam", **options)
    run(*first, 7)
    for old, new in zip(first, resumed, strict=True):
        new.load_state_dict(old.state_dict())
    assert run(*resumed, 5) == rates(name, **options)[7:]
