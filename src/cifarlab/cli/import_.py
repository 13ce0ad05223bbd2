"""`cifarlab import`: make a weights file of a Keras model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.output import AsJson, as_json

if TYPE_CHECKING:
    pass


def import_(
    file: Annotated[Path, typer.Argument(help="A Keras model: .h5, .hdf5 or .keras.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="Default: FILE's name, with .safetensors.")] = None,
    architecture: Annotated[
        Path | None, typer.Option(help="What model.to_json() gave, where FILE holds weights alone.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the outputs, in order: a,b,c.")] = None,
    normalize: Annotated[
        str | None, typer.Option(help="How it was fed: unit (0 to 1), symmetric (-1 to 1), raw, standard or zca.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="For standard and zca: whose images they are fitted on.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images, where the model takes any.", min=8)] = None,
    backend: Annotated[str | None, typer.Option(help="theano or tensorflow, where a file of Keras 1 hides it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    json: AsJson = False,
) -> None:
    """Make a weights file of a Keras model, without Keras."""
    from cifarlab import files
    from cifarlab.inference.weights_file import save_weights
    from cifarlab.keras.importing import import_keras
    from cifarlab.models.summary import count_parameters, layer_table
    from cifarlab.progress import notice

    out = out or file.parent / f"{file.stem}.safetensors"
    files.check_new(out, force=force, ending=".safetensors")
    names = [name.strip() for name in classes.split(",")] if classes is not None else None
    classifier = import_keras(
        file, architecture=architecture, classes=names, normalize=normalize, data=data, size=size, backend=backend
    )
    save_weights(classifier, out)
    for line in classifier.about["assumed"]:
        notice(f"assumed: {line}")
    layers, parameters = len(layer_table(classifier.network, classifier.size)), count_parameters(classifier.network)
    if json:
        as_json(
            {
                "path": str(out),
                "layers": layers,
                "parameters": parameters,
                "classes": list(classifier.classes),
                "size": classifier.size,
                "normalize": classifier.preprocess.kind,
                "keras": classifier.about["keras"],
                "assumed": classifier.about["assumed"],
            }
        )
        return
    typer.echo(
        f"{out}: {layers} layers, {parameters:,} parameters, {len(classifier.classes)} classes, "
        f"images of {classifier.size} pixels ({classifier.preprocess.kind})"
    )
    typer.echo(f"Use it with: cifarlab predict {shlex.quote(str(out))} photo.jpg")
