"""The one training loop, and resuming.

`train` reads from top to bottom in the order in which data moves. Everything that changes while it runs is in a
`Training`, which goes into the checkpoint; what can interrupt it stands in `_watched`. Random numbers depend on (seed,
epoch, step) alone, so that a training which is cut anywhere and resumed ends with the bits of one that was not.
"""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cifarlab.data import batches
from cifarlab.data.augment import augment
from cifarlab.data.dataset import Dataset
from cifarlab.device import SLOW_FP16, keep_freed_memory, precision_of
from cifarlab.errors import Interrupted
from cifarlab.inference.classifier import Classifier, to_device
from cifarlab.inference.evaluation import Evaluation, evaluate
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.models.layers import dropout
from cifarlab.parallel import batchnorm, world
from cifarlab.progress import Task, duration, task
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder, now
from cifarlab.runs.record import EpochRow, Results
from cifarlab.statistics import metrics
from cifarlab.training import cudagraph
from cifarlab.training.optim import set_learning_rate
from cifarlab.training.signals import deterministic, recorded, signals
from cifarlab.training.state import (
    Interval,
    Parts,
    Training,
    begin,
    diverged,
    restore,
    save,
)

STUCK = 2  # epochs in a row with one answer for all images after which that is said
STUCK_SAYS = (
    f"every validation image got the same answer {STUCK} epochs in a row: what learns nothing seldom begins to; "
    "a lower learning rate or another seed may help"
)
SECONDS_BETWEEN_CHECKS = 1.0  # of the loss; on a GPU each waits for the device


def train(
    recipe: Recipe,
    parts: Parts,
    run: RunFolder,
    device: torch.device,
    callbacks: Sequence[Any] = (),
    quiet: bool = False,
    source: Classifier | None = None,
) -> None:
    """Trains in a run folder, from its checkpoint if it has one, to the end, and tests once.

    Args:
        recipe: what to do.
        parts: from `split_data`.
        run: the folder; its run.json is there.
        device: where to compute.
        callbacks: objects with any of `on_train_begin(run)`, `on_epoch_end(run, row)`, `on_train_end(run)`.
        quiet: show no progress.
        source: weights to start from, see `checkpoint.begin`.

    Raises:
        Interrupted: SIGINT or SIGTERM came; everything is saved.
        CifarlabError: the loss is no number, or the disk is full; the last good state is kept.
    """
    with run.lock(), recorded(run), signals() as received, torch.random.fork_rng(), deterministic(recipe):
        keep_freed_memory()
        run.ask_to_stop(False)  # what was asked of an earlier sitting
        training = restore(run, begin(recipe, parts.train, device, source))
        training.forward = batchnorm.of_all(training.forward)
        images = batches.to_device(parts.train, device)
        step_with = cudagraph.repeated(train_step, training)
        sizes = [images_in_epoch(recipe, len(images), epoch) for epoch in range(recipe.epochs)]
        done = sum(sizes[: training.epoch]) + training.seen
        with task("training", sum(sizes), quiet=quiet, already_done=done) as shown:
            _announce(training, run, parts.protocol, shown)
            _call(callbacks, "on_train_begin", run)
            while not training.is_over():
                world.align((training.classifier.network, training.classifier.preprocess, training.average))
                to_training_mode(training)
                epoch = training.epoch
                order = _order(training, images, sizes[epoch])
                steps = batches.steps_per_epoch(len(training.kept), recipe.batch_size)
                for batch in _watched(training, run, order, received, shown):
                    batches.seed_step(recipe.seed, epoch, batch.step, world.share())
                    set_learning_rate(training.optimizer, recipe, epoch * steps + batch.step, steps)
                    freeze_first(training, epoch * steps + batch.step, steps)
                    step_with(training, batch)
                row = _end_epoch(training, run, parts.validation, received, shown)
                _call(callbacks, "on_epoch_end", run, row)
            for remark in _remarks(training):
                _say(shown, run, remark)
        _finish(training, run, parts, received)
    _call(callbacks, "on_train_end", run)


