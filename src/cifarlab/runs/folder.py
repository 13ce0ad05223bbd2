"""The run folder: the one place that knows its files.

    run.json            recipe, data set, seed, versions, machine, status, results, protocol
    metrics.csv         a row per epoch
    confusion.npz       one confusion matrix per epoch, and what each validation image was taken for
    best.safetensors    weights of the best epoch by validation accuracy
    last.safetensors    weights of the last epoch
    checkpoint.pt       everything that resuming needs
    checkpoint-older.pt the one before, in case that one is damaged; until the run is finished
    predictions.npz     logits and labels of the test set
    figures/            SVG and PNG
    report.html         everything on one page
    README.md           a model card
    log.txt             what was said while it trained
    progress.json       how far it is, for those who watch
    stop                there while somebody asks it to stop
    .lock               held by the process that trains

Every file appears whole or not at all. Weights are `classifier`'s part, pictures and pages `report`'s.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np
from jaxtyping import Float32, Int64

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.runs.record import DataRecord, Environment, RunRecord, parse_record

Folder = TypeVar("Folder", bound="RunFolder")

CHECKPOINTS = ("checkpoint.pt", "checkpoint-older.pt")  # the newest first
SECONDS_FOR_THE_LOCK = 0.5  # others hold it for an instant, to see whether a run is being trained
SECONDS_FOR_A_LOOK = 0.05  # another may be looking at the same moment


@dataclass(frozen=True)
class EpochRow:
    """What one epoch brought. Losses in nats, accuracies as fractions of 1."""

    epoch: int
    """Counts from 1."""
    learning_rate: float
    """Of the epoch's last step."""
    train_loss: float
    """Mean over the epoch's steps, as the network was at each of them, augmentation and dropout on."""
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    train_seconds: float
    """Of the training steps alone."""
    validation_seconds: float
    images_per_second: float
    """Training images over `train_seconds`."""


