"""The training loop.

`fit` reads from top to bottom in the order in which data moves: epochs, batches, step, validation, test. `session` has
what surrounds a training, `state` what changes in it. Random numbers depend on (seed, epoch, step) alone, so that a
training which is cut anywhere and resumed ends with the bits of one that was not.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifarlab.data import batches
from cifarlab.data.augment import augment, distort, resized
from cifarlab.data.augment.mixing import Mixed, mix
from cifarlab.data.dataset import Dataset, Parts
from cifarlab.device import keep_freed_memory
from cifarlab.inference.classifier import to_device
from cifarlab.inference.evaluation import evaluate
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.models.layers import dropout
from cifarlab.parallel.world import SINGLE
from cifarlab.runs.record import Computation, EpochRow, Results
from cifarlab.statistics import metrics
from cifarlab.training import speed
from cifarlab.training.cudagraph import record_step
from cifarlab.training.early_stopping import FALLING
from cifarlab.training.optim import set_learning_rate
from cifarlab.training.preparation import Prepared
from cifarlab.training.session import Session
from cifarlab.training.sharpness import at_the_sharpest
from cifarlab.training.state import Training, average_epoch, begin, measure_batch_statistics


def fit(prepared: Prepared, session: Session) -> None:
    """Train in the session's run folder, from its checkpoint if it has one, to the end, and test once.

    A signal raises Interrupted, with everything saved. Any other error keeps the last good state.
    """
    recipe, parts = prepared.recipe, prepared.parts
    with session.open(prepared) as training:
        images = batches.to_device(parts.train, training.device)
        session.measure = partial(speed.measure, training, one_step(training, images))
        step = record_step(train_step, training)
        if prepared.starts_trained and recipe.validate_on == "validation":
            session.after_start(training, validate_start(training, parts.validation))
        while not training.is_over:
            order = begin_epoch(training, images)
            session.begin_epoch(training)
            for batch in order:
                if training.step and training.is_out_of_time:
                    break
                prepare_step(training, batch)
                step(training, batch)
                session.after_step(training, batch)
            average_epoch(training)
            measure_batch_statistics(training, parts.train.images)
            session.end_steps(training)
            row = end_epoch(training, parts.validation, session)
            session.after_epoch(training, row)
        session.finish(test(training, parts, session))


def validate_start(training: Training, validation: Dataset) -> EpochRow:
    """Validate the weights that a fine-tuning starts from, and return them as epoch 0."""
    began, precision, world = time.monotonic(), training.precision, training.world
    evaluation = evaluate(training.evaluated, validation, precision=precision, world=world)
    seconds = time.monotonic() - began
    return EpochRow(0, 0.0, 0.0, 0.0, evaluation.loss, evaluation.accuracy, 0.0, seconds, 0.0)  # not trained: zeros


def settle(prepared: Prepared, minutes: float = 0.0, began: float | None = None, *, always: bool = False) -> Prepared:
    """Measure how the processor trains fastest and, where `minutes` are given, how many epochs fit into them.

    Nothing else of the training changes. Without `minutes`, trainings of seconds and those on a GPU are not measured.

    Args:
        prepared: the training.
        minutes: time for training, validation and test, of which the recipe's `epochs` and `time_budget` are made; 0
            leaves both as they are.
        began: when this time began, by the monotonic clock; by default now.
        always: measure short trainings too, and those that leave no choice.
    """
    began, recipe = began or time.monotonic(), prepared.recipe
    allowed = speed.choices(recipe, prepared.device)
    is_worth_it = always or minutes or (len(allowed) > 1 and not speed.is_short(prepared))
    if not is_worth_it or (prepared.device.type != "cpu" and not minutes):
        return prepared
    keep_freed_memory()

    def measure() -> Computation:
        training = begin(replace(prepared, world=SINGLE), fit_layers=False)
        images = batches.to_device(prepared.parts.train, training.device)
        return speed.computation(speed.measure(training, one_step(training, images), allowed))

    computed = prepared.world.call_first(measure)
    if minutes:
        left = speed.BUDGET_SHARE * 60 * minutes - (time.monotonic() - began)
        rate = computed.images_per_second * prepared.world.size
        epochs = speed.epochs_in(prepared, rate, left)
        recipe = recipe.changed({"epochs": epochs, "time_budget": minutes})
    return replace(prepared, recipe=recipe, computed=(computed,))


def one_step(training: Training, images: batches.DeviceImages) -> Callable[[int], None]:
    """Return a function that takes a training step with this number of images, for measuring."""
    epochs = (epoch_batches(training, images, epoch) for epoch in count(training.epoch))
    endless = chain.from_iterable(epochs)

    def step(size: int) -> None:
        batch = next(endless)
        while len(batch.indices) < size:  # the last batch of an epoch may be smaller
            batch = next(endless)
        set_training_mode(training)
        prepare_step(training, batch)
        training.size = training.recipe.size  # rates count full images
        train_step(training, batch.first(size))

    return step


def begin_epoch(training: Training, images: batches.DeviceImages) -> Iterator[batches.Batch]:
    """Return the epoch's remaining batches. At the start of an epoch, first choose which images it uses."""
    recipe, world = training.recipe, training.world
    world.copy_from_first((training.classifier.network, training.classifier.preprocess, training.average))
    set_training_mode(training)
    is_between = 0 < training.epoch < recipe.epoch_count - 1
    if training.step == 0 and recipe.skip_easy and is_between:
        losses = world.total(training.losses)
        training.epoch_images = batches.without_easy(losses, recipe.skip_easy, recipe.seed, training.epoch)
    training.steps_per_epoch = batches.steps_per_epoch(len(training.epoch_images), recipe.batch_size)
    steps = math.ceil(training.steps_per_epoch * min(1.0, recipe.epochs - training.epoch))
    return islice(epoch_batches(training, images, training.epoch, training.step), max(0, steps - training.step))


