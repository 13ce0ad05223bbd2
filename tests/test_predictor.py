"""The queue in front of the network: the same answers, together, and no more waiting than can be served."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from cifarlab import Data
from cifarlab.board import predictor
from cifarlab.board.predictor import Busy, Predictor
from cifarlab.classifier import Classifier, make_classifier
from cifarlab.evaluation import predict


@pytest.fixture(scope="module")
def classifiers(digits: Data) -> list[Classifier]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(make_classifier("lenet5", {}, digits.classes, 32, "unit"))
        made[-1].network.eval()
    return made


def test_every_picture_gets_its_own_answer(classifiers: list[Classifier], digits: Data) -> None:
    served, images = Predictor(), digits.test.images[:40]
    pairs = [(classifiers[number % 2], image) for number, image in enumerate(images)]
    answers = [served.submit(lambda pair=pair: pair) for pair in pairs]  # type: ignore[misc]
    for which, classifier in enumerate(classifiers):
        found = np.stack([answer.result(timeout=60).likely for answer in answers[which::2]])
        np.testing.assert_allclose(found, predict(classifier, np.array(images[which::2])), atol=1e-6)


def test_what_waits_goes_together_and_too_many_are_refused(
    classifiers: list[Classifier], digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, sizes, real = threading.Event(), list[int](), predict

    def slowly(classifier: Classifier, images: np.ndarray, **more: Any) -> Any:
        sizes.append(len(images))
        assert going.wait(60)
        return real(classifier, images, **more)

    monkeypatch.setattr(predictor, "predict", slowly)
    served, image = Predictor(most_waiting=5), digits.test.images[0]
    first = served.submit(lambda: (classifiers[0], image))
    while not sizes:
        pass
    waiting = [served.submit(lambda: (classifiers[0], image)) for _ in range(5)]
    with pytest.raises(Busy, match="too many pictures are waiting"):
        served.submit(lambda: (classifiers[0], image))
    going.set()
    assert all(answer.result(timeout=60) is not None for answer in [first, *waiting])
    assert sizes == [1, 5]


def test_an_error_goes_to_those_who_asked_and_no_further(classifiers: list[Classifier], digits: Data) -> None:
    served = Predictor()
    wrong = served.submit(lambda: (classifiers[0], np.zeros((3, 2, 2), dtype=np.uint8)))
    with pytest.raises(Exception, match="size"):
        wrong.result(timeout=60)
    unreadable = served.submit(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        unreadable.result(timeout=60)
    right = served.submit(lambda: (classifiers[0], digits.test.images[0]))
    assert right.result(timeout=60).likely.shape == (10,)
