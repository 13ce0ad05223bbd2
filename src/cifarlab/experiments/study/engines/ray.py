"""Trains a study's runs in a Ray cluster: an existing one, or one on this machine.

No disk is shared. An actor trains in a folder of its own machine, and after every epoch its run folder is fetched into
the study's, checkpoint and all; so a machine that is lost takes an epoch with it, and its run goes on elsewhere from
what was fetched. Each run has one actor at a time, and what an actor says that was given up is not heard.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tarfile
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.experiments.study.jobs import Ended, Job, carry_out
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import is_run

SECONDS_OF_A_LOOK = 20.0  # that an actor waits for news before it answers that there is none
LAST = ("metrics.csv", "checkpoint.pt", "run.json")  # unpacked in this order after all other files
NOT_SENT = ("checkpoint-older.pt", "stop")


class Trainer:
    """An actor: trains jobs one after the other, and can be asked for the run folder as it is."""

    def __init__(self, cpus: float) -> None:
        import torch

        torch.set_num_threads(max(1, int(cpus)))
        self._news = threading.Condition()
        self._packed: tuple[int, bytes] = (0, b"")
        self._job = ""
        self._busy = False
        self._stopping = False
        self._path: Path | None = None

    def train(self, job: dict[str, Any], begun: bytes) -> tuple[dict[str, Any], bytes]:
        """Carries out a job, and gives how it ended and its run folder.

        Args:
            job: a `Job` as a dictionary.
            begun: the run folder as far as it was fetched; empty for a run that begins.
        """
        told = Job(**job)
        folder = Path(tempfile.mkdtemp(prefix="cifarlab-study-"))
        try:
            with self._news:
                self._path, self._busy, self._packed = folder / told.name, True, (0, b"")
                self._job = told.name
            if begun:
                self._path.mkdir()
                unpack(begun, self._path)
            ended = carry_out(told, folder, [self])
            packed = pack(self._path) if is_run(self._path) else b""
        finally:
            with self._news:
                self._busy = False
                self._news.notify_all()
            shutil.rmtree(folder, ignore_errors=True)
        return asdict(ended), packed

    def on_epoch_end(self, run: RunFolder, row: Any) -> None:
        """Keeps the run folder for who asks; its files belong together now, between two epochs."""
        with self._news:
            self._packed = (row.epoch, pack(run.path))
            self._news.notify_all()
        if self._stopping:
            run.ask_to_stop()

    def look(self, job: str, epoch: int) -> tuple[int, bytes]:
        """A job's newest epoch and its run folder, when there is a newer one than this; waits for it a while.

        The job may not have begun here yet: what is there of another is not its.
        """

        def is_news() -> bool:
            return self._job == job and (self._packed[0] > epoch or not self._busy)

        with self._news:
            self._news.wait_for(is_news, SECONDS_OF_A_LOOK)
            return self._packed if self._job == job and self._packed[0] > epoch else (epoch, b"")

    def stop(self) -> None:
        """Has the run save everything and end."""
        self._stopping = True
        if self._path is not None and self._path.is_dir():
            RunFolder(self._path).ask_to_stop()


@dataclass
class _Place:
    """An actor, and what it is doing."""

    actor: Any
    ready: Any
    """The promise that the actor has a machine."""
    job: Job | None = None
    result: Any = None
    """The promise of how the job ends."""
    look: Any = None
    """The promise of the next epoch's run folder."""
    lock: filelock.BaseFileLock | None = None
    """On the run's folder here, so that everybody sees that the run is being trained."""