def _announce(training: Training, run: RunFolder, protocol: str, shown: Task) -> None:
    """Says what begins, and until when."""
    recipe, device = training.recipe, training.device
    if recipe.time_budget:
        shown.at_most = max(1.0, 60 * recipe.time_budget - training.seconds_spent)
    _say(shown, run, f"{recipe.name}: {recipe.model} on {recipe.dataset}, seed {recipe.seed}, in {run.path}")
    _say(shown, run, protocol)
    if precision_of(recipe.precision, device) == "fp16" and device.type == "cpu":
        _say(shown, run, SLOW_FP16)
    if recipe.skip_easy and recipe.epochs < 3:
        _say(shown, run, "skip_easy has no effect: the first and the last epoch train on everything")


def _order(training: Training, images: batches.DeviceImages, size: int) -> Iterator[batches.Batch]:
    """The batches of this epoch that are left, of so many images; an epoch that begins chooses which."""
    recipe, epoch = training.recipe, training.epoch
    if training.step == 0 and size < len(images):
        training.kept = batches.without_easy(world.total(training.losses), recipe.skip_easy, recipe.seed, epoch)
    flips, first = recipe.augment.alternate_flip, training.step
    more: dict[str, Any] = {"alternate_flip": flips, "kept": training.kept, "part": world.share()}
    return batches.batches(images, recipe.batch_size, recipe.seed, epoch, first, **more)


def to_training_mode(training: Training) -> None:
    """Dropout and batch statistics on, but for layers that are frozen."""
    training.classifier.network.train()
    for layer in training.frozen:
        layer.eval()


def freeze_first(training: Training, step: int, steps_per_epoch: int) -> None:
    """Decides whether the first layer trains in a step, counted from the beginning of the training."""
    after = training.recipe.freeze_first
    frozen = bool(after) and step >= after * training.recipe.epochs * steps_per_epoch
    for weight in training.first:
        weight.requires_grad_(not frozen)


def images_in_epoch(recipe: Recipe, images: int, epoch: int) -> int:
    """How many of the training images an epoch trains on, counted from 0; more if few are easy."""
    whole = epoch in (0, recipe.epochs - 1)
    return images if whole else images - round(recipe.skip_easy * images)


def train_step(training: Training, batch: batches.Batch) -> None:
    """One step of the optimizer on one batch, on the training's device."""
    recipe, labels = training.recipe, batch.labels
    inputs = training.classifier.preprocess(batch.images)  # bytes to float [b, 3, h, w]
    inputs = dropout(augment(inputs, **training.augment), recipe.input_dropout)
    with training.autocast:
        logits = training.forward(inputs.contiguous(memory_format=torch.channels_last))  # [b, classes]
        losses = F.cross_entropy(
            logits.float(), labels, training.class_weights, label_smoothing=recipe.label_smoothing, reduction="none"
        )
        loss = losses.mean() if len(labels) == len(batch.whole) else losses.sum() / len(batch.whole)
    for group in training.optimizer.param_groups:  # as zero_grad does, without its tenth of a millisecond
        for weight in group["params"]:
            weight.grad = None
    training.scaler.scale(loss).backward()
    world.sum_gradients(training.optimizer)
    training.scaler.unscale_(training.optimizer)
    training.scaler.step(training.optimizer)  # clips, limits and averages weights too: see checkpoint.begin
    training.scaler.update()
    if recipe.skip_easy:
        if len(labels) < len(batch.whole):  # others know the losses of the others
            training.losses[batch.whole] = 0
        training.losses[batch.which] = losses.detach()
    training.loss_sum += loss.detach().double() * len(batch.whole)
    training.right += (logits.detach().argmax(1) == labels).sum()


