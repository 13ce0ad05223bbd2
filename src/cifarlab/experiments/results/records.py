"""Records of runs, which `experiments.reproduce` makes, and means over seeds beside the published results."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, RootModel

from cifarlab import files, recipes
from cifarlab.errors import UsageError, validated
from cifarlab.runs.record import Environment
from cifarlab.statistics.significance import Estimate, estimate, estimate_share, prediction_interval

PATIENCE = 5  # epochs without improvement after which the tables take early stopping to stop

Protocol = Literal["published", "honest"]


class History(BaseModel, frozen=True, extra="forbid"):
    """Metrics per epoch. Losses in nats, accuracies in [0, 1], times in seconds."""

    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]  # on the test images under the published protocol; so `validation_accuracy`
    validation_accuracy: tuple[float, ...]
    train_seconds: tuple[float, ...]


class Record(BaseModel, frozen=True, extra="forbid"):
    """A finished run of an experiment, as records.json and docs/results/*.json store it."""

    recipe: str
    protocol: Protocol
    setting: str  # changes to the recipe, as a key of `reproduce.SETTINGS`; empty if there are none
    seed: int
    history: History
    kept_epoch: int  # whose weights were tested, counted from 1
    test_accuracy: float
    test_loss: float
    balanced_accuracy: float  # mean recall of the classes on the test images, in [0, 1]
    majority: float  # accuracy on the test images of always answering the most frequent class, in [0, 1]
    classes: tuple[str, ...]  # names after dropping and merging
    confusion: tuple[tuple[int, ...], ...]  # numbers of test images [classes, classes]; rows are true classes
    original_recall: dict[str, float]  # fraction of correct answers by class before merging, in [0, 1]
    sha256: str = ""  # of the data
    environment: Environment
    start: int = 0  # number of earlier runs with this seed; a GPU gives other bits each time without `--deterministic`

    @property
    def epochs(self) -> int:
        """Number of epochs that were trained."""
        return len(self.history.train_loss)

    @property
    def machine(self) -> str:
        """The GPU's name, or the processor's cores."""
        return self.environment.gpu or f"{self.environment.threads} of {self.environment.items().get('cores')} cores"

    @property
    def has_learned(self) -> bool:
        """False if the network gives all test images the same answer, as it does when its ReLUs have died."""
        return int(np.count_nonzero(np.sum(self.confusion, axis=0))) > 1

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON document; `start` only if it was given."""
        return self.model_dump(mode="json", exclude_unset=True) | {"environment": self.environment.items()}


def read_records(path: Path) -> list[Record]:
    """Read a file of records, and check that each has all values and no others."""
    try:
        return validated(RootModel[list[Record]], path.read_bytes(), f"{path} is damaged").root
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records, one record a line."""
    lines = ",\n".join(json.dumps(record.to_json()) for record in records)
    files.write_text(path, f"[\n{lines}\n]\n")


@dataclass(frozen=True)
class PublishedRow:
    """A published result beside ours, under one protocol."""

    recipe: str
    epochs: int  # after which ours is measured: the published number, or as far as our runs went
    published_epochs: int
    protocol: Protocol
    published: float  # accuracy, in [0, 1]
    published_loss: float | None
    published_time: str
    accuracy: Estimate  # ours, on the test images under the published protocol, on validation images under the honest
    single: tuple[float, float] | None  # where one more run of ours would lie, like the published one, if known
    loss: Estimate  # ours on the same images
    seconds: float  # training time of the fastest run up to this epoch
    machine: str  # of the fastest run
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
    kept_epochs: list[int]  # of each run, whose weights were tested
    majority: float
    seconds: float  # training time of the fastest run
    machine: str  # of the fastest run


def group_records(records: Sequence[Record]) -> dict[tuple[str, Protocol, str], list[Record]]:
    """Group records by recipe, protocol and setting, in their order. Leave out runs that learned nothing."""
    groups: dict[tuple[str, Protocol, str], list[Record]] = {}
    for record in records:
        if record.has_learned:
            groups.setdefault((record.recipe, record.protocol, record.setting), []).append(record)
    return groups


def means_by_seed(records: Sequence[Record], values: Iterable[float]) -> list[float]:
    """Return the values of the records by seed: the mean if several runs have the same seed."""
    by_seed: dict[int, list[float]] = {}
    for record, value in zip(records, values, strict=True):
        by_seed.setdefault(record.seed, []).append(value)
    return list(map(mean, by_seed.values()))


def accuracy_by_seed(records: Sequence[Record]) -> list[float]:
    """Return the test accuracy of each seed."""
    return means_by_seed(records, (record.test_accuracy for record in records))


def fastest(records: Sequence[Record], epochs: int) -> tuple[float, str]:
    """Return the shortest training time for a number of epochs, in seconds, and the machine that took it."""
    long_enough = [record for record in records if record.epochs >= epochs]
    return min((sum(record.history.train_seconds[:epochs]), record.machine) for record in long_enough)


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
            accuracies = means_by_seed(counted, (run.history.validation_accuracy[epochs - 1] for run in counted))
            losses = means_by_seed(counted, (run.history.validation_loss[epochs - 1] for run in counted))
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
                    loss=estimate(losses),
                    seconds=seconds,
                    machine=machine,
                    note=published.note,
                )
            )
    return rows


def honest_rows(records: Sequence[Record]) -> Iterator[HonestRow]:
    """Yield the test results of each recipe under the honest protocol, of the runs that trained longest."""
    for (name, protocol, setting), group in group_records(records).items():
        if protocol != "honest" or setting:
            continue
        epochs = max(record.epochs for record in group)
        counted = [record for record in group if record.epochs == epochs]
        seconds, machine = fastest(counted, epochs)
        yield HonestRow(
            recipe=name,
            accuracy=estimate_share(accuracy_by_seed(counted)),
            balanced_accuracy=estimate_share(means_by_seed(counted, (run.balanced_accuracy for run in counted))),
            kept_epochs=[record.kept_epoch for record in counted],
            majority=counted[0].majority,
            seconds=seconds,
            machine=machine,
        )


def early_stop(accuracies: Sequence[float], patience: int = PATIENCE) -> tuple[int, int]:
    """Return the epochs after which early stopping ends a training and whose weights it keeps, counted from 1."""
    best = 0
    for epoch, accuracy in enumerate(accuracies):
        if accuracy > accuracies[best]:
            best = epoch
        if epoch - best >= patience:
            return epoch + 1, best + 1
    return len(accuracies), best + 1