def epoch_batches(
    training: Training, images: batches.DeviceImages, epoch: int, first: int = 0
) -> Iterator[batches.Batch]:
    """Cut an epoch, counted from 0, into batches in its own random order, beginning with the batch number `first`."""
    size, seed, flip = training.recipe.batch_size, training.recipe.seed, training.recipe.augment.alternate_flip
    kept, part = training.epoch_images, (training.world.rank, training.world.size)
    return batches.batches(images, size, seed, epoch, first, alternate_flip=flip, kept=kept, part=part)


def set_training_mode(training: Training) -> None:
    """Switch dropout and batch statistics on, except in layers that are frozen."""
    training.classifier.network.train()
    for layer in training.frozen:
        layer.eval()


def prepare_step(training: Training, batch: batches.Batch) -> None:
    """Seed the step's random numbers, set its learning rate and image size, and freeze the first layer in time."""
    recipe, world = training.recipe, training.world
    batches.seed_step(recipe.seed, training.epoch, batch.step, (world.rank, world.size))
    step, steps = training.epoch * training.steps_per_epoch + batch.step, recipe.epochs * training.steps_per_epoch
    if recipe.time_budget and recipe.schedule in FALLING:  # whichever ends first, so that the schedule ends in time
        step = max(step, int(steps * min(1.0, training.total_seconds / (60 * recipe.time_budget))))
    steps_done = training.earlier_steps + batch.step if recipe.schedule == "inverse-time" else step
    set_learning_rate(training.optimizer, recipe, steps_done, training.steps_per_epoch)
    training.size = recipe.size_at(step / steps)
    for weight in training.first_layer:
        weight.requires_grad_(not (recipe.freeze_first and step >= recipe.freeze_first * steps))


def train_step(training: Training, batch: batches.Batch) -> None:
    """Take one optimizer step on one batch, which is on the training's device."""
    recipe = training.recipe
    inputs = training.classifier.preprocess(distort(batch.images, recipe.augment))  # bytes to float [b, channels, h, w]
    inputs = resized(augment(inputs, recipe.augment), training.size)
    mixed = mix(inputs, batch.labels, recipe.augment)
    inputs = dropout(inputs if mixed is None else mixed.images, recipe.input_dropout)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    logits, losses, loss = backward(training, batch, inputs, mixed)
    if recipe.sam:
        with at_the_sharpest(training):
            backward(training, batch, inputs, mixed)
    training.world.sum_gradients(training.optimizer)
    training.scaler.unscale_(training.optimizer)
    training.scaler.step(training.optimizer)  # its hooks clip gradients, limit and average weights
    training.scaler.update()
    training.remember_losses(training, batch, losses)
    training.loss_sum += loss.double() * len(batch.all_indices)
    training.correct += (logits.argmax(1) == batch.labels).sum()


