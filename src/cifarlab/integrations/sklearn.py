"""The door to scikit-learn: `fit`, `predict` and `score` on arrays, for its cross-validation and its searches.

Every `fit` is a training like any other, in a run folder that stays where `runs` is given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from cifarlab import recipes
from cifarlab.api import describe
from cifarlab.data.dataset import Data, Dataset, sha256_of, split
from cifarlab.data.images import from_array
from cifarlab.device import choose_device, environment
from cifarlab.inference import evaluation
from cifarlab.inference.classifier import Classifier, to_device
from cifarlab.inference.weights_file import load_weights
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import claim_folder, new_run_path
from cifarlab.runs.record import Environment
from cifarlab.training.loop import train
from cifarlab.training.state import Parts

PROTOCOL = (
    "a part of the images given to fit was held out to choose the epoch by; what is called test here is that part, so "
    "that only a score on other images is honest"
)


class CifarClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """A network of this package that trains on arrays of images.

    A part of what `fit` gets, the recipe's `validation_fraction`, is held out to choose the best epoch by.

    Args:
        recipe: a recipe's name or TOML file.
        epochs: number of epochs; None keeps the recipe's, as for the next two.
        batch_size: images in a batch.
        learning_rate: the highest learning rate of the schedule.
        settings: any other keys of the recipe, as `cifarlab train --set` takes them.
        random_state: the seed.
        device: `auto`, `cpu` or `cuda`.
        runs: the folder that the run of each `fit` is kept in; None keeps none.
        quiet: show no progress.

    After `fit`: `classes_`, the labels in order; `classifier_`, what `cifarlab.predict` and `cifarlab.export` take;
    `history_`, a row an epoch.
    """

    def __init__(
        self,
        recipe: str = recipes.DEFAULT,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int = 0,
        device: str = "auto",
        runs: Path | str | None = None,
        quiet: bool = True,
    ) -> None:
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.runs = runs
        self.quiet = quiet

    def fit(self, X: Any, y: Any) -> CifarClassifier:
        """Trains.

        Args:
            X: images, uint8, [n, height, width, 3], [n, 3, height, width], or gray [n, height, width]; resized to the
                recipe's size.
            y: labels of any kind, [n].

        Raises:
            ValueError: not images, or labels that do not go with them.
            UsageError: no such recipe or key.
        """
        recipe = self._recipe()
        images = from_array(X, recipe.size)
        check_classification_targets(y)
        self.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
        if len(labels) != len(images) or len(self.classes_) < 2:
            raise ValueError(f"y should be {len(images)} labels of two classes or more, got {len(labels)}")
        whole = Dataset(images, labels.astype(np.int64), tuple(map(str, self.classes_)))
        training, held_out = split(whole, recipe.validation_fraction, recipe.seed)
        if not len(held_out):
            raise ValueError(f"{len(whole)} images are too few to hold some out to choose the best epoch by")
        data = Data("arrays", training, held_out, sha256_of(whole), "memory", "", held_out)
        with tempfile.TemporaryDirectory() as folder:
            parent = Path(self.runs or folder)
            self._train(recipe, data, claim_folder(new_run_path(parent, recipe, None), "next"))
        return self

    def _train(self, recipe: Recipe, data: Data, path: Path) -> None:
        where, parts = choose_device(self.device), Parts(data.train, data.test, data.test, PROTOCOL)
        run = RunFolder.create(path, recipe, describe(data, parts), PROTOCOL, Environment(**environment(where)), "")
        train(recipe, parts, run, where, quiet=self.quiet)
        self.classifier_: Classifier = load_weights(run.weights)
        self.history_ = run.history
        to_device(self.classifier_, where)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [n, classes], in the order of `classes_`."""
        check_is_fitted(self)
        found: np.ndarray = evaluation.predict(self.classifier_, from_array(X, self.classifier_.size))
        return found

    def predict(self, X: Any) -> np.ndarray:
        """Labels [n]."""
        likely = self.predict_proba(X)
        return np.asarray(self.classes_[likely.argmax(axis=1)])

    def _recipe(self) -> Recipe:
        given = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        changes = {key: value for key, value in given.items() if value is not None} | dict(self.settings or {})
        honest = {"train_on": "split", "validate_on": "validation"}
        return recipes.load(self.recipe).changed({**changes, **honest, "dataset": "arrays", "seed": self.random_state})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags
