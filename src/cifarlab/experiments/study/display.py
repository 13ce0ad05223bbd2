"""Progress of a running study on stderr: a live table on a terminal, plain lines everywhere else."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cifarlab.errors import CifarlabError
from cifarlab.experiments.study.definition import Study
from cifarlab.experiments.study.outcome import RunState
from cifarlab.progress import SECONDS_BETWEEN_LINES, duration, notice
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow

SECONDS_BETWEEN_TABLES = 1.0
FEWEST_ROWS = 3  # of the table on a very low terminal
LINES_BESIDE_ROWS = 5  # of a terminal: title, header, caption and the user's prompt
_ORDER = ("running", "failed", "interrupted", "waiting", "finished")  # runs to show first if not all fit


class Display:
    """The progress of a study: a table in `live` if there is one, else a line for each event and some in between."""

    def __init__(
        self, study: Study, folder: Path, states: Mapping[str, RunState], live: Live | None = None, quiet: bool = False
    ) -> None:
        self._study, self._folder, self._states, self._live, self._quiet = study, folder, states, live, quiet
        self._epochs = {run.name: run.recipe.epoch_count for run in study.runs}
        self._done = {name: len(self._history(name)) for name in self._epochs}  # epochs of each run, when last read
        self._done_earlier = self._count_epochs()
        self._began: tuple[float, int] | None = None  # time and epochs of all runs when the first epoch ended
        self._refreshed = time.monotonic()
        self._first_reasons: dict[str, str] = {}  # why runs failed the first time; lines say a reason once

    def run_changed(self, name: str) -> None:
        """Show that a run has begun, ended, or waits again."""
        if self._live is not None:
            return self._show()
        self.seconds_left()
        state = self._states[name]
        _, accuracy = self._epoch_and_accuracy(name) if state.status == "finished" else ("", "")
        result = f", accuracy {accuracy} on validation images" if accuracy else ""
        reason = state.reason
        if name in self._first_reasons:
            reason = reason.removeprefix(self._first_reasons[name]).strip(" ()")
        elif state.status == "waiting":
            self._first_reasons[name] = reason
        explanation = _explanation(state.status, reason)
        notice(f"{name}: {state.status}{result}{f' ({explanation})' if explanation else ''}", quiet=self._quiet)

    def refresh(self) -> None:
        """Show the progress of all runs, unless it was shown a moment ago."""
        interval = SECONDS_BETWEEN_LINES if self._live is None else SECONDS_BETWEEN_TABLES
        if time.monotonic() - self._refreshed >= interval:
            self._refreshed = time.monotonic()
            self._show()

    def _show(self) -> None:
        statuses = [state.status for state in self._states.values()]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in _ORDER if status in statuses)
        seconds = self.seconds_left()
        heading = f"{self._study.name}: {counts}" + (f"; about {duration(seconds)} left" if seconds else "")
        if self._live is not None:
            return self._live.update(self._table(heading, self._live.console.height - LINES_BESIDE_ROWS), refresh=True)
        notice(heading, quiet=self._quiet)
        for name, state in self._states.items():
            epoch, accuracy = self._epoch_and_accuracy(name) if state.status == "running" else ("", "")
            notice(f"{name}: epoch {epoch}, accuracy {accuracy}", quiet=self._quiet or not accuracy)

    def _table(self, heading: str, rows: int) -> Table:
        chosen = sorted(self._states, key=lambda name: _ORDER.index(self._states[name].status))
        left_out = set(chosen[max(FEWEST_ROWS, rows) :])
        caption = f"and {len(left_out)} more" if left_out else None
        table = Table(title=heading, title_justify="left", caption=caption, box=None, pad_edge=False)
        for column in ("run", "status", "epoch", "accuracy", "reason"):
            table.add_column(column, no_wrap=True, justify="right" if column in ("epoch", "accuracy") else "left")
        for name in (name for name in self._states if name not in left_out):
            status, reason = self._states[name].status, self._states[name].reason
            cells = (name, status, *self._epoch_and_accuracy(name), _explanation(status, reason))
            table.add_row(*map(escape, cells))
        return table

    def _count_epochs(self) -> int:
        for name, state in self._states.items():
            if state.status in ("running", "finished"):
                self._done[name] = self._epochs[name] if state.status == "finished" else len(self._history(name))
        return sum(self._done.values())

    def seconds_left(self) -> float | None:
        """Estimate the seconds until all runs end, from the pace since the first epoch ended; None before that.

        Starting the processes happens once. Counted for every run, it would make the estimate far too long.
        """
        done, now = self._count_epochs(), time.monotonic()
        if self._began is None and done > self._done_earlier:
            self._began = (now, done)
        if self._began is None or done <= self._began[1]:
            return None
        unfinished = (name for name, state in self._states.items() if state.status not in ("finished", "failed"))
        left = sum(self._epochs[name] - self._done[name] for name in unfinished)
        return (now - self._began[0]) / (done - self._began[1]) * left

    def _history(self, name: str) -> list[EpochRow]:
        with contextlib.suppress(CifarlabError, OSError):  # not there yet, or being replaced
            return RunFolder(self._folder / name).history
        return []

    def _epoch_and_accuracy(self, name: str) -> tuple[str, str]:
        """Return how far a run is and its validation accuracy, as text; empty before the run begins."""
        state = self._states[name]
        if state.status == "waiting":
            return "", ""
        if state.results is not None:
            return str(state.results.epochs), f"{state.results.validation_accuracy:.2%}"
        history = self._history(name)
        accuracy = f"{history[-1].validation_accuracy:.2%}" if history else ""
        return f"{len(history)}/{self._epochs[name]}", accuracy


def _explanation(status: str, reason: str) -> str:
    """Return the reason for a run's status. A run that waits with a reason has failed and is tried again."""
    return f"again after: {reason}" if status == "waiting" and reason else reason


@contextlib.contextmanager
def display(study: Study, folder: Path, states: Mapping[str, RunState], *, quiet: bool = False) -> Iterator[Display]:
    """Show the progress of a study while the `with` block runs it and changes `states`, the state of each run."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal or console.is_dumb_terminal:
        yield Display(study, folder, states, quiet=quiet)
    else:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield Display(study, folder, states, live)
