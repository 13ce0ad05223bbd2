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
from cifarlab.recipes import Recipe, check, parse_settings
from cifarlab.statistics import metrics

NAMES = tuple("abcdefgh")
settings.register_profile("here", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("here")

counts = st.lists(st.integers(0, 30), min_size=2, max_size=8).filter(lambda each: sum(each) > 3)


def dataset(sizes: list[int]) -> Dataset:
    """Return images whose first two pixels contain their index."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(sum(sizes)).permutation(labels)
    images = np.zeros((len(labels), 3, 8, 8), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    return Dataset(images, labels.astype(np.int64), NAMES[: len(sizes)])


def numbers(images: np.ndarray) -> np.ndarray:
    found: np.ndarray = images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)
    return found


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
    gone = [*drop, *merge]
    is_wrong = len(set(gone)) < len(gone) or any(into in gone for into in merge.values())
    if gone and (is_wrong or len(names) - len(gone) < 2):
        with pytest.raises(UsageError):
            relabel(original, drop, merge)
        return
    found = relabel(original, drop, merge)
    assert found.classes == tuple(name for name in names if name not in gone)
    expected = [merge.get(names[label], names[label]) for label in whole.labels if names[label] not in drop]
    assert [found.classes[label] for label in found.train.labels] == expected
    kept = [number for number, label in enumerate(whole.labels) if names[label] not in drop]
    assert list(numbers(found.train.images)) == kept
    assert (found.sha256 == original.sha256) == (not gone)


@given(st.integers(2, 8), st.integers(1, 200), st.integers(0, 2**31))
def test_figures_of_merit_are_scikit_learns(classes: int, images: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, images)
    logits = draw.normal(size=(images, classes)).astype(np.float32)
    said = logits.argmax(axis=1)
    every = list(range(classes))
    matrix = metrics.confusion_matrix(labels, said, classes)
    assert np.array_equal(matrix, sklearn.metrics.confusion_matrix(labels, said, labels=every))
    assert metrics.accuracy(matrix) == pytest.approx(sklearn.metrics.accuracy_score(labels, said))
    present = np.unique(labels)
    recalls = sklearn.metrics.recall_score(labels, said, labels=present, average="macro", zero_division=0)
    assert metrics.balanced_accuracy(matrix) == pytest.approx(recalls)
    theirs = sklearn.metrics.precision_recall_fscore_support(labels, said, labels=every, zero_division=0)
    ours = [[row.precision, row.recall, row.f1, row.support] for row in metrics.per_class(matrix, NAMES[:classes])]
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
    found = []
    for _ in range(2):
        torch.manual_seed(seed)
        found.append(augment(batch.clone(), **changes))  # type: ignore[arg-type]
    assert torch.equal(*found) and found[0].shape == batch.shape and found[0].dtype == batch.dtype
    assert found[0].min() >= 0 and found[0].max() <= batch.max() + 1e-5  # zeros come from outside the image
    if not any(value for key, value in changes.items() if key != "border"):
        assert torch.equal(found[0], batch)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 2**31), st.integers(0, 5), st.data())
def test_an_epoch_sees_every_image_once_and_goes_on_anywhere(
    images: int, batch_size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    whole = batches.DeviceImages(
        torch.zeros(images, 3, 1, 1, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64)
    )
    order = [batch.which.tolist() for batch in batches.batches(whole, batch_size, seed, epoch)]
    seen = [number for batch in order for number in batch]
    alone = images % batch_size == 1 and images > 1  # which waits for another epoch
    assert len(set(seen)) == len(seen) == images - alone
    first = data.draw(st.integers(0, len(order)))
    rest = [batch.which.tolist() for batch in batches.batches(whole, batch_size, seed, epoch, first)]
    assert rest == order[first:]


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=3)
)


@given(st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)), values, max_size=4))
def test_a_recipe_is_right_or_refused_in_a_line(changes: dict[str, object]) -> None:
    try:
        found = check({"name": "a", **changes}, "here")
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) < 1_000
    else:
        assert Recipe.model_validate(found.model_dump(mode="json")) == found


@given(st.text(max_size=60))
def test_settings_are_read_or_refused(text: str) -> None:
    try:
        parse_settings([text])
    except UsageError as error:
        assert "\n" not in str(error)
