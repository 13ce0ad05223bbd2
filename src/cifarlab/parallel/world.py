"""One training by several processes, as `torchrun` starts them: what they tell each other.

Every process holds the whole network and trains on its share of each batch. What stands here and in `batchnorm` makes
them one: the sum of their gradients, one clock, one word on signals, and one process, the first, that writes. Without
torchrun's environment there is one process, and each function gives back what it got. What is said here is said by all
processes in the same order, or all would wait for the one that said nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cifarlab import files
from cifarlab.device import environment as machine
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.parallel import torchrun
from cifarlab.parallel.torchrun import Place
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

SECONDS_TO_WAIT = 600.0  # for the slowest process, which may be drawing figures or reading a data set

Made = TypeVar("Made")
Folder = TypeVar("Folder", bound=RunFolder)


class Lost(CifarlabError):
    """Another process has gone, and the training cannot go on without it."""

    everywhere = True


@dataclass(frozen=True)
class _Team:
    place: Place
    store: Store
    number: int


_team: _Team | None = None
_teams = 0  # that this process has been in so far
_training: RunFolder | None = None


def many() -> bool:
    """Whether several processes train together now."""
    return _team is not None and _team.place.processes > 1


def share() -> tuple[int, int]:
    """This process's number among those that train together now, and how many these are."""
    return (0, 1) if _team is None else (_team.place.rank, _team.place.processes)


def is_first() -> bool:
    """Whether this is the process that writes, prints and decides; it is where there is only one."""
    return share()[0] == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Has the processes that torchrun started train together in the `with` block.

    Raises:
        UsageError: torchrun's environment is not whole.
        CifarlabError: the others were not found.
    """
    global _team, _teams, _training
    here = torchrun.place()
    if here is None or _team is not None:
        yield
        return
    if dist.is_initialized():
        raise UsageError("torch.distributed is in use already: end its process group before a training")
    _team, _teams = _join(here), _teams + 1
    try:
        yield
    finally:
        _team = _training = None
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _join(here: Place) -> _Team:
    # This module keeps the process group it finds when it is imported, as PyTorch's compiler does: the group's threads
    # would then outlive it, and abort a process that ends while one of them still frees a tensor.
    import torch.distributed.nn.functional
    from torch.distributed.distributed_c10d import PrefixStore

    # Small things go through gloo on a GPU too, which then need not wait for it.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    waiting = timedelta(seconds=SECONDS_TO_WAIT)
    try:
        store = torchrun.meeting_place(waiting)
        # torchrun starts dead processes again on the store where the addresses of the dead still are.
        prefix = f"cifarlab/{here.attempt}/{here.processes}/{_teams}"
        dist.init_process_group(
            backend,
            store=PrefixStore(prefix, store),
            rank=here.rank,
            world_size=here.processes,
            timeout=waiting,
        )
    except (RuntimeError, ValueError) as error:
        at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise CifarlabError(f"the processes did not find each other at {at}: {one_line(error)[:200]}") from error
    return _Team(here, store, _teams)


def check(recipe: Recipe, device: torch.device) -> None:
    """Chooses this process's GPU, and refuses what several processes cannot do.

    Raises:
        UsageError: there are more processes than GPUs or images in a batch, or the network should be compiled.
    """
    if _team is None or not many():
        return
    if recipe.compile:
        raise UsageError("compile = true is for one process: without it several train together")
    if recipe.batch_size < _team.place.processes:
        raise UsageError(f"batch_size = {recipe.batch_size} is too small for {_team.place.processes} processes")
    if device.type == "cuda":
        if _team.place.local_rank >= (found := torch.cuda.device_count()):
            raise UsageError(f"device 'cuda': more processes on this machine than GPUs, which are {found}")
        torch.cuda.set_device(_team.place.local_rank)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, and how many processes train together if several do."""
    return machine(device) | ({"processes": share()[1]} if many() else {})


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        torchrun.hold_out()
        if _training is None:
            raise Lost("another process has gone before the training began") from error
        told = f"another process of {_training.name} has gone, and its last checkpoint is kept"
        if torchrun.starts_again():
            raise Lost(f"{told}: torchrun starts all processes again") from error
        raise Lost(f"{told}: go on with: cifarlab resume {shlex.quote(str(_training.path))}") from error


