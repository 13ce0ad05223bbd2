"""How far a study is: a live table on a terminal, plain lines everywhere else; all of it to stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cifarlab.errors import CifarlabError
from cifarlab.progress import SECONDS_BETWEEN_LINES, duration, notice
from cifarlab.run import RunFolder
from cifarlab.study.grid import Study
from cifarlab.study.outcome import State

SECONDS_BETWEEN_TABLES = 1.0
_ORDER = ("running", "failed", "interrupted", "waiting", "finished")  # which runs are shown where not all fit


class Display:
    """Nobody watches; also what the other displays have in common."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        self._epochs = {member.name: member.recipe.epochs for member in study.members}
        self._began = self._shown = time.monotonic()
        self._ended = 0

    def say(self, line: str) -> None:
        """Leaves a line that stays."""

    def changed(self, states: Mapping[str, State], name: str) -> None:
        """Takes note that a run begins, ends or waits again."""
        self._ended += states[name].status in ("finished", "failed")

    def refresh(self, states: Mapping[str, State]) -> None:
        """Shows how far all is, if it is time to."""

    def heading(self, states: Mapping[str, State]) -> str:
        """The whole study in a line."""
        counts = {status: sum(state.status == status for state in states.values()) for status in _ORDER}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        left = counts["running"] + counts["waiting"]
        if self._ended and left:
            seconds = (time.monotonic() - self._began) / self._ended * left
            told += f"; some {duration(seconds)} left"
        return f"{self._study.name}: {told}"

    def how_far(self, name: str, state: State) -> tuple[str, str]:
        """The epoch and the accuracy of a run, as far as its folder tells."""
        if state.status == "waiting":
            return "", ""
        if state.status == "finished":
            return str(state.results["epochs"]), f"{state.results['validation_accuracy']:.2%}"
        try:
            history = RunFolder(self._folder / name).history
        except (CifarlabError, OSError, ValueError, TypeError, KeyError):  # not there yet, or being replaced
            return "", ""
        accuracy = f"{history[-1].validation_accuracy:.2%}" if history else ""
        return f"{len(history)}/{self._epochs[name]}", accuracy


class _Lines(Display):
    """A line for each event, and now and then one about all."""

    def say(self, line: str) -> None:
        notice(line)

    def changed(self, states: Mapping[str, State], name: str) -> None:
        super().changed(states, name)
        state = states[name]
        _, accuracy = self.how_far(name, state) if state.status == "finished" else ("", "")
        told = f", accuracy {accuracy} on validation images" if accuracy else ""
        self.say(f"{name}: {state.status}{told}{f' ({state.reason})' if state.reason else ''}")

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
            cells = (name, state.status, *self.how_far(name, state), state.reason)
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
