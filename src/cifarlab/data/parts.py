"""Split a data set into the parts that a recipe trains on, chooses by and tests on."""

from dataclasses import dataclass

from cifarlab.data.catalogue import load_data
from cifarlab.data.cifar10 import find_cached
from cifarlab.data.dataset import Data, Dataset, relabel, split
from cifarlab.errors import UsageError
from cifarlab.recipes import Recipe


@dataclass(frozen=True)
class Parts:
    """Images to train on, to choose by and to test on. Two of them may be the same value; see `Recipe.protocol`."""

    train: Dataset
    validation: Dataset
    test: Dataset
    protocol: str  # a sentence that says how metrics on these parts come about


def load_parts(
    recipe: Recipe, *, data: Data | None = None, sha256: str = "", fetch: bool = True, quiet: bool = True
) -> tuple[Data, Parts]:
    """Return a recipe's data set as loaded, and its parts with classes dropped and merged.

    Args:
        recipe: names data set, image size, classes to drop and merge, and protocol.
        data: a data set in memory to use instead of the recipe's.
        sha256: checksum that the data must have; any if empty.
        fetch: download CIFAR-10 if it is not in the cache.
        quiet: show no progress.
    """
    if data is None:
        if recipe.dataset == "cifar10" and not (fetch or find_cached()):
            raise UsageError("CIFAR-10 is not in the cache: get it with cifarlab data get")
        data = load_data(recipe.dataset, size=recipe.size, quiet=quiet)
    if sha256 and data.sha256 != sha256:
        raise UsageError(f"the data set {data.name} is not what the run was trained on (SHA-256 differs)")
    if (shape := data.train.images.shape[2:]) != (recipe.size, recipe.size):
        raise UsageError(f"{data.name}: images are {shape[0]}x{shape[1]}, the recipe's size is {recipe.size}")
    relabelled = relabel(data, recipe.drop, recipe.merge)
    train, validation, test = relabelled.train, relabelled.validation, relabelled.test
    protocol = recipe.protocol(own_validation=validation is not None)
    if recipe.train_on == "split" and validation is None:
        train, validation = split(train, recipe.validation_fraction, recipe.seed)
    if validation is None or recipe.validate_on == "test":
        validation = test
    if not len(validation) or not len(test):
        raise UsageError(f"{data.name}: {len(relabelled.train)} images are too few to validate and to test on")
    return data, Parts(train, validation, test, protocol)
