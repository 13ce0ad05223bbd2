"""Records of runs: what an experiment keeps of each run, and means over seeds beside the published results.

Nothing here trains. `experiments.reproduce` makes the records.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, RootModel

from cifarlab import files, recipes
from cifarlab.errors import UsageError, validated
from cifarlab.runs.record import Environment
from cifarlab.statistics.significance import Estimate, estimate, estimate_share, prediction_interval

PATIENCE = 5  # epochs without improvement after which the tables take early stopping to stop


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class History(_Frozen):
    """Metrics per epoch. Losses in nats, accuracies in [0, 1], times in seconds."""

    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]
    """On the test images under the published protocol; so `validation_accuracy`."""
    validation_accuracy: tuple[float, ...]
    train_seconds: tuple[float, ...]


class Record(_Frozen):
    """A finished run of an experiment, as records.json and docs/results/*.json store it."""

    recipe: str
    """Name of the recipe."""
    protocol: Literal["published", "honest"]
    setting: str
    """Changes to the recipe, as a key of `reproduce.SETTINGS`; empty if there are none."""
    seed: int
    history: History
    kept_epoch: int
    """The epoch whose weights were tested, counted from 1."""
    test_accuracy: float
    test_loss: float
    balanced_accuracy: float
    """Mean recall of the classes on the test images, in [0, 1]."""
    majority: float
    """Accuracy on the test images of always answering the most frequent class, in [0, 1]."""
    classes: tuple[str, ...]
    """Class names after dropping and merging."""
    confusion: tuple[tuple[int, ...], ...]
    """Numbers of test images [classes, classes]; rows are true classes."""
    original_recall: dict[str, float]
    """Fraction of correct answers by class before merging, in [0, 1]."""
    sha256: str = ""
    """Checksum of the data."""
    environment: Environment
    start: int = 0
    """Number of earlier runs with the same seed: a GPU does not give the same bits twice without `--deterministic`."""

    @property
    def epochs(self) -> int:
        """Number of epochs that were trained."""
        return len(self.history.train_loss)

    @property
    def machine(self) -> str:
        """The GPU's name, or the processor's cores."""
        cores = self.environment.items().get("cores")
        return self.environment.gpu or f"{self.environment.threads} of {cores} cores"

    @property
    def has_learned(self) -> bool:
        """False if the network gives all test images the same answer, as it does when its ReLUs have died."""
        return int(np.count_nonzero(np.sum(self.confusion, axis=0))) > 1

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON document; `start` only if it was given."""
        return self.model_dump(mode="json", exclude_unset=True) | {"environment": self.environment.items()}


def read_records(path: Path) -> list[Record]:
    """Read and check a file of records.

    Raises:
        UsageError: the file cannot be read, or a record has a missing, unknown or wrong value.
    """
    try:
        return validated(RootModel[list[Record]], path.read_bytes(), f"{path} is damaged").root
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records, one record a line.

    Raises:
        CifarlabError: the file cannot be written.
    """
    lines = [json.dumps(record.to_json()) for record in records]
    files.write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


@dataclass(frozen=True)
class PublishedRow:
    """A published result beside ours, under one protocol."""

    recipe: str
    epochs: int
    """Number of epochs after which ours is measured: the published number, or as far as our runs went."""
    published_epochs: int
    protocol: str
    published: float
    """Published accuracy, in [0, 1]."""
    published_loss: float | None
    published_time: str
    accuracy: Estimate
    """Our accuracy: on the test images under the published protocol, on validation images under the honest one."""
    single: tuple[float, float] | None
    """Interval in which one more run of ours would lie, like the published one; None after a single run."""
    loss: Estimate
    """Our loss on the same images."""
    seconds: float
    """Training time of the fastest run up to this epoch."""
    machine: str
    """Machine of the fastest run."""
    note: str

    @property
    def is_short(self) -> bool:
        """True if our runs have fewer epochs than the published result."""
        return self.epochs < self.published_epochs

    @property
    def epochs_text(self) -> str:
        """The number of epochs in words: `10`, or `139 of 350`."""
        return f"{self.epochs} of {self.published_epochs}" if self.is_short else str(self.epochs)

    @property
    def agrees(self) -> bool | None:
        """True if the published accuracy lies where one more run of ours would; None if that is unknown."""
        if self.is_short or self.single is None:
            return None
        return self.single[0] <= self.published <= self.single[1]


@dataclass(frozen=True)
class HonestRow:
    """Test results of a recipe under the honest protocol: the best epoch's weights on images that nothing else used."""

    recipe: str
    accuracy: Estimate
    balanced_accuracy: Estimate
    kept_epochs: list[int]
    """The epoch of each run whose weights were tested."""
    majority: float
    seconds: float
    """Training time of the fastest run."""
    machine: str
    """Machine of the fastest run."""


def group_records(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Group records by recipe, protocol and setting, in their order. Leave out runs that learned nothing."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.has_learned:
            groups.setdefault((record.recipe, record.protocol, record.setting), []).append(record)
    return groups


def means_by_seed(records: Sequence[Record], metric: Callable[[Record], float]) -> list[float]:
    """Return a metric for each seed; the mean if several runs have the same seed."""
    values: dict[int, list[float]] = {}
    for record in records:
        values.setdefault(record.seed, []).append(metric(record))
    return list(map(mean, values.values()))


def fastest(records: Sequence[Record], epochs: int) -> tuple[float, str]:
    """Return the shortest training time for a number of epochs, in seconds, and the machine that took it."""
    long_enough = [record for record in records if record.epochs >= epochs]
    return min((sum(record.history.train_seconds[:epochs]), record.machine) for record in long_enough)


def _at_epoch(epoch: int, column: str) -> Callable[[Record], float]:
    return lambda record: float(getattr(record.history, column)[epoch - 1])


def published_rows(records: Sequence[Record]) -> list[PublishedRow]:
    """Return a row for each published result of each recipe, under each protocol that has runs.

    A row counts the runs that trained the published number of epochs; if there are none, those that trained longest.
    """
    rows: list[PublishedRow] = []
    for (name, protocol, _), group in group_records(records).items():
        for published in recipes.load(name).published:
            epochs = min(published.epochs, max(record.epochs for record in group))
            if any(row.epochs == epochs and (row.recipe, row.protocol) == (name, protocol) for row in rows):
                continue  # short runs get one row, not several rows after the same epoch
            counted = [record for record in group if record.epochs >= epochs]
            accuracies = means_by_seed(counted, _at_epoch(epochs, "validation_accuracy"))
            seconds, machine = fastest(counted, epochs)
            rows.append(
                PublishedRow(
                    recipe=name,
                    epochs=epochs,
                    published_epochs=published.epochs,
                    protocol=protocol,
                    published=published.accuracy,
                    published_loss=published.loss,
                    published_time=published.time,
                    accuracy=estimate_share(accuracies),
                    single=prediction_interval(accuracies),
                    loss=estimate(means_by_seed(counted, _at_epoch(epochs, "validation_loss"))),
                    seconds=seconds,
                    machine=machine,
                    note=published.note,
                )
            )
    return rows


def honest_rows(records: Sequence[Record]) -> list[HonestRow]:
    """Return the test results of each recipe under the honest protocol, of the runs that trained longest."""
    rows = []
    for (name, protocol, setting), group in group_records(records).items():
        if protocol != "honest" or setting:
            continue
        epochs = max(record.epochs for record in group)
        counted = [record for record in group if record.epochs == epochs]
        seconds, machine = fastest(counted, epochs)
        rows.append(
            HonestRow(
                recipe=name,
                accuracy=estimate_share(means_by_seed(counted, lambda record: record.test_accuracy)),
                balanced_accuracy=estimate_share(means_by_seed(counted, lambda record: record.balanced_accuracy)),
                kept_epochs=[record.kept_epoch for record in counted],
                majority=counted[0].majority,
                seconds=seconds,
                machine=machine,
            )
        )
    return rows


def early_stop(accuracies: Sequence[float], patience: int = PATIENCE) -> tuple[int, int]:
    """Return the epoch after which early stopping ends a training, and the epoch whose weights it keeps, both from 1.

    Args:
        accuracies: validation accuracy of each epoch.
        patience: number of epochs without improvement after which it stops. If that never happens, the training ends
            with its last epoch.
    """
    best = 0
    for epoch, accuracy in enumerate(accuracies):
        if accuracy > accuracies[best]:
            best = epoch
        if epoch - best >= patience:
            return epoch + 1, best + 1
    return len(accuracies), best + 1
