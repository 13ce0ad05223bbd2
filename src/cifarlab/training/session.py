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
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch

from cifarlab import files
from cifarlab.data.batches import Batch
from cifarlab.device import SLOW_FP16, Choice, keep_freed_memory, keep_threads
from cifarlab.errors import CifarlabError, Interrupted, Pruned, UsageError, is_out_of_memory, one_line, unknown
from cifarlab.inference import weights_file
from cifarlab.models.own_networks import keep_source, repetition_note, source_file
from cifarlab.parallel import torchrun
from cifarlab.parallel.world import SINGLE, ProcessLost, World
from cifarlab.progress import Stderr, duration, task
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import Computation, EpochRow, Progress, Rate, Results, TrainedOn
from cifarlab.training import speed
from cifarlab.training.early_stopping import FEW_VALIDATION_IMAGES, best_epoch
from cifarlab.training.preparation import Prepared
from cifarlab.training.signals import signals
from cifarlab.training.state import Training, begin, restore, to_checkpoint

EVENTS = ("on_train_begin", "on_batch_end", "on_epoch_end", "on_train_end", "on_train_stop")  # of callbacks
SECONDS_BETWEEN_CHECKS = 1.0  # of the loss; on a GPU each waits for the device
SECONDS_BETWEEN_LOOKS = 0.05  # at files by which a training is asked to stop; steps of small networks take less
SHARE_OF_TIME = 0.05  # of a training, which writing weights, history and checkpoint after epochs may take
SECONDS_OF_SLOWNESS = 20.0  # at less than half of the measured rate, before precision and threads are measured again
SECONDS_BETWEEN_MEASURINGS = 150.0  # of which measuring takes three
STUCK_EPOCHS = 2  # epochs in a row that give all images one class, after which the log warns


