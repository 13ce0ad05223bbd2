"""`cifarlab predict`: classify image files."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import Runs, Target, Trust, Tta
from cifarlab.cli.output import AsJson, as_json


def predict(
    target: Target,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files of any size and format, folders of them, or quoted patterns such as 'pets/*.jpg'.",
            metavar="IMAGE...",
        ),
    ],
    top: Annotated[int, typer.Option(help="Number of classes to print for each image.", min=1)] = 3,
    sure: Annotated[
        float, typer.Option(help="Print 'not sure' if the likeliest class has a probability below this.", min=0, max=1)
    ] = 0.0,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for heat maps of where the network looks (Grad-CAM and occlusion).")
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Table to write, with a row for each image and the probabilities of all classes."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files that --csv and --explain wrote before.")
    ] = False,
    tta: Tta = None,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Classify image files.

    A file that cannot be read is named and skipped; the exit status is then 1.
    """
    import csv
    import io
    import os

    from cifarlab import files
    from cifarlab.errors import CifarlabError, UsageError, readable
    from cifarlab.inference import targets
    from cifarlab.progress import notice
    from cifarlab.runs.folder import check_new

    if csv_file:
        check_new(csv_file, force=force, option="--csv")
    classifier = targets.load(target, runs=runs, quiet=False)
    skipped: list[str] = []
    predictions = targets.predict(classifier, images, tta=tta, explain_in=explain, force=force, skipped=skipped)
    if not predictions and len(skipped) == 1:
        raise UsageError(skipped[0])
    for reason in skipped:
        notice(f"skipped: {reason}")
    if csv_file and readable(os.path.realpath(csv_file)) in {os.path.realpath(p.image) for p in predictions}:
        raise UsageError(f"--csv {str(csv_file)!r}: is one of the images to classify; give the table another name")
    if csv_file and predictions:
        rows = ([p.image, p.label, p.probability, *map(p.probabilities.get, classifier.classes)] for p in predictions)
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(
            [("image", "label", "probability", *classifier.classes), *rows]
        )
        files.write_text(csv_file, table.getvalue())
    if json and predictions:
        as_json([asdict(answer) | ({"sure": answer.probability >= sure} if sure else {}) for answer in predictions])
    for prediction in [] if json or csv_file else predictions:
        likely = list(prediction.probabilities.items())[:top]
        doubt = "not sure: " if prediction.probability < sure else ""
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in likely)
        typer.echo(f"{prediction.image}: {doubt}{classes}")
    if csv_file and predictions and not json:
        typer.echo(f"{csv_file}: {len(predictions):,} image{'s' * (len(predictions) > 1)}")
    if explain and predictions and not json:
        typer.echo(f"heat maps: {explain}")
    if skipped:
        kind = CifarlabError if predictions else UsageError
        raise kind(f"{len(skipped)} of {len(skipped) + len(predictions)} files cannot be read as images")
