"""Split a data set into the parts that a recipe trains on, chooses by and tests on."""

from dataclasses import dataclass

from cifarlab.data.catalogue import load_data
from cifarlab.data.cifar10 import is_cached
from cifarlab.data.dataset import Data, Dataset, relabel, split
from cifarlab.errors import UsageError
from cifarlab.recipes import Recipe


@dataclass(frozen=True)
class Parts:
    """Images to train on, to choose by and to test on. Two of them may be the same value; see `Recipe.protocol`."""

    train: Dataset
    validation: Dataset
    test: Dataset
    protocol: str
    """A sentence that says how metrics on these parts come about."""


def split_data(recipe: Recipe, data: Data) -> Parts:
    """Split relabelled data as the recipe's protocol asks.

    Raises:
        UsageError: there are too few images to split.
    """
    if recipe.validate_on == "test" and recipe.train_on == "all":
        return Parts(data.train, data.test, data.test, recipe.protocol())
    if data.validation is not None:
        train, validation = data.train, data.validation
    else:
        train, validation = split(data.train, recipe.validation_fraction, recipe.seed)
    if not len(validation) or not len(data.test):
        raise UsageError(f"{data.name}: {len(data.train)} images are too few to validate and to test on")
    protocol = recipe.protocol(own_validation=data.validation is not None)
    return Parts(train, data.test if recipe.validate_on == "test" else validation, data.test, protocol)


def load_parts(
    recipe: Recipe, *, data: Data | None = None, sha256: str = "", fetch: bool = True, quiet: bool = True
) -> tuple[Data, Parts]:
    """Load a recipe's data set; drop and merge its classes and split it.

    Args:
        recipe: names data set, image size, classes to drop and merge, and protocol.
        data: a data set in memory to use instead of the recipe's.
        sha256: checksum that the data must have, for data that a run was trained on.
        fetch: download CIFAR-10 if it is not in the cache.
        quiet: show no progress.

    Returns:
        The data set as loaded, and its parts with classes dropped and merged.

    Raises:
        UsageError: the data does not exist, has another checksum or image size, or is too small to split.
        CifarlabError: a download failed.
    """
    if data is None:
        if recipe.dataset == "cifar10" and not (fetch or is_cached()):
            raise UsageError("CIFAR-10 is not in the cache: get it with cifarlab data get")
        data = load_data(recipe.dataset, size=recipe.size, quiet=quiet)
    if sha256 and data.sha256 != sha256:
        raise UsageError(f"the data set {data.name} is not what the run was trained on (SHA-256 differs)")
    height, width = data.train.images.shape[2:]
    if (height, width) != (recipe.size, recipe.size):
        raise UsageError(f"{data.name}: images are {height}x{width}, the recipe's size is {recipe.size}")
    return data, split_data(recipe, relabel(data, recipe.drop, recipe.merge))
