"""Run a Python module for a visitor, in a child process with a time limit."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from cifarlab.errors import UsageError

SECONDS_BETWEEN_LOOKS = 0.5  # at whether the visitor still waits


class Ended(NamedTuple):
    """A child process that has ended: its exit status and what it wrote."""

    status: int
    output: bytes
    errors: bytes  # empty unless they were asked for


async def run_child(
    words: Sequence[str],
    seconds: float,
    *,
    keep_errors: bool = False,
    has_left: Callable[[], Awaitable[bool]] | None = None,
) -> Ended:
    """Run `python -m` with these words, and wait for the end of the process.

    The process is killed if the time is over, the visitor has left, or the board stops.

    Args:
        words: name of the module, and its arguments.
        seconds: time limit.
        keep_errors: return standard error, instead of writing it to the board's terminal.
        has_left: returns True if the visitor no longer waits.

    Raises:
        TimeoutError: the time is over.
        UsageError: the visitor has left.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # a file random.py in the current folder does not replace the standard library's
        "-m",
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe if keep_errors else None,
    )
    answer = asyncio.ensure_future(process.communicate())
    try:
        async with asyncio.timeout(seconds):
            while not (await asyncio.wait({answer}, timeout=SECONDS_BETWEEN_LOOKS))[0]:
                if has_left and await has_left():
                    raise UsageError("the visitor left before the answer was computed")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        output, errors = await answer
    assert process.returncode is not None
    return Ended(process.returncode, output, errors or b"")
