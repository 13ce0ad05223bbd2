"""What surrounds a training: run folder, checkpoints, progress, log, callbacks, signals and other processes.

The loop calls a `Session` at its beginning, after each step, after each epoch and at its end, and knows nothing of what
the session does with that.
"""

import contextlib
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from cifarlab.data.batches import Batch
from cifarlab.device import SLOW_FP16, keep_freed_memory, precision_of
from cifarlab.errors import CifarlabError, Interrupted, Pruned, UsageError, is_out_of_memory, one_line
from cifarlab.inference.weights_file import save_weights
from cifarlab.models import source_file
from cifarlab.parallel import torchrun
from cifarlab.parallel.world import SINGLE, ProcessLost, World
from cifarlab.progress import Task, duration, task
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow, Progress, Results
from cifarlab.training.early_stopping import best_epoch
from cifarlab.training.signals import signals
from cifarlab.training.state import Training, restore, to_checkpoint

SECONDS_BETWEEN_CHECKS = 1.0  # of the loss; on a GPU each waits for the device
STUCK_EPOCHS = 2  # epochs in a row that give all images one class, after which the log warns


@dataclass(frozen=True)
class CheckpointInterval:
    """Distance between the checkpoints within an epoch; every epoch ends with one as well."""

    steps: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> "CheckpointInterval":
        """Return the interval that a text such as `500` (steps), `30s`, `5m` or `2h` stands for.

        Raises:
            UsageError: the text is none of these.
        """
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh]?)", text)
        number = float(match[1]) if match else 0.0
        if match is None or number <= 0 or (not match[2] and not number.is_integer()):
            raise UsageError(f"checkpoint_every must be steps or a time, such as 500, 30s, 5m or 2h, got {text!r}")
        if not match[2]:
            return cls(number, math.inf)
        return cls(math.inf, number * {"s": 1, "m": 60, "h": 3600}[match[2]])


