"""What the web applications have in common: their description, and errors with their status codes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from cifarlab import __version__
from cifarlab.errors import CifarlabError, UsageError


class BusyError(CifarlabError):
    """Raised when the prediction queue is full, or too many visitors use the server."""


class NotFoundError(UsageError):
    """Raised when an address names nothing that exists."""


_STATUS_CODES = ((NotFoundError, 404), (BusyError, 503), (UsageError, 400), (CifarlabError, 500))


def make_app(title: str, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    """Return an application without pages, which describes itself at /api/openapi.json."""
    return FastAPI(
        title=title,
        version=__version__,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )


def status_code(error: Exception) -> int:
    """Return the HTTP status code of a `CifarlabError`."""
    return next(code for kind, code in _STATUS_CODES if isinstance(error, kind))


def json_error(error: Exception) -> JSONResponse:
    """Return a `CifarlabError` as JSON."""
    code = status_code(error)
    return JSONResponse({"detail": str(error)}, code, {"Retry-After": "1"} if code == 503 else None)
