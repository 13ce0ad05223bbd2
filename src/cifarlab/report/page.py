"""Write a run's report.html and model card, and a page about several runs: self-contained, without other files."""

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from cifarlab import figures, files
from cifarlab.data.dataset import Dataset
from cifarlab.errors import one_line
from cifarlab.figures import Figure
from cifarlab.progress import notice
from cifarlab.report.comparing import compare_for_page, held_out_names
from cifarlab.report.rendering import TEMPLATES, data_url, render
from cifarlab.report.run_figures import draw_embedding, draw_history, draw_test
from cifarlab.report.summary import summarise
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.comparison import Comparison
from cifarlab.statistics.metrics import Example


def write_report(run: RunFolder, test: Dataset | None, *, thorough: bool = False) -> Path:
    """Draw all figures of a run, write its model card and its report, and return the report's path.

    The test images are for `draw_test`. A thorough report has an embedding too, which takes seconds.
    """
    mistakes: list[Example] = []
    try:
        draw_history(run)
        mistakes = draw_test(run, test)
        if thorough:
            draw_embedding(run)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        notice(f"warning: figures of {run.name} are missing: {type(error).__name__}: {one_line(error)}")
    files.write_text(run.path / "README.md", render("card.md", run=summarise(run)))
    write_page([run], run.report, mistakes)
    return run.report


def write_page(runs: Sequence[RunFolder], path: Path, mistakes: Sequence[Example] = ()) -> None:
    """Write one HTML page about runs, from what their folders hold, and about the mistakes of a single run.

    Several runs are also compared, and their learning curves are drawn together.
    """
    drawn, comparison, problem = compare_for_page(runs)
    if comparison:
        drawn["Test accuracy by recipe"] = _draw_comparison(comparison)
    page = render(
        "report.html",
        title=f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs",
        sections=[(summarise(run), _figures_of(run)) for run in runs],
        overview=[(alt, data_url(figures.to_bytes(figure, "svg"), "svg")) for alt, figure in drawn.items()],
        comparison=comparison,
        problem=problem,
        held_out=held_out_names(runs),
        mistakes=mistakes,
    )
    files.write_text(path, page)


def _draw_comparison(comparison: Comparison) -> Figure:
    names, estimates = [group.label for group in comparison.groups], [group.accuracy for group in comparison.groups]
    over = ", with 95 % confidence intervals over seeds" if any(estimate.n > 1 for estimate in estimates) else ""
    return figures.intervals(names, estimates, {}, f"Accuracy on the test images{over}")


def _figures_of(run: RunFolder) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the figures that are there: heading and texts, and the content as a data URL."""
    for figure in tomllib.loads((TEMPLATES / "headings_and_captions.toml").read_text(encoding="utf-8"))["figure"]:
        kind = figure.get("kind", "svg")
        path = run.path / "figures" / f"{figure['name']}.{kind}"
        with suppress(OSError):  # it was not drawn
            yield figure, data_url(files.read_regular(path), kind)
