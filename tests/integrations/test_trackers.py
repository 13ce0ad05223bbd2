"""Trackers: the logs, read by TensorBoard's and MLflow's own readers, agree with the run folder."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cifarlab
from cifarlab import Recipe, Run
from cifarlab.errors import Interrupted, UsageError
from cifarlab.integrations.trackers import trackers

COLUMNS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")


class StopAfter:
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, run: Run, row: Any) -> None:
        if row.epoch == self.epochs:
            run.ask_to_stop()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs, stopped after the first and resumed."""
    recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=2, batch_size=64)
    runs = tmp_path_factory.mktemp("runs")
    with pytest.raises(Interrupted):
        cifarlab.train(
            recipe, runs=runs, name="a", track=["tensorboard", "mlflow"], callbacks=[StopAfter(1)], quiet=True
        )
    return cifarlab.resume("a", runs=runs, quiet=True)


def test_tensorboard_has_every_metric_and_figure(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    for column in COLUMNS:
        logged = [(event.step, event.value) for event in events.Scalars(column)]
        expected = [(row.epoch, getattr(row, column)) for row in run.history]
        assert [step for step, _ in logged] == [epoch for epoch, _ in expected] == [1, 2]
        assert [value for _, value in logged] == pytest.approx([value for _, value in expected])
    (tested,) = events.Scalars("test_accuracy")
    assert tested.value == pytest.approx(run.results["test_accuracy"]) and tested.step == 2
    for name in ("curves", "confusion"):
        assert [event.step for event in events.Images(name)] == [1, 2]
    assert b"batch_size | 64" in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]


def test_mlflow_has_every_metric_and_figure(run: Run) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path.parent.resolve() / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'cifarlab'")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.run_name == "a" and logged.info.status == "FINISHED"
    assert logged.data.params["batch_size"] == "64" and logged.data.params["augment.flip"] == "False"
    for column in COLUMNS:
        history = client.get_metric_history(logged.info.run_id, column)
        assert [metric.step for metric in history] == [1, 2]
        assert [metric.value for metric in history] == pytest.approx([getattr(row, column) for row in run.history])
    assert logged.data.metrics["test_accuracy"] == run.results["test_accuracy"]
    artifacts = [each.path for each in client.list_artifacts(logged.info.run_id)]
    assert sorted(artifacts) == ["best.safetensors", "confusion", "curves"]
    assert len(client.list_artifacts(logged.info.run_id, "confusion")) == 2


@pytest.mark.slow
def test_an_epoch_that_a_killed_process_did_not_log_is_added(small: Recipe, tmp_path: Path) -> None:
    """The run is stopped in the first epoch, and killed between an epoch's checkpoint and the trackers."""
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Stop:
        def on_train_begin(self, run: Run) -> None:
            run.ask_to_stop()

    class Die:
        def on_epoch_end(self, run: Run, row: Any) -> None:
            raise KeyboardInterrupt

    names = ["tensorboard", "mlflow"]
    with pytest.raises(Interrupted):
        cifarlab.train(small, runs=tmp_path, name="a", track=names, callbacks=[Stop()], quiet=True)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("cifarlab.integrations.trackers.trackers", lambda _: [Die()])
        cifarlab.resume("a", runs=tmp_path, quiet=True)
    run = cifarlab.resume("a", runs=tmp_path, quiet=True)
    client = MlflowClient(f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'cifarlab'")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED" and len(run.history) == 2
    assert [metric.step for metric in client.get_metric_history(logged.info.run_id, "train_loss")] == [1, 2]
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2]


def test_the_run_folder_is_complete_without_the_trackers(run: Run) -> None:
    assert len(run.history) == 2 and run.record.track == ("tensorboard", "mlflow")


def test_unknown_and_missing_trackers_create_nothing(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="did you mean 'tensorboard'"):
        cifarlab.train(small, runs=tmp_path / "runs", track=["tensorbord"], quiet=True)
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"--track mlflow needs mlflow: pip install 'cifarlab\[track\]'"):
        cifarlab.train(small, runs=tmp_path / "runs", track=["mlflow"], quiet=True)
    assert not (tmp_path / "runs").exists() and trackers([]) == []


class Events:
    """Fails at some events, as a tracker whose server is down, and keeps the names of its events but batches."""

    is_optional = True

    def __init__(self, *failing: str) -> None:
        self.failing, self.received = failing, list[str]()

    def __getattr__(self, event: str) -> Any:
        if not event.startswith("on_") or event == "on_batch_end":
            raise AttributeError(event)

        def receive(*_: Any) -> None:
            self.received.append(event)
            if event in self.failing:
                raise OSError(f"{event}: the server is down")

        return receive


def test_an_mlflow_server_that_does_not_answer_is_given_up_soon(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        run = cifarlab.train(small.changed({"epochs": 1}), runs=tmp_path, name="a", track=["mlflow"], quiet=True)
    assert run.status == "finished" and time.monotonic() - started < 20
    assert (run.path / "log.txt").read_text().count("warning: MLflow fails, the training goes on") == 1


@pytest.mark.parametrize("failing", ["on_train_begin", "on_epoch_end"])
def test_a_tracker_that_fails_is_left_out_until_the_end(failing: str, small: Recipe, tmp_path: Path) -> None:
    tracker = Events(failing)
    run = cifarlab.train(small, runs=tmp_path, name="a", callbacks=[tracker], quiet=True)
    assert run.status == "finished"
    before = ["on_train_begin"] + ["on_epoch_end"] * (failing == "on_epoch_end")
    assert tracker.received == [*before, "on_train_end"]
    assert (run.path / "log.txt").read_text().count("warning: Events fails, the training goes on") == 1


def test_a_failing_callback_of_the_user_still_ends_the_training(small: Recipe, tmp_path: Path) -> None:
    class Own(Events):
        is_optional = False

    own = Own("on_epoch_end")
    with pytest.raises(OSError, match="the server is down"):
        cifarlab.train(small, runs=tmp_path, name="a", callbacks=[own], quiet=True)
    assert (
        own.received == ["on_train_begin", "on_epoch_end", "on_train_stop"] and Run(tmp_path / "a").status == "failed"
    )


def test_mlflow_survives_a_deleted_run_and_strange_class_names(small: Recipe, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    class Delete:
        def on_epoch_end(self, run: Run, row: Any) -> None:
            if row.epoch == 1:
                (experiment,) = client.search_experiments(filter_string="name = 'cifarlab'")
                (logged,) = client.search_runs([experiment.experiment_id])
                assert logged.data.params["merge.C__"] == "0"
                client.delete_run(logged.info.run_id)

    client = MlflowClient(f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}")
    digits = cifarlab.load_data("digits")
    classes = ("0", "C++", *digits.classes[2:])
    train, test = (replace(part, classes=classes) for part in (digits.train, digits.test))
    data = replace(digits, train=train, test=test)
    recipe = small.changed({"epochs": 3, "merge": {"C++": "0"}})
    run = cifarlab.train(recipe, data=data, runs=tmp_path, name="a", track=["mlflow"], callbacks=[Delete()], quiet=True)
    assert run.status == "finished" and "warning: MLflow fails" in (run.path / "log.txt").read_text()
    (experiment,) = client.search_experiments(filter_string="name = 'cifarlab'")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(logged.info.run_id, "train_loss")] == [1, 2, 3]


def test_mlflow_knows_interrupted_runs(small: Recipe, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with pytest.raises(Interrupted):
        cifarlab.train(small, runs=tmp_path, name="a", track=["mlflow"], callbacks=[StopAfter(1)], quiet=True)
    client = MlflowClient(f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'cifarlab'")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "KILLED"
