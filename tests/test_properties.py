"""Properties that hold for any data: drawn by hypothesis, compared with scikit-learn, NumPy or a second run."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifarlab import Data, Dataset, relabel
from cifarlab.data import batches
from cifarlab.data.augment import augment
from cifarlab.data.dataset import split
from cifarlab.errors import UsageError
from cifarlab.recipes import Augment, Recipe, check, parse_settings
from cifarlab.statistics import metrics

NAMES = tuple("abcdefgh")
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("repeatable")

counts = st.lists(st.integers(0, 30), min_size=2, max_size=8).filter(lambda sizes: sum(sizes) > 3)


def dataset(sizes: list[int]) -> Dataset:
    """Return images whose first two pixels contain their index."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(sum(sizes)).permutation(labels)
    images = np.zeros((len(labels), 3, 8, 8), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    return Dataset(images, labels.astype(np.int64), NAMES[: len(sizes)])


def numbers(images: np.ndarray) -> np.ndarray:
    """Return the indices that `dataset` wrote into the pixels."""
    indices: np.ndarray = images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)
    return indices


@given(counts, st.floats(0.05, 0.6), st.integers(0, 2**31))
def test_a_split_is_stratified_and_loses_nothing(sizes: list[int], fraction: float, seed: int) -> None:
    whole = dataset(sizes)
    rest, held = split(whole, fraction, seed)
    assert sorted([*numbers(rest.images), *numbers(held.images)]) == list(range(len(whole)))
    for part in (rest, held):
        assert np.array_equal(whole.labels[numbers(part.images)], part.labels)
    got, wanted = np.bincount(held.labels, minlength=len(sizes)), fraction * np.array(sizes)
    assert np.all(np.abs(got - wanted) <= 1)
    again = split(whole, fraction, seed)
    assert np.array_equal(again[0].images, rest.images) and np.array_equal(again[1].labels, held.labels)


@given(counts, st.data())
def test_dropped_and_merged_classes(sizes: list[int], data: st.DataObject) -> None:
    whole = dataset(sizes)
    names = list(whole.classes)
    drop = data.draw(st.lists(st.sampled_from(names), max_size=3))
    merge = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(names), max_size=3))
    original = Data("d", whole, whole, "0" * 64, "memory", "")
    removed = [*drop, *merge]
    is_wrong = len(set(removed)) < len(removed) or any(into in removed for into in merge.values())
    if removed and (is_wrong or len(names) - len(removed) < 2):
        with pytest.raises(UsageError):
            relabel(original, drop, merge)
        return
    changed = relabel(original, drop, merge)
    assert changed.classes == tuple(name for name in names if name not in removed)
    expected = [merge.get(names[label], names[label]) for label in whole.labels if names[label] not in drop]
    assert [changed.classes[label] for label in changed.train.labels] == expected
    kept = [number for number, label in enumerate(whole.labels) if names[label] not in drop]
    assert list(numbers(changed.train.images)) == kept
    assert (changed.sha256 == original.sha256) == (not removed)


@given(st.integers(2, 8), st.integers(1, 200), st.integers(0, 2**31))
def test_metrics_agree_with_scikit_learn(classes: int, images: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, images)
    logits = draw.normal(size=(images, classes)).astype(np.float32)
    predicted = logits.argmax(axis=1)
    every = list(range(classes))
    matrix = metrics.confusion_matrix(labels, predicted, classes)
    assert np.array_equal(matrix, sklearn.metrics.confusion_matrix(labels, predicted, labels=every))
    assert metrics.accuracy(labels, predicted) == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    present = np.unique(labels)
    recalls = sklearn.metrics.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(recalls)
    theirs = sklearn.metrics.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    ours = [
        [row.precision, row.recall, row.f1, row.support]
        for row in metrics.per_class(labels, predicted, NAMES[:classes])
    ]
    np.testing.assert_allclose(np.array(ours).T, np.array(theirs), atol=1e-12)
    expected = sklearn.metrics.log_loss(labels, metrics.probabilities(logits), labels=every)
    assert metrics.cross_entropy(logits, labels) == pytest.approx(expected, rel=1e-5)
    assert 0 <= metrics.calibration_error(logits, labels) <= 1


@given(
    st.integers(1, 6),
    st.sampled_from([8, 17, 32]),
    st.fixed_dictionaries(
        {
            "flip": st.booleans(),
            "shift": st.sampled_from([0.0, 0.1, 0.5]),
            "rotation": st.sampled_from([0.0, 15.0, 180.0]),
            "crop": st.integers(0, 4),
            "border": st.sampled_from(["zero", "reflect"]),
            "cutout": st.integers(0, 8),
        }
    ),
    st.integers(0, 2**31),
)
def test_augmented_images_keep_shape_and_range_and_follow_the_seed(
    images: int, side: int, changes: dict[str, object], seed: int
) -> None:
    batch = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(seed)) + 0.5
    results = []
    for _ in range(2):
        torch.manual_seed(seed)
        results.append(augment(batch.clone(), Augment.model_validate(changes)))
    assert torch.equal(*results) and results[0].shape == batch.shape and results[0].dtype == batch.dtype
    assert results[0].min() >= 0 and results[0].max() <= batch.max() + 1e-5  # zeros come from outside the image
    if not any(value for key, value in changes.items() if key != "border"):
        assert torch.equal(results[0], batch)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 2**31), st.integers(0, 5), st.data())
def test_an_epoch_sees_every_image_once_and_resumes_anywhere(
    images: int, batch_size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    whole = batches.DeviceImages(
        torch.zeros(images, 3, 1, 1, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64)
    )
    order = [batch.indices.tolist() for batch in batches.batches(whole, batch_size, seed, epoch)]
    seen = [number for batch in order for number in batch]
    alone = images % batch_size == 1 and images > 1  # which waits for another epoch
    assert len(set(seen)) == len(seen) == images - alone
    first = data.draw(st.integers(0, len(order)))
    rest = [batch.indices.tolist() for batch in batches.batches(whole, batch_size, seed, epoch, first)]
    assert rest == order[first:]


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=3)
)


@given(st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)), values, max_size=4))
def test_a_recipe_is_valid_or_refused_in_one_line(changes: dict[str, object]) -> None:
    try:
        recipe = check({"name": "a", **changes}, "recipe")
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) < 1_000
    else:
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@given(st.text(max_size=60))
def test_settings_are_read_or_refused(text: str) -> None:
    try:
        parse_settings([text])
    except UsageError as error:
        assert "\n" not in str(error)
