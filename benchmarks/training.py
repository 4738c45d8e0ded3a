"""Compare training speed in images per second: ours, timm's and torchvision's training loops, and the arithmetic alone.

    pip install timm
    python benchmarks/training.py                                            efficientnet-b0, 112 px, batches of 32
    python benchmarks/training.py --backbone efficientnet-b3 --image-size 224 --batch-size 128 --people 600

One epoch each, in turns, over the same drawn portraits of 384 x 512 pixels, with SGD and momentum. "ours" has the
images in the cache, as the epochs of train.py have; "cache cold" fills it first; "no cache" decodes every image in the
epoch, as the others do. The loops of timm's train.py and of torchvision's references/classification/train.py are
rewritten here on their own networks and loaders, with the defaults of these scripts; "timm, tuned" has every flag that
helps it. Each runs in a process of its own, those of others without our settings of the allocator, OpenMP and Pillow.
With --only, also "timm, compiled", the tuned one under torch.compile, and "arithmetic captured", in a CUDA graph.
"""

# First: it sets what torch and Pillow read when they are imported.
from side_by_side import create, draw_images, in_processes, machine, parser, print_times  # isort: skip

import argparse
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from augmentation import Settings, build_transform
from data.face_layout import read_training_table
from data.faces import FACES
from data.image_cache import load_images
from data.images import needed_side
from dataset import EpochSampler, TrainDataset
from loss import create_criterion
from optim import create_optimizer, create_scheduler
from training.device import choose_device, count_workers
from training.engine import TrainStep, prepare, train_one_epoch, training_dtype
from training.freed_memory import keep_freed_memory
from training.loaders import create_loaders

RATE = 0.01  # learning rate
SELDOM = ("timm, compiled", "arithmetic captured")  # measured only if --only names them


def main() -> None:
    """Time all in turns and print the table."""
    own = parser(__doc__, batch_size=32)
    own.add_argument("--people", type=int, default=64)
    own.add_argument("--transform", default="base")
    own.add_argument("--only", nargs="+", metavar="NAME", help="what to measure, as the table names it")
    own.add_argument("--before", type=Path, help="clone of an earlier commit, to measure its training too")
    options = own.parse_args()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        root = options.images_root or draw_images(Path(folder), options.people)
        makers = {
            "timm, defaults": partial(_timm, options, root, device, tuned=False),
            "timm, tuned": partial(_timm, options, root, device, tuned=True),
            "timm, compiled": partial(_timm, options, root, device, tuned=True, compiled=True),
            "torchvision": partial(_torchvision, options, root, device),
            "ours": partial(_ours, options, root, device, "warm"),
            "ours, cache cold": partial(_ours, options, root, device, "cold"),
            "ours, no cache": partial(_ours, options, root, device, "off"),
            "arithmetic alone": partial(_arithmetic, options, device),
            "arithmetic captured": partial(_arithmetic, options, device, captured=True),
        }
        names = options.only or [name for name in makers if name not in SELDOM]
        makers = {name: makers[name] for name in names}
        if options.before:
            makers["ours, before"] = partial(_ours, options, root, device, "warm")
        others = [name for name in makers if name.startswith(("timm", "torchvision"))]
        checkouts = {"ours, before": options.before}
        seconds = in_processes(makers, options.repetitions, device, as_installed=others, checkouts=checkouts)
    images = options.people * 7 // options.batch_size * options.batch_size
    print(f"{machine(device, 'timm', 'efficientnet-pytorch')}\n")
    print(
        f"{options.backbone} at {options.image_size} px, epochs of {images} images of 384 x 512, batches of "
        f"{options.batch_size}, our transform {options.transform}, ours in {training_dtype('auto', device)}\n"
    )
    print_times(seconds, images, options.json)


def _steps(
    batches: Iterable, network: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer, autocast, move
) -> None:
    """Train an epoch as both references do, but read the loss only at the end, which favours them."""
    network.train()
    for images, targets in batches:
        images = move(images)
        targets = targets.to(images.device)
        with autocast():
            loss = criterion(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()


def _timm(
    options: argparse.Namespace, root: Path, device: torch.device, *, tuned: bool, compiled: bool = False
) -> Callable[[], None]:
    import timm
    import timm.data
    import timm.loss
    import timm.optim

    network = timm.create_model(options.backbone.replace("-", "_"), num_classes=1000).to(device)
    layout = torch.channels_last if tuned else torch.contiguous_format
    network.to(memory_format=layout)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(root)),
        input_size=(3, options.image_size, options.image_size),
        batch_size=options.batch_size,
        is_training=True,
        interpolation="random",
        num_workers=count_workers(-1, device) if tuned else 4,
        device=device,
        use_prefetcher=True,
    )
    settings = {"fused": True} if tuned else {}
    optimizer = timm.optim.create_optimizer_v2(network, opt="sgd", lr=RATE, momentum=0.9, weight_decay=2e-5, **settings)
    criterion = timm.loss.LabelSmoothingCrossEntropy(0.1)
    half = training_dtype("auto", device)
    autocast = partial(torch.autocast, device.type, half, enabled=tuned and half != torch.float32)
    move = partial(torch.Tensor.to, memory_format=layout)
    trained = torch.compile(network) if compiled else network
    return lambda: _steps(loader, trained, criterion, optimizer, autocast, move)


