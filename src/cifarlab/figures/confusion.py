"""Figures of a confusion matrix, and of precision and recall by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cifarlab.figures.style import BLUE, CENTRED, ORANGE, styled_axes

MOST_BARS = 100
MOST_CELLS_WITH_NUMBERS = 15  # per row or column; in smaller cells numbers would be unreadable
_IN_A_CELL: Any = {**CENTRED, "in_layout": False}  # the layout need not make room for it


def confusion_matrix(matrix: Int64[np.ndarray, "classes classes"], classes: Sequence[str], title: str) -> Figure:
    """Draw counts of images by true class (rows) and predicted class; colours show shares of the true class."""
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(12.0, max(5.5, 0.62 * count + 1.6))
    with styled_axes(side, side * 0.92, grid=False) as (figure, axes):
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, format=PercentFormatter(1), shrink=0.8, label="share of the true class")
        size = 9 if count <= MOST_CELLS_WITH_NUMBERS else 5
        axes.set_xticks(range(count), classes, rotation=45, ha="right", fontsize=size)
        axes.set_yticks(range(count), classes, fontsize=size)
        axes.set(xlabel="predicted class", ylabel="true class")
        figure.suptitle(title, fontsize=11)
        if count <= MOST_CELLS_WITH_NUMBERS:
            for row, column in np.ndindex(count, count):
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row - 0.14, str(matrix[row, column]), **_IN_A_CELL, fontsize=8, color=colour)
                axes.text(column, row + 0.22, f"{share[row, column]:.1%}", **_IN_A_CELL, fontsize=5.5, color=colour)
    return figure


def confusion_after_epoch(
    matrix: Int64[np.ndarray, "classes classes"], classes: Sequence[str], held_out: str, epoch: int
) -> Figure:
    """Draw the confusion matrix that an epoch ends with, on the `validation` or `test` images."""
    accuracy = np.trace(matrix) / max(1, matrix.sum())
    return confusion_matrix(
        matrix, classes, f"{held_out.capitalize()} images after epoch {epoch}: accuracy {accuracy:.2%}"
    )


def per_class(classes: Sequence[str], precision: Sequence[float], recall: Sequence[float]) -> Figure:
    """Draw precision and recall of the classes of lowest recall, in [0, 1], as bars, the lowest at the bottom."""
    order = np.argsort(recall, kind="stable")[:MOST_BARS]
    places = np.arange(len(order))
    with styled_axes(7, max(2.5, 0.38 * len(order) + 1), percent="x") as (figure, axes):
        axes.barh(places + 0.2, np.asarray(recall)[order], 0.38, color=BLUE, label="recall")
        axes.barh(places - 0.2, np.asarray(precision)[order], 0.38, color=ORANGE, label="precision")
        axes.set_yticks(places, [classes[i] for i in order])
        axes.set(xlim=(0, 1), title="Precision and recall")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
