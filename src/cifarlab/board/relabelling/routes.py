"""Suspicious images as a queue, and the decisions on them as a table that `cifarlab train --labels` reads.

The table is never written into a data set of others: it stands beside a data set that was made on the board, and for
other data in the cache folder.
"""

import csv
import hashlib
import io
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from cifarlab import files
from cifarlab.board.answers import NotFoundError
from cifarlab.board.api import AppBoard
from cifarlab.board.images import to_png
from cifarlab.board.pages import page
from cifarlab.board.relabelling.searches import TABLE
from cifarlab.board.state import Board
from cifarlab.data.catalogue import load_data
from cifarlab.data.corrections import below, image_names, read_labels, write_labels
from cifarlab.data.dataset import Data
from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.recipes import PREPROCESSING, Resize, load, names, setting_text
from cifarlab.recipes.differences import differing_settings
from cifarlab.runs.folder import RunFolder

MOST_ISSUES = 500  # of a queue, the most suspicious first
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router = APIRouter(prefix="/api/relabel")
_NOT_SET = {"dataset", "seed", "labels", "drop", "merge", "name"}  # keys that have an option of their own
_SET_BY_WEIGHTS = {"model", "model_options", "size", *PREPROCESSING}  # keys that `start_from` decides
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
    failure: str
    """Why the latest search failed; empty if it did not."""
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
    named = _images(found)
    is_searching, failure = board.searches.state(folder)
    rows = []
    if (folder / TABLE).is_file():
        rows = list(csv.DictReader(io.StringIO(files.read_regular(folder / TABLE).decode())))
    shown = []
    for row in rows[:MOST_ISSUES]:
        image = below(row["image"], Path(named.data.path) if named.data.path else None)
        if image in named.places:
            decision = labels.get(image)
            reason = row["reason"].replace(f"{named.data.path}/", "") if named.data.path else row["reason"]
            shown.append(Suspect(kind=row["kind"], image=image, label=row["label"], reason=reason, decision=decision))
    return Suspects(
        is_searching=is_searching,
        has_searched=(folder / TABLE).is_file(),
        failure=failure,
        classes=named.data.classes,
        suspects=shown,
        table=str(table),
        command=shlex.join(["cifarlab", "train", *_arguments(found, table)]),
    )


@router.get("/image")
def image(board: AppBoard, run: str, image: str) -> Response:
    """Return an image of a run's data by its name."""
    named = _images(board.run(run))
    if image not in named.places:
        raise NotFoundError("there is no such image")
    part, number = named.places[image]
    pixels = getattr(named.data, part).images[number]
    return Response(to_png(pixels), media_type="image/png", headers={"Cache-Control": "no-cache"})


@router.post("/search", status_code=202)
def search(board: AppBoard, run: str) -> dict[str, str]:
    """Start `cifarlab data issues` for a run, in a process of its own."""
    found = board.run(run)
    _images(found)  # an error if the data has changed
    board.searches.start(found, _issues_folder(found))
    return {"asked": "search"}


@router.post("/decide")
def decide(board: AppBoard, decision: Decision) -> dict[str, str | None]:
    """Write a decision into the table, or take it out again."""
    found = board.run(decision.run)
    table = labels_table(board, found)
    with board.pictures.writing_labels:
        named = _images(found)
        if decision.image not in named.places:
            raise NotFoundError("there is no such image")
        if decision.label and decision.label not in named.data.classes:
            raise unknown("class", decision.label, named.data.classes)
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
        return board.pictures.labels_table(folder.name)
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
    not_set = _NOT_SET | (_SET_BY_WEIGHTS if recipe.start_from else set())
    for key, (_, value) in differing_settings(load(recipe.name), recipe).items():
        if key.partition(".")[0] not in not_set and value is not None:
            words += ["--set", setting_text(key, value)]
    return words


def _issues_folder(run: RunFolder) -> Path:
    digest = hashlib.sha256(f"{run.path.resolve()} {run.record.data.sha256}".encode()).hexdigest()[:16]
    return files.cache_folder() / "issues" / digest


@dataclass(frozen=True)
class _Images:
    """A data set with the labels that its files give, and the part and number of each image by its name."""

    data: Data
    places: dict[str, tuple[str, int]]


def _images(run: RunFolder) -> _Images:
    recipe = run.recipe
    return _load(recipe.dataset, recipe.size, recipe.resize, run.record.data.sha256, _folder_times(recipe.dataset))


@lru_cache(1)
def _load(name: str, size: int, resize: Resize, sha256: str, _: tuple[int, ...]) -> _Images:
    data = load_data(name, size=size, resize=resize, quiet=True)
    if data.sha256 != sha256:
        raise UsageError(f"the data set {one_line(name)[:200]} has changed since the training. Train again first.")
    names = image_names(data).items()
    return _Images(data, {image: (part, number) for part, images in names for number, image in enumerate(images)})


def _folder_times(name: str) -> tuple[int, ...]:
    """Return when files were last added to a folder of images or moved in it; `_load` then reads it again."""
    folder = Path(name.removeprefix("folder:"))
    if not name.startswith("folder:") or not folder.is_dir():
        return ()
    return tuple(each.stat().st_mtime_ns for each in [folder, *sorted(folder.iterdir())] if each.is_dir())
