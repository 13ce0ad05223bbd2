"""`cifarlab resume`: continue an interrupted run."""

from typing import Annotated

import typer

from cifarlab.cli.options import RunName, Runs, Trust
from cifarlab.cli.output import AsJson, print_run


def resume(
    run: RunName,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as the run began.")] = None,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Continue an interrupted run from its last checkpoint."""
    from cifarlab import api

    print_run(api.resume(run, device=device, runs=runs), json)
