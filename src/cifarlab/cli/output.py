"""Print results on stdout: a table, or one JSON document."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifarlab.errors import one_line

if TYPE_CHECKING:
    from cifarlab.api import Run

SCHEMA = 1  # version of the JSON documents
WIDE = 10_000  # characters; every table is narrower

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def as_json(value: Any) -> None:
    """Print one JSON document; a dictionary also gets the version of its `schema`."""
    document = {"schema": SCHEMA, **value} if isinstance(value, dict) else value
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str] = ()) -> None:
    """Print rows under headings; the columns named in `numbers` are aligned to the right.

    On a terminal a table is never wider than the terminal: cells are broken between words, and if that is not enough,
    each row becomes a list. In a pipe or a file every row is one line, however long.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    on_terminal = sys.stdout.isatty()
    style, space = (box.SIMPLE_HEAD, 1) if on_terminal else (None, 3)
    grid = Table(box=style, pad_edge=False, padding=(0, space, 0, 0))
    for column in columns:
        grid.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(one_line(" ".join(str(cell).split())) for cell in row))
    console = Console(emoji=False) if on_terminal else Console(emoji=False, width=WIDE, color_system=None)
    if not on_terminal:
        with console.capture() as capture:
            console.print(grid, markup=False)
        typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
    elif console.measure(grid, options=console.options.update(width=WIDE)).minimum <= console.width:
        console.print(grid, markup=False)
    else:
        width = max(map(len, columns[1:]))
        for row in rows:
            cells = zip(columns[1:], row[1:], strict=True)
            typer.echo("\n".join([str(row[0]), *(f"  {name:<{width}}  {cell}" for name, cell in cells)]) + "\n")


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with two decimals, and None as a dash."""
    return "-" if value is None else f"{value:.2%}"


def print_run(run: Run, json: bool) -> None:
    """Print the results of a run that `train` or `resume` has finished."""
    record, results = run.record, run.results
    if json:
        facts = {
            "run": str(run.path),
            "recipe": record.recipe.name,
            "model": record.recipe.model,
            "dataset": record.data.name,
            "classes": record.data.classes,
            "device": record.environment.device,
            "seed": record.seed,
            "protocol": record.protocol,
            "report": str(run.report),
        }
        as_json(facts | dict(results))
        return
    accuracy, images = percent(results["test_accuracy"]), record.data.test
    typer.echo(f"test accuracy {accuracy} on {images:,} images, loss {results['test_loss']:.4f}")
    typer.echo(f"report: {run.report}")
    typer.echo(f"next: cifarlab predict {shlex.quote(str(run.path))} YOUR_PICTURE.jpg")
