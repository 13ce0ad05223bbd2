"""Arrays to pictures, one function each, in one style. Pure: nothing is read and nothing is written.

Colours are those of Okabe and Ito, which people with the common colour-vision deficiencies can tell apart.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cifarlab.metrics import Reliability
from cifarlab.significance import Estimate

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"
CURVES = (
    BLUE,
    ORANGE,
    RED,
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    GREY,
)  # Okabe and Ito 2008, for all kinds of colour vision
DOTS_PER_INCH = 110
FILTERS_A_ROW = 16
MOST_CELLS_WITH_NUMBERS = 15  # classes a side; with more, numbers would not be readable

_STYLE: Any = {  # keys that matplotlib's types know, which a dictionary cannot say
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.edgecolor": "#888888",
    "svg.fonttype": "none",  # text stays text: smaller, searchable, readable aloud
    "svg.hashsalt": "cifarlab",
    "text.parse_math": False,  # a class may be called "$"
}
_CENTRED: Any = {"ha": "center", "va": "center"}
_DARK = b"@media (prefers-color-scheme: dark) { svg { filter: invert(0.9) hue-rotate(180deg) } }\n"  # hues stay


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a file of this kind, `svg` or `png`; equal figures give equal bytes.

    An SVG is light or dark as its reader's system is.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")  # a PNG then shows a box; an SVG does not
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    content = buffer.getvalue()
    return content.replace(b"*{stroke-linejoin", _DARK + b"*{stroke-linejoin", 1) if kind == "svg" else content


def curves(history: Mapping[str, Sequence[float]], best: int) -> Figure:
    """Loss and accuracy after each epoch.

    Args:
        history: `epoch`, `train_loss`, `validation_loss`, `train_accuracy`, `validation_accuracy`, a value an epoch.
        best: the epoch to mark.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            epochs = history["epoch"]
            marker = "o" if len(epochs) < 25 else None
            axes.plot(epochs, history[f"train_{what}"], color=BLUE, marker=marker, ms=3.5, label="training")
            axes.plot(epochs, history[f"validation_{what}"], color=ORANGE, marker=marker, ms=3.5, label="validation")
            axes.axvline(best, color=GREY, lw=1, ls=":", label=f"best epoch: {best}")
            axes.set(xlabel="epoch", title="Loss (cross-entropy, nats)" if what == "loss" else "Accuracy")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if len(epochs) == 1:
                axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
            if what == "accuracy":
                axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.legend(frameon=False)
    return figure


def epoch_study(
    train: Float64[np.ndarray, "runs epochs"],
    validation: Float64[np.ndarray, "runs epochs"],
    held_out: str,
    published: Sequence[tuple[int, float]],
    title: str,
) -> Figure:
    """Accuracy by epoch over several runs: means as lines, the range of the runs as bands.

    Args:
        train: accuracy on the training images.
        validation: on images held out.
        held_out: what these are called.
        published: epochs and accuracies of published figures, which become crosses.
        title: above all.
    """
    epochs = np.arange(1, train.shape[1] + 1)
    best = int(validation.mean(axis=0).argmax()) + 1
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for values, colour, name in ((train, BLUE, "training images"), (validation, ORANGE, held_out)):
            axes.plot(epochs, values.mean(axis=0), color=colour, label=name)
            axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, lw=0)
        axes.axvline(best, color=GREY, lw=1, ls=":", label=f"best epoch on {held_out}: {best}")
        shown = [point for point in published if point[0] <= train.shape[1]]
        if shown:
            axes.plot(*zip(*shown, strict=True), "x", color=RED, ms=8, mew=2, label="published")
        runs = "1 run" if len(train) == 1 else f"means and ranges of {len(train)} runs"
        axes.set(xlabel="epoch", title=f"{title}: accuracy, {runs}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False)
    return figure


def compared_curves(histories: Mapping[str, Sequence[float]]) -> Figure:
    """Validation accuracy of several runs by epoch, told apart by colour, dashes and a legend.

    Args:
        histories: accuracies from 0 to 1 by run, a value an epoch.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for number, (name, accuracies) in enumerate(histories.items()):
            colour, dashes = CURVES[number % len(CURVES)], ("-", "--", ":", "-.")[number // len(CURVES) % 4]
            marker = "o" if len(accuracies) < 25 else None
            epochs = range(1, len(accuracies) + 1)
            axes.plot(epochs, accuracies, color=colour, ls=dashes, marker=marker, ms=3.5, label=name)
        axes.set(xlabel="epoch", title="Accuracy on validation images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False, fontsize=8)
    return figure


def intervals(names: Sequence[str], found: Sequence[Estimate], published: Mapping[str, float], title: str) -> Figure:
    """Means over runs as points with their intervals, one below the other.

    Args:
        names: of the rows.
        found: a mean and its interval a row.
        published: figures that become crosses, by row.
        title: above all.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.28 * len(names)), layout="constrained")
        axes = figure.subplots()
        for place, (name, estimate) in enumerate(zip(names, found, strict=True)):
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=BLUE, lw=2, alpha=0.6)
            axes.plot(estimate.mean, place, "o", color=BLUE, ms=5, label="" if place else "mean and 95 % interval")
            if name in published:
                axes.plot(published[name], place, "x", color=RED, ms=7, mew=2)
        if published:
            axes.plot([], [], "x", color=RED, ms=7, mew=2, label="published")
        axes.set_yticks(range(len(names)), labels=names)
        axes.invert_yaxis()
        axes.set_title(title, loc="left")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False, loc="best")
    return figure


