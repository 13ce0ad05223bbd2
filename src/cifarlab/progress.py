"""How far something slow is: a bar on a terminal, plain lines everywhere else.

Everything goes to stderr. A terminal gets Rich's bar, which knows about widths, legacy consoles and character sets; a
pipe, a log file, nohup or a notebook gets a whole line now and then, because a bar there is a crash or a heap of
control characters.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_REFRESHES = 0.25  # on a terminal: often enough to look alive, rare enough to cost nothing
SECONDS_BETWEEN_LINES = 10.0  # elsewhere: a log of an hour stays readable


class Task:
    """Something that takes long. `advance` says how far it has come, `say` leaves a line that stays."""

    def __init__(self, description: str, total: int | None, interval: float) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.note = ""
        self.at_most = float("inf")
        """Seconds from now after which the work ends, done or not."""
        self._interval = interval
        self._started = self._shown = time.monotonic()

    def advance(self, amount: int, note: Callable[[], str] | None = None) -> None:
        """Counts `amount` more as done.

        Args:
            amount: how much, in the unit of `total`.
            note: makes the text beside the bar. Called only when the display is refreshed, so that it may be slow
                (reading a loss from a GPU waits for it).
        """
        self.done += amount
        now = time.monotonic()
        if now - self._shown >= self._interval:
            self._shown = now
            self.note = note() if note is not None else self.note
            self._show()

    def say(self, line: str) -> None:
        """Leaves a line above the bar."""
        notice(line)

    def seconds_left(self) -> float | None:
        """Seconds until the end if it goes on as it went so far; None where that cannot be known yet."""
        share = self.share()
        return (time.monotonic() - self._started) * (1 - share) / share if share else None

    def share(self) -> float | None:
        """How much of the work is done, or of the time that there is for it; None where that cannot be known."""
        if self.total is None or not self.done:
            return None
        return min(1.0, max(self.done / self.total, (time.monotonic() - self._started) / self.at_most))

    def _show(self) -> None:
        left, known = self.seconds_left(), self.share()
        share = f"{known or 0:.0%}" if self.total else f"{self.done:,}"
        ending = f", {duration(left)} left" if left is not None else ""
        self.say(f"{self.description}: {share}  {self.note}{ending}")


class _Bar(Task):
    """A task shown by Rich on a terminal."""

    def __init__(self, description: str, total: int | None, bar: Progress) -> None:
        super().__init__(description, total, SECONDS_BETWEEN_REFRESHES)
        self._bar = bar
        self._id = bar.add_task(description, total=total, note="")

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)

    def _show(self) -> None:
        self._bar.update(self._id, description=self.description, completed=self._completed(), note=self.note)

    def _completed(self) -> float:
        return self.done if self.total is None else (self.share() or 0) * self.total


class _Silent(Task):
    """A task that nobody watches."""

    def say(self, line: str) -> None:
        pass


@contextlib.contextmanager
def task(description: str, total: int | None, *, quiet: bool = False, already_done: int = 0) -> Iterator[Task]:
    """Shows how far the work inside the `with` block has come.

    Args:
        description: what is being done, in a few words.
        total: the amount of work, in any unit; None where nobody knows.
        quiet: show nothing.
        already_done: what an earlier sitting has done; it does not count for the estimate of time.
    """
    console = Console(stderr=True)
    remaining = None if total is None else max(1, total - already_done)
    if quiet:
        yield _Silent(description, remaining, float("inf"))
    elif console.is_terminal and not console.is_dumb_terminal:
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=None)]
        columns += [TaskProgressColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn()]
        with Progress(*columns, console=console, transient=True, expand=True) as bar:
            yield _Bar(description, remaining, bar)
    else:
        yield Task(description, remaining, SECONDS_BETWEEN_LINES)


def notice(line: str, *, quiet: bool = False) -> None:
    """Says what is being done, in a line of its own; if nobody reads any more, to nobody."""
    if quiet:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        with open(os.devnull, "w") as nobody:
            os.dup2(nobody.fileno(), sys.stderr.fileno())


def duration(seconds: float) -> str:
    """Seconds as people write them: `42 s`, `3:07`, `1:02:09`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
