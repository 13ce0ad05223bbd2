"""What the board shows and does, without HTTP: reads run folders, predicts, stops and resumes.

Training never happens in this process: `resume` starts another, `stop` leaves word in the run's folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures
from cifarlab.board.predictor import Predictor, Question
from cifarlab.board.worker import png
from cifarlab.data.dataset import Dataset
from cifarlab.data.parts import load_parts
from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.inference import weights
from cifarlab.recipes import check
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import PRETRAINED, is_run, list_runs
from cifarlab.statistics import metrics

MOST_CELL_IMAGES = 60  # that a click on a cell brings


class NotFound(UsageError):
    """There is no such run."""


class Board:
    """A folder of runs, with what was read of it lately."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._rows: dict[Path, tuple[object, dict[str, Any]]] = {}
        self._resumed: dict[str, subprocess.Popen[bytes]] = {}
        self.predictor = Predictor()
        self.uploaded = 0
        """Bytes of pictures that come in or wait."""
        self.watched = 0
        """Streams of events that are open."""
        self._reading = threading.Lock()  # many images are asked for at once, and one reading does for all
        self._parts = lru_cache(maxsize=2)(_parts)

    def rows(self) -> list[dict[str, Any]]:
        """What the page of runs shows, the newest first. A run is read again only when it has changed."""
        rows = [self._row(path.parent) for path in self.runs.glob("*/run.json")]
        return sorted(rows, key=lambda row: (str(row.get("created", "")), row["name"]), reverse=True)

    def _row(self, path: Path) -> dict[str, Any]:
        stamp = _stamp(path, "run.json", "metrics.csv")
        cached = self._rows.get(path)
        if cached is None or cached[0] != stamp:
            cached = (stamp, _summary(RunFolder(path)))
            self._rows[path] = cached
        row = cached[1]
        return row | {"status": RunFolder(path).status} if row["status"] == "running" else row

    def run(self, name: str) -> RunFolder:
        """A run by its name under the folder of runs.

        Raises:
            NotFound: there is none, or the name is a path.
        """
        if name != Path(name).name or name == ".." or not is_run(self.runs / name):
            raise NotFound(str(unknown("run", name, [path.name for path in list_runs(self.runs)])))
        return RunFolder(self.runs / name)

    def state(self, name: str) -> dict[str, Any]:
        """What changes while a run trains."""
        run = self.run(name)
        history, status = run.history, run.status
        return {
            "status": status,
            "reason": run.record.reason,
            "held_out": run.held_out,
            "epochs": run.record.recipe.epochs,
            "epochs_done": len(history),
            "progress": run.progress.model_dump() if status == "running" else {},
            "stopping": run.is_asked_to_stop and status == "running",
            "results": run.results,
            "last": asdict(history[-1]) if history else None,
            "log": run.log,
        }

    def stamp(self, name: str) -> object:
        """Differs whenever `state` does."""
        run = self.run(name)
        return (_stamp(run.path, "run.json", "metrics.csv", "progress.json", "stop", "log.txt"), run.status)

    def confusions(self, name: str) -> dict[str, Any]:
        """Every epoch's confusion matrix on the images held out, and that on the test images once there is one."""
        run = self.run(name)
        classes = run.record.data.classes
        found: dict[str, Any] = {"classes": classes, "held_out": run.held_out, "test": None}
        found["epochs"] = run.confusion.tolist()
        if run.predictions is not None:
            logits, labels = run.predictions
            found["test"] = metrics.confusion_matrix(labels, logits.argmax(1), len(classes)).tolist()
        return found

    def curves(self, name: str) -> Figure:
        """Loss and accuracy of all epochs so far.

        Raises:
            UsageError: no such run, or it has no epoch yet.
        """
        run = self.run(name)
        columns = run.columns
        if not columns["epoch"]:
            raise UsageError(f"the run {name!r} has no epoch yet")
        return figures.learning_curves(columns, run.held_out)

    def confusion(self, name: str, epoch: int | None) -> Figure:
        """The confusion matrix of an epoch, counted from 1, or of the test.

        Raises:
            UsageError: there is none.
        """
        found = self.confusions(name)
        matrix = found["test"] if epoch is None else dict(enumerate(found["epochs"], start=1)).get(epoch)
        if matrix is None:
            raise UsageError(f"the run {name!r} has no such confusion matrix")
        counts = np.array(matrix, dtype=np.int64)
        what = "Test images" if epoch is None else f"{self.run(name).held_out.capitalize()} images after epoch {epoch}"
        return figures.confusion_matrix(counts, found["classes"], f"{what}: accuracy {metrics.accuracy(counts):.2%}")

    def cell(self, name: str, epoch: int | None, true: int, predicted: int) -> dict[str, Any]:
        """Numbers of the images behind a cell of a confusion matrix.

        Args:
            name: of the run.
            epoch: counts from 1; None for the test images.
            true: a class's number.
            predicted: a class's number.

        Raises:
            UsageError: no such run, epoch or class, or no predictions yet.
        """
        run = self.run(name)
        classes = len(run.record.data.classes)
        if not (0 <= true < classes and 0 <= predicted < classes):
            raise UsageError(f"classes are 0 to {classes - 1}")
        part, labels, said = self._answers(run, epoch)
        which = np.flatnonzero((labels == true) & (said == predicted))
        return {"part": part, "count": len(which), "images": which[:MOST_CELL_IMAGES].tolist()}

    def of_class(self, name: str, number: int) -> dict[str, Any]:
        """A class's figures on the test images, and its mistakes both ways, the surest first."""
        run = self.run(name)
        classes = tuple(run.record.data.classes)
        if not 0 <= number < len(classes):
            raise UsageError(f"classes are 0 to {len(classes) - 1}")
        if run.predictions is None:
            raise UsageError(f"the run {run.name!r} is not tested yet")
        logits, labels = run.predictions
        confidence, said = metrics.probabilities(run.scale_logits(logits)).max(axis=1), logits.argmax(axis=1)
        matrix = metrics.confusion_matrix(labels, said, len(classes))

        def mistakes(which: np.ndarray) -> list[dict[str, Any]]:
            places = np.flatnonzero(which)
            surest = places[np.argsort(-confidence[places], kind="stable")][:MOST_CELL_IMAGES]
            return [
                {
                    "image": int(place),
                    "true": classes[labels[place]],
                    "said": classes[said[place]],
                    "probability": float(confidence[place]),
                }
                for place in surest
            ]

        return {
            "figures": asdict(metrics.per_class(matrix, classes)[number]),
            "missed": mistakes((labels == number) & (said != number)),
            "wrongly_called": mistakes((labels != number) & (said == number)),
        }

    def image(self, name: str, part: str, number: int) -> bytes:
        """An image of a run's data as a PNG.

        Args:
            name: of the run.
            part: `validation` or `test`.
            number: of the image in that part.

        Raises:
            UsageError: no such run or image.
        """
        images = self._part(self.run(name), part)
        if not 0 <= number < len(images):
            raise UsageError(f"{part} images are 0 to {len(images) - 1}")
        return png(images.images[number])

    def targets(self) -> list[str]:
        """What can predict: shipped weights, then finished runs, the newest first."""
        finished = [str(row["name"]) for row in self.rows() if row["status"] == "finished"]
        return [f"{PRETRAINED}{name}" for name in weights.names()] + finished

    async def predict(self, target: str, content: bytes, *, explain: bool) -> bytes:
        """What a picture file shows in the eyes of a run or of shipped weights, as a JSON document.

        Raises:
            UsageError: no such target, or not a picture.
            Busy: too many are waiting.
        """
        stamp: object = None
        if not target.startswith(PRETRAINED):
            run = self.run(target)
            target, stamp = str(run.path), _stamp(run.path, "run.json", "best.safetensors", "last.safetensors")
        return await self.predictor.answer(Question(target, stamp, explain, content))

    def stop(self, name: str) -> None:
        """Asks a training to save everything and end.

        Raises:
            UsageError: the run is not being trained.
        """
        run = self.run(name)
        if run.status != "running":
            raise UsageError(f"the run {name!r} is {run.status}, not running")
        run.ask_to_stop()

    def resume(self, name: str) -> None:
        """Goes on with a stopped training, in a process of its own.

        Raises:
            UsageError: the run is running or finished.
        """
        run, began = self.run(name), self._resumed.get(name)
        if run.status in ("running", "finished"):
            raise UsageError(f"the run {name!r} is {run.status}")
        if began is not None and began.poll() is None:
            raise UsageError(f"the run {name!r} is being resumed")
        command = [sys.executable, "-m", "cifarlab", "resume", str(run.path.resolve())]
        null = subprocess.DEVNULL
        said = tempfile.TemporaryFile()  # noqa: SIM115  # no pipe: the training outlives the board; `_wait` closes it
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=said, start_new_session=True)
        self._resumed[name] = process
        threading.Thread(target=_wait, args=(process, said, run), daemon=True).start()

    def _answers(self, run: RunFolder, epoch: int | None) -> tuple[str, np.ndarray, np.ndarray]:
        """Which images, their labels, and what they were taken for."""
        if epoch is None:
            if run.predictions is None:
                raise UsageError(f"the run {run.name!r} is not tested yet")
            logits, labels = run.predictions
            return "test", labels, logits.argmax(axis=1)
        predicted = run.predicted
        if not 1 <= epoch <= len(predicted):
            raise UsageError(f"the run {run.name!r} has kept its answers of epochs 1 to {len(predicted)}")
        return "validation", self._part(run, "validation").labels, predicted[epoch - 1]

    def _part(self, run: RunFolder, part: str) -> Dataset:
        with self._reading:
            parts = self._parts(run.recipe.model_dump_json(), run.record.data.sha256)
        if part not in parts:
            raise UsageError("images are of validation or test")
        return parts[part]


