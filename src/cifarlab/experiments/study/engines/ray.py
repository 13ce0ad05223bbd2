"""The Ray engine: actors in a cluster, an existing one or one that is started on this machine.

The machines share no disk. An actor trains in a folder of its own machine. After every epoch, the study fetches the run
folder with its checkpoint, so a lost machine costs at most an epoch: its run goes on elsewhere from what was fetched. A
run has one actor at a time; answers of an actor that was given up are ignored.
"""

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
from cifarlab.experiments.study.jobs import Job, JobResult, run_job
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import is_run
from cifarlab.runs.record import EpochRow

SECONDS_BETWEEN_ANSWERS = 20.0  # an actor's longest wait for an epoch's end before it answers that there is none
WRITTEN_LAST = ("metrics.csv", "checkpoint.pt", "run.json")  # in this order, after all other files
NOT_SENT = ("checkpoint-older.pt", "stop")


class TrainingActor:
    """Trains jobs one after the other. While it trains, it can be asked for the run folder as of the last epoch."""

    def __init__(self, cpus: float) -> None:
        import torch

        torch.set_num_threads(max(1, int(cpus)))
        self._changed = threading.Condition()
        self._epoch_and_folder: tuple[int, bytes] = (0, b"")
        self._job_name = ""
        self._busy = False
        self._stopping = False
        self._path: Path | None = None

    def train(self, job_fields: dict[str, Any], packed: bytes) -> tuple[dict[str, Any], bytes]:
        """Train a job to its end, and return its result as a dictionary and its packed run folder.

        Args:
            job_fields: a `Job` as a dictionary.
            packed: the run folder that the study has; empty for a new run.
        """
        job = Job(**job_fields)
        folder = Path(tempfile.mkdtemp(prefix="cifarlab-study-"))
        try:
            with self._changed:
                self._path, self._busy, self._epoch_and_folder = folder / job.name, True, (0, b"")
                self._job_name = job.name
            if packed:
                self._path.mkdir()
                unpack(packed, self._path)
            result = run_job(job, folder, [self])
            packed = pack(self._path) if is_run(self._path) else b""
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
            shutil.rmtree(folder, ignore_errors=True)
        return asdict(result), packed

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Keep the run folder for `newer_epoch`: between two epochs, its files belong together."""
        with self._changed:
            self._epoch_and_folder = (row.epoch, pack(run.path))
            self._changed.notify_all()
        if self._stopping:
            run.ask_to_stop()

    def newer_epoch(self, job_name: str, epoch: int) -> tuple[int, bytes]:
        """Wait for an epoch after this one, and return its number and the packed run folder.

        Args:
            job_name: the job in question. This actor may not have begun it yet.
            epoch: the last epoch that the study has fetched.

        Returns:
            The same epoch and an empty folder if none ended within `SECONDS_BETWEEN_ANSWERS`.
        """

        def is_answer_ready() -> bool:
            return self._job_name == job_name and (self._epoch_and_folder[0] > epoch or not self._busy)

        with self._changed:
            self._changed.wait_for(is_answer_ready, SECONDS_BETWEEN_ANSWERS)
            is_newer = self._job_name == job_name and self._epoch_and_folder[0] > epoch
            return self._epoch_and_folder if is_newer else (epoch, b"")

    def stop(self) -> None:
        """Ask the run to save everything and end."""
        self._stopping = True
        if self._path is not None and self._path.is_dir():
            RunFolder(self._path).ask_to_stop()


@dataclass
class _Slot:
    """An actor and its job. The promises are Ray's object references."""

    actor: Any
    is_placed: Any
    """Promise that is kept when the actor has a machine."""
    job: Job | None = None
    result: Any = None
    """Promise of the job's result."""
    epoch: Any = None
    """Promise of the next epoch's run folder."""
    lock: filelock.BaseFileLock | None = None
    """Lock of the run's folder here, so that other processes see that the run is being trained."""


