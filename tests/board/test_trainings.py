"""Trainings that the board starts: the queue, its order, and what a restart of the board leaves."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cifarlab
from cifarlab import recipe as load_recipe
from cifarlab.board.answers import BusyError
from cifarlab.board.trainings.queue import Training, TrainingQueue
from cifarlab.errors import UsageError

SECONDS = 120  # the longest wait for a training on a busy machine
QUICK = ("lenet5", "--data", "digits", "--set", "epochs=1", "--set", "batch_size=256")
LONG = ("lenet5", "--data", "digits", "--set", "epochs=100000")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[TrainingQueue]:
    queue = TrainingQueue(tmp_path / "runs", at_once=1)
    yield queue
    for training in queue.trainings():
        if training.is_active:
            wait_for(queue, training, "running", "finished")
        if not training.has_ended:
            queue.cancel(training.id)
    queue.close()


def wait_for(queue: TrainingQueue, training: Training, *statuses: str) -> Training:
    deadline = time.monotonic() + SECONDS
    while True:
        (now,) = (each for each in queue.trainings() if each.id == training.id)
        if now.status in statuses:
            return now
        assert time.monotonic() < deadline and not now.has_ended, now
        time.sleep(0.05)


def test_a_training_runs_as_its_command_says(queue: TrainingQueue, tmp_path: Path) -> None:
    training = queue.add([*QUICK, "--seed", "3"])
    assert shlex.split(training.command)[:3] == ["cifarlab", "train", "lenet5"]
    assert training.name.startswith("lenet5-") and training.status == "waiting"
    assert wait_for(queue, training, "finished").reason == ""
    here = cifarlab.train(
        load_recipe("lenet5", dataset="digits", epochs=1, batch_size=256, seed=3), runs=tmp_path, quiet=True
    )
    run = cifarlab.Run(tmp_path / "runs" / training.name)
    assert run.results["test_accuracy"] == here.results["test_accuracy"]


def test_others_wait_are_ordered_and_cancelled(queue: TrainingQueue, tmp_path: Path) -> None:
    first = queue.add([*LONG, "--name", "first"])
    names = [queue.add([*QUICK, "--name", name]).name for name in ("second", "third", "fourth")]
    wait_for(queue, first, "running")
    assert [each.status for each in queue.trainings()] == ["running", *["waiting"] * 3] and names[0] == "second"
    queue.move(4, -1)
    queue.move(2, 1)
    assert [each.name for each in queue.trainings()] == ["first", "fourth", "second", "third"]
    with pytest.raises(UsageError, match="cannot move"):
        queue.move(4, -1)
    with pytest.raises(UsageError, match="there is no training 9"):
        queue.move(9, 1)
    with pytest.raises(UsageError, match="'second' already exists or waits"):
        queue.add([*QUICK, "--name", "second"])
    with pytest.raises(UsageError, match="plain name"):
        queue.add([*QUICK, "--name", "../second"])
    with pytest.raises(BusyError, match="another board"):
        TrainingQueue(tmp_path / "runs").add(QUICK)
    queue.cancel(2)
    queue.cancel(3)
    queue.cancel(1)
    stopped = wait_for(queue, first, "interrupted")
    assert "stopped by request" in stopped.reason
    wait_for(queue, queue.trainings()[1], "finished")
    assert [each.status for each in queue.trainings()] == ["interrupted", "finished", "cancelled", "cancelled"]
    with pytest.raises(UsageError, match="is cancelled"):
        queue.cancel(2)


def test_a_failure_keeps_its_reason(queue: TrainingQueue) -> None:
    training = queue.add(["no-recipe"])
    assert "unknown recipe 'no-recipe'" in wait_for(queue, training, "failed").reason


def test_a_restart_of_the_board_loses_nothing(queue: TrainingQueue, tmp_path: Path) -> None:
    running, waiting = queue.add([*LONG, "--name", "long"]), queue.add([*QUICK, "--name", "quick"])
    wait_for(queue, running, "running")
    queue.close()
    later = TrainingQueue(tmp_path / "runs", at_once=1)
    assert [each.status for each in later.trainings()] == ["running", "waiting"]
    later.open()
    later.cancel(running.id)
    wait_for(later, running, "interrupted")
    wait_for(later, waiting, "finished")
    later.close()
    queue.open()
    assert [each.status for each in queue.trainings()] == ["interrupted", "finished"]


def test_a_damaged_file_is_named(queue: TrainingQueue, tmp_path: Path) -> None:
    queue.add(["no-recipe"])
    (path,) = (tmp_path / "home").rglob("queue.json")
    queue.close()
    path.write_text("[")
    queue.open()
    with pytest.raises(UsageError, match="Delete that file"):
        queue.trainings()
    path.unlink()
