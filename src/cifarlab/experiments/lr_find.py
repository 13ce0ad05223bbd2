"""Learning-rate range test (Smith 2017, "Cyclical learning rates", section 3.3), which suggests a learning rate.

The test trains for a few hundred steps while the learning rate rises exponentially, until the loss diverges. It
suggests the learning rate at which the smoothed loss falls fastest, and leaves the training exactly as it was.
"""

import math
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from jaxtyping import Float64

from cifarlab import recipes
from cifarlab.data import batches
from cifarlab.data.arrays import GivenData
from cifarlab.data.catalogue import load_parts
from cifarlab.data.dataset import Dataset
from cifarlab.device import choose_device, keep_freed_memory
from cifarlab.errors import UsageError
from cifarlab.progress import Task, task
from cifarlab.recipes import Recipe
from cifarlab.training.loop import epoch_batches, set_training_mode, train_step
from cifarlab.training.preparation import prepare
from cifarlab.training.session import deterministic_algorithms
from cifarlab.training.state import Training, begin, keep_random_state, keep_training

STEPS, MOST_STEPS = 300, 2_000
LOWEST, HIGHEST = 1e-6, 10.0
# The losses are smoothed with a Gaussian over the logarithm of the learning rate. Limits of its standard deviation:
MOST_DECADES = 0.2  # powers of ten of the learning rate
MOST_SHARE = 0.04  # share of all steps, because a narrow range would otherwise become one straight line
FEWEST_STEPS = 3.0  # steps
DECAY = 0.9  # per step, of the running mean of the loss, which diverges when it exceeds its minimum by the first loss
FEWEST_LOSSES = 10  # for a suggestion
LEAST_FALL = 0.01  # share of the first loss by which the loss must fall for a suggestion
STANDARD_ERRORS = 5.0  # by which the loss must fall for a suggestion; many, because the lowest of many losses counts


@dataclass(frozen=True)
class RangeTest:
    """The result of a learning-rate range test."""

    suggestion: float | None  # where the smoothed loss falls fastest; None if it does not clearly fall
    diverged: bool  # True if the test ended early because the loss grew too much or became NaN or infinite
    rates: tuple[float, ...]  # of each step, as the recipe's `learning_rate`; other groups of weights keep their ratio
    losses: tuple[float, ...]  # mean of each step's batch, in nats
    smoothed: tuple[float, ...]  # by lines fitted to the neighbouring steps; the raw losses if they are too few


def find_learning_rate(
    what: Recipe | str | Training,
    *,
    data: GivenData | None = None,
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    device: str = "auto",
    quiet: bool = False,
) -> RangeTest:
    """Train with a learning rate that rises at every step, and suggest a learning rate.

    Args:
        what: a recipe or its name, to begin a training of; or a training, which is left exactly as it was: weights,
            buffers, optimizer, counters, and the random state of PyTorch, NumPy and Python.
        data: data set in memory, instead of the recipe's.
        steps: largest number of steps.
        lowest: learning rate of the first step.
        highest: learning rate of the last step; it rises by the same factor at every step.
        device: `auto`, `cpu` or `cuda`, for a training that is begun here.
        quiet: show no progress.

    Raises:
        UsageError: a name does not exist, or an argument is out of its range.
    """
    recipe = what.recipe if isinstance(what, Training) else recipes.load(what) if isinstance(what, str) else what
    if not 0 < lowest < highest < math.inf:
        raise UsageError(f"learning rates must satisfy 0 < lowest < highest, got {lowest:g} and {highest:g}")
    if not 2 <= steps <= MOST_STEPS:
        raise UsageError(f"steps must be from 2 to {MOST_STEPS:,}, got {steps}")
    choose_device(device)  # an unknown name is an error for a training too
    rates = np.geomspace(lowest, highest, steps)
    with keep_random_state():
        if isinstance(what, Training):
            training, images = what, load_parts(recipe, data=data, quiet=quiet)[1].train
        else:
            keep_freed_memory()
            prepared = prepare(recipe, data=data, device=device, quiet=quiet)
            training, images = begin(prepared), prepared.parts.train
        with (
            keep_training(training),
            deterministic_algorithms(recipe.deterministic),
            task("learning-rate test", steps, quiet=quiet) as bar,
        ):
            losses = _train(training, images, rates, bar)
    return judge(rates[: len(losses)], np.array(losses), ended_early=len(losses) < steps)


