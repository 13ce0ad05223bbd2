"""The board as a web application: its routes, its state, and how errors become answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from cifarlab.board import api, charts, pages
from cifarlab.board.access import AccessMiddleware
from cifarlab.board.answers import NotFoundError, json_error, make_app, status_code
from cifarlab.board.classroom import routes as classes
from cifarlab.board.classroom.scoreboard import Classroom
from cifarlab.board.layers import routes as layers
from cifarlab.board.pictures import routes as pictures_routes
from cifarlab.board.relabelling import routes as relabelling
from cifarlab.board.state import Board
from cifarlab.board.trainings import routes as trainings
from cifarlab.errors import CifarlabError


def create_app(
    runs: Path,
    token: str = "",
    reading_token: str = "",
    classroom: Classroom | None = None,
    pictures: Path | None = None,
) -> FastAPI:
    """Return the board over a folder of runs; visitors must know a token, or be on this machine if `token` is empty.

    With the reading token they see all pages and predict, but cannot change anything; students of `classroom` hand in
    with it. Data sets of pictures are kept in the folder `pictures`, by default beside that of the runs.
    """
    board = Board(runs, classroom=classroom, pictures=pictures)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        board.trainings.open()
        yield
        board.trainings.close()
        board.predictions.close()
        if classroom:
            classroom.close()

    app = make_app("cifarlab board", lifespan)
    app.state.board = board
    app.add_middleware(AccessMiddleware, token=token, reading_token=reading_token)
    app.add_exception_handler(CifarlabError, _answer_error)
    app.add_exception_handler(404, _no_page)
    for room in (trainings, pictures_routes, relabelling, charts, classes, layers):
        app.include_router(room.pages)
        app.include_router(room.router)
    for router in (pages.router, api.router):  # last, because names of runs may have slashes
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=str(Path(__file__).parent / "static")), name="static")
    return app


def _answer_error(request: Request, error: Exception) -> Response:
    """Return an error as JSON for the JSON interface, and as a page elsewhere."""
    if request.url.path.startswith("/api/"):
        return json_error(error)
    return pages.page(request, "error", status_code(error), message=str(error))


def _no_page(request: Request, _: Exception) -> Response:
    return _answer_error(request, NotFoundError(f"there is no page {request.url.path!r}"))
