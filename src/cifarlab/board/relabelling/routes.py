"""Suspicious images as a queue, and the decisions on them as a table that `cifarlab train --labels` reads.

The table is never written into a data set of others: it stands beside a data set that was made on the board, and for
other data in the cache folder.
"""

import csv
import hashlib
import io
import shlex
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from cifarlab import files
from cifarlab.board.answers import BusyError, NotFoundError
from cifarlab.board.api import AppBoard
from cifarlab.board.images import to_png
from cifarlab.board.pages import page
from cifarlab.board.resuming import start
from cifarlab.board.state import Board
from cifarlab.data.catalogue import load_data
from cifarlab.data.corrections import image_names, read_labels, write_labels
from cifarlab.data.dataset import Data
from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.recipes import PREPROCESSING, load, names, setting_text
from cifarlab.recipes.differences import differing_settings
from cifarlab.runs.folder import RunFolder

MOST_ISSUES = 500  # of a queue, the most suspicious first
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router = APIRouter(prefix="/api/relabel")
# Keys that a training takes from its data set, its start weights or an option of their own.
_NOT_SET = {"dataset", "seed", "labels", "drop", "merge", "name", "model", "model_options", "size", "start_from"}
_NOT_SET |= {*PREPROCESSING}
_changing = threading.Lock()
_searches: dict[Path, subprocess.Popen[bytes]] = {}
Name = Annotated[str, Field(max_length=1_000)]


class Suspect(BaseModel, frozen=True):
    """A suspicious image, and the label that it got on this page: None before a decision, empty to leave it out."""

    kind: str
    image: str
    label: str
    reason: str
    decision: str | None


class Suspects(BaseModel, frozen=True):
    """The queue of a run's suspicious images, and the command that trains with the decisions."""

    is_searching: bool
    has_searched: bool
    classes: tuple[str, ...]
    suspects: list[Suspect]
    table: str
    command: str


class Decision(BaseModel, extra="forbid"):
    """The label of an image; an empty one leaves the image out, and None takes the decision back."""

    run: Name
    image: Name
    label: Annotated[str | None, Field(max_length=300)]


@pages.get("/relabel")
def relabel(request: Request, board: AppBoard, run: str = "") -> HTMLResponse:
    """Show the runs whose data can be searched, or the queue of one of them."""
    finished = [row.name for row in board.rows() if row.status == "finished"]
    chosen = board.run(run).name if run else ""
    return page(request, "relabel", names=finished, chosen=chosen)


@router.get("")
def suspects(board: AppBoard, run: str) -> Suspects:
    """Return the suspicious images of a run's data with the decisions on them."""
    found = board.run(run)
    folder, table = _issues_folder(found), labels_table(board, found)
    labels = read_labels(table) if table.exists() else {}
    data = _data(found)
    known = {name for part in image_names(data).values() for name in part}
    process = _searches.get(folder)
    rows = []
    if (folder / "issues.csv").is_file():
        rows = list(csv.DictReader(io.StringIO(files.read_regular(folder / "issues.csv").decode())))
    shown = []
    for row in rows[:MOST_ISSUES]:
        image = _below(data, row["image"])
        if image in known:
            decision = labels.get(image)
            shown.append(
                Suspect(kind=row["kind"], image=image, label=row["label"], reason=row["reason"], decision=decision)
            )
    return Suspects(
        is_searching=process is not None and process.poll() is None,
        has_searched=(folder / "issues.csv").is_file(),
        classes=data.classes,
        suspects=shown,
        table=str(table),
        command=shlex.join(["cifarlab", "train", *_arguments(found, table)]),
    )


@router.get("/image")
def image(board: AppBoard, run: str, image: str) -> Response:
    """Return an image of a run's data by its name."""
    data = _data(board.run(run))
    for part, known in image_names(data).items():
        if image in known:
            pixels = getattr(data, part).images[known.index(image)]
            return Response(to_png(pixels), media_type="image/png", headers={"Cache-Control": "no-cache"})
    raise NotFoundError("there is no such image")


