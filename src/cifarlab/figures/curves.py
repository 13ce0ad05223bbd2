"""Figures of curves: metrics by epoch, trial or learning rate."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from cifarlab.figures.style import BLUE, GREY, ORANGE, RED, STYLE, styled_axes

MOST_MARKED = 25  # points of a curve that are marked; more would hide the line
OUTLYING = 10  # times the median loss: a larger loss would flatten the curve on a linear axis
_DASHES = ("-", "--", ":", "-.")
COLOURS = (BLUE, ORANGE, RED, "#009E73", "#CC79A7", "#56B4E9", GREY)


def line_style(number: int) -> tuple[str, str]:
    """Return colour and dashes of the curve of this number, so that many curves can be told apart."""
    return COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]


def learning_curves(history: Mapping[str, Sequence[float]], held_out: str) -> Figure:
    """Draw loss (in nats) and accuracy (a fraction of 1) by epoch, and mark the best epoch.

    That has the highest accuracy on held-out images, and among equals the lowest loss there. The history has the
    columns `epoch`, `train_loss`, `validation_loss`, `train_accuracy` and `validation_accuracy`.
    """
    epochs = history["epoch"]
    rows = zip(epochs, history["validation_accuracy"], history["validation_loss"], strict=True)
    best = min(rows, key=lambda row: (-row[1], row[2]))[0]
    names = {"loss": ("training, as minimised", f"{held_out}, cross-entropy"), "accuracy": ("training", held_out)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            marker = "o" if len(epochs) < MOST_MARKED else None
            for part, colour, name in zip(("train", "validation"), (BLUE, ORANGE), names[metric], strict=True):
                axes.plot(epochs, history[f"{part}_{metric}"], color=colour, marker=marker, ms=3.5, label=name)
            axes.axvline(best, color=GREY, lw=1, ls=":", label=f"best epoch: {best}")
            axes.set(xlabel="epoch", title="Loss (nats)" if metric == "loss" else "Accuracy")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            losses = np.array([*history["train_loss"], *history["validation_loss"]])
            if metric == "accuracy":
                axes.yaxis.set_major_formatter(PercentFormatter(1))
            elif losses.min() > 0 and losses.max() > OUTLYING * np.median(losses):
                axes.set_yscale("log")
                axes.set_title("Loss (nats, logarithmic)")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:,.7g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
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
    """Draw accuracy by epoch over several runs: means as lines, ranges of the runs as bands.

    Accuracies are a list per run, a value per epoch; runs may end at different epochs. Published results, given by
    epoch and accuracy, are crosses. Early stopping would have ended the runs after the epochs `stops`.
    """
    last = max(map(len, validation))
    epochs = np.arange(1, last + 1)
    padded = [np.array([[*run, *[np.nan] * (last - len(run))] for run in part]) for part in (train, validation)]
    common = min(map(len, validation))  # the last epoch that all runs have
    best = int(padded[1][:, :common].mean(axis=0).argmax()) + 1
    with styled_axes(7, 4, percent="y", whole="x") as (figure, axes):
        for values, colour, name in zip(padded, (BLUE, ORANGE), ("training images", held_out), strict=True):
            marker = "o" if last == 1 else None  # a line of one point is invisible
            axes.plot(epochs, np.nanmean(values, axis=0), color=colour, marker=marker, ms=3.5, label=name)
            band = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(epochs, *band, color=colour, alpha=0.2, lw=0)
        best_of = f"best of the first {common} epochs" if common < last else "best epoch"
        axes.axvline(best, color=GREY, lw=1, ls=":", label=f"{best_of} on {held_out}: {best}")
        for number, stop in enumerate(sorted(stops)):
            label = f"early stopping: after {', '.join(map(str, sorted(stops)))}" if number == 0 else None
            axes.axvline(stop, color=RED, lw=1, ls="--", label=label)
        if reached := [point for point in published if point[0] <= last]:
            axes.plot(*zip(*reached, strict=True), "x", color=RED, ms=8, mew=2, label="published")
        runs = "1 run" if len(train) == 1 else f"means and ranges of {len(train)} runs"
        fewer = f" (fewer runs after {common})" if common < last else ""
        axes.set(xlabel=f"epoch{fewer}", title=f"{title}: accuracy, {runs}")
        axes.legend(frameon=False)
    return figure


def compared_curves(histories: Mapping[str, Sequence[float]], held_out: str) -> Figure:
    """Draw the accuracies of several runs by epoch, in [0, 1], by run name; they were measured on `held_out` images."""
    with styled_axes(8, 4, percent="y", whole="x") as (figure, axes):
        for number, (name, accuracies) in enumerate(histories.items()):
            colour, dashes = line_style(number)
            marker, epochs = "o" if len(accuracies) < MOST_MARKED else None, range(1, len(accuracies) + 1)
            axes.plot(epochs, accuracies, color=colour, ls=dashes, marker=marker, ms=3.5, label=name)
        axes.set(xlabel="epoch", title=f"Accuracy on {held_out} images")
        axes.legend(frameon=False, fontsize=8)
    return figure


def tuning_history(numbers: Sequence[int], accuracies: Sequence[float], states: Sequence[str], title: str) -> Figure:
    """Draw the validation accuracy of each trial of a tuning, and the best accuracy so far.

    Accuracies are in [0, 1], the last one of a trial that ended early; states are `complete` or `pruned`.
    """
    with styled_axes(7, 3.6, percent="y", whole="x") as (figure, axes):
        for state, colour, marker in (("complete", BLUE, "o"), ("pruned", GREY, "x")):
            chosen = np.array(states) == state
            if chosen.any():
                x, y = np.array(numbers)[chosen], np.array(accuracies)[chosen]
                axes.plot(x, y, marker, color=colour, ms=5, label=f"{state}: {len(x)}")
                if state == "complete":
                    axes.step(x, np.maximum.accumulate(y), color=ORANGE, where="post", label="best so far")
        axes.set(xlabel="trial", title=title)
        axes.legend(frameon=False)
    return figure


def range_test(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggested: float | None, title: str
) -> Figure:
    """Draw the loss at each step of a learning-rate range test, in nats, and mark the suggested learning rate."""
    with styled_axes(7, 3.8) as (figure, axes):
        axes.semilogx(rates, losses, color=GREY, alpha=0.45, lw=0.8, label="each step")
        axes.semilogx(rates, smoothed, color=BLUE, lw=2, label="smoothed")
        if suggested is not None:
            axes.axvline(suggested, color=RED, lw=1.5, ls="--", label=f"steepest descent: {suggested:.3g}")
        plain = FuncFormatter(lambda rate, _: f"{rate:g}")  # matplotlib's own labels are powers of ten
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(plain if rates[-1] < 10 * rates[0] else NullFormatter())
        low, high = min(smoothed), max(smoothed[0], 1.5 * min(smoothed))
        axes.set_ylim(low - 0.25 * (high - low) - 0.05, high + 0.6 * (high - low) + 0.05)
        axes.set(xlabel="learning rate", ylabel="training loss, nats", title=title)
        axes.legend(frameon=False)
    return figure
