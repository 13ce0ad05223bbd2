"""Print results on stdout: a table, or one JSON document."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cifarlab.api import Run

SCHEMA = 1
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
    if not sys.stdout.isatty():
        typer.echo(_plain(columns, rows, numbers))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        grid.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*[str(cell) for cell in row])
    console = Console()
    longest_words = console.measure(grid, options=console.options.update(width=WIDE)).minimum
    if longest_words <= console.width:
        console.print(grid, markup=False)
    else:
        typer.echo(_lists(columns, rows))


def _lists(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return every row as its first cell and, under it, a line for each other cell."""
    width = max(map(len, columns[1:]))
    blocks = [
        [row[0], *(f"  {name:<{width}}  {cell}" for name, cell in zip(columns[1:], row[1:], strict=True))]
        for row in rows
    ]
    return "\n\n".join("\n".join(map(str, block)) for block in blocks) + "\n"


def _plain(columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str]) -> str:
    """Return a table of one line per row."""
    from rich.cells import cell_len

    cells = [list(columns), *([" ".join(str(cell).split()) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = []
        for name, cell, width in zip(columns, row, widths, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if name in numbers else cell + space)
        return "   ".join(padded).rstrip()

    return "\n".join(map(line, cells))


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with two decimals, and None as a dash."""
    return "-" if value is None else f"{value:.2%}"


def print_run(run: Run, json: bool) -> None:
    """Print the results of a run that `train` or `resume` has finished."""
    record, results = run.record, run.results
    if json:
        as_json(
            {
                "run": str(run.path),
                "recipe": record.recipe.name,
                "model": record.recipe.model,
                "dataset": record.data.name,
                "classes": record.data.classes,
                "device": record.environment.device,
                "seed": record.seed,
                "protocol": record.protocol,
                "report": str(run.report),
                **results,
            }
        )
        return
    accuracy, images = percent(results["test_accuracy"]), record.data.test
    typer.echo(f"test accuracy {accuracy} on {images:,} images, loss {results['test_loss']:.4f}")
    typer.echo(f"report: {run.report}")
    typer.echo(f"next: cifarlab predict {shlex.quote(str(run.path))} YOUR_PICTURE.jpg")
