"""Options that several commands share."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cifarlab.recipes import Recipe

command_line: ContextVar[str] = ContextVar("command_line")
"""The command that runs, as it would be typed; run.json keeps it."""

Runs = Annotated[Path | None, typer.Option(help="The folder of runs.", envvar="CIFARLAB_RUNS")]
Data = Annotated[str | None, typer.Option(help="cifar10, digits, or your own: folder:DIR, csv:FILE, hf:DIR, npz:FILE.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a key; repeatable.", metavar="KEY=VALUE")]
Chosen = Annotated[str, typer.Argument(help="A recipe's name, or a TOML file.")]
Target = Annotated[str, typer.Argument(help="A run's name or path, a weights file, or pretrained:NAME.")]
Tta = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta", help="Mean over six views, moved by a pixel and mirrored; default: as its own test."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def with_data(settings: list[str] | None, data: str | None) -> list[str]:
    """What `--set` and `--data` change, as `--set` takes it."""
    from cifarlab.recipes import setting_text

    return [*(settings or []), *([setting_text("dataset", data)] if data else [])]


def chosen_recipe(name: str, settings: list[str]) -> Recipe:
    """Load a recipe and apply `--set` texts to it."""
    from cifarlab.recipes import load, parse_settings

    return load(name).changed(parse_settings(settings))