class Session:
    """One sitting of a training in a run folder, from its beginning or last checkpoint to its end or interruption."""

    def __init__(
        self, run: RunFolder, *, world: World = SINGLE, callbacks: Sequence[Any] = (), quiet: bool = False
    ) -> None:
        """Prepare a session; nothing happens before `open`.

        Args:
            run: the folder; only rank 0 touches it.
            world: the processes that train together.
            callbacks: objects with any of `on_train_begin(run)`, `on_epoch_end(run, row)`, `on_train_end(run)`.
            quiet: show no progress.
        """
        self.run = run
        self.world = world
        self.interval = CheckpointInterval.parse(run.record.checkpoint_every)
        self._callbacks = callbacks if world.is_first else ()
        self._quiet = quiet or not world.is_first
        self._stack = contextlib.ExitStack()
        self._received: list[int] = []
        self._progress: Task | None = None
        self._note = ""
        self._epoch_began = self._saved = self._checked = self._seconds_before = 0.0
        self._saved_step = 0

    @contextlib.contextmanager
    def open(self, recipe: Recipe) -> Iterator[None]:
        """Lock the run folder, collect signals, and write into run.json how the training ends if it does not finish."""
        with contextlib.ExitStack() as self._stack:
            if source_file(recipe.model):
                self._stack.enter_context(_own_network(recipe, self.run))
            if self.world.is_first:
                self._stack.enter_context(self.run.lock())
                self._stack.enter_context(_recorded_failure(self.run))
                self.run.ask_to_stop(False)  # forget what was asked of an earlier session
            self._stack.enter_context(_named_process_loss(self.run))
            self._received = self._stack.enter_context(signals())
            self._stack.enter_context(torch.random.fork_rng())
            self._stack.enter_context(deterministic_algorithms(recipe.deterministic))
            keep_freed_memory()
            yield

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Return the run's last checkpoint, the same on all ranks; None for a run that has none yet.

        Raises:
            CifarlabError: every checkpoint is damaged, or a run that has epochs has none.
        """

        def read() -> dict[str, Any] | None:
            checkpoint = self.run.read_checkpoint()
            if checkpoint is None and self.run.history:
                raise CifarlabError(
                    f"{self.run.path / 'checkpoint.pt'} is missing, so the run cannot be resumed. Train it again."
                )
            return checkpoint

        return self.world.call_first(read)

    def restore(self, training: Training, checkpoint: dict[str, Any]) -> None:
        """Put a training where a checkpoint stood.

        Raises:
            CifarlabError: the checkpoint is of another version or network.
        """
        try:
            restore(training, checkpoint)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            path = self.run.path / "checkpoint.pt"
            raise CifarlabError(f"{path} does not fit this version: {one_line(error)[:400]}") from error

    def begin(self, training: Training, protocol: str, images_by_epoch: Sequence[int]) -> None:
        """Say what begins, and show progress from here on.

        Args:
            training: before its first step, or restored.
            protocol: how metrics come about, in one sentence.
            images_by_epoch: number of training images of each epoch.
        """
        recipe = training.recipe
        done = sum(images_by_epoch[: training.epoch]) + training.seen
        progress = task("training", sum(images_by_epoch), quiet=self._quiet, already_done=done)
        self._progress = self._stack.enter_context(progress)
        if recipe.time_budget:
            self._progress.at_most = max(1.0, 60 * recipe.time_budget - training.total_seconds)
        self.say(f"{recipe.name}: {recipe.model} on {recipe.dataset}, seed {recipe.seed}, in {self.run.path}")
        self.say(protocol)
        if precision_of(recipe.precision, training.device) == "fp16" and training.device.type == "cpu":
            self.say(SLOW_FP16)
        if recipe.skip_easy and recipe.epochs < 3:
            self.say("skip_easy has no effect: the first and the last epoch train on all images")
        self.call("on_train_begin")

    def begin_epoch(self, training: Training) -> None:
        """Start the epoch's clock."""
        self.progress.description = f"epoch {training.epoch + 1}/{training.recipe.epochs}"
        self._seconds_before = training.seconds
        self._epoch_began = self._saved = self._checked = self.world.clock()
        self._saved_step, self._note = training.step, ""

    def after_step(self, training: Training, batch: Batch) -> None:
        """Count the step, show progress, check the loss, save now and then, and stop if asked.

        Raises:
            Interrupted: a signal or a request to stop came; everything is saved.
            CifarlabError: the loss is not a number, or the disk is full.
        """
        now = self.world.clock()
        training.step, training.seen = batch.step + 1, training.seen + len(batch.all_indices)
        training.seconds = self._seconds_before + now - self._epoch_began
        self.progress.advance(len(batch.all_indices), lambda: self._note)
        if now - self._checked >= SECONDS_BETWEEN_CHECKS:
            self._checked = now
            self._check_loss(training)
            self._note = self._describe_progress(training)
        if now - self._saved >= self.interval.seconds or training.step - self._saved_step >= self.interval.steps:
            self._saved, self._saved_step = now, training.step
            self.save(training)
        self.stop_if_asked(training)

    def end_steps(self, training: Training) -> None:
        """Check the loss, which on a GPU waits for the last step, and stop the epoch's clock."""
        self._check_loss(training)
        training.seconds = max(training.seconds, self._seconds_before + self.world.clock() - self._epoch_began)

    def after_epoch(self, training: Training, row: EpochRow) -> None:
        """Save weights, history and checkpoint, log the epoch, and call the callbacks."""
        if self.world.is_first:
            about = self.describe_weights(row)
            save_weights(training.evaluated, self.run.path / "last.safetensors", about)
            if best_epoch(training.history) is row:
                save_weights(training.evaluated, self.run.path / "best.safetensors", about)
            self.run.write_history(training.history, training.confusions, training.predicted)
        self.save(training)
        held_out = training.recipe.validate_on
        self.say(
            f"epoch {row.epoch}/{training.recipe.epochs}  loss {row.train_loss:.4f}  "
            f"accuracy {row.train_accuracy:.4f}  {held_out} loss {row.validation_loss:.4f}  "
            f"accuracy {row.validation_accuracy:.4f}  "
            f"{row.images_per_second:,.0f} images/s  {duration(row.train_seconds + row.validation_seconds)}"
        )
        if _stuck_epochs(training) == STUCK_EPOCHS and not training.is_over:
            self.say(
                f"every validation image got the same class {STUCK_EPOCHS} epochs in a row: a network that has learned "
                "nothing by then seldom does; a lower learning rate or another seed may help"
            )
        self.call("on_epoch_end", row)

    def end(self, training: Training) -> None:
        """Say why a training ended early, and warn if it has learned nothing."""
        recipe, epochs = training.recipe, len(training.history)
        if training.is_out_of_time:
            budget = f"the time budget of {recipe.time_budget:g} minutes is spent"
            self.say(f"ended in epoch {epochs} of {recipe.epochs}: {budget}")
        elif epochs < recipe.epochs:
            self.say(f"ended after epoch {epochs} of {recipe.epochs}: no better one for {recipe.patience} epochs")
        if _stuck_epochs(training):
            name = training.classifier.classes[training.confusions[-1].sum(axis=0).argmax()]
            self.say(
                f"the network calls every validation image {name!r} and has learned nothing: try a lower "
                "learning rate, a larger batch or more epochs"
            )

    def finish(self, results: Results, finished: str) -> None:
        """Write the results into run.json."""
        if self.world.is_first:
            self.run.update(status="finished", finished=finished, results=results)
            self.run.drop_older_checkpoint()

    def save(self, training: Training) -> None:
        """Write the checkpoint; all processes must call this together, and rank 0 writes.

        Raises:
            CifarlabError: a weight is not a number, or the disk is full; the older checkpoint is untouched.
        """
        if not all(bool(weight.isfinite().all()) for weight in training.classifier.network.parameters()):
            raise self.divergence(training)
        checkpoint = to_checkpoint(training)
        if self.world.is_first:
            self.run.write_checkpoint(checkpoint)

    def stop_if_asked(self, training: Training) -> None:
        """Save and raise if any process received a signal or somebody asked the run to stop.

        Raises:
            Interrupted: everything is saved.
        """
        received, asked = self._received, self.world.is_first and self.run.is_asked_to_stop
        if not received and asked:
            received.append(signal.SIGTERM)
        self.world.share_signals(received)
        if received:
            self.save(training)
            name = "request" if asked else signal.Signals(received[0]).name
            command = f"cifarlab resume {shlex.quote(str(self.run.path))}"
            raise Interrupted(f"stopped by {name}, everything is saved: go on with: {command}", received[0])

    def divergence(self, training: Training) -> CifarlabError:
        """Return the error for a loss or a weight that is not a number."""
        slower = f"{training.recipe.learning_rate / 10:g}"
        error = CifarlabError(
            f"the loss is not a number any more, in epoch {training.epoch + 1} at step {training.step}; the last good "
            f"state is kept in {self.run.path}: try a lower learning rate, such as --set learning_rate={slower}"
        )
        error.on_all_ranks = True
        return error

    def describe_weights(self, row: EpochRow) -> dict[str, Any]:
        """Return where the weights of an epoch come from, for their file."""
        record = self.run.record
        recipe = record.recipe
        return {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "dataset": recipe.dataset,
            "sha256": record.data.sha256,
            "drop": recipe.drop,
            "merge": recipe.merge,
            "protocol": record.protocol,
            "tta": recipe.tta,
            "origins": record.origins,
            "epoch": row.epoch,
            "validation_accuracy": row.validation_accuracy,
        }

    def call(self, event: str, *arguments: Any) -> None:
        """Call a method of all callbacks that have it, with the run and the arguments."""
        for callback in self._callbacks:
            method: Callable[..., None] | None = getattr(callback, event, None)
            if method is not None:
                method(self.run, *arguments)

    def say(self, line: str) -> None:
        """Show a line and add it to the run's log."""
        self.progress.say(line)
        if self.world.is_first:
            self.run.write_log(line)

    @property
    def progress(self) -> Task:
        """The progress display."""
        assert self._progress is not None, "begin() opens it"
        return self._progress

    def _describe_progress(self, training: Training) -> str:
        """Write progress.json for those who watch the run, and return the text beside the progress bar."""
        seen, rate = max(1, training.seen), training.seen / max(training.seconds, 1e-9)
        if self.world.is_first:
            seconds_left = self.progress.seconds_left()
            self.run.write_progress(
                Progress(epoch=training.epoch + 1, images_per_second=rate, seconds_left=seconds_left)
            )
        total = self.world.total
        loss, correct = float(total(training.loss_sum)) / seen, int(total(training.correct)) / seen
        return f"loss {loss:.3f}  accuracy {correct:.3f}  {rate:,.0f} images/s"

    def _check_loss(self, training: Training) -> None:
        if not math.isfinite(float(self.world.total(training.loss_sum))):
            raise self.divergence(training)


