"""Writes docs/reference/commands.md from the command line's own help; `--print` prints it instead."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from cifarlab.cli import app

HEAD = """# Commands

Written by `make docs` from the help texts; do not edit it here. Every command that gives results takes `--json`.
"""


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, those of groups included."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path
        return
    for name, child in children.items():
        yield from paths(child, (*path, name))


def help_text(path: tuple[str, ...]) -> str:
    """What `cifarlab PATH --help` prints on a terminal of 80 columns."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        get_command(app).main([*path, "--help"], prog_name="cifarlab")
    return printed.getvalue().strip()


def main() -> None:
    """Writes or prints the page."""
    os.environ["COLUMNS"] = "80"
    os.environ.pop("CIFARLAB_RUNS", None)
    sections = [f"## {' '.join(path)}\n\n```text\n{help_text(path)}\n```\n" for path in paths(get_command(app))]
    page = "\n".join([HEAD, *sections])
    if "--print" in sys.argv:
        print(page, end="")
    else:
        (Path(__file__).parent / "reference" / "commands.md").write_text(page)


if __name__ == "__main__":
    main()
