"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path | None, typer.Option(help="The folder of runs.", envvar="CIFARLAB_RUNS")]
Data = Annotated[str | None, typer.Option(help="cifar10, digits, or your own: folder:DIR, csv:FILE, hf:DIR, npz:FILE.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def with_data(settings: list[str] | None, data: str | None) -> list[str]:
    """What `--set` and `--data` change, as `--set` takes it."""
    return [*(settings or []), *([f"dataset={data}"] if data else [])]
