"""`cifarlab reproduce`: repeat published experiments."""

from dataclasses import asdict
from typing import Annotated

import typer

from cifarlab.cli.options import Device, Runs, complete_recipe
from cifarlab.cli.output import AsJson, as_json, table


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="Recipe with published accuracies, a folder of recipes such as relabel, or all.",
            metavar="NAME",
            autocompletion=complete_recipe,
        ),
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Number of seeds, or a range such as 5:10. Default: 5, or 2 with --quick.", metavar="N|FROM:TO"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Train for a few epochs only; the table says so.")] = False,
    minutes: Annotated[
        float, typer.Option(help="Stop each training after this many minutes; 0 means never.", min=0)
    ] = 0.0,
    device: Device = "auto",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Repeat published experiments over seeds and compare the accuracies with the published ones.

    Every experiment is trained twice: as published, and with a validation set that chooses the epoch.
    """
    from cifarlab.experiments import reproduce
    from cifarlab.experiments.results.records import Record, honest_rows, published_rows
    from cifarlab.experiments.results.tables import make_tables

    chosen = reproduce.parse_seeds(seeds) if seeds else None
    documents = reproduce.reproduce(name, chosen, quick=quick, minutes=minutes, device=device, runs=runs)
    records = list(map(Record.model_validate, documents))
    folder = reproduce.write_results(records, name, quick=quick, runs=runs)
    if json:
        rows, tested = published_rows(records), honest_rows(records)
        as_json({"folder": str(folder), "rows": list(map(asdict, rows)), "tested": list(map(asdict, tested))})
        return
    for part in make_tables(records):
        table(part.titles, part.cells, part.titles[1:])
        if part.caption:
            typer.echo(part.caption)
    if quick:
        whole = "Without --quick and --minutes" if minutes else "Without --quick"
        typer.echo(f"The published accuracies are after more epochs. {whole} the runs go all the way.")
    typer.echo(f"table, figures and records: {folder}")
