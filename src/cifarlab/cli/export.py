"""`cifarlab export`: write a network for other programs."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import DATA_SETS, Runs, Target, Trust
from cifarlab.cli.output import AsJson, as_json, percent


def export(
    target: Target,
    format: Annotated[
        str,
        typer.Option(
            help="Format of the file: onnx, safetensors, or html for a page that classifies pictures in a browser."
        ),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write. Default: named after the target.")] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Let the network compute in int8, with a quarter of the bytes, and measure its accuracy."
        ),
    ] = False,
    data: Annotated[
        str | None, typer.Option(help=f"With --int8: data set to calibrate and test on: {DATA_SETS}. Default: its own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Write a trained network as a file for other programs, with preprocessing and class names inside."""
    from cifarlab.inference.export import export as export_target

    exported = export_target(target, out, format=format, int8=int8, data=data, force=force, runs=runs, quiet=False)
    if json:
        as_json({**asdict(exported), "path": str(exported.path)})
        return
    typer.echo(f"{exported.path}: {exported.bytes / 1e6:.2f} MB")
    if exported.difference is not None:
        typer.echo(f"in onnxruntime the probabilities of random images differ by at most {exported.difference:.1g}")
    if exported.accuracy is not None:
        typer.echo(f"accuracy {percent(exported.accuracy)} on the test images, {percent(exported.own_accuracy)} before")
    if format == "html":
        typer.echo("next: open it in a browser, here or on another machine. It needs no network.")
        return
    typer.echo(f"next: cifarlab predict {shlex.quote(str(exported.path))} YOUR_PICTURE.jpg")
