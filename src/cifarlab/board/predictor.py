"""Predictions for many visitors: what waits while a batch is computed becomes the next batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from cifarlab.classifier import Classifier
from cifarlab.errors import CifarlabError
from cifarlab.evaluation import predict

MOST_WAITING = 512  # pictures
MOST_AT_ONCE = 64


class Busy(CifarlabError):
    """More is asked for than can be done soon; nothing was begun."""


class Answer(NamedTuple):
    """What a classifier makes of a picture."""

    classifier: Classifier
    image: UInt8[np.ndarray, "3 h w"]
    likely: Float64[np.ndarray, " classes"]
    """The probability of each class."""


Read = Callable[[], tuple[Classifier, UInt8[np.ndarray, "3 h w"]]]
"""Gives a classifier and a picture of its size; may fail."""


class Predictor:
    """One thread that reads pictures and computes, and the requests that wait for it."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._waiting: queue.Queue[tuple[Read, Future[Answer]]] = queue.Queue(most_waiting)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._starting = threading.Lock()

    def submit(self, read: Read) -> Future[Answer]:
        """Puts a request into the queue. What `read` raises is raised by the future.

        Raises:
            Busy: too many are waiting.
        """
        with self._starting:
            if not self._thread.is_alive():
                self._thread.start()
        answer: Future[Answer] = Future()
        try:
            self._waiting.put_nowait((read, answer))
        except queue.Full as error:
            raise Busy("too many pictures are waiting") from error
        return answer

    def _work(self) -> None:
        while True:
            requests = [self._waiting.get()]
            while len(requests) < MOST_AT_ONCE and not self._waiting.empty():
                requests.append(self._waiting.get())
            by_classifier: dict[int, list[tuple[Classifier, np.ndarray, Future[Answer]]]] = {}
            for read, answer in requests:
                if not answer.set_running_or_notify_cancel():
                    continue  # nobody waits for it any more
                try:
                    classifier, image = read()
                except Exception as error:  # goes to who asked, and the others go on
                    answer.set_exception(error)
                else:
                    by_classifier.setdefault(id(classifier), []).append((classifier, image, answer))
            for together in by_classifier.values():
                _answer(together)


def _answer(together: list[tuple[Classifier, np.ndarray, Future[Answer]]]) -> None:
    """Answers requests for one classifier."""
    classifier = together[0][0]
    try:
        likely = predict(classifier, np.stack([image for _, image, _ in together]), tta=classifier.tta)
    except Exception as error:
        for _, _, answer in together:
            answer.set_exception(error)
        return
    for (_, image, answer), row in zip(together, likely, strict=True):
        answer.set_result(Answer(classifier, image, row))
