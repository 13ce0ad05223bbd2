"""`cifarlab compare|reproduce`: what several runs say together."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Device, Runs
from cifarlab.cli.show import AsJson, as_json, percent, table

if TYPE_CHECKING:
    from cifarlab.comparison import Group, Pair


def compare(
    names: Annotated[
        list[str], typer.Argument(help="Runs by name or path; quote a pattern such as 'a-*'.", metavar="RUN...")
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
    titles = ("recipe", "runs", figures[0], "deviation", "95 % interval", figures[1], "majority")
    table(titles, [_cells(group, metric) for group in found.groups], titles[1:])
    if found.pairs:
        titles = ("difference", "b - a", "95 % interval", "p", "p, corrected", "real?", "could have seen")
        table(titles, [_judged(pair) for pair in found.pairs], titles[1:])
    for pair in found.pairs:
        if pair.note:
            typer.echo(f"{pair.b} against {pair.a}: {pair.note}")
    over_images = {pair.test for pair in found.pairs} == {"mcnemar"}
    if over_images:
        typer.echo("Single runs: the tests know nothing of other seeds. Train each recipe with some five --seed.")


def _cells(group: Group, metric: str) -> tuple[str, ...]:
    estimate, other = group.accuracy, group.balanced_accuracy
    if metric != "accuracy":
        estimate, other = other, estimate
    deviation, interval = percent(estimate.deviation), _interval(estimate.low, estimate.high)
    if estimate.n == 1:
        interval = f"{_interval(*group.test_interval)} over images"
    majority = percent(group.majority)
    return group.name, str(estimate.n), percent(estimate.mean), deviation, interval, percent(other.mean), majority


def _judged(pair: Pair) -> tuple[str, ...]:
    name, found = f"{pair.b} - {pair.a}", pair.found
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


def reproduce(
    name: Annotated[str, typer.Argument(help="A recipe with published figures, a folder such as relabel, or all.")],
    seeds: Annotated[
        str | None, typer.Option(help="Runs of each, or from:to; default 5, or 2 with --quick.", metavar="N|FROM:TO")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few epochs only, and the table says so.")] = False,
    minutes: Annotated[float, typer.Option(help="End each training after so many; 0: never.", min=0)] = 0.0,
    device: Device = "auto",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Train published experiments over seeds, as published and honestly, and set the figures side by side."""
    from cifarlab import reproduction, results

    chosen = reproduction.seeds_of(seeds) if seeds else None
    records = reproduction.reproduce(name, chosen, quick=quick, minutes=minutes, device=device, runs=runs)
    folder = reproduction.write(records, name, quick=quick, runs=runs)
    if json:
        rows, tested = results.rows(records), results.tested(records)
        as_json({"folder": str(folder), "rows": list(map(asdict, rows)), "tested": list(map(asdict, tested))})
        return
    for found in results.tables(records):
        table(found.titles, found.cells, found.titles[1:])
        if found.caption:
            typer.echo(found.caption)
    if quick:
        typer.echo("Few epochs: the published figures are after more. Without --quick the runs go all the way.")
    typer.echo(f"table, pictures and records: {folder}")


COMMANDS = (compare, reproduce)