def confusion(matrix: Int64[np.ndarray, "classes classes"], classes: Sequence[str], title: str) -> Figure:
    """A confusion matrix: the colour is the share of the true class, the number the count of images."""
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(12.0, max(5.5, 0.62 * count + 1.6))
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side, side * 0.92), layout="constrained")
        axes = figure.subplots()
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
                axes.text(column, row - 0.14, str(matrix[row, column]), **_CENTRED, fontsize=8, color=colour)
                axes.text(column, row + 0.22, f"{share[row, column]:.1%}", **_CENTRED, fontsize=5.5, color=colour)
    return figure


def per_class(classes: Sequence[str], precision: Sequence[float], recall: Sequence[float]) -> Figure:
    """Precision and recall of each class as bars, the class with the lowest recall at the bottom."""
    order = np.argsort(recall, kind="stable")
    places = np.arange(len(classes))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7, max(2.5, 0.38 * len(classes) + 1)), layout="constrained")
        axes = figure.subplots()
        axes.barh(places + 0.2, np.asarray(recall)[order], 0.38, color=BLUE, label="recall")
        axes.barh(places - 0.2, np.asarray(precision)[order], 0.38, color=ORANGE, label="precision")
        axes.set_yticks(places, [classes[i] for i in order])
        axes.set(xlim=(0, 1), title="Precision and recall")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def reliability(bins: Reliability, error: float, title: str) -> Figure:
    """A reliability diagram: accuracy by confidence, and below it how many images are that sure.

    Args:
        bins: from `metrics.reliability`.
        error: the expected calibration error, from 0 to 1.
        title: above all.
    """
    edges = np.linspace(0, 1, len(bins.images) + 1)
    filled = bins.images > 0
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 5.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.bar(edges[:-1][filled], bins.right[filled], np.diff(edges)[filled], align="edge", color=BLUE, ec="white")
        above.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="as sure as right")
        above.plot(bins.confidence[filled], bins.right[filled], "o", color=ORANGE, ms=4, label="mean of a bar")
        above.set(ylim=(0, 1), ylabel="accuracy", title=f"{title}: calibration error {error:.2%}")
        above.yaxis.set_major_formatter(PercentFormatter(1))
        above.legend(frameon=False, loc="upper left")
        below.bar(edges[:-1], bins.images, np.diff(edges), align="edge", color=GREY, ec="white")
        below.set(xlim=(0, 1), xlabel="confidence: probability of the predicted class", ylabel="images")
        below.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def coverage(accuracies: Float64[np.ndarray, " n"], title: str) -> Figure:
    """Accuracy against the share of images answered, if the network abstains where it is least sure.

    Args:
        accuracies: from `metrics.accuracy_by_coverage`.
        title: above all.
    """
    shares = np.arange(1, len(accuracies) + 1) / len(accuracies)
    shown = np.unique(np.linspace(0.01, 1, 400) * len(accuracies)).astype(int).clip(1) - 1  # the first few jump about
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(shares[shown], accuracies[shown], color=BLUE)
        axes.plot(1, accuracies[-1], "o", color=BLUE)
        axes.annotate(
            f"{accuracies[-1]:.1%}", (1, accuracies[-1]), xytext=(-6, -12), textcoords="offset points", ha="right"
        )
        axes.set(xlim=(0, 1.02), xlabel="share answered, the surest first", ylabel="accuracy among them", title=title)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def filters(kernels: Float32[np.ndarray, "n 3 h w"], title: str) -> Figure:
    """Kernels over colours as small pictures: grey is 0, and each is scaled by its own largest weight."""
    scale = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    shown = (127.5 + 127.5 * kernels / np.maximum(scale, 1e-12)).round().astype(np.uint8)
    rows = [shown[start : start + FILTERS_A_ROW] for start in range(0, len(shown), FILTERS_A_ROW)]
    return class_samples(rows, [""] * len(rows), title)


