"""Predicting with an ensemble: ours, member by member as is usual, and the forward passes alone.

    python benchmarks/ensemble.py                                         efficientnet-b0, 112 px, 10 members x 2 views
    python benchmarks/ensemble.py --backbone efficientnet-b3 --image-size 224 --images 2048 --batch-size 256

The usual way loads one checkpoint after another, reads all photographs anew for every view of every member, and runs
the networks as their library makes them, in float32. Networks have random weights; both ways must answer alike.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from efficientnet_pytorch import EfficientNet
from side_by_side import in_turns, machine, photographs, ratio, table
from torch import nn
from torch.utils.data import DataLoader

from augmentation import build_transform
from dataset import ViewDataset, view_loader
from engine import inference_dtype, predict, prepare
from model import Network, create_model, inference_network
from picture import read_image
from utils import choose_device, count_workers


class OneView(torch.utils.data.Dataset):
    """The photographs in one view."""

    def __init__(self, paths: list[str], transform, view: int) -> None:
        self.paths, self.transform, self.view = paths, transform, view

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(read_image(self.paths[index]), self.view)


def main() -> None:
    """Time all in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet-b0")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--images", type=int, default=252)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, size = choose_device(options.device), options.image_size
    workers, dtype = count_workers(-1, device), inference_dtype("auto", device)
    transform = build_transform("base", "inference", size)
    with tempfile.TemporaryDirectory() as folder:
        root = photographs(Path(folder), -(-options.images // 7))
        paths = sorted(str(path) for path in root.glob("*/*"))[: options.images]
        some = torch.stack([transform(read_image(path)) for path in paths[:32]])
        networks = [_network(options.backbone, some, seed) for seed in range(options.members)]
        loading = {"batch_size": options.batch_size, "num_workers": workers, "pin_memory": device.type == "cuda"}
        answers: dict[str, np.ndarray] = {}

        def usual() -> None:
            rows = []
            for network in networks:
                stock = _stock(network, options.backbone, size).to(device).eval()
                views = []
                for view in range(options.views):
                    batches = DataLoader(OneView(paths, transform, view), **loading)
                    with torch.no_grad():
                        views.append(torch.cat([stock(batch.to(device))["main"].softmax(1).cpu() for batch in batches]))
                rows.append(torch.stack(views).mean(dim=0))
            answers["usual"] = torch.stack(rows).numpy()

        def ours() -> None:
            dataset = ViewDataset(paths, paths, transform, views=options.views)
            per_batch = options.batch_size // options.views
            loader = view_loader(dataset, batch_size=per_batch, workers=workers, device=device)
            ready = [prepare(inference_network(network, size), device, dtype) for network in networks]
            answers["ours"] = predict(ready, loader, "main", device)

        ready = [prepare(inference_network(network, size), device, dtype) for network in networks]
        count = len(paths) * options.views
        starts = range(0, count, options.batch_size)
        sizes = [min(options.batch_size, count - start) for start in starts]
        batch = torch.randn(options.batch_size, 3, size, size).to(device, dtype, memory_format=torch.channels_last)

        def passes() -> None:
            with torch.inference_mode():
                for number in sizes:
                    for network in ready:
                        network(batch[:number])

        seconds = in_turns({"usual": usual, "ours": ours, "passes alone": passes}, options.repetitions, device)
    apart = np.abs(answers["usual"] - answers["ours"]).max()
    same = (answers["usual"].argmax(2) == answers["ours"].argmax(2)).mean()
    print(f"{machine(device, 'efficientnet-pytorch')}\n")
    print(
        f"{options.backbone} at {size} px, {len(paths)} photographs of 384 x 512, {options.members} members x "
        f"{options.views} views, batches of {options.batch_size}, {workers} loader processes, ours in {dtype}\n"
    )
    print(table(seconds, len(paths)) + "\n")
    print(f"- {ratio(seconds, 'usual', 'ours')}\n- {ratio(seconds, 'ours', 'passes alone')}")
    spread = answers["usual"].std(axis=1).mean()
    print(
        f"- probabilities, which spread by {spread:.1e} over the photographs, differ by {apart:.1e} at most; "
        f"{same:.2%} of the classes are the same"
    )


def _network(backbone: str, images: torch.Tensor, seed: int) -> Network:
    """A network with random weights, whose BatchNorm knows the images, so that answers differ from one to the next."""
    torch.manual_seed(seed)
    size = images.shape[-1]
    network = create_model("VanillaEfficientNet", task="main", backbone=backbone, image_size=size, pretrained=False)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.train()(images)
        network.linear.weight *= 5
    return network.eval()


def _stock(network: Network, backbone: str, size: int) -> nn.Module:
    """The same network as its library makes it."""
    stock = create_model("VanillaEfficientNet", task="main", backbone=backbone, image_size=size, pretrained=False)
    stock.efficientnet = EfficientNet.from_name(backbone, image_size=size)
    stock.load_state_dict(network.state_dict())
    return stock


if __name__ == "__main__":
    main()
