"""How results are printed: a table or one JSON document on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

SCHEMA = 1
PIPE_WIDTH = 200  # columns; nobody looks at a pipe's width

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def as_json(value: Any) -> None:
    """Prints one JSON document; a dictionary gets the `schema` version."""
    document = {"schema": SCHEMA, **value} if isinstance(value, dict) else value
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str] = ()) -> None:
    """Prints rows under headings; the columns named in `numbers` are set to the right."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        whole = column == columns[0] or column in numbers  # names and numbers are not broken over lines
        shown.add_column(column, justify="right" if column in numbers else "left", no_wrap=whole, overflow="fold")
    for row in rows:
        shown.add_row(*[str(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(shown, markup=False)


def percent(value: float | None) -> str:
    """A fraction as a percentage with two decimals; a dash for None."""
    return "-" if value is None else f"{value:.2%}"
