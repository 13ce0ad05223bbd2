"""A run's settings, figures and pictures for TensorBoard or MLflow, by these libraries' own writers: callbacks of a
training.

They add to the run folder and take nothing from it: its CSV is always written. A resumed run goes on in its old log.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures
from cifarlab.errors import UsageError, unknown
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow

EXPERIMENT = "cifarlab"
_TAG = "cifarlab.run"  # holds a sum of a run's path and time, by which its MLflow run is found again


def trackers(names: Sequence[str]) -> list[Any]:
    """The callbacks of these names.

    Raises:
        UsageError: there is no such tracker, or its package is missing.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # which its import would begin: nothing was asked for
    made = []
    for name in dict.fromkeys(names):
        if name not in _TRACKERS:
            raise unknown("tracker", name, _TRACKERS)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UsageError(f"--track {name} needs {error.name}: pip install 'cifarlab[track]'") from error
        made.append(_TRACKERS[name]())
    return made


class TensorBoard:
    """Writes into `tensorboard/` in the run's folder: scalars and pictures by epoch, recipe and results."""

    def on_train_begin(self, run: RunFolder) -> None:
        """Opens the log, without the epochs that a crash had written after the last checkpoint.

        The last epoch is written anew: a kill may have come between its checkpoint and its line in the log.
        """
        from torch.utils.tensorboard import SummaryWriter

        history = run.history
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=max(1, len(history)))
        if history:
            self.on_epoch_end(run, history[-1])
        table = "".join(f"| {key} | {value} |\n" for key, value in _settings(run))
        self._writer.add_text("recipe", f"| key | value |\n| --- | --- |\n{table}")

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Adds an epoch."""
        for name, value in _figures_of(row).items():
            self._writer.add_scalar(name, value, row.epoch)
        for name, figure in _pictures(run):
            self._writer.add_figure(name, figure, row.epoch)
        self._writer.flush()

    def on_train_end(self, run: RunFolder) -> None:
        """Adds what the test said."""
        for name, value in _results(run).items():
            self._writer.add_scalar(name, value, len(run.history))
        self._writer.close()


class MLflow:
    """Writes into MLflow's store: `MLFLOW_TRACKING_URI`, else an SQLite file `mlflow.db` beside the runs."""

    def on_train_begin(self, run: RunFolder) -> None:
        """Begins an MLflow run, or goes on with that of an earlier sitting."""
        from mlflow import MlflowClient

        parent = run.path.resolve().parent
        tag = hashlib.sha256(f"{run.path.resolve()} {run.record.created}".encode()).hexdigest()
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{parent / 'mlflow.db'}"
        self._client = MlflowClient(store)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        place = None if "MLFLOW_TRACKING_URI" in os.environ else (parent / "mlflow-artifacts").as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT, place)
        found = self._client.search_runs([number], f"tags.`{_TAG}` = '{tag}'")
        begun = found[0] if found else self._client.create_run(number, tags={_TAG: tag}, run_name=run.name)
        self._id = begun.info.run_id
        if not found:
            for key, value in _settings(run):
                self._client.log_param(self._id, key, value)
        self._client.update_run(self._id, status="RUNNING")
        logged = {each.step for each in self._client.get_metric_history(self._id, "train_loss")}
        for row in run.history:  # those whose end a kill came into
            if row.epoch not in logged:
                self._log(row)

    def _log(self, row: EpochRow) -> None:
        for name, value in _figures_of(row).items():
            self._client.log_metric(self._id, name, value, step=row.epoch)

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Adds an epoch."""
        self._log(row)
        for name, figure in _pictures(run):
            self._client.log_figure(self._id, figure, f"{name}/{row.epoch:04}.png")

    def on_train_end(self, run: RunFolder) -> None:
        """Adds what the test said, and the weights that were kept."""
        for name, value in _results(run).items():
            self._client.log_metric(self._id, name, value, step=len(run.history))
        self._client.log_artifact(self._id, str(run.weights))
        self._client.set_terminated(self._id)


_TRACKERS: dict[str, Callable[[], Any]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
NAMES = tuple(_TRACKERS)


def _figures_of(row: EpochRow) -> dict[str, float]:
    return {name: float(value) for name, value in asdict(row).items() if name != "epoch"}


def _results(run: RunFolder) -> dict[str, float]:
    """The numbers among the results that are not an epoch's too."""
    numbers = {name: value for name, value in run.results.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if name not in EpochRow.__dataclass_fields__}


def _pictures(run: RunFolder) -> Iterator[tuple[str, Figure]]:
    """Curves and the last epoch's confusion matrix."""
    columns, matrices = run.columns, run.confusion
    yield "curves", figures.learning_curves(columns, run.held_out)
    accuracy = columns["validation_accuracy"][-1]
    title = f"{run.held_out.capitalize()} images after epoch {len(matrices)}: accuracy {accuracy:.2%}"
    yield "confusion", figures.confusion_matrix(np.array(matrices[-1]), run.record.data.classes, title)


def _settings(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The recipe, the seed and the data set, a text each."""
    plain = run.recipe.model_dump(mode="json", exclude={"published", "description"})
    for key, value in {
        **plain,
        "data_sha256": run.record.data.sha256,
        "protocol": run.record.protocol,
    }.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", str(setting)) for inner, setting in value.items())
        else:
            yield key, str(value)
