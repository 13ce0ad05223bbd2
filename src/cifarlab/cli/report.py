"""`cifarlab report`: draw the page of a run, or of several."""

from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import RunNames, Runs, Trust
from cifarlab.cli.output import AsJson, as_json


def report(
    names: RunNames,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; needed for several runs. Default: report.html of the run.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Draw the figures of a run again and write its report; or one report about several runs."""
    from cifarlab import api

    page = api.write_report(names, out, force=force, runs=runs)
    if json:
        as_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")
