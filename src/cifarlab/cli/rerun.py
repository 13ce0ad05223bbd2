"""`cifarlab rerun`: repeat a finished run and compare the bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.output import AsJson, as_json

if TYPE_CHECKING:
    pass


def rerun(
    run: Annotated[str, typer.Argument(help="A finished run's name or path.")],
    name: Annotated[str | None, typer.Option(help="Of the new run; default: the old one's with -rerun.")] = None,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Do a finished run again, and say whether it comes out the same to the bit; exit status 1 if it does not."""
    from cifarlab.experiments.rerun import rerun

    found = rerun(run, name=name, runs=runs)
    if json:
        as_json(
            {
                "run": str(found.run.path),
                "matches": found.matches,
                "differences": list(found.differences),
                "reasons": list(found.reasons),
            }
        )
    elif found.matches:
        typer.echo("matches: weights, figures of every epoch and predictions are the same to the bit")
    else:
        typer.echo(f"differs: {'; '.join(found.differences)}")
    if not json:
        for reason in found.reasons:
            typer.echo(f"not as it was: {reason}")
        typer.echo(f"run: {found.run.path}")
    if not found.matches:
        raise typer.Exit(1)
