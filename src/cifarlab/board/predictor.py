"""Predictions for many visitors. Requests that arrive while a batch is computed form the next batch.

The predictions are computed in child processes, see `predictor_child`.
"""

import asyncio
import contextlib
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from cifarlab.board import predictor_child
from cifarlab.board.answers import BusyError
from cifarlab.board.predictor_child import Answer, LargeImageError, PredictionRequest
from cifarlab.errors import CifarlabError

QUICK_PIXELS = 250_000  # an image up to this size is decoded in a few milliseconds
QUICK_QUEUE = 512  # requests that may wait for a quick prediction
QUICK_BATCH = 16  # images
SLOW_QUEUE = 8  # requests for heat maps, which take a second each, or with large images
MOST_OF_ONE = 32  # images of one visitor that are in the quick queue at once
BATCHES_AHEAD = 2  # batches that a process has at once, so that it never waits for the next one
_new_executor = partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"), predictor_child.prepare)


class Predictor:
    """Two processes: quick requests have their own, so that they never wait for slow ones."""

    def __init__(self) -> None:
        self.quick = PredictionQueue(QUICK_QUEUE, QUICK_BATCH, QUICK_PIXELS)
        self.slow = PredictionQueue(SLOW_QUEUE, 1, sys.maxsize)

    async def answer(self, request: PredictionRequest) -> bytes:
        """Return the prediction as a JSON document. Raise `BusyError` if too many requests are waiting."""
        (answer,) = await self.answer_all([request])
        if isinstance(answer, CifarlabError):
            raise answer
        return answer

    async def answer_all(self, requests: Sequence[PredictionRequest]) -> list[Answer]:
        """Return the predictions of one visitor's images, each of which may be an error.

        Few of them are in the queues at once, and only one large one, so that others need not wait for all.
        """
        quick, slow = asyncio.Semaphore(MOST_OF_ONE), asyncio.Semaphore(1)
        return list(await asyncio.gather(*(self._answer(request, quick, slow) for request in requests)))

    async def _answer(self, request: PredictionRequest, quick: asyncio.Semaphore, slow: asyncio.Semaphore) -> Answer:
        try:
            with contextlib.suppress(LargeImageError):
                if not request.explain:
                    async with quick:
                        return await self.quick.answer(request)
            async with slow:
                return await self.slow.answer(request)
        except CifarlabError as error:
            return error

    def start(self) -> None:
        """Start both processes without waiting until they are ready, which takes seconds."""
        self.quick.start()
        self.slow.start()

    def close(self) -> None:
        """End both processes; waiting requests get no answer."""
        self.quick.close()
        self.slow.close()


class PredictionQueue:
    """A process that predicts batches of images, and the requests that wait for it. It belongs to one event loop."""

    def __init__(self, queue_size: int, batch_size: int, most_pixels: int) -> None:
        """Create a queue without a process; images of more than `most_pixels` are refused with `LargeImageError`."""
        self._batch_size, self._most_pixels = batch_size, most_pixels
        self._waiting = asyncio.Queue[tuple[PredictionRequest, asyncio.Future[Answer]]](queue_size)
        self._executor = _new_executor()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Requests that wait for the process."""
        return self._waiting.qsize()

    def start(self) -> None:
        """Start the process if it is not running, without waiting for it."""
        if not self._tasks:
            self._executor.submit(int)  # starts the process
            self._tasks = [asyncio.create_task(self._serve()) for _ in range(BATCHES_AHEAD)]

    def close(self) -> None:
        """End the process; waiting requests get no answer."""
        for task in self._tasks:
            task.cancel()
        # Otherwise it ends its predictions first. Python 3.14 has `kill_workers` for this, older ones nothing public.
        for process in list((self._executor._processes or {}).values()):
            process.kill()
        self._executor.shutdown(cancel_futures=True)

    async def answer(self, request: PredictionRequest) -> bytes:
        """Return the prediction as a JSON document; raise `BusyError`, or an error of the prediction."""
        future = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((request, future))
        except asyncio.QueueFull:
            raise BusyError("too many images are waiting for a prediction. Try again later.") from None
        self.start()
        outcome: Answer = await future
        if isinstance(outcome, CifarlabError):  # errors come from the process as values
            raise outcome
        return outcome

    async def _serve(self) -> None:
        """Send batches of waiting requests to the process, and deliver its answers."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._batch_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                answers = await asyncio.wrap_future(self._submit([request for request, _ in batch]))
            except Exception:  # the process has died, or cannot be started
                answers = [CifarlabError("the process that predicts has died. Try again.")] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # the visitor may have left
                    future.set_result(answer)

    def _submit(self, requests: list[PredictionRequest]) -> Future[list[Answer]]:
        work = partial(predictor_child.answer, requests, self._most_pixels)
        try:
            return self._executor.submit(work)
        except BrokenProcessPool:  # the process died earlier
            self._executor = _new_executor()
            return self._executor.submit(work)
