"""The queue of trainings: each is a command line of `cifarlab train`, run in a process that outlives the board.

The queue is kept in a file of the cache folder, not in the folder of runs, because a folder of runs may come from
someone else, and the queue holds commands.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import filelock
from pydantic import BaseModel, ValidationError

from cifarlab import files
from cifarlab.board.answers import BusyError, NotFoundError
from cifarlab.board.resuming import start
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.runs.folder import RunFolder, now
from cifarlab.runs.listing import LONGEST_NAME, check_plain_name, is_run, read_row, run_paths, runs_folder

CORES_EACH, GIGABYTES_EACH = 4, 4  # of a machine for each training at once; more trainings would slow each other down
MOST_WAITING = 200
KEPT = 30  # trainings that have ended, in the list
SECONDS_BETWEEN_LOOKS = 0.5
Status = Literal["waiting", "starting", "running", "finished", "interrupted", "failed", "cancelled"]


class Training(BaseModel, frozen=True):
    """A training in the queue, as the file of the queue keeps it."""

    id: int
    name: str
    """Name of its run."""
    arguments: tuple[str, ...]
    """Arguments of `cifarlab train`, with the name."""
    status: Status = "waiting"
    reason: str = ""
    """One line on why it failed."""
    asked: str
    """UTC time in ISO 8601."""
    process: int | None = None

    @property
    def command(self) -> str:
        """The command line, as typed in a shell."""
        return shlex.join(["cifarlab", "train", *self.arguments])

    @property
    def is_active(self) -> bool:
        """True if its process has been started and has not ended, as far as is known."""
        return self.status in ("starting", "running")

    @property
    def has_ended(self) -> bool:
        """True if it neither waits nor runs."""
        return not self.is_active and self.status != "waiting"


class _File(BaseModel, frozen=True):
    trainings: tuple[Training, ...] = ()


def trainings_at_once() -> int:
    """Return how many trainings this machine bears at once, by its cores and its memory."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows and macOS lack parts
        cores = len(os.sched_getaffinity(0))
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        return max(1, min(cores // CORES_EACH, int(gigabytes // GIGABYTES_EACH)))
    return max(1, (os.cpu_count() or 1) // CORES_EACH)


class TrainingQueue:
    """Trainings that wait, run and have ended, for one folder of runs.

    One board at a time looks after the queue of a folder; other boards only show it. After a restart of the board,
    waiting trainings wait on, and trainings that ran meanwhile are recognised by their run folders.
    """

    def __init__(self, runs: Path, at_once: int = 0) -> None:
        self.runs = runs
        self.at_once = at_once or trainings_at_once()
        self._folder = files.cache_folder() / "queues" / hashlib.sha256(bytes(runs.resolve())).hexdigest()[:16]
        self._path = self._folder / "queue.json"
        self._owner = filelock.FileLock(self._folder / ".lock", timeout=0, thread_local=False)
        self._changing = threading.RLock()
        self._has_closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._trainings: list[Training] = []
        self._idle: dict[Path, int] = {}  # versions of the records of runs that do not train

    def open(self) -> None:
        """Go on with what waits, unless another board looks after the queue."""
        self._has_closed.clear()
        with contextlib.suppress(CifarlabError), self._changing:  # the page says what is wrong
            if not all(training.has_ended for training in self._read()):
                self._begin()

    def close(self) -> None:
        """Let go of the queue. Running trainings run on; waiting ones wait for the next board."""
        self._has_closed.set()
        if self._thread:
            self._thread.join()
        for process in self._processes.values():  # so that the system forgets those that end before this process
            threading.Thread(target=process.wait, daemon=True).start()
        self._processes.clear()
        self._owner.release()

    def trainings(self) -> list[Training]:
        """Return all trainings of the queue, in the order in which they start."""
        with self._changing:
            return list(self._trainings) if self._owner.is_locked else self._read()

    def add(self, arguments: Sequence[str]) -> Training:
        """Put a training into the queue and return it.

        Args:
            arguments: what follows `cifarlab train` on the command line. Without `--name`, the run gets one. Whoever
                calls this has checked every argument that comes from a browser: the command can name any file.

        Raises:
            UsageError: a run or another training of the queue has that name.
            BusyError: the queue is full, or another board looks after it.
        """
        with self._changing:
            self._begin()
            if sum(training.status == "waiting" for training in self._trainings) >= MOST_WAITING:
                raise BusyError(f"{MOST_WAITING} trainings are waiting. Cancel some, or wait until they have started.")
            taken = {
                training.name for training in self._trainings if training.status == "waiting" or training.is_active
            }
            words = [*arguments]
            if "--name" in words[:-1]:
                name = check_plain_name(words[words.index("--name") + 1])
                if name in taken or os.path.lexists(self.runs / name):
                    raise UsageError(f"the run {name!r} already exists or waits in the queue. Choose another name.")
            else:
                name = self._free_name(words, taken)
                words += ["--name", name]
            if "--runs" not in words and self.runs.resolve() != runs_folder().resolve():
                words += ["--runs", str(self.runs.resolve())]
            number = max((training.id for training in self._trainings), default=0) + 1
            training = Training(id=number, name=name, arguments=tuple(words), asked=now())
            self._replace([*self._trainings, training])
            return training

    def cancel(self, number: int) -> Training:
        """Take a waiting training out of the queue, or ask a running one to save everything and stop."""
        with self._changing:
            self._begin()
            training = self._find(number)
            if training.status == "waiting":
                return self._change(training, status="cancelled")
            if not training.is_active:
                raise UsageError(f"the training {training.name!r} is {training.status}, so it cannot be cancelled")
            if is_run(self.runs / training.name):
                RunFolder(self.runs / training.name).ask_to_stop()
            elif number in self._processes:
                self._processes[number].terminate()
                return self._change(training, reason="cancelled before the first epoch")
            else:
                raise UsageError(f"the training {training.name!r} is just starting. Try again when it runs.")
            return training

    def move(self, number: int, by: int) -> None:
        """Let a waiting training start earlier (`by` = -1) or later (`by` = 1) than its neighbour."""
        with self._changing:
            self._begin()
            training = self._find(number)
            waiting = [place for place, each in enumerate(self._trainings) if each.status == "waiting"]
            if training.status != "waiting":
                raise UsageError(f"the training {training.name!r} is {training.status}, not waiting")
            place = waiting.index(self._trainings.index(training)) + by
            if by not in (-1, 1) or not 0 <= place < len(waiting):
                raise UsageError(f"the training {training.name!r} cannot move {by} places among {len(waiting)}")
            order = list(self._trainings)
            here, there = order.index(training), waiting[place]
            order[here], order[there] = order[there], order[here]
            self._replace(order)

    def _begin(self) -> None:
        """Become the board that looks after the queue, unless this one does already."""
        if self._owner.is_locked:
            return
        files.make_folder(self._folder)
        try:
            self._owner.acquire()
        except filelock.Timeout as error:
            raise BusyError("another board looks after this folder's queue. Use that one, or stop it.") from error
        try:
            self._trainings = self._read()
        except UsageError:
            self._owner.release()  # a damaged file is not replaced
            raise
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self._thread.start()

    def _look_after(self) -> None:
        while not self._has_closed.wait(SECONDS_BETWEEN_LOOKS):
            with self._changing, contextlib.suppress(CifarlabError, OSError):  # such as a full disk, for a while
                self._look()

    def _look(self) -> None:
        """Note which trainings have begun or ended, and start those whose turn it is."""
        for training in [each for each in self._trainings if each.is_active]:
            status, reason = self._state(training)
            if (status, reason) != (training.status, training.reason):
                self._change(training, status=status, reason=reason)
        waiting = [each for each in self._trainings if each.status == "waiting"]
        if not waiting or (free := self.at_once - sum(each.is_active for each in self._trainings)) <= 0:
            return
        names = {each.name for each in self._trainings if each.is_active}
        for training in waiting[: max(0, free - self._running_elsewhere(names))]:
            self._start(training)

    def _running_elsewhere(self, names: set[str]) -> int:
        """Return how many runs of the folder train, apart from some. A run is read again only if its record changed."""
        count = 0
        for path in run_paths(self.runs, nested=True):
            version = _version(path / "run.json")
            if (path.parent == self.runs and path.name in names) or self._idle.get(path) == version:
                continue
            if _is_running(path):
                count += 1
            else:
                self._idle[path] = version
        return count

    def _start(self, training: Training) -> None:
        training = self._change(training, status="starting")  # first, so that nothing starts twice if the disk is full
        try:
            with self._log(training).open("wb") as errors:
                process = start(["train", *training.arguments], errors)
        except OSError as error:
            self._change(training, status="failed", reason=f"cannot start: {error.strerror or error}")
            return
        self._processes[training.id] = process
        self._change(training, process=process.pid)

    def _state(self, training: Training) -> tuple[Status, str]:
        """Return the present status of a training that was started, with the reason of a failure."""
        process, path = self._processes.get(training.id), self.runs / training.name
        runs_on = process.poll() is None if process else _runs_still(training)
        status: Status
        if is_run(path):
            row = read_row(RunFolder(path))
            if row.status == "running" or runs_on:  # the process ends a moment after its run
                return "running", ""
            done: dict[str, Status] = {"finished": "finished", "interrupted": "interrupted"}
            status, reason = done.get(row.status, "failed"), row.reason
        elif runs_on:
            return "starting", training.reason
        elif training.reason:
            status, reason = "cancelled", training.reason
        else:
            status, reason = "failed", _last_line(self._log(training))
        self._log(training).unlink(missing_ok=True)
        self._processes.pop(training.id, None)
        return status, reason

    def _log(self, training: Training) -> Path:
        return self._folder / f"{training.id}.log"

    def _find(self, number: int) -> Training:
        for training in self._trainings:
            if training.id == number:
                return training
        raise NotFoundError(f"there is no training {number} in the queue")

    def _change(self, training: Training, **changes: object) -> Training:
        changed = training.model_copy(update=changes)
        self._replace([changed if each.id == training.id else each for each in self._trainings])
        return changed

    def _replace(self, trainings: list[Training]) -> None:
        """Keep these trainings, and write them to the file of the queue."""
        ended = [each.id for each in trainings if each.has_ended]
        old = set(ended[:-KEPT])
        kept = [each for each in trainings if each.id not in old]
        files.write_text(self._path, _File(trainings=tuple(kept)).model_dump_json())
        self._trainings = kept

    def _read(self) -> list[Training]:
        try:
            return list(_File.model_validate_json(files.read_regular(self._path)).trainings)
        except FileNotFoundError:
            return []
        except (ValidationError, OSError) as error:
            reason = one_line(error)[:200]
            raise UsageError(f"the queue's file {self._path} is damaged ({reason}). Delete that file.") from error

    def _free_name(self, words: Sequence[str], taken: set[str]) -> str:
        """Return a name for a run that no run or training has: recipe or data set, and the time."""
        source = words[0] if words and not words[0].startswith("-") else "training"
        if source == "training" and "--data" in words[:-1]:
            source = words[words.index("--data") + 1]
        stem = re.sub(r"[^\w.-]+", "-", re.split(r"[/\\:]", source.removesuffix(".toml").rstrip("/"))[-1]).strip(".-")
        base = f"{stem[: LONGEST_NAME - 24] or 'training'}-{datetime.now():%Y%m%d-%H%M%S}"
        names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in taken and not os.path.lexists(self.runs / name))


def _version(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # deleted at this moment


def _is_running(path: Path) -> bool:
    try:
        return RunFolder(path).status == "running"
    except (UsageError, OSError):
        return False  # damaged, or deleted at this moment


def _runs_still(training: Training) -> bool:
    """Return True if a process that an earlier board started still runs; only Linux tells.

    Elsewhere such a training counts as failed until its run appears.
    """
    try:
        return training.name.encode() in Path(f"/proc/{training.process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _last_line(path: Path) -> str:
    try:
        lines = files.read_regular(path).decode(errors="replace").split("\n")
    except OSError:
        return "the board was stopped before this training ended, and its run is gone"
    last = next((one_line(line) for line in reversed(lines) if line.strip()), "it ended without a message")
    return last.removeprefix("error: ")[:500]
