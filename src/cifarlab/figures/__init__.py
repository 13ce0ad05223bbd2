"""Draw arrays as matplotlib figures, one function per figure. Nothing here reads or writes files.

The argument `title` of every function is the heading of its figure.
"""

import contextlib
import importlib.util
import os
import sys
from pathlib import Path

try:
    import matplotlib
except ValueError:  # a backend of another environment, or a file of settings that is not UTF-8
    os.environ.pop("MPLBACKEND", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:  # the half that was imported
        del sys.modules[name]
    folder = Path(str(getattr(importlib.util.find_spec("matplotlib"), "origin", ""))).parent
    with contextlib.chdir(folder / "mpl-data"):  # where the file of the default settings is found first
        import matplotlib  # noqa: F401 - reads its settings now
from matplotlib.figure import Figure as Figure

from cifarlab.figures.confusion import confusion_after_epoch as confusion_after_epoch
from cifarlab.figures.confusion import confusion_matrix as confusion_matrix
from cifarlab.figures.confusion import per_class as per_class
from cifarlab.figures.curves import compared_curves as compared_curves
from cifarlab.figures.curves import epoch_study as epoch_study
from cifarlab.figures.curves import learning_curves as learning_curves
from cifarlab.figures.curves import range_test as range_test
from cifarlab.figures.curves import tuning_history as tuning_history
from cifarlab.figures.intervals import importances as importances
from cifarlab.figures.intervals import intervals as intervals
from cifarlab.figures.predictions import coverage as coverage
from cifarlab.figures.predictions import embedding as embedding
from cifarlab.figures.predictions import reliability as reliability
from cifarlab.figures.style import to_bytes as to_bytes
