"""Live curves and confusion matrix in a real notebook kernel."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image

CELLS = [
    "import cifarlab",
    "recipe = cifarlab.recipe('lenet5', dataset='digits', epochs=2, batch_size=64)",
    "run = cifarlab.train(recipe, name='mine')",
    "run",
    "run.evaluate().accuracy == run.results['test_accuracy']",
]


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