@router.post("/search", status_code=202)
def search(board: AppBoard, run: str) -> dict[str, str]:
    """Start `cifarlab data issues` for a run, in a process of its own."""
    found = board.run(run)
    _data(found)
    folder = _issues_folder(found)
    with _changing:
        if any(process.poll() is None for process in _searches.values()):
            raise BusyError("another search is running. Wait until it ends.")
        files.make_folder(folder.parent)
        with tempfile.TemporaryFile() as errors:
            path = str(found.path.resolve())
            _searches[folder] = start(["data", "issues", path, "--out", str(folder), "--force"], errors)
    return {"asked": "search"}


@router.post("/decide")
def decide(board: AppBoard, decision: Decision) -> dict[str, str | None]:
    """Write a decision into the table, or take it out again."""
    found = board.run(decision.run)
    data, table = _data(found), labels_table(board, found)
    if decision.image not in {name for part in image_names(data).values() for name in part}:
        raise NotFoundError("there is no such image")
    if decision.label and decision.label not in data.classes:
        raise unknown("class", decision.label, data.classes)
    with _changing:
        labels = read_labels(table) if table.exists() else {}
        labels.pop(decision.image, None)
        if decision.label is not None:
            labels[decision.image] = decision.label
        files.make_folder(table.parent)
        write_labels(table, labels)
    return {decision.image: decision.label}


@router.post("/train", status_code=202)
def train(board: AppBoard, run: str) -> dict[str, str]:
    """Put a training by the run's recipe with the corrected labels into the queue."""
    found = board.run(run)
    table = labels_table(board, found)
    if not table.exists() or not read_labels(table):
        raise UsageError("no label is corrected yet")
    training = board.trainings.add(_arguments(found, table))
    return {"name": training.name, "command": training.command}


def labels_table(board: Board, run: RunFolder) -> Path:
    """Return the table of corrected labels for a run's data set."""
    name = run.recipe.dataset
    folder = Path(name.removeprefix("folder:"))
    if name.startswith("folder:") and folder.parent == board.pictures.folder:
        return folder.with_name(f"{folder.name}.labels.csv")
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return files.cache_folder() / "labels" / f"{digest}.csv"


def _arguments(run: RunFolder, table: Path) -> list[str]:
    """Return the arguments of a training like the run's, with corrected labels."""
    recipe = run.recipe
    if recipe.name not in names():
        raise UsageError(f"the run's recipe {recipe.name!r} is not one of cifarlab's: train with --labels {table}")
    words = [recipe.name, "--data", recipe.dataset, "--labels", str(table), "--seed", str(recipe.seed)]
    words += [word for name in recipe.drop for word in ("--drop", name)]
    words += [word for pair in recipe.merge.items() for word in ("--merge", "=".join(pair))]
    for key, (_, value) in differing_settings(load(recipe.name), recipe).items():
        if key.partition(".")[0] not in _NOT_SET and value is not None:
            words += ["--set", setting_text(key, value)]
    return words


def _issues_folder(run: RunFolder) -> Path:
    digest = hashlib.sha256(f"{run.path.resolve()} {run.record.data.sha256}".encode()).hexdigest()[:16]
    return files.cache_folder() / "issues" / digest


def _data(run: RunFolder) -> Data:
    """Return the data set of a run, with the labels that its files give."""
    return _load(run.recipe.dataset, run.recipe.size, run.record.data.sha256)


@lru_cache(1)
def _load(name: str, size: int, sha256: str) -> Data:
    data = load_data(name, size=size, quiet=True)
    if data.sha256 != sha256:
        raise UsageError(f"the data set {one_line(name)[:200]} has changed since the training. Train again first.")
    return data


def _below(data: Data, name: str) -> str:
    """Return an image's name in a table of issues as corrections name the image."""
    root = Path(data.path)
    return Path(name).relative_to(root).as_posix() if data.path and Path(name).is_relative_to(root) else name
