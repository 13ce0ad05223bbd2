"""Errors of the web applications and their status codes."""

from fastapi.responses import JSONResponse

from cifarlab.errors import CifarlabError, UsageError


class BusyError(CifarlabError):
    """Raised when the prediction queue is full, or too many visitors use the server."""


class NotFoundError(UsageError):
    """Raised when an address names nothing that exists."""


_STATUS_CODES = ((NotFoundError, 404), (BusyError, 503), (UsageError, 400), (CifarlabError, 500))


def status_code(error: Exception) -> int:
    """Return the HTTP status code of a `CifarlabError`."""
    return next(code for kind, code in _STATUS_CODES if isinstance(error, kind))


def json_error(error: Exception) -> JSONResponse:
    """Return a `CifarlabError` as JSON."""
    code = status_code(error)
    return JSONResponse({"detail": str(error)}, code, {"Retry-After": "1"} if code == 503 else None)
