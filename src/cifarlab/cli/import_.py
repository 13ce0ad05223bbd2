"""`cifarlab import`: make a weights file of a Keras model."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.output import AsJson, as_json


def import_(
    file: Annotated[Path, typer.Argument(help="Keras model: a .h5, .hdf5 or .keras file.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="Weights file to write. Default: FILE, as .safetensors.")] = None,
    architecture: Annotated[Path | None, typer.Option(help="Output of model.to_json(), for a FILE of weights.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Names in the order of the outputs, as a,b,c or a text file of them. Default: class0, …"),
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(help="Scale of inputs: unit (0 to 1), symmetric (-1 to 1), raw (0 to 255), standard or zca."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set on which --normalize standard or zca is fitted.")] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels; needed if the model takes any size.", min=8)
    ] = None,
    backend: Annotated[str | None, typer.Option(help="theano or tensorflow; needed for some files of Keras 1.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    json: AsJson = False,
) -> None:
    """Convert a Keras model into a weights file. Keras itself is not needed."""
    from cifarlab import files
    from cifarlab.inference.weights_file import save_weights
    from cifarlab.keras.importing import import_keras
    from cifarlab.models.summary import count_parameters, layer_table
    from cifarlab.progress import notice

    out = out or file.parent / f"{file.stem}.safetensors"
    files.check_new(out, force=force, ending=".safetensors")
    classifier = import_keras(
        file, architecture=architecture, classes=classes, normalize=normalize, data=data, size=size, backend=backend
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
                "normalize": classifier.preprocess.settings.normalize,
                "keras": classifier.about["keras"],
                "assumed": classifier.about["assumed"],
            }
        )
        return
    typer.echo(
        f"{out}: {layers} layers, {parameters:,} parameters, {len(classifier.classes)} classes, "
        f"images of {classifier.size} pixels ({classifier.preprocess.settings.normalize})"
    )
    typer.echo(f"Use it with: cifarlab predict {shlex.quote(str(out))} photo.jpg")
