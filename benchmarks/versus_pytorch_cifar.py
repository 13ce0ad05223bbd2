"""Compare the training speed of ResNet-18 in cifarlab and in the PyTorch script that most CIFAR-10 projects copy.

    python benchmarks/versus_pytorch_cifar.py
    python benchmarks/versus_pytorch_cifar.py --rounds 7 --images-per-turn 2560

The script is the training loop of kuangliu/pytorch-cifar, on a processor: the images are Pillow images that two worker
processes of a `DataLoader` crop, flip, convert and normalise one by one, and the loss and the number of correct images
are read after every step. For bf16 it runs under PyTorch's autocast. torchvision is not needed: the transforms below do
what its transforms do with Pillow images.

Every contestant runs in a process of its own with the same images of CIFAR-10, and trains the same network by SGD with
momentum and weight decay on images that are shifted by up to 4 pixels and mirrored. The contestants take turns for
several rounds. The results are medians over the rounds in images a second, and the ratios in the same precision.
Building the network and the first turn are not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from turns import Contestant, medians, serve, training_turn

CONTESTANTS = ("cifarlab fp32", "pytorch fp32", "cifarlab bf16", "pytorch bf16")
PARAMETERS = 11_173_962
WORKERS = 2  # as in kuangliu/pytorch-cifar
PADDING = 4  # pixels
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
Turn = Callable[[], None]


class Block(nn.Module):
    """Two convolutions and a shortcut, as kuangliu/pytorch-cifar writes it."""

    def __init__(self, inputs: int, maps: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, maps, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != maps:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, maps, 1, stride, bias=False), nn.BatchNorm2d(maps))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images in PyTorch's default layers and memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for maps, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Block(inputs, maps, first_stride), Block(maps, maps, 1)]
            inputs = maps
        self.blocks, self.linear = nn.Sequential(*blocks), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(F.avg_pool2d(out, 4).flatten(1))
        return logits


class TransformedImages(Dataset[tuple[Tensor, int]]):
    """Images that are cropped, mirrored, converted and normalised one by one, as torchvision's transforms do."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images.transpose(0, 2, 3, 1), labels  # [n, h, w, 3], as torchvision stores them
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = ImageOps.expand(Image.fromarray(self.images[index]), PADDING)
        left, top = (random.randint(0, 2 * PADDING) for _ in range(2))
        image = image.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)
        floats = pixels.permute(2, 0, 1).contiguous().float().div(255)
        return floats.sub_(self.mean).div_(self.std), int(self.labels[index])


def pytorch_turn(precision: str, images: Any, labels: Any, batch: int) -> tuple[int, Turn]:
    """Return the number of parameters, and a function that trains for one epoch as the script does."""
    network = ResNet18().train()
    loader = DataLoader(TransformedImages(images, labels), batch, shuffle=True, num_workers=WORKERS)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()

    def turn() -> None:
        total_loss, correct = 0.0, 0
        for inputs, targets in loader:
            optimizer.zero_grad()
            is_bf16 = precision == "bf16"
            with torch.autocast("cpu", torch.bfloat16) if is_bf16 else contextlib.nullcontext():
                outputs = network(inputs)
                loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += int(outputs.argmax(1).eq(targets).sum().item())

    return sum(weight.numel() for weight in network.parameters()), turn


def work(arguments: argparse.Namespace) -> None:
    """Run a contestant in this process."""
    import numpy as np

    from cifarlab import recipes

    program, precision = arguments.worker.split()
    with np.load(arguments.images) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if program == "pytorch":
        serve(*pytorch_turn(precision, images, labels, arguments.batch))
    else:
        changes = {"precision": precision, "batch_size": arguments.batch, "schedule": "constant"}
        serve(*training_turn(recipes.load("resnet18").changed(changes), images, labels))


def measure(file: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the images per second of every contestant."""
    contestants = {}
    for name in arguments.contestants:
        command = [sys.executable, __file__, "--worker", name, "--images", str(file), "--batch", str(arguments.batch)]
        contestants[name] = Contestant(command)
        parameters = contestants[name].greeting
        assert parameters == PARAMETERS, f"{name} has {parameters} parameters"
    seconds = medians(contestants, arguments.rounds)
    return {name: arguments.images_per_turn / each for name, each in seconds.items()}


def main() -> None:
    """Measure the speeds, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS, help="default: all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images-per-turn", type=int, default=1280)
    for hidden in ("--worker", "--images"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    import numpy as np

    from cifarlab import load_data

    train, count = load_data("cifar10", quiet=True).train, arguments.images_per_turn
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        np.savez(file, images=train.images[:count], labels=train.labels[:count])
        rates = measure(file, arguments)
    ratios = {
        f"cifarlab / pytorch, {precision}": round(ours / rates[f"pytorch {precision}"], 2)
        for precision in ("fp32", "bf16")
        if (ours := rates.get(f"cifarlab {precision}")) and f"pytorch {precision}" in rates
    }
    rounded = {name: round(rate, 1) for name, rate in rates.items()}
    print(json.dumps({"model": "resnet18", "batch": arguments.batch, "images/s": rounded, "ratios": ratios}))


if __name__ == "__main__":
    main()