def _train(training: Training, images: Dataset, rates: Float64[np.ndarray, " steps"], bar: Task) -> list[float]:
    """Train until the loss diverges, and return the loss of each step."""
    recipe = training.recipe
    on_device = batches.to_device(images, training.device)
    steps = batches.steps_per_epoch(len(images), recipe.batch_size)
    epochs = (epoch_batches(training, on_device, epoch) for epoch in count())
    losses: list[float] = []
    mean, lowest = 0.0, math.inf
    set_training_mode(training)
    for step, (rate, batch) in enumerate(zip(rates, chain.from_iterable(epochs), strict=False)):
        batches.seed_step(recipe.seed, step // steps, batch.step)
        for group in training.optimizer.param_groups:
            group["lr"] = group["peak"] * float(rate) / recipe.learning_rate
        training.loss_sum.zero_()
        train_step(training, batch)
        loss = float(training.loss_sum) / len(batch.labels)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        bar.advance(1)
        mean = DECAY * mean + (1 - DECAY) * loss if step else loss
        lowest = min(lowest, mean)
        if mean - lowest > losses[0]:
            break
    return losses


def judge(
    rates: Float64[np.ndarray, " steps"], losses: Float64[np.ndarray, " steps"], *, ended_early: bool = False
) -> RangeTest:
    """Smooth the losses of a range test and suggest a learning rate, or none if they are few or do not clearly fall.

    At each step a line is fitted to the losses, weighted by a Gaussian over the logarithm of the learning rate
    (Cleveland 1979, without iterations). The height of the line is the smoothed loss, which does not lag behind as a
    running mean would; its slope is the speed at which the loss falls. The steepest slope before the minimum of the
    smoothed loss gives the suggestion. One standard error is added to each slope, so that an uncertain slope looks
    less steep. The error is greatest at both ends, where all neighbours lie on one side.
    """
    recorded = (tuple(map(float, rates)), tuple(map(float, losses)))
    if len(losses) < FEWEST_LOSSES:
        return RangeTest(None, ended_early, *recorded, recorded[1])  # too few losses to smooth
    decades = np.log10(rates)
    # The test stops when the mean loss exceeds its minimum by the first loss. Losses above that sum belong to the
    # divergence and would raise the smoothed loss of earlier steps.
    limit = losses[0] + losses.min()
    level_weights, slope_weights = fit_lines(decades)  # row i times the losses is the line's height or slope at step i
    smoothed = level_weights @ np.minimum(losses, limit)
    lowest = int(smoothed.argmin())
    noise = float(np.std((losses - smoothed)[: max(lowest, FEWEST_LOSSES)]))
    cautious_slopes = slope_weights @ np.minimum(losses, limit) + noise * np.linalg.norm(slope_weights, axis=1)
    # Standard error of the difference between the first and the lowest smoothed loss.
    fall_error = noise * math.hypot(*(float(np.linalg.norm(level_weights[step])) for step in (0, lowest)))
    falls_clearly = smoothed[0] - smoothed[lowest] > max(STANDARD_ERRORS * fall_error, LEAST_FALL * losses[0])
    suggestion = float(rates[cautious_slopes[: lowest + 1].argmin()]) if falls_clearly else None
    return RangeTest(suggestion, ended_early, *recorded, tuple(map(float, smoothed)))


def fit_lines(places: Float64[np.ndarray, " n"]) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n n"]]:
    """Return two matrices that map values at evenly spaced places to the heights and slopes of lines fitted there."""
    step = float(places[1] - places[0])
    width = max(FEWEST_STEPS * step, min(MOST_DECADES, MOST_SHARE * len(places) * step))
    distance = places[None, :] - places[:, None]
    weight = np.exp(-((distance / width) ** 2) / 2)
    zeroth, first, second = (np.sum(weight * distance**power, axis=1, keepdims=True) for power in range(3))
    determinant = zeroth * second - first**2
    level_weights = weight * (second - first * distance) / determinant
    slope_weights = weight * (zeroth * distance - first) / determinant
    return level_weights, slope_weights
