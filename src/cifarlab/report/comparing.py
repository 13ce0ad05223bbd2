"""Compare finished runs: read their folders and hand the values to `statistics.comparison`."""

from collections.abc import Sequence

import numpy as np

from cifarlab import figures
from cifarlab.errors import UsageError
from cifarlab.figures import Figure
from cifarlab.models.registry import all_options
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.comparison import Comparison, TestedRun, compare


def compare_runs(runs: Sequence[RunFolder], metric: str = "accuracy", *, first_is_best: bool = False) -> Comparison:
    """Group finished runs by recipe and compare the groups; see `statistics.comparison.compare`."""
    return compare([_tested_run(run) for run in runs], metric, first_is_best=first_is_best)


def compare_for_page(runs: Sequence[RunFolder]) -> tuple[dict[str, Figure], Comparison | None, str]:
    """Return a figure of several runs' learning curves by its caption, their comparison, or why there is none.

    For a single run, all three are empty.
    """
    if len(runs) < 2:
        return {}, None, ""
    held_out = held_out_names(runs)
    histories = {run.name: [row.validation_accuracy for row in run.history] for run in runs}
    drawn = {f"Accuracy on {held_out} images by epoch": figures.compared_curves(histories, held_out)}
    try:
        return drawn, compare_runs(runs), ""
    except UsageError as error:
        return drawn, None, str(error)


def _tested_run(run: RunFolder) -> TestedRun:
    record, predictions = run.record, run.predictions
    if run.status != "finished" or predictions is None:
        raise UsageError(f"the run {run.name!r} is not finished ({run.status}). Finish it: cifarlab resume {run.path}")
    logits, labels = predictions
    return TestedRun(
        name=run.name,
        recipe=record.recipe.changed({"model_options": all_options(record.recipe.model, record.recipe.model_options)}),
        data_name=record.data.name,
        data_sha256=record.data.sha256,
        classes=record.data.classes,
        protocol=record.protocol,
        validation_accuracy=record.results.validation_accuracy if record.results else np.nan,
        labels=labels,
        predictions=logits.argmax(axis=1),
        origins=record.origins,
        stopped_after=record.results.epochs if record.results and record.results.stopped_by_callback else None,
    )


def held_out_names(runs: Sequence[RunFolder]) -> str:
    """Return which images the runs measure accuracy on after every epoch, such as `validation or test`."""
    return " or ".join(sorted({run.held_out for run in runs}, reverse=True))
