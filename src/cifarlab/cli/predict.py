"""`cifarlab predict`: classify image files."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.cli.options import Runs, Target, Tta
from cifarlab.cli.output import AsJson, as_json


def predict(
    target: Target,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files of any size, in any format that Pillow reads, or folders of them.", metavar="IMAGE..."
        ),
    ],
    top: Annotated[int, typer.Option(help="Number of classes to print for each image.", min=1)] = 3,
    sure: Annotated[
        float, typer.Option(help="Print 'not sure' if the likeliest class has a probability below this.", min=0, max=1)
    ] = 0.0,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for heat maps of where the network looks (Grad-CAM and occlusion).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace heat maps that --explain drew before.")] = False,
    tta: Tta = None,
    runs: Runs = None,
    json: AsJson = False,
) -> None:
    """Classify image files.

    A file that cannot be read is named and skipped; the exit status is then 1.
    """
    from cifarlab.errors import CifarlabError
    from cifarlab.inference import targets
    from cifarlab.progress import notice

    classifier = targets.load(target, runs=runs, quiet=False)
    skipped: list[str] = []
    predictions = targets.predict(classifier, images, tta=tta, explain_in=explain, force=force, skipped=skipped)
    for reason in skipped:
        notice(f"skipped: {reason}")
    if json:
        as_json([asdict(answer) | ({"sure": answer.probability >= sure} if sure else {}) for answer in predictions])
    for prediction in [] if json else predictions:
        likely = list(prediction.probabilities.items())[:top]
        doubt = "not sure: " if prediction.probability < sure else ""
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in likely)
        typer.echo(f"{prediction.image}: {doubt}{classes}")
    if explain and not json:
        typer.echo(f"heat maps: {explain}")
    if skipped:
        raise CifarlabError(f"{len(skipped)} of {len(skipped) + len(predictions)} files cannot be read as images")
