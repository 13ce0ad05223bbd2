"""The web server closes connections of clients that are too slow, and of no others."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from cifarlab.board import server

CHECK_INTERVAL = 1.0  # seconds


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    app = FastAPI()

    @app.post("/count")
    async def count(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    @app.get("/large")
    async def large() -> PlainTextResponse:
        return PlainTextResponse("x" * 50_000_000)

    @app.get("/waits")
    async def waits() -> PlainTextResponse:
        connections = cast(set[server.TimedProtocol], serving.server_state.connections)
        sockets = [connection.transport.get_extra_info("socket") for connection in connections]
        return PlainTextResponse(str(all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server, "SECONDS_BETWEEN_CHECKS", CHECK_INTERVAL)
        listening = socket.create_server(("127.0.0.1", 0))
        serving = uvicorn.Server(uvicorn.Config(app, http=server.TimedProtocol, log_level="warning"))
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not serving.started:
            time.sleep(0.01)
        yield listening.getsockname()
        serving.should_exit = True
        thread.join(timeout=30)


def seconds_until_closed(connection: socket.socket) -> float:
    connection.settimeout(30)
    start = time.monotonic()
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - start


@pytest.mark.parametrize(
    "beginning",
    [b"", b"POST /count HTTP/1.1\r\nHost: a", b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc"],
    ids=["nothing", "half a header", "a bit of a body"],
)
def test_an_unfinished_request_is_closed(beginning: bytes, address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(beginning)
        assert CHECK_INTERVAL / 2 < seconds_until_closed(connection) < 5


def test_a_request_that_arrives_byte_by_byte_is_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.05)


def test_a_client_that_does_not_receive_its_answer_is_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(CHECK_INTERVAL * 4)
        connection.settimeout(30)
        taken = 0
        with pytest.raises(ConnectionError):
            while piece := connection.recv(1_000_000):
                taken += len(piece)
            raise ConnectionError("closed")
        assert taken < 50_000_000


def test_a_slow_request_is_served(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n")
        for _ in range(10):  # 8,000 bytes a second
            time.sleep(CHECK_INTERVAL / 4)
            connection.sendall(b"x" * 2_000)
        connection.settimeout(30)
        assert answer_to(connection) == b"20000"
        time.sleep(CHECK_INTERVAL * 3)  # between two requests only uvicorn's own limit counts
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert answer_to(connection) == b"3"


def test_no_part_of_an_answer_waits_for_an_acknowledgement(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.settimeout(30)
        assert answer_to(connection) == b"True"


@pytest.mark.parametrize(
    "beginning",
    ["GET / HTTP/1.1\r\nX: ", "GET /", "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "],
    ids=["a header", "an address", "a header after the body"],
)
def test_endless_headers_are_closed(beginning: str, address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, pytest.raises(ConnectionError):
        connection.sendall(beginning.encode())
        for _ in range(100):  # 10 MB
            connection.sendall(b"x" * 100_000)


def test_endless_header_lines_are_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(100):
            connection.sendall(b"X: y\r\n" * 10_000)


def test_endless_requests_at_once_are_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, pytest.raises(ConnectionError):
        for _ in range(1_000):
            connection.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)


def test_a_few_requests_at_once_and_a_body_in_pieces_are_served(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n" * 10)
        received = b""
        while received.count(b"True") < 10:
            piece = connection.recv(10_000)
            assert piece, received
            received += piece
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        for _ in range(40):
            connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert answer_to(connection) == str(41 * 0x4000).encode()


def answer_to(connection: socket.socket) -> bytes:
    """Return the body of one answer."""
    received = b""
    while not (found := re.search(rb"content-length: (\d+)\r\n.*?\r\n\r\n(.*)", received, re.DOTALL)) or len(
        found[2]
    ) < int(found[1]):
        piece = connection.recv(10_000)
        assert piece, received
        received += piece
    return found[2]