class Ray:
    """An engine: as many actors as fit in the cluster, or as are wanted."""

    def __init__(self, workers: int | None, *, address: str | None, cpus: float, gpus: float) -> None:
        """Finds the cluster.

        Raises:
            UsageError: Ray is missing, there is no such cluster, or no machine of it is large enough for a run.
        """
        self._ray, self._began_it = _connect(address)
        self._workers, self._cpus, self._gpus = workers, cpus, gpus
        self._places: list[_Place] = []
        self._stopping = False
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 3}
        self._trainer = self._ray.remote(**options)(Trainer)
        if not self._room():
            self.close()
            raise UsageError(f"no machine of the cluster has {cpus:g} cores and {gpus:g} GPUs for a run")

    def _room(self) -> int:
        """How many runs the machines that are there can train at once."""
        room = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                fit = [has.get("CPU", 0) / self._cpus] if self._cpus else []
                fit += [has.get("GPU", 0) / self._gpus] if self._gpus else []
                room += int(min(fit, default=1))
        return room if self._workers is None else min(self._workers, room)

    def free(self) -> bool:
        """Whether a run fits in."""
        return sum(place.job is not None for place in self._places) < self._room()

    def submit(self, job: Job) -> None:
        """Gives a job to an actor without work, or to a new one, with what is there of its run."""
        place = next((place for place in self._places if place.job is None), None)
        if place is None:
            actor = self._trainer.remote(self._cpus)
            place = _Place(actor, actor.__ray_ready__.remote())
            self._places.append(place)
        path = Path(job.folder) / job.name
        begun = pack(path) if is_run(path) else b""
        files.make_folder(path)
        place.lock = filelock.FileLock(path / ".lock", timeout=1)
        with contextlib.suppress(filelock.Timeout):
            place.lock.acquire()
        place.job = job
        place.result = place.actor.train.remote(asdict(job), begun)
        place.look = place.actor.look.remote(job.name, 0)

    def poll(self, seconds: float) -> list[Ended]:
        """Fetches what there is; gives the jobs that have ended."""
        promises = [promise for place in self._places for promise in (place.result, place.look) if promise is not None]
        if not promises:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(promises, num_returns=1, timeout=seconds)
        found = []
        for place in list(self._places):
            if place.result in ready or place.look in ready:
                ended = self._heard(place, place.result in ready)
                found += [ended] if ended else []
        return found + self._without_machine()

    def _without_machine(self) -> list[Ended]:
        """Gives up actors that wait for a machine which is lost, so that what they should do is done elsewhere.

        For some seconds the cluster takes a lost machine for one that is there.
        """
        found = []
        for place in list(self._places):
            if len(self._places) <= self._room():
                break
            if place.job is not None and not self._ray.wait([place.ready], timeout=0)[0]:
                found.append(Ended(place.job.name, "lost", "its machine or its process was lost before it began"))
                self._give_up(place)
        return found

    def _heard(self, place: _Place, is_over: bool) -> Ended | None:
        """Takes what an actor said: that its job has ended, an epoch's folder, or nothing any more."""
        job = place.job
        assert job is not None
        path = Path(job.folder) / job.name
        try:
            if not is_over:
                epoch, packed = self._ray.get(place.look)
                if packed:
                    unpack(packed, path)
                place.look = place.actor.look.remote(job.name, epoch)
                return None
            told, packed = self._ray.get(place.result)
            if packed:
                unpack(packed, path)
            ended = Ended(**told)
        except (self._ray.exceptions.RayError, CifarlabError) as error:
            self._give_up(place)
            if isinstance(error, self._ray.exceptions.RayTaskError):
                return Ended(job.name, "failed", one_line(error.cause))
            if isinstance(error, CifarlabError):  # the disk here is full, or the like
                return Ended(job.name, "failed", one_line(error))
            reason = f"its machine or its process was lost ({type(error).__name__})"
            return Ended(job.name, "interrupted" if self._stopping else "lost", reason)
        self._release(place)
        return ended

    def _release(self, place: _Place) -> None:
        if place.lock is not None:
            place.lock.release()
        place.job = place.result = place.look = place.lock = None

    def _give_up(self, place: _Place) -> None:
        self._release(place)
        self._places.remove(place)
        with contextlib.suppress(Exception):  # it may be dead already
            self._ray.kill(place.actor)

    def stop(self) -> None:
        """Asks every actor to save its run and to end."""
        self._stopping = True
        for place in self._places:
            if place.job is not None:
                place.actor.stop.remote()

    def close(self) -> None:
        """Ends the actors, and the cluster if it was begun here."""
        for place in list(self._places):
            self._give_up(place)
        if self._began_it:
            self._ray.shutdown()


def _connect(address: str | None) -> tuple[Any, bool]:
    """Ray, connected with a cluster: that at the address, one that is there, or a new one on this machine.

    Also says whether the connection was made here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing was asked for
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as later versions of Ray do
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise UsageError(f"--engine ray needs {error.name}: pip install 'cifarlab[cluster]'") from error
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--engine ray: no cluster at {address or 'this machine'}: {one_line(error)}") from error
    return ray, True


def pack(path: Path) -> bytes:
    """A run folder as bytes, without what only its own process needs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for each in sorted(path.rglob("*")):
            name = each.relative_to(path)
            if each.is_file() and not each.name.startswith(".") and name.as_posix() not in NOT_SENT:
                content = each.read_bytes()
                entry = tarfile.TarInfo(name.as_posix())
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def unpack(packed: bytes, path: Path) -> None:
    """Writes a packed run folder, file by file, each whole; what says how far it is comes last.

    Raises:
        CifarlabError: a file cannot be written, or would lie elsewhere.
    """
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        entries = sorted(archive.getmembers(), key=lambda entry: (_rank(entry.name), entry.name))
        for entry in entries:
            name = PurePosixPath(entry.name)
            content = archive.extractfile(entry)
            if content is None or name.is_absolute() or ".." in name.parts:
                raise CifarlabError(f"{entry.name!r} is no file of a run folder")
            files.make_folder((path / name).parent)
            files.write_bytes(path / name, content.read())


def _rank(name: str) -> int:
    return LAST.index(name) + 1 if name in LAST else 0