def embedding(
    points: Float32[np.ndarray, "n 2"], labels: Int64[np.ndarray, " n"], classes: Sequence[str], title: str
) -> Figure:
    """Images as points in a plane, coloured by class; each class's name stands in the midst of its points.

    Args:
        points: places, of no unit.
        labels: numbers of classes.
        classes: names.
        title: above all.
    """
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7, 6.4), layout="constrained")
        axes = figure.subplots()
        colours = matplotlib.colormaps["tab20" if len(classes) > 10 else "tab10"]
        for number, name in enumerate(classes):
            which = labels == number
            if not which.any():
                continue
            axes.plot(*points[which].T, ".", color=colours(number % colours.N), ms=4, alpha=0.6)
            halo = [withStroke(linewidth=3, foreground="white")]
            x, y = np.median(points[which], axis=0)
            axes.text(x, y, name, **_CENTRED, fontsize=9, weight="bold", path_effects=halo)
        axes.set(xticks=[], yticks=[], title=title)
        axes.spines[:].set_visible(False)
    return figure


def pictures(
    images: UInt8[np.ndarray, "n 3 h w"], captions: Sequence[str], wrong: Sequence[bool], columns: int, title: str
) -> Figure:
    """Images in a grid, each with a caption, which is red where something is wrong.

    Args:
        images: colour images.
        captions: a text for each, of at most two lines.
        wrong: whether each is a mistake.
        columns: images a row.
        title: above all.
    """
    rows = max(1, -(-len(images) // columns))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _mosaic(columns, rows, cell=(1.25, 1.62), left=0.0, title=title)
        for place, (image, caption, is_wrong) in enumerate(zip(images, captions, wrong, strict=True)):
            row, column = divmod(place, columns)
            _show(axes, image, column + 0.04, row + 0.26, 0.92, 0.71)
            colour = RED if is_wrong else "black"
            axes.text(column + 0.5, row + 0.24, caption, ha="center", va="bottom", fontsize=7.5, color=colour)
    return figure


def explanation(
    image: UInt8[np.ndarray, "3 h w"],
    heats: Mapping[str, Float32[np.ndarray, "h w"]],
    probabilities: Mapping[str, float],
    title: str,
) -> Figure:
    """An image, heat maps laid over it, and the likeliest classes as bars.

    Args:
        image: as the network got it.
        heats: heat maps from 0 to 1 by name.
        probabilities: of the classes to show, the likeliest first.
        title: above all.
    """
    parts = len(heats) + 1
    width, height = 1.9 * parts + 3.4, 2.5
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(width, height))
        figure.suptitle(title, fontsize=11, x=0.02, ha="left")
        for place, (name, heat) in enumerate([("image", None), *heats.items()]):
            axes = figure.add_axes((0.02 + 1.9 * place / width, 0.04, 1.75 / width, 0.74))
            axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
            if heat is not None:
                axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * heat, interpolation="bilinear")
            axes.set_title(name, fontsize=9)
            axes.set_axis_off()
        axes = figure.add_axes((0.02 + (1.9 * parts + 1.1) / width, 0.1, 1.7 / width, 0.68))
        places = range(len(probabilities))
        axes.barh(places, list(probabilities.values()), color=BLUE, height=0.6)
        axes.set_yticks(places, labels=list(probabilities), fontsize=9)
        for place, probability in enumerate(probabilities.values()):
            axes.text(probability + 0.03, place, f"{probability:.1%}", va="center", fontsize=8)
        axes.set(xlim=(0, 1), xticks=[])
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
    return figure


def class_samples(rows: Sequence[UInt8[np.ndarray, "_ 3 h w"]], names: Sequence[str], title: str) -> Figure:
    """A row of images for each name.

    Args:
        rows: images of each row; rows may be of different lengths.
        names: what stands before each row.
        title: above all.
    """
    columns = max(len(row) for row in rows)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _mosaic(columns, len(rows), cell=(0.75, 0.75), left=1.3, title=title)
        for line, (row, name) in enumerate(zip(rows, names, strict=True)):
            axes.text(-0.1, line + 0.5, name, ha="right", va="center", fontsize=9)
            for column, image in enumerate(row):
                _show(axes, image, column + 0.04, line + 0.04, 0.92, 0.92)
    return figure


def _mosaic(columns: int, rows: int, cell: tuple[float, float], left: float, title: str) -> tuple[Figure, Axes]:
    """One drawing area for many images, because laying out an area for each takes seconds.

    Its units are cells, from (0, 0) at the top left. `cell` is a cell's width and height and `left` the margin for
    names, in inches.
    """
    width, height, top = left + cell[0] * columns, cell[1] * rows, 0.4
    figure = Figure(figsize=(width, height + top))
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / (height + top), va="top")
    axes = figure.add_axes((left / width, 0, 1 - left / width, height / (height + top)))
    axes.set_axis_off()
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    return figure, axes


def _show(axes: Axes, image: UInt8[np.ndarray, "3 h w"], x: float, y: float, width: float, height: float) -> None:
    extent = (x, x + width, y + height, y)
    axes.imshow(image.transpose(1, 2, 0), extent=extent, aspect="auto", interpolation="nearest")
