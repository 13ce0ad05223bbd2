"""`cifarlab report`: draw the page of a run, or of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.output import AsJson, as_json

if TYPE_CHECKING:
    pass


def report(
    names: Annotated[list[str], typer.Argument(help="Runs by name or path.", metavar="RUN...")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; default: the run's folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Draw a run's figures again and write its page; or one page about several runs."""
    from cifarlab import api

    page = api.write_report(names, out, force=force, runs=runs)
    if json:
        as_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")
