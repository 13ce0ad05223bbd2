"""Arrays to pictures, one function each, in one style. Pure: nothing is read and nothing is written.

Colours are those of Okabe and Ito, which people with the common colour-vision deficiencies can tell apart.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float32, Float64, Int64
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from cifarlab.metrics import Reliability
from cifarlab.significance import Estimate

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"
CURVES = (BLUE, ORANGE, RED, "#009E73", "#CC79A7", "#56B4E9", GREY)
DOTS_PER_INCH = 110
LONGEST_LINE = 56  # letters of a name beside a row; longer ones go on in the next line
WIDEST_TITLE = 90  # letters in a line above a picture of 8 inches
MOST_CELLS_WITH_NUMBERS = 15  # classes a side; with more, numbers would not be readable

STYLE: Any = {  # keys that matplotlib's types know, which a dictionary cannot say
    "figure.autolayout": False,  # a user's own would replace ours
    "figure.constrained_layout.use": False,
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
_IN_A_CELL: Any = {**_CENTRED, "in_layout": False}  # which needs no place of its own
_DARK = b"@media (prefers-color-scheme: dark) { svg { filter: invert(0.9) hue-rotate(180deg) } }\n"  # hues stay


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a file of this kind, `svg` or `png`; equal figures give equal bytes.

    An SVG is light or dark as its reader's system is. The first call lays the figure out; what is drawn into it after
    that finds its places taken.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")  # a PNG then shows a box; an SVG does not
        if figure.get_layout_engine() is not None:  # once: to lay it out for each kind takes as long as drawing
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    content = buffer.getvalue()
    return content.replace(b"*{stroke-linejoin", _DARK + b"*{stroke-linejoin", 1) if kind == "svg" else content


def curves(history: Mapping[str, Sequence[float]], held_out: str) -> Figure:
    """Loss and accuracy after each epoch; the first of the highest accuracy is marked.

    Args:
        history: `epoch`, `train_loss`, `validation_loss`, `train_accuracy`, `validation_accuracy`, a value an epoch.
        held_out: what the images are called that are not trained on: `validation` or `test`.
    """
    best = history["epoch"][int(np.argmax(history["validation_accuracy"]))]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            marker = "o" if len(epochs := history["epoch"]) < 25 else None
            axes.plot(epochs, history[f"train_{what}"], color=BLUE, marker=marker, ms=3.5, label="training")
            axes.plot(epochs, history[f"validation_{what}"], color=ORANGE, marker=marker, ms=3.5, label=held_out)
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
    train: Sequence[Sequence[float]],
    validation: Sequence[Sequence[float]],
    held_out: str,
    published: Sequence[tuple[int, float]],
    title: str,
    stops: Sequence[int] = (),
) -> Figure:
    """Accuracy by epoch over several runs: means as lines, the range of the runs as bands, each run to its own end.

    Args:
        train: accuracy on the training images, a list a run, a value an epoch.
        validation: on images held out.
        held_out: what these are called.
        published: epochs and accuracies of published figures, which become crosses.
        title: above all.
        stops: the epochs after which early stopping would have ended the runs.
    """
    last = max(map(len, validation))
    epochs = np.arange(1, last + 1)
    padded = [np.array([[*run, *[np.nan] * (last - len(run))] for run in part]) for part in (train, validation)]
    common = min(map(len, validation))  # where all runs are
    best = int(padded[1][:, :common].mean(axis=0).argmax()) + 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for values, colour, name in zip(padded, (BLUE, ORANGE), ("training images", held_out), strict=True):
            axes.plot(epochs, np.nanmean(values, axis=0), color=colour, label=name)
            band = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(epochs, *band, color=colour, alpha=0.2, lw=0)
        which = f"best of the first {common} epochs" if common < last else "best epoch"
        axes.axvline(best, color=GREY, lw=1, ls=":", label=f"{which} on {held_out}: {best}")
        for number, stop in enumerate(sorted(stops)):
            told = f"early stopping: after {', '.join(map(str, sorted(stops)))}" if number == 0 else None
            axes.axvline(stop, color=RED, lw=1, ls="--", label=told)
        if shown := [point for point in published if point[0] <= last]:
            axes.plot(*zip(*shown, strict=True), "x", color=RED, ms=8, mew=2, label="published")
        runs = "1 run" if len(train) == 1 else f"means and ranges of {len(train)} runs"
        fewer = f" (fewer runs after {common})" if common < last else ""
        axes.set(xlabel=f"epoch{fewer}", title=f"{title}: accuracy, {runs}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False)
    return figure


def compared_curves(histories: Mapping[str, Sequence[float]], held_out: str) -> Figure:
    """Accuracy of several runs by epoch, told apart by colour, dashes and a legend.

    Args:
        histories: accuracies from 0 to 1 by run, a value an epoch.
        held_out: as `curves` takes it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for number, (name, found) in enumerate(histories.items()):
            colour, dashes = CURVES[number % len(CURVES)], ("-", "--", ":", "-.")[number // len(CURVES) % 4]
            marker = "o" if len(found) < 25 else None
            axes.plot(range(1, len(found) + 1), found, color=colour, ls=dashes, marker=marker, ms=3.5, label=name)
        axes.set(xlabel="epoch", title=f"Accuracy on {held_out} images")
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


def confusion(matrix: Int64[np.ndarray, "classes classes"], classes: Sequence[str], title: str) -> Figure:
    """A confusion matrix: the colour is the share of the true class, the number the count of images."""
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(12.0, max(5.5, 0.62 * count + 1.6))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
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
                axes.text(column, row - 0.14, str(matrix[row, column]), **_IN_A_CELL, fontsize=8, color=colour)
                axes.text(column, row + 0.22, f"{share[row, column]:.1%}", **_IN_A_CELL, fontsize=5.5, color=colour)
    return figure


def per_class(classes: Sequence[str], precision: Sequence[float], recall: Sequence[float]) -> Figure:
    """Precision and recall of each class as bars, the class with the lowest recall at the bottom."""
    order = np.argsort(recall, kind="stable")
    places = np.arange(len(classes))
    with matplotlib.rc_context(STYLE):
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
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.bar(edges[:-1][filled], bins.right[filled], np.diff(edges)[filled], align="edge", color=BLUE, ec="white")
        above.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="as sure as right")
        above.plot(
            bins.confidence[filled],
            bins.right[filled],
            "o",
            color=ORANGE,
            ms=4,
            clip_on=False,
            zorder=3,
            label="mean of a bar",
        )
        above.set(ylim=(0, 1), ylabel="accuracy", title=f"{title}\ncalibration error {error:.2%}")
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
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(shares[shown], accuracies[shown], color=BLUE)
        axes.plot(1, accuracies[-1], "o", color=BLUE)
        axes.annotate(
            f"{accuracies[-1]:.1%}",
            (1, accuracies[-1]),
            xytext=(-9, 0),
            textcoords="offset points",
            ha="right",
            va="center",
        )
        axes.set(xlim=(0, 1.02), xlabel="share answered, the surest first", ylabel="accuracy among them", title=title)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


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
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
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


