"""`cifarlab compare`: which differences between recipes are real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.output import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.statistics.comparison import Comparison, Group, Pair


def compare(
    names: Annotated[
        list[str],
        typer.Argument(help="Runs or studies by name or path; quote a pattern such as 'a-*'.", metavar="RUN..."),
    ],
    metric: Annotated[
        str, typer.Option(help="accuracy or balanced_accuracy, the mean recall of the classes.")
    ] = "accuracy",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Say which differences between recipes are real: over seeds, or over test images for single runs."""
    from cifarlab import api

    found = api.compare(names, metric, runs=runs)
    if json:
        as_json(asdict(found))
        return
    figures = ("accuracy", "balanced") if metric == "accuracy" else ("balanced", "accuracy")
    titles = (
        "setting" if _short(found) else "recipe",
        "runs",
        figures[0],
        "deviation",
        "95 % interval",
        figures[1],
        "majority",
    )
    table(titles, [_cells(group, metric) for group in found.groups], titles[1:])
    print_pairs(found)


def _short(found: Comparison) -> bool:
    """Whether groups are called by their settings alone."""
    return any(group.label != group.name for group in found.groups)


def print_pairs(found: Comparison) -> None:
    """Print the table of differences between groups of runs."""
    labels, pairs = found.labels, found.table_pairs
    if found.table_note:
        typer.echo(f"{found.table_note} All {len(found.pairs)} pairs: --json.")
    if pairs:
        titles = ["difference", "b - a", "95 % interval", "p", "p, corrected", "real?", "detectable"]
        shown = [list(_judged(pair, labels)) for pair in pairs]
        if found.with_best:  # a is the same in all, and a few columns less fit a narrow terminal
            shown = [[labels[pair.b], *cells[1:3], *cells[4:6]] for pair, cells in zip(pairs, shown, strict=True)]
            titles = ["setting", "minus best", *titles[2:3], *titles[4:6]]
        table(titles, shown, titles[1:])
        if not found.with_best:
            typer.echo("detectable: the smallest true difference that such a comparison finds four times out of five")
    for pair in pairs:
        if pair.note:
            typer.echo(f"{labels[pair.b]} against {labels[pair.a]}: {pair.note}")
    over_images = {pair.test for pair in pairs} == {"mcnemar"}
    if over_images:
        typer.echo("Single runs: the tests know nothing of other seeds. Train each recipe with some five --seed.")


def _cells(group: Group, metric: str) -> tuple[str, ...]:
    estimate, other = (
        group.estimate(metric),
        group.estimate("balanced_accuracy" if metric == "accuracy" else "accuracy"),
    )
    deviation, interval = percent(estimate.deviation), _interval(estimate.low, estimate.high)
    if estimate.n == 1:
        interval = f"{_interval(*group.test_interval)} over images"
    majority = percent(group.majority)
    return group.label, str(estimate.n), percent(estimate.mean), deviation, interval, percent(other.mean), majority


def _judged(pair: Pair, labels: Mapping[str, str]) -> tuple[str, ...]:
    a, b, found = labels[pair.a], labels[pair.b], pair.found
    name = f"({b}) - ({a})" if "," in a + b and "(" not in a + b else f"{b} - {a}"
    if found is None or pair.corrected is None:
        return name, "-", "-", "-", "-", "not compared", "-"
    verdict = "yes" if pair.real else "may be chance"
    interval = _interval(found.low, found.high, signed=True)
    return (
        name,
        f"{found.difference:+.2%}",
        interval,
        f"{found.p:.3g}",
        f"{pair.corrected:.3g}",
        verdict,
        percent(found.detectable),
    )


def _interval(low: float | None, high: float | None, signed: bool = False) -> str:
    if low is None or high is None:
        return "-"
    return f"{low:+.2%} to {high:+.2%}" if signed else f"{low:.2%} to {high:.2%}"
