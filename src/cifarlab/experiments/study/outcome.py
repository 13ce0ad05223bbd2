"""The outcome of a study: a table of its runs, and its settings ranked and compared over seeds.

All values come from the run folders. Settings are ranked by a metric on validation images unless the user asks for
another one, because a setting that is chosen by the test images looks better on them than it is.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cifarlab import files
from cifarlab.experiments.study.definition import Value
from cifarlab.experiments.study.grid import Study
from cifarlab.recipes.differences import value_text
from cifarlab.report.comparing import compare_runs
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import Results
from cifarlab.statistics import significance
from cifarlab.statistics.comparison import Comparison
from cifarlab.statistics.significance import Estimate

SCHEMA = 1  # version of results.json
DEFAULT_METRIC = "validation_accuracy"
METRICS = {  # attributes of `Results`, and their names for readers
    "validation_accuracy": "accuracy on validation images",
    "validation_loss": "loss on validation images",
    "test_accuracy": "accuracy on test images",
    "test_loss": "loss on test images",
    "calibration_error": "calibration error on test images",
    "train_seconds": "seconds of training",
    "images_per_second": "images per second",
}
LESS_IS_BETTER = ("validation_loss", "test_loss", "calibration_error", "train_seconds")
EXPLODED_LOSS = 100.0  # nats; with the same probability for each of 10 classes, the loss is 2.3
MOST_COMPARED = 20  # settings whose differences are tested; they make 190 pairs
_COLUMNS = {**{metric: metric for metric in METRICS}, "epochs_done": "epochs", "kept_epoch": "kept_epoch"}
"""Attributes of `Results` by column of the table. The column `epochs` is free for the recipe's key."""


@dataclass(frozen=True)
class RunState:
    """The state of a run while its study runs."""

    status: Literal["waiting", "running", "finished", "failed", "interrupted"]
    reason: str = ""
    """Reason why the run failed, was interrupted, or is tried again; else empty."""
    results: Results | None = None
    """Metrics of a finished run."""


@dataclass(frozen=True)
class RunRow:
    """A run in the table of a study."""

    name: str
    values: Mapping[str, Value]
    """Values of the varied keys in this run."""
    state: RunState

    def to_json(self) -> dict[str, Any]:
        """Return the row of results.csv and results.json; None for metrics of a run that is not finished."""
        columns = {column: getattr(self.state.results, name, None) for column, name in _COLUMNS.items()}
        return {"run": self.name, "status": self.state.status, "reason": self.state.reason, **self.values, **columns}


@dataclass(frozen=True)
class Setting:
    """The finished runs of one combination of values. They differ in their seed alone."""

    name: str
    values: dict[str, Value]
    """Values of the varied keys without the seed."""
    runs: list[str]
    """Names of the runs."""
    metric_values: list[float]
    """The metric of each run."""
    estimate: Estimate
    """Mean of the metric over runs."""
    test_accuracy: Estimate
    """Mean accuracy on the test images over runs."""

    def to_json(self) -> dict[str, Any]:
        """Return the setting as results.json stores it."""
        fields = asdict(self)
        fields["figures"] = fields.pop("metric_values")
        return fields


@dataclass(frozen=True)
class Outcome:
    """The results of a study, as far as its runs are trained."""

    study: Study
    path: Path
    """The study's folder."""
    metric: str
    """A key of `METRICS`."""
    rows: list[RunRow]
    settings: list[Setting]
    """The best by the metric first."""
    comparison: Comparison | None
    """Comparison of the best settings on the test images; None with fewer than two settings."""

    @property
    def failed(self) -> list[RunRow]:
        """Rows of the runs that failed."""
        return [row for row in self.rows if row.state.status == "failed"]

    @property
    def exploded_losses(self) -> dict[str, float]:
        """Validation losses, by run, that are huge or not a number, so that the accuracy means nothing."""
        finished = {row.name: row.state.results for row in self.rows}
        losses = {name: results.validation_loss for name, results in finished.items() if results is not None}
        return {name: loss for name, loss in losses.items() if not abs(loss) <= EXPLODED_LOSS}

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json."""
        definition = self.study.definition.model_dump(include={"recipe", "set", "vary"})
        return {
            "schema": SCHEMA,
            "study": self.study.name,
            "path": str(self.path),
            **definition,
            "metric": self.metric,
            "runs": [row.to_json() for row in self.rows],
            "settings": [setting.to_json() for setting in self.settings],
            "compared": asdict(self.comparison) if self.comparison else None,
        }


def collect(study: Study, folder: Path, states: Mapping[str, RunState], metric: str = DEFAULT_METRIC) -> Outcome:
    """Read the results of a study's runs, rank its settings and compare the best of them.

    Args:
        study: the study, with the list of all its runs.
        folder: the study's folder.
        states: state of each run, by the run's name.
        metric: a key of `METRICS`.
    """
    rows = make_rows(study, states)
    settings = rank_settings(study, rows, metric)
    best = settings[:MOST_COMPARED]
    if metric.startswith("test_") and len(settings) > MOST_COMPARED:
        # Test images must not choose the settings that are then compared on these same images.
        best = rank_settings(study, rows, DEFAULT_METRIC)[:MOST_COMPARED]
    comparison = None
    if len(best) > 1:
        comparison = compare_runs([RunFolder(folder / name) for setting in best for name in setting.runs])
    return Outcome(study, folder, metric, rows, settings, comparison)


def make_rows(study: Study, states: Mapping[str, RunState]) -> list[RunRow]:
    """Return a row for each run, in the order of the study."""
    return [RunRow(run.name, run.values, states[run.name]) for run in study.runs]


def rank_settings(study: Study, rows: Sequence[RunRow], metric: str) -> list[Setting]:
    """Group the finished runs by their values without the seed, and return the best setting by the metric first."""
    groups: dict[str, list[tuple[RunRow, Results]]] = {}
    for row in rows:
        if row.state.results is not None:
            key = json.dumps([row.values[key] for key in study.keys])
            groups.setdefault(key, []).append((row, row.state.results))
    settings = []
    for group in groups.values():
        values = {key: group[0][0].values[key] for key in study.keys}
        name = ", ".join(f"{key}={value_text(value)}" for key, value in values.items()) or study.recipe
        metric_values = [float(getattr(results, metric)) for _, results in group]
        estimate = significance.estimate_share if is_fraction(metric) else significance.estimate
        test_accuracy = significance.estimate_share([results.test_accuracy for _, results in group])
        runs = [row.name for row, _ in group]
        settings.append(Setting(name, values, runs, metric_values, estimate(metric_values), test_accuracy))
    sign = 1 if metric in LESS_IS_BETTER else -1
    return sorted(settings, key=lambda setting: sign * setting.estimate.mean)


def is_fraction(metric: str) -> bool:
    """Return True if a metric is a fraction of 1."""
    return metric.endswith("accuracy")


def write_table(study: Study, folder: Path, states: Mapping[str, RunState]) -> None:
    """Write results.csv into the study's folder."""
    records = [row.to_json() for row in make_rows(study, states)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    files.write_text(folder / "results.csv", text.getvalue())


def write_results(outcome: Outcome) -> None:
    """Write results.csv and results.json into the study's folder."""
    write_table(outcome.study, outcome.path, {row.name: row.state for row in outcome.rows})
    text = json.dumps(outcome.to_json(), indent=2, ensure_ascii=False)
    files.write_text(outcome.path / "results.json", text + "\n")
