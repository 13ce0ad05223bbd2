"""The page that starts trainings, and the JSON interface of the queue."""

import json
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from cifarlab.board.answers import BusyError
from cifarlab.board.api import AppBoard
from cifarlab.board.children import run_child
from cifarlab.board.pages import page
from cifarlab.board.state import Board
from cifarlab.board.trainings.form import Choices, TrainingForm, arguments, form_choices
from cifarlab.board.trainings.queue import Training
from cifarlab.errors import UsageError, one_line

LONGEST_ESTIMATE = 300  # seconds
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router = APIRouter(prefix="/api/trainings")


class QueueState(BaseModel):
    """The trainings of the queue in the order in which they start, and how many run at once."""

    at_once: int
    trainings: list[dict[str, Any]]


@pages.get("/train")
def train(request: Request, board: AppBoard, recipe: str = "", data: str = "") -> HTMLResponse:
    """Let the visitor choose what to train, and show the queue."""
    return page(request, "train", choices=form_choices(board.own_data()), recipe=recipe, data=data)


@router.get("")
def queue(board: AppBoard) -> QueueState:
    """Return the queue of trainings."""
    return QueueState(at_once=board.trainings.at_once, trainings=[_shown(each) for each in board.trainings.trainings()])


@router.get("/form")
def form(board: AppBoard) -> Choices:
    """Return the recipes, settings and data sets that a training can have."""
    return form_choices(board.own_data())


@router.get("/command")
def command(board: AppBoard, form: TrainingForm) -> dict[str, str]:
    """Return the command line of a training, without starting it."""
    return {"command": Training(id=0, name="", asked="", arguments=tuple(arguments(form, board.own_data()))).command}


@router.post("", status_code=202)
def add(board: AppBoard, form: TrainingForm) -> dict[str, Any]:
    """Put a training into the queue."""
    return _shown(board.trainings.add(arguments(form, board.own_data())))


@router.post("/estimate")
async def estimate(request: Request, board: AppBoard, form: TrainingForm) -> dict[str, Any]:
    """Return what `cifarlab train --dry-run` says of a training: images, parameters, steps and seconds."""
    words = await run_in_threadpool(arguments, form, board.own_data())
    if board.estimating.locked():
        raise BusyError("another estimate is being measured. Try again in some seconds.")
    async with board.estimating:
        return await _dry_run(request, board, words)


@router.post("/{number}/{action}")
def act(board: AppBoard, number: int, action: Literal["cancel", "earlier", "later"]) -> QueueState:
    """Cancel a training, or let a waiting one start earlier or later than its neighbour; return the queue."""
    if action == "cancel":
        board.trainings.cancel(number)
    else:
        board.trainings.move(number, -1 if action == "earlier" else 1)
    return queue(board)


def _shown(training: Training) -> dict[str, Any]:
    return training.model_dump(exclude={"arguments", "process"}) | {"command": training.command}


async def _dry_run(request: Request, board: Board, words: list[str]) -> dict[str, Any]:
    """Measure a training in a process of its own, which ends if the visitor leaves or the time is over."""
    command = ["cifarlab", "train", *words, "--dry-run", "--json", "--runs", str(board.runs.resolve())]
    try:
        ended = await run_child(command, LONGEST_ESTIMATE, keep_errors=True, has_left=request.is_disconnected)
    except TimeoutError as error:
        raise BusyError(f"the estimate took more than {LONGEST_ESTIMATE} seconds. The machine is busy.") from error
    if ended.status:
        message = ended.errors.decode(errors="replace").strip().rpartition("\n")[2].removeprefix("error: ")
        raise UsageError(one_line(message))
    plan: dict[str, Any] = json.loads(ended.output)
    return plan
