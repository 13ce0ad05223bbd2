"""The web server of the board and of `cifarlab serve`: uvicorn with limits on connections and on slow clients.

Uvicorn itself waits without limit for the rest of a request and for a client to receive its answer. It has no public
hook for that, so this module extends uvicorn's protocol class and passes it as `Config(http=...)`.
"""

import contextlib
import errno
import socket
from asyncio import TimerHandle, Transport
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cifarlab.errors import CifarlabError

SECONDS_BETWEEN_CHECKS = 5.0  # of each connection
SLOWEST = 2_000  # bytes per second of a request, averaged over that time
MOST_CONNECTIONS = 4_000
LARGEST_HEADERS = 64_000  # bytes of a request beside its body, also after it; browsers send some 1,000
MOST_WAITING = 16  # requests of one connection that wait for the answer before; browsers send none


class TimedProtocol(HttpToolsProtocol):
    """A connection that is closed if it is too slow, or if its headers or waiting requests would fill the memory."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._awaits_request = True  # until the request has arrived completely
        self._measured_since, self._received, self._unsent = self.loop.time(), 0, 0
        self._headers_received = 0  # bytes of the current request beside its body
        self._next_check: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        # asyncio does this only for sockets that it opened itself. Without it an answer's second part waits 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._next_check = self.loop.call_later(SECONDS_BETWEEN_CHECKS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next_check is not None:
            self._next_check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._headers_received += len(data)
        super().data_received(data)
        if self._headers_received > LARGEST_HEADERS:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._awaits_request, self._measured_since, self._received = True, self.loop.time(), 0
        self._headers_received = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) < MOST_WAITING:
            super().on_headers_complete()
        else:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._headers_received -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._awaits_request = False
        super().on_message_complete()

    def _check(self) -> None:
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        is_stuck = 0 < unsent == self._unsent
        if self._awaits_request and now - self._measured_since >= SECONDS_BETWEEN_CHECKS:
            is_stuck |= self._received < SLOWEST * (now - self._measured_since)
            self._measured_since, self._received = now, 0
        if is_stuck:
            self.transport.abort()
            return
        self._unsent = unsent
        self._next_check = self.loop.call_later(SECONDS_BETWEEN_CHECKS, self._check)


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Return a socket that listens on a host and port, and the address that clients open."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # the rest repeats the address
        hint = "; choose another --port, or 0 for any free one" if error.errno == errno.EADDRINUSE else ""
        raise CifarlabError(f"cannot listen on {host}:{port}: {reason}{hint}") from error
    if host in ("0.0.0.0", "::"):  # all addresses of this machine; show the one that other machines use
        host = socket.gethostname()
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))  # sends nothing
            host = probe.getsockname()[0]
    place = f"[{host}]" if ":" in host else host
    return listening, f"http://{place}:{listening.getsockname()[1]}/"


def serve(app: Any, listening: socket.socket, seconds_to_finish: int = 1) -> None:
    """Serve an application on a bound socket until a signal stops the process; requests then have a time to finish."""
    _allow_many_connections()
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        log_level="warning",
        timeout_graceful_shutdown=seconds_to_finish,
        backlog=MOST_CONNECTIONS,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _allow_many_connections() -> None:
    """Raise this process's limit on open files, as far as the system allows."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = MOST_CONNECTIONS + 1_000
        if soft != resource.RLIM_INFINITY and soft < needed:
            limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
