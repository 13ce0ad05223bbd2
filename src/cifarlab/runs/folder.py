"""Read and write the folder of a run. No other module knows the names of its files.

    run.json            recipe, data set, seed, versions, machine, status, results, protocol
    metrics.csv         one row per epoch
    confusion.npz       one confusion matrix per epoch, and the class of each validation image, true and predicted
    best.safetensors    weights of the epoch with the best validation accuracy, or of the last if few images choose
    last.safetensors    weights of the last epoch
    checkpoint.pt       everything that resuming needs
    checkpoint-older.pt the previous checkpoint, in case the newest is damaged; removed when the run finishes
    predictions.npz     logits and labels of the test set
    figures/            SVG and PNG
    network/            the files of a network of the user's own, as they were trained
    report.html         all results on one page
    README.md           a model card
    log.txt             messages of the training
    progress.json       progress of the training, for the board
    stop                present while the training is asked to stop
    .lock               held by the process that trains

Every file is replaced in one step, so that readers never see half of it. `inference.weights_file` writes the weights,
`report` draws the figures and pages.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import filelock
import numpy as np
from jaxtyping import Float32, Int64

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, one_line, validated
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.runs.record import EpochRow, History, Progress, Results, RunRecord
from cifarlab.statistics import metrics

Folder = TypeVar("Folder", bound="RunFolder")

CHECKPOINTS = ("checkpoint.pt", "checkpoint-older.pt")  # newest first
MOST_CELLS = 2**27  # of confusion matrices that are read at once, 1 GB
WAIT = "Wait for it, stop it with Ctrl-C or on the board, or choose another --name."
RESULT_FILES = ("best.safetensors", "last.safetensors", "predictions.npz", "confusion.npz", "metrics.csv")
FILES = {*RESULT_FILES, *CHECKPOINTS, "run.json", "report.html", "README.md", "log.txt", "progress.json", "stop"}
FOLDERS = {"figures", "network", "tensorboard"}
_DAMAGE = (OSError, ValueError, TypeError, LookupError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error)
LOCK_TIMEOUT = 0.5  # seconds; other processes hold the lock for an instant to see whether a run is being trained
LOCK_CHECK_TIMEOUT = 0.05  # seconds; another process may be checking the lock at the same moment


class RunFolder:
    """A run on disk. Properties read files when they are asked; each write replaces one whole file."""

    def __init__(self, path: Path | str, name: str = "") -> None:
        self.path = path = Path(files.with_home(path))
        self.name = name or path.name  # with the parent folder where that tells it from others
        self._record: RunRecord | None = None
        self._place: os.stat_result | None = None  # of the folder while it is locked
        self.is_stopped = False  # by `stop`

    @classmethod
    def create(cls: type[Folder], path: Path, record: RunRecord) -> Folder:
        """Create the files of a new run; see `listing.create_run`."""
        files.make_folder(path / "figures")
        run = cls(path)
        run._record = record
        run.update(name=path.name, created=now())
        return run

    @property
    def record(self) -> RunRecord:
        """Contents of run.json.

        Raises:
            UsageError: the file is missing or damaged, or another version wrote it.
        """
        if self._record is None:
            path = self.path / "run.json"
            try:
                place = f"{path} is damaged, or another version of cifarlab wrote it"
                record = validated(RunRecord, files.read_regular(path), place)
                if record.identity not in ("", record.find_identity()):
                    raise UsageError(f"{path}: recipe, seed or data are not those of the training. Undo the change.")
                if record.sums.get("results") not in (None, record.results_sum()):
                    raise UsageError(f"{path}: the results are not those of the training. Undo the change.")
                self._record = record
            except OSError as error:
                reason = error.strerror or one_line(error)
                raise UsageError(f"{self.path} is not a run folder: cannot read run.json ({reason})") from error
        return self._record

    @property
    def recipe(self) -> Recipe:
        """Recipe that this run trains."""
        return self.record.recipe

    @property
    def held_out(self) -> str:
        """Name of the set that measures accuracy after every epoch: `validation`, or `test` if the recipe says so."""
        return self.record.recipe.validate_on

    @property
    def results(self) -> Mapping[str, Any]:
        """Metrics of `record.results` by name; empty until the run is finished."""
        return {} if self.record.results is None else self.record.results.model_dump()

    @property
    def status(self) -> str:
        """`running`, `finished`, `interrupted` (also after a kill), `failed`, or `pruned` by a tuning."""
        recorded = self.record.status
        return "interrupted" if recorded == "running" and not self.is_locked() else recorded

    @property
    def report(self) -> Path:
        """Path of the HTML report, the last file that a training writes."""
        return self.path / "report.html"

    @property
    def history(self) -> list[EpochRow]:
        """Rows of metrics.csv, one per epoch; none if an unfinished run has no such file yet.

        Raises:
            UsageError: the file is damaged, or missing from a finished run. `confusion`, `predictions` and `predicted`
                raise the same.
        """
        with self._open("metrics.csv") as file:
            if file is None:
                return []
            rows = list(csv.DictReader(io.StringIO(file.read().decode(), newline="")))
            return list(validated(History, {"epochs": rows}, f"{self.path / 'metrics.csv'} is damaged").epochs)

    @property
    def columns(self) -> dict[str, list[float]]:
        """History by column name; each column has one value per epoch."""
        rows = self.history
        return {field.name: [getattr(row, field.name) for row in rows] for field in fields(EpochRow)}

    @property
    def confusion(self) -> Int64[np.ndarray, "epochs classes classes"]:
        """Confusion matrices on the held-out images, one per epoch; rows are true classes."""
        epochs, count = len(self.predicted), len(self.record.data.classes)
        if epochs * count**2 > MOST_CELLS:
            raise UsageError(f"{epochs} matrices of {count:,} classes are too large. Read one by confusion_after.")
        return self.confusions_after(0, epochs)

    def confusions_after(self, epoch: int, most: int) -> Int64[np.ndarray, "epochs classes classes"]:
        """Return the matrices of at most `most` epochs after an epoch, which is counted from 1; 0 is the beginning."""
        with self._arrays("confusion.npz") as arrays:
            epochs, count = len(arrays["predicted"]) if arrays else 0, len(self.record.data.classes)
            rows = [self._matrix(arrays, each) for each in range(epochs)[epoch : epoch + most]]
            return np.array(rows, dtype=np.int64).reshape(len(rows), count, count)

    def confusion_after(self, epoch: int) -> Int64[np.ndarray, "classes classes"]:
        """Return the confusion matrix on the held-out images after an epoch, counted from 1; rows are true classes."""
        with self._arrays("confusion.npz") as arrays:
            epochs = len(arrays["predicted"]) if arrays else 0
            if not 1 <= epoch <= epochs:
                raise UsageError(f"epoch must be 1 to {epochs}, got {epoch}")
            return self._matrix(arrays, epoch - 1)

    def _matrix(self, arrays: Mapping[str, np.ndarray], epoch: int) -> Int64[np.ndarray, "classes classes"]:
        count = len(self.record.data.classes)
        if "labels" not in arrays:  # earlier versions stored all matrices instead
            return _whole_numbers(arrays["confusion"][epoch], 2, 2**63).reshape(count, count)
        labels, predicted = (_whole_numbers(each, 1, count) for each in (arrays["labels"], arrays["predicted"][epoch]))
        return metrics.confusion_matrix(labels, predicted, count)

    @property
    def predictions(self) -> tuple[Float32[np.ndarray, "n classes"], Int64[np.ndarray, " n"]] | None:
        """Logits and labels of the test set, in its order; None until the run is tested."""
        with self._arrays("predictions.npz") as arrays:
            if not arrays:
                return None
            count, logits = len(self.record.data.classes), arrays["logits"]
            labels = _whole_numbers(arrays["labels"], 1, count)
            if logits.dtype.kind != "f" or logits.shape != (len(labels), count) or np.isnan(logits).any():
                raise ValueError(f"logits should be numbers of {[len(labels), count]}, got {logits.shape}")
            return logits.astype(np.float32), labels

    def scale_logits(self, logits: Float32[np.ndarray, "n classes"]) -> Float32[np.ndarray, "n classes"]:
        """Divide logits by the fitted temperature, so that their softmax gives the probabilities of `predict`."""
        return (logits / (self.results.get("temperature") or 1.0)).astype(np.float32)

    @property
    def predicted(self) -> Int64[np.ndarray, "epochs n"]:
        """Predicted class of each validation image, one row per epoch."""
        with self._arrays("confusion.npz") as arrays:
            return _whole_numbers(arrays.get("predicted", np.zeros((0, 0), int)), 2, len(self.record.data.classes))

    @property
    def progress(self) -> Progress:
        """Last progress that the training wrote; all values are None if there is none."""
        try:
            return Progress.model_validate_json(files.read_regular(self.path / "progress.json"))
        except (OSError, ValueError):
            return Progress()

    @property
    def log(self) -> str:
        """Messages of the training so far, one per line."""
        with self._open("log.txt", required=False) as file:
            return "" if file is None else file.read().decode(errors="replace")

    @property
    def is_asked_to_stop(self) -> bool:
        """True if `ask_to_stop` was called since the training began."""
        return (self.path / "stop").exists()

    def ask_to_stop(self, stop: bool = True) -> None:
        """Ask the process that trains this run to save and end, on whichever machine; `stop=False` withdraws that."""
        if stop:
            files.write_bytes(self.path / "stop", b"")
        else:
            (self.path / "stop").unlink(missing_ok=True)

    def stop(self) -> None:
        """End the training after this epoch and test the weights, as at its end; for callbacks."""
        self.is_stopped = True

    @property
    def weights(self) -> Path:
        """Path of the weights that the recipe keeps: best.safetensors or last.safetensors."""
        self.check_sum(name := f"{'last' if self.record.recipe.keep == 'last' else 'best'}.safetensors")
        return self.path / name

    def check_sum(self, name: str) -> None:
        """Raise UsageError if a file of this finished run is not the one that its training wrote."""
        path = self.path / name
        if not (path.exists() and (self.path / "run.json").exists() and (expected := self.record.sums.get(name))):
            return
        # Of a run that was resumed since it was read here, run.json has other checksums by now.
        if (found := _sha256_of(path)) not in (expected, RunFolder(self.path).record.sums.get(name) or found):
            raise UsageError(f"{path} is damaged, or of another run: its SHA-256 differs. Put the run's own back.")

    def check_identity(self, path: Path, content: Mapping[str, Any]) -> None:
        """Raise UsageError if a checkpoint or the description of weights belongs to another run."""
        if content.get("identity", "") not in ("", self.record.find_identity()):
            raise UsageError(f"{path} belongs to a run with another recipe, seed or data set. Put its own file back.")

    def update(self, **changes: Any) -> None:
        """Change entries of run.json."""
        self.check_in_place()
        record = self.record.model_copy(update=changes)
        sums = {name: value for name, value in record.sums.items() if name != "results"}
        if sums and record.results:
            results = Results.model_validate(record.results.model_dump())  # with every value set, as it is written
            sums["results"] = record.model_copy(update={"results": results}).results_sum()
        self._record = record.model_copy(update={"identity": record.find_identity(), "sums": sums})
        text = json.dumps(self._record.to_json(), indent=2, ensure_ascii=False)
        files.write_text(self.path / "run.json", f"{text}\n")

    def finish(self, results: Results) -> None:
        """Write into run.json that the training is finished, with its results and the checksums of its files."""
        sums = {name: _sha256_of(self.path / name) for name in RESULT_FILES if (self.path / name).exists()}
        self.update(status="finished", finished=now(), results=results, sums=sums)

    def write_progress(self, progress: Progress) -> None:
        """Write progress.json. Errors are ignored, since a training can go on without this file."""
        with contextlib.suppress(CifarlabError):
            files.write_bytes(self.path / "progress.json", progress.model_dump_json().encode(), durable=False)

    def write_log(self, line: str) -> None:
        """Append a message to log.txt as one line, with the time."""
        text = f"{now()}  {one_line(line)}\n"
        with contextlib.suppress(OSError), open(self.path / "log.txt", "ab", opener=files.open_regular) as file:
            file.write(text.encode())

    def write_history(
        self, rows: Sequence[EpochRow], labels: Int64[np.ndarray, " n"], predicted: Sequence[np.ndarray]
    ) -> None:
        """Write metrics.csv and confusion.npz: the labels of the held-out images, and their predictions by epoch."""
        count, smallest_type = len(self.record.data.classes), np.min_scalar_type(len(labels))
        arrays = {"labels": labels.astype(np.min_scalar_type(count)), "predicted": np.stack(predicted)}
        if count <= metrics.MOST_CLASSES:  # for scripts, which need not count themselves
            matrices = (metrics.confusion_matrix(labels, each.astype(np.int64), count) for each in predicted)
            arrays["confusion"] = np.stack([matrix.astype(smallest_type) for matrix in matrices])
        # The matrices first: a reader who sees a new row may ask for its matrix.
        self._write_arrays("confusion.npz", **arrays)
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(EpochRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))
        files.write_text(self.path / "metrics.csv", text.getvalue())

    def write_predictions(self, logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> None:
        """Write predictions.npz."""
        self._write_arrays("predictions.npz", logits=logits, labels=labels)

    def write_figure(self, name: str, content: bytes) -> None:
        """Write a file under figures/, and create that folder if somebody has deleted it."""
        files.write_bytes(self.subfolder("figures") / name, content)

    def subfolder(self, name: str) -> Path:
        """Create a folder in the run's folder unless it exists, and return its path; a symbolic link is an error."""
        if (path := self.path / name).is_symlink():
            raise CifarlabError(f"{path} is a symbolic link, and the files of a run stay in its folder. Remove it.")
        files.make_folder(path)
        return path

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write checkpoint.pt and keep the previous one. A state holds tensors, numbers, strings, lists and dicts."""
        import torch

        self.check_in_place()
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        newest, older = (self.path / name for name in CHECKPOINTS)
        files.write_bytes(newest, buffer.getvalue(), older=older)

    @property
    def has_checkpoint(self) -> bool:
        """True if there is a checkpoint, damaged or not."""
        return any((self.path / name).exists() for name in CHECKPOINTS)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Return the newest undamaged state that `write_checkpoint` wrote, on the CPU; None without a checkpoint."""
        paths = [path for path in (self.path / name for name in CHECKPOINTS) if path.exists()]
        for path in paths:
            try:
                return _read_whole_checkpoint(path)
            except Exception as error:  # a damaged file can raise anything
                message = f"{path} is damaged ({one_line(error)[:200]})"
                notice(message)
                self.write_log(message)
        if paths:
            raise CifarlabError(f"{paths[0]} is damaged, so the run cannot be resumed. Train it again.")
        return None

    def drop_older_checkpoint(self) -> None:
        """Remove the previous checkpoint, which a finished run does not need."""
        (self.path / CHECKPOINTS[1]).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run. The system releases the lock when this process dies."""
        before = self._record
        try:
            with filelock.FileLock(self.path / ".lock", timeout=LOCK_TIMEOUT):
                self._record = None  # another process may have trained this run since it was read
                if before and (before.created, before.recipe) != (self.record.created, self.record.recipe):
                    raise CifarlabError(f"{self.path} was just replaced by another run of that name")
                files.sweep(self.path.rglob(".*"))
                self._place = self.path.stat()
                yield
        except filelock.Timeout as error:
            raise CifarlabError(f"{self.path} is being trained by another process. {WAIT}") from error
        except PermissionError as error:
            if error.filename != str(self.path / ".lock"):
                raise
            how_to_fix = "Ask its owner for leave, or copy the folder and use the copy"
            raise CifarlabError(f"cannot write in {self.path} ({error.strerror}). {how_to_fix}.") from error
        finally:
            self._place = None

    def check_in_place(self) -> None:
        """Raise CifarlabError if the folder was moved or replaced since it was locked, before anything is written."""
        if self._place and not (self.path.exists() and os.path.samestat(self._place, self.path.stat())):
            moved = f"{self.path} was moved or replaced while its training ran"
            raise CifarlabError(f"{moved}, so the training ended. Resume it from its new place.")

    def check_regular(self) -> None:
        """Raise UsageError if a file of the run is a symbolic link, a FIFO, a device or a folder."""
        for path in (self.path / name for name in sorted(FILES)):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise UsageError(f"{path} is damaged (it is not a regular file)")

    def added_entries(self) -> list[str]:
        """Return the names of files and folders in the run's folder that no run has."""
        names = (path.name for path in self.path.iterdir() if not path.name.startswith("."))
        return sorted(name for name in names if name not in FILES | FOLDERS)

    def is_locked(self) -> bool:
        """Return True if a process is training this run."""
        if not self.path.is_dir():
            return False
        try:
            with filelock.FileLock(self.path / ".lock", timeout=LOCK_CHECK_TIMEOUT):
                return False
        except filelock.Timeout:
            return True
        except OSError:  # a folder without write permission, where Linux still tells
            try:
                import fcntl

                with open(self.path / ".lock") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except (ImportError, OSError):
                return False
            return False

    @contextlib.contextmanager
    def _open(self, name: str, *, required: bool = True) -> Iterator[BinaryIO | None]:
        """Open a file, or yield None before it is written. Raise UsageError if it proves damaged or is lost."""
        path = self.path / name
        if required and not path.exists() and (self.path / "run.json").exists():
            is_finished = RunFolder(self.path).record.status == "finished"  # read again: it may finish at this moment
            if is_finished and not path.exists():
                raise UsageError(f"{path} is missing")
        if required:
            self.check_sum(name)
        try:
            with open(path, "rb", opener=files.open_regular) if path.exists() else contextlib.nullcontext() as file:
                yield file
        except _DAMAGE as error:
            raise UsageError(f"{path} is damaged ({one_line(error)[:200]})") from error

    @contextlib.contextmanager
    def _arrays(self, name: str) -> Iterator[dict[str, np.ndarray]]:
        """Read the arrays of a file, none before it is written; see `_open`."""
        with self._open(name) as file:
            if file is None:
                yield {}
                return
            with np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
                _check_stored(archive.zip)
                yield dict(archive)

    def _write_arrays(self, name: str, **arrays: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)  # compressing the predictions of 300 epochs takes half a second
        files.write_bytes(self.path / name, buffer.getvalue())


