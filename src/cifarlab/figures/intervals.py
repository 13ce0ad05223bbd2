"""Figures of estimates with their confidence intervals, and of the importance of settings."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifarlab.figures.style import BLUE, RED, styled_axes
from cifarlab.statistics.significance import Estimate

LONGEST_LINE = 56  # letters of a row's name before it is wrapped
WIDEST_TITLE = 90  # letters of the title before it is wrapped; the figure is 8 inches wide


def intervals(
    names: Sequence[str], estimates: Sequence[Estimate], published: Mapping[str, float], title: str
) -> Figure:
    """Draw means over runs as points with their 95 % confidence intervals, one row below the other.

    Published accuracies, by row name, are drawn as crosses; rows may be missing.
    """
    rows = [textwrap.fill(name, LONGEST_LINE) for name in names]
    lines = sum(row.count("\n") + 1 for row in rows)
    has_interval = any(estimate.low is not None for estimate in estimates)
    point = "mean and 95 % confidence interval" if has_interval else "a single run"
    with styled_axes(8, 1.5 + 0.1 * len(names) + 0.18 * lines, percent="x") as (figure, axes):
        for place, (name, estimate) in enumerate(zip(names, estimates, strict=True)):
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=BLUE, lw=2, alpha=0.6)
            axes.plot(estimate.mean, place, "o", color=BLUE, ms=5, label="" if place else point)
            if name in published:
                axes.plot(published[name], place, "x", color=RED, ms=7, mew=2)
        if published:
            axes.plot([], [], "x", color=RED, ms=7, mew=2, label="published")
        axes.set_yticks(range(len(names)), labels=rows)
        axes.set_ylim(len(names) - 0.5, -0.5)  # the first row on top
        # A title of the figure, because long names beside the axes would leave no room for a title of the axes.
        figure.suptitle(textwrap.fill(title, WIDEST_TITLE), x=0.01, ha="left", fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        figure.legend(frameon=False, loc="outside lower center", ncols=2)  # inside the axes it would look like a row
    return figure


def importances(shares: Mapping[str, float], title: str) -> Figure:
    """Draw the importance of each setting, a share of 1, as bars, with the most important setting on top."""
    names = sorted(shares, key=lambda name: shares[name])
    with styled_axes(7, 1.2 + 0.36 * len(names), percent="x") as (figure, axes):
        bars = axes.barh(names, [shares[name] for name in names], 0.6, color=BLUE)
        axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=3, fontsize=9)
        axes.set(xlim=(0, 1.08), title=title)
        axes.grid(axis="y", visible=False)
    return figure
