"""Evaluating and predicting: the same answer by every way, whatever the order of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlab import Data, relabel
from cifarlab.classifier import make_classifier
from cifarlab.data.batches import to_device
from cifarlab.errors import UsageError
from cifarlab.evaluation import BATCH, evaluate, predict, predict_files, predict_logits


@pytest.fixture
def classifier(digits: Data):  # type: ignore[no-untyped-def]  # jaxtyping would check a name it cannot see here
    torch.manual_seed(0)
    made = make_classifier("lenet5-3x3", {}, digits.classes, 32, "standard")
    made.preprocess.fit(digits.train.images)
    return made


def test_evaluation_agrees_with_a_plain_loop(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    ticks: list[int] = []
    found = evaluate(classifier, digits.train, tick=ticks.append)
    classifier.network.eval()
    with torch.no_grad():
        logits = torch.cat([classifier.logits(torch.from_numpy(image[None])) for image in digits.train.images])
    np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-4)
    right = (logits.argmax(1).numpy() == digits.train.labels).mean()
    assert found.accuracy == pytest.approx(right)
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(digits.train.labels))
    assert found.loss == pytest.approx(loss.item(), rel=1e-4)
    assert sum(ticks) == len(digits.train) and max(ticks) == BATCH  # every image once, the last batch smaller
    assert found.confusion.sum() == len(digits.train)


def test_the_networks_mode_is_put_back(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    classifier.network.train()
    predict(classifier, digits.test.images[:3])
    assert classifier.network.training


def test_test_time_augmentation_is_the_mean_with_the_mirror_image(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    data = to_device(digits.test, torch.device("cpu"))
    mirrored = to_device(digits.test, torch.device("cpu"))
    mirrored.images.copy_(data.images.flip(3))
    expected = (predict_logits(classifier, data) + predict_logits(classifier, mirrored)) / 2
    np.testing.assert_allclose(predict_logits(classifier, data, tta=True), expected, atol=1e-5)


def test_other_classes_or_sizes_are_refused(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="are not the data's"):
        evaluate(classifier, relabel(digits, drop=["3"]).test)


def test_pictures_are_predicted_as_arrays_are(classifier, digits: Data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(digits.test.images[index].transpose(1, 2, 0)).save(paths[-1])
    found = predict_files(classifier, paths)
    expected = predict(classifier, digits.test.images[:3])
    for prediction, row in zip(found, expected, strict=True):
        assert prediction.label == digits.classes[row.argmax()]
        assert prediction.probability == pytest.approx(row.max())
        assert prediction.probabilities == pytest.approx(dict(zip(digits.classes, row.tolist(), strict=True)))
        assert next(iter(prediction.probabilities)) == prediction.label
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
