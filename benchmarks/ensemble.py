"""Compare prediction with an ensemble: ours, member by member as is usual, and the forward passes alone.

    python benchmarks/ensemble.py                                         efficientnet-b0, 112 px, 10 members x 2 views
    python benchmarks/ensemble.py --backbone efficientnet-b3 --image-size 224 --images 2048 --batch-size 256

The usual way loads one checkpoint after another, reads all images again for every view of every member, and runs
the networks as their library makes them, in float32. Networks have random weights; both ways must agree.
"""

# First: it sets what torch and Pillow read when they are imported.
from side_by_side import create, draw_images, in_turns, machine, parser, print_times  # isort: skip

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from efficientnet_pytorch import EfficientNet
from torch import nn
from torch.utils.data import DataLoader

from augmentation import build_transform
from data.faces import MAIN
from data.images import read_image
from dataset import ViewDataset
from inference.predict import PredictionSettings
from model import Network
from training.device import choose_device, count_workers
from training.distributed import ALONE
from training.engine import inference_dtype, predict
from training.loaders import view_loader


class OneView(torch.utils.data.Dataset):
    """Images in one view."""

    def __init__(self, paths: list[str], transform, view: int) -> None:
        self.paths, self.transform, self.view = paths, transform, view

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(read_image(self.paths[index]), self.view)


def main() -> None:
    """Time all in turns and print the table."""
    own = parser(__doc__, batch_size=64)
    own.add_argument("--images", type=int, default=378)
    own.add_argument("--members", type=int, default=10)
    own.add_argument("--views", type=int, default=2)
    options = own.parse_args()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        root = options.images_root or draw_images(Path(folder), max(12, -(-options.images // 7)))
        paths = sorted(str(path) for path in root.glob("*/*"))[: options.images]
        transform = build_transform("base", "inference", options.image_size)
        sample = torch.stack([transform(read_image(path)) for path in paths[:32]])
        networks = [_network(options.backbone, sample, seed) for seed in range(options.members)]
        usual, ours = _usual(options, paths, networks, device), _ours(options, paths, networks, device)
        actions = {"usual": usual, "ours": ours, "passes alone": _passes(options, len(paths), networks, device)}
        seconds = in_turns(actions, options.repetitions, device)
        expected, got = usual(), ours()
    print(f"{machine(device, 'efficientnet-pytorch')}\n")
    print(
        f"{options.backbone} at {options.image_size} px, {len(paths)} images of 384 x 512, {options.members} "
        f"members x {options.views} views, batches of {options.batch_size}, {count_workers(-1, device)} loader "
        f"processes, ours in {inference_dtype('auto', device)}\n"
    )
    print_times(seconds, len(paths), options.json)
    spread, difference = expected.std(axis=1).mean(), np.abs(expected - got).max()
    same = (expected.argmax(2) == got.argmax(2)).mean()
    print(f"- probabilities (standard deviation over images {spread:.1e}) differ by at most {difference:.1e}")
    print(f"- {same:.2%} of the classes are the same")


def _usual(
    options: argparse.Namespace, paths: list[str], networks: list[Network], device: torch.device
) -> Callable[[], np.ndarray]:
    """Predict member by member and view by view, `(M, N, C)`."""
    transform = build_transform("base", "inference", options.image_size)
    workers = count_workers(-1, device)
    loading = {"batch_size": options.batch_size, "num_workers": workers, "pin_memory": device.type == "cuda"}

    @torch.no_grad()
    def run() -> np.ndarray:
        rows = []
        for network in networks:
            stock = _stock(network, options.backbone, options.image_size).to(device).eval()
            views = []
            for view in range(options.views):
                batches = DataLoader(OneView(paths, transform, view), **loading)
                views.append(torch.cat([stock(batch.to(device))["main"].softmax(1).cpu() for batch in batches]))
            rows.append(torch.stack(views).mean(dim=0))
        return torch.stack(rows).numpy()

    return run


def _ready(options: argparse.Namespace, networks: list[Network], device: torch.device) -> list[nn.Module]:
    sizes = {"views": options.views, "batch_size": options.batch_size, "num_workers": -1}
    settings = PredictionSettings.choose(ALONE, device=str(device), precision="auto", **sizes)
    return [settings.make_ready(network, options.image_size) for network in networks]


def _ours(
    options: argparse.Namespace, paths: list[str], networks: list[Network], device: torch.device
) -> Callable[[], np.ndarray]:
    transform = build_transform("base", "inference", options.image_size, as_bytes=True)
    workers, per_batch = count_workers(-1, device), options.batch_size // options.views

    def run() -> np.ndarray:
        dataset = ViewDataset(paths, paths, transform, views=options.views)
        loader = view_loader(dataset, batch_size=per_batch, workers=workers, device=device)
        return predict(_ready(options, networks, device), loader, MAIN)

    return run


def _passes(
    options: argparse.Namespace, images: int, networks: list[Network], device: torch.device
) -> Callable[[], None]:
    """Run our networks on batches in memory."""
    ready, size = _ready(options, networks, device), options.image_size
    count, dtype = images * options.views, inference_dtype("auto", device)
    sizes = [min(options.batch_size, count - start) for start in range(0, count, options.batch_size)]
    batch = torch.randn(options.batch_size, 3, size, size).to(device, dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        for number in sizes:
            for network in ready:
                network(batch[:number])

    return run


def _network(backbone: str, images: torch.Tensor, seed: int) -> Network:
    """Return a network with random weights and the BatchNorm statistics of some images, so that predictions differ."""
    torch.manual_seed(seed)
    network = create(backbone, images.shape[-1])
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.train()(images)
        network.linear.weight *= 5
    return network.eval()


def _stock(network: Network, backbone: str, size: int) -> nn.Module:
    """Return the same network as its library builds it."""
    stock = create(backbone, size)
    stock.efficientnet = EfficientNet.from_name(backbone, image_size=size)
    stock.load_state_dict(network.state_dict())
    return stock


if __name__ == "__main__":
    main()
