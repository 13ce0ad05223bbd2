"""The board as a web application: who gets in, what every answer carries, and how errors are told."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifarlab import __version__
from cifarlab.board import interface, pages
from cifarlab.board.predictor import Busy
from cifarlab.board.state import Board, NotFound
from cifarlab.errors import CifarlabError, UsageError

COOKIE = "cifarlab-token"
_STATUSES: dict[type[CifarlabError], int] = {NotFound: 404, Busy: 503, UsageError: 400, CifarlabError: 500}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(runs: Path, token: str = "") -> FastAPI:
    """The board over a folder of runs.

    Args:
        runs: the folder.
        token: what a visitor must know; empty lets everybody in.
    """
    board = Board(runs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await board.predictor.close()

    app = FastAPI(
        title="cifarlab board",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.board = board
    app.add_middleware(_Guard, token=token)
    app.add_exception_handler(CifarlabError, _told)
    app.include_router(pages.router)
    app.include_router(interface.router)
    app.mount("/static", StaticFiles(directory=str(Path(__file__).parent / "static")), name="static")
    return app


class _Guard:
    """Lets in who may come in, and has every answer carry what protects its reader."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refused = _refusal(request, self.token)
        if refused is not None:
            await refused(scope, receive, send)
            return
        knows = self.token and request.query_params.get("token")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if knows:
                    headers.append("Set-Cookie", f"{COOKIE}={self.token}; HttpOnly; Path=/; SameSite=strict")
            await send(message)

        await self.app(scope, receive, sending)


def _refusal(request: Request, token: str) -> Response | None:
    """An answer for who may not come in; None for everybody else.

    Without a token the board is for this machine alone, and answers to this machine's names alone: else a page from
    elsewhere could have its own name lead here. Orders must come from the board's own pages.
    """
    if not token and not is_local(_asked_for(request)):
        return Response("This board answers to localhost alone.", 421)
    given = request.query_params.get("token") or request.cookies.get(COOKIE, "")
    if token and not hmac.compare_digest(given.encode(), token.encode()):
        return Response("This board wants its token: open the address that `cifarlab board` printed.", 401)
    origin = request.headers.get("origin")
    if request.method != "GET" and origin and origin.split("//")[-1] != request.headers.get("host"):
        return Response("This request comes from another page.", 403)
    return None


def _asked_for(request: Request) -> str:
    """The name in the Host header; empty where it is none. (Starlette's own reading falls back on the real address.)"""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def is_local(host: str) -> bool:
    """Whether a name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _told(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
    headers = {"Retry-After": "1"} if status == 503 else None
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": str(error)}, status, headers)
    return pages.problem(request, str(error), status)
