"""Run folders to pictures, one HTML page and a model card.

Knows training only through the run folder. `LiveFigures` is a callback that redraws curves and confusion matrix after
each epoch, in the folder and in a notebook.
"""

from __future__ import annotations

import base64
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures, files
from cifarlab.data.dataset import Dataset
from cifarlab.errors import UsageError
from cifarlab.figures import mosaics
from cifarlab.inference import explain
from cifarlab.inference.classifier import Classifier, load_weights
from cifarlab.progress import duration
from cifarlab.recipes.differences import flatten
from cifarlab.report.comparing import compare_runs
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow
from cifarlab.statistics import metrics
from cifarlab.statistics.significance import accuracy_interval

MISTAKES = 24  # images in a picture
SAMPLES = 24
LOOKS = 8
LIVE_SHARE = 0.1  # of the time that drawing may take while a network trains
EMBEDDED, PERPLEXITY = 1_000, 30  # images, and how many neighbours count as near (van der Maaten and Hinton 2008)
PAIRS, EXAMPLES = 6, 8  # of the most confused classes
_OF_IMAGES = ("mistakes", "confused", "samples", "filters", "looks")  # in an SVG these would be PNGs inside it
_NOT_FACTS = ("published", "skipped")  # entries that have a place of their own on the page
_SEED = 0  # of the sample of predictions
FILTERS: dict[str, Callable[[Any], str]] = {  # of the templates, here and on the board
    "percent": lambda value: f"{value:.2%}" if isinstance(value, int | float) else "-",
    "time": lambda value: duration(value) if isinstance(value, int | float) else "-",
    "count": lambda value: f"{value:,.0f}" if isinstance(value, int | float) else "-",
}

_PAGE = (  # name, heading, alternative text, caption
    (
        "curves",
        "How it learned",
        "Curves of loss and accuracy by epoch",
        "Training and held-out images, by epoch.",
    ),
    (
        "confusion",
        "What it confuses",
        "Confusion matrix as a coloured table",
        "Rows are true classes, columns what the network said; numbers count images.",
    ),
    (
        "per_class",
        "Class by class",
        "Bars of precision and recall of each class",
        "Recall: of a class, the part found.",
    ),
    (
        "mistakes",
        "Surest mistakes",
        "Test images that the network got wrong with the highest probability",
        "What the network said, how sure it was, and the true class.",
    ),
    (
        "confused",
        "Most confused pairs",
        "Test images of the most confused pairs of classes, a row a pair",
        "Images of one class that the network took for another, those it was surest of first.",
    ),
    (
        "reliability",
        "Is it right when it is sure?",
        "Reliability diagram: accuracy by confidence",
        "Bars below the line: surer than right. Bars above it: more often right than sure.",
    ),
    (
        "coverage",
        "Leaving the doubtful ones to people",
        "Curve of accuracy by share of images answered",
        "Accuracy among the images of which the network is surest.",
    ),
    (
        "embedding",
        "How it tells the classes apart",
        "Test images as points in a plane, coloured by their true class",
        "Near points are images of which the network says much the same. Distances between far groups mean little.",
    ),
    (
        "looks",
        "Where it looks",
        "The surest mistakes, each with a heat map of what spoke for the class that the network named",
        "Bright is what spoke for the class named (Grad-CAM by place), which is not the class that the image is of.",
    ),
    ("filters", "What the first layer looks for", "Kernels of the first layer as small pictures", "Grey is zero."),
    ("samples", "A sample of predictions", "Random test images with predictions", "Red captions are mistakes."),
)


