"""The page where data sets of one's own pictures are made, and its JSON interface."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from cifarlab.board.api import AppBoard
from cifarlab.board.pages import page
from cifarlab.board.pictures.store import PictureSet, SetFinding
from cifarlab.board.predictions import FORM, LARGEST_BATCH, files_in_form
from cifarlab.errors import UsageError

MOST_FILES = 20  # of one upload; the page sends more in several uploads
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router = APIRouter(prefix="/api/pictures")
Name = Annotated[str, Field(max_length=300)]


class NewName(BaseModel, extra="forbid"):
    """The name of a new data set or class."""

    name: Name


class Renaming(BaseModel, extra="forbid"):
    """A class and its new name; an empty new name removes the class."""

    label: Name
    name: Name = ""


class Moving(BaseModel, extra="forbid"):
    """Pictures, each CLASS/FILE, and the class that they move to; an empty class removes them."""

    pictures: Annotated[list[Name], Field(max_length=5_000)]
    label: Name = ""


@pages.get("/pictures")
def pictures(request: Request, board: AppBoard, name: str = "") -> HTMLResponse:
    """Show the data sets, or one of them to work on."""
    chosen = board.pictures.read(name) if name else None
    return page(request, "pictures", names=board.pictures.names(), chosen=chosen, folder=str(board.pictures.folder))


@router.get("")
def sets(board: AppBoard) -> list[str]:
    """Return the names of the data sets of pictures."""
    return board.pictures.names()


@router.post("", status_code=201)
def create(board: AppBoard, new: NewName) -> PictureSet:
    """Make an empty data set."""
    return board.pictures.create(new.name)


@router.get("/{name}")
def read(board: AppBoard, name: str) -> PictureSet:
    """Return the classes and pictures of a data set."""
    return board.pictures.read(name)


@router.get("/{name}/findings")
def findings(board: AppBoard, name: str) -> list[SetFinding]:
    """Return what `cifarlab data check` finds in a data set."""
    return board.pictures.check(name)


@router.get("/{name}/classes/{label}/{file}")
def picture(board: AppBoard, name: str, label: str, file: str) -> Response:
    """Return a picture."""
    headers = {"Cache-Control": "no-cache"}
    return Response(board.pictures.picture(name, label, file), media_type="image/png", headers=headers)


@router.post("/{name}/classes", status_code=201)
def add_class(board: AppBoard, name: str, new: NewName) -> PictureSet:
    """Add a class."""
    return board.pictures.add_class(name, new.name)


@router.post("/{name}/rename")
def rename_class(board: AppBoard, name: str, renaming: Renaming) -> PictureSet:
    """Rename a class, or remove it with its pictures."""
    if renaming.name:
        return board.pictures.rename_class(name, renaming.label, renaming.name)
    return board.pictures.remove_class(name, renaming.label)


@router.post("/{name}/add", openapi_extra=FORM)
async def add(request: Request, board: AppBoard, name: str, label: str) -> dict[str, Any]:
    """Add the pictures of a form to a class; return the data set, and why files were refused, by their names."""
    async with board.predictions.upload(request, LARGEST_BATCH, "the pictures of one request") as body:
        uploads = files_in_form(request.headers.get("content-type", ""), body)
        if len(uploads) > MOST_FILES:
            raise UsageError(f"a request may have at most {MOST_FILES} pictures, got {len(uploads)}")
        refused = await run_in_threadpool(board.pictures.add, name, label, uploads)
    return {"refused": refused, "set": await run_in_threadpool(board.pictures.read, name)}


@router.post("/{name}/move")
def move(board: AppBoard, name: str, moving: Moving) -> PictureSet:
    """Move pictures into another class, or remove them."""
    return board.pictures.move(name, moving.pictures, moving.label)


@router.post("/{name}/undo")
def undo(board: AppBoard, name: str) -> PictureSet:
    """Undo the last change."""
    return board.pictures.undo(name)


@router.post("/{name}/train", status_code=202)
def train(board: AppBoard, name: str) -> dict[str, str]:
    """Put a training with the corrected labels into the queue; cifarlab chooses the recipe that suits so few images."""
    data_set = board.pictures.read(name)
    if empty := [label for label, files in data_set.classes.items() if len(files) < 2]:
        raise UsageError(f"every class needs at least two pictures, one of them for the test; {empty[0]!r} has fewer")
    if len(data_set.classes) < 2:
        raise UsageError(f"training needs at least two classes, got {len(data_set.classes)}")
    labels = ["--labels", str(board.pictures.labels_table(name))] if board.pictures.labels(name) else []
    training = board.trainings.add(["--data", data_set.data, *labels])
    return {"name": training.name, "command": training.command}
