"""Predictions for many visitors. Requests that arrive while a batch is computed form the next batch.

The predictions are computed in child processes, see `predictor_child`.
"""

import asyncio
import contextlib
import json
import sys
from collections import deque
from typing import NamedTuple

from cifarlab.board import predictor_child
from cifarlab.errors import CifarlabError, UsageError

QUICK_PIXELS = 250_000  # an image up to this size is decoded in a few milliseconds
QUICK_QUEUE = 512  # requests that may wait for a quick prediction
QUICK_BATCH = 16  # images
SLOW_QUEUE = 8  # requests for heat maps, which take a second each, or with large images
BATCHES_AHEAD = 2  # batches that a process has at once, so that it never waits for the next one
LONGEST_LINE = 2**26  # bytes of a process's answer


class BusyError(CifarlabError):
    """Raised when the prediction queue is full, or too many visitors use the board."""


class LargeImageError(Exception):
    """Raised when an image is too large for the quick process."""


class PredictionRequest(NamedTuple):
    """A prediction request: the image, the target and the options."""

    target: str
    """Folder of a run, or `pretrained:NAME`."""
    version: object
    """A JSON value that changes if the target's weights change."""
    explain: bool
    """True if heat maps are wanted too."""
    content: bytes
    """The image file."""


class Predictor:
    """Two processes: quick requests have their own, so that they never wait for slow ones."""

    def __init__(self) -> None:
        self.quick = PredictionQueue(QUICK_QUEUE, QUICK_BATCH, QUICK_PIXELS)
        self.slow = PredictionQueue(SLOW_QUEUE, 1, sys.maxsize)

    async def answer(self, request: PredictionRequest) -> bytes:
        """Return the prediction as a JSON document.

        Raises:
            UsageError: the file is not an image, or there is no such target.
            BusyError: too many requests are waiting.
        """
        with contextlib.suppress(LargeImageError):
            if not request.explain:
                return await self.quick.answer(request)
        return await self.slow.answer(request)

    def start(self) -> None:
        """Start both processes without waiting until they are ready, which takes seconds."""
        self.quick.start()
        self.slow.start()

    async def close(self) -> None:
        """End both processes."""
        await self.quick.close()
        await self.slow.close()


class PredictionQueue:
    """A process that predicts, and the requests that wait for it. It belongs to one event loop."""

    def __init__(self, queue_size: int, batch_size: int, most_pixels: int) -> None:
        """Create a queue without a process.

        Args:
            queue_size: number of requests that may wait.
            batch_size: number of images that the process gets at once.
            most_pixels: images with more pixels are refused with `LargeImageError`.
        """
        self.process: asyncio.subprocess.Process | None = None
        self._queue_size, self._batch_size = queue_size, batch_size
        # -P: the process imports nothing from the folder that the board was started in
        self._command = [sys.executable, "-P", "-m", predictor_child.__name__, str(most_pixels)]
        self._waiting = deque[tuple[PredictionRequest, asyncio.Future[list[str]]]]()
        self._sent = deque[list[asyncio.Future[list[str]]]]()
        """Batches that the process has and has not answered."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the process if it is not running, without waiting for it."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """End the process; waiting requests get no answer."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def answer(self, request: PredictionRequest) -> bytes:
        """Return the prediction as a JSON document; raises as `Predictor.answer`.

        Raises:
            LargeImageError: the image has too many pixels for this queue.
        """
        if len(self._waiting) >= self._queue_size:
            raise BusyError("too many images are waiting for a prediction. Try again later.")
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        self.start()
        self._send_batches()
        kind, text = await answer
        if kind == predictor_child.LARGE:
            raise LargeImageError
        if kind != predictor_child.ANSWER:
            raise (UsageError if kind == predictor_child.WRONG else CifarlabError)(text)
        return text.encode()

    async def _serve(self) -> None:
        """Run the process and deliver its answers. If it dies while requests wait, start another."""
        pipe = asyncio.subprocess.PIPE
        while True:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, limit=LONGEST_LINE)
            assert process.stdin is not None and process.stdout is not None
            self.process = process
            try:
                self._send_batches()
                while line := await process.stdout.readline():
                    _deliver(self._sent.popleft(), json.loads(line))
                    self._send_batches()
            finally:
                self.process = None
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.stdin.close()
                await process.wait()
                failure = [predictor_child.FAILED, "the process that predicts has died. Try again."]
                for answers in self._sent:
                    _deliver(answers, [failure] * len(answers))
                self._sent.clear()
            if not self._waiting:
                break

    def _send_batches(self) -> None:
        """Send waiting requests to the process until it has `BATCHES_AHEAD` batches."""
        while self.process and self._waiting and len(self._sent) < BATCHES_AHEAD:
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
            headers = [[*request[:-1], len(request.content)] for request, _ in batch]
            contents = [request.content for request, _ in batch]
            assert self.process.stdin is not None
            self.process.stdin.write(b"".join([json.dumps(headers).encode(), b"\n", *contents]))
            self._sent.append([answer for _, answer in batch])


def _deliver(futures: list[asyncio.Future[list[str]]], answers: list[list[str]]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():  # the visitor may have left
            future.set_result(answer)
