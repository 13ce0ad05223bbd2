"""`cifarlab evaluate`: measure a network on test images."""

from dataclasses import asdict
from typing import Annotated

import typer

from cifarlab.cli.options import DATA_SETS, PRECISIONS, Runs, Target, Trust, Tta
from cifarlab.cli.output import AsJson, as_json, percent, table

MOST_CLASSES, LOWEST_CLASSES = 20, 10  # with more classes, the terminal shows those of the lowest recall


def evaluate(
    target: Target,
    data: Annotated[
        str | None, typer.Option(help=f"Data set: {DATA_SETS}. Default: the one that the network was trained on.")
    ] = None,
    tta: Tta = None,
    precision: Annotated[str, typer.Option(help=f"Number format: {PRECISIONS}.")] = "fp32",
    runs: Runs = None,
    trust: Trust = None,
    json: AsJson = False,
) -> None:
    """Measure a trained network on test images: accuracy, loss, calibration, and figures for each class."""
    from cifarlab.inference import targets
    from cifarlab.statistics.metrics import calibration_error, most_confused

    classifier = targets.load(target, runs=runs, quiet=False)
    tta = classifier.tta if tta is None else tta
    evaluation = targets.evaluate(classifier, data, tta=tta, precision=precision, quiet=False)
    dataset = data if data is not None else str(classifier.about.get("dataset"))
    scaled_logits = (evaluation.logits / classifier.temperature).astype(evaluation.logits.dtype)
    scaled = calibration_error(scaled_logits, evaluation.labels)
    if json:
        as_json(
            {
                "target": target,
                "dataset": dataset,
                "images": len(evaluation.labels),
                "accuracy": evaluation.accuracy,
                "top5_accuracy": evaluation.top5_accuracy,
                "coarse_accuracy": evaluation.coarse_accuracy,
                "loss": evaluation.loss,
                "per_class": [asdict(row) for row in evaluation.per_class],
                "confusion": evaluation.confusion.tolist(),
                "classes": list(evaluation.classes),
                "calibration_error": evaluation.calibration_error,
                "temperature": classifier.temperature,
                "scaled_calibration_error": scaled,
                "tta": tta,
                "protocol": str(classifier.about.get("protocol", "")),
            }
        )
        return
    rows, count = evaluation.per_class, len(evaluation.classes)
    if count > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: row.recall)[:LOWEST_CLASSES]
        typer.echo(f"The {len(rows)} of {count} classes with the lowest recall (--json has all):")
    cells = [(row.name, f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}", row.support) for row in rows]
    table(("class", "precision", "recall", "F1", "images"), cells, ("precision", "recall", "F1", "images"))
    if count > MOST_CLASSES:
        confused = most_confused(evaluation.labels, evaluation.logits.argmax(axis=1))
        typer.echo("\nThe most confused pairs of classes:")
        pairs = [(evaluation.classes[pair.true], evaluation.classes[pair.predicted], pair) for pair in confused]
        table(
            ("true class", "predicted class", "images", "share of the true class"),
            [(true, predicted, pair.count, percent(pair.rate)) for true, predicted, pair in pairs],
            ("images", "share of the true class"),
        )
        typer.echo("")
    easier = {"top 5": evaluation.top5_accuracy, "superclass": evaluation.coarse_accuracy}
    others = ", ".join(f"{name}: {percent(value)}" for name, value in easier.items() if value is not None)
    accuracy = percent(evaluation.accuracy) + (f" ({others})" if others else "")
    typer.echo(
        f"{dataset}: accuracy {accuracy} on {len(evaluation.labels):,} test images, "
        f"loss {evaluation.loss:.4f}, calibration error {percent(evaluation.calibration_error)}"
        + (f", or {percent(scaled)} at temperature {classifier.temperature:.2f}" if classifier.temperature != 1 else "")
    )