def _watched(
    training: Training, run: RunFolder, order: Iterator[batches.Batch], received: list[int], shown: Task
) -> Iterator[batches.Batch]:
    """Passes batches on, and between them looks after everything that is not training.

    Counts, shows progress, checks that the loss is a number, saves now and then, stops when a signal came or the time
    budget is spent.
    """
    recipe = training.recipe
    shown.description = f"epoch {training.epoch + 1}/{recipe.epochs}"
    earlier = training.seconds
    began = saved = checked = world.clock()
    told = ""
    saved_at, every = training.step, Interval.of(run.record.checkpoint_every)
    for batch in order:
        if training.step and training.is_out_of_time:
            break
        yield batch
        moment = world.clock()
        training.step, training.seen = batch.step + 1, training.seen + len(batch.whole)
        training.seconds = earlier + moment - began
        note = partial(str, told) if world.many() else partial(_note, training)
        shown.advance(len(batch.whole), note)
        if moment - checked >= SECONDS_BETWEEN_CHECKS:
            checked = moment
            _check_loss(training, run)
            told = _note(training) if world.many() else ""
            _tell(training, run, shown)
        if moment - saved >= every.seconds or training.step - saved_at >= every.steps:
            saved, saved_at = moment, training.step
            save(training, run)
        _stop_if_asked(training, run, received)
    _check_loss(training, run)  # on a GPU this waits for the last step, so that the seconds are right
    training.seconds = max(training.seconds, earlier + world.clock() - began)


def _end_epoch(training: Training, run: RunFolder, validation: Dataset, received: list[int], shown: Task) -> EpochRow:
    """Validates, writes the epoch down, and gets ready for the next."""
    began = time.monotonic()
    judged = evaluate(
        training.judged,
        validation,
        precision=training.recipe.precision,
        shared=True,
        tick=lambda _: _stop_if_asked(training, run, received),
    )
    if not math.isfinite(judged.loss):
        raise diverged(training, run)
    row = EpochRow(
        epoch=training.epoch + 1,
        learning_rate=training.optimizer.param_groups[0]["lr"],
        train_loss=float(world.total(training.loss_sum)) / training.seen,
        train_accuracy=int(world.total(training.right)) / training.seen,
        validation_loss=judged.loss,
        validation_accuracy=judged.accuracy,
        train_seconds=training.seconds,
        validation_seconds=time.monotonic() - began,
        images_per_second=training.seen / max(training.seconds, 1e-9),
    )
    training.history.append(row)
    training.confusions.append(judged.confusion)
    training.predicted.append(judged.logits.argmax(axis=1).astype(np.min_scalar_type(judged.logits.shape[1] - 1)))
    training.epoch, training.step, training.seen, training.seconds = training.epoch + 1, 0, 0, 0.0
    training.loss_sum.zero_(), training.right.zero_()
    training.kept = torch.arange(len(training.losses), device=training.device)
    about = _about(run, row)
    save_weights(training.judged, run.path / "last.safetensors", about)
    if training.best is row:
        save_weights(training.judged, run.path / "best.safetensors", about)
    run.write_history(training.history, training.confusions, training.predicted)
    save(training, run)
    _say(
        shown,
        run,
        f"epoch {row.epoch}/{training.recipe.epochs}  loss {row.train_loss:.4f}  accuracy {row.train_accuracy:.4f}  "
        f"{run.held_out} loss {row.validation_loss:.4f}  accuracy {row.validation_accuracy:.4f}  "
        f"{row.images_per_second:,.0f} images/s  {duration(row.train_seconds + row.validation_seconds)}",
    )
    if _stuck_for(training) == STUCK and not training.is_over():
        _say(shown, run, STUCK_SAYS)
    return row


def _remarks(training: Training) -> list[str]:
    """What is to be said of how a training ended, if anything."""
    recipe, epochs = training.recipe, len(training.history)
    found = []
    if training.is_out_of_time:
        found.append(
            f"ended in epoch {epochs} of {recipe.epochs}: the time budget of {recipe.time_budget:g} minutes is spent"
        )
    elif epochs < recipe.epochs:
        found.append(f"ended after epoch {epochs} of {recipe.epochs}: no better one for {recipe.patience} epochs")
    if _stuck_for(training):
        name = training.classifier.classes[training.confusions[-1].sum(axis=0).argmax()]
        found.append(
            f"it calls every validation image {name!r} and has learned nothing: try a lower learning rate, a larger "
            "batch or more epochs"
        )
    return found


def _stuck_for(training: Training) -> int:
    """How many of the latest epochs, without a gap, gave every validation image the same answer."""
    answers = (np.count_nonzero(confusion.sum(axis=0)) for confusion in reversed(training.confusions))
    return sum(1 for _ in takewhile(lambda count: count == 1 < len(training.classifier.classes), answers))