def tuning_history(numbers: Sequence[int], accuracies: Sequence[float], states: Sequence[str], title: str) -> Figure:
    """Validation accuracy of each trial of a tuning, and the best so far.

    Args:
        numbers: of the trials.
        accuracies: from 0 to 1; of one that ended early its last.
        states: `complete` or `pruned`, one a trial.
        title: above all.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        for state, colour, marker in (("complete", BLUE, "o"), ("pruned", GREY, "x")):
            points = [place for place, each in enumerate(states) if each == state]
            if points:
                x, y = [numbers[place] for place in points], [accuracies[place] for place in points]
                axes.plot(x, y, marker, color=colour, ms=5, label=f"{state}: {len(points)}")
                if state == "complete":
                    axes.step(x, np.maximum.accumulate(y), color=ORANGE, where="post", label="best so far")
        axes.set(xlabel="trial", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False)
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


def range_test(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggested: float | None, title: str
) -> Figure:
    """The loss of each step of a learning-rate range test against the rate, on a logarithmic axis.

    Args:
        rates: one a step.
        losses: in nats.
        smoothed: the same, smoothed.
        suggested: the rate to mark, if any.
        title: above all.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(rates, losses, color=GREY, alpha=0.45, lw=0.8, label="each step")
        axes.semilogx(rates, smoothed, color=BLUE, lw=2, label="smoothed")
        if suggested is not None:
            axes.axvline(suggested, color=RED, lw=1.5, ls="--", label=f"steepest descent: {suggested:.3g}")
        plain = FuncFormatter(lambda rate, _: f"{rate:g}")  # the usual one writes mathematics
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(plain if rates[-1] < 10 * rates[0] else NullFormatter())
        low, high = min(smoothed), max(smoothed[0], 1.5 * min(smoothed))
        axes.set_ylim(low - 0.25 * (high - low) - 0.05, high + 0.6 * (high - low) + 0.05)
        axes.set(xlabel="learning rate", ylabel="training loss, nats", title=title)
        axes.legend(frameon=False)
    return figure
