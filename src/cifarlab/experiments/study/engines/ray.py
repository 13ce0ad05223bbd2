"""The Ray engine: actors in a cluster, an existing one or one that is started on this machine.

The machines share no disk. An actor trains in a folder of its own machine. After every epoch, the study fetches the run
folder with its checkpoint, so a lost machine costs at most an epoch: its run goes on elsewhere from what was fetched. A
run has one actor at a time; answers of an actor that was given up are ignored.
"""

import contextlib
import io
import logging
import os
import tempfile
import threading
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.experiments.study.jobs import Job, JobResult, run_job
from cifarlab.models import own_networks
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
        self._path: Path | None = None  # of the run's folder
        self._busy = self._stopping = False

    def train(self, job_fields: dict[str, Any], packed: bytes) -> tuple[dict[str, Any], bytes]:
        """Train a job from its packed run folder, if the study has one. Return its result and the packed run folder."""
        job = Job(**job_fields)
        with tempfile.TemporaryDirectory(prefix="cifarlab-study-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / job.name
            with self._changed:
                self._path, self._busy, self._epoch_and_folder, self._job_name = path, True, (0, b""), job.name
            try:
                if packed:
                    unpack(packed, path)
                    for source in (path / "network").glob("*.py"):  # the study has compared it with its own
                        own_networks.trust(source)
                result = run_job(job, Path(folder), [self])
                return asdict(result), pack(path)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Keep the run folder for `newer_epoch`: between two epochs, its files belong together."""
        with self._changed:
            self._epoch_and_folder = (row.epoch, pack(run.path))
            self._changed.notify_all()
        if self._stopping:
            run.ask_to_stop()

    def newer_epoch(self, job_name: str, epoch: int) -> tuple[int, bytes]:
        """Wait for an epoch of the job after `epoch`, and return its number and the packed run folder.

        If no epoch ends within `SECONDS_BETWEEN_ANSWERS`, return the same epoch and an empty folder.
        """

        def is_newer() -> bool:
            return self._job_name == job_name and self._epoch_and_folder[0] > epoch

        with self._changed:
            self._changed.wait_for(
                lambda: is_newer() or (self._job_name == job_name and not self._busy), SECONDS_BETWEEN_ANSWERS
            )
            return self._epoch_and_folder if is_newer() else (epoch, b"")

    def stop(self) -> None:
        """Ask the run to save everything and end."""
        self._stopping = True
        if self._path is not None and self._path.is_dir():
            RunFolder(self._path).ask_to_stop()


@dataclass
class _Slot:
    """An actor and its job. The promises are Ray's object references."""

    actor: Any
    is_placed: Any  # promise that is kept when the actor has a machine
    job: Job | None = None
    result: Any = None  # promise of the job's result
    epoch: Any = None  # promise of the next epoch's run folder
    lock: filelock.BaseFileLock | None = None  # of the run's folder here: other processes see that it is trained


class RayEngine:
    """The actors that train runs: as many as fit into the cluster, at most `workers`."""

    def __init__(self, workers: int | None, address: str | None, cpus: float, gpus: float) -> None:
        """Connect to the cluster at an address; without one, to a running cluster or to a new one on this machine."""
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
        needed = {"CPU": self._cpus, "GPU": self._gpus}
        capacity = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                fitting = (node["Resources"].get(kind, 0) / amount for kind, amount in needed.items() if amount)
                capacity += int(min(fitting, default=1))
        return capacity if self._workers is None else min(self._workers, capacity)

    def has_room(self) -> bool:
        return sum(slot.job is not None for slot in self._slots) < self._capacity()

    def submit(self, job: Job) -> None:
        """Send a job and its run folder, if there is one, to an actor without a job or to a new actor."""
        slot = next((slot for slot in self._slots if slot.job is None), None)
        if slot is None:
            actor = self._actor_class.remote(self._cpus)
            slot = _Slot(actor, actor.__ray_ready__.remote())
            self._slots.append(slot)
        path = Path(job.folder) / job.name
        packed = pack(path)
        files.make_folder(path)
        slot.lock = filelock.FileLock(path / ".lock", timeout=1)
        with contextlib.suppress(filelock.Timeout):
            slot.lock.acquire()
        slot.job = job
        slot.result = slot.actor.train.remote(asdict(job), packed)
        slot.epoch = slot.actor.newer_epoch.remote(job.name, 0)

    def poll(self, seconds: float) -> list[JobResult]:
        """Fetch epochs that ended, and return the results of jobs that ended. Wait up to `seconds` for the first."""
        busy = [slot for slot in self._slots if slot.job is not None]
        if not busy:
            time.sleep(seconds)
            return []
        promises = [promise for slot in busy for promise in (slot.result, slot.epoch)]
        kept, _ = self._ray.wait(promises, num_returns=1, timeout=seconds)
        answered = [slot for slot in busy if slot.result in kept or slot.epoch in kept]
        results = [self._fetch(slot, slot.result in kept) for slot in answered]
        return [result for result in results if result is not None] + self._give_up_unplaced()

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
        try:
            answer, packed = self._ray.get(slot.result if has_ended else slot.epoch)
            if packed:
                unpack(packed, Path(job.folder) / job.name)
            if not has_ended:
                slot.epoch = slot.actor.newer_epoch.remote(job.name, answer)
                return None
        except (self._ray.exceptions.RayError, CifarlabError) as error:
            self._give_up(slot)
            if isinstance(error, self._ray.exceptions.RayTaskError):
                return JobResult(job.name, "failed", one_line(error.cause))
            if isinstance(error, CifarlabError):  # for example, the disk here is full
                return JobResult(job.name, "failed", one_line(error))
            reason = f"its machine or its process was lost ({type(error).__name__})"
            return JobResult(job.name, "interrupted" if self._stopping else "worker lost", reason)
        self._release(slot)
        return JobResult(**answer)

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
    """Return the module `ray`, connected to a cluster, and True if the connection was made here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the user has not agreed to send statistics
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as later versions of Ray do
    import ray
    import ray.exceptions

    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        place = address or "this machine"
        raise UsageError(f"--engine ray finds no cluster at {place}: {one_line(error)}") from error
    return ray, True


def pack(path: Path) -> bytes:
    """Return a run folder as the bytes of a ZIP file, without the files that only its own process needs.

    The files that say how far the run is come last. The bytes are empty if the folder does not hold a run.
    """
    if not is_run(path):
        return b""
    paths = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    names = [file.relative_to(path).as_posix() for file in paths]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(names, key=lambda name: WRITTEN_LAST.index(name) if name in WRITTEN_LAST else -1):
            if name not in NOT_SENT:
                archive.writestr(name, (path / name).read_bytes())
    return buffer.getvalue()


def unpack(packed: bytes, path: Path) -> None:
    """Write a packed run folder, each file whole. Raise CifarlabError if a file's path leads out of the folder."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for name in archive.namelist():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise CifarlabError(f"{name!r} is not a file of a run folder")
            files.make_folder((path / name).parent)
            files.write_bytes(path / name, archive.read(name))
