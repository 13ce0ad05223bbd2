"""Live curves and confusion matrix in a real notebook kernel, and the notebook that ships, from top to bottom."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
import pytest
from PIL import Image

CELLS = [
    "import cifarlab",
    "recipe = cifarlab.recipe('lenet5', dataset='digits', epochs=2, batch_size=64)",
    "run = cifarlab.train(recipe, name='mine')",
    "run",
    "run.evaluate().accuracy == run.results['test_accuracy']",
]


@pytest.mark.slow
def test_a_notebook_shows_live_figures_and_the_run(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": None}
    cells = [{**bare, "outputs": [], "source": cell} for cell in CELLS]
    notebook = nbformat.from_dict({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = notebook.cells[2].outputs
    shown = [output for output in outputs if output.output_type == "display_data"]
    assert len(shown) == 2  # curves and confusion matrix, updated in place rather than shown anew each epoch
    for output in shown:
        with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as image:
            assert image.width > 400
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "epoch 1/2" in text and "epoch 2/2" in text and "\x1b" not in text
    assert "Run mine: finished" in notebook.cells[3].outputs[0].data["text/plain"]
    assert notebook.cells[4].outputs[0].data["text/plain"] == "True"


STORY = Path(__file__).parent.parent / "notebooks" / "story.py"


@pytest.mark.slow
def test_the_story_runs_from_top_to_bottom() -> None:
    notebook = jupytext.read(STORY)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(STORY.parent)}}).execute()
    text = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    )
    assert "differ on these images; undecided: one seed each" in text and "report.html" in text and "epoch 4/4" in text


def test_the_notebook_is_the_text_file() -> None:
    text, paired = jupytext.read(STORY), jupytext.read(STORY.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in text.cells] == [
        (cell.cell_type, cell.source) for cell in paired.cells
    ], "write it anew with: make docs"
