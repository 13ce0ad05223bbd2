"""Read torchrun's environment and connect to its store.

torchrun sets environment variables, keeps a key-value store for its processes, ends all of them when one dies, and
starts all again up to `--max-restarts` times.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cifarlab.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train together."""

    rank: int = 0
    """Number of the process over all machines, from 0."""
    size: int = 1
    """Number of processes over all machines."""
    local_rank: int = 0
    """Number of the process on its machine, from 0."""
    attempt: int = 0
    """How often torchrun has started all processes again."""


ALONE = Place()


def is_launched() -> bool:
    """Return True if torchrun started this process together with others."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def read_place() -> Place:
    """Return the place that torchrun's environment gives this process; `ALONE` without that environment.

    Raises:
        UsageError: a variable is missing or not a whole number.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return ALONE
    if os.environ["WORLD_SIZE"] == "1" and "MASTER_ADDR" not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    missing = [name for name in (*names, "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise UsageError(f"RANK and WORLD_SIZE are set but {missing[0]} is not: start several processes with torchrun")
    values = {name: os.environ[name] for name in names}
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    for name, value in {**values, "TORCHELASTIC_RESTART_COUNT": attempt}.items():
        if not value.isascii() or not value.isdigit():
            raise UsageError(f"{name} must be a whole number, as torchrun sets it, got {value[:40]!r}")
    rank, size, local_rank = (int(values[name]) for name in names[:3])
    if rank >= size:
        raise UsageError(f"RANK must be less than WORLD_SIZE, which is {size}, got {rank}")
    return Place(rank, size, local_rank, int(attempt))


@functools.cache
def connect_store(timeout: timedelta) -> Store:
    """Return this process's connection to torchrun's store; without torchrun, rank 0 serves the store itself."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(iter(rendezvous("env://", timeout=timeout)))[0]
    return store


def has_restarts_left() -> bool:
    """Return True if torchrun starts all processes again should one of them fail."""
    most = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    return most.isdigit() and read_place().attempt < int(most)


def ignore_termination() -> None:
    """Ignore SIGTERM from now on: torchrun sends it as soon as one process has ended, before others print why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
