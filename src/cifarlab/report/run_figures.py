"""Draw the figures of a run and write them into its folder, as SVG and PNG.

`page` decides which of them the report shows, and with which captions.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from cifarlab import figures
from cifarlab.data.dataset import Dataset
from cifarlab.errors import UntrustedFile, UsageError
from cifarlab.figures import Figure, mosaics
from cifarlab.figures.style import short_names
from cifarlab.inference import explain
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.weights_file import load_weights
from cifarlab.progress import notice
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics import metrics

MISTAKES = 24  # images in the figure of mistakes
SAMPLES = 24  # images in the figure of random predictions
HEAT_MAPS = 8
CONFUSED_PAIRS, IMAGES_A_PAIR = 6, 8
EMBEDDED_IMAGES = 1_000
PERPLEXITY = 30  # of t-SNE: how many neighbours count as near (van der Maaten and Hinton 2008)
LONGEST_NAME, LONGEST_FILE_NAME = 14, 20  # letters of a class and of a file in a caption
LONGEST_ROW_NAME = 24  # letters of a class beside a row of images
_SEED = 0  # of the random samples


def draw_history(run: RunFolder, kinds: Sequence[str] = ("svg", "png")) -> dict[str, Figure]:
    """Draw the learning curves and, before there are test predictions, the last epoch's confusion matrix.

    Return the figures by name, as they were written into the run's folder; none before the first epoch has ended.
    """
    columns = run.columns
    if not columns["epoch"]:
        return {}
    drawn = {"curves": figures.learning_curves(columns, run.held_out)}
    classes, epoch = run.record.data.classes, len(columns["epoch"])
    if run.predictions is None and len(classes) <= metrics.MOST_CLASSES:
        drawn["confusion"] = figures.confusion_after_epoch(run.confusion_after(epoch), classes, run.held_out, epoch)
    _write(run, drawn, kinds)
    return drawn


def draw_test(run: RunFolder, test: Dataset | None) -> list[metrics.Example]:
    """Draw the figures of a finished run's test predictions: metrics, calibration, mistakes, filters, heat maps.

    `test` holds the test images in the order of the predictions. Without it, figures that contain images stay as they
    are. Return the most confident mistakes, as drawn, if the images have names.
    """
    if run.predictions is None:
        return []
    classes, labels = run.record.data.classes, run.predictions[1]
    logits = run.scale_logits(run.predictions[0])
    predictions = logits.argmax(1)
    table, temperature = metrics.per_class(labels, predictions, classes), run.results.get("temperature")
    bins, error = metrics.reliability(logits, labels), metrics.calibration_error(logits, labels)
    title = f"Test images, scores divided by {temperature:.2f} (temperature)" if temperature else "Test images"
    drawn = {
        "per_class": figures.per_class(classes, [row.precision for row in table], [row.recall for row in table]),
        "reliability": figures.reliability(bins, error, title),
        "coverage": figures.coverage(metrics.accuracy_by_coverage(logits, labels)),
    }
    if len(classes) <= metrics.MOST_CLASSES:
        matrix = metrics.confusion_matrix(labels, predictions, len(classes))
        accuracy = f"Test images: accuracy {metrics.accuracy(labels, predictions):.2%}"
        drawn["confusion"] = figures.confusion_matrix(matrix, classes, accuracy)
    mistakes = metrics.most_confident_mistakes(logits, labels, MISTAKES)
    try:
        classifier = load_weights(run.weights)
        kernels = explain.first_kernels(classifier)
        if kernels is not None:
            drawn["filters"] = mosaics.filters(kernels)
        if test is not None and len(mistakes):
            drawn["looks"] = _heat_maps(classifier, test, logits, mistakes[:HEAT_MAPS])
    except UsageError as error:  # a network of the user's own whose file has gone, or one without feature maps
        notice(f"no figures of the weights: {error}", quiet=not isinstance(error, UntrustedFile))
    if test is not None:
        sample = np.sort(np.random.default_rng(_SEED).permutation(len(labels))[:SAMPLES])
        drawn["samples"] = _predictions(test, logits, sample, "Random test images")
        if len(mistakes):
            drawn["mistakes"] = _predictions(test, logits, mistakes, "Most confident mistakes")
            drawn["confused"] = _confused_pairs(
                test, logits, metrics.most_confused(labels, predictions, CONFUSED_PAIRS)
            )
    _write(run, drawn)
    return metrics.examples(logits, labels, mistakes, classes, test.names) if test is not None and test.names else []


def draw_embedding(run: RunFolder) -> None:
    """Draw a t-SNE embedding of the test logits of a finished run, which takes seconds.

    Nothing is drawn for very few test images or for equal logits, because t-SNE would crash the process.
    """
    from sklearn.manifold import TSNE

    if run.predictions is None or len(run.predictions[1]) <= 3 * PERPLEXITY:
        return
    logits, labels = run.predictions
    sample = np.random.default_rng(_SEED).permutation(len(labels))[:EMBEDDED_IMAGES]
    chosen = logits[sample].astype(np.float64)
    chosen -= chosen.mean(axis=0)
    spread = chosen.std()
    if not 0 < spread < np.inf:
        return
    points = TSNE(perplexity=PERPLEXITY, init="pca", random_state=_SEED).fit_transform(chosen / spread)
    title = f"{len(sample):,} test images, near each other if their logits are similar (t-SNE)"
    figure = figures.embedding(points.astype(np.float32), labels[sample], run.record.data.classes, title)
    _write(run, {"embedding": figure})


def _predictions(
    test: Dataset, logits: Float32[np.ndarray, "n classes"], chosen: Int64[np.ndarray, " chosen"], title: str
) -> Figure:
    """Draw the chosen images, each with its predicted class, the probability, and its true class."""
    examples = metrics.examples(logits, test.labels, chosen, short_names(test.classes, LONGEST_NAME), test.names)
    captions = [f"{each.predicted} ({each.probability:.0%})\ntrue: {each.true}" for each in examples]
    if test.names:
        names = (short_names([Path(each.file).name], LONGEST_FILE_NAME)[0] for each in examples)
        captions = [f"{caption}\n{name}" for caption, name in zip(captions, names, strict=True)]
        title = f"{title}, by file"
    title = f"{title}: predicted class (probability), true class"
    wrong = [each.predicted != each.true for each in examples]
    return mosaics.image_grid(test.images[chosen], captions, wrong, title)


def _confused_pairs(
    test: Dataset, logits: Float32[np.ndarray, "n classes"], pairs: Sequence[metrics.Confusion]
) -> Figure:
    """Draw a row of images for each pair of true and predicted class, the most confident mistakes first."""
    confidence, predicted = metrics.probabilities(logits).max(axis=1), logits.argmax(axis=1)
    classes = short_names(test.classes, LONGEST_ROW_NAME)
    rows, names = [], []
    for pair in pairs:
        mistakes = np.flatnonzero((test.labels == pair.true) & (predicted == pair.predicted))
        rows.append(test.images[mistakes[np.argsort(-confidence[mistakes], kind="stable")][:IMAGES_A_PAIR]])
        count = f"{pair.count} image{'s' if pair.count > 1 else ''}"
        names.append(f"{classes[pair.true]}\ntaken for {classes[pair.predicted]}\n{count}")
    return mosaics.class_samples(rows, names, "Most confused pairs of classes, the most confident mistakes first")


def _heat_maps(
    classifier: Classifier,
    test: Dataset,
    logits: Float32[np.ndarray, "n classes"],
    mistakes: Int64[np.ndarray, " mistakes"],
) -> Figure:
    """Draw images with wrong predictions, and below each its heat map for the predicted class.

    Raises UsageError if the network has no layer that heat maps can be made of.
    """
    images, predicted = test.images[mistakes], logits[mistakes].argmax(1)
    names = short_names(test.classes, LONGEST_NAME)
    pictures = [*images, *mosaics.overlaid(images, explain.grad_cam(classifier, images, predicted))]
    captions = [f"true class\n{names[label]}" for label in test.labels[mistakes]]
    captions += [f"predicted\n{names[guess]}" for guess in predicted]
    title = "Mistakes, and the areas that raised the score of the predicted class"
    wrong = [False] * len(pictures)
    return mosaics.image_grid(pictures, captions, wrong, title, columns=len(mistakes), heat_scale=True)


def _write(run: RunFolder, drawn: dict[str, Figure], kinds: Sequence[str] = ("svg", "png")) -> None:
    for name, figure in drawn.items():
        for kind in kinds:
            run.write_figure(f"{name}.{kind}", figures.to_bytes(figure, kind))