def backward(
    training: Training, batch: batches.Batch, inputs: Tensor, mixed: Mixed | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of a batch's mean loss, and return its logits [b, classes], losses [b] and mean loss."""
    with training.autocast:
        logits = training.forward(inputs)
        cross_entropy = partial(
            F.cross_entropy,
            logits.float(),
            weight=training.class_weights,
            label_smoothing=training.recipe.label_smoothing,
            reduction="none",
        )
        losses = cross_entropy(target=batch.labels)
        if mixed is not None:
            losses = mixed.share * losses + (1 - mixed.share) * cross_entropy(target=mixed.others)
        loss = batch.mean(losses)
    for group in training.optimizer.param_groups:  # as zero_grad does, without its tenth of a millisecond
        for weight in group["params"]:
            weight.grad = None
    training.scaler.scale(loss).backward()
    return logits.detach(), losses.detach(), loss.detach()


def end_epoch(training: Training, validation: Dataset, session: Session) -> EpochRow:
    """Validate, add the epoch to the history, and set the counters for the next one."""
    began, precision, world = time.monotonic(), training.precision, training.world
    evaluation = evaluate(
        training.evaluated, validation, precision=precision, world=world, tick=lambda _: session.stop_if_asked(training)
    )
    session.check(training, math.isfinite(evaluation.loss))
    row = EpochRow(
        epoch=training.epoch + 1,
        learning_rate=training.optimizer.param_groups[0]["lr"],
        train_loss=float(world.total(training.loss_sum)) / training.seen,
        train_accuracy=int(world.total(training.correct)) / training.seen,
        validation_loss=evaluation.loss,
        validation_accuracy=evaluation.accuracy,
        train_seconds=training.seconds,
        validation_seconds=time.monotonic() - began,
        images_per_second=training.seen / max(training.seconds, 1e-9),
    )
    training.history.append(row)
    smallest = np.min_scalar_type(evaluation.logits.shape[1] - 1)
    training.predicted.append(evaluation.logits.argmax(axis=1).astype(smallest))
    training.earlier_steps += training.step
    training.epoch, training.step, training.seen, training.seconds = training.epoch + 1, 0, 0, 0.0
    training.loss_sum.zero_(), training.correct.zero_()
    training.epoch_images = torch.arange(len(training.losses), device=training.device)
    return row


def test(training: Training, parts: Parts, session: Session) -> Results:
    """Test the kept weights once on the test images, write predictions and weights, and return the results.

    Their temperature is fitted on the validation images before, unless these are the test images.
    """
    recipe, history = training.recipe, training.history
    kept = history[-1] if recipe.keep == "last" else training.kept
    assert kept is not None  # a recipe has at least one epoch
    about: dict[str, Any] = session.describe_weights(kept)
    is_first = session.world.is_first
    classifier = load_weights(session.run.weights) if is_first else copy.deepcopy(training.evaluated)
    if is_first:
        session.run.check_identity(session.run.weights, classifier.about)
    to_device(classifier, training.device)
    session.world.copy_from_first((classifier.network, classifier.preprocess))  # only rank 0 has read the file
    evaluate_kept = partial(
        evaluate, classifier, tta=recipe.tta, world=training.world, tick=lambda _: session.stop_if_asked(training)
    )
    if parts.validation is not parts.test:  # else it would make the calibration error on them look too good
        held_out = evaluate_kept(parts.validation)
        about["temperature"] = metrics.temperature(held_out.logits, held_out.labels)
    evaluation = evaluate_kept(parts.test)
    scaled = (evaluation.logits / about.get("temperature", 1.0)).astype(np.float32)
    if is_first:
        session.run.write_predictions(evaluation.logits, evaluation.labels)
        save_weights(classifier, session.run.weights, about | {"test_accuracy": evaluation.accuracy})
    seconds = sum(row.train_seconds for row in history)
    return Results(
        epochs=len(history),
        stopped_early=len(history) < recipe.epochs,
        stopped_by_callback=training.is_stopped,
        kept_epoch=kept.epoch,
        validation_accuracy=kept.validation_accuracy,
        validation_loss=kept.validation_loss,
        test_accuracy=evaluation.accuracy,
        test_loss=evaluation.loss,
        test_top5_accuracy=evaluation.top5_accuracy,
        test_coarse_accuracy=evaluation.coarse_accuracy,
        calibration_error=evaluation.calibration_error,
        temperature=about.get("temperature"),
        scaled_calibration_error=metrics.calibration_error(scaled, evaluation.labels),
        tta=recipe.tta,
        train_seconds=seconds,
        validation_seconds=sum(row.validation_seconds for row in history),
        images_per_second=sum(row.images_per_second * row.train_seconds for row in history) / max(seconds, 1e-9),
    )
