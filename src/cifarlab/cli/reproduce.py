"""`cifarlab reproduce`: repeat published experiments."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Device, Runs
from cifarlab.cli.output import AsJson, as_json, table

if TYPE_CHECKING:
    pass


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
    from cifarlab.experiments import reproduce
    from cifarlab.experiments.results.records import honest_rows, published_rows
    from cifarlab.experiments.results.tables import make_tables

    chosen = reproduce.parse_seeds(seeds) if seeds else None
    records = reproduce.run_experiment(name, chosen, quick=quick, minutes=minutes, device=device, runs=runs)
    folder = reproduce.write_results(records, name, quick=quick, runs=runs)
    if json:
        rows, tested = published_rows(records), honest_rows(records)
        as_json({"folder": str(folder), "rows": list(map(asdict, rows)), "tested": list(map(asdict, tested))})
        return
    for found in make_tables(records):
        table(found.titles, found.cells, found.titles[1:])
        if found.caption:
            typer.echo(found.caption)
    if quick:
        whole = "Without --quick and --minutes" if minutes else "Without --quick"
        typer.echo(f"Few epochs: the published figures are after more. {whole} the runs go all the way.")
    typer.echo(f"table, pictures and records: {folder}")