def _finish(training: Training, run: RunFolder, parts: Parts, received: list[int]) -> None:
    """Fits the kept weights' temperature on the validation images, tests them, once, and writes the results."""
    recipe, history = training.recipe, training.history
    kept = training.best if recipe.keep == "best" else history[-1]
    assert kept is not None  # a recipe has at least one epoch
    classifier = load_weights(run.weights)
    to_device(classifier, training.device)
    about = _about(run, kept)

    def judge(images: Dataset) -> Evaluation:
        return evaluate(
            classifier,
            images,
            tta=recipe.tta,
            shared=True,
            tick=lambda _: _stop_if_asked(training, run, received),
        )

    if parts.validation is not parts.test:  # a temperature fitted on the test images would flatter them
        held_out = judge(parts.validation)
        about["temperature"] = metrics.temperature(held_out.logits, held_out.labels)
    judged = judge(parts.test)
    scaled = (judged.logits / about.get("temperature", 1.0)).astype(np.float32)
    run.write_predictions(judged.logits, judged.labels)
    save_weights(classifier, run.weights, about | {"test_accuracy": judged.accuracy})
    seconds = sum(row.train_seconds for row in history)
    run.update(
        status="finished",
        finished=now(),
        results=Results(
            epochs=len(history),
            stopped_early=len(history) < recipe.epochs,
            kept_epoch=kept.epoch,
            validation_accuracy=kept.validation_accuracy,
            validation_loss=kept.validation_loss,
            test_accuracy=judged.accuracy,
            test_loss=judged.loss,
            calibration_error=judged.calibration_error,
            temperature=about.get("temperature"),
            scaled_calibration_error=metrics.calibration_error(scaled, judged.labels),
            tta=recipe.tta,
            train_seconds=seconds,
            validation_seconds=sum(row.validation_seconds for row in history),
            images_per_second=sum(row.images_per_second * row.train_seconds for row in history) / max(seconds, 1e-9),
        ),
    )
    run.drop_older_checkpoint()


def _about(run: RunFolder, row: EpochRow) -> dict[str, Any]:
    """Where weights come from, for their file."""
    recipe, data = run.record.recipe, run.record.data
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "dataset": recipe.dataset,
        "sha256": data.sha256,
        "drop": recipe.drop,
        "merge": recipe.merge,
        "protocol": run.record.protocol,
        "tta": recipe.tta,
        "origins": run.record.origins,
        "epoch": row.epoch,
        "validation_accuracy": row.validation_accuracy,
    }


def _say(shown: Task, run: RunFolder, line: str) -> None:
    shown.say(line)
    run.write_log(line)


def _tell(training: Training, run: RunFolder, shown: Task) -> None:
    """Leaves word in the run's folder of how far it is."""
    speed = training.seen / max(training.seconds, 1e-9)
    run.write_progress(epoch=training.epoch + 1, images_per_second=speed, seconds_left=shown.seconds_left())


def _note(training: Training) -> str:
    seen = max(1, training.seen)
    rate = training.seen / max(training.seconds, 1e-9)
    loss, right = float(world.total(training.loss_sum)), int(world.total(training.right))
    return f"loss {loss / seen:.3f}  accuracy {right / seen:.3f}  {rate:,.0f} images/s"


def _check_loss(training: Training, run: RunFolder) -> None:
    if not math.isfinite(float(world.total(training.loss_sum))):
        raise diverged(training, run)


def _stop_if_asked(training: Training, run: RunFolder, received: list[int]) -> None:
    if not received and run.is_asked_to_stop:
        received.append(signal.SIGTERM)
    world.share_signals(received)
    if received:
        save(training, run)
        name = "request" if run.is_asked_to_stop else signal.Signals(received[0]).name
        raise Interrupted(
            f"stopped by {name}, everything is saved: go on with: cifarlab resume {shlex.quote(str(run.path))}",
            received[0],
        )


def _call(callbacks: Sequence[Any], event: str, *arguments: Any) -> None:
    for callback in callbacks:
        method: Callable[..., None] | None = getattr(callback, event, None)
        if method is not None:
            method(*arguments)
