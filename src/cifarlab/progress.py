"""Progress of slow work on stderr: a bar on a terminal, plain lines everywhere else.

Rich draws the bar, because it handles widths, legacy consoles and character sets. A pipe, a log file or nohup gets a
line every ten seconds, because a bar would fill it with control characters. A notebook gets these lines one over the
other, and on stdout, because it shows stderr as if it were full of errors.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_REFRESHES = 0.25  # on a terminal
NOTEBOOK_COLUMNS = 80  # of a line that covers another one
SECONDS_BETWEEN_LINES = 10.0  # elsewhere, so that the log of an hour stays readable


class Task:
    """Slow work whose progress is displayed: `advance` counts what is done, `say` prints a line that stays."""

    def __init__(self, description: str, total: float | None, bar: Progress | None = None, quiet: bool = False) -> None:
        self.description = description
        self.total = total
        self.done = 0.0
        self.note = ""  # text beside the bar
        self.at_most = float("inf")  # seconds after which the work ends, even if it is not complete
        self._bar = bar
        self._quiet = quiet
        self._interval = SECONDS_BETWEEN_LINES if bar is None else SECONDS_BETWEEN_REFRESHES
        self._started = self._refreshed = time.monotonic()
        if bar is not None:
            self._id = bar.add_task(description, total=total, note="")

    def advance(self, amount: float, note: Callable[[], str] | None = None) -> None:
        """Add to the work that is done, in the unit of `total`, and refresh the display if enough time has passed.

        `note` returns the text beside the bar. It is called only when the display is refreshed, because it may be slow:
        reading a loss waits for the GPU.
        """
        self.done += amount
        now = time.monotonic()
        if self._quiet or now - self._refreshed < self._interval:
            return
        self._refreshed = now
        self.note = note() if note is not None else self.note
        share, left = self.share() or 0.0, self.seconds_left()
        if self._bar is not None:
            completed = self.done if self.total is None else share * self.total
            self._bar.update(self._id, description=self.description, completed=completed, note=self.note)
        else:
            done = f"{share:.0%}" if self.total else f"{self.done:,.0f}"
            ending = f", {duration(left)} left" if left is not None else ""
            notice(f"{self.description}: {done}  {self.note}{ending}", end="\r" if in_notebook() else "\n")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            notice(line, quiet=self._quiet)

    def seconds_left(self) -> float | None:
        """Return the seconds until the end at the speed so far, or None if nothing is done or `total` is unknown."""
        share = self.share()
        return (time.monotonic() - self._started) * (1 - share) / share if share else None

    def share(self) -> float | None:
        """Return the fraction of the work done, or of the time `at_most` if that is larger; None if unknown."""
        if self.total is None or not self.done:
            return None
        return min(1.0, max(self.done / self.total, (time.monotonic() - self._started) / self.at_most))


@contextlib.contextmanager
def task(description: str, total: int | None, *, quiet: bool = False, already_done: float = 0) -> Iterator[Task]:
    """Display the progress of the work inside the `with` block.

    `total` is the amount of work in any unit, or None if unknown. Of it, `already_done` was done before, for example
    before an interruption, and does not count for the estimate of time.
    """
    console = Console(file=cast(IO[str], Stderr()))
    remaining = None if total is None else max(1, total - already_done)
    if quiet or not sys.stderr.isatty() or console.is_dumb_terminal:  # FORCE_COLOR makes any file a terminal for Rich
        yield Task(description, remaining, quiet=quiet)
        return
    name, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    columns = (name, BarColumn(bar_width=None), TaskProgressColumn(), note, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        yield Task(description, remaining, bar)


class Stderr:
    """stderr, which discards all text after an error: a full disk or a closed terminal must not end a training.

    In a notebook it is stdout.
    """

    def __init__(self) -> None:
        self._stream = sys.stdout if in_notebook() else sys.stderr  # Rich replaces sys.stderr while it draws a bar

    def write(self, text: str) -> int:
        try:
            print(text, end="", file=self._stream, flush=True)
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as devnull:
                os.dup2(devnull.fileno(), self._stream.fileno())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def notice(line: str, *, quiet: bool = False, end: str = "\n") -> None:
    """Print a line on stderr; in a notebook it covers a line that ended with a carriage return."""
    if not quiet:
        Stderr().write(f"{line:<{NOTEBOOK_COLUMNS}}{end}" if in_notebook() else f"{line}{end}")


def in_notebook() -> bool:
    """Return True if this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def duration(seconds: float) -> str:
    """Return seconds as text: `42 s`, `3:07` (minutes) or `1:02:09` (hours)."""
    minutes, rest = divmod(round(min(seconds, 1e12)), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
