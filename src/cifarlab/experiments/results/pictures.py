"""What many runs say, as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures, recipes
from cifarlab.experiments.results.records import Record, by_seed, early_stop, grouped, rows
from cifarlab.statistics.significance import estimate_share


def draw(records: Sequence[Record]) -> dict[str, Figure]:
    """Pictures by name.

    For each recipe and protocol, curves over seeds and the confusion matrix of all test images; the settings of
    `lenet5` beside one another; all published figures beside ours.
    """
    drawn = {}
    if settings := {key[2]: members for key, members in grouped(records).items() if key[2]}:
        reached = [
            estimate_share(by_seed(members, lambda each: each["test_accuracy"])) for members in settings.values()
        ]
        title = "lenet5: test accuracy, honest protocol"
        drawn["lenet5-settings"] = figures.intervals(list(settings), reached, {}, title)
    if found := rows(records):
        names = [f"{row.recipe}, {row.after} epochs, {row.protocol}, n = {row.accuracy.n}" for row in found]
        published = {name: row.published for name, row in zip(names, found, strict=True) if not row.is_short}
        title = "Accuracy, ours and published" if published else "Accuracy"
        drawn["published-and-ours"] = figures.intervals(names, [row.accuracy for row in found], published, title)
    for (name, protocol, setting), members in grouped(records).items():
        if setting:
            continue
        stem = f"{name}-{protocol}".replace("/", "-")
        histories = [member["history"] for member in members]
        train, validation = ([each[f"{part}_accuracy"] for each in histories] for part in ("train", "validation"))
        points = [(figure.epochs, figure.accuracy) for figure in recipes.load(name).published]
        held_out = "test images" if protocol == "published" else "validation images"
        heading = f"{name}, {protocol} protocol"
        stops = [early_stop(curve)[0] for curve in validation] if len(points) > 1 else []
        drawn[f"{stem}-curves"] = figures.epoch_study(train, validation, held_out, points, heading, stops)
        matrix = np.array([member["confusion"] for member in members]).sum(axis=0)
        title = f"{heading}: test images, {len(members)} run{'s' * (len(members) > 1)} together"
        drawn[f"{stem}-confusion"] = figures.confusion_matrix(matrix, members[0]["classes"], title)
    return drawn
