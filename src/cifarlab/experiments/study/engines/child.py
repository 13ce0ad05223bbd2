"""A process that trains one job after the other for `local`.

Comes in: a line of JSON, a job. Goes out: a line of JSON, how it ended. Ends with its input: if a run is being trained
then, because the study was killed, it is saved first.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any

import cifarlab.api  # noqa: F401 - now, while the study looks at its runs, and not with the first job
from cifarlab.experiments.study.jobs import Job, carry_out


def take(asked: queue.Queue[dict[str, Any]]) -> None:
    """Reads jobs as they come; at the end of the input, asks this process to save and end."""
    for line in sys.stdin:
        asked.put(json.loads(line))
    os.kill(os.getpid(), signal.SIGTERM)


def serve() -> None:
    """Carries out jobs until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that what a network of one's own prints is no answer
    asked: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=take, args=(asked,), daemon=True).start()
    while True:
        ended = carry_out(Job(**asked.get()))
        print(json.dumps(asdict(ended)), file=answers, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which ends this
    serve()
