"""Callbacks: when they are called, what they may do, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cifarlab import Recipe, Run
from cifarlab.errors import UsageError
from cifarlab.runs.record import EpochRow
from cifarlab.training.session import check_callbacks
from small_trainings import StopAt, train, train_only


def test_callbacks_are_told_in_order_and_get_the_run(small: Recipe, tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []

    class Listener:
        def on_train_begin(self, run: Run) -> None:
            events.append(("begin", len(run.history)))

        def on_batch_end(self, run: Run, epoch: int, step: int) -> None:
            events.extend([("batch", (epoch, step))] * (step == 21))  # 1,294 images in batches of 64

        def on_epoch_end(self, run: Run, row: EpochRow) -> None:
            assert run.history[-1] == row
            events.append(("epoch", (row.epoch, len(run.confusion))))

        def on_train_end(self, run: Run) -> None:
            events.append(("end", run.results["epochs"]))

    train_only(small, tmp_path, callbacks=[Listener()])
    epochs = [event for epoch in (1, 2) for event in (("batch", (epoch, 21)), ("epoch", (epoch, epoch)))]
    assert events == [("begin", 0), *epochs, ("end", 2)]


@pytest.mark.parametrize("event", ["on_epoch_end", "on_batch_end"])
def test_a_callback_that_stops_the_run_has_it_tested_and_finished(small: Recipe, tmp_path: Path, event: str) -> None:
    stop = type("Stop", (), {event: lambda self, run, *_: run.stop()})()
    run = train_only(small.changed({"epochs": 5}), tmp_path, callbacks=[stop])
    assert (run.status, run.results["epochs"], run.results["stopped_early"]) == ("finished", 1, True)
    assert run.results["stopped_by_callback"]
    assert run.results["test_accuracy"] > 0.1 and "after epoch 1 of 5: a callback stopped" in run.log
    (tmp_path / "again").mkdir()
    run = train_only(small.changed({"epochs": 1}), tmp_path / "again", callbacks=[stop])
    assert not run.results["stopped_by_callback"]
    assert not run.results["stopped_early"] and "a callback" not in run.log  # nothing was left to stop


class Misspelt:
    def on_epoch_ends(self, run: Run, row: EpochRow) -> None: ...


class Keras:
    def epoch_end(self, run: Run) -> None: ...


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([Misspelt()], "unknown method of the callback Misspelt 'on_epoch_ends': did you mean 'on_epoch_end'"),
        (
            [print],
            r"callbacks should be a list of objects with any of on_train_begin, .*, got <built-in function print>",
        ),
        ([Keras()], "callbacks should be a list of objects with any of"),
        ([StopAt], "got <class .*StopAt"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_made(
    small: Recipe, tmp_path: Path, callbacks: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(small, tmp_path, "a", callbacks=callbacks)
    assert not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match=r"should be a list of objects .*, got <.*StopAt object"):
        check_callbacks(StopAt(1))
