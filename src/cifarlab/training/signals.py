"""What surrounds a training: signals that stop it between two steps, deterministic algorithms, how it ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from cifarlab.errors import CifarlabError, Interrupted, Pruned, is_out_of_memory
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that a training stops between two steps; a second Ctrl-C stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return

    def note(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is note:  # nothing within has set another that should stay
                signal.signal(number, handler)


@contextmanager
def deterministic(recipe: Recipe) -> Iterator[None]:
    """Has PyTorch refuse operations whose bits vary, if the recipe wants it."""
    if not recipe.deterministic:  # to set what is set already imports PyTorch's compiler, which takes seconds
        yield
        return
    algorithms: Any = torch.utils.deterministic
    before, fills = torch.are_deterministic_algorithms_enabled(), algorithms.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True)
    algorithms.fill_uninitialized_memory = False  # for debugging only, and slow
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        algorithms.fill_uninitialized_memory = fills


@contextmanager
def recorded(run: RunFolder) -> Iterator[None]:
    """Writes into run.json how a training ended that did not finish, as far as the disk allows.

    Raises:
        CifarlabError: there was not enough memory.
    """
    try:
        yield
    except BaseException as error:
        stopped = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        status = "pruned" if isinstance(error, Pruned) else stopped
        lacking = "not enough memory: a smaller batch_size needs less" if is_out_of_memory(error) else ""
        reason = lacking or str(error) or type(error).__name__
        with suppress(CifarlabError):  # a full disk is being reported already
            run.update(status=status, reason=reason)
        if lacking:
            raise CifarlabError(lacking) from error
        raise
