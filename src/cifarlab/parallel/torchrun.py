"""Read torchrun's environment and connect to its store.

torchrun sets environment variables, keeps a key-value store for its processes, ends all of them when one dies, and
starts all again up to `--max-restarts` times.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from cifarlab.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store


class Place(NamedTuple):
    """The place of this process among those that train together."""

    rank: int = 0  # number of the process over all machines, from 0
    size: int = 1  # number of processes over all machines
    local_rank: int = 0  # number of the process on its machine, from 0
    attempt: int = 0  # how often torchrun has started all processes again


def is_launched() -> bool:
    """Return True if torchrun started this process together with others."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def read_place() -> Place:
    """Return the place that torchrun's environment gives this process; `Place()` if there is no other process."""
    variables = {"TORCHELASTIC_RESTART_COUNT": "0", **os.environ}
    is_alone = not {"RANK", "WORLD_SIZE"} <= variables.keys()
    if is_alone or (variables["WORLD_SIZE"] == "1" and "MASTER_ADDR" not in variables):
        return Place()
    numbers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    for name in (*numbers, "MASTER_ADDR"):
        value = variables.get(name)
        if value is None:
            raise UsageError(f"RANK and WORLD_SIZE are set but {name} is not: start several processes with torchrun")
        if name in numbers and not (value.isascii() and value.isdigit()):
            raise UsageError(f"{name} must be a whole number, as torchrun sets it, got {value[:40]!r}")
    place = Place(*(int(variables[name]) for name in numbers[:4]))
    if place.rank >= place.size:
        raise UsageError(f"RANK must be less than WORLD_SIZE, which is {place.size}, got {place.rank}")
    return place


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
