"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path | None, typer.Option(help="The folder of runs.", envvar="CIFARLAB_RUNS")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
