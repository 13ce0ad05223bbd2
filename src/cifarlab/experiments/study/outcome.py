"""What a study found: a table of its runs, its settings compared over seeds, and pictures.

Everything is read from the run folders. Tables and pictures are about validation images unless another metric is
asked for, because a setting that was chosen by the test images would look better than it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures, files
from cifarlab.experiments.study.grid import Member, Study
from cifarlab.figures import studies
from cifarlab.recipes.differences import value_text
from cifarlab.report.comparing import compare_runs
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics import significance
from cifarlab.statistics.comparison import Comparison
from cifarlab.statistics.significance import Estimate

SCHEMA = 1
METRIC = "validation_accuracy"
METRICS = {  # what a run's results hold, and what it is called
    "validation_accuracy": "accuracy on validation images",
    "validation_loss": "loss on validation images",
    "test_accuracy": "accuracy on test images",
    "test_loss": "loss on test images",
    "calibration_error": "calibration error on test images",
    "train_seconds": "seconds of training",
    "images_per_second": "images per second",
}
EXPLODED = 100.0  # nats; a network that says every class with the same probability has a loss of a few
LESS_IS_BETTER = ("validation_loss", "test_loss", "calibration_error", "train_seconds")
MOST_COMPARED = 20  # settings whose differences are tested, 190 of them
MOST_LINES = 6  # in a picture; with more, none could be followed
MOST_INTERVALS = 40  # in a picture, one below the other
_COLUMNS = {**{name: name for name in METRICS}, "epochs_done": "epochs", "kept_epoch": "kept_epoch"}
"""Columns of the table, and what a run's results call them; a column `epochs` is the recipe's, where that is varied."""


@dataclass(frozen=True)
class State:
    """Where a run stands while its study runs."""

    status: Literal["waiting", "running", "finished", "failed", "interrupted"]
    reason: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)
    """Of a finished run, from its run.json."""


@dataclass(frozen=True)
class Setting:
    """The runs of one combination of values, which differ in their seed alone."""

    name: str
    values: dict[str, Any]
    runs: list[str]
    figures: list[float]
    """The metric, a value a run."""
    estimate: Estimate
    test_accuracy: Estimate


@dataclass(frozen=True)
class Outcome:
    """A study as far as it is trained."""

    study: Study
    path: Path
    """Of its folder."""
    metric: str
    rows: list[dict[str, Any]]
    """A run each: `run`, `status`, `reason`, the varied values, and figures; None where there is none."""
    settings: list[Setting]
    """Of finished runs, the best by the metric first."""
    comparison: Comparison | None
    """Of the best settings on the test images; None where fewer than two are finished."""

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows of runs that failed."""
        return [row for row in self.rows if row["status"] == "failed"]

    @property
    def exploded(self) -> list[dict[str, Any]]:
        """The rows of finished runs whose loss says that they came to nothing, whatever their accuracy."""
        losses = [(row, row["validation_loss"]) for row in self.rows if row["status"] == "finished"]
        return [row for row, loss in losses if loss is not None and not abs(loss) <= EXPLODED]

    def record(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {
            "schema": SCHEMA,
            "study": self.study.name,
            "path": str(self.path),
            **self.study.definition(),
            "metric": self.metric,
            "runs": self.rows,
            "settings": [asdict(setting) for setting in self.settings],
            "compared": asdict(self.comparison) if self.comparison else None,
        }


def collect(study: Study, folder: Path, states: Mapping[str, State], metric: str = METRIC) -> Outcome:
    """Reads what a study's runs have found.

    Args:
        study: from `grid.define`.
        folder: its folder.
        states: of its runs, by name.
        metric: a key of `METRICS`.
    """
    rows = [_row(member, states[member.name]) for member in study.members]
    settings = _settings(study, rows, metric)
    best = settings[:MOST_COMPARED]
    if metric.startswith("test_") and len(settings) > MOST_COMPARED:
        best = _settings(study, rows, METRIC)[:MOST_COMPARED]  # who is tested is not chosen by the test
    found = None
    if len(best) > 1:
        found = compare_runs([RunFolder(folder / name) for setting in best for name in setting.runs])
    return Outcome(study, folder, metric, rows, settings, found)


def write(found: Outcome) -> None:
    """Writes results.csv, results.json and the pictures into the study's folder."""
    files.write_text(found.path / "results.csv", _csv(found.rows))
    text = json.dumps(found.record(), indent=2, ensure_ascii=False)
    files.write_text(found.path / "results.json", text + "\n")
    files.make_folder(found.path / "figures")
    for stem, figure in draw(found).items():
        for kind in ("svg", "png"):
            files.write_bytes(found.path / "figures" / f"{stem}.{kind}", figures.to_bytes(figure, kind))


def write_table(study: Study, folder: Path, states: Mapping[str, State]) -> None:
    """Writes results.csv as far as it goes, while the study runs."""
    rows = [_row(member, states[member.name]) for member in study.members]
    files.write_text(folder / "results.csv", _csv(rows))


def draw(found: Outcome) -> dict[str, Figure]:
    """The pictures of a study, by the stem of their files: those that its keys allow."""
    keys, settings, label = found.study.keys, found.settings, METRICS[found.metric]
    drawn: dict[str, Figure] = {}
    if not settings:
        return drawn
    for key in keys:
        if is_numeric(found.study.varied[key]):
            points, note = _lines(found, key)
            drawn[f"by-{_stem(key)}"] = studies.lines(points, key, label, percent=is_share(found.metric), note=note)
    if len(keys) == 2:
        means = _means(found, *keys)
        names = [[value_text(value) for value in found.study.varied[key]] for key in keys]
        drawn["map"] = studies.heat_map(means, (keys[0], keys[1]), names, label, percent=is_share(found.metric))
    if len(keys) > 2:
        rows = [[setting.values[key] for key in keys] for setting in settings]
        figure = [setting.estimate.mean for setting in settings]
        drawn["parallel"] = studies.parallel(keys, rows, figure, label, percent=is_share(found.metric))
    if is_share(found.metric) and len(settings) <= MOST_INTERVALS:
        names_of = [setting.name for setting in settings]
        estimates = [setting.estimate for setting in settings]
        drawn["settings"] = figures.intervals(names_of, estimates, {}, f"{found.study.name}: {label}")
    return drawn


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether these are numbers, two at least."""
    return len(values) > 1 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction of 1."""
    return metric.endswith("accuracy")


def _row(member: Member, state: State) -> dict[str, Any]:
    row: dict[str, Any] = {"run": member.name, "status": state.status, "reason": state.reason}
    return row | member.values | {column: state.results.get(name) for column, name in _COLUMNS.items()}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _settings(study: Study, rows: Sequence[Mapping[str, Any]], metric: str) -> list[Setting]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "finished":
            groups.setdefault(json.dumps([row[key] for key in study.keys]), []).append(row)
    found = []
    for group in groups.values():
        values = {key: group[0][key] for key in study.keys}
        name = ", ".join(f"{key}={value_text(value)}" for key, value in values.items()) or study.recipe
        figure = [float(row[metric]) for row in group]
        tested = significance.estimate_share([float(row["test_accuracy"]) for row in group])
        estimate = significance.estimate_share(figure) if is_share(metric) else significance.estimate(figure)
        runs = [str(row["run"]) for row in group]
        found.append(Setting(name, values, runs, figure, estimate, tested))
    sign = 1 if metric in LESS_IS_BETTER else -1
    return sorted(found, key=lambda setting: sign * setting.estimate.mean)


def _lines(found: Outcome, key: str) -> tuple[dict[str, list[tuple[float, list[float]]]], str]:
    """For each setting of the other keys the metric by this key's value, and what is to be said of them.

    Of many settings of the others only those are there that reach the best: a mean over all of them would mix what
    the other keys do into what this key does.
    """
    others = [other for other in found.study.keys if other != key]
    names = {setting.name: _without(setting, others) for setting in found.settings}
    every = list(dict.fromkeys(names.values()))  # the best first, as settings are
    shown, note = every[:MOST_LINES], ""
    if len(every) > MOST_LINES:
        note = f"the {MOST_LINES} best of {len(every)} combinations of the other keys"
    lines: dict[str, dict[float, list[float]]] = {name: {} for name in shown}
    for value in sorted(found.study.varied[key]):
        for setting in found.settings:
            if setting.values[key] == value and names[setting.name] in lines:
                lines[names[setting.name]].setdefault(value, []).extend(setting.figures)
    return {name: list(points.items()) for name, points in lines.items()}, note


def _without(setting: Setting, keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={value_text(setting.values[key])}" for key in keys)


def _means(found: Outcome, down: str, across: str) -> np.ndarray:
    """The metric by the values of two keys; no number where no run is finished."""
    values = [found.study.varied[key] for key in (down, across)]
    means = np.full([len(each) for each in values], np.nan)
    for setting in found.settings:
        place = tuple(each.index(setting.values[key]) for each, key in zip(values, (down, across), strict=True))
        means[place] = setting.estimate.mean
    return means


def _stem(key: str) -> str:
    return key.replace(".", "-").replace("/", "-")
