"""Curves over epochs, trials or learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from cifarlab.figures.style import BLUE, GREY, ORANGE, RED, STYLE

CURVES = (BLUE, ORANGE, RED, "#009E73", "#CC79A7", "#56B4E9", GREY)


def learning_curves(history: Mapping[str, Sequence[float]], held_out: str) -> Figure:
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
