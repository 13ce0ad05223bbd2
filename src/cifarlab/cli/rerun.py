"""`cifarlab rerun`: repeat a finished run and compare the bits."""

from typing import Annotated

import typer

from cifarlab.cli.options import RunName, Runs, Trust
from cifarlab.cli.output import AsJson, as_json


def rerun(
    run: RunName,
    name: Annotated[str | None, typer.Option(help="Name of the new run. Default: RUN-rerun.")] = None,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Repeat a finished run and check that every bit comes out the same. Exit status 1 if not."""
    from cifarlab.experiments.rerun import rerun

    result = rerun(run, name=name, runs=runs)
    if json:
        changes = {"differences": result.differences, "reasons": result.reasons}
        as_json({"run": str(result.run.path), "matches": result.matches, **changes})
    else:
        bits = "matches: weights, metrics of every epoch and predictions are equal to the bit"
        typer.echo(bits if result.matches else f"differs: {'; '.join(result.differences)}")
        for reason in result.reasons:
            typer.echo(f"changed since then: {reason}")
        typer.echo(f"run: {result.run.path}")
    if not result.matches:
        raise typer.Exit(1)
