"""cifarlab trains classifiers of small images, CIFAR-10 first, and shows what they get wrong.

    import cifarlab
    run = cifarlab.train("fast90")
    run.results["test_accuracy"]
    run.predict(["photo.jpg"])

The names below are imported when they are first used, so that `import cifarlab` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from cifarlab.api import Run, compare, recipe, resume, train
    from cifarlab.data.catalogue import load_data
    from cifarlab.data.dataset import Data, Dataset, relabel
    from cifarlab.errors import CifarlabError, Interrupted, UsageError
    from cifarlab.experiments.lr_find import find_learning_rate
    from cifarlab.experiments.reproduce import reproduce
    from cifarlab.experiments.rerun import rerun
    from cifarlab.experiments.study.sweep import run_study
    from cifarlab.experiments.tuning.search import tune
    from cifarlab.formats import identify
    from cifarlab.inference.export import export
    from cifarlab.inference.loading import load
    from cifarlab.inference.state_dicts import import_state_dict
    from cifarlab.inference.targets import evaluate, predict
    from cifarlab.integrations.sklearn import CifarClassifier
    from cifarlab.keras.importing import import_keras
    from cifarlab.models import build_model, register
    from cifarlab.models.own_networks import trust
    from cifarlab.recipes import Recipe

_HOMES = {
    "api": ("Run", "compare", "recipe", "resume", "train"),
    "data.catalogue": ("load_data",),
    "data.dataset": ("Data", "Dataset", "relabel"),
    "errors": ("CifarlabError", "Interrupted", "UsageError"),
    "experiments.lr_find": ("find_learning_rate",),
    "experiments.reproduce": ("reproduce",),
    "experiments.rerun": ("rerun",),
    "experiments.study.sweep": ("run_study",),
    "experiments.tuning.search": ("tune",),
    "formats": ("identify",),
    "inference.export": ("export",),
    "inference.loading": ("load",),
    "inference.state_dicts": ("import_state_dict",),
    "inference.targets": ("evaluate", "predict"),
    "integrations.sklearn": ("CifarClassifier",),
    "keras.importing": ("import_keras",),
    "models": ("build_model", "register"),
    "models.own_networks": ("trust",),
    "recipes": ("Recipe",),
}

__all__ = ["CifarClassifier", "CifarlabError", "Data", "Dataset", "Interrupted", "Recipe", "Run", "UsageError"]
__all__ += ["build_model", "compare", "evaluate", "export", "find_learning_rate", "identify", "import_keras"]
__all__ += ["import_state_dict", "load", "load_data", "predict", "recipe", "register", "relabel", "reproduce", "rerun"]
__all__ += ["resume", "run_study", "train", "trust", "tune"]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"cifarlab.{home}"), name)
            return value
    raise AttributeError(f"module 'cifarlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
