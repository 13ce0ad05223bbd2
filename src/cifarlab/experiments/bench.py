"""How fast this machine is, and how near to its limits the networks here come.

The limits are measured too, in the same process: what PyTorch reaches on one large convolution or matrix product. The
training measured is the loop's own step, batches and augmentation included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifarlab import recipes
from cifarlab.data import batches
from cifarlab.data.dataset import Dataset
from cifarlab.device import DTYPES, keep_freed_memory, precision_of
from cifarlab.inference.evaluation import BATCH, predict_logits
from cifarlab.progress import task
from cifarlab.recipes import Recipe
from cifarlab.training.loop import train_step
from cifarlab.training.state import Training, begin

CONVOLUTION = (128, 128, 16)  # images, maps in and out, side in pixels, of the convolution measured: 3x3 kernels
MATRIX = 2048  # side of the square matrices multiplied
IMAGES = 2_000  # random ones, at least; as many as two batches where that is more


@dataclass(frozen=True)
class Peak:
    """What the machine reaches on one operation, in FLOP/s."""

    precision: str
    convolution: float
    """Forward and backward, 3x3 kernels, channels last."""
    matmul: float


@dataclass(frozen=True)
class Speed:
    """How fast one recipe's network trains and predicts."""

    recipe: str
    model: str
    precision: str
    batch_size: int
    train_images_per_second: float
    train_flops: float
    """FLOP/s of forward and backward passes."""
    train_share: float
    """Of the convolution peak in this precision."""
    predict_images_per_second: float
    predict_flops: float
    predict_share: float


def measure_all(chosen: Sequence[Recipe], device: torch.device, seconds: float) -> tuple[list[Peak], list[Speed]]:
    """The peaks of every precision that the recipes use on this device, then the speed of each, with progress shown.

    Args:
        chosen: recipes.
        device: to measure.
        seconds: for each measurement.
    """
    needed = sorted({precision_of(recipe.precision, device) for recipe in chosen})
    peaks: dict[str, Peak] = {}
    speeds: list[Speed] = []
    with task("measuring", len(needed) + len(chosen)) as shown:
        for precision in needed:
            peaks[precision] = measure_peak(precision, device, seconds)
            shown.advance(1)
        for recipe in chosen:
            speeds.append(measure(recipe, device, peaks[precision_of(recipe.precision, device)], seconds))
            shown.advance(1)
    return list(peaks.values()), speeds


def measure_peak(precision: str, device: torch.device, seconds: float) -> Peak:
    """What one large convolution and one large matrix product reach.

    Args:
        precision: one of `DTYPES`.
        device: to measure.
        seconds: for each of the two.
    """
    keep_freed_memory()
    dtype = DTYPES[precision]
    images, maps, side = CONVOLUTION
    inputs, kernels = torch.rand(images, maps, side, side), torch.rand(maps, maps, 3, 3)
    inputs, kernels = (
        tensor.to(device, dtype, memory_format=torch.channels_last).requires_grad_() for tensor in (inputs, kernels)
    )
    gradient = torch.ones_like(F.conv2d(inputs, kernels, padding=1))
    square = torch.rand(MATRIX, MATRIX).to(device, dtype)

    def convolve() -> None:
        torch.autograd.grad(F.conv2d(inputs, kernels, padding=1), (inputs, kernels), gradient)

    work = 3 * 2 * images * maps * maps * 9 * side**2
    return Peak(
        precision,
        work / median_seconds(convolve, device, seconds),
        2 * MATRIX**3 / median_seconds(lambda: square @ square, device, seconds),
    )


def measure(recipe: Recipe, device: torch.device, peak: Peak, seconds: float) -> Speed:
    """How fast a recipe's network trains and predicts on random images.

    Args:
        recipe: decides network, batch size, precision, augmentation and optimizer.
        device: to measure.
        peak: of the recipe's precision on this device.
        seconds: for training and for prediction each.
    """
    keep_freed_memory()
    number = max(IMAGES, 2 * recipe.batch_size)
    generator = np.random.default_rng(recipe.seed)
    images = generator.integers(0, 256, (number, 3, recipe.size, recipe.size), dtype=np.uint8)
    dataset = Dataset(images, np.arange(number) % 10, tuple(map(str, range(10))))
    training, data = begin(recipe, dataset, device), batches.to_device(dataset, device)
    training.classifier.network.train()
    steps, some = _endless(training, data), batches.DeviceImages(data.images[:BATCH], data.labels[:BATCH])

    def step() -> None:
        train_step(training, next(steps))

    def predict() -> None:
        predict_logits(training.classifier, some, precision=peak.precision)

    train_flops, predict_flops = flops(step) / recipe.batch_size, flops(predict) / BATCH
    rate = recipe.batch_size / median_seconds(step, device, seconds)
    predict_rate = BATCH / median_seconds(predict, device, seconds)
    return Speed(
        recipe=recipe.name,
        model=recipe.model,
        precision=peak.precision,
        batch_size=recipe.batch_size,
        train_images_per_second=rate,
        train_flops=rate * train_flops,
        train_share=rate * train_flops / peak.convolution,
        predict_images_per_second=predict_rate,
        predict_flops=predict_rate * predict_flops,
        predict_share=predict_rate * predict_flops / peak.convolution,
    )


def one_recipe_per_network() -> list[Recipe]:
    """The built-in recipes, without those whose network another one has already."""
    found: dict[tuple[str, str], Recipe] = {}
    for recipe in map(recipes.load, recipes.names()):
        found.setdefault((recipe.model, str(recipe.model_options)), recipe)
    return list(found.values())


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products in one call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def median_seconds(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median duration of a call, in seconds, after three to warm up.

    Args:
        run: to be measured, at least five times.
        device: waited for after each call.
        seconds: how long to go on.
    """
    marks = [time.perf_counter()]
    while len(marks) < 9 or marks[-1] - marks[3] < seconds:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.perf_counter())
    return statistics.median(after - before for before, after in pairwise(marks[3:]))


def _endless(training: Training, data: batches.DeviceImages) -> Iterator[batches.Batch]:
    recipe = training.recipe
    for epoch in count():
        flips = recipe.augment.alternate_flip
        for batch in batches.batches(data, recipe.batch_size, recipe.seed, epoch, alternate_flip=flips):
            if len(batch.labels) == recipe.batch_size:
                yield batch
