"""Pictures of a study in the style of `figures`: a metric by the values of the keys that were varied. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from cifarlab.figures.confusion import MOST_CELLS_WITH_NUMBERS
from cifarlab.figures.curves import CURVES
from cifarlab.figures.style import STYLE
from cifarlab.recipes.differences import value_text
from cifarlab.statistics.significance import estimate

WIDE = 10  # largest value over the smallest from which on an axis is logarithmic
COLOURS = "viridis"  # even for all kinds of colour vision
LETTERS_PER_INCH = 11  # of a title
LETTERS_ASLANT = 2.5  # from one tick to the next where they are written aslant
MOST_BANDS = 3  # of intervals; more would hide one another, and upright lines say the same
INCHES_PER_KEY = 2.0  # between upright axes
LETTERS_OF_TICKS = 70  # that fit side by side below an axis
BRIGHT = 0.6  # share of these colours from which on black is easier to read than white


def lines(
    points: Mapping[str, Sequence[tuple[float, Sequence[float]]]],
    key: str,
    metric: str,
    *,
    percent: bool,
    note: str = "",
) -> Figure:
    """A metric by the values of a numeric key: means as lines, Student's 95 % intervals of the mean as bands.

    Args:
        points: for each line the values of the key, rising, each with the metric of its runs.
        key: what the values are of.
        metric: what is drawn, in words.
        percent: whether it is a fraction of 1.
        note: what lines are left out, if any.
    """
    places = sorted({value for line in points.values() for value, _ in line})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4 + 0.17 * (len(points) if len(points) > 3 else 1)), layout="constrained")
        axes = figure.subplots()
        banded = False
        for number, (name, line) in enumerate(points.items()):
            colour, dashes = CURVES[number % len(CURVES)], ("-", "--", ":", "-.")[number // len(CURVES) % 4]
            found = [(value, estimate(list(figures))) for value, figures in line]
            means = [each.mean for _, each in found]
            axes.plot([value for value, _ in found], means, color=colour, ls=dashes, marker="o", ms=4, label=name)
            sure = [(value, each.low, each.high) for value, each in found if each.low is not None]
            if sure:
                banded = True
                at, low, high = (np.array(column) for column in zip(*sure, strict=True))
                if percent:
                    low, high = low.clip(0, 1), high.clip(0, 1)
                if len(points) <= MOST_BANDS:
                    axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
                axes.vlines(at, low, high, color=colour, alpha=0.6, lw=1.5)
        if places[0] > 0 and places[-1] / places[0] >= WIDE:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if len(places) <= MOST_CELLS_WITH_NUMBERS:
            _name_places(axes, places)
        title = "means and 95 % intervals over runs" if banded else "one run each"
        axes.set_xlabel(key)
        figure.suptitle("\n".join(filter(None, [f"{metric.capitalize()}: {title}", note])), fontsize=11)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        if len(points) > 1:
            figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=1 if len(points) > 3 else 2)
    return figure


def heat_map(
    means: Float64[np.ndarray, "down across"],
    keys: tuple[str, str],
    values: Sequence[Sequence[str]],
    metric: str,
    *,
    percent: bool,
) -> Figure:
    """A metric by the values of two keys, as colours and numbers; white where there is none.

    Args:
        means: the metric, no number where nothing was trained.
        keys: what is varied downwards and across.
        values: of both.
        metric: what is drawn, in words.
        percent: whether it is a fraction of 1.
    """
    down, across = means.shape
    middle = float(np.nanmin(means)) + BRIGHT * float(np.nanmax(means) - np.nanmin(means))
    size = (max(4.5, 0.85 * across + 2.5), max(3.0, 0.55 * down + 1.6))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        colours = matplotlib.colormaps[COLOURS]
        image = axes.imshow(means, cmap=colours, aspect="auto")
        figure.colorbar(image, ax=axes, format=PercentFormatter(1) if percent else None)
        axes.set_xticks(range(across), values[1], rotation=45, ha="right")
        axes.set_yticks(range(down), values[0])
        axes.set(xlabel=keys[1], ylabel=keys[0])
        letters = round(size[0] * LETTERS_PER_INCH)  # of the whole picture, which is wider than the axes
        figure.suptitle(textwrap.fill(f"{metric.capitalize()}, means over runs", letters), fontsize=11)
        if max(down, across) <= MOST_CELLS_WITH_NUMBERS:
            for row, column in zip(*np.nonzero(np.isfinite(means)), strict=True):
                mean = float(means[row, column])
                ink = "black" if mean > middle else "white"
                told = f"{mean:.1%}" if percent else f"{mean:.4g}"
                axes.text(column, row, told, ha="center", va="center", fontsize=8, color=ink)
    return figure


def parallel(
    keys: Sequence[str], rows: Sequence[Sequence[Any]], figures: Sequence[float], metric: str, *, percent: bool
) -> Figure:
    """Parallel coordinates: an upright axis for each key and one for the metric, and a line for each setting.

    Args:
        keys: what is varied.
        rows: for each setting its values, in the order of the keys.
        figures: the metric of each setting, which is also its colour.
        metric: what is drawn, in words.
        percent: whether it is a fraction of 1.
    """
    columns = [_places([row[number] for row in rows]) for number in range(len(keys))]
    low, high = min(figures), max(figures)
    spread = high - low or 1.0
    heights = [(figure - low) / spread if high > low else 0.5 for figure in figures]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(INCHES_PER_KEY * len(keys) + 3, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.spines[:].set_visible(False)
        colours = matplotlib.colormaps[COLOURS]
        for row, height in sorted(zip(rows, heights, strict=True), key=lambda each: each[1]):
            path = [columns[number][value_text(value)] for number, value in enumerate(row)]
            axes.plot([*path, height], color=colours(height), alpha=0.8, lw=1.5)
        for number, places in enumerate(columns):
            _upright(axes, number, places)
        marks = {f"{low + spread * step / 4:{'.1%' if percent else '.4g'}}": step / 4 for step in range(5)}
        _upright(axes, len(keys), marks)
        titles = [*(key.replace(".", ".\n") for key in keys), textwrap.fill(metric, round(10 * INCHES_PER_KEY))]
        axes.set_xticks(range(len(keys) + 1), titles)
        axes.tick_params(axis="x", length=0)
        axes.set(yticks=[], ylim=(-0.05, 1.05), xlim=(-0.3, len(keys) + 0.5))
        figure.suptitle(f"{metric.capitalize()}, means over runs: a line a setting", fontsize=11)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda *_: ""))
    return figure


def _places(values: Sequence[Any]) -> dict[str, float]:
    """A height from 0 to 1 for each value, evenly apart; numbers rise, other values stand as they come."""
    different = list({value_text(value): value for value in values}.values())
    if all(isinstance(value, int | float) for value in different):
        different.sort()
    top = max(1, len(different) - 1)
    return {value_text(value): number / top if len(different) > 1 else 0.5 for number, value in enumerate(different)}


def _upright(axes: Axes, place: int, marks: Mapping[str, float]) -> None:
    axes.axvline(place, color="#888888", lw=1)
    # Lines cross the names, which stay readable on white; an outline of letters would be no text in an SVG any more.
    paper: Any = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    for name, height in marks.items():
        axes.annotate(
            name,
            (place, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox=paper,
            zorder=5,
        )


def _name_places(axes: Axes, places: Sequence[float]) -> None:
    """Writes the values below the x axis: aslant where they would touch, and not all where even that is too near."""
    axes.autoscale_view()
    at = axes.transScale.transform([(place, 1.0) for place in places])[:, 0]
    at = LETTERS_OF_TICKS * (at - at[0]) / ((at[-1] - at[0]) or 1.0)
    names = [value_text(value) for value in places]
    needed = [(len(a) + len(b)) / 2 + 1 for a, b in pairwise(names)]
    if (np.diff(at) >= needed).all():
        axes.set_xticks(places, names)
        return
    last = -np.inf
    for number, place in enumerate(at):
        if place - last < LETTERS_ASLANT:
            names[number] = ""
        else:
            last = place
    axes.set_xticks(places, names, rotation=45, ha="right")
