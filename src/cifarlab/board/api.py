"""The JSON interface of the board: runs, figures, images, stop and resume, predictions, and events of a training."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from cifarlab import figures
from cifarlab.board import confusion
from cifarlab.board.answers import BusyError
from cifarlab.board.images import held_out_images, to_png
from cifarlab.board.predictions import FORM, IMAGE
from cifarlab.board.state import Board, run_state, state_versions
from cifarlab.errors import UsageError
from cifarlab.figures import Figure
from cifarlab.report.comparing import held_out_names
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import RunRow

SECONDS_BETWEEN_CHECKS = 0.5  # of the folder of a run that somebody watches
MOST_STREAMS = 100  # open streams of events
_DRAWING = threading.Lock()  # matplotlib's settings are global


async def get_board(request: Request) -> Board:  # async, because FastAPI runs other functions in threads
    """Return the board of the application that answers a request."""
    board: Board = request.app.state.board
    return board


AppBoard = Annotated[Board, Depends(get_board)]


def get_run(board: AppBoard, name: str) -> RunFolder:
    """Return the run that an address names."""
    return board.run(name)


BoardRun = Annotated[RunFolder, Depends(get_run)]
router = APIRouter(prefix="/api")


@router.get("/runs")
def runs(board: AppBoard) -> list[RunRow]:
    """Return all runs, newest first."""
    return board.rows()


@router.get("/runs/{name:path}/events")
async def events(request: Request, board: AppBoard, run: BoardRun) -> StreamingResponse:
    """Send the run's state as server-sent events, at once and after every change; the log only if it has changed."""
    if board.streams >= MOST_STREAMS:
        raise BusyError("too many pages are watching runs. Close some, or try again later.")
    return StreamingResponse(_state_changes(request, board, run.name), media_type="text/event-stream")


async def _state_changes(request: Request, board: Board, name: str) -> AsyncIterator[str]:
    last_version: object = None
    last_log = ""
    board.streams += 1
    try:
        if board.streams > MOST_STREAMS:
            return  # others came between the check and this one's beginning
        while not await request.is_disconnected():
            run = board.run(name)
            # The status too, because a kill changes no file.
            version = await run_in_threadpool(lambda run: (state_versions(run), run.status), run)
            if version != last_version:
                state = await run_in_threadpool(run_state, run)
                changes = state | {"log": None} if state["log"] == last_log else state
                last_version, last_log = version, state["log"]
                yield f"data: {json.dumps(changes)}\n\n"
            await asyncio.sleep(SECONDS_BETWEEN_CHECKS)
    finally:
        board.streams -= 1


@router.get("/runs/{name:path}/confusions")
def confusions(run: BoardRun, after: Annotated[int, Query(ge=0)] = 0) -> confusion.Confusions:
    """Return the confusion matrices of the epochs after a number of epochs, and that of the test set."""
    return confusion.confusions(run, after)


@router.get("/runs/{name:path}/cell")
def cell(run: BoardRun, true: int, predicted: int, epoch: int | None = None) -> confusion.Cell:
    """Return the images behind a cell of an epoch's confusion matrix; without an epoch, of the test set's."""
    return confusion.cell(run, epoch, true, predicted)


@router.get("/runs/{name:path}/images/{part}/{number}.png")
def image(run: BoardRun, part: str, number: int) -> Response:
    """Return a validation or test image."""
    images = held_out_images(run, part).images
    if not 0 <= number < len(images):
        raise UsageError(f"the number of a {part} image must be 0 to {len(images) - 1}, got {number}")
    return Response(to_png(images[number]), media_type="image/png", headers={"Cache-Control": "no-cache"})


@router.get("/runs/{name:path}/figures/curves.svg")
def curves(run: BoardRun) -> Response:
    """Draw loss and accuracy of all epochs so far."""
    if not run.history:
        raise UsageError(f"the run {run.name!r} has not finished its first epoch")
    return _svg(lambda: figures.learning_curves(run.columns, run.held_out))


@router.get("/runs/{name:path}/figures/confusion.svg")
def confusion_figure(run: BoardRun, epoch: int | None = None) -> Response:
    """Draw the confusion matrix of an epoch, or of the test set."""
    return _svg(lambda: confusion.confusion_figure(run, epoch))


@router.get("/compare.svg")
def comparison_figure(board: AppBoard, run: Annotated[list[str], Query()]) -> Response:
    """Draw the held-out accuracy of several runs by epoch."""
    runs = [board.run(name) for name in run]
    histories = {run.name: [row.validation_accuracy for row in run.history] for run in runs}
    return _svg(lambda: figures.compared_curves(histories, held_out_names(runs)))


@router.post("/runs/{name:path}/stop", status_code=202)
def stop(run: BoardRun) -> dict[str, str]:
    """Ask a training to save everything and stop."""
    if run.status != "running":
        raise UsageError(f"the run {run.name!r} is {run.status}, not running")
    run.ask_to_stop()
    return {"asked": "stop"}


@router.post("/runs/{name:path}/resume", status_code=202)
def resume(board: AppBoard, run: BoardRun) -> dict[str, str]:
    """Resume a stopped training in a process of its own."""
    board.resumer.resume(run)
    return {"asked": "resume"}


@router.get("/runs/{name:path}")
def run(run: BoardRun) -> dict[str, Any]:
    """Return the contents of run.json, the state of the training, and the metrics of every epoch."""
    return {"record": run.record.to_json(), **run_state(run), "history": [asdict(row) for row in run.history]}


@router.get("/targets")
def targets(board: AppBoard) -> list[str]:
    """Return the names of the shipped weights and the finished runs, which can predict."""
    return board.targets()


@router.post("/predict", openapi_extra=IMAGE)
async def predict(request: Request, board: AppBoard, target: str, explain: bool = True) -> Response:
    """Classify an image, and unless `explain=false` return heat maps of where the network looks.

    The body of the request is the image file itself, in any common format.
    """
    return await board.predictions.answer(request, lambda: board.target(target), explain=explain)


@router.post("/predict/batch", openapi_extra=FORM)
async def predict_batch(request: Request, board: AppBoard, target: str) -> Response:
    """Classify the files of a form (multipart/form-data), each of which gets classes or an error of its own."""
    return await board.predictions.answer_batch(request, lambda: board.target(target))


def _svg(draw: Callable[[], Figure]) -> Response:
    with _DRAWING:
        content = figures.to_bytes(draw(), "svg")
    return Response(content, media_type="image/svg+xml", headers={"Cache-Control": "no-store"})
