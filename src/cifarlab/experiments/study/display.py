"""How far a study is: a live table on a terminal, plain lines everywhere else; all of it to stderr."""

from __future__ import annotations

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
from cifarlab.experiments.study.outcome import State
from cifarlab.progress import SECONDS_BETWEEN_LINES, duration, notice
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow

SECONDS_BETWEEN_TABLES = 1.0
_ORDER = ("running", "failed", "interrupted", "waiting", "finished")  # which runs are shown where not all fit


def _why(state: State) -> str:
    """The reason that a run is where it is; one that waits with a reason has failed and is tried again."""
    return f"again after: {state.reason}" if state.status == "waiting" and state.reason else state.reason


class Display:
    """Nobody watches; also what the other displays have in common."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        self._epochs = {member.name: member.recipe.epochs for member in study.members}
        self._done = {name: len(self._history(name)) for name in self._epochs}
        """The epochs that each run has trained, as far as was looked."""
        self._began = self._shown = time.monotonic()
        self._at_first: int | None = None
        """The epochs of all runs that were done before."""
        self._before: int | None = None
        """The same when time began to count, after the first epoch here."""

    def say(self, line: str) -> None:
        """Leaves a line that stays."""

    def changed(self, states: Mapping[str, State], name: str) -> None:
        """Takes note that a run begins, ends or waits again."""
        self.seconds_left(states)

    def refresh(self, states: Mapping[str, State]) -> None:
        """Shows how far all is, if it is time to."""

    def heading(self, states: Mapping[str, State]) -> str:
        """The whole study in a line."""
        counts = {status: sum(state.status == status for state in states.values()) for status in _ORDER}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        seconds = self.seconds_left(states)
        return f"{self._study.name}: {told}" + (f"; some {duration(seconds)} left" if seconds else "")

    def seconds_left(self, states: Mapping[str, State]) -> float | None:
        """Until all runs end, if epochs go on as they went since the first; None where that cannot be known yet.

        The start of the processes comes once, and counting it for every run would promise far too long a time.
        """
        for name, state in states.items():
            if state.status in ("running", "finished"):
                self._done[name] = self._epochs[name] if state.status == "finished" else len(self._history(name))
        done, now = sum(self._done.values()), time.monotonic()
        if self._at_first is None:
            self._at_first = done
        if self._before is None and done > self._at_first:
            self._began, self._before = now, done
        if self._before is None or done <= self._before:
            return None
        over = ("finished", "failed")
        left = sum(self._epochs[name] - self._done[name] for name, state in states.items() if state.status not in over)
        return (now - self._began) / (done - self._before) * left

    def _history(self, name: str) -> list[EpochRow]:
        try:
            return RunFolder(self._folder / name).history
        except (CifarlabError, OSError, ValueError, TypeError, KeyError):  # not there yet, or being replaced
            return []

    def how_far(self, name: str, state: State) -> tuple[str, str]:
        """The epoch and the accuracy of a run, as far as its folder tells."""
        if state.status == "waiting":
            return "", ""
        if state.status == "finished":
            return str(state.results["epochs"]), f"{state.results['validation_accuracy']:.2%}"
        history = self._history(name)
        accuracy = f"{history[-1].validation_accuracy:.2%}" if history else ""
        return f"{len(history)}/{self._epochs[name]}", accuracy


class _Lines(Display):
    """A line for each event, and now and then one about all."""

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(study, folder)
        self._told: dict[str, str] = {}
        """Why runs failed the first time."""

    def say(self, line: str) -> None:
        notice(line)

    def changed(self, states: Mapping[str, State], name: str) -> None:
        super().changed(states, name)
        state = states[name]
        _, accuracy = self.how_far(name, state) if state.status == "finished" else ("", "")
        told = f", accuracy {accuracy} on validation images" if accuracy else ""
        reason = state.reason
        if name in self._told:  # a reason is told once, with the first try
            reason = reason.removeprefix(self._told[name]).strip(" ()")
        elif state.status == "waiting":
            self._told[name] = reason
        why = _why(replace(state, reason=reason))
        self.say(f"{name}: {state.status}{told}{f' ({why})' if why else ''}")

    def refresh(self, states: Mapping[str, State]) -> None:
        if time.monotonic() - self._shown < SECONDS_BETWEEN_LINES:
            return
        self._shown = time.monotonic()
        self.say(self.heading(states))
        for name, state in states.items():
            epoch, accuracy = self.how_far(name, state) if state.status == "running" else ("", "")
            if accuracy:
                self.say(f"{name}: epoch {epoch}, accuracy {accuracy}")


class _Live(Display):
    """A table that is drawn anew every second."""

    def __init__(self, study: Study, folder: Path, live: Live) -> None:
        super().__init__(study, folder)
        self._live = live

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False)

    def changed(self, states: Mapping[str, State], name: str) -> None:
        super().changed(states, name)
        self._shown = 0.0
        self.refresh(states)

    def refresh(self, states: Mapping[str, State]) -> None:
        if time.monotonic() - self._shown < SECONDS_BETWEEN_TABLES:
            return
        self._shown = time.monotonic()
        self._live.update(self._table(states), refresh=True)

    def _table(self, states: Mapping[str, State]) -> Table:
        rows = max(3, self._live.console.height - 5)
        first = sorted(states, key=lambda name: _ORDER.index(states[name].status))[:rows]
        table = Table(title=self.heading(states), title_justify="left", box=None, pad_edge=False)
        table.add_column("run", no_wrap=True, overflow="ellipsis")
        for column in ("status", "epoch", "accuracy", "reason"):
            table.add_column(column, no_wrap=True, justify="right" if column in ("epoch", "accuracy") else "left")
        for name in (name for name in states if name in set(first)):
            state = states[name]
            cells = (name, state.status, *self.how_far(name, state), _why(state))
            table.add_row(*map(escape, cells))
        if len(first) < len(states):
            table.caption = f"and {len(states) - len(first)} more"
        return table


@contextlib.contextmanager
def display(study: Study, folder: Path, *, quiet: bool = False) -> Iterator[Display]:
    """Shows how far the study inside the `with` block is."""
    console = Console(stderr=True)
    if quiet:
        yield Display(study, folder)
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield _Live(study, folder, live)
    else:
        yield _Lines(study, folder)
