"""The process that computes the board's predictions. A harmful image can stop this process, but not the server.

Input: a line of JSON, which is a list of [target, version, explain, bytes of the image file], then the image files
themselves. Output: a line of JSON, which is a list of [kind, text] in the same order. The process ends with its input.
"""

import base64
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from cifarlab.board.images import to_png
from cifarlab.data.image_files import pixels_in, read_image
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.inference import loading
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import predict

ANSWER, LARGE, WRONG, FAILED = "answer", "large", "wrong", "failed"
"""Kinds of answers: a prediction, an image too large for this process, an error of the visitor, an error of ours."""
MOST_CLASSES = 10  # in an answer, the most likely first
CACHED_CLASSIFIERS = 4


class Header(NamedTuple):
    """First part of a request, as the JSON line holds it."""

    target: str
    version: object
    """A JSON value that changes if the target's weights change."""
    explain: bool
    length: int
    """Bytes of the image file."""


class Example(NamedTuple):
    """A decoded image and the classifier that it is for."""

    position: int
    """Position of the request in its batch."""
    image: np.ndarray
    """uint8 [3, h, w]"""
    classifier: Classifier
    explain: bool


class BatchPredictor:
    """Answers batches of requests; all images for one classifier are predicted together."""

    def __init__(self, most_pixels: int) -> None:
        self.most_pixels = most_pixels
        self._load = lru_cache(CACHED_CLASSIFIERS)(_load)

    def answer(self, headers: Sequence[Header], contents: Sequence[bytes]) -> list[list[str]]:
        """Return [kind, text] for each request; the text of `ANSWER` is a JSON document."""
        answers, examples = list[list[str]](), dict[int, list[Example]]()
        for header, content in zip(headers, contents, strict=True):
            try:
                if pixels_in(content) > self.most_pixels:
                    answers.append([LARGE, ""])
                    continue
                classifier = self._load(header.target, json.dumps(header.version))
                image = read_image(content, classifier.size)
            except Exception as error:  # concerns this request alone
                answers.append(_error_answer(error))
            else:
                example = Example(len(answers), image, classifier, header.explain)
                examples.setdefault(id(classifier), []).append(example)
                answers.append([])
        for batch in examples.values():
            try:
                predictions = [[ANSWER, json.dumps(prediction)] for prediction in _predict(batch)]
            except Exception as error:
                predictions = [_error_answer(error)] * len(batch)
            for example, prediction in zip(batch, predictions, strict=True):
                answers[example.position] = prediction
        return answers


def _load(target: str, version: str) -> Classifier:
    """Load a classifier; the version is a part of the cache's key."""
    return loading.load(target)


def _predict(batch: list[Example]) -> list[dict[str, Any]]:
    classifier = batch[0].classifier
    probabilities = predict(classifier, np.stack([example.image for example in batch]), tta=classifier.tta)
    return [_prediction(example, row) for example, row in zip(batch, probabilities, strict=True)]


def _prediction(example: Example, probabilities: np.ndarray) -> dict[str, Any]:
    """Return the JSON document of a prediction."""
    order = np.argsort(-probabilities, kind="stable")[:MOST_CLASSES].tolist()
    classes = example.classifier.classes
    likely = [{"name": classes[number], "probability": float(probabilities[number])} for number in order]
    document: dict[str, Any] = {"classes": likely}
    if example.explain:
        from cifarlab.figures import mosaics  # imports matplotlib, which other answers do without
        from cifarlab.inference import explain

        image = example.image[None]
        heats = explain.heat_maps(example.classifier, image, np.array(order[:1]))
        document["image"] = _data_url(example.image)
        document["heats"] = {name: _data_url(mosaics.overlaid(image, heat)[0]) for name, heat in heats.items()}
    return document


def _data_url(image: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(to_png(image)).decode()}"


def _error_answer(error: Exception) -> list[str]:
    if isinstance(error, CifarlabError):
        return [WRONG if isinstance(error, UsageError) else FAILED, str(error)]
    traceback.print_exception(error)  # an error of ours: details go to the terminal, not to the visitor
    return [FAILED, f"the prediction failed ({one_line(type(error).__name__)})"]


def serve(requests: io.BufferedIOBase, answers: io.BufferedIOBase, predictor: BatchPredictor) -> None:
    """Answer batches of requests until the input ends."""
    while line := requests.readline():
        headers = [Header(*header) for header in json.loads(line)]
        contents = [requests.read(header.length) for header in headers]
        answers.write(json.dumps(predictor.answer(headers, contents)).encode() + b"\n")
        answers.flush()


def main() -> None:
    """Serve on standard input and output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))  # one core is left to the server
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the output of a user's own network must not mix with the answers
    serve(requests, answers, BatchPredictor(int(sys.argv[1])))


if __name__ == "__main__":
    main()
