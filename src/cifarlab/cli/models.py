"""`cifarlab models`, `cifarlab model` and `cifarlab summary`: the networks, their code and their layers."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import Runs, Trust
from cifarlab.cli.output import AsJson, as_json, table

Channels = Annotated[int, typer.Option(help="Channels of the images: 3, or 1 for gray ones (channels = mono).")]


def models(channels: Channels = 3, json: AsJson = False) -> None:
    """List the networks with their numbers of parameters and of multiply-adds per image."""
    from cifarlab.models import build_model, model_names
    from cifarlab.models.summary import count_macs, count_parameters

    rows = []
    for name in model_names():
        network = build_model(name, in_channels=channels)
        macs = count_macs(network, in_channels=channels)
        rows.append({"name": name, "parameters": count_parameters(network), "macs": macs})
    if json:
        as_json(rows)
    else:
        cells = [(row["name"], f"{row['parameters']:,}", f"{row['macs']:,}") for row in rows]
        table(("name", "parameters", "multiply-adds"), cells, ("parameters", "multiply-adds"))
        typer.echo("Print the layers of one with: cifarlab summary NAME")


def model(
    name: Annotated[str, typer.Argument(help="Network by name.", metavar="NAME")],
    json: AsJson = False,
) -> None:
    """Print the Python code of a network, to start a network of your own from."""
    from cifarlab.models.registry import source_of

    source = source_of(name)
    if json:
        as_json({"name": name, "source": source})
    else:
        typer.echo(source)


def summary(
    model: Annotated[
        str,
        typer.Argument(help="Network by name, FILE.py:NAME for your own, a run or a weights file.", metavar="MODEL"),
    ],
    classes: Annotated[int, typer.Option(help="Number of classes; trained networks have their own.", min=2)] = 10,
    size: Annotated[
        int, typer.Option(help="Side of the images in pixels; trained networks have their own.", min=8, max=512)
    ] = 32,
    channels: Channels = 3,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Print the layers of a network: operations, sizes of the data, numbers of weights."""
    from cifarlab.errors import UsageError
    from cifarlab.inference import loading
    from cifarlab.models import build_model
    from cifarlab.models.summary import draw, layer_table
    from cifarlab.runs.listing import PRETRAINED, is_run, runs_folder

    if model.endswith(".onnx"):
        raise UsageError(f"{model}: summary does not read ONNX files; name the run that the file was exported from")
    is_trained = model.endswith(".safetensors") or model.startswith(PRETRAINED)
    if is_trained or is_run(runs_folder(runs) / model) or is_run(Path(model)):
        classifier = loading.load(model, runs=runs)
        network, size, channels = classifier.network, classifier.size, classifier.in_channels
    else:
        network = build_model(model, classes=classes, size=size, in_channels=channels)
    rows = layer_table(network, size, channels)
    if json:
        as_json({"model": model, "layers": [asdict(row) for row in rows]})
    else:
        typer.echo(draw(model, rows, size, channels))
