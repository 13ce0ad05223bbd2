"""`cifarlab resume`: continue an interrupted run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.output import AsJson, print_run

if TYPE_CHECKING:
    pass


def resume(
    run: Annotated[str, typer.Argument(help="A run's name or path.")],
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: that of its beginning.")] = None,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Go on with a run that was interrupted."""
    from cifarlab import api

    print_run(api.resume(run, device=device, runs=runs), json)
