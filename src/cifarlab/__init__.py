"""cifarlab trains classifiers of small images, CIFAR-10 first, and shows what they get wrong.

    import cifarlab
    run = cifarlab.train("fast90")
    run.results["test_accuracy"]
    run.predict(["photo.jpg"])

The names below are imported when they are first used, so that `import cifarlab` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cifarlab.api import Run, compare, recipe, resume, train
    from cifarlab.data.datasets import Data, Dataset, relabel
    from cifarlab.data.loaders import load_data
    from cifarlab.errors import CifarlabError, Interrupted, UsageError
    from cifarlab.estimator import CifarClassifier
    from cifarlab.kerasimport import import_keras
    from cifarlab.models import build_model, register
    from cifarlab.ratefinder import find_learning_rate
    from cifarlab.recipes import Recipe
    from cifarlab.repetition import rerun
    from cifarlab.reproduction import reproduce
    from cifarlab.study.sweep import run_study
    from cifarlab.targets import evaluate, export, load, predict
    from cifarlab.tuning.search import tune

_HOMES = {
    "api": ("Run", "compare", "recipe", "resume", "train"),
    "data.datasets": ("Data", "Dataset", "relabel"),
    "data.loaders": ("load_data",),
    "errors": ("CifarlabError", "Interrupted", "UsageError"),
    "estimator": ("CifarClassifier",),
    "kerasimport": ("import_keras",),
    "models": ("build_model", "register"),
    "ratefinder": ("find_learning_rate",),
    "repetition": ("rerun",),
    "reproduction": ("reproduce",),
    "study.sweep": ("run_study",),
    "targets": ("evaluate", "export", "load", "predict"),
    "tuning.search": ("tune",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names} | {"Recipe": "recipes"}

__all__ = [
    "CifarClassifier",
    "CifarlabError",
    "Data",
    "Dataset",
    "Interrupted",
    "Recipe",
    "Run",
    "UsageError",
    "build_model",
    "compare",
    "evaluate",
    "export",
    "find_learning_rate",
    "import_keras",
    "load",
    "load_data",
    "predict",
    "recipe",
    "register",
    "relabel",
    "reproduce",
    "rerun",
    "resume",
    "run_study",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cifarlab' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cifarlab.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
