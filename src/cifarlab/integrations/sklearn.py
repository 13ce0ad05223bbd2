"""A scikit-learn estimator: `fit`, `predict` and `score` on arrays, for cross-validation and parameter searches.

Every `fit` is an ordinary training with a run folder, which is kept if `runs` is set.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from cifarlab import recipes
from cifarlab.data.arrays import flat_labels
from cifarlab.data.dataset import Data, Dataset, Parts, sha256_of, split
from cifarlab.data.image_files import from_array
from cifarlab.device import choose_device
from cifarlab.inference import prediction
from cifarlab.inference.classifier import Classifier, to_device
from cifarlab.inference.weights_file import load_weights
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import create_run, new_run_path, runs_folder
from cifarlab.training.loop import fit, settle
from cifarlab.training.preparation import load_source, new_record, prepare_parts
from cifarlab.training.session import Session

PROTOCOL = (
    "a part of the images given to fit was held out to choose the epoch by; the test set is that same part, so that "
    "only a score on other images is honest"
)


@dataclass(eq=False, repr=False)
class CifarClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """A scikit-learn classifier of images that trains a recipe.

    `fit` holds out a share of its images, the recipe's `validation_fraction`, to choose the best epoch by.

    Args:
        recipe: a recipe, its name, or its TOML file.
        epochs: number of epochs; None keeps the recipe's, as for the next two.
        batch_size: images per batch.
        learning_rate: highest learning rate of the schedule.
        settings: other settings of the recipe by key, as for `cifarlab train --set`.
        random_state: seed of the training; None draws one.
        device: `auto`, `cpu` or `cuda`.
        runs: folder in which the run of each `fit` is kept; None keeps no runs.
        quiet: show no progress.

    Attributes, after `fit`:
        classes_: labels in order.
        classifier_: trained classifier, for `cifarlab.predict` and `cifarlab.export`.
        history_: one row per epoch.
    """

    recipe: recipes.Recipe | str = recipes.DEFAULT
    _: KW_ONLY
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    settings: Mapping[str, Any] | None = None
    random_state: int | None = 0
    device: str = "auto"
    runs: Path | str | None = None
    quiet: bool = True

    def fit(self, X: Any, y: Any) -> "CifarClassifier":
        """Train on images and labels.

        Args:
            X: images, [n, height, width, 3], [n, 3, height, width], or grey [n, height, width], from 0 to 255 or from 0
                to 1; [3, height, width] is a single image. They are resized to the recipe's size.
            y: class labels of any type, [n] or [n, 1], or one-hot [n, classes].

        Raises:
            ValueError: X is not an array of images, or y does not fit X.
            UsageError: the recipe or one of its settings does not exist.
        """
        searched = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        changes = {key: value for key, value in searched.items() if value is not None} | dict(self.settings or {})
        seed = int.from_bytes(os.urandom(4)) if self.random_state is None else self.random_state
        changes |= {"train_on": "split", "validate_on": "validation", "dataset": "arrays", "seed": seed}
        recipe = self.recipe if isinstance(self.recipe, recipes.Recipe) else recipes.load(self.recipe)
        recipe = recipe.changed(changes)
        recipe, source = load_source(recipe, self.runs)
        images = from_array(X, recipe.size, recipe.resize)
        check_classification_targets(y := flat_labels(y))
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(labels) != len(images) or len(self.classes_) < 2:
            received = f"{len(labels)} of {len(self.classes_)}"
            raise ValueError(f"y must have {len(images)} labels of at least two classes, got {received}")
        whole = Dataset(images, labels.astype(np.int64), tuple(map(str, self.classes_)))
        training, held_out = split(whole, recipe.validation_fraction, recipe.seed)
        if not len(held_out):
            raise ValueError(f"{len(whole)} images are too few to hold some out for choosing the best epoch")
        data = Data("arrays", training, held_out, sha256_of(whole), "memory", "", held_out)
        place, parts = choose_device(self.device), Parts(training, held_out, held_out, PROTOCOL)
        prepared = settle(prepare_parts(recipe, data, parts, place, source=source))
        with tempfile.TemporaryDirectory() as folder:
            path = new_run_path(runs_folder(self.runs or folder), recipe, None)
            run = create_run(RunFolder, path, new_record(prepared), "next")
            fit(prepared, Session(run, quiet=self.quiet))
            self.classifier_: Classifier = load_weights(run.weights)
            self.history_ = run.history
        to_device(self.classifier_, place)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of images, float32 [n, classes], in the order of `classes_`."""
        check_is_fitted(self)
        return prediction.predict(self.classifier_, from_array(X, self.classifier_.size, self.classifier_.resize))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable labels of images, [n]."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags
