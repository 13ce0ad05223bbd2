"""Options that several commands share."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

command_line: ContextVar[str] = ContextVar("command_line")
"""The command that runs, as it would be typed; run.json keeps it."""

Runs = Annotated[Path | None, typer.Option(help="The folder of runs.", envvar="CIFARLAB_RUNS")]
Data = Annotated[str | None, typer.Option(help="cifar10, digits, or your own: folder:DIR, csv:FILE, hf:DIR, npz:FILE.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a key; repeatable.", metavar="KEY=VALUE")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def with_data(settings: list[str] | None, data: str | None) -> list[str]:
    """What `--set` and `--data` change, as `--set` takes it."""
    from cifarlab.experiments.study.grid import as_setting

    return [*(settings or []), *([as_setting("dataset", data)] if data else [])]
