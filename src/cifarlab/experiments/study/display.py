"""Progress of a running study on stderr: a live table on a terminal, plain lines everywhere else."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cifarlab.errors import CifarlabError
from cifarlab.experiments.study.grid import Study
from cifarlab.experiments.study.outcome import RunState
from cifarlab.progress import SECONDS_BETWEEN_LINES, duration, notice
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow

SECONDS_BETWEEN_TABLES = 1.0
FEWEST_ROWS = 3  # of the table on a very low terminal
LINES_BESIDE_ROWS = 5  # of a terminal: title, header, caption and the user's prompt
_ORDER = ("running", "failed", "interrupted", "waiting", "finished")  # runs to show first if not all fit


def _explanation(state: RunState) -> str:
    """Return the reason for a run's status. A run that waits with a reason has failed and is tried again."""
    return f"again after: {state.reason}" if state.status == "waiting" and state.reason else state.reason


class Display:
    """Shows nothing, but estimates the time left; its subclasses show the progress."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        self._epochs = {run.name: run.recipe.epochs for run in study.runs}
        """Number of epochs of each run's recipe."""
        self._done = {name: len(self._history(name)) for name in self._epochs}
        """Number of epochs that each run has trained, when last read."""
        self._began = self._refreshed = time.monotonic()
        self._done_earlier: int | None = None
        """Epochs of all runs that were trained before this call."""
        self._done_at_began: int | None = None
        """Epochs of all runs at `_began`, which is when the first epoch of this call ended."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def run_changed(self, states: Mapping[str, RunState], name: str) -> None:
        """Show that a run has begun, ended, or waits again."""
        self.seconds_left(states)

    def refresh(self, states: Mapping[str, RunState]) -> None:
        """Show the progress of all runs, unless it was shown a moment ago."""

    def heading(self, states: Mapping[str, RunState]) -> str:
        """Return the progress of the whole study in one line."""
        counts = {status: sum(state.status == status for state in states.values()) for status in _ORDER}
        listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        seconds = self.seconds_left(states)
        return f"{self._study.name}: {listed}" + (f"; about {duration(seconds)} left" if seconds else "")

    def seconds_left(self, states: Mapping[str, RunState]) -> float | None:
        """Estimate the seconds until all runs end, from the pace since the first epoch ended; None before that.

        Starting the processes happens once. Counted for every run, it would make the estimate far too long.
        """
        for name, state in states.items():
            if state.status in ("running", "finished"):
                self._done[name] = self._epochs[name] if state.status == "finished" else len(self._history(name))
        done, now = sum(self._done.values()), time.monotonic()
        if self._done_earlier is None:
            self._done_earlier = done
        if self._done_at_began is None and done > self._done_earlier:
            self._began, self._done_at_began = now, done
        if self._done_at_began is None or done <= self._done_at_began:
            return None
        unfinished = (name for name, state in states.items() if state.status not in ("finished", "failed"))
        left = sum(self._epochs[name] - self._done[name] for name in unfinished)
        return (now - self._began) / (done - self._done_at_began) * left

    def _history(self, name: str) -> list[EpochRow]:
        try:
            return RunFolder(self._folder / name).history
        except (CifarlabError, OSError, ValueError, TypeError, KeyError):  # not there yet, or being replaced
            return []

    def epoch_and_accuracy(self, name: str, state: RunState) -> tuple[str, str]:
        """Return how far a run is and its validation accuracy, as text; empty before the run begins."""
        if state.status == "waiting":
            return "", ""
        if state.status == "finished" and state.results is not None:
            return str(state.results.epochs), f"{state.results.validation_accuracy:.2%}"
        history = self._history(name)
        accuracy = f"{history[-1].validation_accuracy:.2%}" if history else ""
        return f"{len(history)}/{self._epochs[name]}", accuracy


class _Lines(Display):
    """Prints a line for each event, and now and then a line for the study and for each run in training."""

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(study, folder)
        self._first_reasons: dict[str, str] = {}
        """Reasons why runs failed the first time, by run; a reason is printed once."""

    def say(self, line: str) -> None:
        notice(line)

    def run_changed(self, states: Mapping[str, RunState], name: str) -> None:
        super().run_changed(states, name)
        state = states[name]
        _, accuracy = self.epoch_and_accuracy(name, state) if state.status == "finished" else ("", "")
        result = f", accuracy {accuracy} on validation images" if accuracy else ""
        reason = state.reason
        if name in self._first_reasons:
            reason = reason.removeprefix(self._first_reasons[name]).strip(" ()")
        elif state.status == "waiting":
            self._first_reasons[name] = reason
        explanation = _explanation(replace(state, reason=reason))
        self.say(f"{name}: {state.status}{result}{f' ({explanation})' if explanation else ''}")

    def refresh(self, states: Mapping[str, RunState]) -> None:
        if time.monotonic() - self._refreshed < SECONDS_BETWEEN_LINES:
            return
        self._refreshed = time.monotonic()
        self.say(self.heading(states))
        for name, state in states.items():
            epoch, accuracy = self.epoch_and_accuracy(name, state) if state.status == "running" else ("", "")
            if accuracy:
                self.say(f"{name}: epoch {epoch}, accuracy {accuracy}")


class _LiveTable(Display):
    """Redraws a table about every second."""

    def __init__(self, study: Study, folder: Path, live: Live) -> None:
        super().__init__(study, folder)
        self._live = live

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False)

    def run_changed(self, states: Mapping[str, RunState], name: str) -> None:
        super().run_changed(states, name)
        self._refreshed = 0.0
        self.refresh(states)

    def refresh(self, states: Mapping[str, RunState]) -> None:
        if time.monotonic() - self._refreshed < SECONDS_BETWEEN_TABLES:
            return
        self._refreshed = time.monotonic()
        self._live.update(self._table(states), refresh=True)

    def _table(self, states: Mapping[str, RunState]) -> Table:
        rows = max(FEWEST_ROWS, self._live.console.height - LINES_BESIDE_ROWS)
        chosen = set(sorted(states, key=lambda name: _ORDER.index(states[name].status))[:rows])
        table = Table(title=self.heading(states), title_justify="left", box=None, pad_edge=False)
        table.add_column("run", no_wrap=True, overflow="ellipsis")
        for column in ("status", "epoch", "accuracy", "reason"):
            table.add_column(column, no_wrap=True, justify="right" if column in ("epoch", "accuracy") else "left")
        for name, state in states.items():
            if name in chosen:
                cells = (name, state.status, *self.epoch_and_accuracy(name, state), _explanation(state))
                table.add_row(*map(escape, cells))
        if len(chosen) < len(states):
            table.caption = f"and {len(states) - len(chosen)} more"
        return table


@contextlib.contextmanager
def display(study: Study, folder: Path, *, quiet: bool = False) -> Iterator[Display]:
    """Show the progress of a study while the `with` block runs it.

    Args:
        study: the study, with the list of all its runs.
        folder: the study's folder.
        quiet: show nothing.
    """
    console = Console(stderr=True)
    if quiet:
        yield Display(study, folder)
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield _LiveTable(study, folder, live)
    else:
        yield _Lines(study, folder)
