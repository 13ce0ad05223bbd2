"""Progress of slow work on stderr: a bar on a terminal, plain lines everywhere else.

Rich draws the bar, because it handles widths, legacy consoles and character sets. A pipe, a log file, nohup or a
notebook gets a line every ten seconds, because a bar would fill it with control characters.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_REFRESHES = 0.25  # on a terminal
SECONDS_BETWEEN_LINES = 10.0  # elsewhere, so that the log of an hour stays readable


class Task:
    """Slow work whose progress is displayed: `advance` counts what is done, `say` prints a line that stays."""

    def __init__(self, description: str, total: int | None, interval: float) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.note = ""
        self.at_most = float("inf")
        """Seconds after which the work ends, even if it is not complete."""
        self._interval = interval
        self._started = self._refreshed = time.monotonic()

    def advance(self, amount: int, note: Callable[[], str] | None = None) -> None:
        """Add to the work that is done, and refresh the display if enough time has passed.

        Args:
            amount: work done since the last call, in the unit of `total`.
            note: returns the text beside the bar. It is called only when the display is refreshed, because it may be
                slow: reading a loss waits for the GPU.
        """
        self.done += amount
        now = time.monotonic()
        if now - self._refreshed >= self._interval:
            self._refreshed = now
            self.note = note() if note is not None else self.note
            self._show()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        notice(line)

    def seconds_left(self) -> float | None:
        """Return the seconds until the end at the speed so far, or None if nothing is done or `total` is unknown."""
        share = self.share()
        return (time.monotonic() - self._started) * (1 - share) / share if share else None

    def share(self) -> float | None:
        """Return the fraction of the work done, or of the time `at_most` if that is larger; None if unknown."""
        if self.total is None or not self.done:
            return None
        return min(1.0, max(self.done / self.total, (time.monotonic() - self._started) / self.at_most))

    def _show(self) -> None:
        left = self.seconds_left()
        done = f"{self.share() or 0:.0%}" if self.total else f"{self.done:,}"
        ending = f", {duration(left)} left" if left is not None else ""
        self.say(f"{self.description}: {done}  {self.note}{ending}")


class _Bar(Task):
    """A task displayed by Rich on a terminal."""

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
    """A task that displays nothing."""

    def say(self, line: str) -> None:
        pass


@contextlib.contextmanager
def task(description: str, total: int | None, *, quiet: bool = False, already_done: int = 0) -> Iterator[Task]:
    """Display the progress of the work inside the `with` block.

    Args:
        description: the work in a few words.
        total: amount of work in any unit, or None if unknown.
        quiet: display nothing.
        already_done: work done before, for example before an interruption; it does not count for the estimate of time.
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
    """Print a line on stderr. If its reader has gone, this line and all later ones are discarded."""
    if quiet:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        with open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), sys.stderr.fileno())


def duration(seconds: float) -> str:
    """Return seconds as text: `42 s`, `3:07` (minutes) or `1:02:09` (hours)."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
