"""The processes that train one network together, as a value that is passed to everything that needs it.

Every process holds the whole network and trains on its part of each batch. A `World` makes them one training: it sums
gradients, shares one clock and one answer to signals, and lets rank 0 alone write and print. With one process every
method returns what it got. All processes must call the methods of a world in the same order, or those that called would
wait for the others.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.parallel import torchrun
from cifarlab.parallel.torchrun import Place

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

TIMEOUT = timedelta(minutes=10)  # for the slowest process, which may be drawing figures or reading a data set

Value = TypeVar("Value")


class ProcessLost(CifarlabError):
    """Another process has ended, and the training cannot go on without it."""


@contextlib.contextmanager
def _lost_processes() -> Iterator[None]:
    """Raise ProcessLost where PyTorch reports that another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        torchrun.ignore_termination()
        raise ProcessLost("another process has ended") from error


@dataclass(frozen=True)
class World:
    """The processes that train one network together, and this process's place among them."""

    place: Place = field(default_factory=Place)
    store: Store | None = None  # key-value store that outlives a restart by torchrun; None with one process

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def size(self) -> int:
        return self.place.size

    @property
    def is_first(self) -> bool:
        """True for rank 0, which alone writes, prints and decides."""
        return self.rank == 0

    def check(self, *, batch_size: int, compiled: bool, device: torch.device) -> None:
        """Choose this process's GPU, and refuse what several processes cannot do together."""
        if self.size == 1:
            return
        if compiled:
            raise UsageError("compile = true works with one process only: set compile = false to train with several")
        if batch_size < self.size:
            raise UsageError(f"batch_size must be at least {self.size}, the number of processes, got {batch_size}")
        if device.type == "cuda":
            if self.place.local_rank >= (count := torch.cuda.device_count()):
                raise UsageError(f"device 'cuda': this machine has more processes than GPUs ({count})")
            torch.cuda.set_device(self.place.local_rank)

    def call_first(self, function: Callable[[], Value]) -> Value:
        """Call a function on rank 0 alone; return its value, or raise its CifarlabError, on all ranks."""
        values: list[Any] = [None]
        with self.raise_together():
            if self.is_first:
                values = [function()]
        if self.size > 1:
            with _lost_processes():
                dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        value: Value = values[0]
        return value

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """If ranks raise a CifarlabError inside the `with` block, raise that of the lowest of them on all ranks."""
        failure: tuple[type[CifarlabError], str] | None = None
        try:
            yield
        except CifarlabError as error:
            if self.size == 1:
                raise
            failure = type(error), str(error)
        failures = self.gather(failure)
        for rank, each in enumerate(failures):
            if each is not None:
                kind, text = each
                shared = kind(text if rank == 0 else f"process {rank}: {text}")
                shared.on_all_ranks = True
                raise shared

    @_lost_processes()
    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def interleave(self, pieces: Sequence[Value]) -> list[Value]:
        """Put the pieces of all ranks into their original order: rank r computed the pieces r, r + size, r + 2 size…"""
        ranks = self.gather(list(pieces))
        return [ranks[number % self.size][number // self.size] for number in range(sum(map(len, ranks)))]

    @_lost_processes()
    def total(self, values: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def own_part(self, total: Tensor) -> Tensor:
        """Return this rank's summand of a total: all of it on rank 0, zeros elsewhere."""
        return total if self.is_first else torch.zeros_like(total)

    @_lost_processes()
    def clock(self) -> float:
        """Return rank 0's monotonic clock, in seconds."""
        if self.size == 1:
            return time.monotonic()
        now = torch.tensor(time.monotonic(), dtype=torch.float64)
        dist.broadcast(now, src=0)
        return float(now)

    @_lost_processes()
    def share_signals(self, received: list[int]) -> None:
        """Append to `received`, on every rank, the signal number that any rank has received."""
        if self.size > 1:
            number = torch.tensor(received[0] if received else 0)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            if int(number) and not received:
                received.append(int(number))

    @_lost_processes()
    def copy_from_first(self, modules: Iterable[nn.Module | None]) -> None:
        """Copy rank 0's parameters and buffers to all ranks, since different processors may round differently."""
        if self.size == 1:
            return
        with torch.no_grad():
            for module in modules:
                for tensor in [] if module is None else [*module.parameters(), *module.buffers()]:
                    sent = tensor.detach().contiguous()
                    dist.broadcast(sent, src=0)
                    tensor.copy_(sent)

    def sum_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace all gradients by their sums over the ranks, added in one piece and always in the same order."""
        if self.size == 1:
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        flat = self.total(torch.cat([weight.grad.flatten() for weight in weights]))
        for weight, piece in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
            weight.grad.copy_(piece.view_as(weight.grad))

    @_lost_processes()
    def remember(self, key: str, value: str) -> None:
        """Keep a text for the processes that torchrun starts again after this one."""
        if self.store is not None:
            self.store.set(f"cifarlab/{key}", value)

    def recall(self, key: str) -> str:
        """Return what `remember` kept before torchrun started the processes again; empty if there is nothing."""
        store, name = self.store, f"cifarlab/{key}"
        if store is None or not self.place.attempt:
            return ""
        return self.call_first(lambda: store.get(name).decode() if store.check([name]) else "")


SINGLE = World()  # one process


@contextlib.contextmanager
def open_world() -> Iterator[World]:
    """Connect the processes that torchrun started for the `with` block; give `SINGLE` where this process is alone."""
    place = torchrun.read_place()
    if place == Place():
        yield SINGLE
        return
    if dist.is_initialized():
        raise UsageError("torch.distributed is in use already: destroy its process group before a training")
    store = _join(place)
    try:
        yield World(place, store)
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _join(place: Place) -> Store:
    """Start the process group; return a store whose keys are this training's own."""
    # Importing this module keeps the process group that exists at that moment, as PyTorch's compiler does. The group's
    # threads would then outlive it, and abort a process that ends while one of them still frees a tensor.
    import torch.distributed.nn.functional
    from torch.distributed.distributed_c10d import PrefixStore

    # Small values go through gloo on a GPU too, so that they need not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store = torchrun.connect_store(TIMEOUT)
        # A script may train several times, and a restart finds the addresses of ended processes in the store.
        number = store.add(f"cifarlab/joined/{place.attempt}/{place.rank}", 1)
        own_store = PrefixStore(f"cifarlab/{place.attempt}/{place.size}/{number}", store)
        dist.init_process_group(backend, store=own_store, rank=place.rank, world_size=place.size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise CifarlabError(f"the processes did not find each other at {address}: {one_line(error)[:200]}") from error
    return PrefixStore(f"cifarlab/training/{number}", store)
