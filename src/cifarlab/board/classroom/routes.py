"""The pages of a class and their JSON interface: join, hand in weights, and see the scoreboard."""

import asyncio
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from cifarlab.board.answers import BusyError, NotFoundError
from cifarlab.board.api import AppBoard
from cifarlab.board.children import run_child
from cifarlab.board.classroom.scoreboard import Classroom, Row, Try
from cifarlab.board.pages import page
from cifarlab.errors import UsageError
from cifarlab.runs.folder import now

LARGEST_WEIGHTS = 200_000_000  # bytes of a file
MOST_WAITING = 8  # files that are received, wait, or are evaluated at once
MOST_SECONDS = 600  # for an evaluation, and for sending a file
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router = APIRouter(prefix="/api/class")


def get_classroom(board: AppBoard) -> Classroom:
    """Return the class of the board."""
    if board.classroom is None:
        raise NotFoundError("this board has no class. Start it with: cifarlab board --class FOLDER")
    return board.classroom


Class = Annotated[Classroom, Depends(get_classroom)]
Key = Annotated[str, Header(alias="X-Student-Key", max_length=100)]
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Scoreboard(BaseModel):
    """The students of a class, the highest accuracy first."""

    images: int
    most_tries: int
    rows: list[Row]


class Membership(BaseModel):
    """A student's name and key."""

    name: str
    key: str


@pages.get("/class")
def class_page(request: Request, classroom: Class) -> HTMLResponse:
    """Show the scoreboard, for a projector."""
    return page(request, "scoreboard", classroom=classroom)


@pages.get("/class/hand-in")
def hand_in_page(request: Request, classroom: Class) -> HTMLResponse:
    """Let a student join and hand in weights."""
    return page(request, "hand-in", classroom=classroom)


@router.get("")
def scores(classroom: Class) -> Scoreboard:
    """Return the scoreboard."""
    return Scoreboard(images=classroom.images, most_tries=classroom.most_tries, rows=classroom.rows())


@router.post("/join", status_code=201)
def join(classroom: Class, name: Annotated[str, Query(max_length=200)]) -> Membership:
    """Add a student, and return the key with which only this student hands in."""
    key = classroom.join(name)
    return Membership(name=classroom.check(key).name, key=key)


@router.post("/weights", openapi_extra=BODY)
async def hand_in(
    request: Request, board: AppBoard, classroom: Class, key: Key, format: Literal["safetensors", "onnx"]
) -> Scoreboard:
    """Evaluate the weights file in the body of the request, as a try of the student with this key."""
    student = await run_in_threadpool(classroom.check, key)
    classroom.check_tries(student)
    if student.key_sha256 in board.handing_in:
        raise UsageError("your last file is still being evaluated. Wait for its result.")
    if len(board.handing_in) >= MOST_WAITING:
        raise BusyError("many files are being evaluated. Try again in a minute.")
    board.handing_in.add(student.key_sha256)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"weights.{format}"  # no name comes from the browser
            sha256 = await _receive(request, path)
            async with board.evaluating:
                if sha256 not in [each.sha256 for each in student.tries]:  # the same file again is no new try
                    result = await _evaluate(path, classroom.data)
                    tried = Try.model_validate(result | {"when": now(), "sha256": sha256})
                    await run_in_threadpool(classroom.add, key, tried)
    finally:
        board.handing_in.discard(student.key_sha256)
    return await run_in_threadpool(scores, classroom)


@router.post("/remove")
def remove(classroom: Class, name: Annotated[str, Query(max_length=200)]) -> Scoreboard:
    """Remove a student with all tries, which needs the teacher's token."""
    classroom.remove(name)
    return scores(classroom)


async def _receive(request: Request, path: Path) -> str:
    """Write the body of a request to a file, and return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        async with asyncio.timeout(MOST_SECONDS):
            with open(path, "wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > LARGEST_WEIGHTS:
                        raise UsageError(f"a weights file may have at most {LARGEST_WEIGHTS // 1_000_000} MB")
                    digest.update(chunk)
                    file.write(chunk)
    except TimeoutError as error:
        raise UsageError(f"sending the file takes more than {MOST_SECONDS} seconds") from error
    except ClientDisconnect as error:
        raise UsageError("the client left before the upload was complete") from error
    if not size:
        raise UsageError("the body of the request must be the weights file, and is empty")
    return digest.hexdigest()


async def _evaluate(path: Path, data: str) -> dict[str, object]:
    """Evaluate a weights file in a child process with limits."""
    try:
        ended = await run_child(["cifarlab.board.classroom.child", str(path), data], MOST_SECONDS)
    except TimeoutError as error:
        raise UsageError(f"evaluating the file takes more than {MOST_SECONDS} seconds") from error
    try:
        answer: dict[str, object] = json.loads(ended.output)
    except ValueError as error:
        raise UsageError("the file needs more memory or time than an evaluation may take") from error
    if "error" in answer:
        raise UsageError(str(answer["error"]))
    return answer
