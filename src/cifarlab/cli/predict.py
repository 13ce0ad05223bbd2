"""`cifarlab predict`: classify image files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs, Target, Tta
from cifarlab.cli.output import AsJson, as_json

if TYPE_CHECKING:
    pass


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
