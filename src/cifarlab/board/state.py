"""State of the board: the folder of runs, the table of runs, and the changing values of each run's page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cifarlab.board.images import RunImages
from cifarlab.board.predictor import PredictionRequest, Predictor
from cifarlab.board.resuming import Resumer
from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.inference import weights
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import PRETRAINED, is_run, list_runs
from cifarlab.runs.record import EpochRow, Progress, Results

FileVersions = tuple[tuple[int, int] | None, ...]
"""Modification time in nanoseconds and size of each file; None if there is no such file."""
STATE_FILES = ("run.json", "metrics.csv", "progress.json", "stop", "log.txt")


class NotFoundError(UsageError):
    """Raised when there is no run of a name."""


@dataclass(frozen=True)
class RunRow:
    """One run in the table of runs. Accuracies are fractions of 1."""

    name: str
    status: str
    recipe: str
    model: str
    dataset: str
    seed: int
    epochs: int
    epochs_done: int
    validation_accuracy: float | None
    """Best validation accuracy of all epochs so far."""
    test_accuracy: float | None
    train_seconds: float
    created: str
    """UTC time in ISO 8601."""


@dataclass(frozen=True)
class DamagedRow:
    """A run in the table of runs whose files cannot be read."""

    name: str
    reason: str
    status: Literal["damaged"] = "damaged"


@dataclass(frozen=True)
class RunState:
    """Values of a run that change while it trains."""

    status: str
    reason: str
    held_out: str
    epochs: int
    epochs_done: int
    progress: Progress | None
    """Progress within the epoch; None unless the run is being trained."""
    stopping: bool
    """True if the training is asked to stop and still runs."""
    results: Results | None
    last: EpochRow | None
    log: str

    def to_json(self) -> dict[str, Any]:
        """Return the state as the JSON interface sends it."""
        return asdict(self) | {
            "progress": self.progress.model_dump() if self.progress else {},
            "results": self.results.model_dump() if self.results else {},
        }


class Board:
    """Folder of runs, with a cache of the table of runs, and what serves its visitors."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.images = RunImages()
        self.predictor = Predictor()
        self.resumer = Resumer()
        self.uploaded = 0
        """Bytes of images that are being uploaded or wait for a prediction."""
        self.streams = 0
        """Number of open streams of events."""
        self._rows: dict[Path, tuple[FileVersions, RunRow | DamagedRow]] = {}

    def rows(self) -> list[RunRow | DamagedRow]:
        """Return the table of runs, newest first. A run is read again only if its files have changed."""
        rows = [self._row(path.parent) for path in self.runs.glob("*/run.json")]
        return sorted(rows, key=lambda row: (row.created if isinstance(row, RunRow) else "", row.name), reverse=True)

    def _row(self, path: Path) -> RunRow | DamagedRow:
        run = RunFolder(path)
        versions = file_versions(run, ("run.json", "metrics.csv"))
        cached = self._rows.get(path)
        # A kill changes the status without changing a file.
        if cached is None or cached[0] != versions or cached[1].status == "running":
            cached = self._rows[path] = (versions, _read_row(run))
        return cached[1]

    def run(self, name: str) -> RunFolder:
        """Return a run by its name under the folder of runs.

        Raises:
            NotFoundError: there is no such run, or the name is a path.
        """
        if name != Path(name).name or name == ".." or not is_run(self.runs / name):
            raise NotFoundError(str(unknown("run", name, [path.name for path in list_runs(self.runs)])))
        return RunFolder(self.runs / name)

    def targets(self) -> list[str]:
        """Return the names of the shipped weights, then of the finished runs, newest first."""
        finished = [row.name for row in self.rows() if row.status == "finished"]
        return [f"{PRETRAINED}{name}" for name in weights.names()] + finished

    async def predict(self, target: str, content: bytes, *, explain: bool) -> bytes:
        """Return the prediction for an image file as a JSON document.

        Args:
            target: name of a run or of shipped weights.
            content: the image file.
            explain: add heat maps of where the network looks.

        Raises:
            UsageError: there is no such target, or the file is not an image.
            BusyError: too many requests are waiting.
        """
        version: FileVersions = ()
        if not target.startswith(PRETRAINED):
            run = self.run(target)
            target = str(run.path)
            version = file_versions(run, ("run.json", "best.safetensors", "last.safetensors"))
        return await self.predictor.answer(PredictionRequest(target, version, explain, content))


def run_state(run: RunFolder) -> RunState:
    """Read the state of a run."""
    history, status = run.history, run.status
    return RunState(
        status=status,
        reason=run.record.reason,
        held_out=run.held_out,
        epochs=run.record.recipe.epochs,
        epochs_done=len(history),
        progress=run.progress if status == "running" else None,
        stopping=run.is_asked_to_stop and status == "running",
        results=run.record.results,
        last=history[-1] if history else None,
        log=run.log,
    )


def file_versions(run: RunFolder, names: Sequence[str] = STATE_FILES) -> FileVersions:
    """Return the versions of files of a run, which differ if a file has changed; by default those of its state."""
    versions: list[tuple[int, int] | None] = []
    for name in names:
        try:
            status = (run.path / name).stat()
            versions.append((status.st_mtime_ns, status.st_size))
        except OSError:
            versions.append(None)
    return tuple(versions)


def _read_row(run: RunFolder) -> RunRow | DamagedRow:
    try:
        record, history = run.record, run.history
        return RunRow(
            name=run.name,
            status=run.status,
            recipe=record.recipe.name,
            model=record.recipe.model,
            dataset=record.data.name,
            seed=record.seed,
            epochs=record.recipe.epochs,
            epochs_done=len(history),
            validation_accuracy=max((row.validation_accuracy for row in history), default=None),
            test_accuracy=record.results.test_accuracy if record.results else None,
            train_seconds=sum(row.train_seconds for row in history),
            created=record.created,
        )
    except (UsageError, OSError) as error:  # damaged, or deleted at this moment
        return DamagedRow(run.name, one_line(error))
