"""`cifarlab evaluate|predict|report|import`: what to do with a trained network, one of Keras's too."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import Runs
from cifarlab.cli.show import AsJson, as_json, percent, table

Target = Annotated[str, typer.Argument(help="A run's name or path, a weights file, or pretrained:NAME.")]
Tta = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta", help="Mean over six views, moved by a pixel and mirrored; default: as its own test."
    ),
]


def evaluate(
    target: Target,
    data: Annotated[
        str | None,
        typer.Option(help="cifar10, digits, folder:DIR, csv:FILE, hf:DIR or npz:FILE; default: its own."),
    ] = None,
    tta: Tta = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "fp32",
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Measure a network on the test images."""
    from cifarlab.inference import targets
    from cifarlab.statistics.metrics import calibration_error

    classifier = targets.load(target, runs=runs, quiet=False)
    tta = classifier.tta if tta is None else tta
    found = targets.evaluate(classifier, data, tta=tta, precision=precision, quiet=False)
    dataset = data or str(classifier.about.get("dataset"))
    scaled = calibration_error((found.logits / classifier.temperature).astype(found.logits.dtype), found.labels)
    if json:
        as_json(
            {
                "target": target,
                "dataset": dataset,
                "images": len(found.labels),
                "accuracy": found.accuracy,
                "loss": found.loss,
                "per_class": [asdict(row) for row in found.per_class],
                "confusion": found.confusion.tolist(),
                "classes": list(found.classes),
                "calibration_error": found.calibration_error,
                "temperature": classifier.temperature,
                "scaled_calibration_error": scaled,
                "tta": tta,
                "protocol": str(classifier.about.get("protocol", "")),
            }
        )
        return
    cells = [
        (row.name, f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}", row.support) for row in found.per_class
    ]
    table(("class", "precision", "recall", "F1", "images"), cells, ("precision", "recall", "F1", "images"))
    typer.echo(
        f"{dataset}: accuracy {percent(found.accuracy)} on {len(found.labels):,} test images, "
        f"loss {found.loss:.4f}, calibration error {percent(found.calibration_error)}"
        + (f", {percent(scaled)} at temperature {classifier.temperature:.2f}" if classifier.temperature != 1 else "")
    )


def predict(
    target: Target,
    images: Annotated[list[Path], typer.Argument(help="Pictures of any size and format.")],
    top: Annotated[int, typer.Option(help="Classes to print for each.", min=1)] = 3,
    sure: Annotated[
        float, typer.Option(help="Say 'not sure' where the likeliest class is less probable than this.", min=0, max=1)
    ] = 0.0,
    explain: Annotated[
        Path | None, typer.Option(help="Draw into this folder where the network looks: Grad-CAM and occlusion.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace pictures that --explain made before.")] = False,
    tta: Tta = None,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Say what is on pictures."""
    from cifarlab.inference import targets

    classifier = targets.load(target, runs=runs, quiet=False)
    predictions = targets.predict(classifier, images, tta=tta, explain_in=explain, force=force)
    if json:
        as_json([asdict(each) | ({"sure": each.probability >= sure} if sure else {}) for each in predictions])
        return
    for prediction in predictions:
        likely = list(prediction.probabilities.items())[:top]
        doubt = "not sure: " if prediction.probability < sure else ""
        told = ", ".join(f"{name} {probability:.1%}" for name, probability in likely)
        typer.echo(f"{prediction.image}: {doubt}{told}")
    if explain:
        typer.echo(f"explained in {explain}")


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
    from cifarlab.inference import targets

    found = targets.export(target, out, format=format, int8=int8, data=data, force=force, runs=runs, quiet=False)
    if json:
        as_json({**asdict(found), "path": str(found.path)})
        return
    typer.echo(f"{found.path}: {found.bytes / 1e6:.2f} MB")
    if found.difference is not None:
        typer.echo(f"in onnxruntime probabilities differ by at most {found.difference:.1g} on random images")
    if found.accuracy is not None:
        typer.echo(f"accuracy {percent(found.accuracy)} on the test images, {percent(found.own_accuracy)} before")
    typer.echo(f"next: cifarlab predict {shlex.quote(str(found.path))} YOUR_PICTURE.jpg")


def report(
    names: Annotated[list[str], typer.Argument(help="Runs by name or path.", metavar="RUN...")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; default: the run's folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Draw a run's figures again and write its page; or one page about several runs."""
    from cifarlab import api

    page = api.write_report(names, out, force=force, runs=runs)
    if json:
        as_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")


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


COMMANDS = (evaluate, predict, export, report, import_)