def from_first(make: Callable[[], Made]) -> Made:
    """What `make` gives the first process, which alone calls it; a CifarlabError of it is raised by all."""
    if not many():
        return make()
    box: list[Any] = [None]
    if is_first():
        try:
            box = [(make(), None)]
        except CifarlabError as error:
            box = [(None, (type(error), str(error)))]
    with _talking():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    made: Made
    made, wrong = box[0]
    if wrong is not None:
        raise _of_all(*wrong)
    return made


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Checks that every process makes for itself: what one of them finds wrong is raised by all."""
    if not many():
        yield
        return
    wrong: tuple[type[CifarlabError], str] | None = None
    try:
        yield
    except CifarlabError as error:
        wrong = type(error), str(error)
    found = _gathered(wrong)
    for rank, each in enumerate(found):
        if each is not None:
            alone = f"process {rank}: " if found[0] is None else ""
            raise _of_all(each[0], alone + each[1])


def _of_all(kind: type[CifarlabError], text: str) -> CifarlabError:
    error = kind(text)
    error.everywhere = True
    return error


def _gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * share()[1]
    with _talking():
        dist.all_gather_object(found, value)
    return found


def total(values: Tensor) -> Tensor:
    """The sum of every process's tensor."""
    if not many():
        return values
    summed = values.clone()
    with _talking():
        dist.all_reduce(summed)
    return summed


def own_part(values: Tensor) -> Tensor:
    """What this process keeps of a tensor, so that `total` gives it again: all of it or nothing."""
    return values if is_first() else torch.zeros_like(values)


def clock() -> float:
    """Seconds of a clock that is the same for all, the first process's."""
    now = time.monotonic()
    if not many():
        return now
    said = torch.tensor(now, dtype=torch.float64)
    with _talking():
        dist.broadcast(said, src=0)
    return float(said)


def share_signals(received: list[int]) -> None:
    """Lets every process receive the signal that any of them did."""
    if not many():
        return
    number = torch.tensor(received[0] if received else 0)
    with _talking():
        dist.all_reduce(number, dist.ReduceOp.MAX)
    if int(number) and not received:
        received.append(int(number))


def align(networks: Iterable[nn.Module | None]) -> None:
    """Gives every process the first one's weights and statistics, which other processors may round differently."""
    if not many():
        return
    with torch.no_grad(), _talking():
        for network in networks:
            for tensor in [] if network is None else [*network.parameters(), *network.buffers()]:
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)


def sum_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Adds up the gradients of all processes, in one piece and always in the same order."""
    if not many():
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    if not weights:
        return
    flat = total(torch.cat([weight.grad.flatten() for weight in weights]))
    for weight, piece in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
        weight.grad.copy_(piece.view_as(weight.grad))


def in_order(pieces: Sequence[Made]) -> list[Made]:
    """The pieces of all processes, where each has made every so manieth, beginning with its own number."""
    if not many():
        return list(pieces)
    shares = _gathered(list(pieces))
    return [shares[number % len(shares)][number // len(shares)] for number in range(sum(map(len, shares)))]


@contextlib.contextmanager
def own_folder(run: Folder) -> Iterator[Folder]:
    """The run's folder for the first process; for others one that nobody sees, with the same run.json."""
    global _training
    _training = run
    if is_first():
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="cifarlab-") as parent:
        own = type(run)(Path(parent) / run.name)
        files.make_folder(own.path)
        files.write_text(own.path / "run.json", json.dumps(dict(run.record)))
        yield own


def note_run(path: Path) -> None:
    """Has the processes find this run again when torchrun starts them anew."""
    if _team is not None:
        with _talking():
            _team.store.set(_key_of_run(_team), str(path.absolute()))


def noted_run() -> Path | None:
    """The run that these processes had begun before torchrun started them anew."""
    team = _team
    if team is None or not team.place.attempt:
        return None

    def look() -> str:
        key = _key_of_run(team)
        return team.store.get(key).decode() if team.store.check([key]) else ""

    found = from_first(look)
    return Path(found) if found else None


def _key_of_run(team: _Team) -> str:
    return f"cifarlab/run/{team.number}"
