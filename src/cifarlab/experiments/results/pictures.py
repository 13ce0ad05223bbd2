"""Pictures of many runs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures, recipes
from cifarlab.experiments.results.records import Record, accuracy_by_seed, early_stop, group_records, published_rows
from cifarlab.statistics.significance import estimate_share


def draw(records: Sequence[Record]) -> dict[str, Figure]:
    """Draw accuracies by setting and beside the published ones, and each recipe's curves and confusion matrix."""
    drawn = {}
    groups = group_records(records)
    if settings := {setting: group for (_, _, setting), group in groups.items() if setting}:
        accuracies = [estimate_share(accuracy_by_seed(group)) for group in settings.values()]
        title = "lenet5: test accuracy, honest protocol"
        drawn["lenet5-settings"] = figures.intervals(list(settings), accuracies, {}, title)
    if rows := published_rows(records):
        names = [f"{row.recipe}, {row.epochs_text} epochs, {row.protocol}, n = {row.accuracy.n}" for row in rows]
        published = {name: row.published for name, row in zip(names, rows, strict=True) if not row.is_short}
        title = "Accuracy, ours and published" if published else "Accuracy"
        drawn["published-and-ours"] = figures.intervals(names, [row.accuracy for row in rows], published, title)
    for (name, protocol, setting), group in groups.items():
        if not setting:
            stem = f"{name}-{protocol}".replace("/", "-")
            drawn[f"{stem}-curves"] = _draw_curves(name, protocol, group)
            matrix = np.array([record.confusion for record in group]).sum(axis=0)
            title = f"{name}, {protocol} protocol: test images, {len(group)} run{'s' * (len(group) > 1)} together"
            drawn[f"{stem}-confusion"] = figures.confusion_matrix(matrix, group[0].classes, title)
    return drawn


def _draw_curves(name: str, protocol: str, group: Sequence[Record]) -> Figure:
    train = [record.history.train_accuracy for record in group]
    validation = [record.history.validation_accuracy for record in group]
    published = [(result.epochs, result.accuracy) for result in recipes.load(name).published]
    stops = [early_stop(curve)[0] for curve in validation] if len(published) > 1 else []
    images = "test images" if protocol == "published" else "validation images"
    return figures.epoch_study(train, validation, images, published, f"{name}, {protocol} protocol", stops)
