"""Records of many runs to figures beside the published ones. Knows no training.

A record is what `reproduction.record` keeps of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from cifarlab import recipes
from cifarlab.statistics.significance import Estimate, estimate, estimate_share, prediction_interval

Record = dict[str, Any]
PATIENCE = 5
"""Epochs without a better one after which early stopping is taken to stop."""


@dataclass(frozen=True)
class Row:
    """One published figure beside ours, under one protocol."""

    recipe: str
    epochs: int
    """After which it is measured: the published figure's, or as far as the runs went."""
    published_epochs: int
    protocol: str
    published: float
    published_loss: float | None
    published_time: str
    accuracy: Estimate
    """On the test images under the published protocol, on validation images under the honest one."""
    single: tuple[float, float] | None
    """Where one more run would lie, as the published one does; None where there is one run."""
    loss: Estimate
    seconds: float
    """Of training up to there, in the fastest run."""
    machine: str
    """What that one was trained on."""
    note: str

    @property
    def is_short(self) -> bool:
        """Whether the runs have fewer epochs than the published figure."""
        return self.epochs < self.published_epochs

    @property
    def after(self) -> str:
        """How many epochs it is of, in words: `10`, or `139 of 350`."""
        return f"{self.epochs} of {self.published_epochs}" if self.is_short else str(self.epochs)

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure lies where one more run of ours would; None where it cannot be said."""
        if self.is_short or self.single is None:
            return None
        return self.single[0] <= self.published <= self.single[1]


@dataclass(frozen=True)
class Tested:
    """What the weights of the best validation epoch do on the test images, which nothing else has touched."""

    recipe: str
    accuracy: Estimate
    balanced_accuracy: Estimate
    kept_epochs: list[int]
    majority: float
    seconds: float
    """Of training, all epochs, in the fastest run."""
    machine: str


def grouped(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Records by recipe, protocol and setting, in the order in which they come; without those that learned nothing."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in filter(has_learned, records):
        groups.setdefault((record["recipe"], record["protocol"], record["setting"]), []).append(record)
    return groups


def has_learned(record: Record) -> bool:
    """Whether the network gives test images more than one answer: one whose ReLUs have died does not."""
    return int(np.count_nonzero(np.sum(record["confusion"], axis=0))) > 1


def by_seed(members: Sequence[Record], figure: Callable[[Record], float]) -> list[float]:
    """A figure for each seed: the mean over its starts, where it was begun more than once."""
    starts: dict[int, list[float]] = {}
    for member in members:
        starts.setdefault(member["seed"], []).append(figure(member))
    return list(map(mean, starts.values()))


def _after(epochs: int, key: str) -> Callable[[Record], float]:
    return lambda record: float(record["history"][key][epochs - 1])


def fastest(members: Sequence[Record], epochs: int) -> tuple[float, str]:
    """The fewest seconds of training that so many epochs took, and on what."""
    far = (member for member in members if epochs_of(member) >= epochs)
    return min((sum(member["history"]["train_seconds"][:epochs]), _machine(member)) for member in far)


def rows(records: Sequence[Record]) -> list[Row]:
    """A row for each published figure of each recipe, under each protocol that there are runs of.

    It is of the runs that went as far as the published one; where none did, of those that went farthest.
    """
    found: list[Row] = []
    for (name, protocol, _), group in grouped(records).items():
        for figure in recipes.load(name).published:
            epochs = min(figure.epochs, max(map(epochs_of, group)))
            members = [member for member in group if epochs_of(member) >= epochs]
            if any(row.epochs == epochs and (row.recipe, row.protocol) == (name, protocol) for row in found):
                continue  # a short version: it has one figure, not several after the same epoch
            reached = by_seed(members, _after(epochs, "validation_accuracy"))
            seconds, machine = fastest(members, epochs)
            found.append(
                Row(
                    recipe=name,
                    epochs=epochs,
                    published_epochs=figure.epochs,
                    protocol=protocol,
                    published=figure.accuracy,
                    published_loss=figure.loss,
                    published_time=figure.time,
                    accuracy=estimate_share(reached),
                    single=prediction_interval(reached),
                    loss=estimate(by_seed(members, _after(epochs, "validation_loss"))),
                    seconds=seconds,
                    machine=machine,
                    note=figure.note,
                )
            )
    return found


def tested(records: Sequence[Record]) -> list[Tested]:
    """What the honest protocol's runs that went farthest reached on the test images, by recipe."""
    found = []
    for (name, protocol, setting), group in grouped(records).items():
        if protocol != "honest" or setting:
            continue
        epochs = max(map(epochs_of, group))
        members = [member for member in group if epochs_of(member) == epochs]
        seconds, machine = fastest(members, epochs)
        found.append(
            Tested(
                recipe=name,
                accuracy=estimate_share(by_seed(members, lambda each: each["test_accuracy"])),
                balanced_accuracy=estimate_share(by_seed(members, lambda each: each["balanced_accuracy"])),
                kept_epochs=[member["kept_epoch"] for member in members],
                majority=members[0]["majority"],
                seconds=seconds,
                machine=machine,
            )
        )
    return found


def epochs_of(record: Record) -> int:
    """How many epochs a run trained."""
    return len(record["history"]["train_loss"])


def _machine(record: Record) -> str:
    """What a record was trained on: a GPU's name, or a processor's cores."""
    found = record["environment"]
    return str(found["gpu"] or f"{found['threads']} of {found['cores']} cores")


def early_stop(accuracies: Sequence[float], patience: int = PATIENCE) -> tuple[int, int]:
    """Where early stopping ends a training, and the epoch whose weights it keeps, both from 1.

    Args:
        accuracies: on images held out, a value an epoch.
        patience: epochs without a better one after which it stops; where that never happens, the last epoch ends it.
    """
    best = 0
    for epoch, accuracy in enumerate(accuracies):
        if accuracy > accuracies[best]:
            best = epoch
        if epoch - best >= patience:
            return epoch + 1, best + 1
    return len(accuracies), best + 1
