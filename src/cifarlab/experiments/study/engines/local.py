"""Trains a study's runs in processes of this machine, which live as long as the study, so that each starts once.

Cores are shared out among them, and GPUs where there are some. A process that dies takes one run with it, which the
study tries again in a fresh one.
"""

from __future__ import annotations

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
from cifarlab.experiments.study.jobs import Ended, Job

SECONDS_TO_END = 10.0  # that a process without work may take
THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"


class Local:
    """An engine: so many processes, the first begun at once, the others when there is work for them."""

    def __init__(self, workers: int = 1, device: str = "auto") -> None:
        """Raises UsageError where there are more processes than cores."""
        cores = check_workers(workers)
        gpus = [] if device == "cpu" else usable_gpus(os.environ)
        self._shares = shares(workers, cores, gpus, os.environ)
        self._workers: dict[int, _Worker] = {}
        self._said: queue.Queue[tuple[_Worker, str]] = queue.Queue()
        self._stopping = False
        if self._shares:
            self._start()  # so that it is ready when the first job comes

    def _start(self) -> _Worker:
        place = next(place for place in range(len(self._shares)) if place not in self._workers)
        self._workers[place] = _Worker(place, self._shares[place], self._said)
        return self._workers[place]

    def free(self) -> bool:
        """Whether a process has nothing to do."""
        return sum(worker.job is not None for worker in self._workers.values()) < len(self._shares)

    def submit(self, job: Job) -> None:
        """Gives a job to a process without work, or to a new one."""
        idle = (worker for worker in self._workers.values() if worker.job is None)
        (next(idle, None) or self._start()).give(job)

    def poll(self, seconds: float) -> list[Ended]:
        """The jobs that have ended; waits at most so long for the first."""
        found, wait = list[Ended](), seconds
        while True:
            try:
                worker, line = self._said.get(timeout=wait) if wait else self._said.get_nowait()
            except queue.Empty:
                return found
            wait = 0.0
            if ended := self._ended(worker, line):
                found.append(ended)

    def _ended(self, worker: _Worker, line: str) -> Ended | None:
        job, worker.job = worker.job, None
        if line:
            return Ended(**json.loads(line))
        if self._workers.get(worker.place) is worker:
            del self._workers[worker.place]
        reason = worker.end()
        if job is None:
            return None
        return Ended(job.name, "interrupted" if self._stopping else "failed", reason)

    def stop(self) -> None:
        """Asks every process to save its run and to end."""
        self._stopping = True
        for worker in self._workers.values():
            worker.process.terminate()

    def close(self) -> None:
        """Ends the processes; a run that is still trained is saved if it takes no longer than a few seconds."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()


class _Worker:
    """A process, and the thread that hears it."""

    def __init__(self, place: int, environment: Mapping[str, str], said: queue.Queue[tuple[_Worker, str]]) -> None:
        self.place = place
        self.job: Job | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cifarlab.experiments.study.engines.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,  # so that Ctrl-C comes to the study alone
        )
        self._thread = threading.Thread(target=self._hear, args=(said,), daemon=True)
        self._thread.start()

    def give(self, job: Job) -> None:
        """Sends it a job; if it is dead, the thread says so."""
        self.job = job
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(asdict(job)) + "\n")
            self.process.stdin.flush()

    def _hear(self, said: queue.Queue[tuple[_Worker, str]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said.put((self, line))
        said.put((self, ""))

    def end(self) -> str:
        """Waits for its end, however it comes, and says what it was."""
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
        last = ""
        if not self._errors.closed:
            self._errors.seek(0)
            last = ["", *self._errors.read().decode(errors="replace").strip().splitlines()][-1]
            self._errors.close()
        return ending(status, last)


def check_workers(workers: int) -> int:
    """The cores for so many processes.

    Raises:
        UsageError: there are fewer.
    """
    cores = usable_cores()
    if workers > cores:
        raise UsageError(f"--workers {workers}: this machine has {cores} cores for them")
    return cores


def ending(status: int, last_line: str) -> str:
    """Why a process ended, from its exit status and the last line of its errors."""
    if status == -signal.SIGKILL:
        return "its process was killed by SIGKILL, as systems do that run out of memory"
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    told = f": {one_line(last_line)}" if last_line else ""
    return f"its process ended with exit status {status}{told}"


def usable_cores() -> int:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_gpus(environment: Mapping[str, str]) -> list[str]:
    """The CUDA devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    if GPUS in environment:
        return [name for name in environment[GPUS].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def shares(workers: int, cores: int, gpus: list[str], environment: Mapping[str, str]) -> list[dict[str, str]]:
    """What each process finds in its environment: its threads, if it is not alone, and its GPU, if there are some.

    Args:
        workers: how many processes.
        cores: for all of them.
        gpus: as `usable_gpus` gives them; several processes share one where there are too few.
        environment: of this process; fewer threads that it asks for stay fewer.
    """
    found = []
    for number in range(workers):
        share = {}
        if workers > 1:
            asked = environment.get(THREADS, "")
            threads = max(1, cores // workers)
            share[THREADS] = str(min(threads, int(asked)) if asked.isdecimal() and int(asked) else threads)
        if gpus:
            share[GPUS] = gpus[number % len(gpus)]
        found.append(share)
    return found