@contextlib.contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Have PyTorch use only algorithms whose bits never vary, or raise an error where there is none."""
    if not enabled:  # setting what is set already imports PyTorch's compiler, which takes seconds
        yield
        return
    algorithms: Any = torch.utils.deterministic
    before, fills = torch.are_deterministic_algorithms_enabled(), algorithms.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
    torch.use_deterministic_algorithms(True)
    algorithms.fill_uninitialized_memory = False  # only useful for debugging, and slow
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        algorithms.fill_uninitialized_memory = fills


@contextlib.contextmanager
def _recorded_failure(run: RunFolder) -> Iterator[None]:
    """Write into run.json how a training ended that did not finish, if the disk allows.

    Raises:
        CifarlabError: there was not enough memory.
    """
    try:
        yield
    except BaseException as error:
        stopped = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        status = "pruned" if isinstance(error, Pruned) else stopped
        no_memory = "not enough memory: a smaller batch_size needs less" if is_out_of_memory(error) else ""
        with contextlib.suppress(CifarlabError):  # a full disk is being reported already
            run.update(status=status, reason=no_memory or str(error) or type(error).__name__)
        if no_memory:
            raise CifarlabError(no_memory) from error
        raise


@contextlib.contextmanager
def _named_process_loss(run: RunFolder) -> Iterator[None]:
    """Name the run and what happens next in the error for a lost process."""
    try:
        yield
    except ProcessLost as error:
        lost = f"another process of {run.name} has ended, and its last checkpoint is kept"
        command = f"go on with: cifarlab resume {shlex.quote(str(run.path))}"
        following = "torchrun starts all processes again" if torchrun.has_restarts_left() else command
        raise ProcessLost(f"{lost}: {following}") from error


@contextlib.contextmanager
def _own_network(recipe: Recipe, run: RunFolder) -> Iterator[None]:
    """Keep stdout for results, and name the network in errors, while a network from the user's file trains."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, SystemExit) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise CifarlabError(f"the training of {recipe.model} failed, and is kept in {run.path}: {reason}") from error


def _stuck_epochs(training: Training) -> int:
    """Return how many of the latest epochs in a row gave every validation image the same class."""
    counts = (np.count_nonzero(confusion.sum(axis=0)) for confusion in reversed(training.confusions))
    return sum(1 for _ in takewhile(lambda count: count == 1 < len(training.classifier.classes), counts))
