"""A run as the templates of report and model card read it: its record, and what follows from its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cifarlab.recipes.differences import flatten
from cifarlab.recipes.recipe import Published
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow, RunRecord
from cifarlab.statistics import metrics
from cifarlab.statistics.significance import accuracy_interval

LAST_EPOCHS = 3  # that all have to show overfitting, because single ones vary
LOSS_RISE = 1.05  # of the held-out loss over its lowest, from which it is overfitting
_NOT_SETTINGS = ("published", "skipped")  # entries that the page shows elsewhere


@dataclass(frozen=True)
class RunSummary:
    """Content of the report and the model card of a run. `held_out` images are those measured after every epoch."""

    folder: RunFolder
    record: RunRecord
    held_out: str  # `validation` or `test`
    history: list[EpochRow]
    best_accuracy: float | None  # on held-out images after any epoch, in [0, 1]; None before the first epoch has ended
    published: list[tuple[Published, float | None]]  # each with this run's held-out accuracy after as many epochs
    settings: list[tuple[str, Any]]  # recipe, data set and machine as rows of a table: dotted key and value
    overfitting: str  # sentences about it; empty if there is none
    per_class: list[metrics.PerClass]  # on the test images; empty before the run is finished
    confused: list[metrics.Confusion]  # most frequent mistakes on the test images, the largest first
    interval: tuple[float, float] | None  # Wilson's 95 % interval of the test accuracy, over the test images


def summarise(run: RunFolder) -> RunSummary:
    """Read a run's folder."""
    record, history, classes = run.record, run.history, run.record.data.classes
    accuracies = {row.epoch: row.validation_accuracy for row in history}
    labels = predictions = np.zeros(0, dtype=np.int64)
    if run.predictions is not None:
        labels, predictions = run.predictions[1], run.predictions[0].argmax(1)
    return RunSummary(
        folder=run,
        record=record,
        held_out=run.held_out,
        history=history,
        best_accuracy=max(accuracies.values(), default=None),
        published=[(result, accuracies.get(result.epochs)) for result in record.recipe.published],
        settings=[
            *_rows(record.recipe.model_dump(mode="json")),
            *_rows(record.data.model_dump(mode="json"), "data."),
            *_rows(record.origins, "sha256."),
            *_rows(record.environment.items(), "machine."),
        ],
        overfitting=describe_overfitting(history, run.held_out),
        per_class=metrics.per_class(labels, predictions, classes if len(labels) else ()),
        confused=metrics.most_confused(labels, predictions),
        interval=accuracy_interval(int((labels == predictions).sum()), len(labels)) if len(labels) else None,
    )


def describe_overfitting(history: Sequence[EpochRow], held_out: str) -> str:
    """Say since when the held-out loss has risen while the training loss went on falling; empty if it has not."""
    lowest, last = min(history, key=lambda row: row.validation_loss, default=None), history[-LAST_EPOCHS:]
    if lowest is None or max(row.train_loss for row in last) > lowest.train_loss:
        return ""
    if min(row.validation_loss for row in last) < LOSS_RISE * lowest.validation_loss:
        return ""
    return (
        f"Overfitting: from epoch {lowest.epoch + 1} on, the loss on {held_out} images rose from "
        f"{lowest.validation_loss:.2f} to {last[-1].validation_loss:.2f}, while the training loss fell from "
        f"{lowest.train_loss:.2f} to {last[-1].train_loss:.2f}. In the end, accuracy is {last[-1].train_accuracy:.1%} "
        f"on training and {last[-1].validation_accuracy:.1%} on {held_out} images. Augmentation, dropout, weight decay "
        "or fewer epochs help."
    )


def _rows(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the entries of a nested table that are not empty, by dotted key."""
    kept = flatten({name: value for name, value in table.items() if name not in _NOT_SETTINGS})
    texts = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in kept.items()}
    return [(prefix + key, text) for key, text in texts.items() if text not in (None, "")]
