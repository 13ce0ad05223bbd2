"""Records of many runs to a table beside the published figures, and to pictures. Knows no training.

A record is what `reproduction.record` keeps of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures, recipes
from cifarlab.comparison import share
from cifarlab.progress import duration
from cifarlab.significance import CONFIDENCE, POWER, Estimate, estimate, holm, welch

Record = dict[str, Any]
PATIENCE = 5
"""Epochs without a better one after which early stopping is taken to stop."""
UNTOUCHED = "the untouched"
"""The mean of the classes that no experiment of a folder drops or merges."""


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
    loss: Estimate
    seconds: float
    """Of training up to there, a mean over the runs."""
    machine: str
    """What it was trained on."""
    note: str

    @property
    def is_short(self) -> bool:
        """Whether the runs have fewer epochs than the published figure."""
        return self.epochs < self.published_epochs

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure lies in our interval; None where it cannot be said."""
        if self.is_short or self.accuracy.low is None or self.accuracy.high is None:
            return None
        return self.accuracy.low <= self.published <= self.accuracy.high


@dataclass(frozen=True)
class Tested:
    """What the weights of the best validation epoch do on the test images, which nothing else has touched."""

    recipe: str
    accuracy: Estimate
    balanced_accuracy: Estimate
    kept_epochs: list[int]
    majority: float
    seconds: float
    """Of training, all epochs, a mean over the runs."""
    machine: str


