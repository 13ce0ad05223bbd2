"""State of the board: the folder of runs, the table of runs, and the changing values of each run's page."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cifarlab.board.answers import NotFoundError
from cifarlab.board.classroom.scoreboard import Classroom
from cifarlab.board.pictures.store import PictureStore
from cifarlab.board.predictions import FileVersions, Predictions, file_versions
from cifarlab.board.relabelling.searches import Searches
from cifarlab.board.resuming import Resumer
from cifarlab.board.trainings.queue import TrainingQueue
from cifarlab.errors import unknown
from cifarlab.inference import weights
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import PRETRAINED, RunRow, is_run, read_row, run_paths

PICTURES = "own-pictures"  # the folder of data sets that are made on the board, beside that of the runs
LONGEST_LOG = 50_000  # letters of the end of a log that are sent at each change, some 300 epochs
STATE_FILES = ("run.json", "metrics.csv", "progress.json", "stop", "log.txt", "report.html")


class Board:
    """Folder of runs, with a cache of the table of runs, and what serves its visitors."""

    def __init__(
        self, runs: Path, at_once: int = 0, classroom: Classroom | None = None, pictures: Path | None = None
    ) -> None:
        self.runs = runs
        self.classroom = classroom
        self.evaluating = asyncio.Lock()  # one file of a student at a time
        self.embedding = asyncio.Lock()  # one at a time
        self.embedding_visitors = 0  # who wait for an embedding
        self.embeddings: dict[tuple[str, FileVersions], bytes] = {}
        self.handing_in = set[str]()  # students whose file is received, waits, or is evaluated, by their keys' SHA-256
        self.pictures = PictureStore(pictures or runs.parent / PICTURES)
        self.trainings = TrainingQueue(runs, at_once)
        self.predictions = Predictions()
        self.resumer = Resumer()
        self.searches = Searches()
        self.estimating = asyncio.Lock()  # one estimate at a time, because others would disturb its measurement
        self.streams = 0  # open streams of events
        self._rows: dict[Path, tuple[FileVersions, RunRow]] = {}

    def rows(self) -> list[RunRow]:
        """Return the table of runs, newest first. A run is read again only if its files have changed."""
        rows = [self._row(path) for path in run_paths(self.runs, nested=True)]
        return sorted(rows, key=lambda row: (row.created or "", row.name), reverse=True)

    def _row(self, path: Path) -> RunRow:
        run = RunFolder(path, path.relative_to(self.runs).as_posix())
        versions = file_versions(path, ("run.json", "metrics.csv"))
        cached = self._rows.get(path)
        # A kill changes the status without changing a file.
        if cached is None or cached[0] != versions or cached[1].status == "running":
            cached = self._rows[path] = (versions, read_row(run))
        return cached[1]

    def run(self, name: str) -> RunFolder:
        """Return a run by its name under the folder of runs: `RUN`, or `FOLDER/RUN` one level down."""
        parts = Path(name).parts
        is_name = len(parts) <= 2 and name == "/".join(parts) and not any(part.startswith(".") for part in parts)
        if not is_name or not is_run(self.runs / name):
            raise NotFoundError(str(unknown("run", name, [row.name for row in self.rows()])))
        return RunFolder(self.runs / name, name)

    def own_data(self) -> dict[str, tuple[str, ...]]:
        """Return the data sets that were made on the board, as `--data` takes them, with their classes."""
        return self.pictures.data_sets()

    def targets(self) -> list[str]:
        """Return the names of the shipped weights, then of the finished runs, newest first."""
        finished = [row.name for row in self.rows() if row.status == "finished"]
        return [f"{PRETRAINED}{name}" for name in weights.names()] + finished

    def target(self, name: str) -> str:
        """Return the folder of a run, or `pretrained:NAME`, by the name of a target."""
        return name if name.startswith(PRETRAINED) else str(self.run(name).path)


def run_state(run: RunFolder) -> dict[str, Any]:
    """Return the values of a run that change while it trains, as the JSON interface sends them."""
    history, status = run.history, run.status
    is_running = status == "running"
    return {
        "status": status,
        "reason": run.record.reason,
        "held_out": run.held_out,
        "epochs": run.recipe.epoch_count,
        "epochs_done": len(history),
        "progress": run.progress.model_dump() if is_running else {},
        "stopping": is_running and run.is_asked_to_stop,
        "results": dict(run.results),
        "last": asdict(history[-1]) if history else None,
        "log": run.log[-LONGEST_LOG:],
        "has_report": run.report.is_file(),
    }


def state_versions(run: RunFolder) -> FileVersions:
    """Return the versions of the files of a run's state."""
    return file_versions(run.path, STATE_FILES)
