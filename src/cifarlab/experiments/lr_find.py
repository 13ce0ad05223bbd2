"""A learning-rate range test (Smith 2017, "Cyclical learning rates", section 3.3): which rate to begin with?

Takes some hundred steps of a training with a rate that rises exponentially, until the loss diverges, and suggests the
rate at which the smoothed loss falls fastest. The training is afterwards what it was, to the bit.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from cifarlab import models, recipes
from cifarlab.api import with_source
from cifarlab.data import batches
from cifarlab.data.catalogue import load_data
from cifarlab.data.dataset import Data, Dataset, relabel
from cifarlab.device import choose_device, keep_freed_memory
from cifarlab.errors import UsageError
from cifarlab.progress import task
from cifarlab.recipes import Recipe
from cifarlab.training.loop import to_training_mode, train_step
from cifarlab.training.signals import deterministic
from cifarlab.training.state import Training, begin, check_size, split_data

STEPS, MOST_STEPS = 300, 2_000
LOWEST, HIGHEST = 1e-6, 10.0
BLUR = 0.2  # in powers of ten of the rate: the greatest deviation of the Gaussian that losses are smoothed with
BLURRED_SHARE = 0.04  # of all steps: the greatest deviation, too, or a narrow range would be one straight line
FEWEST_STEPS = 3.0  # the smallest deviation
FORGETTING = 0.9  # per step, of the running mean that tells divergence: it is above its lowest by the first loss
FEWEST_LOSSES = 10  # that say anything
LEAST_FALL = 0.01  # of the first loss, for a suggestion
CLEAR = 5.0  # standard errors that the loss has to fall by for a suggestion: it is the lowest of many that counts


@dataclass(frozen=True)
class RangeTest:
    """What a range test found."""

    suggestion: float | None
    """The rate at which the smoothed loss falls fastest; None where it does not clearly fall at any."""
    diverged: bool
    """Whether the loss grew so much, or was no number any more, that the test ended early."""
    rates: tuple[float, ...]
    """Of each step, as the recipe's `learning_rate`; where groups of weights have their own, these keep their ratio."""
    losses: tuple[float, ...]
    """Of each step's batch, in nats."""
    smoothed: tuple[float, ...]
    """The same, from local lines through the neighbouring steps."""


def find_learning_rate(
    what: Recipe | str | Training,
    *,
    data: Data | None = None,
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    device: str = "auto",
    quiet: bool = False,
) -> RangeTest:
    """Raises the learning rate from step to step on a recipe's training images, and suggests one.

    Args:
        what: a recipe or its name, of which a training is begun; or a training, which is left exactly as it is:
            weights, buffers, optimizer, counters, and the random state of PyTorch, NumPy and Python.
        data: a data set in memory instead of the recipe's.
        steps: how many there are at most.
        lowest: the rate of the first.
        highest: the rate of the last; those between rise by the same factor.
        device: where a training is begun; one that is given stays on its own.
        quiet: show no progress.

    Raises:
        UsageError: a name does not exist, or the rates are not in order.
    """
    recipe = what.recipe if isinstance(what, Training) else recipes.load(what) if isinstance(what, str) else what
    if not 0 < lowest < highest < math.inf:
        raise UsageError(f"rates should rise from above 0, got {lowest:g} as the lowest and {highest:g} as the highest")
    if not 2 <= steps <= MOST_STEPS:
        raise UsageError(f"steps should be from 2 to {MOST_STEPS:,}, got {steps}")
    where = choose_device(device)
    rates = np.geomspace(lowest, highest, steps)
    with _random_state_kept():
        if isinstance(what, Training):
            training, images = what, _training_images(recipe, data, quiet)
        else:
            keep_freed_memory()
            training, images = _begun(recipe, data, where, quiet)
        with kept(training), deterministic(recipe), task("learning-rate test", steps, quiet=quiet) as shown:
            losses = []
            for loss in _losses(training, images, rates):
                losses.append(loss)
                shown.advance(1)
    return judge(rates[: len(losses)], np.array(losses), ended_early=len(losses) < steps)


def _training_images(recipe: Recipe, data: Data | None, quiet: bool) -> Dataset:
    whole = load_data(recipe.dataset, size=recipe.size, quiet=quiet) if data is None else data
    check_size(recipe, whole)
    return split_data(recipe, relabel(whole, recipe.drop, recipe.merge)).train


def _begun(recipe: Recipe, data: Data | None, device: torch.device, quiet: bool) -> tuple[Training, Dataset]:
    recipe, source = with_source(recipe.model_copy(update={"model": models.resolve_model_name(recipe.model)}), None)
    images = _training_images(recipe, data, quiet)
    return begin(recipe, images, device, source), images


