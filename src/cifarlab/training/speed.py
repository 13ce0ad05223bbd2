"""Precision and threads of a training on a processor: measure what is fastest here, now, and how long it will take.

Which of them is fastest depends on the network, on the processor and on what else runs there. So the training's own
step is measured on its own images, and the measuring leaves the training as it was.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64

from cifarlab.data.batches import steps_per_epoch
from cifarlab.device import DTYPES, Choice, autocast, keep_threads, plainest, precision_of
from cifarlab.device import choices as device_choices
from cifarlab.models.summary import count_macs
from cifarlab.progress import duration
from cifarlab.recipes import Recipe
from cifarlab.runs.record import Computation, Rate
from cifarlab.training.optim import Muon
from cifarlab.training.preparation import Prepared
from cifarlab.training.state import Training, keep_random_state, keep_training

LONG_SECONDS, SHORTER_MINUTES = 300.0, 4  # a training above the first is told what `--minutes` would do
MEASURING_SECONDS, MEASURING_SHARE = 3.0, 0.02  # at most, of which the longer counts; the share is of the training
MOST_MEASURING_SECONDS = 60.0  # however long the training is: more does not make the choice better
HOPELESS = 0.75  # of the highest rate, below which a choice is measured once only
MOST_TURNS = 5  # of each choice
TOO_SLOW = 4.0  # times a turn's share of the time, which the first step, that prepares kernels, may take
FEWEST_IMAGES = 8  # of a step that is measured
SHORTEST_SECONDS = 15.0  # of trainings that are measured, on no real machine, so that what this decides repeats
NOMINAL_FLOPS, NOMINAL_STEP = 50e9, 1e-3  # operations a second and seconds a step, of that machine
FORWARD_SHARE = 1 / 3  # of a step's time, which classifying takes
BUDGET_SHARE = 0.92  # of the minutes given, which the steps, validation and test are planned to take


def choices(recipe: Recipe, device: torch.device) -> list[Choice]:
    """Return the precisions and numbers of threads that a recipe allows on this device, plainest first."""
    allowed = device_choices(recipe.precision, recipe.threads, device)
    compiled = [(precision_of(recipe.precision, device), allowed[-1][1])]  # a network is compiled for both
    return compiled if recipe.compile else allowed


def compute_with(training: Training, precision: str, threads: int) -> None:
    """Compute the training's next steps in this precision with this number of threads."""
    training.precision, training.autocast = precision, autocast(precision, training.device)
    if isinstance(training.optimizer, Muon):
        training.optimizer.dtype = DTYPES[precision]
    torch.set_num_threads(threads)


def is_short(prepared: Prepared) -> bool:
    """Return True if a training is so short that measuring is not worth its time, by its amount of arithmetic alone."""
    recipe, images = prepared.recipe, len(prepared.parts.train)
    macs = count_macs(prepared.classifier.network, recipe.size, prepared.classifier.in_channels)
    operations = 3 * 2 * macs * images  # backward is twice forward
    steps = steps_per_epoch(images, recipe.batch_size)
    return recipe.epochs * (operations / NOMINAL_FLOPS + steps * NOMINAL_STEP) < SHORTEST_SECONDS


def measure(
    training: Training, step: Callable[[int], None], allowed: Sequence[Choice], seconds: float | None = None
) -> tuple[Rate, ...]:
    """Measure the speed of training with each choice, and leave the training as it was.

    The choices take turns. After a first turn each, those that are clearly slower are left out.

    Args:
        training: what to measure.
        step: takes a training step with this number of images.
        allowed: the choices, plainest first.
        seconds: how long measuring may take; by default as the constants of this module say.
    """
    began, most = time.perf_counter(), max(threads for _, threads in allowed)
    with keep_random_state(), keep_training(training), keep_computation(training):
        size = min(training.recipe.batch_size, len(training.epoch_images))

        def turn(choice: Choice, images: int, steps: int) -> float:
            compute_with(training, *choice)
            before = time.perf_counter()
            for _ in range(steps):
                step(images)
            if training.device.type == "cuda":
                torch.cuda.synchronize(training.device)
            return (time.perf_counter() - before) / (images * steps)

        probe = min(size, 4 * FEWEST_IMAGES)
        turn(allowed[0], probe, 1)  # the first step allocates memory
        slowest = turn(allowed[0], probe, 1)  # seconds an image; most choices are faster
        if seconds is None:
            whole = training.recipe.epochs * len(training.losses) * slowest / (2 * most)
            seconds = min(MOST_MEASURING_SECONDS, max(MEASURING_SECONDS, MEASURING_SHARE * whole))
        share = seconds / (4 * len(allowed))  # of a turn
        images = min(size, max(FEWEST_IMAGES, int(share / slowest)))
        steps = max(1, int(share / (slowest * images)))
        times: dict[Choice, list[float]] = {choice: [] for choice in allowed}
        left = list(allowed)
        while left:
            for choice in left:
                few = not times[choice] and turn(choice, images, 1) * images > TOO_SLOW * share
                times[choice].append(turn(choice, images, 1 if few else steps))
            typical = {choice: statistics.median(each) for choice, each in times.items()}
            fastest = min(typical.values())
            left = [choice for choice in left if typical[choice] * HOPELESS <= fastest]
            if len(left) == 1 or len(times[left[0]]) >= MOST_TURNS or time.perf_counter() - began > seconds / 2:
                break
        winner = plainest(typical)
        # A whole batch shows what the optimizer's step, which is the same for any number of images, leaves of the rate.
        rest = began + seconds - time.perf_counter()
        more = min(size, int(rest / (2.2 * typical[winner])))
        if more > images:
            turn(winner, more, 1)
            scale = turn(winner, more, 1) / typical[winner]
            typical = {choice: scale * each for choice, each in typical.items()}
    return tuple(
        Rate(precision=precision, threads=threads, images_per_second=1 / each)
        for (precision, threads), each in typical.items()
    )


