"""Load a data set by its name, or the parts of a recipe's. A new kind of data set is a loader and its entry here."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cifarlab import files
from cifarlab.data import arrays
from cifarlab.data.corrections import correct_labels
from cifarlab.data.dataset import TEST_FRACTION, Data, Parts, relabel, relabelled_classes, shared_images, split
from cifarlab.data.digits import DIGITS, load_digits
from cifarlab.data.own.loading import check_trainable, list_files, load_files
from cifarlab.data.published import cache
from cifarlab.data.published.data_sets import PUBLISHED
from cifarlab.errors import UsageError, unknown
from cifarlab.recipes import SMALLEST, Recipe, Resize

Loader = Callable[[str, int, bool, Resize], Data]  # from a name, the side in pixels, `quiet`, and `resize`
DEFAULT_SIZE = 32  # side in pixels of images that have none of their own
DESCRIPTIONS = {**PUBLISHED, DIGITS.name: DIGITS}  # of the data sets that have a name


def _load_published(name: str, size: int, quiet: bool, resize: Resize) -> Data:
    return cache.load(PUBLISHED[name], size, quiet=quiet, resize=resize)


# After a colon at the end comes a path.
CATALOGUE: dict[str, Loader] = {
    **dict.fromkeys(PUBLISHED, _load_published),
    "digits": load_digits,
    "folder:": load_files,
    "csv:": load_files,
    "hf:": load_files,
    "npz:": arrays.load_npz,
}


def load_data(
    name: str = "cifar10",
    *,
    size: int | None = None,
    quiet: bool = False,
    test_only: bool = False,
    resize: Resize = "crop",
) -> Data:
    """Return a data set by its name; a published data set is downloaded when it is first needed.

    Args:
        name: name in the catalogue, such as `cifar10` or `folder:photos`.
        size: side of the images in pixels; other images are resized. By default that of a published data set, or 32.
        quiet: show no progress.
        test_only: accept a data set that cannot be trained on, because training images or classes are missing.
        resize: how other images become square: `crop`, `stretch` or `pad`.

    Raises:
        UsageError: the name is unknown, or the files that it names are not a data set.
        CifarlabError: the data set cannot be downloaded, or the cache is damaged.
    """
    kind = _kind(name := files.with_home(name))
    if kind not in CATALOGUE and (other := files.other_format(Path(name))):
        raise UsageError(f"{name!r} is no data set, but {other}")
    if kind not in CATALOGUE:
        raise unknown("data set", kind, [*[f"folder:{name}"] * Path(name).is_dir(), *CATALOGUE])
    if kind in PUBLISHED and not (test_only or PUBLISHED[kind].train):
        raise UsageError(
            f"{name} is only a test set. Train on another one, and then: cifarlab evaluate TARGET --data {name}"
        )
    data = CATALOGUE[kind](name, size or own_size(name), quiet, resize)
    if not test_only:
        check_trainable(data)
    return data


def own_size(name: str) -> int:
    """Return the side of the images of a published data set in pixels, and 32 for others."""
    return PUBLISHED[name].size if name in PUBLISHED else DEFAULT_SIZE


def _kind(name: str) -> str:
    return name if name in CATALOGUE else "".join(name.partition(":")[:2])


def check_named(name: str) -> None:
    """Raise UsageError if the data set of a training has no name in the catalogue, because it was in memory."""
    if _kind(name) not in CATALOGUE:
        raise UsageError(f"the data of the training was in memory, as {name!r}. Pass it again in Python, as data=…")


def check_relabelling(name: str, drop: Sequence[str], merge: Mapping[str, str]) -> None:
    """Raise UsageError if `relabel` would, for a data set whose classes are known before it is downloaded."""
    if name in DESCRIPTIONS:
        relabelled_classes(DESCRIPTIONS[name].classes, drop, merge)


def count_own_images(name: str, data: arrays.GivenData | None = None) -> int:
    """Return the number of training images of the user's own data, of files without reading them; 0 for other data."""
    if data is not None:
        return len(arrays.in_memory(data, SMALLEST).train)
    if name.startswith("npz:"):
        return len(load_data(name, quiet=True).train)
    images, _ = list_files(name)
    parts = [image.part for image in images if not (isinstance(image.source, Path) and image.source.is_dir())]
    return round(parts.count("train") * (1 if "test" in parts else 1 - TEST_FRACTION))


def load_parts(
    recipe: Recipe, *, data: arrays.GivenData | None = None, sha256: str = "", fetch: bool = True, quiet: bool = True
) -> tuple[Data, Parts]:
    """Return a recipe's data set with its labels corrected, and its parts with classes dropped and merged.

    A data set in memory replaces the recipe's. The data must have the checksum `sha256` unless it is empty. Without
    `fetch`, nothing is downloaded.
    """
    if data is None:
        if sha256:
            check_named(recipe.dataset)
        check_relabelling(recipe.dataset, recipe.drop, recipe.merge)
        published = PUBLISHED.get(recipe.dataset)
        if published and not (fetch or cache.find_cached(published)):
            raise UsageError(f"{published.title} is not in the cache: get it with cifarlab data get {recipe.dataset}")
        data = load_data(recipe.dataset, size=recipe.size, quiet=quiet, resize=recipe.resize)
    else:
        check_trainable(data := arrays.in_memory(data, recipe.size, quiet=quiet, resize=recipe.resize))
    if sha256 and data.sha256 != sha256:
        raise UsageError(f"the data set {data.name} is not what the run was trained on (SHA-256 differs)")
    if (shape := data.train.images.shape[2:]) != (recipe.size, recipe.size):
        raise UsageError(f"{data.name}: images are {shape[0]}x{shape[1]}, the recipe's size is {recipe.size}")
    data = correct_labels(data, recipe.labels)
    relabelled = relabel(data, recipe.drop, recipe.merge)
    train, validation, test = relabelled.train, relabelled.validation, relabelled.test
    protocol = recipe.protocol(own_validation=validation is not None)
    if recipe.train_on == "split" and validation is None:
        train, validation = split(train, recipe.validation_fraction, recipe.seed)
    if validation is None or recipe.validate_on == "test":
        validation = test
    if not len(validation) or not len(test):
        raise UsageError(f"{data.name}: {len(relabelled.train)} images are too few to validate and to test on")
    if leak := shared_images(train, validation, test):
        not_honest = protocol.replace("honest protocol", f"not honest, because {leak}")
        protocol = not_honest if not_honest != protocol else f"{protocol}; {leak}"
    return data, Parts(train, validation, test, protocol)


def absolute(name: str) -> str:
    """Return a data set's name with an absolute path, if it has a path, so that it is valid in every folder."""
    kind, _, location = files.with_home(name).partition(":")
    if not location or name in PUBLISHED:
        return name
    files.check_encoding(path := Path(location).resolve())
    return f"{kind}:{path}"
