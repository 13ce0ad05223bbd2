"""Compare the training seconds of `fast94` and of the speed-run recipe that it comes from.

    python benchmarks/versus_speedrun.py
    python benchmarks/versus_speedrun.py --accuracy 3      # trains the peer with the seeds 0, 1, 2 and tests it

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
import time
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


Step = Callable[[Any, Any, float, float], None]


def speedrun(images: Any) -> tuple[Any, Step]:
    """Return the published network, and a function that takes a step of the published recipe.

    The function takes normalised images [b, 3, 32, 32], labels, and the shares of their peaks that the learning rates
    have in this step; the second is for the bias of the whitening layer, which is frozen at 0.
    """
    import torch
    import torch.nn.functional as F

    from cifarlab.models.layers import Whitening
    from cifarlab.training.optim import orthogonalize

    network = _published_network()
    whitening = Whitening(2)
    whitening.fit(images)
    network[0].weight.data.copy_(whitening.weight)
    kernels = [layer.weight for layer in network if isinstance(layer, torch.nn.Conv2d) and layer.weight.requires_grad]
    momenta = [torch.zeros_like(kernel) for kernel in kernels]
    shifts = [layer.bias for layer in network if isinstance(layer, torch.nn.BatchNorm2d)]
    groups = [([network[0].bias], 0.053), (shifts, 0.053), ([network[-1].weight], 0.67)]
    parts: list[Any] = [{"params": each, "lr": lr, "weight_decay": 2e-6 * BATCH / lr} for each, lr in groups]
    optimizer = torch.optim.SGD(parts, lr=0.0, momentum=0.85, nesterov=True, fused=True)

    def step(inputs: Any, labels: Any, share: float, bias_share: float) -> None:
        network[0].bias.requires_grad_(bias_share > 0)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs.to(memory_format=torch.channels_last)) / network[-1].in_features
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.2, reduction="sum")
        network.zero_grad()
        loss.backward()
        for group, (_, peak), each in zip(optimizer.param_groups, groups, (bias_share, share, share), strict=True):
            group["lr"] = peak * each
        optimizer.step()
        with torch.no_grad():
            for kernel, momentum in zip(kernels, momenta, strict=True):
                assert kernel.grad is not None
                momentum.mul_(0.6).add_(kernel.grad)
                update = orthogonalize(kernel.grad.add(momentum, alpha=0.6).flatten(1).bfloat16())
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm()).add_(update.view(kernel.shape), alpha=-0.24 * share)

    return network, step


def speedrun_turn(frozen: bool, keep_memory: bool, images: Any, labels: Any) -> Callable[[], None]:
    """Return a function that trains one turn with the published recipe."""
    import torch

    from cifarlab.data.augment import augment
    from cifarlab.device import keep_freed_memory
    from cifarlab.recipes import Augment

    if keep_memory:
        keep_freed_memory()
    pixels, truth = torch.from_numpy(images), torch.from_numpy(labels)
    settings = Augment(flip=True, crop=2, border="reflect")
    _, step = speedrun(_normalized(pixels))

    def turn() -> None:
        order = torch.randperm(len(pixels))
        step(augment(_normalized(pixels[order]), settings), truth[order], 0.01, 0.0 if frozen else 0.01)

    return turn


def speedrun_accuracy(seed: int) -> dict[str, float]:
    """Train with the published recipe, and return the accuracy on the test images, over six views, and the seconds."""
    import torch

    from cifarlab import load_data
    from cifarlab.data.augment import augment, mirror
    from cifarlab.device import keep_freed_memory
    from cifarlab.inference.prediction import views
    from cifarlab.recipes import Augment

    keep_freed_memory()
    torch.manual_seed(seed)
    data = load_data("cifar10", quiet=True)
    train, test = (torch.from_numpy(part.images.copy()) for part in (data.train, data.test))
    labels, truth = (torch.from_numpy(part.labels) for part in (data.train, data.test))
    began = time.monotonic()
    network, step = speedrun(_normalized(train[:5000]))
    train = mirror(train, torch.rand(len(train)) < 0.5)
    settings = Augment(crop=2, border="reflect")
    for epoch in range(EPOCHS):
        order = torch.randperm(len(train))
        for number in range(STEPS):
            chosen, done = order[number * BATCH : (number + 1) * BATCH], epoch * STEPS + number
            images = train[chosen].flip(3) if epoch % 2 else train[chosen]
            share, bias_share = 1 - done / (EPOCHS * STEPS), max(0.0, 1 - done / (BIAS_EPOCHS * STEPS))
            step(augment(_normalized(images), settings), labels[chosen], share, bias_share)
    seconds = time.monotonic() - began
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(test), 500):
            images = test[start : start + 500]
            logits = sum(weight * network(_normalized(view)) for weight, view in views(images))
            right += int((logits.argmax(1) == truth[start : start + 500]).sum())
    return {"seed": seed, "accuracy": right / len(test), "seconds": round(seconds, 1)}


def _normalized(pixels: Any) -> Any:
    import torch

    mean, deviation = torch.tensor((0.4914, 0.4822, 0.4465)), torch.tensor((0.2470, 0.2435, 0.2616))
    return (pixels / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)


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
            nn.init.dirac_(layers[-1].weight[:channels].data)
            layers += [nn.MaxPool2d(2), norm, nn.GELU()] if pool else [norm, nn.GELU()]
            channels = maps
    head = nn.Linear(channels, 10, bias=False)
    head.weight.data.div_(head.weight.data.std())
    layers += [nn.MaxPool2d(3), nn.Flatten(), head]
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
    parser.add_argument("--accuracy", type=int, metavar="SEEDS", help="train and test the peer instead")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, size, frozen = arguments.worker
        work(name, (int(size), frozen == "True"))
        return
    for seed in range(arguments.accuracy or 0):
        print(json.dumps(speedrun_accuracy(seed)), flush=True)
    if arguments.accuracy:
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
