"""The HTML pages of the board. Their moving parts are in static/board.js."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from starlette.concurrency import run_in_threadpool

from cifarlab.board.answers import NotFoundError
from cifarlab.board.api import AppBoard, BoardRun
from cifarlab.board.confusion import class_mistakes
from cifarlab.board.state import run_state
from cifarlab.errors import UsageError
from cifarlab.files import read_regular
from cifarlab.report.comparing import compare_runs
from cifarlab.report.rendering import FILTERS

MOST_RUNS = 500  # on a page, unless all are asked for
router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
_templates = Jinja2Templates(directory=str(Path(__file__).parent / "templates"))
_templates.env.filters |= FILTERS


@router.get("/")
def runs(request: Request, board: AppBoard, every: bool = False) -> HTMLResponse:
    """Show the newest runs, or all runs, to search, sort and choose from."""
    rows = board.rows()
    shown = [asdict(row) for row in (rows if every else rows[:MOST_RUNS])]
    return page(request, "runs", rows=shown, count=len(rows), folder=str(board.runs))


@router.get("/runs/{name:path}/classes/{number:int}")
def class_page(request: Request, run: BoardRun, number: int) -> HTMLResponse:
    """Show the metrics and the mistakes of one class."""
    row, missed, false_positives = class_mistakes(run, number)
    return page(request, "class", run=run, number=number, row=row, missed=missed, false_positives=false_positives)


@router.get("/runs/{name:path}/report.html")
def report(run: BoardRun) -> HTMLResponse:
    """Show the report of a run, without scripts, because the run may come from elsewhere."""
    if not run.report.is_file():
        raise NotFoundError(f"the run {run.name!r} has no report yet")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
    return HTMLResponse(read_regular(run.report), headers={"Content-Security-Policy": policy})


@router.get("/runs/{name:path}")
def run(request: Request, run: BoardRun) -> HTMLResponse:
    """Show one run, and follow it while it trains."""
    return page(request, "run", run=run, record=run.record, state=run_state(run))


@router.get("/compare")
def compare(request: Request, board: AppBoard, run: Annotated[tuple[str, ...], Query()] = ()) -> HTMLResponse:
    """Compare several runs, and show which differences are significant."""
    runs, comparison, problem = [board.run(name) for name in run], None, ""
    try:
        comparison = compare_runs(runs) if runs else None
    except UsageError as error:
        problem = str(error)
    return page(request, "compare", runs=runs, comparison=comparison, problem=problem, query=request.url.query)


@router.get("/predict")
async def predict(request: Request, board: AppBoard, target: str = "") -> HTMLResponse:
    """Let the visitor choose an image to classify."""
    board.predictions.predictor.start()  # while the visitor looks for an image
    return page(request, "predict", targets=await run_in_threadpool(board.targets), chosen=target)


@router.get("/api")
def api(request: Request) -> HTMLResponse:
    """Describe the JSON interface."""
    return page(request, "api", schema=request.app.openapi())


def page(request: Request, name: str, status_code: int = 200, **context: Any) -> HTMLResponse:
    """Return a template filled with values."""
    context["reads_only"] = request.scope["reads_only"]
    return _templates.TemplateResponse(request, f"{name}.html", context, status_code)
