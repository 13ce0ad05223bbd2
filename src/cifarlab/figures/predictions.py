"""Figures of predictions on a test set: reliability diagram, accuracy by coverage, embedding of the logits."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float32, Float64, Int64
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from cifarlab.figures.style import BLUE, CENTRED, GREY, ORANGE, STYLE, short_names, styled_axes
from cifarlab.statistics.metrics import Reliability

FEW_IMAGES = 10  # in a bar of the reliability diagram; fewer say little
LONGEST_NAME = 20  # letters of a class among the points of an embedding


def reliability(bins: Reliability, error: float, title: str) -> Figure:
    """Draw accuracy and number of images by confidence; `error` is the expected calibration error, in [0, 1]."""
    edges, filled = np.linspace(0, 1, len(bins.images) + 1)[:-1], bins.images > 0
    bars: Any = {"width": 1 / len(edges), "align": "edge", "ec": "white"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        few = bins.images < FEW_IMAGES
        for chosen, pale, name in ((~few, 1.0, None), (few & filled, 0.3, f"fewer than {FEW_IMAGES} images")):
            if chosen.any():
                above.bar(edges[chosen], bins.accuracy[chosen], color=BLUE, alpha=pale, label=name, **bars)
        above.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfect calibration")
        mean: Any = {"color": ORANGE, "ms": 4, "clip_on": False, "zorder": 3, "label": "mean confidence in the bar"}
        above.plot(bins.confidence[filled], bins.accuracy[filled], "o", **mean)
        above.set(ylim=(0, 1), ylabel="accuracy", title=f"{title}\ncalibration error {error:.2%}")
        above.yaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(frameon=False, loc="outside lower center", ncols=2)  # inside it would hide bars
        below.bar(edges, bins.images, color=GREY, **bars)
        below.set(xlim=(0, 1), xlabel="confidence: probability of the predicted class", ylabel="images")
        below.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def coverage(accuracies: Float64[np.ndarray, " n"]) -> Figure:
    """Draw the accuracies of `metrics.accuracy_by_coverage` against the share of images that are classified."""
    shares = np.arange(1, len(accuracies) + 1) / len(accuracies)
    # At most 400 points. Below 1 % of the images the accuracy jumps about.
    drawn = np.unique((np.linspace(0.01, 1, 400) * len(accuracies)).astype(int).clip(1)) - 1
    with styled_axes(5.2, 3.6, percent="xy") as (figure, axes):
        axes.plot(shares[drawn], accuracies[drawn], color=BLUE)
        axes.plot(1, accuracies[-1], "o", color=BLUE)
        beside: Any = {"xytext": (-9, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(f"{accuracies[-1]:.1%}", (1, accuracies[-1]), **beside)
        axes.set(xlim=(0, 1.02), ylabel="accuracy", title="Accuracy if only confident predictions count")
        axes.set_xlabel("share of images classified, most confident first")
    return figure


def embedding(
    points: Float32[np.ndarray, "n 2"], labels: Int64[np.ndarray, " n"], classes: Sequence[str], title: str
) -> Figure:
    """Draw images as points in a plane, coloured by true class, whose name stands at the median of its points."""
    with styled_axes(7, 6.4, grid=False) as (figure, axes):
        colours = matplotlib.colormaps["tab20" if len(classes) > 10 else "tab10"]
        names = short_names(classes, LONGEST_NAME)
        for number in np.unique(labels):
            of_class = points[labels == number]
            axes.plot(*of_class.T, ".", color=colours(number % colours.N), ms=4, alpha=0.6)
            halo = [withStroke(linewidth=3, foreground="white")]
            x, y = np.median(of_class, axis=0)
            axes.text(x, y, names[number], **CENTRED, fontsize=9, weight="bold", path_effects=halo)
        axes.set(xticks=[], yticks=[], title=title)
        axes.spines[:].set_visible(False)
    return figure
