"""Interactive charts: their page, and the metrics of several runs as columns. static/charts.js draws them."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from cifarlab.board.api import AppBoard
from cifarlab.board.pages import page
from cifarlab.errors import UsageError
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import run_paths

MOST_RUNS = 200  # in a chart
MOST_ROWS = 20_000  # epochs of all runs together in an answer; the page asks for the others
NEWEST = 10  # runs that the page shows at first
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router = APIRouter(prefix="/api")


class RunColumns(BaseModel):
    """The metrics of a run's epochs from one on."""

    name: str
    status: str
    held_out: str
    """The images behind the columns of validation: `validation` or `test`."""
    epochs: int
    """Epochs that the run has."""
    after: int
    """Epochs before the first of these columns."""
    columns: dict[str, list[float]]


@pages.get("/charts")
def charts(request: Request, run: Annotated[tuple[str, ...], Query()] = ()) -> HTMLResponse:
    """Show the metrics of several runs in one chart; without names, of the runs that trained last."""
    return page(request, "charts", names=run)


@router.get("/charts")
def columns(
    board: AppBoard, run: Annotated[tuple[str, ...], Query()] = (), after: Annotated[tuple[int, ...], Query()] = ()
) -> list[RunColumns]:
    """Return the metrics of runs, by epoch; without names, of the runs that trained last.

    `after` has one number for each run, or none: epochs that the visitor has already. A run with fewer epochs has begun
    again, and is sent from its first epoch. An answer has a limited number of rows; `epochs` says how many there are.
    """
    if len(run) > MOST_RUNS:
        raise UsageError(f"a chart has at most {MOST_RUNS} runs, got {len(run)}")
    if after and (len(after) != len(run) or min(after) < 0):
        raise UsageError(f"after must have a number of epochs for each of the {len(run)} runs, got {len(after)}")
    runs = [board.run(name) for name in run] if run else _newest(board.runs)
    left, found = MOST_ROWS, []
    for each, known in zip(runs, after or [0] * len(runs), strict=True):
        found.append(_columns(each, known, left))
        left -= len(found[-1].columns["epoch"])
    return found


def _columns(run: RunFolder, known: int, most: int) -> RunColumns:
    columns, record = run.columns, run.record
    epochs = len(columns["epoch"])
    after = known if known <= epochs else 0
    return RunColumns(
        name=run.name,
        status=run.status if record.status == "running" else record.status,
        held_out=run.held_out,
        epochs=epochs,
        after=after,
        columns={name: values[after : after + most] for name, values in columns.items()},
    )


def _newest(folder: Path) -> list[RunFolder]:
    """Return the runs that trained last, by the time of their files: reading thousands of records takes seconds."""

    def age(path: Path) -> float:
        try:
            return (path / "metrics.csv").stat().st_mtime
        except OSError:
            return 0.0  # before its first epoch, or deleted at this moment

    found: list[RunFolder] = []
    for path in sorted(run_paths(folder, nested=True), key=age, reverse=True):
        run = RunFolder(path, path.relative_to(folder).as_posix())
        try:
            if run.history:
                found.append(run)
        except (UsageError, OSError):
            continue  # damaged; the list of runs says so
        if len(found) == NEWEST:
            break
    return found
