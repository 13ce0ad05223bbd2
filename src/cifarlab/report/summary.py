"""A run as the templates of report and model card read it: its record, and what follows from its files."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cifarlab.recipes.differences import flatten
from cifarlab.recipes.recipe import Published
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow, RunRecord
from cifarlab.statistics import metrics
from cifarlab.statistics.metrics import Confusion, PerClass
from cifarlab.statistics.significance import accuracy_interval

_NOT_SETTINGS = ("published", "skipped")  # entries that the page shows elsewhere


@dataclass(frozen=True)
class RunSummary:
    """Content of the report and the model card of a run."""

    name: str
    """Name of the run's folder."""
    record: RunRecord
    status: str
    quoted_path: str
    """The run's folder, quoted for a shell."""
    weights: str
    """File name of the weights that were kept."""
    history: list[EpochRow]
    settings: list[tuple[str, Any]]
    """Recipe, data set and machine as rows of a table: dotted key and value."""
    per_class: list[PerClass]
    """Metrics of each class on the test images; empty before the run is finished."""
    confused: list[Confusion]
    """Most frequent mistakes on the test images, the largest first."""
    interval: tuple[float, float] | None
    """Wilson's 95 % confidence interval of the test accuracy, over the test images; None before the end."""

    @property
    def anchor(self) -> str:
        """Target of links within a page."""
        return f"run-{self.name}"

    @property
    def held_out(self) -> str:
        """Images on which accuracy is measured after every epoch: `validation` or `test`."""
        return self.record.recipe.validate_on

    @property
    def best_accuracy(self) -> float | None:
        """Highest accuracy of any epoch on these images, in [0, 1]; None before the first epoch has ended."""
        return max((row.validation_accuracy for row in self.history), default=None)

    @property
    def published(self) -> list[tuple[Published, float | None]]:
        """Published results, each with this run's accuracy after as many epochs, or None if the run is shorter."""
        accuracies = {row.epoch: row.validation_accuracy for row in self.history}
        return [(figure, accuracies.get(figure.epochs)) for figure in self.record.recipe.published]


def summarise(run: RunFolder) -> RunSummary:
    """Read a run's folder.

    Raises:
        UsageError: a file is damaged, or missing from a finished run.
    """
    record, predictions, classes = run.record, run.predictions, run.record.data.classes
    matrix = np.zeros((0, 0), dtype=np.int64)
    if predictions is not None:
        logits, labels = predictions
        matrix = metrics.confusion_matrix(labels, logits.argmax(1), len(classes))
    return RunSummary(
        name=run.name,
        record=record,
        status=run.status,
        quoted_path=shlex.quote(str(run.path)),
        weights=run.weights.name,
        history=run.history,
        settings=[
            *_rows(record.recipe.model_dump(mode="json")),
            *_rows(record.data.model_dump(mode="json"), "data."),
            *_rows(record.environment.items(), "machine."),
        ],
        per_class=metrics.per_class(matrix, classes if len(matrix) else ()),
        confused=metrics.most_confused(matrix),
        interval=accuracy_interval(int(np.trace(matrix)), int(matrix.sum())) if len(matrix) else None,
    )


def _rows(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the entries of a nested table that are not empty, by dotted key."""
    kept = {name: value for name, value in table.items() if name not in _NOT_SETTINGS}
    return [
        (prefix + key, ", ".join(map(str, value)) if isinstance(value, list) else value)
        for key, value in flatten(kept).items()
        if value not in (None, "", [])
    ]
