"""Figures of a study: a metric, by its name, over the values of the recipe's keys that were varied.

The argument `percent` of every function is True if the metric is a fraction of 1.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from cifarlab.figures.confusion import MOST_CELLS_WITH_NUMBERS
from cifarlab.figures.curves import line_style
from cifarlab.figures.style import CENTRED, styled_axes
from cifarlab.recipes.differences import value_text
from cifarlab.statistics.significance import estimate, estimate_share

LOGARITHMIC_FROM = 10  # ratio of largest to smallest value from which an axis is logarithmic
COLOUR_MAP = matplotlib.colormaps["viridis"]  # evenly graded for all kinds of colour vision
LETTERS_PER_INCH = 11  # in a title
TICK_LETTERS = 70  # letters that fit side by side below an axis
SLANTED_TICK_LETTERS = 2.5  # width of a slanted tick label, in the same unit
MOST_BANDS = 3  # interval bands; more would hide each other, and vertical lines show the intervals too
INCHES_PER_KEY = 2.0  # between the vertical axes of parallel coordinates
MOST_IN_TWO_COLUMNS = 3  # entries of a legend; longer legends have one column
BRIGHT = 0.6  # share of the colour map above which black text is easier to read than white


def lines(
    points: Mapping[str, Sequence[tuple[float, Sequence[float]]]],
    key: str,
    metric: str,
    *,
    percent: bool,
    note: str = "",
) -> Figure:
    """Draw a metric by the values of a numeric key: means as lines, Student's 95 % confidence intervals as bands.

    Args:
        points: for each line, by its name, the values of the key in rising order, each with the metric of its runs.
        note: second line of the title, such as which lines are left out.
    """
    positions = sorted({value for line in points.values() for value, _ in line})
    columns = 1 if len(points) > MOST_IN_TWO_COLUMNS else 2  # of the legend
    with styled_axes(7, 4 + 0.17 * (len(points) if columns == 1 else 1)) as (figure, axes):
        title = "one run per setting"
        for number, (name, line) in enumerate(points.items()):
            colour, dashes = line_style(number)
            values = [value for value, _ in line]
            estimates = [(estimate_share if percent else estimate)(list(metrics)) for _, metrics in line]
            axes.plot(values, [mean.mean for mean in estimates], color=colour, ls=dashes, marker="o", ms=4, label=name)
            bounds = [
                (x, mean.low, mean.high) for x, mean in zip(values, estimates, strict=True) if mean.low is not None
            ]
            if bounds:
                title = "means and 95 % confidence intervals over runs"
                x, low, high = (np.array(column) for column in zip(*bounds, strict=True))
                if len(points) <= MOST_BANDS:
                    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
                axes.vlines(x, low, high, color=colour, alpha=0.6, lw=1.5)
        if positions[0] > 0 and positions[-1] / positions[0] >= LOGARITHMIC_FROM:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if len(positions) <= MOST_CELLS_WITH_NUMBERS:
            _label_positions(axes, positions)
        axes.set_xlabel(key)
        figure.suptitle("\n".join(filter(None, [f"{metric.capitalize()}: {title}", note])), fontsize=11)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        if len(points) > 1:
            figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
    return figure


def heat_map(
    means: Float64[np.ndarray, "down across"], values: Mapping[str, Sequence[str]], metric: str, *, percent: bool
) -> Figure:
    """Draw a metric by the values of two keys, as colours and numbers.

    Args:
        means: means of the metric over runs; NaN where nothing was trained, which stays white.
        values: values by key; the first key is that of the rows, the second that of the columns.
    """
    down, across = means.shape
    (row_key, row_values), (column_key, column_values) = values.items()
    middle = float(np.nanmin(means)) + BRIGHT * float(np.nanmax(means) - np.nanmin(means))
    size = (max(4.5, 0.85 * across + 2.5), max(3.0, 0.55 * down + 1.6))
    with styled_axes(*size, grid=False) as (figure, axes):
        image = axes.imshow(means, cmap=COLOUR_MAP, aspect="auto")
        figure.colorbar(image, ax=axes, format=PercentFormatter(1) if percent else None)
        axes.set_xticks(range(across), column_values, rotation=45, ha="right")
        axes.set_yticks(range(down), row_values)
        axes.set(xlabel=column_key, ylabel=row_key)
        letters = round(size[0] * LETTERS_PER_INCH)  # of the whole figure, which is wider than the axes
        figure.suptitle(textwrap.fill(f"{metric.capitalize()}, means over runs", letters), fontsize=11)
        if max(down, across) <= MOST_CELLS_WITH_NUMBERS:
            for row, column in np.argwhere(np.isfinite(means)):
                mean = float(means[row, column])
                ink = "black" if mean > middle else "white"
                axes.text(column, row, _number(mean, percent), **CENTRED, fontsize=8, color=ink)
    return figure


def parallel(
    keys: Sequence[str], rows: Sequence[Sequence[Any]], means: Sequence[float], metric: str, *, percent: bool
) -> Figure:
    """Draw parallel coordinates: a vertical axis for each key and for the metric, and a line for each setting.

    Args:
        keys: the varied keys.
        rows: the values of each setting, in the order of the keys.
        means: the metric of each setting, a mean over runs, which also colours its line.
    """
    columns = [_heights(column) for column in zip(*rows, strict=True)]
    low, spread = min(means), max(means) - min(means)
    heights = [(mean - low) / spread if spread else 0.5 for mean in means]
    with styled_axes(INCHES_PER_KEY * len(keys) + 3, 4.4, grid=False) as (figure, axes):
        axes.spines[:].set_visible(False)
        for row, height in sorted(zip(rows, heights, strict=True), key=lambda line: line[1]):  # the best on top
            path = [column[value_text(value)] for column, value in zip(columns, row, strict=True)]
            axes.plot([*path, height], color=COLOUR_MAP(height), alpha=0.8, lw=1.5)
        columns.append({_number(low + (spread or 1.0) * step / 4, percent): step / 4 for step in range(5)})
        # Lines cross the labels, which stay readable on white. Outlined letters would not be text in an SVG.
        paper: Any = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
        beside: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "zorder": 5}
        for x, column in enumerate(columns):
            axes.axvline(x, color="#888888", lw=1)
            for label, height in column.items():
                axes.annotate(label, (x, height), fontsize=8, bbox=paper, **beside)
        titles = [*(key.replace(".", ".\n") for key in keys), textwrap.fill(metric, round(10 * INCHES_PER_KEY))]
        axes.set_xticks(range(len(keys) + 1), titles)
        axes.tick_params(axis="x", length=0)
        axes.set(yticks=[], ylim=(-0.05, 1.05), xlim=(-0.3, len(keys) + 0.5))
        figure.suptitle(f"{metric.capitalize()}, means over runs, a line per setting", fontsize=11)
    return figure


def _number(mean: float, percent: bool) -> str:
    return f"{mean:.1%}" if percent else f"{mean:.4g}"


def _heights(values: Sequence[Any]) -> dict[str, float]:
    """Return evenly spaced heights in [0, 1] by value; numbers are sorted, other values keep their order."""
    unique = list({value_text(value): value for value in values}.values())
    if all(isinstance(value, int | float) for value in unique):
        unique.sort()
    heights = np.linspace(0, 1, len(unique)).tolist() if len(unique) > 1 else [0.5]
    return dict(zip(map(value_text, unique), heights, strict=True))


def _label_positions(axes: Axes, positions: Sequence[float]) -> None:
    """Write the values below the x axis, slanted where they would touch, with gaps where even that is too dense."""
    axes.autoscale_view()
    x = axes.transScale.transform([(position, 1.0) for position in positions])[:, 0]
    x = TICK_LETTERS * (x - x[0]) / ((x[-1] - x[0]) or 1.0)
    labels = [value_text(position) for position in positions]
    widths = [(len(left) + len(right)) / 2 + 1 for left, right in pairwise(labels)]
    if (np.diff(x) >= widths).all():
        axes.set_xticks(positions, labels)
        return
    last = -np.inf
    for number, at in enumerate(x):
        if at - last < SLANTED_TICK_LETTERS:
            labels[number] = ""
        else:
            last = at
    axes.set_xticks(positions, labels, rotation=45, ha="right")
