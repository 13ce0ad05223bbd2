"""Resume trainings from the board, each in a process that outlives the board."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO

from cifarlab.board.answers import BusyError
from cifarlab.errors import UsageError
from cifarlab.runs.folder import RunFolder

MOST_RESUMED = 4  # trainings at once, which share the machine's cores


class Resumer:
    """Processes that resume trainings, by the name of the run."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def resume(self, run: RunFolder) -> None:
        """Resume a stopped training in a new process."""
        if run.status in ("running", "finished"):
            raise UsageError(f"the run {run.name!r} is {run.status}")
        if run.name in self._processes and self._processes[run.name].poll() is None:
            raise UsageError(f"the run {run.name!r} is being resumed")
        if sum(process.poll() is None for process in self._processes.values()) >= MOST_RESUMED:
            raise BusyError(f"{MOST_RESUMED} trainings that were resumed here are running. Wait until one ends.")
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_log_failure`
        process = start(["resume", str(run.path.resolve())], errors)
        self._processes[run.name] = process
        threading.Thread(target=_log_failure, args=(process, errors, run), daemon=True).start()


def start(arguments: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command of cifarlab in a process that outlives the board; its log goes to a file, not to a pipe."""
    # With -P, a file random.py in the current folder does not replace the standard library's.
    command = [sys.executable, "-P", "-m", "cifarlab", *arguments]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=errors, start_new_session=True)


def _log_failure(process: subprocess.Popen[bytes], errors: IO[bytes], run: RunFolder) -> None:
    """Wait for a resumed training, and write its last line to the run's log if it fails."""
    with errors:
        if process.wait() in (1, 2):
            errors.seek(0)
            run.write_log(errors.read().decode(errors="replace").strip().rpartition("\n")[2])
