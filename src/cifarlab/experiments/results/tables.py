"""What many runs say, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

from cifarlab import recipes
from cifarlab.experiments.results.records import (
    PATIENCE,
    Record,
    by_seed,
    early_stop,
    epochs_of,
    fastest,
    grouped,
    has_learned,
    rows,
    tested,
)
from cifarlab.progress import duration
from cifarlab.statistics.significance import CONFIDENCE, POWER, Estimate, dunnett, estimate_share, holm, welch

UNTOUCHED = "the untouched"
"""The mean of the classes that no experiment of a folder drops or merges."""


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
    titles = ("experiment", "epochs", "published", "protocol", "ours", "deviation", "95 % interval", "n", "single runs")
    cells = []
    for row in rows(records):
        loss = f"{row.loss.mean:.3f}" + (f" ({row.published_loss} published)" if row.published_loss else "")
        single = f"{max(row.single[0], 0):.1%} to {min(row.single[1], 1):.1%}" if row.single else "-"
        known = [row.recipe, row.after, f"{row.published:.2%}", row.protocol, *_estimate_cells(row.accuracy), single]
        cells.append([*known, loss, duration(row.seconds), row.machine, row.published_time or "-"])
    caption = (
        "Accuracy and loss: published protocol, on the test images while training; honest, on validation images. "
        "Interval: of our mean. Single runs: where one more run of ours would lie, nineteen times in twenty, as a "
        "published figure is one. A seed that was begun several times counts once. Training: of the fastest run. Where "
        "no run has the published number of epochs, the farthest one stands here alone; a time limit may have cut its "
        "last epoch short."
    )
    outside = [f"{row.recipe} after {row.epochs} ({row.protocol})" for row in rows(records) if row.agrees is False]
    caption += f" Published figures outside that, of those with several runs: {', '.join(outside) or 'none'}."
    if notes := {row.recipe: row.note for row in rows(records) if row.note}:
        caption += "".join(f" {name}: {note}." for name, note in notes.items())
    if stuck := [record for record in records if not has_learned(record)]:
        told = (
            "{recipe} ({protocol} protocol, seed {seed}, {epochs} epochs)".format(epochs=epochs_of(each), **each)
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
    if any(len(by_seed(members, epochs_of)) < len(members) for members in grouped(records).values()):
        caption += " A seed that was begun twice has two runs here."
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
        "truck that is called a bird is right where trucks are birds."
    )
    if tests:
        caption += (
            f" *: other than in {base}, by Welch's test over seeds with Holm's correction for {len(tests)} comparisons "
            "(p < 0.05)."
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
        trained = by_seed(members, lambda each: each["test_accuracy"])
        afterwards = by_seed(honest[base], partial(_merged_afterwards, merge=merge))
        told = ["-", "-", "-"]
        if min(len(trained), len(afterwards)) > 1:
            found = welch(afterwards, trained)
            least = "-" if found.detectable is None else f"{found.detectable:.2%}"
            told = [f"{found.difference:+.2%}", f"{found.p:.2g}", least]
        told.append(f"{len(trained)} and {len(afterwards)}")
        cells.append([name, f"{mean(trained):.2%}", f"{mean(afterwards):.2%}", *told])
    caption = (
        "Test accuracy under the honest protocol: of networks trained on merged classes, and of those trained on all "
        "ten, whose answers are merged afterwards (a truck called a bird is right); the difference by Welch's test, "
        f"and the one that so many runs would find with a chance of {POWER:.0%}."
    )
    titles = ("merging", "trained so", "merged afterwards", "difference", "p", "would be found", "n")
    return Table(titles, cells, caption)


def _merged_afterwards(record: Record, merge: Mapping[str, str]) -> float:
    return merged_accuracy(record["confusion"], record["classes"], merge)


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
    """Each setting beside the first one, by Dunnett's test."""
    groups = {key[2]: members for key, members in grouped(records).items() if key[2]}
    accuracies = {setting: by_seed(members, lambda each: each["test_accuracy"]) for setting, members in groups.items()}
    first, *others = accuracies or [""]  # no table without rows is shown
    base = accuracies.get(first, [])
    several = [name for name in others if min(len(base), len(accuracies[name])) > 1 and accuracies[name] != base]
    tested = dunnett(base, [accuracies[name] for name in several]) if several else []
    p = dict(zip(several, tested, strict=True))
    cells = []
    for setting, values in accuracies.items():
        difference = f"{mean(values) - mean(base):+.2%}" if setting != first else "-"
        seconds, _ = fastest(groups[setting], max(map(epochs_of, groups[setting])))
        told = f"{p[setting]:.2g}" if setting in p else "-"
        cells.append([setting, *_estimate_cells(estimate_share(values)), difference, told, duration(seconds)])
    titles = ("setting", "test accuracy, honest", "deviation", "95 % interval", "n")
    caption = f"Difference from {first}, and Dunnett's test, which takes the deviation of all settings together."
    return Table((*titles, "difference", "p, corrected", "training"), cells, caption)


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [table.titles, ["---"] * len(table.titles), *([f"`{row[0]}`", *row[1:]] for row in table.cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (f"\n{table.caption}\n" if table.caption else "")


def _estimate_cells(found: Estimate) -> list[str]:
    if found.deviation is None or found.low is None or found.high is None:
        return [f"{found.mean:.2%}", "-", "-", str(found.n)]
    return [f"{found.mean:.2%}", f"{found.deviation:.2%}", f"{found.low:.2%} to {found.high:.2%}", str(found.n)]