def check_new(path: Path, *, force: bool, ending: str = "", option: str = "--out") -> None:
    """Check a file to be written as `files.check_new` does, and that it is no file of a run."""
    files.check_new(path, force=force, ending=ending, option=option)
    if path.name in FILES and (path.parent / "run.json").exists():
        raise UsageError(f"{option} {str(path)!r}: is a file of a run, which stays. Choose another name.")


def _whole_numbers(array: np.ndarray, axes: int, end: int) -> np.ndarray:
    """Return an array of whole numbers from 0 to below `end` as int64; raise ValueError for any other array."""
    if array.dtype.kind not in "iu" or array.ndim != axes or not ((array >= 0) & (array < end)).all():
        raise ValueError(f"its {array.dtype} {list(array.shape)} should be whole numbers from 0 to {end - 1}")
    return array.astype(np.int64)


def _sha256_of(path: Path) -> str:
    try:
        with open(path, "rb", opener=files.open_regular) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} is damaged ({one_line(error)[:200]})") from error


def _read_whole_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint and check the CRC-32 of each part, which PyTorch does not do."""
    import torch

    content = files.read_regular(path)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_stored(archive)
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"CRC-32 of {damaged} differs")
    state = dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    values, seen = list[Any]([state]), dict[int, Any]()
    while values:
        value = values.pop()
        seen[id(value)] = value
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        values += (each for each in inner if id(each) not in seen)
    # With a stride of 0, one number in the file stands for any number of them. Layers may share weights.
    if sum(value.nbytes for value in seen.values() if isinstance(value, torch.Tensor)) > 2 * len(content):
        raise ValueError("its tensors are far larger than the file")
    return state


def _check_stored(archive: zipfile.ZipFile | None) -> None:
    """Raise ValueError if a part of an archive is compressed, and so may be far larger than the file."""
    if archive is None or any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
        raise ValueError("a part is compressed, which no file of a run is")


def now() -> str:
    """Return the time in UTC to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
