"""Estimates with their intervals, and the importance of settings, as horizontal bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cifarlab.figures.style import BLUE, RED, STYLE
from cifarlab.statistics.significance import Estimate

LONGEST_LINE = 56  # letters of a name beside a row; longer ones go on in the next line
WIDEST_TITLE = 90  # letters in a line above a picture of 8 inches


def intervals(names: Sequence[str], found: Sequence[Estimate], published: Mapping[str, float], title: str) -> Figure:
    """Means over runs as points with their intervals, one below the other.

    Args:
        names: of the rows.
        found: a mean and its interval a row.
        published: figures that become crosses, by row.
        title: above all.
    """
    rows = [textwrap.fill(name, LONGEST_LINE) for name in names]
    lines = sum(row.count("\n") + 1 for row in rows)
    point = "mean and 95 % interval" if any(each.low is not None for each in found) else "a single run"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.5 + 0.1 * len(names) + 0.18 * lines), layout="constrained")
        axes = figure.subplots()
        for place, (name, estimate) in enumerate(zip(names, found, strict=True)):
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=BLUE, lw=2, alpha=0.6)
            axes.plot(estimate.mean, place, "o", color=BLUE, ms=5, label="" if place else point)
            if name in published:
                axes.plot(published[name], place, "x", color=RED, ms=7, mew=2)
        if published:
            axes.plot([], [], "x", color=RED, ms=7, mew=2, label="published")
        axes.set_yticks(range(len(names)), labels=rows)
        axes.set_ylim(len(names) - 0.5, -0.5)  # the first above
        # The figure's title and not the axes': long names beside the axes would leave it no room.
        figure.suptitle(textwrap.fill(title, WIDEST_TITLE), x=0.01, ha="left", fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(frameon=False, loc="outside lower center", ncols=2)  # inside it would look like a row
    return figure


def importances(shares: Mapping[str, float], title: str) -> Figure:
    """How much each setting matters, as bars, the greatest above.

    Args:
        shares: by setting; together 1.
        title: above all.
    """
    names = sorted(shares, key=lambda name: shares[name])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 1.2 + 0.36 * len(names)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(names, [shares[name] for name in names], 0.6, color=BLUE)
        axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=3, fontsize=9)
        axes.set(xlim=(0, 1.08), title=title)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", visible=False)
    return figure
