"""The local engine: worker processes of this machine, which live as long as the study, so that each starts once.

The workers share this machine's cores and GPUs. If a worker dies, only its current run is lost. The study tries that
run again in a new worker.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO

from cifarlab.errors import UsageError, one_line
from cifarlab.experiments.study.jobs import Job, JobResult

SECONDS_TO_END = 10.0  # for a worker without a job
THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"


class LocalEngine:
    """Up to `workers` processes. The first one starts at once, so that it is ready when the first job comes."""

    def __init__(self, workers: int = 1, device: str = "auto") -> None:
        """Start the first worker.

        Raises:
            UsageError: there are fewer cores than workers.
        """
        cores = check_workers(workers)
        gpus = [] if device == "cpu" else usable_gpus(os.environ)
        self._environments = worker_environments(workers, cores, gpus, os.environ)
        self._workers: dict[int, _Worker] = {}
        """Workers by index into `_environments`."""
        self._messages: queue.Queue[tuple[_Worker, str]] = queue.Queue()
        """Lines from the workers' standard output; an empty line means that a worker has ended."""
        self._stopping = False
        if self._environments:
            self._start()

    def _start(self) -> "_Worker":
        index = next(index for index in range(len(self._environments)) if index not in self._workers)
        self._workers[index] = _Worker(index, self._environments[index], self._messages)
        return self._workers[index]

    def has_room(self) -> bool:
        """Return True if a worker has no job, or one more may be started."""
        return sum(worker.job is not None for worker in self._workers.values()) < len(self._environments)

    def submit(self, job: Job) -> None:
        """Send a job to a worker without one, or to a new worker."""
        idle = (worker for worker in self._workers.values() if worker.job is None)
        (next(idle, None) or self._start()).send(job)

    def poll(self, seconds: float) -> list[JobResult]:
        """Return the results of jobs that ended since the last call. Wait up to `seconds` for the first."""
        results, wait = list[JobResult](), seconds
        while True:
            try:
                worker, line = self._messages.get(timeout=wait) if wait else self._messages.get_nowait()
            except queue.Empty:
                return results
            wait = 0.0
            if result := self._handle(worker, line):
                results.append(result)

    def _handle(self, worker: "_Worker", line: str) -> JobResult | None:
        """Return the result that a worker's line means; None if a worker without a job ended."""
        job, worker.job = worker.job, None
        if line:
            return JobResult(**json.loads(line))
        if self._workers.get(worker.index) is worker:
            del self._workers[worker.index]
        reason = worker.wait()
        if job is None:
            return None
        return JobResult(job.name, "interrupted" if self._stopping else "failed", reason)

    def stop(self) -> None:
        """Ask every worker to save its run and to end."""
        self._stopping = True
        for worker in self._workers.values():
            worker.process.terminate()

    def close(self) -> None:
        """End the workers. A run in training is saved if that takes at most `SECONDS_TO_END`."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.wait()
        self._workers.clear()


class _Worker:
    """A worker process, and the thread that reads its output."""

    def __init__(
        self, index: int, environment: Mapping[str, str], messages: "queue.Queue[tuple[_Worker, str]]"
    ) -> None:
        self.index = index
        self.job: Job | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `wait`
        self.process = subprocess.Popen(
            # With -P, a file random.py in the current folder does not replace the standard library's.
            [sys.executable, "-P", "-m", "cifarlab.experiments.study.engines.local_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,  # so that Ctrl-C reaches the study alone
        )
        self._thread = threading.Thread(target=self._read, args=(messages,), daemon=True)
        self._thread.start()

    def send(self, job: Job) -> None:
        """Send a job to the process. If the process is dead, the reading thread reports that."""
        self.job = job
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(asdict(job)) + "\n")
            self.process.stdin.flush()

    def _read(self, messages: "queue.Queue[tuple[_Worker, str]]") -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            messages.put((self, line))
        messages.put((self, ""))

    def wait(self) -> str:
        """Wait until the process has ended, and return why it did. Kill it after `SECONDS_TO_END`."""
        try:
            status = self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        last_line = ""
        if not self._errors.closed:
            self._errors.seek(0)
            last_line = ["", *self._errors.read().decode(errors="replace").strip().splitlines()][-1]
            self._errors.close()
        return describe_exit(status, last_line)


def check_workers(workers: int) -> int:
    """Return the number of usable cores.

    Raises:
        UsageError: there are fewer cores than workers.
    """
    cores = usable_cores()
    if workers > cores:
        raise UsageError(f"--workers must be at most {cores}, the number of cores here, got {workers}")
    return cores


def describe_exit(status: int, last_line: str) -> str:
    """Return in words why a process ended.

    Args:
        status: exit status as `subprocess` gives it; negative for a signal.
        last_line: last line of the process's standard error.
    """
    if status == -signal.SIGKILL:
        return "its process was killed by SIGKILL, which often means that memory ran out"
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process ended with exit status {status}" + (f": {one_line(last_line)}" if last_line else "")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the CUDA devices that this process may use, named as `CUDA_VISIBLE_DEVICES` names them."""
    if GPUS in environment:
        return [name for name in environment[GPUS].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def worker_environments(
    workers: int, cores: int, gpus: list[str], environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the environment variables of each worker: its number of threads, and its GPU.

    Args:
        workers: number of workers. A single worker gets no number of threads, and so uses all cores.
        cores: number of cores to share.
        gpus: devices to share, from `usable_gpus`. If there are too few, several workers use the same one.
        environment: variables of this process. A smaller number of threads there is kept.
    """
    environments = []
    for index in range(workers):
        variables = {}
        if workers > 1:
            limit = environment.get(THREADS, "")
            threads = max(1, cores // workers)
            variables[THREADS] = str(min(threads, int(limit)) if limit.isdecimal() and int(limit) else threads)
        if gpus:
            variables[GPUS] = gpus[index % len(gpus)]
        environments.append(variables)
    return environments
