"""The board's pages, as HTML; what moves on them is in static/board.js."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from starlette.concurrency import run_in_threadpool

from cifarlab.board.state import Board
from cifarlab.errors import UsageError
from cifarlab.report.comparing import compare_runs
from cifarlab.report.rendering import FILTERS

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
_templates = Jinja2Templates(directory=str(Path(__file__).parent / "templates"))
_templates.env.filters |= FILTERS


@router.get("/")
def runs(request: Request) -> HTMLResponse:
    """All runs, to search, sort and choose from."""
    board = _board(request)
    return _page(request, "runs", rows=board.rows(), folder=str(board.runs))


@router.get("/runs/{name}")
def run(request: Request, name: str) -> HTMLResponse:
    """One run, which moves while it trains."""
    board = _board(request)
    found = board.run(name)
    return _page(request, "run", run=found, record=found.record, state=board.state(name))


@router.get("/runs/{name}/classes/{number}")
def one_class(request: Request, name: str, number: int) -> HTMLResponse:
    """What a run gets wrong of a class."""
    board = _board(request)
    found, told = board.run(name), board.of_class(name, number)
    return _page(request, "class", run=found, classes=found.record.data.classes, number=number, told=told)


@router.get("/compare")
def compare(request: Request, run: Annotated[tuple[str, ...], Query()] = ()) -> HTMLResponse:
    """Several runs side by side, and which differences are real."""
    chosen, found, problem = [_board(request).run(name) for name in run], None, ""
    try:
        found = compare_runs(chosen) if chosen else None
    except UsageError as error:
        problem = str(error)
    return _page(request, "compare", runs=chosen, found=found, problem=problem, query=request.url.query)


@router.get("/predict")
async def predict(request: Request, target: str = "") -> HTMLResponse:
    """A picture of one's own."""
    board = _board(request)
    board.predictor.start()  # while the visitor looks for a picture
    return _page(request, "predict", targets=await run_in_threadpool(board.targets), chosen=target)


@router.get("/api")
def api(request: Request) -> HTMLResponse:
    """What the JSON interface has."""
    return _page(request, "api", schema=request.app.openapi())


def problem(request: Request, told: str, status: int) -> HTMLResponse:
    """What is wrong with an address, as a page."""
    return _templates.TemplateResponse(request, "problem.html", {"told": told}, status)


def _board(request: Request) -> Board:
    board: Board = request.app.state.board
    return board


def _page(request: Request, name: str, **context: Any) -> HTMLResponse:
    return _templates.TemplateResponse(request, f"{name}.html", context)
