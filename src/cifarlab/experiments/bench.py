"""Measure the speed of training and prediction, and compare it with the peak speed of this machine.

The peak is PyTorch's speed on a large convolution and matrix product. Training is measured with the loop's own step.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifarlab import recipes
from cifarlab.data import batches
from cifarlab.data.dataset import Dataset
from cifarlab.device import DTYPES, keep_freed_memory, precision_of
from cifarlab.inference.prediction import BATCH, predict_logits
from cifarlab.models import build_model
from cifarlab.models.summary import count_macs
from cifarlab.progress import task
from cifarlab.recipes import Recipe
from cifarlab.training.loop import epoch_batches, train_step
from cifarlab.training.preparation import prepare_images
from cifarlab.training.state import begin

CONVOLUTION = (128, 128, 16)  # images, channels in and out, side in pixels, of the measured 3x3 convolution
MATRIX = 2048  # rows and columns of the multiplied matrices
MOST_MACS = 500_000_000  # multiply-adds an image of the networks that are measured unless recipes are named
IMAGES = 2_000  # random images, or two batches if that is more


@dataclass(frozen=True)
class Peak:
    """Peak speed of the machine in one precision, in FLOP/s."""

    precision: str
    convolution: float  # 3x3, channels last, forward and backward
    matmul: float


@dataclass(frozen=True)
class Speed:
    """Speed of training and prediction of one recipe."""

    recipe: str
    model: str
    precision: str
    batch_size: int
    train_images_per_second: float
    train_flops: float  # FLOP/s of the forward and backward pass
    train_share: float  # of the faster peak in this precision
    predict_images_per_second: float
    predict_flops: float  # FLOP/s of the forward pass
    predict_share: float  # of the faster peak in this precision


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

    convolution = 3 * 2 * images * channels * channels * 9 * side**2 / median_seconds(convolve, device, seconds)
    matmul = 2 * MATRIX**3 / median_seconds(lambda: square @ square, device, seconds)
    return Peak(precision, convolution, matmul)


def measure(recipe: Recipe, device: torch.device, peak: Peak, seconds: float) -> Speed:
    """Measure for `seconds` how fast a recipe's network trains on random images, and as long how fast it predicts."""
    keep_freed_memory()
    number = max(IMAGES, 2 * recipe.batch_size)
    generator = np.random.default_rng(recipe.seed)
    images = generator.integers(0, 256, (number, 3, recipe.size, recipe.size), dtype=np.uint8)
    dataset = Dataset(images, np.arange(number) % 10, tuple(map(str, range(10))))
    training, data = begin(prepare_images(recipe, dataset, device)), batches.to_device(dataset, device)
    training.classifier.network.train()
    epochs = (epoch_batches(training, data, epoch) for epoch in count())
    whole_batches = (batch for batch in chain.from_iterable(epochs) if len(batch.labels) == recipe.batch_size)
    sample = batches.DeviceImages(data.images[:BATCH], data.labels[:BATCH])

    def step() -> None:
        train_step(training, next(whole_batches))

    predict = partial(predict_logits, training.classifier, sample, precision=peak.precision)
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
        train_share=rate * train_flops / max(peak.convolution, peak.matmul),
        predict_images_per_second=predict_rate,
        predict_flops=predict_rate * predict_flops,
        predict_share=predict_rate * predict_flops / max(peak.convolution, peak.matmul),
    )


def one_recipe_per_network() -> list[Recipe]:
    """Return the first built-in recipe for CIFAR-10 of every network of at most `MOST_MACS` multiply-adds an image."""
    by_network: dict[tuple[str, str], Recipe] = {}
    of_cifar10 = (recipe for recipe in map(recipes.load, recipes.names()) if recipe.dataset == "cifar10")
    for recipe in of_cifar10:
        by_network.setdefault((recipe.model, str(recipe.model_options)), recipe)
    return [recipe for recipe in by_network.values() if _macs(recipe) <= MOST_MACS]


def _macs(recipe: Recipe) -> int:
    return count_macs(build_model(recipe.model, size=recipe.size, options=recipe.model_options), recipe.size)


def flops(run: Callable[[], object]) -> int:
    """Return the floating-point operations of one call, as PyTorch counts them: convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def median_seconds(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Measure for `seconds` and return the median duration of a call in seconds, after three calls to warm up."""
    times = [time.perf_counter()]
    while len(times) < 9 or times[-1] - times[3] < seconds:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
    return statistics.median(after - before for before, after in pairwise(times[3:]))
