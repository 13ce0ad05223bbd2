"""The model card: README.md of a run's folder."""

from cifarlab import files
from cifarlab.report.rendering import render
from cifarlab.report.summary import summarise
from cifarlab.runs.folder import RunFolder


def write_card(run: RunFolder) -> None:
    """Write README.md into the run's folder: what the network does, how well, how to use it, and its limits."""
    files.write_text(run.path / "README.md", render("card.md", run=summarise(run)))
