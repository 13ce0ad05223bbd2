"""The board's web server: uvicorn, which cuts off clients that are slow on purpose.

Uvicorn itself waits forever for the rest of a request, and for a client to take its answer.
"""

from __future__ import annotations

import contextlib
import socket
from asyncio import TimerHandle, Transport
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS_BETWEEN_LOOKS = 5.0  # at a connection
SLOWEST = 2_000  # bytes a second of a request, over such a time
MOST_CONNECTIONS = 4_000


class Protocol(HttpToolsProtocol):
    """A connection that has to move: its request to come in, or its answer to be taken."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._awaited = True
        """Whether a request is still to come, or the rest of it."""
        self._since = self.loop.time()
        self._received = 0
        self._unsent = 0
        self._looking: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        # asyncio does that only where it has made the listening socket: an answer's second part would wait 40 ms
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._looking = self.loop.call_later(SECONDS_BETWEEN_LOOKS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._awaited, self._since, self._received = True, self.loop.time(), 0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._awaited = False
        super().on_message_complete()

    def _look(self) -> None:
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        is_stuck = 0 < unsent == self._unsent
        if self._awaited and now - self._since >= SECONDS_BETWEEN_LOOKS:
            is_stuck |= self._received < SLOWEST * (now - self._since)
            self._since, self._received = now, 0
        if is_stuck:
            self.transport.abort()
            return
        self._unsent = unsent
        self._looking = self.loop.call_later(SECONDS_BETWEEN_LOOKS, self._look)


def serve(app: Any, listening: socket.socket) -> None:
    """Serves an application until a signal comes.

    Args:
        app: from `create_app`.
        listening: a socket that is bound.
    """
    _allow_many_connections()
    config = uvicorn.Config(
        app,
        http=Protocol,
        log_level="warning",
        timeout_graceful_shutdown=1,
        backlog=MOST_CONNECTIONS,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _allow_many_connections() -> None:
    """Raises the process's own limit on open files as far as the system lets it."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_CONNECTIONS + 1_000
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
