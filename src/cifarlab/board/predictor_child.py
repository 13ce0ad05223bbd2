"""Predicts for the board, in a process of its own: what a picture does to its reader is not done to the server.

Comes in: a line of JSON, a list of [target, stamp, whether to explain, bytes of the picture], then the pictures
themselves. Goes out: a line of JSON, a list of [kind, text] in the same order. Ends with its input.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
import traceback
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from cifarlab.data.images import pixels_in, read_image
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.inference import targets
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.evaluation import predict

ANSWER, LARGE, WRONG, FAILED = "answer", "large", "wrong", "failed"  # the kinds; LARGE was not even decoded
TOP = 10
KEPT_CLASSIFIERS = 4


class Picture(NamedTuple):
    """One that could be read, and who is asked about it."""

    place: int
    image: np.ndarray
    classifier: Classifier
    explain: bool


class Worker:
    """Answers lists of questions, those for one network at once."""

    def __init__(self, most_pixels: int) -> None:
        self.most_pixels = most_pixels
        self._load = lru_cache(KEPT_CLASSIFIERS)(_load)

    def answers(self, questions: list[list[Any]], contents: list[bytes]) -> list[list[str]]:
        """What each picture shows, as JSON, or what is wrong with it."""
        found, by_classifier = list[list[str]](), dict[int, list[Picture]]()
        for (target, stamp, explain, _), content in zip(questions, contents, strict=True):
            try:
                if pixels_in(content) > self.most_pixels:
                    found.append([LARGE, ""])
                    continue
                classifier = self._load(target, json.dumps(stamp))
                picture = Picture(len(found), read_image(content, classifier.size), classifier, explain)
            except Exception as error:  # goes to who asked, and the others go on
                found.append(_told(error))
            else:
                by_classifier.setdefault(id(classifier), []).append(picture)
                found.append([])
        for pictures in by_classifier.values():
            try:
                answers = [[ANSWER, json.dumps(answer)] for answer in _predict(pictures)]
            except Exception as error:
                answers = [_told(error)] * len(pictures)
            for picture, answer in zip(pictures, answers, strict=True):
                found[picture.place] = answer
        return found


def _load(target: str, stamp: str) -> Classifier:
    """What a target names; read again when the stamp is another."""
    return targets.load(target)


def _predict(pictures: list[Picture]) -> list[dict[str, Any]]:
    classifier = pictures[0].classifier
    likely = predict(classifier, np.stack([picture.image for picture in pictures]), tta=classifier.tta)
    return [_answer(picture, row) for picture, row in zip(pictures, likely, strict=True)]


def _answer(picture: Picture, likely: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-likely, kind="stable")[:TOP].tolist()
    classes = picture.classifier.classes
    found: dict[str, Any] = {
        "classes": [{"name": classes[place], "probability": float(likely[place])} for place in order]
    }
    if picture.explain:
        from cifarlab.figures import mosaics  # the other answers do without drawing
        from cifarlab.inference import explain

        heats = explain.heat_maps(picture.classifier, picture.image[None], np.array(order[:1]))
        found["image"] = _data(picture.image)
        found["heats"] = {key: _data(mosaics.overlaid(picture.image[None], heat)[0]) for key, heat in heats.items()}
    return found


def _data(image: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def png(image: np.ndarray) -> bytes:
    """An image [3, h, w] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def _told(error: Exception) -> list[str]:
    if isinstance(error, CifarlabError):
        return [WRONG if isinstance(error, UsageError) else FAILED, str(error)]
    traceback.print_exception(error)  # a fault of ours: to the terminal, not to the visitor
    return [FAILED, f"the prediction failed ({one_line(type(error).__name__)})"]


def serve(asking: io.BufferedIOBase, answering: io.BufferedIOBase, worker: Worker) -> None:
    """Answers until nobody asks any more."""
    while line := asking.readline():
        questions = json.loads(line)
        contents = [asking.read(length) for *_, length in questions]
        answering.write(json.dumps(worker.answers(questions, contents)).encode() + b"\n")
        answering.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))  # a core is the server's
    asking, answering = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that what a network of one's own prints is no answer
    serve(asking, answering, Worker(int(sys.argv[1])))
