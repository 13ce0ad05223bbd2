"""What torchrun tells the processes that it starts, and what they leave with it for those that it starts after them.

torchrun sets environment variables, keeps a store in which processes leave words for one another, ends all processes
when one of them dies, and starts all again as often as `--max-restarts` allows. Nothing here knows of a training.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cifarlab.errors import CifarlabError, UsageError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

WORD = timedelta(seconds=10)
"""In which one process says what is wrong; then the others say it too."""

_store: Store | None = None


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is."""

    rank: int
    """Counts from 0, over all machines."""
    processes: int
    local_rank: int
    """Counts from 0, on this machine."""
    attempt: int
    """How often torchrun has started all of them again."""


def place() -> Place | None:
    """What torchrun's environment says; None where a process was started alone.

    Raises:
        UsageError: something of it is missing, or is no number.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    if os.environ["WORLD_SIZE"] == "1" and "MASTER_ADDR" not in os.environ:
        return None
    wanted = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    missing = [name for name in (*wanted, "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise UsageError(f"RANK and WORLD_SIZE are set and {missing[0]} is not: start several processes with torchrun")
    texts = {name: os.environ[name] for name in wanted}
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    for name, text in {**texts, "TORCHELASTIC_RESTART_COUNT": attempt}.items():
        if not text.isascii() or not text.isdigit():
            raise UsageError(f"{name} should be a whole number, got {text[:40]!r}: torchrun sets it")
    rank, processes, local_rank = (int(texts[name]) for name in wanted[:3])
    if rank >= processes:
        raise UsageError(f"RANK should be less than WORLD_SIZE, which is {processes}, got {rank}")
    return Place(rank, processes, local_rank, int(attempt))


def meeting_place(waiting: timedelta) -> Store:
    """The store of torchrun, which lives as long as it does; the first process's own without torchrun."""
    global _store
    from torch.distributed.rendezvous import rendezvous

    if _store is None:
        _store = next(iter(rendezvous("env://", timeout=waiting)))[0]
    return _store


def starts_again() -> bool:
    """Whether torchrun starts all processes again if one of them fails."""
    most, here = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"), place()
    return here is not None and most.isdigit() and here.attempt < int(most)


def hold_out() -> None:
    """Ignores SIGTERM from now on: torchrun sends it as soon as one process has died, before another could say so."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def says(*, everywhere: bool) -> bool:
    """Whether this process prints an error: the first that comes upon it, or each that alone knows of its own.

    The others wait a little until it is printed, because torchrun ends all processes when one has ended.

    Args:
        everywhere: whether every process comes upon this error.
    """
    with contextlib.suppress(CifarlabError, RuntimeError, ValueError):
        if (here := place()) is None or not everywhere:
            return True
        hold_out()
        store = meeting_place(WORD)
        if store.add(f"{_word_of(here)}/asked", 1) > 1:
            store.wait([_word_of(here)], WORD)
            return False
    return True


def has_said(*, for_good: bool) -> None:
    """Lets the other processes know that an error has been printed.

    Args:
        for_good: whether it would come again, so that those that torchrun starts anew need not try.
    """
    with contextlib.suppress(CifarlabError, RuntimeError, ValueError):
        if (here := place()) is not None:
            store = meeting_place(WORD)
            if for_good:
                store.set(_OVER, "")
            store.set(_word_of(here), "")


def is_over() -> bool:
    """Whether torchrun started this process again although the one before had said that it is of no use."""
    with contextlib.suppress(CifarlabError, RuntimeError, ValueError):
        if (here := place()) is not None and here.attempt:
            return meeting_place(WORD).check([_OVER])
    return False


_OVER = "cifarlab/over"


def _word_of(here: Place) -> str:
    return f"cifarlab/said/{here.attempt}"
