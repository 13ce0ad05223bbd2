"""Errors that users can cause, and texts for them.

Every such error is a `CifarlabError`. The command line prints its text as one line and exits with its `status`. Any
other exception is a fault of this package and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

MOST_CHOICES = 12  # names in an error's text
_WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
_WORDS |= {"tuple": "a list", "list": "a list", "dictionary": "a table"}
_OTHER_WORDS = {"gpu": "cuda", "lr": "learning_rate", "rate": "learning_rate", "wd": "weight_decay", "bs": "batch_size"}
_Valid = TypeVar("_Valid")


class CifarlabError(Exception):
    """A failure of a disk, a network or a training. Exit status 1."""

    status = 1
    on_all_ranks = False  # True if all processes of a training raise this error, so that only rank 0 prints it


class UsageError(CifarlabError):
    """Wrong usage or wrong input; nothing has been created or changed. Exit status 2."""

    status = 2
    on_all_ranks = True


class UntrustedFile(UsageError):
    """Weights or a run would run a Python file that this user has neither trained here nor trusted."""

    def __init__(self, message: str, file: Path) -> None:
        super().__init__(message)
        self.file = file


class Interrupted(CifarlabError):
    """Stopped by a signal after everything was saved. Exit status 128 + signal number: 129, 130 or 143."""

    on_all_ranks = True

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number

    def with_restart_hint(self) -> "Interrupted":
        """Return this interruption with the hint that the same command continues the work."""
        reason = str(self).split(",")[0]  # "stopped by SIGINT"
        return Interrupted(f"{reason}, everything is saved: the same command continues", self.status - 128)


class Pruned(CifarlabError):
    """A run stopped early by a tuning because other trials are better. All is saved; the run's status is `pruned`."""


def unknown(kind: str, got: str, choices: Iterable[str]) -> UsageError:
    """Return the error for a name that does not exist, with the nearest name or the first of the existing names.

    `kind` is the user's word for the named thing, such as "recipe", "class" or "key".
    """
    names = list(choices)
    if near := nearest(got, names):
        return UsageError(f"unknown {kind} {got!r}: did you mean {near!r}?")
    return UsageError(f"unknown {kind} {got!r}: " + (f"it may be {listed(names)}" if names else f"there is no {kind}"))


def listed(names: Sequence[str]) -> str:
    """Return the first names with commas, and an ellipsis if there are more."""
    return ", ".join(names[:MOST_CHOICES]) + (", …" if len(names) > MOST_CHOICES else "")


def validated(kind: type[_Valid], document: object, place: str, keys: Iterable[str] = ()) -> _Valid:
    """Return a parsed document, or the bytes of a JSON document, as a value of a pydantic model.

    The error names `place`, such as `recipe 'mine'`, the first wrong key, its allowed values and the value received.
    With `keys`, the keys that exist, it also names the nearest of them.
    """
    from pydantic import TypeAdapter, ValidationError  # here, because `cifarlab --help` does without

    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(document) if isinstance(document, bytes) else adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            reason = str(unknown("key", key, keys)) if keys else f"unknown key {key!r}"
        elif first["type"] == "missing":
            reason = f"the key {key!r} is missing"
        elif first["type"] == "value_error":
            reason = str(first["ctx"]["error"])
        else:
            reason = f"{key} {in_plain_words(first['msg'])}, got {shorten(repr(first['input']), 60)}".lstrip()
        raise UsageError(f"{place}: {reason}") from error


def in_plain_words(message: str) -> str:
    """Return a message of pydantic with the words of TOML, not of Python, and without the value received."""
    message = re.sub(", (unable to|got a number) .*?(?= \\(|$)", "", one_line(message)).replace(
        "Input should", "should"
    )
    return re.sub(r"a valid (\w+)( or instance of \w+)?", lambda match: _WORDS.get(match[1], match[0]), message)


def meant(name: str, choices: Iterable[str]) -> str | None:
    """Return the shortest choice that is `name` or ends with that word, such as `augment.flip` for `flip`, or None."""
    word = "_" + re.sub("[-.:]", "_", _OTHER_WORDS.get(name.lower(), name.lower()))
    found = (choice for choice in choices if f"_{re.sub('[-.:]', '_', choice.lower())}".endswith(word))
    return min(found, key=len, default=None)


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most similar to `name`, ignoring case and prefixes such as `folder:`, or None."""
    choices = list(choices)
    if name and (found := meant(name, choices)):
        return found
    by_lower = {text.lower(): choice for choice in choices for text in (choice, choice.rpartition(":")[2]) if text}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that the machine or a GPU has too little memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text


def one_line(text: object) -> str:
    """Return a text without line breaks and control characters, so that it prints as one line; spaces stay."""
    return "".join(filter(str.isprintable, re.sub(r"\s*[^\S ]\s*", " ", readable(text).strip())))


def readable(text: object) -> str:
    """Return a text that can be encoded: bytes of file names that are not UTF-8 become escapes such as `\\udce9`."""
    return str(text).encode(errors="backslashreplace").decode()


def describe_error(error: BaseException) -> str:
    """Return an error's text on one line, with its type if it is not an error of this package."""
    return str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {one_line(error)[:400]}"


def shorten(text: str, length: int) -> str:
    """Return `text`, cut to `length` letters of which the last is an ellipsis if it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
