"""Evaluation and prediction agree with plain loops, with each other and with files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cifarlab
from cifarlab import Data, relabel
from cifarlab.data.batches import DeviceImages, to_device
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.evaluation import evaluate
from cifarlab.inference.prediction import BATCH, predict, predict_logits, without_tf32


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


def test_the_network_stays_in_its_mode(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    classifier.network.train()
    predict(classifier, digits.test.images[:3])
    assert classifier.network.training


def test_test_time_augmentation_is_a_mean_over_six_views(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    images = torch.from_numpy(np.array(digits.test.images[:40]))
    framed = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    expected = np.zeros((40, 10), dtype=np.float32)
    for top, share in ((1, 0.5), (0, 0.25), (2, 0.25)):
        view = framed[:, :, top : top + 32, top : top + 32]
        for image in (view, view.flip(3)):
            expected += share / 2 * predict_logits(classifier, DeviceImages(image, torch.zeros(40).long()))
    found = predict_logits(classifier, DeviceImages(images, torch.zeros(40).long()), tta=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_tf32_keeps_other_settings() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic)
    with without_tf32():
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == before and not cudnn.allow_tf32


def test_bf16_predicts_nearly_the_same(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    data = to_device(digits.test, torch.device("cpu"))
    plain, fast = predict_logits(classifier, data), predict_logits(classifier, data, precision="bf16")
    assert fast.dtype == np.float32
    assert 0 < np.abs(plain - fast).max() < 0.05
    with pytest.raises(UsageError, match="precision"):
        predict_logits(classifier, data, precision="fp64")


def test_other_classes_or_sizes_are_refused(classifier, digits: Data) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="are not the data's"):
        evaluate(classifier, relabel(digits, drop=["3"]).test)


def test_image_files_are_predicted_like_arrays(classifier, digits: Data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(digits.test.images[index, 0]).save(paths[-1])
    found = cifarlab.predict(classifier, paths)
    expected = predict(classifier, digits.test.images[:3])
    for prediction, row in zip(found, expected, strict=True):
        assert prediction.label == digits.classes[row.argmax()]
        assert prediction.probability == pytest.approx(row.max())
        assert prediction.probabilities == pytest.approx(dict(zip(digits.classes, row.tolist(), strict=True)))
        assert next(iter(prediction.probabilities)) == prediction.label
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
