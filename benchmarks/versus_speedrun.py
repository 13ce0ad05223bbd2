"""Compare the training seconds of `fast94` and of the speed-run recipe that it comes from.

    python benchmarks/versus_speedrun.py

The peer is the 94 % recipe with Muon of Jordan 2024 (arXiv 2404.00498 and its code) in plain PyTorch: 8 epochs in
batches of 2,000, fp32 weights under bf16 autocast, channels last, the bias of the whitening layer trained for three
eighths of the epochs. It runs twice: with the C library's default memory settings, and with cifarlab's.

All contestants take turns of 2,000 images, in each phase of their training: with and without a frozen first layer, at
each image size. The seconds of a whole training are the medians over the rounds times the number of turns. They include
shuffling and augmentation, but not validation. Operations are those of convolutions and matrix products, as PyTorch
counts them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from turns import Contestant, medians, one_epoch, serve

RECIPE = "fast94"
IMAGES = 2_000  # per turn
BATCH, EPOCHS, BIAS_EPOCHS = 2_000, 8, 3  # of the peer
STEPS = 50_000 // BATCH
PEERS = ("speed-run", "speed-run, memory kept")
Phase = tuple[int, bool]  # side of the images in pixels; whether the first layer is frozen


def cifarlab_turn(phase: Phase, images: Any, labels: Any) -> Callable[[], None]:
    """Return a function that trains one turn with cifarlab."""
    import torch

    from cifarlab import recipes
    from cifarlab.data import batches
    from cifarlab.data.dataset import Dataset
    from cifarlab.device import keep_freed_memory
    from cifarlab.training.preparation import prepare_images
    from cifarlab.training.state import begin

    keep_freed_memory()
    recipe = recipes.load(RECIPE)
    dataset, device = Dataset(images, labels, tuple(map(str, range(10)))), torch.device("cpu")
    training, data = begin(prepare_images(recipe, dataset, device)), batches.to_device(dataset, device)
    training.size, frozen = phase
    for weight in training.first_layer:
        weight.requires_grad_(not frozen)
    return one_epoch(training, data)


def speedrun_turn(frozen: bool, keep_memory: bool, images: Any, labels: Any) -> Callable[[], None]:
    """Return a function that trains one turn with the published recipe."""
    import torch
    import torch.nn.functional as F

    from cifarlab.data.augment import augment
    from cifarlab.device import keep_freed_memory
    from cifarlab.recipes import Augment
    from cifarlab.training.optim import orthogonalize

    if keep_memory:
        keep_freed_memory()
    network = _published_network()
    network[0].bias.requires_grad_(not frozen)
    kernels = [layer.weight for layer in network if isinstance(layer, torch.nn.Conv2d) and layer.weight.requires_grad]
    others = [weight for weight in network.parameters() if weight.requires_grad and weight.ndim != 4]
    momenta = [torch.zeros_like(kernel) for kernel in kernels]
    optimizer = torch.optim.SGD(others, lr=1e-3, momentum=0.85, nesterov=True, fused=True)
    pixels, truth = torch.from_numpy(images), torch.from_numpy(labels)
    settings = Augment(flip=True, crop=2, border="reflect")

    def turn() -> None:
        order = torch.randperm(len(pixels))
        inputs = (pixels[order] / 255 - 0.47) / 0.25
        inputs = augment(inputs, settings).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs)
            loss = F.cross_entropy(logits.float(), truth[order], label_smoothing=0.2, reduction="sum")
        network.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kernel, momentum in zip(kernels, momenta, strict=True):
                assert kernel.grad is not None
                momentum.mul_(0.6).add_(kernel.grad)
                update = orthogonalize(kernel.grad.add(momentum, alpha=0.6).flatten(1).bfloat16())
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm()).add_(update.view(kernel.shape), alpha=-0.01)

    return turn


def _published_network() -> Any:
    import torch
    from torch import nn

    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    layers[0].weight.requires_grad_(False)
    channels = 24
    for maps in (64, 256, 256):
        for pool in (True, False):
            norm = nn.BatchNorm2d(maps, eps=1e-12, momentum=0.4)
            norm.weight.requires_grad_(False)
            layers.append(nn.Conv2d(channels, maps, 3, padding=1, bias=False))
            layers += [nn.MaxPool2d(2), norm, nn.GELU()] if pool else [norm, nn.GELU()]
            channels = maps
    layers += [nn.MaxPool2d(3), nn.Flatten(), nn.Linear(channels, 10, bias=False)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last).train()


def work(name: str, phase: Phase) -> None:
    """Run a contestant in this process, and greet with the operations of a turn."""
    from cifarlab import load_data
    from cifarlab.experiments.bench import flops

    train = load_data("cifar10", quiet=True).train
    images, labels = train.images[:IMAGES].copy(), train.labels[:IMAGES].copy()
    if name == RECIPE:
        turn = cifarlab_turn(phase, images, labels)
    else:
        turn = speedrun_turn(phase[1], name == PEERS[1], images, labels)
    serve(flops(turn), turn)


def images_of_fast94() -> dict[Phase, float]:
    """Return how many images of all epochs `fast94` trains in each of its phases."""
    from cifarlab import recipes
    from cifarlab.data.batches import steps_per_epoch
    from cifarlab.training.speed import images_by_epoch

    recipe = recipes.load(RECIPE)
    counts: dict[Phase, float] = {}
    for epoch, images in enumerate(images_by_epoch(recipe, 50_000)):
        steps = steps_per_epoch(images, recipe.batch_size)
        for step in range(steps):
            progress = (epoch + step / steps) / recipe.epochs
            phase = (recipe.size_at(progress), 0 < recipe.freeze_first <= progress)
            counts[phase] = counts.get(phase, 0.0) + images / steps
    return counts


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, size, frozen = arguments.worker
        work(name, (int(size), frozen == "True"))
        return
    peer = {(32, False): BIAS_EPOCHS * STEPS * BATCH, (32, True): (EPOCHS - BIAS_EPOCHS) * STEPS * BATCH}
    images = {RECIPE: images_of_fast94()} | dict.fromkeys(PEERS, peer)
    contestants = {
        (name, phase): Contestant([sys.executable, __file__, "--worker", name, *map(str, phase)])
        for name, phases in images.items()
        for phase in phases
    }
    operations = {key: contestant.greeting for key, contestant in contestants.items()}
    seconds = medians(contestants, arguments.rounds)

    def whole(name: str, per_turn: Mapping[tuple[str, Phase], float]) -> float:
        return sum(per_turn[name, phase] / IMAGES * count for phase, count in images[name].items())

    duration = {name: whole(name, seconds) for name in images}
    rates = {
        f"{name}, {size} pixels{', first layer frozen' * frozen}": round(IMAGES / seconds[name, (size, frozen)])
        for name, phases in images.items()
        for size, frozen in phases
    }
    document = {
        "images/s": rates,
        "images": {name: round(sum(images[name].values())) for name in images},
        "PFLOP": {name: round(whole(name, operations) / 1e15, 3) for name in images},
        "seconds": {name: round(duration[name], 1) for name in images},
        "ratios": {name: round(duration[RECIPE] / duration[name], 2) for name in PEERS},
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