class RunFolder:
    """A run on the disk. Reads lazily; each write is one whole file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record: RunRecord | None = None

    @classmethod
    def create(
        cls: type[Folder],
        path: Path,
        recipe: Recipe,
        data: DataRecord,
        protocol: str,
        environment: Environment,
        command: str,
    ) -> Folder:
        """Makes a new run folder.

        Args:
            path: from `runs.claim`.
            recipe: what will be trained.
            data: name, source, path, sha256, classes and numbers of images of the data set.
            protocol: how the figures come about, in one sentence.
            environment: versions and machine.
            command: what the user typed, for a reader to type again; empty from Python.

        Raises:
            CifarlabError: it cannot be made.
        """
        files.make_folder(path / "figures")
        run = cls(path)
        run._record = RunRecord(
            name=path.name,
            status="running",
            reason="",
            recipe=recipe,
            data=data,
            seed=recipe.seed,
            protocol=protocol,
            environment=environment,
            command=command,
            created=now(),
            results=None,
        )
        run.update()
        return run

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def record(self) -> RunRecord:
        """What run.json holds.

        Raises:
            UsageError: it is missing or not a run's.
        """
        if self._record is None:
            try:
                fields = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            except OSError as error:
                raise UsageError(f"{self.path} is not a run folder ({error.strerror or error})") from error
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{self.path / 'run.json'} is damaged ({one_line(error)})") from error
            self._record = parse_record(fields, self.path / "run.json")
        return self._record

    @property
    def recipe(self) -> Recipe:
        """The recipe that is trained here."""
        return self.record.recipe

    @property
    def held_out(self) -> str:
        """Which images accuracy is measured on after every epoch: `validation`, or `test` where the recipe says so."""
        return self.record.recipe.validate_on

    @property
    def results(self) -> Mapping[str, Any]:
        """The metrics of `record.results` by name; empty before the run is finished."""
        return {} if self.record.results is None else self.record.results.model_dump()

    @property
    def status(self) -> str:
        """`running`, `finished`, `interrupted` (a kill counts as such), `failed`, or `pruned` by a tuning."""
        recorded = self.record.status
        return "interrupted" if recorded == "running" and not self.is_locked() else recorded

    @property
    def report(self) -> Path:
        """The HTML page, which is written last."""
        return self.path / "report.html"

    @property
    def history(self) -> list[EpochRow]:
        """The rows of metrics.csv, one an epoch.

        Raises:
            UsageError: the file is damaged, or missing from a finished run; so `confusion`, `predictions`, `predicted`.
        """
        path = self.path / "metrics.csv"
        if not self._has(path):
            return []
        with _damage_told(path), path.open(newline="", encoding="utf-8") as file:
            read = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
            if not read:
                raise ValueError("no rows")
            return [EpochRow(int(row.pop("epoch")), **row) for row in read]

    @property
    def columns(self) -> dict[str, list[float]]:
        """The history by column, a value an epoch."""
        rows = self.history
        return {field.name: [getattr(row, field.name) for row in rows] for field in fields(EpochRow)}

    @property
    def confusion(self) -> Int64[np.ndarray, "epochs classes classes"]:
        """Confusion matrices on the images held out, one an epoch, rows true classes."""
        if found := self._arrays("confusion.npz", "confusion"):
            return found[0].astype(np.int64)
        count = len(self.record.data.classes)
        return np.zeros((0, count, count), dtype=np.int64)

    @property
    def predictions(self) -> tuple[Float32[np.ndarray, "n classes"], Int64[np.ndarray, " n"]] | None:
        """Logits and labels of the test set, in its order; None before the end."""
        found = self._arrays("predictions.npz", "logits", "labels")
        return (found[0], found[1]) if found else None

    @property
    def temperature(self) -> float:
        """The divisor of the logits that was fitted on the validation images; 1 where there is none."""
        return (self.record.results.temperature if self.record.results else None) or 1.0

    def scaled(self, logits: Float32[np.ndarray, "n classes"]) -> Float32[np.ndarray, "n classes"]:
        """Logits at the temperature that was fitted on the validation images, where there is one.

        Their probabilities are those that `predict` tells.
        """
        return (logits / (self.temperature)).astype(np.float32)

    @property
    def predicted(self) -> Int64[np.ndarray, "epochs n"]:
        """The class that each validation image was taken for, a row an epoch."""
        found = self._arrays("confusion.npz", "predicted")
        return found[0].astype(np.int64) if found else np.zeros((0, 0), dtype=np.int64)

    @property
    def progress(self) -> dict[str, Any]:
        """How far a training is, as it last said itself: see `training`. Empty where it has not begun to."""
        try:
            progress: dict[str, Any] = json.loads((self.path / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return progress

    @property
    def log(self) -> str:
        """What the training said so far, a line an event."""
        path = self.path / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody called `ask_to_stop` since the training began."""
        return (self.path / "stop").exists()

    def ask_to_stop(self, stop: bool = True) -> None:
        """Has the process that trains here save everything and end, wherever it runs; or takes that back."""
        if stop:
            files.write_bytes(self.path / "stop", b"")
        else:
            (self.path / "stop").unlink(missing_ok=True)

    @property
    def weights(self) -> Path:
        """The weights that the recipe wants kept: best.safetensors or last.safetensors."""
        return self.path / f"{self.record.recipe.keep}.safetensors"

    def update(self, **changes: Any) -> None:
        """Changes entries of run.json."""
        self._record = self.record.model_copy(update=changes)
        files.write_text(
            self.path / "run.json", json.dumps(self._record.to_json(), indent=2, ensure_ascii=False) + "\n"
        )

    def write_progress(self, **progress: Any) -> None:
        """Writes progress.json, if it can: a training does not end for want of it."""
        with contextlib.suppress(CifarlabError):
            files.write_bytes(self.path / "progress.json", json.dumps(progress).encode(), durable=False)

    def write_log(self, line: str) -> None:
        """Adds a line to log.txt."""
        with contextlib.suppress(OSError), (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{now()}  {line}\n")

    def write_history(
        self, rows: Sequence[EpochRow], confusions: Sequence[np.ndarray], predicted: Sequence[np.ndarray]
    ) -> None:
        """Writes metrics.csv and confusion.npz: matrices, and what each validation image was taken for."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(EpochRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        # The matrices come first: who sees a new row may ask for its matrix.
        matrices = np.stack(confusions)
        small = np.min_scalar_type(matrices.max())
        self._write_arrays("confusion.npz", confusion=matrices.astype(small), predicted=np.stack(predicted))
        files.write_text(self.path / "metrics.csv", text.getvalue())

    def write_predictions(self, logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> None:
        """Writes predictions.npz."""
        self._write_arrays("predictions.npz", logits=logits, labels=labels)

    def write_figure(self, name: str, content: bytes) -> None:
        """Writes a file under figures/, which is made anew where someone has deleted it."""
        files.make_folder(self.path / "figures")
        files.write_bytes(self.path / "figures" / name, content)

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes checkpoint.pt, keeping the one before; `state` holds tensors, numbers, texts, lists, dictionaries."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        newest, older = (self.path / name for name in CHECKPOINTS)
        files.write_bytes(newest, buffer.getvalue(), older=older)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The newest whole state that `write_checkpoint` wrote, on the CPU; None if there is none.

        Raises:
            CifarlabError: all are damaged.
        """
        there = [path for path in (self.path / name for name in CHECKPOINTS) if path.exists()]
        for path in there:
            try:
                return _whole_checkpoint(path)
            except Exception as error:  # a damaged file can raise anything
                told = f"{path} is damaged ({one_line(error)[:200]})"
                notice(told)
                self.write_log(told)
        if there:
            raise CifarlabError(f"{there[0]} is damaged, so the run cannot go on: train it anew")
        return None

    def drop_older_checkpoint(self) -> None:
        """Removes the checkpoint before the last, which a finished run does not need."""
        (self.path / CHECKPOINTS[1]).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from training here; the system lets go of it when this process dies.

        Raises:
            CifarlabError: another process trains here.
        """
        try:
            with filelock.FileLock(self.path / ".lock", timeout=SECONDS_FOR_THE_LOCK):
                self._record = None  # another process may have trained here since it was read
                files.sweep(self.path)
                yield
        except filelock.Timeout as error:
            raise CifarlabError(f"{self.path} is being trained by another process") from error

    def is_locked(self) -> bool:
        """Whether a process trains here."""
        if not self.path.is_dir():
            return False
        try:
            with filelock.FileLock(self.path / ".lock", timeout=SECONDS_FOR_A_LOOK):
                return False
        except filelock.Timeout:
            return True
        except OSError:  # a folder that one may only read
            return False

    def _has(self, path: Path) -> bool:
        """Whether a file is there already; it is a fault where the run is finished and it is not."""
        if not path.exists() and (self.path / "run.json").exists():
            is_finished = RunFolder(self.path).record.status == "finished"  # read anew: it may end at this moment
            if is_finished and not path.exists():
                raise UsageError(f"{path} is missing")
        return path.exists()

    def _arrays(self, name: str, *keys: str) -> list[np.ndarray]:
        """Arrays of a file; none before it is written."""
        path = self.path / name
        if not self._has(path):
            return []
        with _damage_told(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return [archive[key] for key in keys]

    def _write_arrays(self, name: str, **arrays: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)  # compressing the answers of 300 epochs takes half a second
        files.write_bytes(self.path / name, buffer.getvalue())


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """What reading a file that is not whole raises becomes one error that names it."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path} is damaged ({one_line(error)[:200]})") from error


def _whole_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, and checks the sums that it holds of each of its parts, which PyTorch does not."""
    import torch

    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("a part is compressed, which PyTorch never writes")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"CRC-32 of {damaged} differs")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
