"""`cifarlab import`: make a weights file of a network of another program."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cifarlab.cli.output import AsJson, as_json, percent, table
from cifarlab.errors import UsageError


def import_(
    file: Annotated[
        Path, typer.Argument(help="Keras model (.h5, .hdf5, .keras), or with --model a PyTorch file.", metavar="FILE")
    ],
    out: Annotated[Path | None, typer.Option(help="Weights file to write. Default: FILE, as .safetensors.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Network for the weights in a PyTorch file (.pt, .pth, .ckpt, .safetensors): "
            "a name that cifarlab models lists, or FILE.py:NAME."
        ),
    ] = None,
    architecture: Annotated[Path | None, typer.Option(help="Output of model.to_json(), for a FILE of weights.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Names in the order of the outputs, as a,b,c or a text file of them. Default: --data's."),
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(help="Scale of inputs: unit (0 to 1), symmetric (-1 to 1), raw (0 to 255), standard or zca."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Subtract this from the pixels: 0.5, or 104,117,124 in the order of --channels.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Then divide them by this; one number or three.")] = None,
    channels: Annotated[
        Literal["rgb", "bgr", "gray", "mono"] | None,
        typer.Option(help="Order of the colours; bgr as OpenCV reads them, mono for a network of one channel."),
    ] = None,
    resize: Annotated[
        Literal["crop", "stretch", "pad"] | None,
        typer.Option(help="How other images become square: crop to the centre, stretch, or pad with black bars."),
    ] = None,
    try_preprocessing: Annotated[
        bool, typer.Option("--try-preprocessing", help="Measure all usual preprocessings on --data, and take the best.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled images, for the accuracy, --normalize standard or zca, and --try-preprocessing."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels; needed if the model takes any size.", min=8)
    ] = None,
    backend: Annotated[str | None, typer.Option(help="theano or tensorflow; needed for some files of Keras 1.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    json: AsJson = False,
) -> None:
    """Convert a Keras model, or a PyTorch network's weights, into a weights file. Keras itself is not needed."""
    from cifarlab.inference.state_dicts import import_state_dict
    from cifarlab.inference.weights_file import save_weights
    from cifarlab.keras.importing import import_keras
    from cifarlab.models import resolve_model_name
    from cifarlab.models.summary import count_parameters, layer_table
    from cifarlab.progress import notice
    from cifarlab.runs.folder import check_new

    if model and (architecture or backend):
        raise UsageError("--architecture and --backend are for Keras models, so they cannot be used with --model")
    model = model and resolve_model_name(model)
    out = out or file.parent / f"{file.stem}.safetensors"
    if out.exists() and file.exists() and out.samefile(file):
        raise UsageError(f"--out {str(out)!r}: is the file to import, which stays. Choose another name with --out")
    check_new(out, force=force, ending=".safetensors")
    choices: dict[str, Any] = {"classes": classes, "data": data, "size": size, "try_preprocessing": try_preprocessing}
    choices |= {"normalize": normalize, "mean": mean, "std": std, "channels": channels, "resize": resize}
    if model:
        classifier = import_state_dict(file, model, **choices)
    else:
        classifier = import_keras(file, architecture=architecture, backend=backend, **choices)
    save_weights(classifier, out)
    for line in classifier.about["assumed"]:
        notice(f"assumed: {line}")
    layers, parameters = (
        len(layer_table(classifier.network, classifier.size, classifier.in_channels)),
        count_parameters(classifier.network),
    )
    settings, tried = classifier.preprocess.settings, classifier.about.get("tried", [])
    matched, checked = classifier.about.get("matched", {}), classifier.about.get("checked")
    if json:
        facts = {"path": str(out), "layers": layers, "parameters": parameters, "classes": list(classifier.classes)}
        about = {"keras": classifier.about.get("keras"), "assumed": classifier.about["assumed"], "tried": tried}
        as_json({**facts, "size": classifier.size, **asdict(settings), **about, "matched": matched, "checked": checked})
        return
    if any(name != theirs for name, theirs in matched.items()):
        shapes: dict[str, str] = {}
        for key, value in classifier.network.state_dict().items():
            shapes.setdefault(key if key in matched else key.rpartition(".")[0], "x".join(map(str, value.shape)))
        table(("layer", "in the file", "shape"), [(name, theirs, shapes[name]) for name, theirs in matched.items()])
    if tried:
        rows = [(row["preprocessing"], percent(row["accuracy"]), f"{row['loss']:.4g}") for row in tried]
        table(("preprocessing", "accuracy", "loss"), rows, ("accuracy", "loss"))
    typer.echo(
        f"{out}: {layers} layers, {parameters:,} parameters, {len(classifier.classes)} classes, "
        f"images of {classifier.size} pixels ({settings})"
    )
    if checked:
        share = f"{checked['images']:,} images of {checked['data']}"
        typer.echo(f"Accuracy on {share}: {percent(checked['accuracy'])}")
    typer.echo(f"Use it with: cifarlab predict {shlex.quote(str(out))} photo.jpg")
