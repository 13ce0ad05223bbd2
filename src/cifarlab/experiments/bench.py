"""Measure the speed of training and prediction, and compare it with the peak speed of this machine.

The peak is measured too, in the same process: the speed of PyTorch on one large convolution and matrix product.
Training is measured with the training loop's own step, including batches and augmentation.
"""

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
from cifarlab.inference.prediction import BATCH, predict_logits
from cifarlab.progress import task
from cifarlab.recipes import Recipe
from cifarlab.training.loop import epoch_batches, train_step
from cifarlab.training.preparation import prepare_images
from cifarlab.training.state import Training, begin

CONVOLUTION = (128, 128, 16)  # images, channels in and out, side in pixels, of the measured 3x3 convolution
MATRIX = 2048  # rows and columns of the multiplied matrices
IMAGES = 2_000  # random images, or two batches if that is more


@dataclass(frozen=True)
class Peak:
    """Peak speed of the machine in one precision, in FLOP/s."""

    precision: str
    convolution: float
    """A 3x3 convolution, channels last, forward and backward."""
    matmul: float
    """A product of two matrices."""


@dataclass(frozen=True)
class Speed:
    """Speed of training and prediction of one recipe."""

    recipe: str
    model: str
    precision: str
    batch_size: int
    train_images_per_second: float
    train_flops: float
    """FLOP/s of the forward and backward pass."""
    train_share: float
    """Share of the convolution peak in this precision."""
    predict_images_per_second: float
    predict_flops: float
    """FLOP/s of the forward pass."""
    predict_share: float
    """Share of the convolution peak in this precision."""


def measure_all(chosen: Sequence[Recipe], device: torch.device, seconds: float) -> tuple[list[Peak], list[Speed]]:
    """Measure the peak of every precision that the recipes use, and the speed of each recipe, each for `seconds`."""
    needed = sorted({precision_of(recipe.precision, device) for recipe in chosen})
    peaks: dict[str, Peak] = {}
    speeds: list[Speed] = []
    with task("measuring", len(needed) + len(chosen)) as bar:
        for precision in needed:
            peaks[precision] = measure_peak(precision, device, seconds)
            bar.advance(1)
        for recipe in chosen:
            speeds.append(measure(recipe, device, peaks[precision_of(recipe.precision, device)], seconds))
            bar.advance(1)
    return list(peaks.values()), speeds


def measure_peak(precision: str, device: torch.device, seconds: float) -> Peak:
    """Measure one large convolution and one large matrix product, each for `seconds`."""
    keep_freed_memory()
    dtype = DTYPES[precision]
    images, channels, side = CONVOLUTION
    inputs, kernels = torch.rand(images, channels, side, side), torch.rand(channels, channels, 3, 3)
    inputs, kernels = (
        tensor.to(device, dtype, memory_format=torch.channels_last).requires_grad_() for tensor in (inputs, kernels)
    )
    gradient = torch.ones_like(F.conv2d(inputs, kernels, padding=1))
    square = torch.rand(MATRIX, MATRIX).to(device, dtype)

    def convolve() -> None:
        torch.autograd.grad(F.conv2d(inputs, kernels, padding=1), (inputs, kernels), gradient)

    operations = 3 * 2 * images * channels * channels * 9 * side**2
    return Peak(
        precision,
        operations / median_seconds(convolve, device, seconds),
        2 * MATRIX**3 / median_seconds(lambda: square @ square, device, seconds),
    )


def measure(recipe: Recipe, device: torch.device, peak: Peak, seconds: float) -> Speed:
    """Measure how fast a recipe's network trains and predicts on random images.

    Args:
        recipe: recipe to measure: its network, batch size, precision, augmentation and optimizer.
        device: device to measure.
        peak: peak speed in the recipe's precision on this device.
        seconds: duration of each of the two measurements.
    """
    keep_freed_memory()
    number = max(IMAGES, 2 * recipe.batch_size)
    generator = np.random.default_rng(recipe.seed)
    images = generator.integers(0, 256, (number, 3, recipe.size, recipe.size), dtype=np.uint8)
    dataset = Dataset(images, np.arange(number) % 10, tuple(map(str, range(10))))
    training, data = begin(prepare_images(recipe, dataset, device)), batches.to_device(dataset, device)
    training.classifier.network.train()
    batch_stream = _endless_batches(training, data)
    sample = batches.DeviceImages(data.images[:BATCH], data.labels[:BATCH])

    def step() -> None:
        train_step(training, next(batch_stream))

    def predict() -> None:
        predict_logits(training.classifier, sample, precision=peak.precision)

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
    """Return the first built-in recipe of every network."""
    by_network: dict[tuple[str, str], Recipe] = {}
    for recipe in map(recipes.load, recipes.names()):
        by_network.setdefault((recipe.model, str(recipe.model_options)), recipe)
    return list(by_network.values())


def flops(run: Callable[[], object]) -> int:
    """Return the floating-point operations of one call, as PyTorch counts them: convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def median_seconds(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the median duration of a call, in seconds.

    Args:
        run: function to measure, called three times to warm up and then at least five times.
        device: device whose pending work is awaited after each call.
        seconds: duration of the measurement.
    """
    times = [time.perf_counter()]
    while len(times) < 9 or times[-1] - times[3] < seconds:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
    return statistics.median(after - before for before, after in pairwise(times[3:]))


def _endless_batches(training: Training, data: batches.DeviceImages) -> Iterator[batches.Batch]:
    recipe = training.recipe
    for epoch in count():
        for batch in epoch_batches(training, data, epoch):
            if len(batch.labels) == recipe.batch_size:
                yield batch
