"""Tables of many runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from cifarlab import recipes
from cifarlab.experiments.results.records import (
    PATIENCE,
    Record,
    accuracy_by_seed,
    early_stop,
    fastest,
    group_records,
    honest_rows,
    means_by_seed,
    published_rows,
)
from cifarlab.progress import duration
from cifarlab.statistics.significance import LEVEL, POWER, Estimate, dunnett, estimate_share, holm, p_text, welch

UNTOUCHED = "the untouched"  # column: mean over the classes that no experiment of a folder drops or merges
NONE = "-"  # an empty cell


@dataclass(frozen=True)
class Table:
    """Texts in columns, and a caption."""

    titles: tuple[str, ...]
    cells: list[list[str]]  # one list per row
    caption: str = ""


def make_tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables that have rows for these records."""
    makers = (_published, _honest, _early_stopping, _recall, _merging, _settings)
    return [table for table in (make(records) for make in makers) if table.cells]


def to_markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [table.titles, ["---"] * len(table.titles), *([f"`{row[0]}`", *row[1:]] for row in table.cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (f"\n{table.caption}\n" if table.caption else "")


def _estimate_cells(accuracy: Estimate) -> list[str]:
    """Return mean, standard deviation, interval of the mean and number of seeds."""
    if accuracy.deviation is None or accuracy.low is None or accuracy.high is None:
        return [f"{accuracy.mean:.2%}", NONE, NONE, str(accuracy.n)]
    interval = f"{accuracy.low:.2%} to {accuracy.high:.2%}"
    return [f"{accuracy.mean:.2%}", f"{accuracy.deviation:.2%}", interval, str(accuracy.n)]


def _published(records: Sequence[Record]) -> Table:
    titles = ("experiment", "epochs", "published", "protocol", "ours", "deviation", "95 % interval", "n", "single runs")
    cells = []
    rows = published_rows(records)
    for row in rows:
        loss = f"{row.loss.mean:.3f}" + (f" ({row.published_loss} published)" if row.published_loss else "")
        single = f"{max(row.single[0], 0):.1%} to {min(row.single[1], 1):.1%}" if row.single else NONE
        results = [f"{row.published:.2%}", row.protocol, *_estimate_cells(row.accuracy), single, loss]
        training = [duration(row.seconds), row.machine, row.published_time or NONE]
        cells.append([row.recipe, row.epochs_text, *results, *training])
    caption = (
        "Accuracy and loss under the published protocol are measured on the test images while training; under the "
        "honest protocol, on validation images. Interval: 95 % confidence interval of our mean. Single runs: one more "
        "run of ours would lie in this interval with 95 % probability; compare the published result, which is a single "
        "run too, with it. Runs with the same seed are averaged and count as one in n. Training: time of the fastest "
        "run. If no run has the published number of epochs, the row shows the longest run, whose last epoch a time "
        "limit may have cut short."
    )
    outside = [f"{row.recipe} after {row.epochs} ({row.protocol})" for row in rows if row.agrees is False]
    caption += f" Published results outside the interval of single runs: {', '.join(outside) or 'none'}."
    notes = {row.recipe: row.note for row in rows if row.note}
    caption += "".join(f" {name}: {note}." for name, note in notes.items())
    stuck = [
        f"{record.recipe} ({record.protocol} protocol, seed {record.seed}, {record.epochs} epochs)"
        for record in records
        if not record.has_learned
    ]
    if stuck:
        caption += (
            f" Left out of all means, because they predict the same class for every test image: {', '.join(stuck)}."
        )
    return Table((*titles, "loss", "training", "machine", "published time"), cells, caption)


def _honest(records: Sequence[Record]) -> Table:
    titles = ("experiment", "test accuracy, honest", "deviation", "95 % interval", "n")
    cells = []
    for row in honest_rows(records):
        balanced, kept = f"{row.balanced_accuracy.mean:.2%}", ", ".join(map(str, row.kept_epochs))
        accuracy = [*_estimate_cells(row.accuracy), balanced, f"{row.majority:.1%}"]
        cells.append([row.recipe, *accuracy, kept, duration(row.seconds), row.machine])
    return Table((*titles, "balanced accuracy", "majority class", "kept epochs", "training", "on"), cells)


def _early_stopping(records: Sequence[Record]) -> Table:
    """Epochs at which early stopping would have ended the runs of recipes with several published results."""
    cells = []
    groups = group_records(records)
    for (name, protocol, _), group in groups.items():
        if len(recipes.load(name).published) < 2:
            continue
        curves = [record.history.validation_accuracy for record in group]
        stops = [early_stop(curve) for curve in curves]
        stopped, kept = (", ".join(map(str, epochs)) for epochs in zip(*stops, strict=True))
        at_kept = mean(curve[epoch - 1] for curve, (_, epoch) in zip(curves, stops, strict=True))
        means = [f"{value:.2%}" for value in (at_kept, mean(map(max, curves)), mean(curve[-1] for curve in curves))]
        cells.append([name, protocol, stopped, kept, *means, ", ".join(str(len(curve)) for curve in curves)])
    titles = ("early stopping", "protocol", "stops after epoch", "keeps epoch", "accuracy there", "best of all epochs")
    caption = f"Patience {PATIENCE} epochs. The accuracies are means over runs, on validation images or, under the "
    caption += "published protocol, on test images."
    if any(len({record.seed for record in group}) < len(group) for group in groups.values()):
        caption += " A seed that was started twice has two runs here."
    return Table((*titles, "after the last", "epochs trained"), cells, caption)


def _honest_groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the runs under the honest protocol by recipe; for several settings of a recipe, the last one."""
    return {name: group for (name, protocol, _), group in group_records(records).items() if protocol == "honest"}


def _recall(records: Sequence[Record]) -> Table:
    """Recall of every class as it was before dropping and merging, beside the first experiment of the folder."""
    honest = {name: group for name, group in _honest_groups(records).items() if "/" in name}
    loaded = [recipes.load(name) for name in honest]
    touched = {name for recipe in loaded for name in (*recipe.drop, *recipe.merge, *recipe.merge.values())}
    if not touched:
        return Table((), [])
    values: dict[tuple[str, str], list[float]] = {}
    for name, group in honest.items():
        for recall in [record.original_recall for record in group]:
            untouched = mean(value for key, value in recall.items() if key not in touched)
            for key, value in (recall | {UNTOUCHED: untouched}).items():
                values.setdefault((name, key), []).append(value)
    base, columns = next(iter(honest)), [*sorted({key for _, key in values} - {UNTOUCHED}), UNTOUCHED]
    p_values = {
        (name, key): welch(values[base, key], several).p
        for (name, key), several in values.items()
        if name != base and min(len(several), len(values.get((base, key), []))) > 1
    }
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    texts = {
        place: f"{mean(several):.1%}{'*' if corrected.get(place, 1.0) < LEVEL else ''}"
        for place, several in values.items()
    }
    cells = [[name, *(texts.get((name, key), NONE) for key in columns)] for name in honest]
    caption = (
        "Recall on the test images, under the honest protocol, of each class as it was before dropping and merging. "
        "Where trucks are birds, a truck that is called a bird counts as correct."
    )
    if p_values:
        caption += (
            f" *: differs from {base} by Welch's test over seeds with Holm's correction for {len(p_values)} "
            "comparisons (p < 0.05)."
        )
    return Table(("recall", *columns), cells, caption)


def _merging(records: Sequence[Record]) -> Table:
    """Training on merged classes beside training on all classes and merging the answers afterwards."""
    honest = _honest_groups(records)
    cells = []
    for name, group in honest.items():
        merge = recipes.load(name).merge
        base = next((other for other in honest if other.split("/")[0] == name.split("/")[0] and other != name), None)
        if not merge or base is None or recipes.load(base).merge:
            continue
        trained = accuracy_by_seed(group)
        merged = [merged_accuracy(run.confusion, run.classes, merge) for run in honest[base]]
        afterwards = means_by_seed(honest[base], merged)
        test = [NONE, NONE, NONE]
        if min(len(trained), len(afterwards)) > 1:
            difference = welch(afterwards, trained)
            test = [f"{difference.difference:+.2%}", f"{difference.p:.2g}", difference.detectable_text]
        counts = f"{len(trained)} and {len(afterwards)}"
        cells.append([name, f"{mean(trained):.2%}", f"{mean(afterwards):.2%}", *test, counts])
    caption = (
        "Test accuracy under the honest protocol of networks trained on merged classes, and of networks trained on all "
        "ten classes whose answers are merged afterwards, so that a truck called a bird is correct. Difference by "
        "Welch's test. Would be found: the smallest difference that so many runs find with a probability of "
        f"{POWER:.0%}."
    )
    titles = ("merging", "merged before training", "merged afterwards", "difference", "p", "would be found", "n")
    return Table(titles, cells, caption)


def merged_accuracy(confusion: Sequence[Sequence[int]], classes: Sequence[str], merge: Mapping[str, str]) -> float:
    """Return the accuracy that a confusion matrix [classes, classes] has if answers within a merged class are right."""
    merged = np.array([merge.get(name, name) for name in classes])
    counts = np.array(confusion)
    return float(counts[merged[:, None] == merged].sum() / counts.sum())


def _settings(records: Sequence[Record]) -> Table:
    """Settings of one recipe, each compared with the first by Dunnett's test."""
    groups = {setting: group for (_, _, setting), group in group_records(records).items() if setting}
    accuracies = {setting: accuracy_by_seed(group) for setting, group in groups.items()}
    first, *others = accuracies or [""]  # a table without rows is left out
    base = accuracies.get(first, [])
    tested = [name for name in others if min(len(base), len(accuracies[name])) > 1 and accuracies[name] != base]
    p_values = dunnett(base, [accuracies[name] for name in tested]) if tested else []
    p = dict(zip(tested, p_values, strict=True))
    cells = []
    for setting, values in accuracies.items():
        difference = f"{mean(values) - mean(base):+.2%}" if setting != first else NONE
        seconds, _ = fastest(groups[setting], max(record.epochs for record in groups[setting]))
        p_value = p_text(p[setting], 2) if setting in p else NONE
        cells.append([setting, *_estimate_cells(estimate_share(values)), difference, p_value, duration(seconds)])
    titles = ("setting", "test accuracy, honest", "deviation", "95 % interval", "n")
    caption = f"Difference from {first}, by Dunnett's test, which pools the deviation of all settings."
    return Table((*titles, "difference", "p, corrected", "training"), cells, caption)
