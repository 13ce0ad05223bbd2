"""Training callbacks that log settings, metrics and figures to TensorBoard or MLflow.

The run folder is complete without them. A resumed run continues its log.
"""

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cifarlab import figures
from cifarlab.errors import UsageError, shorten, unknown
from cifarlab.figures import Figure
from cifarlab.recipes.differences import flatten
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow
from cifarlab.statistics import metrics

EXPERIMENT = "cifarlab"
TAG = "cifarlab.run"  # MLflow tag with a hash of the run's path and creation time, to find its MLflow run again


def trackers(names: Sequence[str]) -> list[Any]:
    """Return the callbacks of these trackers; UsageError if one does not exist or its package is not installed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # importing MLflow would send data without asking
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # MLflow's 7 hold up a training for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # seconds, of MLflow's 120
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UsageError(f"--track {name} needs {error.name}: pip install 'cifarlab[track]'") from error
    return [TRACKERS[name]() for name in dict.fromkeys(names)]


class TensorBoard:
    """Log metrics and figures of every epoch, the recipe and the results to `tensorboard/` in the run's folder."""

    is_optional = True  # an error does not end the training

    def on_train_begin(self, run: RunFolder) -> None:
        """Open the log without what a killed process logged after its last checkpoint; log that epoch again."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.subfolder("tensorboard")), purge_step=max(1, len(run.history)))
        for row in run.history[-1:]:
            self.on_epoch_end(run, row)
        table = "".join(f"| {key} | {value} |\n" for key, value in _settings(run))
        self._writer.add_text("recipe", f"| key | value |\n| --- | --- |\n{table}")

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        for name, value in _metrics(row).items():
            self._writer.add_scalar(name, value, row.epoch)
        for name, figure in _pictures(run):
            self._writer.add_figure(name, figure, row.epoch)
        self._writer.flush()

    def on_train_end(self, run: RunFolder) -> None:
        for name, value in _results(run).items():
            self._writer.add_scalar(name, value, len(run.history))
        self._writer.close()


class MLflow:
    """Log the same and the best weights to `MLFLOW_TRACKING_URI`, or by default to `mlflow.db` beside the runs."""

    is_optional = True
    _id = ""  # of the MLflow run

    def on_train_begin(self, run: RunFolder) -> None:
        """Begin an MLflow run, or continue the one of an interrupted training."""
        from mlflow import MlflowClient

        parent = run.path.resolve().parent
        tag = hashlib.sha256(f"{run.path.resolve()} {run.record.created}".encode()).hexdigest()
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{parent / 'mlflow.db'}"
        self._client = MlflowClient(store)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (parent / "mlflow-artifacts").as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT, artifacts)
        earlier = self._client.search_runs([number], f"tags.`{TAG}` = '{tag}'")
        logged_run = earlier[0] if earlier else self._client.create_run(number, tags={TAG: tag}, run_name=run.name)
        self._id = logged_run.info.run_id
        if not earlier:
            for key, value in _settings(run):
                name = re.sub(r"[^\w.\- /]", "_", key)  # MLflow refuses other characters, and long values
                self._client.log_param(self._id, name, shorten(value, 6000))
        self._client.update_run(self._id, status="RUNNING")
        logged = {metric.step for metric in self._client.get_metric_history(self._id, "train_loss")}
        for row in run.history:  # the process may have been killed before it logged an epoch
            if row.epoch not in logged:
                self._log(_metrics(row), row.epoch)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        self._log(_metrics(row), row.epoch)
        for name, figure in _pictures(run):
            self._client.log_figure(self._id, figure, f"{name}/{row.epoch:04}.png")

    def on_train_end(self, run: RunFolder) -> None:
        self.on_train_begin(run)  # if MLflow failed before, this logs the epochs that are missing
        self._log(_results(run), len(run.history))
        self._client.log_artifact(self._id, str(run.weights))
        self._client.set_terminated(self._id)

    def on_train_stop(self, run: RunFolder) -> None:
        if self._id:
            self._client.set_terminated(self._id, "FAILED" if run.status == "failed" else "KILLED")


TRACKERS: dict[str, Callable[[], Any]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def _metrics(row: EpochRow) -> dict[str, float]:
    return {name: float(value) for name, value in asdict(row).items() if name != "epoch"}


def _results(run: RunFolder) -> dict[str, float]:
    """Return the numbers among the results that are not metrics of an epoch."""
    others = {name: value for name, value in run.results.items() if name not in EpochRow.__dataclass_fields__}
    return {name: float(value) for name, value in others.items() if isinstance(value, int | float)}


def _pictures(run: RunFolder) -> Iterator[tuple[str, Figure]]:
    """Yield the learning curves and the last epoch's confusion matrix, with their names."""
    yield "curves", figures.learning_curves(run.columns, run.held_out)
    classes, epoch = run.record.data.classes, len(run.history)
    if len(classes) <= metrics.MOST_CLASSES:
        yield "confusion", figures.confusion_after_epoch(run.confusion_after(epoch), classes, run.held_out, epoch)


def _settings(run: RunFolder) -> Iterator[tuple[str, str]]:
    """Yield the settings of the recipe, the data set's SHA-256 and the protocol, as texts by key."""
    fields = run.recipe.model_dump(mode="json", exclude={"published", "description"})
    fields |= {"data_sha256": run.record.data.sha256, "protocol": run.record.protocol}
    yield from ((key, str(value)) for key, value in flatten(fields).items())
