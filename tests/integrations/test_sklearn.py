"""The scikit-learn estimator: scikit-learn's own checks, cross-validation and parameter searches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks

import cifarlab
from cifarlab import CifarClassifier, Data
from cifarlab.errors import UsageError
from cifarlab.runs.listing import list_runs

CHECKS = (  # `check_estimator` skips these for estimators that take no tables, although these checks need no table
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)


def small(**changes: Any) -> CifarClassifier:
    return CifarClassifier("lenet5", **{"epochs": 4, "batch_size": 32, "learning_rate": 0.05, **changes})


@pytest.fixture(scope="module")
def fitted(digits: Data) -> CifarClassifier:
    return small().fit(digits.train.images, np.array(list("abcdefghij"))[digits.train.labels])


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_own_checks(name: str) -> None:
    check: Callable[[str, CifarClassifier], None] = getattr(estimator_checks, name)
    check("CifarClassifier", small())


def test_scikit_learn_finds_no_fault() -> None:
    with pytest.warns(SkipTestWarning):  # for the checks that need tables
        estimator_checks.check_estimator(small())


def test_predictions_are_labels_of_the_training_data(fitted: CifarClassifier, digits: Data) -> None:
    assert list(fitted.classes_) == list("abcdefghij") and len(fitted.history_) == 4
    probabilities = fitted.predict_proba(digits.test.images)
    assert probabilities.shape == (len(digits.test), 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    labels = np.array(list("abcdefghij"))[digits.test.labels]
    assert fitted.score(digits.test.images, labels) == (fitted.predict(digits.test.images) == labels).mean() > 0.8


def test_a_fitted_estimator_is_pickled_and_exported(fitted: CifarClassifier, digits: Data, tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(digits.test.images), fitted.predict(digits.test.images))
    assert cifarlab.export(fitted.classifier_, tmp_path / "a.safetensors", format="safetensors").bytes > 0


def test_equal_seeds_give_equal_networks(digits: Data) -> None:
    images, labels = digits.train.images[:300], digits.train.labels[:300]
    first, second, other = (small(epochs=1, random_state=seed).fit(images, labels) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.predict_proba(images), second.predict_proba(images))
    assert not np.array_equal(first.predict_proba(images), other.predict_proba(images))


def test_cross_validation_and_grid_search_work(digits: Data) -> None:
    images, labels = digits.train.images[:600].transpose(0, 2, 3, 1), digits.train.labels[:600]
    assert cross_val_score(small(), images, labels, cv=2).mean() > 0.5
    search = GridSearchCV(small(epochs=2), {"learning_rate": [1e-5, 0.05]}, cv=2).fit(images, labels)
    assert search.best_params_ == {"learning_rate": 0.05}


def test_runs_are_kept_in_the_runs_folder(digits: Data, tmp_path: Path) -> None:
    small(epochs=1, runs=tmp_path).fit(digits.train.images[:200], digits.train.labels[:200])
    (path,) = list_runs(tmp_path)
    assert "a part of the images given to fit was held out" in cifarlab.Run(path).record.protocol


def test_a_fit_starts_from_the_weights_that_the_recipe_names(digits: Data, trained_run: cifarlab.Run) -> None:
    settings = {"start_from": str(trained_run.path)}
    estimator = CifarClassifier("finetune", epochs=1, learning_rate=1e-9, settings=settings)
    estimator.fit(digits.train.images[:100], digits.train.labels[:100])
    accuracy = estimator.score(digits.test.images, digits.test.labels)
    assert accuracy == pytest.approx(trained_run.results["test_accuracy"], abs=0.01)


def test_labels_and_images_as_keras_gives_them(digits: Data) -> None:
    images, labels = digits.train.images[:60].transpose(0, 2, 3, 1), digits.train.labels[:60]
    expected = small(epochs=1).fit(images, labels)
    for X, y in ((images / 255, labels[:, None]), (torch.from_numpy(images), np.eye(10)[labels])):
        np.testing.assert_array_equal(small(epochs=1).fit(X, y).predict_proba(images), expected.predict_proba(images))
    assert expected.predict(images[0]) == expected.predict(images[:1])
    assert expected.predict(torch.from_numpy(images[0].transpose(2, 0, 1))).shape == (1,)
    assert expected.predict(images[:3, ..., :1]).shape == (3,)  # gray


def test_a_recipe_is_an_object_and_a_seed_is_drawn_if_none_is_set(digits: Data) -> None:
    recipe = cifarlab.recipe("lenet5", epochs=1)
    fitted = clone(CifarClassifier(recipe, random_state=None)).fit(digits.train.images[:60], digits.train.labels[:60])
    assert fitted.classifier_.about["seed"] > 0


def test_wrong_input_is_refused(digits: Data) -> None:
    images, labels = digits.train.images[:50], digits.train.labels[:50]
    for X, y, text in (
        (images - 0.5, labels, "should be images"),
        (images.reshape(50, -1), labels, "should be images"),
        (images, labels[:9], "must have 50 labels"),
        (images, labels * 0, "at least two classes, got 50 of 1"),
        (images, labels + 0.5, "Unknown label type"),
    ):
        with pytest.raises(ValueError, match=text):
            small().fit(X, y)
    with pytest.raises(NotFittedError):
        small().predict(images)
    with pytest.raises(UsageError, match="unknown key 'flip'"):
        clone(small(settings={"flip": True})).fit(images, labels)


def test_too_few_images_are_refused(digits: Data) -> None:
    with pytest.raises(ValueError, match="3 images are too few to hold some out"):
        small().fit(digits.train.images[:3], ["a", "b", "c"])
