"""Draw the figures of a run and write them into its folder, as SVG and PNG.

`page` decides which of them the report shows, and with which captions.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from jaxtyping import Float32, Int64
from matplotlib.figure import Figure

from cifarlab import figures
from cifarlab.data.dataset import Dataset
from cifarlab.errors import UsageError, shorten
from cifarlab.figures import mosaics
from cifarlab.inference import explain
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.weights_file import load_weights
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics import metrics

MISTAKES = 24  # images in the figure of mistakes
SAMPLES = 24  # images in the figure of random predictions
IMAGES_A_ROW = 8
HEAT_MAPS = 8
CONFUSED_PAIRS, IMAGES_A_PAIR = 6, 8
EMBEDDED_IMAGES = 1_000
PERPLEXITY = 30  # of t-SNE: how many neighbours count as near (van der Maaten and Hinton 2008)
LONGEST_NAME = 12  # letters of a class name in a caption
_SEED = 0  # of the random samples


def draw_history(run: RunFolder, kinds: Sequence[str] = ("svg", "png")) -> dict[str, Figure]:
    """Draw the learning curves and, before there are test predictions, the last epoch's confusion matrix.

    Args:
        run: a run; nothing is drawn before its first epoch has ended.
        kinds: file types, `svg` or `png`.

    Returns:
        The figures by name, as they were written into the run's folder.
    """
    columns, classes = run.columns, run.record.data.classes
    if not columns["epoch"]:
        return {}
    drawn = {"curves": figures.learning_curves(columns, run.held_out)}
    if run.predictions is None:
        epoch, accuracy = columns["epoch"][-1], columns["validation_accuracy"][-1]
        title = f"{run.held_out.capitalize()} images after epoch {epoch}: accuracy {accuracy:.2%}"
        drawn["confusion"] = figures.confusion_matrix(run.confusion[-1], classes, title)
    _write(run, drawn, kinds)
    return drawn


def draw_test(run: RunFolder, test: Dataset | None) -> None:
    """Draw the figures of the test predictions: confusion matrix, classes, calibration, mistakes, filters, heat maps.

    Args:
        run: a run; nothing is drawn before it is finished.
        test: the test images in the order of the run's predictions. Without them, figures that contain images stay
            as they are.
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
        "coverage": figures.coverage(
            metrics.accuracy_by_coverage(logits, labels), "Accuracy if only confident predictions count"
        ),
    }
    mistakes = metrics.most_confident_mistakes(logits, labels, MISTAKES)
    with suppress(UsageError):  # a network of the user's own whose file has gone
        classifier = load_weights(run.weights)
        kernels = explain.first_kernels(classifier)
        if kernels is not None:
            drawn["filters"] = mosaics.filters(kernels, "Filters of the first layer, each scaled by its largest weight")
        if test is not None and len(mistakes):
            drawn["looks"] = _heat_maps(classifier, test, logits, mistakes[:HEAT_MAPS])
    if test is not None:
        sample = np.sort(np.random.default_rng(_SEED).permutation(len(labels))[:SAMPLES])
        if len(mistakes):
            drawn["mistakes"] = _predictions(test, logits, mistakes, "Most confident mistakes")
            drawn["confused"] = _confused_pairs(test, logits, metrics.most_confused(matrix, CONFUSED_PAIRS))
        drawn["samples"] = _predictions(test, logits, sample, "Random test images")
    _write(run, drawn)


def draw_embedding(run: RunFolder) -> None:
    """Draw a t-SNE embedding of the test logits of a finished run, which takes seconds.

    Nothing is drawn for very few test images or for equal logits, because t-SNE would crash the process.
    """
    from sklearn.manifold import TSNE

    predictions = run.predictions
    if predictions is None or len(predictions[1]) <= 3 * PERPLEXITY:
        return
    logits, labels = predictions
    sample = np.random.default_rng(_SEED).permutation(len(labels))[:EMBEDDED_IMAGES]
    chosen = logits[sample].astype(np.float64)
    chosen -= chosen.mean(axis=0)
    spread = chosen.std()
    if not 0 < spread < np.inf:
        return
    points = TSNE(perplexity=PERPLEXITY, init="pca", random_state=_SEED).fit_transform(chosen / spread)
    title = f"{len(sample):,} test images, near each other if their logits are similar (t-SNE)"
    figure = figures.embedding(points.astype(np.float32), labels[sample], tuple(run.record.data.classes), title)
    _write(run, {"embedding": figure})


def _predictions(
    test: Dataset, logits: Float32[np.ndarray, "n classes"], chosen: Int64[np.ndarray, " chosen"], title: str
) -> Figure:
    """Draw the chosen images, each with its predicted class, the probability, and its true class."""
    probabilities = metrics.probabilities(logits[chosen])
    predicted, true = probabilities.argmax(1), test.labels[chosen]
    captions = [
        f"{_short_name(test.classes[guess])} ({row[guess]:.0%})\ntrue: {_short_name(test.classes[label])}"
        for guess, label, row in zip(predicted, true, probabilities, strict=True)
    ]
    wrong = [bool(is_wrong) for is_wrong in predicted != true]
    title = f"{title}: predicted class (probability), true class"
    return mosaics.image_grid(test.images[chosen], captions, wrong, IMAGES_A_ROW, title)


def _confused_pairs(
    test: Dataset, logits: Float32[np.ndarray, "n classes"], pairs: Sequence[metrics.Confusion]
) -> Figure:
    """Draw a row of images for each pair of true and predicted class, the most confident mistakes first."""
    confidence, predicted = metrics.probabilities(logits).max(axis=1), logits.argmax(axis=1)
    rows, names = [], []
    for pair in pairs:
        mistakes = np.flatnonzero((test.labels == pair.true) & (predicted == pair.predicted))
        rows.append(test.images[mistakes[np.argsort(-confidence[mistakes], kind="stable")][:IMAGES_A_PAIR]])
        true, guess = (_short_name(test.classes[label]) for label in (pair.true, pair.predicted))
        names.append(f"{true}\ntaken for {guess}\n{pair.count} image{'s' if pair.count > 1 else ''}")
    return mosaics.class_samples(rows, names, "Most confused pairs of classes, the most confident mistakes first")


def _heat_maps(
    classifier: Classifier,
    test: Dataset,
    logits: Float32[np.ndarray, "n classes"],
    chosen: Int64[np.ndarray, " chosen"],
) -> Figure:
    """Draw the chosen images, and below each its heat map for the predicted class.

    Raises:
        UsageError: the network has no layer that heat maps can be made of.
    """
    images, predicted = test.images[chosen], logits[chosen].argmax(1)
    overlaid = mosaics.overlaid(images, explain.grad_cam(classifier, images, predicted))
    captions = [f"true class\n{_short_name(test.classes[label])}" for label in test.labels[chosen]]
    captions += [f"predicted\n{_short_name(test.classes[guess])}" for guess in predicted]
    every = np.concatenate([images, overlaid])
    title = "Mistakes, and the areas that spoke for the predicted class"
    return mosaics.image_grid(every, captions, [False] * len(every), len(chosen), title)


def _short_name(name: str) -> str:
    return shorten(name, LONGEST_NAME)


def _write(run: RunFolder, drawn: dict[str, Figure], kinds: Sequence[str] = ("svg", "png")) -> None:
    for name, figure in drawn.items():
        for kind in kinds:
            run.write_figure(f"{name}.{kind}", figures.to_bytes(figure, kind))
