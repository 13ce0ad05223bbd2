"""`cifarlab compare`: which differences between recipes are real."""

from __future__ import annotations

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
    label = "setting" if any(group.label != group.name for group in comparison.groups) else "recipe"
    main, other = ("accuracy", "balanced") if metric == "accuracy" else ("balanced", "accuracy")
    titles = (label, "runs", main, "deviation", "95 % interval", other, "majority")
    table(titles, [_cells(group, metric) for group in comparison.groups], titles[1:])
    print_pairs(comparison)


def print_pairs(comparison: Comparison) -> None:
    """Print the table of differences between groups of runs."""
    labels, pairs = comparison.labels, comparison.table_pairs
    if comparison.table_note:
        typer.echo(f"{comparison.table_note} All {len(comparison.pairs)} pairs: --json.")
    if pairs:
        titles = ["comparison", "difference", "95 % interval", "p", "p, corrected", "real?", "detectable"]
        rows = [list(_pair_cells(pair, labels)) for pair in pairs]
        if comparison.with_best:  # a is the same in every row, and fewer columns fit a narrow terminal
            rows = [[labels[pair.b], *cells[1:3], *cells[4:6]] for pair, cells in zip(pairs, rows, strict=True)]
            titles = ["setting", "minus best", *titles[2:3], *titles[4:6]]
        table(titles, rows, titles[1:])
        if not comparison.with_best:
            typer.echo("detectable: the smallest true difference that these runs would find with a probability of 80 %")
    for pair in pairs:
        if pair.note:
            typer.echo(f"{labels[pair.b]} against {labels[pair.a]}: {pair.note}")
    if {pair.test for pair in pairs} == {"mcnemar"}:
        typer.echo(
            "Single runs: the test covers the choice of images, not of seeds. Train each recipe with five seeds."
        )


def _cells(group: Group, metric: str) -> tuple[str, ...]:
    main, other = group.estimate(metric), group.estimate("balanced_accuracy" if metric == "accuracy" else "accuracy")
    interval = _interval(main.low, main.high) if main.n > 1 else f"{_interval(*group.test_interval)} over images"
    shares = (percent(share) for share in (other.mean, group.majority))
    return group.label, str(main.n), percent(main.mean), percent(main.deviation), interval, *shares


def _pair_cells(pair: Pair, labels: Mapping[str, str]) -> tuple[str, ...]:
    a, b, difference = labels[pair.a], labels[pair.b], pair.found
    name = f"({b}) - ({a})" if "," in a + b and "(" not in a + b else f"{b} - {a}"
    if difference is None or pair.corrected is None:
        return name, "-", "-", "-", "-", "not compared", "-"
    change, interval = f"{difference.difference:+.2%}", _interval(difference.low, difference.high, "+")
    p_values = (f"{p:.3g}" for p in (difference.p, pair.corrected))
    return name, change, interval, *p_values, "yes" if pair.real else "may be chance", percent(difference.detectable)


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "-" if low is None or high is None else f"{low:{sign}.2%} to {high:{sign}.2%}"
