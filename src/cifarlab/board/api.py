"""The board's JSON interface: runs, figures and images, orders, predictions, and events while a run trains."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from matplotlib.figure import Figure
from starlette.concurrency import run_in_threadpool

from cifarlab import figures
from cifarlab.board.predictor import Busy
from cifarlab.board.state import Board
from cifarlab.errors import UsageError
from cifarlab.report.comparing import held_out_names

SECONDS_BETWEEN_LOOKS = 0.5  # at the folder of a run that somebody watches
LARGEST_UPLOAD = 20_000_000  # bytes
MOST_UPLOADED = 200_000_000  # bytes of pictures that come in or wait, of all visitors
MOST_WATCHED = 100  # streams of events
_DRAWING = threading.Lock()  # matplotlib's settings are the whole process's


async def _of(request: Request) -> Board:  # async, because FastAPI gives every other function a thread
    board: Board = request.app.state.board
    return board


OfApp = Annotated[Board, Depends(_of)]
router = APIRouter(prefix="/api")


@router.get("/runs")
def runs(board: OfApp) -> list[dict[str, Any]]:
    """All runs, the newest first."""
    return board.rows()


@router.get("/runs/{name}")
def run(board: OfApp, name: str) -> dict[str, Any]:
    """What run.json holds, what changes while the run trains, and every epoch's figures."""
    found = board.run(name)
    return {"record": found.record.to_json(), **board.state(name), "history": [asdict(row) for row in found.history]}


@router.get("/runs/{name}/events")
async def events(request: Request, board: OfApp, name: str) -> StreamingResponse:
    """The run's state as server-sent events: at once, and after every change; the log when there is more of it."""
    board.run(name)
    if board.watched >= MOST_WATCHED:
        raise Busy("too many pages are watching runs")
    return StreamingResponse(_changes(request, board, name), media_type="text/event-stream")


async def _changes(request: Request, board: Board, name: str) -> AsyncIterator[str]:
    last: object = None
    log = ""
    board.watched += 1
    try:
        while not await request.is_disconnected():
            stamp = await run_in_threadpool(board.stamp, name)
            if stamp != last:
                last, state = stamp, await run_in_threadpool(board.state, name)
                log, grown = state["log"], state["log"] != log
                yield f"data: {json.dumps(state if grown else {**state, 'log': None})}\n\n"
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        board.watched -= 1


@router.get("/runs/{name}/confusions")
def confusions(board: OfApp, name: str, after: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
    """Confusion matrices of all epochs after some, on validation images, and of the test."""
    found = board.confusions(name)
    return {**found, "epochs": found["epochs"][after:]}


@router.get("/runs/{name}/cell")
def cell(board: OfApp, name: str, true: int, predicted: int, epoch: int | None = None) -> dict[str, Any]:
    """The images behind a cell of a confusion matrix; without an epoch, that of the test."""
    return board.cell(name, epoch, true, predicted)


@router.get("/runs/{name}/images/{part}/{number}.png")
def image(board: OfApp, name: str, part: str, number: int) -> Response:
    """One validation or test image."""
    return Response(board.image(name, part, number), media_type="image/png", headers={"Cache-Control": "no-cache"})


@router.get("/runs/{name}/figures/curves.svg")
def curves(board: OfApp, name: str) -> Response:
    """Loss and accuracy of all epochs so far."""
    return _svg(lambda: board.curves(name))


@router.get("/runs/{name}/figures/confusion.svg")
def confusion(board: OfApp, name: str, epoch: int | None = None) -> Response:
    """The confusion matrix of an epoch, or of the test."""
    return _svg(lambda: board.confusion(name, epoch))


@router.get("/compare.svg")
def compared(board: OfApp, run: Annotated[list[str], Query()]) -> Response:
    """Accuracy of several runs by epoch on the images that they hold out."""
    runs = [board.run(name) for name in run]
    histories = {each.name: [row.validation_accuracy for row in each.history] for each in runs}
    return _svg(lambda: figures.compared_curves(histories, held_out_names(runs)))


@router.post("/runs/{name}/stop", status_code=202)
def stop(board: OfApp, name: str) -> dict[str, str]:
    """Has a training save everything and end."""
    board.stop(name)
    return {"asked": "stop"}


@router.post("/runs/{name}/resume", status_code=202)
def resume(board: OfApp, name: str) -> dict[str, str]:
    """Goes on with a stopped training, in a process of its own."""
    board.resume(name)
    return {"asked": "resume"}


@router.get("/targets")
def targets(board: OfApp) -> list[str]:
    """What can predict: shipped weights and finished runs."""
    return board.targets()


@router.post("/predict")
async def predict(request: Request, board: OfApp, target: str, explain: bool = True) -> Response:
    """What a picture shows, and unless `explain=false` where the network looks.

    The body is the picture file itself, of any common format.
    """
    content = bytearray()
    try:
        async for piece in request.stream():
            content += piece
            board.uploaded += len(piece)
            if len(content) > LARGEST_UPLOAD:
                raise UsageError(f"a picture may have {LARGEST_UPLOAD // 1_000_000} MB at most")
            if board.uploaded > MOST_UPLOADED:
                raise Busy("too many pictures are being uploaded")
        answer = await board.predict(target, bytes(content), explain=explain)
    finally:
        board.uploaded -= len(content)
    return Response(answer, media_type="application/json")


def _svg(draw: Callable[[], Figure]) -> Response:
    with _DRAWING:
        content = figures.to_bytes(draw(), "svg")
    return Response(content, media_type="image/svg+xml", headers={"Cache-Control": "no-store"})
