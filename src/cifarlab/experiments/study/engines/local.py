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

from cifarlab.errors import one_line
from cifarlab.experiments.study.jobs import Job, JobResult

SECONDS_TO_END = 10.0  # for a worker without a job
THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"


class LocalEngine:
    """Up to `workers` processes. The first one starts at once, so that it is ready when the first job comes."""

    def __init__(self, workers: int, device: str) -> None:
        gpus = [] if device == "cpu" else usable_gpus(os.environ)
        self._free = worker_environments(workers, usable_cores(), gpus, os.environ)  # of workers that may still start
        self._workers: list[_Worker] = []
        self._messages: queue.Queue[tuple[_Worker, str]] = queue.Queue()  # lines of workers; empty if a worker ended
        self._stopping = False
        if self._free:
            self._start()

    def _start(self) -> "_Worker":
        self._workers.append(_Worker(self._free.pop(0), self._messages))
        return self._workers[-1]

    def has_room(self) -> bool:
        return bool(self._free) or any(worker.job is None for worker in self._workers)

    def submit(self, job: Job) -> None:
        idle = (worker for worker in self._workers if worker.job is None)
        (next(idle, None) or self._start()).send(job)

    def poll(self, seconds: float) -> list[JobResult]:
        """Return the results of jobs that ended since the last call. Wait up to `seconds` for the first."""
        results: list[JobResult | None] = []
        with contextlib.suppress(queue.Empty):
            results.append(self._handle(*self._messages.get(timeout=seconds)))
            while True:
                results.append(self._handle(*self._messages.get_nowait()))
        return [result for result in results if result is not None]

    def _handle(self, worker: "_Worker", line: str) -> JobResult | None:
        """Return the result that a worker's line means; None if a worker without a job ended."""
        job, worker.job = worker.job, None
        if line:
            return JobResult(**json.loads(line))
        self._workers.remove(worker)
        self._free.append(worker.environment)
        reason = worker.wait()
        return JobResult(job.name, "interrupted" if self._stopping else "failed", reason) if job else None

    def stop(self) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.process.terminate()
            if hasattr(signal, "SIGCONT"):  # a process that was stopped takes no other signal but SIGKILL
                worker.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the workers. A run in training is saved if that takes at most `SECONDS_TO_END`."""
        self.stop()
        for worker in self._workers:
            worker.wait()


class _Worker:
    """A worker process, and the thread that reads its output."""

    def __init__(self, environment: dict[str, str], messages: "queue.Queue[tuple[_Worker, str]]") -> None:
        self.environment = environment
        self.job: Job | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `wait`
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
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
        with contextlib.suppress(OSError), self.process:  # which closes its pipes
            self._thread.join()
        with self._errors:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return describe_exit(self.process.returncode, lines[-1] if lines else "")


def describe_exit(status: int, last_line: str) -> str:
    """Return why a process ended, from its exit status (negative for a signal) and the last line of its stderr."""
    if status == -signal.SIGKILL:
        return "its process was killed by SIGKILL, which often means that memory ran out"
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process ended with exit status {status}" + (f": {one_line(last_line)}" if last_line else "")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def usable_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the CUDA devices that this process may use, named as `CUDA_VISIBLE_DEVICES` names them."""
    if GPUS in environment:
        return [name for name in environment[GPUS].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def worker_environments(
    workers: int, cores: int, gpus: list[str], environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the environment variables of each worker, which share out the cores and GPUs.

    Several workers use the same GPU if there are too few. A single worker gets no number of threads, and so uses all
    cores. If this process's `environment` has a smaller number of threads, that one is kept.
    """
    shared: dict[str, str] = {}
    if workers > 1:
        limit = environment.get(THREADS, "")
        threads = max(1, cores // workers)
        shared[THREADS] = str(min(threads, int(limit)) if limit.isdecimal() and int(limit) else threads)
    return [shared | ({GPUS: gpus[index % len(gpus)]} if gpus else {}) for index in range(workers)]
