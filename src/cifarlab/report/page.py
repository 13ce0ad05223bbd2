"""Write report.html: one self-contained HTML page about one run or several."""

import base64
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from cifarlab import figures, files
from cifarlab.data.dataset import Dataset
from cifarlab.errors import UsageError
from cifarlab.report.card import write_card
from cifarlab.report.comparing import compare_runs, held_out_names
from cifarlab.report.rendering import TEMPLATES, render
from cifarlab.report.run_figures import draw_embedding, draw_history, draw_test
from cifarlab.report.summary import summarise
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.comparison import Comparison


@dataclass(frozen=True)
class PageFigure:
    """A figure of a run and the words around it, from templates/headings_and_captions.toml."""

    name: str
    """File name without its ending."""
    heading: str
    alt: str
    """The figure in words, for readers who do not see it."""
    caption: str
    kind: str = "svg"
    """`svg` or `png`."""


def write_report(run: RunFolder, test: Dataset | None, *, thorough: bool = False) -> Path:
    """Draw all figures of a run, write its model card and its report, and return the report's path.

    Args:
        run: a run.
        test: the test images of the run; see `draw_test`.
        thorough: also draw the embedding, which takes seconds.
    """
    draw_history(run)
    draw_test(run, test)
    if thorough:
        draw_embedding(run)
    write_card(run)
    write_page([run], run.report)
    return run.report


def write_page(runs: Sequence[RunFolder], path: Path) -> None:
    """Write one HTML page about runs, from what their folders hold.

    Several runs are also compared, and their learning curves are drawn together.
    """
    title, comparison, problem, overview = f"Run {runs[0].name}", None, "", list[tuple[str, str]]()
    if len(runs) > 1:
        title = f"{len(runs)} runs"
        try:
            comparison = compare_runs(runs)
        except UsageError as error:
            problem = str(error)
        drawn = _draw_together(runs, comparison)
        overview = [(alt, _data_url(figures.to_bytes(figure, "svg"), "svg")) for alt, figure in drawn.items()]
    page = render(
        "report.html",
        title=title,
        sections=[(summarise(run), _figures_of(run)) for run in runs],
        overview=overview,
        comparison=comparison,
        problem=problem,
        held_out=held_out_names(runs),
    )
    files.write_text(path, page)


def _draw_together(runs: Sequence[RunFolder], comparison: Comparison | None) -> dict[str, Figure]:
    """Draw the accuracy of several runs by epoch and, if they can be compared, on the test images by recipe."""
    held_out = held_out_names(runs)
    histories = {run.name: [row.validation_accuracy for row in run.history] for run in runs}
    drawn = {f"Accuracy on {held_out} images by epoch": figures.compared_curves(histories, held_out)}
    if comparison is not None:
        names, estimates = [group.name for group in comparison.groups], [group.accuracy for group in comparison.groups]
        over = ", with 95 % confidence intervals over seeds" if any(estimate.n > 1 for estimate in estimates) else ""
        title = f"Accuracy on the test images{over}"
        drawn["Test accuracy by recipe"] = figures.intervals(names, estimates, {}, title)
    return drawn


def _figures_of(run: RunFolder) -> list[tuple[PageFigure, str]]:
    """Return the figures that are there, each with its content as a data URL."""
    described = tomllib.loads((TEMPLATES / "headings_and_captions.toml").read_text(encoding="utf-8"))["figure"]
    every = [PageFigure(**entry) for entry in described]
    paths = [(figure, run.path / "figures" / f"{figure.name}.{figure.kind}") for figure in every]
    return [(figure, _data_url(path.read_bytes(), figure.kind)) for figure, path in paths if path.exists()]


def _data_url(content: bytes, kind: str) -> str:
    media = "image/png" if kind == "png" else "image/svg+xml"
    return f"data:{media};base64,{base64.b64encode(content).decode()}"
