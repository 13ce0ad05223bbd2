"""Predictions for many visitors: what waits while a batch is computed becomes the next batch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import deque
from typing import NamedTuple

from cifarlab.board import worker
from cifarlab.errors import CifarlabError, UsageError

SMALL = 250_000  # pixels of a picture that is decoded in a few milliseconds
MOST_WAITING = 512  # small pictures
MOST_AT_ONCE = 16
MOST_SLOW = 8  # pictures that wait to be explained, which takes a second each, or are large
AHEAD = 2  # batches that a process is given, so that it never waits for the next
LONGEST_LINE = 2**26  # bytes of a process's answer


class Busy(CifarlabError):
    """More is asked for than can be done soon; nothing was begun."""


class Question(NamedTuple):
    """What a picture shows, in whose eyes."""

    target: str
    """A run's folder, or `pretrained:NAME`."""
    stamp: object
    """Another one says that the target has changed; of what JSON knows."""
    explain: bool
    content: bytes
    """The picture's file."""


class Large(Exception):
    """The picture takes long to decode."""


class Predictor:
    """Two processes: one for what is quick, so that it never waits for what is slow."""

    def __init__(self) -> None:
        self.quick = Lane(MOST_WAITING, MOST_AT_ONCE, SMALL)
        self.slow = Lane(MOST_SLOW, 1, sys.maxsize)

    async def answer(self, question: Question) -> bytes:
        """What the picture shows, as a JSON document.

        Raises:
            UsageError: it is no picture, or the target none.
            Busy: too many are waiting.
        """
        with contextlib.suppress(Large):
            if not question.explain:
                return await self.quick.answer(question)
        return await self.slow.answer(question)

    def start(self) -> None:
        """Starts both processes, which take seconds to be ready; does not wait for that."""
        self.quick.start()
        self.slow.start()

    async def close(self) -> None:
        """Ends both processes."""
        await self.quick.close()
        await self.slow.close()


class Lane:
    """A process that predicts, and the requests that wait for it. Belongs to one event loop."""

    def __init__(self, most_waiting: int, most_at_once: int, most_pixels: int) -> None:
        self._most_waiting, self._most_at_once = most_waiting, most_at_once
        # -P: it imports nothing from the folder that the board was started in
        self._command = [sys.executable, "-P", "-m", worker.__name__, str(most_pixels)]
        self._waiting = deque[tuple[Question, asyncio.Future[list[str]]]]()
        self._asked = deque[list[asyncio.Future[list[str]]]]()
        """Batches that the process has."""
        self._working: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process | None = None

    def start(self) -> None:
        """Starts the process, if there is none; does not wait for it."""
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Ends it; who still waits is left."""
        if self._working is not None:
            self._working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._working

    async def answer(self, question: Question) -> bytes:
        """As `Predictor.answer`.

        Raises:
            Large: this lane is not for such pictures.
        """
        if len(self._waiting) >= self._most_waiting:
            raise Busy("too many pictures are waiting")
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self.start()
        self._ask()
        kind, text = await answer
        if kind == worker.LARGE:
            raise Large
        if kind != worker.ANSWER:
            raise (UsageError if kind == worker.WRONG else CifarlabError)(text)
        return text.encode()

    async def _work(self) -> None:
        """Has a process answer what is asked, and another one if it dies while more are waiting."""
        pipe = asyncio.subprocess.PIPE
        while True:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, limit=LONGEST_LINE)
            assert process.stdin is not None and process.stdout is not None
            self.process = process
            try:
                self._ask()
                while line := await process.stdout.readline():
                    _deliver(self._asked.popleft(), json.loads(line))
                    self._ask()
            finally:
                self.process = None
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.stdin.close()
                await process.wait()
                for answers in self._asked:
                    _deliver(answers, [[worker.FAILED, "the process that predicts has died: try again"]] * len(answers))
                self._asked.clear()
            if not self._waiting:
                break

    def _ask(self) -> None:
        """Gives the process what waits, if there is one and it has not enough."""
        while self.process and self._waiting and len(self._asked) < AHEAD:
            together = [self._waiting.popleft() for _ in range(min(self._most_at_once, len(self._waiting)))]
            contents = [question.content for question, _ in together]
            told = [[*question[:-1], len(question.content)] for question, _ in together]
            assert self.process.stdin is not None
            self.process.stdin.write(b"".join([json.dumps(told).encode(), b"\n", *contents]))
            self._asked.append([answer for _, answer in together])


def _deliver(answers: list[asyncio.Future[list[str]]], told: list[list[str]]) -> None:
    for answer, one in zip(answers, told, strict=True):
        if not answer.done():  # who asked may have gone
            answer.set_result(one)
