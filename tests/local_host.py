"""A real HTTP server on this computer that serves files, well or badly, and records the requests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Answer:
    """Behaviour for one request; the default is that of a good host."""

    status: int = 200
    ranges: bool = True
    """Honour a Range header."""
    cut: int | None = None
    """Close the connection after this many bytes."""
    stall: int | None = None
    """Stop sending after this many bytes, and keep the connection open."""
    silent: bool = False
    """Send nothing at all, not even a status."""
    rate: float | None = None
    """Bytes per second that are sent."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers to add or replace; an empty value removes a header."""


class LocalHost:
    """Serves `content` at `url` while the `with` block lasts.

    Args:
        content: content of the file, or of files by name, which are served below `url`.
        answers: behaviour for the first, second, … request; the last one holds for all further requests.
        name: name of the file in the URL.
    """

    def __init__(
        self, content: bytes | memoryview | Mapping[str, bytes], *answers: Answer, name: str = "file.tar"
    ) -> None:
        self.files = content if isinstance(content, Mapping) else {name: content}
        name = "" if isinstance(content, Mapping) else name
        self.answers = answers or (Answer(),)
        self.name = name
        self.ranges: list[str | None] = []
        """Range header of each request so far."""
        self.closing = threading.Event()

    def __enter__(self) -> Self:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.ranges.append(self.headers["Range"])
                with contextlib.suppress(ConnectionError):  # the client may have closed the connection
                    host.answer(self, host.answers[min(len(host.ranges), len(host.answers)) - 1])

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{self.name}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.silent:
            self.closing.wait(30)
            return
        asked = request.headers["Range"]
        content = memoryview(self.files.get(request.path.rpartition("/")[2], b""))
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and answer.ranges else 0
        status = answer.status
        if first and status == 200:
            status = 206 if first < len(content) else 416
        body = content[first:] if status in (200, 206) else memoryview(b"")
        headers = {"Content-Length": str(len(body))}
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        request.send_response(status)
        for key, value in (headers | answer.headers).items():
            if value:
                request.send_header(key, value)
        request.end_headers()
        if answer.rate is not None:
            self._drip(request, body, answer.rate)
        else:
            request.wfile.write(body[: answer.cut if answer.cut is not None else answer.stall])
        if answer.stall is not None:
            self.closing.wait(30)

    def _drip(self, request: BaseHTTPRequestHandler, body: memoryview, rate: float) -> None:
        began, sent = time.monotonic(), 0
        while sent < len(body) and not self.closing.wait(0.02):
            due = int((time.monotonic() - began) * rate)
            request.wfile.write(body[sent:due])
            sent = max(sent, due)