def _losses(training: Training, images: Dataset, rates: Float64[np.ndarray, " steps"]) -> Iterator[float]:
    """The loss of each step, until it diverges."""
    recipe = training.recipe
    on_device = batches.to_device(images, training.device)
    flips, steps = recipe.augment.alternate_flip, batches.steps_per_epoch(len(images), recipe.batch_size)
    epochs = (
        batches.batches(on_device, recipe.batch_size, recipe.seed, epoch, alternate_flip=flips) for epoch in count()
    )
    first = mean = lowest = math.nan
    to_training_mode(training)
    for step, (rate, batch) in enumerate(zip(rates, chain.from_iterable(epochs), strict=False)):
        batches.seed_step(recipe.seed, step // steps, batch.step)
        for group in training.optimizer.param_groups:
            group["lr"] = group["peak"] * float(rate) / recipe.learning_rate
        training.loss_sum.zero_()
        train_step(training, batch)
        loss = float(training.loss_sum) / len(batch.labels)
        if not math.isfinite(loss):
            return
        yield loss
        if step == 0:
            first = mean = lowest = loss
        mean = FORGETTING * mean + (1 - FORGETTING) * loss
        lowest = min(lowest, mean)
        if mean - lowest > first:
            return


@contextlib.contextmanager
def kept(training: Training) -> Iterator[None]:
    """Whatever is done to a training inside, afterwards it is what it was, to the bit."""
    networks = [training.classifier.network, *([] if training.average is None else [training.average])]
    modules = [(module, module.training) for network in networks for module in network.modules()]
    weights = [weight for network in networks for weight in network.parameters()]
    tensors = [*weights, *(buffer for network in networks for buffer in network.buffers())]
    tensors += [training.loss_sum, training.right, training.losses]
    before, gradients = [tensor.detach().clone() for tensor in tensors], [weight.grad for weight in weights]
    optimizer, scaler = training.optimizer, training.scaler.state_dict()
    states = {weight: {key: _copy(value) for key, value in state.items()} for weight, state in optimizer.state.items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        for module, was_training in modules:
            module.training = was_training
        optimizer.state.clear()
        optimizer.state.update(states)
        for group, settings in zip(optimizer.param_groups, groups, strict=True):
            group.update(settings)
        if scaler:
            training.scaler.load_state_dict(scaler)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Networks of one's own may draw from NumPy and Python, too."""
    numpys, pythons = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(numpys)
            random.setstate(pythons)


def judge(
    rates: Float64[np.ndarray, " steps"], losses: Float64[np.ndarray, " steps"], *, ended_early: bool = False
) -> RangeTest:
    """What the losses of a range test say.

    A line is fitted to the losses about each step, weighted by a Gaussian over the logarithm of the rate (Cleveland
    1979, without iterations): its height is the smoothed loss, its slope how fast that falls. Nothing lags behind, as
    it would with a running mean. As in Cleveland's fit, the neighbourhood is a share of the points, but no wider than
    `BLUR`. The steepest descent is looked for before the smoothed loss is lowest, and a slope counts less by its
    standard error, which is greatest at the ends, where neighbours are on one side only.

    Args:
        rates: of the steps, rising exponentially.
        losses: of their batches, in nats.
        ended_early: whether the loss diverged.
    """
    found = (tuple(map(float, rates)), tuple(map(float, losses)))
    if len(losses) < FEWEST_LOSSES:
        return RangeTest(None, ended_early, *found, found[1])
    place = np.log10(rates)
    limit = losses[0] + losses.min()  # what lies above is the end, which should not reach into what was before
    levels, slopes = _lines(place)
    smoothed = levels @ np.minimum(losses, limit)
    lowest = int(smoothed.argmin())
    noise = float(np.std((losses - smoothed)[: max(lowest, FEWEST_LOSSES)]))
    falls = slopes @ np.minimum(losses, limit) + noise * np.linalg.norm(slopes, axis=1)
    error = noise * math.hypot(float(np.linalg.norm(levels[0])), float(np.linalg.norm(levels[lowest])))
    clear = smoothed[0] - smoothed[lowest] > max(CLEAR * error, LEAST_FALL * losses[0])
    suggestion = float(rates[falls[: lowest + 1].argmin()]) if clear else None
    return RangeTest(suggestion, ended_early, *found, tuple(map(float, smoothed)))


def _lines(place: Float64[np.ndarray, " n"]) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n n"]]:
    """Matrices that take values at these places to heights and slopes of the lines fitted about each."""
    step = float(place[1] - place[0])
    width = max(FEWEST_STEPS * step, min(BLUR, BLURRED_SHARE * len(place) * step))
    distance = place[None, :] - place[:, None]
    weight = np.exp(-((distance / width) ** 2) / 2)
    zeroth, first, second = (np.sum(weight * distance**power, axis=1, keepdims=True) for power in range(3))
    determinant = zeroth * second - first**2
    levels = weight * (second - first * distance) / determinant
    slopes = weight * (zeroth * distance - first) / determinant
    return levels, slopes
