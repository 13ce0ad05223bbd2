"""Redraw a run's figures while it trains, in its folder and in a notebook."""

import time

from cifarlab import figures
from cifarlab.progress import in_notebook
from cifarlab.report.run_figures import draw_history
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow

FIRST_SECONDS = 0.5  # that the first drawing takes
SHARE_OF_TIME = 0.1  # part of the training time that drawing may take


class LiveFigures:
    """A callback that redraws learning curves and confusion matrix after every epoch.

    Short epochs are skipped, so that drawing takes at most `SHARE_OF_TIME` of the training time.
    """

    is_optional = True  # an error does not end the training

    def __init__(self) -> None:
        self._is_displayed = False
        self._next = 0.0

    def on_train_begin(self, run: RunFolder) -> None:
        """Leave the figures of a training of seconds to its report; a notebook shows them at once."""
        if not in_notebook():
            self._next = time.monotonic() + FIRST_SECONDS / SHARE_OF_TIME

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Draw the epochs so far, unless the last drawing was too recent."""
        began = time.monotonic()
        if began < self._next:
            return
        drawn = draw_history(run, kinds=("svg",)).values()  # PNG files as well would double the time
        if in_notebook():
            from IPython.display import Image, display

            for number, figure in enumerate(drawn):
                image = Image(figures.to_bytes(figure, "png"))
                display(image, display_id=f"cifarlab-{id(self)}-{number}", update=self._is_displayed)
            self._is_displayed = True
        ended = time.monotonic()
        self._next = ended + (ended - began) / SHARE_OF_TIME
