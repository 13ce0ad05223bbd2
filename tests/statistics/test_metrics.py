"""Metrics, compared with scikit-learn, PyTorch and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from cifarlab.statistics import metrics
from cifarlab.statistics.significance import accuracy_interval


@pytest.fixture
def guesses() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 400)
    logits = generator.normal(size=(400, 6)).astype(np.float32) * 2  # class 5 never occurs
    logits[np.arange(400), labels] += 1.5
    return logits, labels


def test_confusion_matrix_and_per_class_metrics_equal_scikit_learn(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = guesses
    predicted = logits.argmax(1)
    matrix = metrics.confusion_matrix(labels, predicted, 6)
    np.testing.assert_array_equal(matrix, sklearn_metrics.confusion_matrix(labels, predicted, labels=range(6)))
    assert metrics.accuracy(labels, predicted) == sklearn_metrics.accuracy_score(labels, predicted)
    expected = sklearn_metrics.precision_recall_fscore_support(labels, predicted, labels=range(6), zero_division=0)
    rows = metrics.per_class(labels, predicted, tuple("abcdef"))
    np.testing.assert_allclose([row.precision for row in rows], expected[0])
    np.testing.assert_allclose([row.recall for row in rows], expected[1])
    np.testing.assert_allclose([row.f1 for row in rows], expected[2])
    assert [row.support for row in rows] == expected[3].tolist()


def test_loss_and_probabilities_equal_pytorch(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = guesses
    tensor = torch.from_numpy(logits).double()
    expected = torch.nn.functional.cross_entropy(tensor, torch.from_numpy(labels))
    assert metrics.cross_entropy(logits, labels) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(metrics.probabilities(logits), tensor.softmax(1).numpy(), rtol=1e-12)
    huge = np.array([[1e4, 0.0]], np.float32)
    assert metrics.cross_entropy(huge, np.array([1])) == pytest.approx(1e4)


def test_top_5_is_scikit_learns_and_counts_ties_in_order() -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 30, 2_000), random.normal(size=(2_000, 30)).astype(np.float32)
    expected = sklearn_metrics.top_k_accuracy_score(labels, logits, k=5, labels=np.arange(30))
    assert metrics.top5_accuracy(labels, logits) == pytest.approx(expected) and 0.1 < expected < 0.25
    equal = np.zeros((3, 30), np.float32)
    assert metrics.top5_accuracy(np.array([4, 5, 0]), equal) == pytest.approx(2 / 3)
    assert metrics.top5_accuracy(labels % 20, logits[:, :20]) is None
    assert metrics.top5_accuracy(labels[:0], logits[:0]) is None


def test_calibration_error_of_known_cases() -> None:
    labels = np.array([0, 0, 0, 1])
    calibrated = np.log(np.full((4, 2), [0.75, 0.25])).astype(np.float32)
    assert metrics.calibration_error(calibrated, labels) == pytest.approx(
        0, abs=1e-6
    )  # confidence 75 %, 3 of 4 correct
    overconfident = np.log(np.full((4, 2), [0.999999, 0.000001])).astype(np.float32)
    assert metrics.calibration_error(overconfident, labels) == pytest.approx(0.25, abs=1e-4)


def test_temperature_scaling_finds_the_temperature_and_changes_no_prediction() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20_000, 5)).astype(np.float32)
    likely = metrics.probabilities(logits)
    labels = np.array([random.choice(5, p=row) for row in likely])
    assert metrics.temperature(logits, labels) == pytest.approx(1, abs=0.03)
    overconfident = (3 * logits).astype(np.float32)
    temperature = metrics.temperature(overconfident, labels)
    assert temperature == pytest.approx(3, rel=0.03)
    cooled = (overconfident / temperature).astype(np.float32)
    assert metrics.calibration_error(cooled, labels) < 0.02 < 0.1 < metrics.calibration_error(overconfident, labels)
    assert (cooled.argmax(1) == overconfident.argmax(1)).all()


def test_no_temperature_is_fitted_to_correct_or_wrong_predictions_alone() -> None:
    logits = np.array([[3, 0], [0, 3], [5, 1]], np.float32)
    assert metrics.temperature(logits, np.array([0, 1, 0])) == 1
    assert metrics.temperature(logits, np.array([1, 0, 1])) == 1


def test_reliability_counts_every_image_once() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.normal(0, 2, (500, 4)).astype(np.float32), random.integers(0, 4, 500)
    bins = metrics.reliability(logits, labels)
    assert bins.images.sum() == 500 and len(bins.images) == metrics.CALIBRATION_BINS
    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1)
    filled = bins.images > 0
    assert ((edges[:-1] <= bins.confidence) & (bins.confidence <= edges[1:]))[filled].all()
    accuracy = (logits.argmax(1) == labels).mean()
    assert (bins.accuracy * bins.images).sum() / 500 == pytest.approx(accuracy)


def test_accuracy_by_coverage_of_a_known_case() -> None:
    logits = np.array([[9, 0], [2, 0], [0, 1], [0, 5]], np.float32)
    accuracies = metrics.accuracy_by_coverage(logits, np.array([0, 1, 1, 1]))
    assert accuracies == pytest.approx([1, 1, 2 / 3, 3 / 4])


def test_confused_pairs_and_confident_mistakes_are_sorted() -> None:
    labels, predicted = np.divmod(np.repeat(np.arange(9), [5, 4, 1, 0, 9, 1, 7, 0, 3]), 3)
    pairs = metrics.most_confused(labels, predicted, 3)
    assert [(pair.true, pair.predicted, pair.count) for pair in pairs] == [(2, 0, 7), (0, 1, 4), (0, 2, 1)]
    assert pairs[0].rate == 0.7
    assert metrics.most_confused(labels, labels) == []
    logits = np.array([[3, 0], [0, 1], [9, 0], [0, 2]], np.float32)
    assert metrics.most_confident_mistakes(logits, np.array([1, 0, 1, 1]), 5).tolist() == [2, 0, 1]


def test_the_accuracy_interval_is_wilsons() -> None:
    low, high = accuracy_interval(80, 100)
    assert (low, high) == pytest.approx((0.71117, 0.86663), abs=1e-5)  # Wilson's formula, worked out by hand


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (10, 10), (8_800, 10_000)])
def test_the_accuracy_interval_equals_scipy(correct: int, images: int) -> None:
    theirs = binomtest(correct, images).proportion_ci(method="wilson")
    assert accuracy_interval(correct, images) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
