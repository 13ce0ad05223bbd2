"""The worker process of the local engine: trains one job after the other.

Every line of standard input is a job as JSON; every line of standard output is a job's result as JSON. The process ends
when its input ends. If it is training at that moment, because the study was killed, it saves the run first.
"""

import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict

import cifarlab.api  # noqa: F401 - import PyTorch while the study checks its runs, not with the first job
from cifarlab.experiments.study.jobs import Job, run_job


def read_jobs(jobs: queue.Queue[Job]) -> None:
    """Put the jobs of standard input into a queue. At the end of the input, ask this process to save and end."""
    for line in sys.stdin:
        jobs.put(Job(**json.loads(line)))
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the study, which then ends this process
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # text that a user's own network prints must not reach the results
    jobs: queue.Queue[Job] = queue.Queue()
    threading.Thread(target=read_jobs, args=(jobs,), daemon=True).start()
    while True:
        print(json.dumps(asdict(run_job(jobs.get()))), file=results, flush=True)
