"""`cifarlab export`: write a network for other programs."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs, Target
from cifarlab.cli.output import AsJson, as_json, percent

if TYPE_CHECKING:
    pass


def export(
    target: Target,
    format: Annotated[str, typer.Option(help="onnx or safetensors.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file; default: called as the target.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="An ONNX file that computes in int8; its accuracy is measured.")
    ] = False,
    data: Annotated[str | None, typer.Option(help="For --int8: a data set; default: its own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Write a trained network as a file for other programs, preprocessing and class names inside."""
    from cifarlab.inference.export import export as export_target

    found = export_target(target, out, format=format, int8=int8, data=data, force=force, runs=runs, quiet=False)
    if json:
        as_json({**asdict(found), "path": str(found.path)})
        return
    typer.echo(f"{found.path}: {found.bytes / 1e6:.2f} MB")
    if found.difference is not None:
        typer.echo(f"in onnxruntime probabilities differ by at most {found.difference:.1g} on random images")
    if found.accuracy is not None:
        typer.echo(f"accuracy {percent(found.accuracy)} on the test images, {percent(found.own_accuracy)} before")
    typer.echo(f"next: cifarlab predict {shlex.quote(str(found.path))} YOUR_PICTURE.jpg")
