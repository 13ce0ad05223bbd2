"""What a user did wrong, said in one line, with the nearest right name.

Every error that a user can cause is a `CifarlabError`; the command line prints its text as one line and ends with its
`status`. Anything else that escapes is a fault of this package and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CifarlabError(Exception):
    """Something failed: a disk, a network, a training. Exit status 1."""

    status = 1
    everywhere = False
    """Whether every process of a training by several raises it, so that it is enough if one says it."""


class UsageError(CifarlabError):
    """Wrong usage or wrong input: nothing has been created or changed. Exit status 2."""

    status = 2
    everywhere = True


class Interrupted(CifarlabError):
    """Stopped by a signal after everything was saved. Exit status 128 + signal number (130 or 143)."""

    everywhere = True

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number

    def of_a_command(self) -> Interrupted:
        """The same, as it is told by a command that goes on when it is given again."""
        stopped = str(self).split(",")[0]  # "stopped by SIGINT"
        return Interrupted(f"{stopped}, everything is saved: the same command goes on", self.status - 128)


class Pruned(CifarlabError):
    """Ended before its end because others do better, with everything saved. The run's status is then `pruned`."""


def unknown(kind: str, got: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that does not exist: says what it may be and which name is nearest.

    Args:
        kind: what was named, as the user knows it ("recipe", "class", "key").
        got: the name given.
        choices: the names that exist; a long list is cut.
    """
    names = list(choices)
    near = nearest(got, names)
    if near is not None:
        return UsageError(f"unknown {kind} {got!r}: did you mean {near!r}?")
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return UsageError(
        f"unknown {kind} {got!r}: it may be {shown}" if names else f"unknown {kind} {got!r}: there is none"
    )


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `name`, without regard to case; None where none comes near."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the machine or of a GPU."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in told or "out of memory" in told


def one_line(text: object) -> str:
    """`text` without line breaks and what steers a terminal, so that it prints as one line."""
    return "".join(letter for letter in " ".join(str(text).split()) if letter.isprintable())


def shorten(text: str, length: int) -> str:
    """Return `text`, cut to `length` letters of which the last is an ellipsis if it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
