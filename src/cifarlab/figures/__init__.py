"""Draw arrays as matplotlib figures, one function per figure. Nothing here reads or writes files.

The argument `title` of every function is the heading of its figure.
"""

from cifarlab.figures.confusion import confusion_matrix, per_class
from cifarlab.figures.curves import compared_curves, epoch_study, learning_curves, range_test, tuning_history
from cifarlab.figures.intervals import importances, intervals
from cifarlab.figures.predictions import coverage, embedding, reliability
from cifarlab.figures.style import to_bytes

__all__ = [
    "compared_curves",
    "confusion_matrix",
    "coverage",
    "embedding",
    "epoch_study",
    "importances",
    "intervals",
    "learning_curves",
    "per_class",
    "range_test",
    "reliability",
    "to_bytes",
    "tuning_history",
]