def _torchvision(options: argparse.Namespace, root: Path, device: torch.device) -> Callable[[], None]:
    network = torchvision.models.get_model(options.backbone.replace("-", "_"), weights=None).to(device)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(options.image_size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pictures = torchvision.datasets.ImageFolder(str(root), transform)
    loading = {"num_workers": 16, "pin_memory": device.type == "cuda", "drop_last": True}
    loader = torch.utils.data.DataLoader(pictures, batch_size=options.batch_size, shuffle=True, **loading)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    autocast = partial(torch.autocast, device.type, enabled=False)
    return lambda: _steps(loader, network, criterion, optimizer, autocast, lambda images: images.to(device))


def _ours(options: argparse.Namespace, root: Path, device: torch.device, cache: str) -> Callable[[], None]:
    network = prepare(create(options.backbone, options.image_size), device)
    rows, _ = read_training_table(str(root))
    rows = rows.head(len(rows) // options.batch_size * options.batch_size)

    def load(cache: str) -> tuple[EpochSampler, DataLoader]:
        limits = {"side": needed_side(options.image_size), "max_megapixels": 100.0}
        reader, unreadable = load_images(rows["path"].tolist(), cache=cache, **limits)
        assert not unreadable
        as_bytes = {"as_bytes": True} if hasattr(Settings, "as_bytes") else {}  # earlier commits have no such option
        transform = build_transform(options.transform, "train", options.image_size, **as_bytes)
        dataset = TrainDataset(rows, transform, FACES, seed=(0,), reader=reader)
        sampler = EpochSampler(len(dataset), options.batch_size, seed=(0,))
        return sampler, create_loaders([(dataset, sampler)], workers=count_workers(-1, device), device=device)[0]

    sampler, loader = load("off" if cache == "off" else "ram")
    optimizer = create_optimizer("momentum", network, lr=RATE)
    running = {"epochs": 100, "steps_per_epoch": len(loader), "restart_epochs": 1}
    scheduler = create_scheduler("cosine", optimizer, **running)
    criterion = create_criterion("labelsmoothingloss")
    graphs = {}
    with suppress(ImportError):  # in earlier commits
        from training.cuda_graph import graphs_of

        graphs = {"graphs": graphs_of(device, True)}
    step = TrainStep(network, criterion, optimizer, scheduler, device, training_dtype("auto", device), **graphs)

    def epoch() -> None:
        nonlocal sampler, loader
        if cache == "cold":
            sampler, loader = load("ram")
        sampler.set_epoch(sampler.epoch + 1)
        done = train_one_epoch(step, loader)
        assert done.images == len(rows)

    return epoch


def _arithmetic(options: argparse.Namespace, device: torch.device, *, captured: bool = False) -> Callable[[], None]:
    """Time forward, backward and step of our network on one batch in memory, with our settings."""
    keep_freed_memory()
    network = prepare(create(options.backbone, options.image_size), device).train()
    size = options.image_size
    images = torch.randn(options.batch_size, 3, size, size).to(device, memory_format=torch.channels_last)
    targets = {"main": torch.arange(options.batch_size, device=device) % 18}
    optimizer = create_optimizer("momentum", network, lr=RATE)
    criterion = create_criterion("labelsmoothingloss")
    half = training_dtype("auto", device)

    def step() -> torch.Tensor:
        with torch.autocast(device.type, half, enabled=half != torch.float32):
            outputs = network(images)
        loss = criterion({head: logits.float() for head, logits in outputs.items()}, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = _capture(step) if captured else step

    def epoch() -> None:
        for _ in range(options.people * 7 // options.batch_size):
            loss = run()
        loss.item()

    return epoch


def _capture(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Return the step as a CUDA graph (https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture)."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the optimizer makes its state, and cuDNN chooses its algorithms
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return loss

    return replay


if __name__ == "__main__":
    main()
