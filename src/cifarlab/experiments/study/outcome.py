"""The outcome of a study: a table of its runs, and its settings ranked and compared over seeds.

All values come from the run folders. Settings are ranked by a metric on validation images unless the user asks for
another one, because a setting that is chosen by the test images looks better on them than it is.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cifarlab import files
from cifarlab.experiments.study.definition import Study, Value
from cifarlab.recipes.differences import value_text
from cifarlab.report.comparing import compare_runs
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import Results
from cifarlab.statistics import significance
from cifarlab.statistics.comparison import Comparison, protocol_kind, protocol_note
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
# Attributes of `Results` by column of the table. The column `epochs` is free for the recipe's key.
_COLUMNS = {**{metric: metric for metric in METRICS}, "epochs_done": "epochs", "kept_epoch": "kept_epoch"}


@dataclass(frozen=True)
class RunState:
    """The state of a run while its study runs."""

    status: Literal["waiting", "running", "finished", "failed", "interrupted"]
    reason: str = ""  # why the run failed, was interrupted, or is tried again
    results: Results | None = None  # of a finished run
    protocol: str = ""  # of a finished run


@dataclass(frozen=True)
class Setting:
    """The finished runs of one combination of values. They differ in their seed alone."""

    name: str
    values: dict[str, Value]  # of the varied keys, without the seed
    runs: list[str]
    metric_values: list[float]  # the metric of each run
    estimate: Estimate  # of the metric's mean
    test_accuracy: Estimate


@dataclass(frozen=True)
class Outcome:
    """The results of a study, as far as its runs are trained."""

    study: Study
    path: Path  # of the study's folder
    metric: str  # a key of `METRICS`
    states: Mapping[str, RunState]  # by the run's name
    settings: list[Setting]  # the best by the metric first
    comparison: Comparison | None  # of the best settings on the test images; None with fewer than two settings

    @property
    def failed(self) -> dict[str, str]:
        """Why runs failed, by the run's name."""
        return {name: state.reason for name, state in self.states.items() if state.status == "failed"}

    @property
    def protocol_note(self) -> str:
        """Which runs are not honest, and why."""
        return protocol_note({name: state.protocol for name, state in self.states.items()})

    @property
    def exploded_losses(self) -> dict[str, float]:
        """Validation losses, by run, that are huge or not a number, so that the accuracy means nothing."""
        losses = {name: state.results.validation_loss for name, state in self.states.items() if state.results}
        return {name: loss for name, loss in losses.items() if not abs(loss) <= EXPLODED_LOSS}

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json."""
        settings = [asdict(setting) for setting in self.settings]
        for fields in settings:
            fields["figures"] = fields.pop("metric_values")
        return {
            "schema": SCHEMA,
            "study": self.study.name,
            "path": str(self.path),
            **self.study.definition.model_dump(include={"recipe", "set", "vary"}),
            "metric": self.metric,
            "runs": make_rows(self.study, self.states),
            "settings": settings,
            "compared": asdict(self.comparison) if self.comparison else None,
            "optimism": self.comparison.optimism if self.comparison else None,
        }

    def write(self) -> None:
        """Write results.csv and results.json into the study's folder."""
        write_table(self.study, self.path, self.states)
        files.write_text(self.path / "results.json", json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")


def collect(study: Study, folder: Path, states: Mapping[str, RunState], metric: str = DEFAULT_METRIC) -> Outcome:
    """Rank the settings of a study by a key of `METRICS`, and compare the best of them."""
    settings = rank_settings(study, states, metric)
    # Test images must not choose the settings that are then compared on these same images.
    chosen_by = DEFAULT_METRIC if "test images" in METRICS[metric] else metric
    ranked, comparison = rank_settings(study, states, chosen_by), None
    if len(ranked) > 1:
        runs = [RunFolder(folder / name) for setting in ranked[:MOST_COMPARED] for name in setting.runs]
        comparison = compare_runs(runs, first_is_best=True)
        optimism = _optimism(ranked, states, chosen_by) if comparison.best else None
        comparison = replace(comparison, optimism=optimism, chosen_by=METRICS[chosen_by], chosen_of=len(ranked))
    return Outcome(study, folder, metric, states, settings, comparison)


def _optimism(settings: list[Setting], states: Mapping[str, RunState], metric: str) -> float | None:
    """Return how much too high the test accuracy of the best of all settings may be; None if one has a single run."""
    if any(len(setting.runs) < 2 for setting in settings):
        return None
    chosen = [[value * _sign(metric) for value in setting.metric_values] for setting in settings]
    results = [[states[name].results for name in setting.runs] for setting in settings]
    return significance.choice_optimism(chosen, [[each.test_accuracy for each in row if each] for row in results])


def make_rows(study: Study, states: Mapping[str, RunState]) -> list[dict[str, Any]]:
    """Return the rows of results.csv and results.json; metrics of a run that is not finished are None."""
    rows = []
    for run in study.runs:
        state = states[run.name]
        metrics = {column: getattr(state.results, name, None) for column, name in _COLUMNS.items()}
        rows.append({"run": run.name, "status": state.status, "reason": state.reason, **run.values, **metrics})
        rows[-1]["protocol"] = protocol_kind(state.protocol)
    return rows


def rank_settings(study: Study, states: Mapping[str, RunState], metric: str) -> list[Setting]:
    """Group the finished runs by their values without the seed, and return the best setting by the metric first."""
    groups: dict[str, dict[str, Results]] = {}  # results by run, by the values as JSON
    for run in study.runs:
        if (results := states[run.name].results) is not None:
            text = json.dumps({key: run.values[key] for key in study.keys})
            groups.setdefault(text, {})[run.name] = results
    settings = []
    estimate = significance.estimate_share if is_fraction(metric) else significance.estimate
    for text, group in groups.items():
        values = json.loads(text)
        metric_values = [float(getattr(results, metric)) for results in group.values()]
        test_accuracy = significance.estimate_share([results.test_accuracy for results in group.values()])
        name = values_text(values) or study.recipe
        settings.append(Setting(name, values, list(group), metric_values, estimate(metric_values), test_accuracy))
    return sorted(settings, key=lambda setting: -_sign(metric) * setting.estimate.mean)


def _sign(metric: str) -> int:
    return -1 if metric in LESS_IS_BETTER else 1


def values_text(values: Mapping[str, Value]) -> str:
    """Return values by key as text: `learning_rate=0.1, augment.flip=true`."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in values.items())


def is_fraction(metric: str) -> bool:
    """Return True if a metric is a fraction of 1."""
    return metric.endswith("accuracy")


def write_table(study: Study, folder: Path, states: Mapping[str, RunState]) -> None:
    """Write results.csv into the study's folder."""
    rows = make_rows(study, states)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(folder / "results.csv", text.getvalue())