class LiveFigures:
    """A callback: curves and confusion matrix, redrawn after every epoch as files and, in a notebook, on the page.

    Epochs of a second or two are not all drawn, so that drawing takes no more than a tenth of the time.
    """

    def __init__(self) -> None:
        self._shown: list[Any] = []
        self._next = 0.0

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Draws what is known so far."""
        began = time.monotonic()
        if began < self._next:
            return
        self._draw(run)
        drawn = time.monotonic()
        self._next = drawn + (drawn - began) / LIVE_SHARE

    def _draw(self, run: RunFolder) -> None:
        drawn = draw_history(run, kinds=("svg",)).values()  # a PNG of each would double the time
        if not _in_notebook():
            return
        from IPython.display import Image, display

        pictures = [Image(figures.to_bytes(figure, "png")) for figure in drawn]
        if not self._shown:
            self._shown = [display(picture, display_id=True) for picture in pictures]
        else:
            for place, picture in zip(self._shown, pictures, strict=True):
                place.update(picture)


def draw_history(run: RunFolder, kinds: Sequence[str] = ("svg", "png")) -> dict[str, Figure]:
    """Draws curves into the run's folder, and the confusion matrix of the last epoch before there is one of the test.

    Args:
        run: a run.
        kinds: of the files.
    """
    columns, classes = run.columns, run.record.data.classes
    if not columns["epoch"]:
        return {}
    drawn = {"curves": figures.learning_curves(columns, run.held_out)}
    if run.predictions is None:
        epoch, accuracy = (columns[name][-1] for name in ("epoch", "validation_accuracy"))
        title = f"{run.held_out.capitalize()} images after epoch {epoch}: accuracy {accuracy:.2%}"
        drawn["confusion"] = figures.confusion_matrix(run.confusion[-1], classes, title)
    _write(run, drawn, kinds)
    return drawn


def draw_test(run: RunFolder, test: Dataset | None) -> None:
    """Draws what the test showed: confusion matrix, class by class, mistakes and a sample.

    Args:
        run: nothing is drawn before it is finished.
        test: the test images in the order of the run's predictions; without them the pictures that show images are
            left as they are.
    """
    predictions = run.predictions
    if predictions is None:
        return
    classes, labels = run.record.data.classes, predictions[1]
    logits = run.scale_logits(predictions[0])
    matrix = metrics.confusion_matrix(labels, logits.argmax(1), len(classes))
    table, temperature = metrics.per_class(matrix, classes), run.record.results and run.record.results.temperature
    drawn = {
        "confusion": figures.confusion_matrix(matrix, classes, f"Test images: accuracy {metrics.accuracy(matrix):.2%}"),
        "per_class": figures.per_class(classes, [row.precision for row in table], [row.recall for row in table]),
        "reliability": figures.reliability(
            metrics.reliability(logits, labels),
            metrics.calibration_error(logits, labels),
            f"Test images at temperature {temperature:.2f}" if temperature else "Test images",
        ),
        "coverage": figures.coverage(metrics.accuracy_by_coverage(logits, labels), "If it answered only when sure"),
    }
    mistakes = metrics.surest_mistakes(logits, labels, MISTAKES)
    with suppress(UsageError):  # of a network of one's own whose file has gone
        classifier = load_weights(run.weights)
        kernels = explain.first_kernels(classifier)
        if kernels is not None:
            drawn["filters"] = mosaics.filters(kernels, "Kernels of the first layer, each scaled by its largest weight")
        if test is not None and len(mistakes):
            drawn["looks"] = _looks(classifier, test, logits, mistakes[:LOOKS])
    if test is not None:
        some = np.sort(np.random.default_rng(_SEED).permutation(len(labels))[:SAMPLES])
        if len(mistakes):
            drawn["mistakes"] = _predictions(test, logits, mistakes, "Surest mistakes: said (probability), is")
            drawn["confused"] = _confused(test, logits, metrics.most_confused(matrix, PAIRS))
        drawn["samples"] = _predictions(test, logits, some, "Predictions: said (probability), is")
    _write(run, drawn)


def finish(run: RunFolder, test: Dataset | None, *, thorough: bool = False) -> Path:
    """Draws everything and writes report.html and README.md into the run's folder; gives the report's path.

    Args:
        run: a run.
        test: its test images; see `draw_test`.
        thorough: draw what takes seconds too.
    """
    draw_history(run)
    draw_test(run, test)
    if thorough:
        draw_embedding(run)
    card = _template("card.md").render(run=_view(run), weights=run.weights.name)
    files.write_text(run.path / "README.md", card)
    path = run.report
    write_page([run], path)
    return path


def write_page(runs: Sequence[RunFolder], path: Path) -> None:
    """Writes one self-contained HTML page about one run or several, from what their folders hold."""
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    together = _together(runs) if len(runs) > 1 else {}
    page = _template("report.html").render(title=title, runs=[_view(run) for run in runs], **together)
    files.write_text(path, page)


def held_out_of(runs: Sequence[RunFolder]) -> str:
    """What several runs measure accuracy on after every epoch, in words."""
    return " or ".join(sorted({run.held_out for run in runs}, reverse=True))


def _together(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """What the page of several runs says of them together: which differences are real, with pictures."""
    histories = {run.name: [row.validation_accuracy for row in run.history] for run in runs}
    held_out = held_out_of(runs)
    drawn = {f"Accuracy on {held_out} images by epoch": figures.compared_curves(histories, held_out)}
    told: dict[str, Any] = {"compared": None, "problem": ""}
    try:
        found = compare_runs(runs)
        told["compared"] = found
        estimates = [group.accuracy for group in found.groups]
        over = ", with 95 % intervals over seeds" if any(each.n > 1 for each in estimates) else ""
        title = f"Accuracy on the test images{over}"
        drawn["Test accuracy by recipe"] = figures.intervals(
            [group.name for group in found.groups], estimates, {}, title
        )
    except UsageError as error:
        told["problem"] = str(error)
    told["pictures"] = [(alt, _source(figures.to_bytes(figure, "svg"), "svg")) for alt, figure in drawn.items()]
    return told


def _view(run: RunFolder) -> dict[str, Any]:
    """What the templates show of a run."""
    record, history = run.record, run.history
    recipe, data = record.recipe, record.data
    view: dict[str, Any] = record.model_dump(mode="json") | {
        "status": run.status,
        "anchor": f"run-{run.name}",
        "held_out": run.held_out,
        "history": history,
        "epochs_done": len(history),
        "quoted": shlex.quote(str(run.path)),
        "best_label": "best test accuracy of any epoch" if run.held_out == "test" else "best validation accuracy",
        "best_validation": max((row.validation_accuracy for row in history), default=None),
        "majority": data.majority,
        "figures": list(_pictures(run)),
        "skipped": data.skipped,
        "facts": [
            *_facts(recipe.model_dump(mode="json")),
            *_facts(data.model_dump(mode="json"), "data."),
            *_facts(record.environment.items(), "machine."),
        ],
        "published": [
            {
                **figure.model_dump(),
                "here": next((row.validation_accuracy for row in history if row.epoch == figure.epochs), None),
            }
            for figure in recipe.published
        ],
    }
    predictions = run.predictions
    if predictions is not None:
        logits, labels = predictions
        matrix = metrics.confusion_matrix(labels, logits.argmax(1), len(data.classes))
        view["per_class"] = metrics.per_class(matrix, data.classes)
        view["confused"] = metrics.most_confused(matrix)
        view["interval"] = accuracy_interval(int(np.trace(matrix)), int(matrix.sum()))
    return view


def _pictures(run: RunFolder) -> list[dict[str, str]]:
    found = []
    for name, heading, alt, caption in _PAGE:
        kind = "png" if name in _OF_IMAGES else "svg"
        path = run.path / "figures" / f"{name}.{kind}"
        if path.exists():
            source = _source(path.read_bytes(), kind)
            found.append({"name": name, "heading": heading, "alt": alt, "caption": caption, "source": source})
    return found


def _source(content: bytes, kind: str) -> str:
    media = "image/png" if kind == "png" else "image/svg+xml"
    return f"data:{media};base64,{base64.b64encode(content).decode()}"


def _predictions(test: Dataset, logits: np.ndarray, chosen: np.ndarray, title: str) -> Figure:
    likely = metrics.probabilities(logits[chosen])
    said, true = likely.argmax(1), test.labels[chosen]
    captions = [
        f"{_short(test.classes[guess])} ({row[guess]:.0%})\n{_short(test.classes[label])}"
        for guess, label, row in zip(said, true, likely, strict=True)
    ]
    return mosaics.pictures(test.images[chosen], captions, [bool(wrong) for wrong in said != true], 8, title)


def draw_embedding(run: RunFolder) -> None:
    """Draws how a finished run tells the classes apart, which takes seconds.

    Nothing of very few test images, nor of a network that says the same of all: t-SNE would crash the process there.
    """
    from sklearn.manifold import TSNE

    predictions = run.predictions
    if predictions is None or len(predictions[1]) <= 3 * PERPLEXITY:
        return
    logits, labels = predictions
    some = np.random.default_rng(_SEED).permutation(len(labels))[:EMBEDDED]
    chosen = logits[some].astype(np.float64)
    chosen -= chosen.mean(axis=0)
    spread = chosen.std()
    if not 0 < spread < np.inf:
        return
    points = TSNE(perplexity=PERPLEXITY, init="pca", random_state=_SEED).fit_transform(chosen / spread)
    title = f"{len(some):,} test images by what the network says of them (t-SNE of the logits)"
    figure = figures.embedding(points.astype(np.float32), labels[some], tuple(run.record.data.classes), title)
    _write(run, {"embedding": figure})


def _confused(test: Dataset, logits: np.ndarray, pairs: Sequence[metrics.Confusion]) -> Figure:
    confidence, said = metrics.probabilities(logits).max(axis=1), logits.argmax(axis=1)
    rows, names = [], []
    for pair in pairs:
        which = np.flatnonzero((test.labels == pair.true) & (said == pair.predicted))
        rows.append(test.images[which[np.argsort(-confidence[which], kind="stable")][:EXAMPLES]])
        names.append(f"{_short(test.classes[pair.true])}\ncalled {_short(test.classes[pair.predicted])}: {pair.count}")
    return mosaics.class_samples(rows, names, "Most confused pairs, the surest mistakes first")


def _looks(classifier: Classifier, test: Dataset, logits: np.ndarray, chosen: np.ndarray) -> Figure:
    """Images, and under each what spoke for the class that the network named.

    Raises:
        UsageError: the network has no maps.
    """
    said = logits[chosen].argmax(1)
    overlaid = mosaics.overlaid(test.images[chosen], explain.grad_cam(classifier, test.images[chosen], said))
    is_said = [f"is {_short(test.classes[label])}" for label in test.labels[chosen]]
    named = [f"for {_short(test.classes[guess])}" for guess in said]
    shown = np.concatenate([test.images[chosen], overlaid])
    return mosaics.pictures(shown, is_said + named, [False] * len(shown), len(chosen), "What spoke for the mistake")


def _short(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"


def _write(run: RunFolder, drawn: dict[str, Figure], kinds: Sequence[str] = ("svg", "png")) -> None:
    for name, figure in drawn.items():
        for kind in kinds:
            run.write_figure(f"{name}.{kind}", figures.to_bytes(figure, kind))


def _facts(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the entries of a nested table that are not empty, by dotted key."""
    return [
        (prefix + key, ", ".join(map(str, value)) if isinstance(value, list) else value)
        for key, value in flatten({name: each for name, each in table.items() if name not in _NOT_FACTS}).items()
        if value not in (None, "", [])
    ]


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters |= FILTERS
    return environment.get_template(name)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
