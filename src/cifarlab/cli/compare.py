"""`cifarlab compare`: which differences between recipes are real."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import RunNames, Runs
from cifarlab.cli.output import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.statistics.comparison import Comparison, Group, Pair


def compare(
    names: RunNames,
    metric: Annotated[
        str, typer.Option(help="Metric to compare: accuracy, or balanced_accuracy, the mean recall of the classes.")
    ] = "accuracy",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Test which differences between recipes are real: over seeds, or over test images for single runs."""
    from cifarlab import api

    comparison = api.compare(names, metric, runs=runs)
    if json:
        as_json(asdict(comparison))
        return
    label = "setting" if any(group.setting != group.name for group in comparison.groups) else "recipe"
    main, other = ("accuracy", "balanced") if metric == "accuracy" else ("balanced", "accuracy")
    titles = (label, "runs", main, "deviation", "95 % interval", other, "majority")
    table(titles, [_cells(group, metric) for group in comparison.groups], titles[1:])
    print_pairs(comparison)


def print_pairs(comparison: Comparison) -> None:
    """Print the table of differences between groups of runs."""
    labels, pairs = comparison.labels, comparison.table_pairs
    if comparison.table_note:
        typer.echo(f"{comparison.table_note} All {len(comparison.pairs)} pairs: --json.")
    single = bool(comparison.seeds_note)
    if pairs:
        rows = [_pair_cells(pair, labels) for pair in pairs]
        columns = ["comparison", "difference", "95 % interval", "p", "p, corrected", "real?", "detectable"]
        if single:
            columns[-2:] = ["these images", "real?"]
        if comparison.with_best:  # a is the same in every row, and fewer columns fit a narrow terminal
            columns = ["setting", "minus best", "95 % interval", "p, corrected", "these images" if single else "real?"]
        table(columns, [[row[column] for column in columns] for row in rows], columns[1:])
        if "detectable" in columns and any(row["detectable"] != "-" for row in rows):
            typer.echo("detectable: the smallest true difference that these runs would find with a probability of 80 %")
    for pair in pairs:
        if pair.note:
            typer.echo(f"{labels[pair.b]} against {labels[pair.a]}: {pair.note}")
    for sentence in comparison.notes:
        typer.echo(sentence)


def _cells(group: Group, metric: str) -> tuple[str, ...]:
    main, other = group.estimate(metric), group.estimate("balanced_accuracy" if metric == "accuracy" else "accuracy")
    interval = _interval(main.low, main.high) if main.n > 1 else f"{_interval(*group.test_interval)} over images"
    shares = (percent(share) for share in (other.mean, group.majority))
    label = group.label if group.label == group.setting else f"{group.label}: {group.setting}"
    return label, str(main.n), percent(main.mean), percent(main.deviation), interval, *shares


def _pair_cells(pair: Pair, labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return the cells of a row by column; those that are missing are a dash."""
    from cifarlab.statistics.significance import p_text

    a, b, found = labels[pair.a], labels[pair.b], pair.found
    name = f"({b}) - ({a})" if "," in a + b and "(" not in a + b else f"{b} - {a}"
    cells = defaultdict(lambda: "-", {"comparison": name, "setting": b, "real?": pair.verdict})
    if found is not None and pair.corrected is not None:
        cells["difference"] = cells["minus best"] = f"{found.difference:+.2%}"
        cells["95 % interval"] = _interval(found.low, found.high, "+")
        cells |= {"p": p_text(found.p), "p, corrected": p_text(pair.corrected), "detectable": found.detectable_text}
        cells["these images"] = pair.on_images or "-"
    return cells


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "-" if low is None or high is None else f"{low:{sign}.2%} to {high:{sign}.2%}"