def parse_interval(text: str) -> tuple[float, float]:
    """Return the steps and the seconds between checkpoints, one of them infinite, for `500`, `30s`, `5m` or `2h`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh]?)", text)
    number, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if number <= 0 or (not unit and not number.is_integer()):
        raise UsageError(f"--checkpoint-every must be steps or a time, such as 500, 30s, 5m or 2h, got {text!r}")
    return (math.inf, number * {"s": 1, "m": 60, "h": 3600}[unit]) if unit else (number, math.inf)


def check_callbacks(callbacks: object) -> None:
    """Raise UsageError unless this is a list of objects with any of the methods `EVENTS`, and no other `on_…`."""
    is_list = isinstance(callbacks, list | tuple)
    for callback in callbacks if isinstance(callbacks, list | tuple) else [callbacks]:
        names = {*EVENTS, *dir(callback)}  # `__getattr__` may have events that `dir` does not list
        methods = [name for name in names if name.startswith("on_") and callable(getattr(callback, name, None))]
        for name in methods:
            if name not in EVENTS:
                raise unknown(f"method of the callback {type(callback).__name__}", name, EVENTS)
        if not is_list or not methods or isinstance(callback, type):
            raise UsageError(f"callbacks should be a list of objects with any of {', '.join(EVENTS)}, got {callback!r}")


class Session:
    """One sitting of a training in a run folder, from its beginning or last checkpoint to its end or interruption.

    Only rank 0 touches the folder, shows progress and calls the callbacks: objects with any of `on_train_begin(run)`,
    `on_batch_end(run, epoch, step)`, both counted from 1, `on_epoch_end(run, row)`, `on_train_end(run)` and, if it
    stops before, `on_train_stop(run)`.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        world: World = SINGLE,
        callbacks: Sequence[Any] = (),
        quiet: bool = False,
        adapts: bool = True,
    ) -> None:
        """Surround a training of this run; if it `adapts`, its precision and threads may change with the load."""
        self.run = run
        self.measure: Callable[[Sequence[Choice], float], tuple[Rate, ...]]  # the training's speed, on its own images
        self.world = world
        self._steps_between, self._seconds_between = parse_interval(run.record.checkpoint_every)
        self._callbacks, self._failed = callbacks if world.is_first else (), list[Any]()
        # Callbacks of the user's own may read the files of the run.
        self._saves_every_epoch = any(not getattr(callback, "is_optional", False) for callback in callbacks)
        self._expected: Computation | None = None
        self._computed: list[Computation] = []  # choices of this or the repeated run that are still to come
        self._new, self._slow_seconds = 0.0, 0.0  # work since the last check; how long the training has been slow
        self._next_look = -math.inf  # time from which on files are looked at for a request to stop
        self._next_save, self._weights = -math.inf, dict[str, bytes]()  # weights files that are not written yet
        self._quiet = quiet or not world.is_first
        self._adapts = adapts and world.size == 1

    @contextlib.contextmanager
    def open(self, prepared: Prepared) -> Iterator[Training]:
        """Begin a training, or restore it from the run's checkpoint, and show progress over the images of each epoch.

        The run folder is locked, signals are collected, and run.json says how the training ends, also if it fails.
        """
        recipe = prepared.recipe
        with contextlib.ExitStack() as stack:
            if source_file(recipe.model):
                stack.enter_context(contextlib.redirect_stdout(Stderr()))  # stdout is for results
            if self.world.is_first:
                stack.enter_context(self.run.lock())
                self.run.ask_to_stop(False)  # forget what was asked of an earlier session
            stack.enter_context(self._recorded_failure(recipe.model))
            self._received = stack.enter_context(signals())
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(keep_threads())
            stack.enter_context(deterministic_algorithms(recipe.deterministic))
            keep_freed_memory()
            self._choices = speed.choices(recipe, prepared.device)
            training = self._start(prepared)
            self._costs, work = prepared.costs, speed.work_by_epoch(prepared)
            done = work[: training.epoch].sum() + training.seen * self._cost(training)
            self.progress = stack.enter_context(
                task("training", round(work.sum()), quiet=self._quiet, already_done=done)
            )
            if recipe.time_budget:
                self.progress.at_most = max(1.0, 60 * recipe.time_budget - training.total_seconds)
            self.say(f"{recipe.name}: {recipe.model} on {recipe.dataset}, seed {recipe.seed}, in {self.run.path}")
            for line in self._remarks(prepared, training):
                self.say(line)
            self._call("on_train_begin")
            yield training
        self._call("on_train_end")

    def _remarks(self, prepared: Prepared, training: Training) -> Iterator[str]:
        """Say how the results come about, and what of the settings may surprise."""
        recipe, count = prepared.recipe, len(prepared.parts.validation)
        protocol = self.run.record.protocol
        yield "warning: " * protocol.startswith("not honest") + protocol
        yield from filter(None, [repetition_note(recipe.model)])
        if training.keeps_best and count < FEW_VALIDATION_IMAGES:
            yield f"only {count} validation images choose the best epoch, mostly by luck: try --set keep=last"
        elif recipe.keep != "last" and not training.keeps_best:
            yield f"only {count} validation images: the last epoch is kept, as the best would be mostly luck"
        yield from (f"warning: {text}" for text in prepared.warnings)
        if training.epoch == training.step == 0:
            yield from speed.remarks(prepared, self._expected)
        precision = training.precision
        if precision == "fp16" and training.device.type == "cpu":
            yield SLOW_FP16
        if precision != "fp32" and recipe.validate_on == "test":
            yield f"tests after each epoch use {precision} and the final test fp32: last digits may differ"
        if recipe.skip_easy and recipe.epochs < 3:
            yield "skip_easy has no effect: the first and the last epoch train on all images"

    def _start(self, prepared: Prepared) -> Training:
        """Return the training, restored from the last checkpoint. Without one, save a new training as the first."""
        path = self.run.path / "checkpoint.pt"

        def read() -> dict[str, Any] | None:
            checkpoint = self.run.read_checkpoint()
            if checkpoint is None and self.run.history:
                raise CifarlabError(f"{path} is missing, so the run cannot be resumed. Train it again.")
            self.run.check_identity(path, checkpoint or {})
            return checkpoint

        checkpoint = self.world.call_first(read)
        training = begin(prepared, fit_layers=checkpoint is None)
        # How the training begins, until its checkpoint is restored and shows how far it is.
        self._computed = list(self.world.call_first(lambda: self.run.record.computed))
        if not self._computed and prepared.recipe.threads != "auto":
            torch.set_num_threads(prepared.recipe.threads)
        self._follow(training)
        if self.world.is_first:
            self.run.update(status="running", reason="", environment=prepared.environment, sums={})
        if checkpoint is None:
            if self.world.is_first:
                keep_source(prepared.recipe.model, self.run.path / "network")
            self.save(training)
            return training
        try:
            restore(training, checkpoint)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CifarlabError(f"{path} does not fit this version: {one_line(error)[:400]}") from error
        self._follow(training)
        return training

    def _follow(self, training: Training) -> None:
        """Compute as run.json says for the training's place, which another sitting or the repeated run has chosen."""
        while self._computed and (self._computed[0].epoch, self._computed[0].step) <= (training.epoch, training.step):
            self._expected = self._computed.pop(0)
            speed.compute_with(training, self._expected.precision, self._expected.threads)

    def after_start(self, training: Training, row: EpochRow) -> None:
        """Keep the weights that a fine-tuning starts from as those of epoch 0, and log how good they are."""
        training.start = row
        if self.world.is_first:
            about = self.describe_weights(row)
            weights_file.save_weights(training.evaluated, self.run.path / "best.safetensors", about)
        self.save(training)
        figures = f"validation loss {row.validation_loss:.4f}  accuracy {row.validation_accuracy:.4f}"
        self.say(f"epoch 0/{training.recipe.epoch_count}  before any training: {figures}")

    def begin_epoch(self, training: Training) -> None:
        """Start the epoch's clock."""
        self._place = f"epoch {training.epoch + 1}/{training.recipe.epoch_count}"
        self._seconds_before = training.seconds
        self._epoch_began = self._saved = self._checked = self.world.clock()
        self._saved_step, self._note, self._new = training.step, "", 0.0
        self._next_look = -math.inf  # a callback may have asked the training to stop

    def after_step(self, training: Training, batch: Batch) -> None:
        """Count the step, show progress, check the loss, save now and then, and stop if asked."""
        now = self.world.clock()
        work = len(batch.all_indices) * self._cost(training)
        self._new += work
        training.step, training.seen = batch.step + 1, training.seen + len(batch.all_indices)
        training.seconds = self._seconds_before + now - self._epoch_began
        self.progress.advance(work, lambda: self._place + self._note)
        if now - self._checked >= SECONDS_BETWEEN_CHECKS:
            seconds, done, self._checked, self._new = now - self._checked, self._new, now, 0.0
            loss_sum, correct = (float(self.world.total(value)) for value in (training.loss_sum, training.correct))
            self.check(training, math.isfinite(loss_sum))
            seen, rate = max(1, training.seen), training.seen / max(training.seconds, 1e-9)
            self._note = f"  loss {loss_sum / seen:.3f}  accuracy {correct / seen:.3f}  {rate:,.0f} images/s"
            if self.world.is_first:
                left = self.progress.seconds_left()
                progress = Progress(epoch=training.epoch + 1, images_per_second=rate, seconds_left=left)
                self.run.write_progress(progress)
            self._adapt(training, done / seconds, seconds)
        if now - self._saved >= self._seconds_between or training.step - self._saved_step >= self._steps_between:
            self._saved, self._saved_step = now, training.step
            self.save(training)
        self._call("on_batch_end", training.epoch + 1, training.step)
        self.stop_if_asked(training)
        if self._computed:
            self._follow(training)

    def _cost(self, training: Training) -> float:
        """Return the arithmetic of an image of the latest step; a full-size one counts as 1."""
        return self._costs.get(training.size, 1.0)

    def _adapt(self, training: Training, rate: float, seconds: float) -> None:
        """Count the seconds of slowness; after some, measure again and go on with what is fastest now."""
        expected = self._expected
        if expected is None or not self._adapts or self._computed or len(self._choices) < 2:
            return
        best = max(computed.images_per_second for computed in self.run.record.computed)
        self._slow_seconds = self._slow_seconds + seconds if rate < best / 2 else 0.0
        if self._slow_seconds < SECONDS_OF_SLOWNESS:
            return
        began = self.world.clock()
        rates = self.measure(self._choices, speed.MEASURING_SECONDS)
        again = speed.computation(rates, training.epoch, training.step)
        if (again.precision, again.threads) != (expected.precision, expected.threads):
            speed.compute_with(training, again.precision, again.threads)
            self._expected = again
            self.run.update(computed=(*self.run.record.computed, again))
            seen = f"{best:,.0f} images/s were measured and {rate:,.0f} are reached"
            self.say(f"{seen}: {again.precision}, {speed.threads_text(again.threads)} from here on")
        self._checked = self.world.clock()
        self._epoch_began += self._checked - began
        self._slow_seconds = SECONDS_OF_SLOWNESS - SECONDS_BETWEEN_MEASURINGS

    def end_steps(self, training: Training) -> None:
        """Check the loss, which on a GPU waits for the last step, and stop the epoch's clock."""
        self.check(training, math.isfinite(float(self.world.total(training.loss_sum))))
        training.seconds = max(training.seconds, self._seconds_before + self.world.clock() - self._epoch_began)

    def after_epoch(self, training: Training, row: EpochRow) -> None:
        """Save the epoch, log it and why the training ends, and call the callbacks.

        Epochs shorter than writing takes are saved with a later one, at the latest when the training ends.
        """
        if self.world.is_first:
            content = weights_file.to_bytes(training.evaluated, self.describe_weights(row))
            self._weights["last.safetensors"] = content
            if training.kept is row:
                self._weights["best.safetensors"] = content
        now = self.world.clock()
        if self._saves_every_epoch or now >= self._next_save or training.is_over:
            self.save(training)
            ended = self.world.clock()
            self._next_save = ended + (ended - now) / SHARE_OF_TIME
        recipe = training.recipe
        self.say(
            f"epoch {row.epoch}/{recipe.epoch_count}  loss {row.train_loss:.4f}  accuracy {row.train_accuracy:.2%}  "
            f"{recipe.validate_on} {row.validation_loss:.4f}, {row.validation_accuracy:.2%}  "
            f"{duration(row.train_seconds + row.validation_seconds)}"  # at most 80 letters in all
        )
        stuck = _stuck_epochs(training)
        if training.is_out_of_time:
            budget = f"the time budget of {recipe.time_budget:g} minutes is spent"
            self.say(f"ended in epoch {row.epoch} of {recipe.epoch_count}: {budget}")
        elif training.is_over and row.epoch < recipe.epoch_count:
            reason = f"no better one for {recipe.patience} epochs"
            self.say(f"ended after epoch {row.epoch} of {recipe.epoch_count}: {reason}")
        if stuck and training.is_over:
            name = training.classifier.classes[training.predicted[-1][0]]
            best, since = best_epoch(training.history), row.epoch - stuck + 1
            end = "and has learned nothing: try a lower learning rate, a larger batch or more epochs"
            if training.keeps_best and best is not None and best.epoch < since:
                end = f"since epoch {since}: the weights of epoch {best.epoch} are kept; try a lower learning rate"
            right = f"which is right for {row.validation_accuracy:.1%}"
            self.say(f"the network calls every {recipe.validate_on} image {name!r}, {right}, {end}")
        elif stuck == STUCK_EPOCHS:
            said = f"every {recipe.validate_on} image got the same class {STUCK_EPOCHS} epochs in a row"
            self.say(f"{said}: such a network seldom learns; try a lower learning rate or another seed")
        self._call("on_epoch_end", row)
        if not training.is_over and self.world.call_first(lambda: self.run.is_stopped):
            training.is_stopped = True
            if self.world.is_first and training.kept is row:  # which few images choose at the end only
                self._weights["best.safetensors"] = content
            self.save(training)
            self.say(f"ended after epoch {row.epoch} of {recipe.epoch_count}: a callback stopped the training")

    def finish(self, results: Results) -> None:
        """Write the results into run.json."""
        if self.world.is_first:
            self.run.finish(results)
            self.run.drop_older_checkpoint()

    def save(self, training: Training) -> None:
        """Write weights, history and checkpoint, if all weights are numbers.

        All processes call this together, and rank 0 writes.
        """
        weights = training.classifier.network.parameters()
        self.check(training, all(bool(weight.isfinite().all()) for weight in weights))
        checkpoint = to_checkpoint(training)
        if self.world.is_first:
            for name, content in self._weights.items():
                files.write_bytes(self.run.path / name, content)
            if self._weights:
                self.run.write_history(training.history, training.validation_labels, training.predicted)
            self._weights = {}
            self.run.write_checkpoint(checkpoint | {"identity": self.run.record.identity})

    def stop_if_asked(self, training: Training) -> None:
        """Save and raise Interrupted if any process received a signal or somebody asked the run to stop."""
        received, asked, now = self._received, False, time.monotonic()
        if self.world.is_first and now >= self._next_look:
            self._next_look = now + SECONDS_BETWEEN_LOOKS
            self.run.check_in_place()
            asked = self.run.is_asked_to_stop
        if not received and asked:
            received.append(signal.SIGTERM)
        self.world.share_signals(received)
        if received:
            self.save(training)
            name = "request" if asked else signal.Signals(received[0]).name
            raise Interrupted(f"stopped by {name}, everything is saved: {self._how_to_go_on()}", received[0])

    def check(self, training: Training, is_finite: bool) -> None:
        """Raise the error for a loss or a weight that is not a number, unless it is one."""
        if not is_finite:
            slower = f"{training.recipe.learning_rate / 10:g}"
            error = CifarlabError(
                f"the loss is not a number any more, in epoch {training.epoch + 1} at step {training.step}; the "
                f"last good state is kept in {self.run.path}: try a lower learning rate, such as --set "
                f"learning_rate={slower}"
            )
            error.on_all_ranks = True
            raise error

    def describe_weights(self, row: EpochRow) -> dict[str, Any]:
        """Return where the weights of an epoch come from, for their file."""
        record = self.run.record
        return {
            "recipe": record.recipe.name,
            **record.recipe.model_dump(include={*TrainedOn.model_fields, "tta"}),
            "sha256": record.data.sha256,
            "identity": record.identity,
            "protocol": record.protocol,
            "origins": record.origins,
            "ancestors": [each.model_dump() for each in record.ancestors],
            "epoch": row.epoch,
            "validation_accuracy": row.validation_accuracy,
        }

    def say(self, line: str) -> None:
        """Show a line and add it to the run's log."""
        self.progress.say(one_line(line))
        if self.world.is_first:
            self.run.write_log(line)

    def _call(self, event: str, *arguments: Any) -> None:
        """Call an event of all callbacks. An optional one that fails is left out until the end, with a warning."""
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            try:
                if method and (callback not in self._failed or event == "on_train_end"):
                    method(self.run, *arguments)
            except Exception as error:
                if not getattr(callback, "is_optional", False):
                    raise
                if callback not in self._failed:
                    self.say(f"warning: {type(callback).__name__} fails, the training goes on: {one_line(error)[:200]}")
                self._failed.append(callback)

    def _how_to_go_on(self) -> str:
        return f"go on with: cifarlab resume {shlex.quote(str(self.run.path))}"

    @contextlib.contextmanager
    def _recorded_failure(self, model: str) -> Iterator[None]:
        """Write into run.json how a training ended that did not finish, if the disk allows, and explain the error."""
        try:
            yield
        except BaseException as error:
            failure = self._explained(error, model)
            stopped = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
            status = "pruned" if isinstance(error, Pruned) else stopped
            if self.world.is_first:
                with contextlib.suppress(CifarlabError):  # a full disk is being reported already
                    self.run.update(status=status, reason=str(failure) or type(failure).__name__)
                    self._call("on_train_stop")
            if failure is error:
                raise
            raise failure from error

    def _explained(self, error: BaseException, model: str) -> BaseException:
        """Return an error in the user's words for those that a training can expect, and every other one as it is."""
        if isinstance(error, ProcessLost):
            lost = f"another process of {self.run.name} has ended, and its last checkpoint is kept"
            restarts = "torchrun starts all processes again"
            return ProcessLost(f"{lost}: {restarts if torchrun.has_restarts_left() else self._how_to_go_on()}")
        if is_out_of_memory(error):
            return CifarlabError("not enough memory: a smaller batch_size needs less")
        own_faults = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, SystemExit)
        if source_file(model) and isinstance(error, own_faults):
            reason = f"{type(error).__name__}: {one_line(error)}"
            return CifarlabError(f"the training of {model} failed, and is kept in {self.run.path}: {reason}")
        return error


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


def _stuck_epochs(training: Training) -> int:
    """Return how many of the latest epochs in a row gave every validation image the same class."""
    if len(set(training.validation_labels.tolist())) < 2:
        return 0
    return sum(1 for _ in takewhile(lambda predicted: (predicted == predicted[0]).all(), training.predicted[::-1]))
