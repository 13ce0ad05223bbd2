"""Classify any number of image files into a table (CSV), a batch at a time, and continue a table that is not complete.

A row holds the file's name, the answer, or why the file cannot be read, and the network that answered. Rows are written
after each batch, so that a kill loses one batch at most, and the images of one batch are in memory.
"""

import contextlib
import csv
import hashlib
import io
import json
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cifarlab import files
from cifarlab.data.dataset import stacked
from cifarlab.data.image_files import read_image
from cifarlab.errors import CifarlabError, Interrupted, UsageError, one_line, readable
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import predict
from cifarlab.inference.targets import files_of
from cifarlab.progress import task
from cifarlab.runs.folder import check_new

COLUMNS = ("image", "label", "probability", "sure", "error", "network")  # before a column for each class
BATCH = 128  # images
DIGITS = 6  # of a probability
IDENTITY = 16  # hexadecimal digits that identify the network and the options


@dataclass(frozen=True)
class TableSummary:
    """A table of predictions and what its rows say."""

    path: str
    images: int = 0  # that were classified
    not_sure: int = 0  # of them
    unreadable: int = 0  # files
    continued: int = 0  # rows that were there before

    def plus(self, rows: Iterable[Sequence[object]]) -> "TableSummary":
        """Return the summary of a table to which rows were added."""
        answers, errors = [row[3] for row in rows if not row[4]], sum(bool(row[4]) for row in rows)
        return replace(
            self,
            images=self.images + len(answers),
            not_sure=self.not_sure + answers.count("false"),
            unreadable=self.unreadable + errors,
        )


def write_predictions(
    classifier: Classifier, sources: Sequence[Path], out: Path, *, tta: bool, sure: float, force: bool, quiet: bool
) -> TableSummary:
    """Classify files, all files of folders and the files that patterns match, and write a row for each to `out`.

    Rows of the same network and options that are in `out` already are kept, and their files are not read again.

    Args:
        classifier: the network.
        sources: files, folders and patterns.
        out: the table. Its columns are `COLUMNS` and the probability of each class.
        tta: use test-time augmentation.
        sure: an image is sure if the calibrated probability of its likeliest class is at least this.
        force: replace an existing file instead of continuing it.
        quiet: show no progress.

    Raises:
        UsageError: a source does not exist, or `out` is not a table of this network and these options.
    """
    check_new(out, force=True)
    head = (*COLUMNS, *classifier.classes)
    identity = _identity(classifier, tta, sure)
    images = _images(sources, out)
    if force or not out.exists():
        files.write_text(out, _lines([head]))
    try:
        with out.open("r+b") as table, _only_writer(table, out):
            names, summary, end = _rows_of(table, head, identity, out)
            table.seek(end)
            table.truncate()  # a row that was cut by a kill
            left = [(name, path) for name, path in images.items() if name not in names]
            with task("predicting", len(images), quiet=quiet, already_done=len(images) - len(left)) as progress:
                for start in range(0, len(left), BATCH):
                    rows = _classify(classifier, dict(left[start : start + BATCH]), tta, sure, identity)
                    table.write(_lines(rows).encode(errors="replace"))
                    table.flush()
                    summary = summary.plus(rows)
                    progress.advance(len(rows))
    except OSError as error:
        raise CifarlabError(f"cannot write {out}: {error.strerror or error}. The same command continues it.") from error
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by SIGINT: the same command continues {out}", signal.SIGINT) from None
    return summary


def _identity(classifier: Classifier, tta: bool, sure: float) -> str:
    """Return a short checksum of all that decides an answer beside the picture."""
    settings = asdict(classifier.preprocess.settings)
    facts = (classifier.sha256, classifier.classes, classifier.size, settings, classifier.temperature, tta, sure)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:IDENTITY]


def _images(sources: Sequence[Path], out: Path) -> dict[str, Path]:
    """Return the files to classify by their names in the table, each once; the table itself is none of them."""
    images: dict[str, Path] = {}
    for source in map(Path, map(files.with_home, sources)):
        paths = files_of(source)
        if paths == [source] and not source.is_file():
            lacking = "there is no image in" if source.is_dir() else "there is no image or folder"
            raise UsageError(f"{lacking} {one_line(source)!r}")
        images |= {readable(path): path for path in paths}
    if out.exists():
        with out.open("rb") as file:
            is_table = file.read(100).startswith(",".join(COLUMNS).encode())
        for name in [name for name, path in images.items() if path.exists() and path.samefile(out)]:
            if not is_table:
                raise UsageError(f"--out {str(out)!r}: is one of the images to classify; give the table another name")
            del images[name]
    return images


@contextlib.contextmanager
def _only_writer(table: BinaryIO, out: Path) -> Iterator[None]:
    """Keep other processes from writing the same table, where the system has such locks."""
    with contextlib.suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(table, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"--out {str(out)!r}: another process is writing it; wait until it ends") from error
    yield


def _rows_of(table: BinaryIO, head: Sequence[str], identity: str, out: Path) -> tuple[set[str], TableSummary, int]:
    """Return the names in a table, a summary of its rows, and the number of bytes of its complete lines."""
    names, summary, end = set[str](), TableSummary(str(out)), 0
    place, remedy = f"--out {str(out)!r}", "choose another name, or replace the file with --force"

    def complete_lines() -> Iterator[str]:
        nonlocal end
        for line in table:
            if line.endswith(b"\n"):
                end += len(line)
                yield line.decode(errors="replace")

    try:
        rows = csv.reader(complete_lines())
        if (found := next(rows, [])) != list(head):
            is_ours = tuple(found[: len(COLUMNS)]) == COLUMNS
            kind = "has the answers of a network with other classes" if is_ours else "is not a table of predictions"
            raise UsageError(f"{place}: {kind}; {remedy}")
        for row in rows:
            if len(row) != len(head):
                raise UsageError(f"{place}: line {rows.line_num} has {len(row)} cells, not {len(head)}; {remedy}")
            if row[COLUMNS.index("network")] != identity:
                raise UsageError(f"{place}: has answers of another network, or with another --tta or --sure; {remedy}")
            names.add(row[0])
            summary = summary.plus([row])
    except csv.Error as error:
        raise UsageError(f"{place}: is not a table of predictions ({error}); {remedy}") from error
    return names, replace(summary, continued=len(names)), end


def _classify(
    classifier: Classifier, images: Mapping[str, Path], tta: bool, sure: float, identity: str
) -> list[list[object]]:
    """Return the rows of some files, which are in memory together."""
    pixels, errors = dict[str, np.ndarray](), dict[str, str]()
    for name, path in images.items():
        try:
            pixels[name] = read_image(path, classifier.size, resize=classifier.resize)
        except UsageError as error:
            errors[name] = one_line(error).removeprefix(f"{one_line(path)}: ")
    answers = predict(classifier, stacked(list(pixels.values())), tta=tta) if pixels else ()
    probabilities = dict(zip(pixels, answers, strict=True))
    rows: list[list[object]] = []
    for name in images:
        if name in errors:
            rows.append([name, "", "", "", errors[name], identity, *("" for _ in classifier.classes)])
            continue
        row = probabilities[name]
        best = int(row.argmax())
        is_sure = str(bool(row[best] >= sure)).lower()
        numbers = [f"{value:.{DIGITS}g}" for value in (row[best], *row)]
        rows.append([name, classifier.classes[best], numbers[0], is_sure, "", identity, *numbers[1:]])
    return rows


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