def _wait(process: subprocess.Popen[bytes], said: IO[bytes], run: RunFolder) -> None:
    """Sees a resumed training to its end, and leaves its last word in the run's log where that is an error."""
    with said:
        if process.wait() in (1, 2):
            said.seek(0)
            run.write_log(said.read().decode(errors="replace").strip().rpartition("\n")[2])


def _parts(described: str, sha256: str) -> dict[str, Dataset]:
    recipe = check(json.loads(described), "run.json")
    _, parts = load_parts(recipe, sha256=sha256, fetch=False)
    return {"validation": parts.validation, "test": parts.test}  # nobody looks at training images here


def _summary(run: RunFolder) -> dict[str, Any]:
    best: Callable[..., float | None] = max
    try:
        record, history = run.record, run.history
        return {
            "name": run.name,
            "status": run.status,
            "recipe": record.recipe.name,
            "model": record.recipe.model,
            "dataset": record.data.name,
            "seed": record.seed,
            "epochs": record.recipe.epochs,
            "epochs_done": len(history),
            "validation_accuracy": best((row.validation_accuracy for row in history), default=None),
            "test_accuracy": run.results.get("test_accuracy"),
            "train_seconds": sum(row.train_seconds for row in history),
            "created": record.created,
        }
    except (
        UsageError,
        OSError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:  # written by something else, or just deleted
        return {"name": run.name, "status": "damaged", "reason": one_line(error)}


def _stamp(folder: Path, *names: str) -> tuple[tuple[int, int] | None, ...]:
    found: list[tuple[int, int] | None] = []
    for name in names:
        try:
            about = (folder / name).stat()
            found.append((about.st_mtime_ns, about.st_size))
        except OSError:
            found.append(None)
    return tuple(found)
