"""Measure the peak memory of prediction with more images and members, and of training with more folds and epochs.

    python benchmarks/memory.py

Runs the commands as child processes on images of noise (384 x 512 pixels, links to a few files) and prints the largest
resident set of any process of each command in MB. It should not grow with the number of images.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ("--model-type", "VanillaResNet", "--backbone", "resnet18", "--image-size", "64", "--no-pretrained")
SHOTS = ("mask1", "incorrect_mask", "normal")


def main() -> None:
    """Make the data, run the commands and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--images", type=int, nargs=2, default=[1_000, 20_000], help="few and many images to predict")
    options = parser.parse_args()
    few, many = options.images
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = [place / f"{number}.jpg" for number in range(20)]
        noise = np.random.default_rng(0)
        for path in files:
            small = Image.fromarray(noise.integers(0, 255, (64, 48, 3), dtype=np.uint8))
            small.resize((384, 512)).save(path, quality=90)
        train = place / "train" / "images"
        for number in range(options.people):
            person = train / f"{number:06d}_{('male', 'female')[number % 2]}_Asian_{20 + number % 50}"
            person.mkdir(parents=True)
            for k, shot in enumerate(SHOTS):
                os.link(files[(number + k) % len(files)], person / f"{shot}.jpg")
        for what, cv, epochs in (("2 of 5 folds", 5, 1), ("5 folds", 5, 1), ("5 folds, 3 epochs", 5, 3)):
            folds = ("--folds", "0,1") if what.startswith("2") else ()
            save = ("--save-path", place / what.replace(" ", "-"))
            words = ("--train-root", train, *NETWORK, "--cv", cv, "--epochs", epochs, *folds, *save)
            print(f"training, {what}: {peak('train.py', *words):.0f} MB", flush=True)
        root = place / "5-folds" / "main" / "kfold-ensemble-VanillaResNet"
        for images in (few, many):
            data = place / str(images) / "images"
            data.mkdir(parents=True)
            for number in range(images):
                os.link(files[number % len(files)], data / f"{number:06d}.jpg")
        for images, folds in ((few, "0"), (few, "0,1,2,3,4"), (many, "0,1,2,3,4")):
            words = ("--root", root, "--top-k", 1, "--tta", 2, "--folds", folds, "--save-path", place / "prediction")
            used = peak("submit_ensemble.py", *words, "--data-root", place / str(images) / "images")
            print(f"prediction, {images} images, {len(folds.split(','))} members: {used:.0f} MB", flush=True)


def peak(*words: object) -> float:
    """Run a command and return the largest resident set of its processes in MB."""
    report = "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    run = f"import subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); {report}"
    command = [sys.executable, "-c", run, sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


if __name__ == "__main__":
    main()