class RayEngine:
    """The actors that train runs: as many as fit into the cluster, at most `workers`."""

    def __init__(self, workers: int | None, *, address: str | None, cpus: float, gpus: float) -> None:
        """Connect to the cluster.

        Args:
            workers: largest number of actors; None for as many as fit.
            address: address of a cluster; None for a running one, or else a new one on this machine.
            cpus: cores for each run.
            gpus: GPUs for each run.

        Raises:
            UsageError: Ray is missing, there is no such cluster, or none of its machines is large enough for a run.
        """
        self._ray, self._must_shut_down = _connect(address)
        self._workers, self._cpus, self._gpus = workers, cpus, gpus
        self._slots: list[_Slot] = []
        self._stopping = False
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 3}
        self._actor_class = self._ray.remote(**options)(TrainingActor)
        if not self._capacity():
            self.close()
            raise UsageError(
                f"no machine of the cluster has the {cpus:g} cores and {gpus:g} GPUs of a run. Lower --cpus or --gpus."
            )

    def _capacity(self) -> int:
        """Return the number of runs that the cluster's machines can train at once."""
        capacity = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                fitting = [resources.get("CPU", 0) / self._cpus] if self._cpus else []
                fitting += [resources.get("GPU", 0) / self._gpus] if self._gpus else []
                capacity += int(min(fitting, default=1))
        return capacity if self._workers is None else min(self._workers, capacity)

    def has_room(self) -> bool:
        """Return True if one more job can begin now."""
        return sum(slot.job is not None for slot in self._slots) < self._capacity()

    def submit(self, job: Job) -> None:
        """Send a job and its run folder, if there is one, to an actor without a job or to a new actor."""
        slot = next((slot for slot in self._slots if slot.job is None), None)
        if slot is None:
            actor = self._actor_class.remote(self._cpus)
            slot = _Slot(actor, actor.__ray_ready__.remote())
            self._slots.append(slot)
        path = Path(job.folder) / job.name
        packed = pack(path) if is_run(path) else b""
        files.make_folder(path)
        slot.lock = filelock.FileLock(path / ".lock", timeout=1)
        with contextlib.suppress(filelock.Timeout):
            slot.lock.acquire()
        slot.job = job
        slot.result = slot.actor.train.remote(asdict(job), packed)
        slot.epoch = slot.actor.newer_epoch.remote(job.name, 0)

    def poll(self, seconds: float) -> list[JobResult]:
        """Fetch epochs that ended, and return the results of jobs that ended. Wait up to `seconds` for the first."""
        promises = [promise for slot in self._slots for promise in (slot.result, slot.epoch) if promise is not None]
        if not promises:
            time.sleep(seconds)
            return []
        kept, _ = self._ray.wait(promises, num_returns=1, timeout=seconds)
        results = []
        for slot in list(self._slots):
            if slot.result in kept or slot.epoch in kept:
                result = self._fetch(slot, slot.result in kept)
                results += [result] if result else []
        return results + self._give_up_unplaced()

    def _give_up_unplaced(self) -> list[JobResult]:
        """Give up actors that still wait for a machine which is lost, so that their jobs go elsewhere.

        For some seconds, the cluster reports a lost machine as alive.
        """
        results = []
        for slot in list(self._slots):
            if len(self._slots) <= self._capacity():
                break
            if slot.job is not None and not self._ray.wait([slot.is_placed], timeout=0)[0]:
                reason = "its machine or its process was lost before it began"
                results.append(JobResult(slot.job.name, "worker lost", reason))
                self._give_up(slot)
        return results

    def _fetch(self, slot: _Slot, has_ended: bool) -> JobResult | None:
        """Fetch an actor's answer: the result of its job, or else an epoch's run folder, for which None is returned."""
        job = slot.job
        assert job is not None
        path = Path(job.folder) / job.name
        try:
            if not has_ended:
                epoch, packed = self._ray.get(slot.epoch)
                if packed:
                    unpack(packed, path)
                slot.epoch = slot.actor.newer_epoch.remote(job.name, epoch)
                return None
            fields, packed = self._ray.get(slot.result)
            if packed:
                unpack(packed, path)
            result = JobResult(**fields)
        except (self._ray.exceptions.RayError, CifarlabError) as error:
            self._give_up(slot)
            if isinstance(error, self._ray.exceptions.RayTaskError):
                return JobResult(job.name, "failed", one_line(error.cause))
            if isinstance(error, CifarlabError):  # for example, the disk here is full
                return JobResult(job.name, "failed", one_line(error))
            reason = f"its machine or its process was lost ({type(error).__name__})"
            return JobResult(job.name, "interrupted" if self._stopping else "worker lost", reason)
        self._release(slot)
        return result

    def _release(self, slot: _Slot) -> None:
        if slot.lock is not None:
            slot.lock.release()
        slot.job = slot.result = slot.epoch = slot.lock = None

    def _give_up(self, slot: _Slot) -> None:
        self._release(slot)
        self._slots.remove(slot)
        with contextlib.suppress(Exception):  # the actor may be dead
            self._ray.kill(slot.actor)

    def stop(self) -> None:
        """Ask every actor to save its run and to end."""
        self._stopping = True
        for slot in self._slots:
            if slot.job is not None:
                slot.actor.stop.remote()

    def close(self) -> None:
        """End the actors, and the cluster if this engine started it."""
        for slot in list(self._slots):
            self._give_up(slot)
        if self._must_shut_down:
            self._ray.shutdown()


def _connect(address: str | None) -> tuple[Any, bool]:
    """Connect to the cluster at an address, to a running one, or to a new one on this machine.

    Returns:
        The module `ray`, and True if the connection was made here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the user has not agreed to send statistics
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as later versions of Ray do
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise UsageError(f"--engine ray needs {error.name}. Install it: pip install 'cifarlab[cluster]'.") from error
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        place = address or "this machine"
        raise UsageError(f"--engine ray finds no cluster at {place}: {one_line(error)}") from error
    return ray, True


def pack(path: Path) -> bytes:
    """Return a run folder as the bytes of a tar archive, without the files that only its own process needs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and not file.name.startswith(".") and name not in NOT_SENT:
                content = file.read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def unpack(packed: bytes, path: Path) -> None:
    """Write a packed run folder. Each file appears whole, and the files that say how far the run is come last.

    Raises:
        CifarlabError: a file cannot be written, or its path leads out of the folder.
    """
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for entry in sorted(archive.getmembers(), key=lambda entry: (_rank(entry.name), entry.name)):
            name = PurePosixPath(entry.name)
            content = archive.extractfile(entry)
            if content is None or name.is_absolute() or ".." in name.parts:
                raise CifarlabError(f"{entry.name!r} is not a file of a run folder")
            files.make_folder((path / name).parent)
            files.write_bytes(path / name, content.read())


def _rank(name: str) -> int:
    return WRITTEN_LAST.index(name) + 1 if name in WRITTEN_LAST else 0
