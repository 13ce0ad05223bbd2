"""`cifarlab evaluate`: measure a network on test images."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.cli.options import Runs, Target, Tta
from cifarlab.cli.output import AsJson, as_json, percent, table

if TYPE_CHECKING:
    pass


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
