"""Compute a server's predictions, in a process of its own: a harmful image can stop this process, but not the server.

`predictor` starts the process and sends the requests.
"""

import faulthandler
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from cifarlab.board.images import to_png
from cifarlab.data.dataset import stacked
from cifarlab.data.image_files import pixels_in, read_image
from cifarlab.errors import CifarlabError
from cifarlab.inference import loading
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import SURE, predict
from cifarlab.report.rendering import data_url

MOST_CLASSES = 10  # in an answer, the most likely first
CACHED_CLASSIFIERS = 4
MOST_SECONDS = 60  # for the requests that are answered together; usually they take a second
Answer = bytes | CifarlabError  # a JSON document, or the error that the visitor sees


class LargeImageError(CifarlabError):
    """Raised when an image is too large for the quick process."""


class PredictionRequest(NamedTuple):
    """A prediction request: the image, the target and the options."""

    target: str  # folder of a run, a weights file, or `pretrained:NAME`
    version: object  # hashable; changes if the target's weights change
    explain: bool  # True if heat maps are wanted too
    content: bytes  # the image file
    layers: bool = False  # True if the feature maps of all layers are wanted instead of heat maps


def prepare() -> None:
    """Set up a process that predicts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))  # one core is left to the server
    threading.Thread(target=_end_with_server, daemon=True).start()


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()  # also after a kill, when the server cannot end this process itself
    os._exit(1)


def answer(requests: Sequence[PredictionRequest], most_pixels: int) -> list[Answer]:
    """Return a JSON document or an error for each request; all images for one classifier are predicted together.

    Images with more pixels than `most_pixels` are refused with `LargeImageError`. After `MOST_SECONDS` the process
    ends, and `predictor` starts another one.
    """
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True, file=2)  # even if a library holds Python's lock
    try:
        return _answer(requests, most_pixels)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _answer(requests: Sequence[PredictionRequest], most_pixels: int) -> list[Answer]:
    answers: dict[int, Answer] = {}
    batches: dict[tuple[str, object], dict[int, np.ndarray]] = defaultdict(dict)
    for number, request in enumerate(requests):
        with _errors_as_answers(answers, [number]):
            if pixels_in(request.content) > most_pixels:
                raise LargeImageError
            classifier = _load(request.target, request.version)
            image = read_image(request.content, classifier.size, resize=classifier.resize)
            batches[request.target, request.version][number] = image
    for (target, version), images in batches.items():
        with _errors_as_answers(answers, images):
            classifier = _load(target, version)
            probabilities = predict(classifier, stacked(list(images.values())), tta=classifier.tta)
            for (number, image), row in zip(images.items(), probabilities, strict=True):
                document = _document(classifier, image, row, requests[number])
                answers[number] = json.dumps(document).encode()
    return [answers[number] for number in range(len(requests))]


@contextmanager
def _errors_as_answers(answers: dict[int, Answer], numbers: Iterable[int]) -> Iterator[None]:
    """Make an error the answer to these requests, so that it concerns no others."""
    try:
        yield
    except CifarlabError as error:
        answers |= dict.fromkeys(numbers, error)
    except Exception as error:  # an error of ours: details go to the terminal, not to the visitor
        traceback.print_exc()
        answers |= dict.fromkeys(numbers, CifarlabError(f"the prediction failed ({type(error).__name__})"))


@lru_cache(CACHED_CLASSIFIERS)
def _load(target: str, version: object) -> Classifier:
    return loading.load(target)


def _document(
    classifier: Classifier, image: np.ndarray, probabilities: np.ndarray, request: PredictionRequest
) -> dict[str, Any]:
    order = np.argsort(-probabilities, kind="stable")[:MOST_CLASSES]
    likely = [{"name": classifier.classes[label], "probability": float(probabilities[label])} for label in order]
    document: dict[str, Any] = {"classes": likely, "sure": bool(probabilities.max() >= SURE)}
    if request.layers:
        from cifarlab.board.layers.pictures import layer_pictures

        document |= layer_pictures(classifier, image)
    elif request.explain:
        from cifarlab.figures import mosaics  # imports matplotlib, which other answers do without
        from cifarlab.inference import explain as explanations

        heats = explanations.heat_maps(classifier, image[None], order[:1])
        document["image"] = data_url(to_png(image), "png")
        overlaid = {name: mosaics.overlaid(image[None], heat)[0] for name, heat in heats.items()}
        document["heats"] = {name: data_url(to_png(heat_map), "png") for name, heat_map in overlaid.items()}
    return document