def grouped(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Records by recipe, protocol and setting, in the order in which they come; without those that learned nothing."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in filter(_learned, records):
        groups.setdefault((record["recipe"], record["protocol"], record["setting"]), []).append(record)
    return groups


def _learned(record: Record) -> bool:
    """Whether the network gives test images more than one answer: one whose ReLUs have died does not."""
    return int(np.count_nonzero(np.sum(record["confusion"], axis=0))) > 1


def rows(records: Sequence[Record]) -> list[Row]:
    """A row for each published figure of each recipe, under each protocol that there are runs of.

    It is of the runs that went as far as the published one; where none did, of all, as far as all of them went.
    """
    found: list[Row] = []
    for (name, protocol, _), group in grouped(records).items():
        for figure in recipes.load(name).published:
            members = [member for member in group if _epochs(member) >= figure.epochs] or group
            epochs = min(figure.epochs, *map(_epochs, members))
            if any(row.epochs == epochs and (row.recipe, row.protocol) == (name, protocol) for row in found):
                continue  # a short version: it has one figure, not several after the same epoch
            found.append(
                Row(
                    recipe=name,
                    epochs=epochs,
                    published_epochs=figure.epochs,
                    protocol=protocol,
                    published=figure.accuracy,
                    published_loss=figure.loss,
                    published_time=figure.time,
                    accuracy=share([member["history"]["validation_accuracy"][epochs - 1] for member in members]),
                    loss=estimate([member["history"]["validation_loss"][epochs - 1] for member in members]),
                    seconds=mean(sum(member["history"]["train_seconds"][:epochs]) for member in members),
                    machine=_machines(members),
                    note=figure.note,
                )
            )
    return found


def tested(records: Sequence[Record]) -> list[Tested]:
    """What the honest protocol's runs reached on the test images, by recipe."""
    return [
        Tested(
            recipe=name,
            accuracy=share([member["test_accuracy"] for member in members]),
            balanced_accuracy=share([member["balanced_accuracy"] for member in members]),
            kept_epochs=[member["kept_epoch"] for member in members],
            majority=members[0]["majority"],
            seconds=mean(sum(member["history"]["train_seconds"]) for member in members),
            machine=_machines(members),
        )
        for (name, protocol, setting), members in grouped(records).items()
        if protocol == "honest" and not setting
    ]


def _epochs(record: Record) -> int:
    return len(record["history"]["train_loss"])


def _machines(records: Sequence[Record]) -> str:
    """What records were trained on: a GPU's name, or a processor's cores."""
    found = (record["environment"] for record in records)
    return ", ".join(sorted({each["gpu"] or f"{each['threads']} of {each['cores']} cores" for each in found}))


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


@dataclass(frozen=True)
class Table:
    """Texts in columns."""

    titles: tuple[str, ...]
    cells: list[list[str]]
    caption: str = ""
    """What a reader must know, or empty."""


def tables(records: Sequence[Record]) -> list[Table]:
    """What there is to tell.

    Published figures and ours, figures on untouched test images, where early stopping ends long trainings, what became
    of each class where some were dropped or merged and what merging answers would have done, settings of `lenet5`.
    """
    made = (_figures, _tested, _stops, _recalls, _merged, _settings)
    found = [make(records) for make in made]
    return [table for table in found if table.cells]


def _figures(records: Sequence[Record]) -> Table:
    titles = ("experiment", "epochs", "published", "protocol", "ours", "deviation", "95 % interval", "n")
    cells = []
    for row in rows(records):
        epochs = f"{row.epochs} of {row.published_epochs}" if row.is_short else str(row.epochs)
        loss = f"{row.loss.mean:.3f}" + (f" ({row.published_loss} published)" if row.published_loss else "")
        known = [row.recipe, epochs, f"{row.published:.2%}", row.protocol, *_estimate_cells(row.accuracy)]
        cells.append([*known, loss, duration(row.seconds), row.machine, row.published_time or "-"])
    caption = "Accuracy and loss: published protocol, on the test images while training; honest, on validation images."
    if stuck := [record for record in records if not _learned(record)]:
        told = (
            "{recipe} ({protocol} protocol, seed {seed}, {epochs} epochs)".format(epochs=_epochs(each), **each)
            for each in stuck
        )
        caption += f" Left out of every mean, since they give all test images one answer: {', '.join(told)}."
    return Table((*titles, "loss", "training", "on", "published time"), cells, caption)


def _tested(records: Sequence[Record]) -> Table:
    titles = ("experiment", "test accuracy, honest", "deviation", "95 % interval", "n")
    cells = []
    for each in tested(records):
        balanced, kept = f"{each.balanced_accuracy.mean:.2%}", ", ".join(map(str, each.kept_epochs))
        known = [each.recipe, *_estimate_cells(each.accuracy), balanced, f"{each.majority:.1%}", kept]
        cells.append([*known, duration(each.seconds), each.machine])
    return Table((*titles, "balanced accuracy", "majority class", "kept epochs", "training", "on"), cells)


def _stops(records: Sequence[Record]) -> Table:
    """Where early stopping would have ended the runs of which several epochs were published."""
    cells = []
    for (name, protocol, _), members in grouped(records).items():
        if len(recipes.load(name).published) < 2:
            continue
        curves = [member["history"]["validation_accuracy"] for member in members]
        stops = [early_stop(curve) for curve in curves]
        kept = mean(curve[epoch - 1] for curve, (_, epoch) in zip(curves, stops, strict=True))
        told = [", ".join(str(stop[part]) for stop in stops) for part in (0, 1)]
        highest, last = mean(map(max, curves)), mean(curve[-1] for curve in curves)
        trained = ", ".join(map(str, map(len, curves)))
        cells.append([name, protocol, *told, f"{kept:.2%}", f"{highest:.2%}", f"{last:.2%}", trained])
    titles = ("early stopping", "protocol", "stops after epoch", "keeps epoch", "accuracy there", "best of all epochs")
    caption = f"Patience {PATIENCE}: each run's stop, and means over the runs of accuracy on the images held out."
    return Table((*titles, "after the last", "epochs trained"), cells, caption)


def _recalls(records: Sequence[Record]) -> Table:
    """Recall of every class as it was before dropping and merging, each experiment beside the first of its folder."""
    honest = {name: members for (name, protocol, _), members in grouped(records).items() if protocol == "honest"}
    loaded = {name: recipes.load(name) for name in honest if "/" in name}
    touched = {name for each in loaded.values() for name in (*each.drop, *each.merge, *each.merge.values())}
    if not touched:
        return Table((), [])
    recalls = {
        name: [_with_untouched(member["original_recall"], touched) for member in honest[name]] for name in loaded
    }
    base, classes = next(iter(loaded)), {key for runs in recalls.values() for run in runs for key in run}
    shown = [*sorted(classes - {UNTOUCHED}), UNTOUCHED]
    values = {(name, key): [run[key] for run in recalls[name] if key in run] for name in recalls for key in shown}
    tests = {
        (name, key): welch(values[base, key], found).p
        for (name, key), found in values.items()
        if name != base and min(len(found), len(values[base, key])) > 1
    }
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    cells = [
        [name, *(_recall(values[name, key], corrected.get((name, key), 1.0)) for key in shown)] for name in recalls
    ]
    caption = (
        "Recall on the test images of each class as it was before dropping and merging, under the honest protocol: a "
        f"truck that is called a bird is right where trucks are birds. *: other than in {base}, by Welch's test over "
        f"seeds with Holm's correction for {len(tests)} comparisons (p < 0.05)."
    )
    return Table(("recall", *shown), cells, caption)


def _merged(records: Sequence[Record]) -> Table:
    """What networks trained on merged classes reach, beside those of the folder's first whose answers are merged."""
    honest = {name: members for (name, protocol, _), members in grouped(records).items() if protocol == "honest"}
    cells = []
    for name, members in honest.items():
        merge = recipes.load(name).merge
        base = next((other for other in honest if other.split("/")[0] == name.split("/")[0] and other != name), None)
        if not merge or base is None or recipes.load(base).merge:
            continue
        trained = [member["test_accuracy"] for member in members]
        afterwards = [merged_accuracy(member["confusion"], member["classes"], merge) for member in honest[base]]
        told = ["-", "-", "-"]
        if min(len(trained), len(afterwards)) > 1:
            found = welch(afterwards, trained)
            least = "-" if (found.detectable or 2) > 1 else f"{found.detectable:.2%}"
            told = [f"{found.difference:+.2%}", f"{found.p:.2g}", least]
        counts = f"{len(trained)} and {len(afterwards)}"
        cells.append([name, f"{mean(trained):.2%}", f"{mean(afterwards):.2%}", *told, counts])
    caption = (
        "Test accuracy under the honest protocol: of networks trained on merged classes, and of those trained on all "
        "ten, whose answers are merged afterwards (a truck called a bird is right); the difference by Welch's test, "
        f"and the one that so many runs would find with a chance of {POWER:.0%}."
    )
    titles = ("merging", "trained so", "merged afterwards", "difference", "p", "would be found", "n")
    return Table(titles, cells, caption)


def merged_accuracy(confusion: Sequence[Sequence[int]], classes: Sequence[str], merge: Mapping[str, str]) -> float:
    """The accuracy of a confusion matrix, rows true, where answers within a merged class are right."""
    merged = [merge.get(name, name) for name in classes]
    right = sum(
        count
        for true, row in zip(merged, confusion, strict=True)
        for answer, count in zip(merged, row, strict=True)
        if true == answer
    )
    return right / sum(map(sum, confusion))


def _with_untouched(recall: dict[str, float], touched: set[str]) -> dict[str, float]:
    return recall | {UNTOUCHED: mean(value for name, value in recall.items() if name not in touched)}


def _recall(values: Sequence[float], p: float) -> str:
    return f"{mean(values):.1%}{'*' if p < 1 - CONFIDENCE else ''}" if values else "-"


def _settings(records: Sequence[Record]) -> Table:
    """Each setting beside the first one, by Welch's test with Holm's correction."""
    groups = {key[2]: members for key, members in grouped(records).items() if key[2]}
    accuracies = {setting: [member["test_accuracy"] for member in members] for setting, members in groups.items()}
    first = next(iter(accuracies), "")
    base = accuracies.get(first, [])
    others = {setting: values for setting, values in accuracies.items() if setting != first}
    differences = {key: welch(base, values) for key, values in others.items() if min(len(base), len(values)) > 1}
    corrected = dict(zip(differences, holm([found.p for found in differences.values()]), strict=True))
    cells = []
    for setting, values in accuracies.items():
        told = ["-", "-"]
        if setting in differences:
            told = [f"{differences[setting].difference:+.2%}", f"{corrected[setting]:.2g}"]
        seconds = mean(sum(member["history"]["train_seconds"]) for member in groups[setting])
        cells.append([setting, *_estimate_cells(share(values)), *told, duration(seconds)])
    titles = ("setting", "test accuracy, honest", "deviation", "95 % interval", "n")
    caption = f"Difference from {first}, by Welch's test with Holm's correction."
    return Table((*titles, "difference", "p, corrected", "training"), cells, caption)


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [table.titles, ["---"] * len(table.titles), *([f"`{row[0]}`", *row[1:]] for row in table.cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (f"\n{table.caption}\n" if table.caption else "")


def _estimate_cells(found: Estimate) -> list[str]:
    if found.deviation is None or found.low is None or found.high is None:
        return [f"{found.mean:.2%}", "-", "-", str(found.n)]
    return [f"{found.mean:.2%}", f"{found.deviation:.2%}", f"{found.low:.2%} to {found.high:.2%}", str(found.n)]


def draw(records: Sequence[Record]) -> dict[str, Figure]:
    """Pictures by name.

    For each recipe and protocol, curves over seeds and the confusion matrix of all test images; the settings of
    `lenet5` beside one another; all published figures beside ours.
    """
    drawn = {}
    if settings := {key[2]: members for key, members in grouped(records).items() if key[2]}:
        reached = [share([member["test_accuracy"] for member in members]) for members in settings.values()]
        title = "lenet5: test accuracy, honest protocol"
        drawn["lenet5-settings"] = figures.intervals(list(settings), reached, {}, title)
    if found := rows(records):
        names = [f"{row.recipe}, {row.epochs} epochs, {row.protocol}" for row in found]
        published = {name: row.published for name, row in zip(names, found, strict=True) if not row.is_short}
        title = "Accuracy, ours and published"
        drawn["published-and-ours"] = figures.intervals(names, [row.accuracy for row in found], published, title)
    for (name, protocol, setting), members in grouped(records).items():
        if setting:
            continue
        stem = f"{name}-{protocol}".replace("/", "-")
        epochs = min(len(member["history"]["train_loss"]) for member in members)
        train, validation = (
            np.array([member["history"][f"{part}_accuracy"][:epochs] for member in members])
            for part in ("train", "validation")
        )
        points = [(figure.epochs, figure.accuracy) for figure in recipes.load(name).published]
        held_out = "test images" if protocol == "published" else "validation images"
        heading = f"{name}, {protocol} protocol"
        stops = [early_stop(curve)[0] for curve in validation] if len(points) > 1 else []
        drawn[f"{stem}-curves"] = figures.epoch_study(train, validation, held_out, points, heading, stops)
        matrix = np.array([member["confusion"] for member in members]).sum(axis=0)
        title = f"{heading}: test images, {len(members)} run{'s' * (len(members) > 1)} together"
        drawn[f"{stem}-confusion"] = figures.confusion(matrix, members[0]["classes"], title)
    return drawn
