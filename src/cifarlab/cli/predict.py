"""`cifarlab predict`: classify image files."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs, Target, Trust, Tta
from cifarlab.cli.output import AsJson, as_json

if TYPE_CHECKING:
    from cifarlab.inference.classifier import Classifier


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
        float | None,
        typer.Option(
            help="An answer is 'not sure' if the probability of the likeliest class is below this. Default: 0.5, below "
            "which it is more likely wrong than right.",
            min=0,
            max=1,
        ),
    ] = None,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for heat maps of where the network looks (Grad-CAM and occlusion).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Table (CSV) to write instead of printing, with a row for each of any number of images: class, "
            "probabilities of all classes, sure or not, and why a file cannot be read. The same command continues a "
            "table that was interrupted."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Begin the table of --out anew, and replace figures of --explain.")
    ] = False,
    tta: Tta = None,
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Classify image files.

    A file that cannot be read is named and skipped; the exit status is then 1.
    """
    from cifarlab.errors import CifarlabError, UsageError
    from cifarlab.inference import targets
    from cifarlab.inference.prediction import SURE
    from cifarlab.progress import notice
    from cifarlab.runs.folder import check_new

    sure = SURE if sure is None else sure
    if out and explain:
        raise UsageError("--out is for any number of images and --explain draws a figure of each: use one of them")
    if out:
        check_new(out, force=True)
    classifier = targets.load(target, runs=runs, quiet=False)
    if out:
        tta = classifier.tta if tta is None else tta
        _write_table(classifier, images, out, tta=tta, sure=sure, force=force, json=json)
        return
    skipped: list[str] = []
    predictions = targets.predict(classifier, images, tta=tta, explain_in=explain, force=force, skipped=skipped)
    if not predictions and len(skipped) == 1:
        raise UsageError(skipped[0])
    for reason in skipped:
        notice(f"skipped: {reason}")
    if json and predictions:
        as_json([asdict(answer) | {"sure": answer.probability >= sure} for answer in predictions])
    for prediction in [] if json else predictions:
        likely = list(prediction.probabilities.items())[:top]
        doubt = "not sure: " if prediction.probability < sure else ""
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in likely)
        typer.echo(f"{prediction.image}: {doubt}{classes}")
    if explain and predictions and not json:
        typer.echo(f"heat maps: {explain}")
    if skipped:
        kind = CifarlabError if predictions else UsageError
        raise kind(f"{len(skipped)} of {len(skipped) + len(predictions)} files cannot be read as images")


def _write_table(
    classifier: "Classifier", images: list[Path], out: Path, *, tta: bool, sure: float, force: bool, json: bool
) -> None:
    from cifarlab.errors import CifarlabError, UsageError
    from cifarlab.inference.prediction_table import write_predictions

    summary = write_predictions(classifier, images, out, tta=tta, sure=sure, force=force, quiet=False)
    if json:
        as_json(asdict(summary))
    else:
        before = f", {summary.continued:,} of the rows were there" if summary.continued else ""
        count = f"{summary.images:,} image{'s' * (summary.images != 1)}"
        typer.echo(f"{out}: {count}, {summary.not_sure:,} not sure{before}")
    if summary.unreadable:
        kind = CifarlabError if summary.images else UsageError
        total = f"{summary.unreadable:,} of {summary.images + summary.unreadable:,} files"
        raise kind(f"{total} cannot be read as images: see the column 'error' of {out}")