@contextlib.contextmanager
def keep_computation(training: Training) -> Iterator[None]:
    """Restore precision and threads of a training at the end."""
    precision = training.precision
    with keep_threads():
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            compute_with(training, precision, threads)


def computation(measured: Sequence[Rate], epoch: int = 0, step: int = 0) -> Computation:
    """Return the choice that follows from measured rates, for a training from this step on."""
    precision, threads = plainest({(rate.precision, rate.threads): 1 / rate.images_per_second for rate in measured})
    return Computation(epoch=epoch, step=step, precision=precision, threads=threads, measured=tuple(measured))


def images_by_epoch(recipe: Recipe, images: int) -> list[int]:
    """Return how many of the training images each epoch trains on; more if few are easy."""
    counts = np.full(recipe.epoch_count, float(images - round(recipe.skip_easy * images)))
    counts[[0, -1]] = images
    counts[-1] *= min(1.0, recipe.epochs - recipe.epoch_count + 1)
    return [round(count) for count in counts]


def work_by_epoch(prepared: Prepared) -> Float64[np.ndarray, " epochs"]:
    """Return the arithmetic of each epoch, counted in images of the recipe's size."""
    recipe = prepared.recipe
    begins = np.arange(recipe.epoch_count)
    ends = np.minimum(begins + 1, recipe.epochs)
    mean_cost, since = np.zeros(len(begins)), 0.0
    for size, until in (*recipe.smaller_sizes, (recipe.size, 1.0)):
        overlaps = np.minimum(ends, until * recipe.epochs) - np.maximum(begins, since * recipe.epochs)
        mean_cost += prepared.costs.get(size, 1.0) * np.maximum(0.0, overlaps) / (ends - begins)
        since = until
    return np.array(images_by_epoch(recipe, len(prepared.parts.train))) * mean_cost


def expected_seconds(prepared: Prepared, rate: float) -> float:
    """Return how long training, validation and test will take at a rate in images of the recipe's size a second."""
    recipe, parts = prepared.recipe, prepared.parts
    trained = float(work_by_epoch(prepared).sum())
    views = 6 if recipe.tta else 1
    tested = views * (len(parts.test) + (0 if parts.validation is parts.test else len(parts.validation)))
    return (trained + FORWARD_SHARE * (recipe.epoch_count * len(parts.validation) + tested)) / rate


def epochs_in(prepared: Prepared, rate: float, seconds: float) -> float:
    """Return the number of epochs, with two decimals, that fit into a time with validation and test."""
    low, high = 0.0, 1e5
    while high - low > 0.005:
        middle = (low + high) / 2
        shorter = replace(prepared, recipe=prepared.recipe.model_copy(update={"epochs": middle}))
        fits = expected_seconds(shorter, rate) <= seconds
        low, high = (middle, high) if fits else (low, middle)
    return max(0.01, round(low, 2))


def remarks(prepared: Prepared, chosen: Computation | None) -> Iterator[str]:
    """Say what was measured, what was chosen, and how long the training will take; nothing if nothing was measured."""
    if chosen is None or not chosen.measured:
        return
    texts = (f"{each.precision} {threads_text(each.threads)} {each.images_per_second:,.0f}" for each in chosen.measured)
    yield f"images/s measured: {', '.join(texts)}"
    recipe, rate = prepared.recipe, chosen.images_per_second * prepared.world.size
    seconds = expected_seconds(prepared, rate)
    line = f"chosen: {chosen.precision}, {threads_text(chosen.threads)}; about {duration(seconds)} here"
    if seconds > LONG_SECONDS and not recipe.time_budget:
        fitting = epochs_in(prepared, rate, BUDGET_SHARE * 60 * SHORTER_MINUTES)
        line += f"; --minutes {SHORTER_MINUTES} trains {fitting:g} of {recipe.epochs:g} epochs"
    yield line


def threads_text(number: int) -> str:
    """Return `1 thread`, `2 threads`, …"""
    return f"{number} thread{'s' * (number > 1)}"
