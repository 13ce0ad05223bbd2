"""A real HTTP server on this computer that serves one file, well or badly, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Answer:
    """How one request is answered; by default as a good host does."""

    status: int = 200
    ranges: bool = True
    """Whether a Range is honoured."""
    cut: int | None = None
    """After this many bytes the connection ends."""
    stall: int | None = None
    """After this many bytes nothing more comes, and the connection stays open."""
    silent: bool = False
    """Not even a status comes."""
    rate: float | None = None
    """Bytes per second."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent besides the usual ones, or in place of them; an empty value leaves one out."""


class LocalHost:
    """Serves `content` at `url` while the `with` block lasts.

    Args:
        content: the file.
        answers: how the first, second, … request is answered; the last one counts for all that follow.
        name: the file's name in the URL.
    """

    def __init__(self, content: bytes | memoryview, *answers: Answer, name: str = "file.tar") -> None:
        self.content = memoryview(content)
        self.answers = answers or (Answer(),)
        self.name = name
        self.ranges: list[str | None] = []
        """The Range header of each request so far."""
        self.closing = threading.Event()

    def __enter__(self) -> Self:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.ranges.append(self.headers["Range"])
                with contextlib.suppress(ConnectionError):  # the client may have had enough
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
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and answer.ranges else 0
        status = answer.status
        if first and status == 200:
            status = 206 if first < len(self.content) else 416
        body = self.content[first:] if status in (200, 206) else memoryview(b"")
        headers = {"Content-Length": str(len(body))}
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{len(self.content) - 1}/{len(self.content)}"
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
