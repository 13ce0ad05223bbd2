"""Figures of a confusion matrix, and of precision and recall by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cifarlab.figures.style import BLUE, CENTRED, ORANGE, short_names, styled_axes

MOST_BARS = 30  # classes with bars for precision and recall
MOST_CELLS_WITH_NUMBERS = 15  # per row or column; in smaller cells numbers would be unreadable
NARROWEST_SLANTED = 0.25  # inches of a cell below which slanted names would overlap, so that they are upright
LONGEST_NAME = 28  # letters of a class beside an axis
INCHES_PER_POINT = 0.0095  # width of a letter of a font, whose size is in points
_IN_A_CELL: Any = {**CENTRED, "in_layout": False}  # the layout need not make room for it


def confusion_matrix(matrix: Int64[np.ndarray, "classes classes"], classes: Sequence[str], title: str) -> Figure:
    """Draw counts of images by true class (rows) and predicted class; colours show shares of the true class."""
    count, names = len(classes), short_names(classes, LONGEST_NAME)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 9 if count <= MOST_CELLS_WITH_NUMBERS else 5
    side = min(10.0, max(3.0, 0.58 * count))  # inches of the matrix
    widest = INCHES_PER_POINT * size * max(map(len, names))
    cell, slant, room = side / count, dict[str, Any](), 0.0  # room for slanted names, in inches
    if widest > 0.9 * cell:
        is_narrow = cell < NARROWEST_SLANTED
        slant = {"rotation": 90} if is_narrow else {"rotation": 45, "ha": "right"}
        room = widest * (1 if is_narrow else 0.75)
    with styled_axes(side + widest + 1.8, side + room + 1.1, grid=False) as (figure, axes):
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        bar: Any = {"format": PercentFormatter(1), "shrink": 0.5, "aspect": 18, "label": "share of the true class"}
        figure.colorbar(image, ax=axes, **bar)
        axes.set_xticks(range(count), names, fontsize=size, **slant)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.set(xlabel="predicted class", ylabel="true class")
        figure.suptitle(title, fontsize=11)
        if count <= MOST_CELLS_WITH_NUMBERS:
            for row, column in np.ndindex(count, count):
                colour = "white" if share[row, column] > 0.5 else "black"
                images = int(matrix[row, column])
                above = 0.14 if images else 0.0  # the share of no images says nothing more
                axes.text(column, row - above, str(images), **_IN_A_CELL, fontsize=8, color=colour)
                if images:
                    axes.text(column, row + 0.22, f"{share[row, column]:.1%}", **_IN_A_CELL, fontsize=6, color=colour)
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
        names = short_names(classes, LONGEST_NAME)
        axes.set_yticks(places, [names[i] for i in order])
        lowest = f"\nof the {len(order)} classes with the lowest recall" if len(classes) > len(order) else ""
        axes.set(xlim=(0, 1), ylim=(-0.6, len(order) - 0.4), title=f"Precision and recall{lowest}")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
