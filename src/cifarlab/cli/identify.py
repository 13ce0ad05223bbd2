"""`cifarlab identify`: what files and folders are, and what to do with them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.output import AsJson, as_json


def identify(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of any kind.", metavar="FILE...")],
    json: AsJson = False,
) -> None:
    """Say what files and folders are, which program made them, and which command takes them. Nothing is run."""
    from cifarlab import formats

    missing = [path for path in paths if not path.exists()]
    identified = [formats.identify(path) for path in paths if path not in missing]
    if json:
        as_json([asdict(file) for file in identified])
    for file in identified if not json else ():
        details = [file.made_by and f"made by {file.made_by}", file.details]
        typer.echo(": ".join([file.path, ", ".join(filter(None, [file.kind, *details]))]))
        if file.use:
            typer.echo(f"    {file.use}")
    if missing:
        formats.identify(missing[0])  # which raises the error
