"""Complete a network of another program: class names, and how pictures become its input, which files leave open.

Keras files and PyTorch state dictionaries share this. The classifier's `about["assumed"]` lists what was assumed.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.data.catalogue import load_data
from cifarlab.data.dataset import Data, Dataset
from cifarlab.data.published.data_sets import CIFAR10
from cifarlab.errors import UsageError, validated
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.evaluation import evaluate
from cifarlab.inference.preprocessing import Preprocess
from cifarlab.inference.targets import evaluation_data
from cifarlab.progress import task
from cifarlab.recipes import LARGEST, SMALLEST, Channels, Normalization, Preprocessing, Resize

TRIED_IMAGES, FEWEST_TRIED = 2_000, 500  # for each preprocessing: of 32x32 pixels, and of large ones
NEAR_CHANCE = 1.5  # times 1 / classes: below that, the accuracy of an imported network is suspicious
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of red, green and blue, as PyTorch's models use
KUANGLIU = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)  # of CIFAR-10, as in kuangliu/pytorch-cifar
CAFFE = (123.68, 116.779, 103.939)  # mean of red, green and blue of pixels from 0 to 255, as Caffe's models use


def complete(
    model: str,
    options: Mapping[str, Any],
    set_weights: Callable[[Any], None],
    outputs: int,
    size: int,
    is_gray: bool,
    default: str,
    about: dict[str, Any],
    *,
    classes: Any = None,
    data: Data | str | None = None,
    try_preprocessing: bool = False,
    **given: Any,
) -> Classifier:
    """Return the classifier of an imported network, ready to predict; the keywords are what the user says of it.

    Where the user says nothing, `normalize` is the `default`, or with `try_preprocessing` everything usual is tried.
    """
    check_size(size)
    assumed: list[str] = about["assumed"]
    given = {key: value for key, value in given.items() if value is not None}
    kind = "standard" if {"mean", "std"} & given.keys() else default
    settings = validated(Preprocessing, {"normalize": kind} | given, "preprocessing")
    loaded = load_data(data, size=size, test_only=True, resize=settings.resize) if isinstance(data, str) else data
    names = _class_names(classes, loaded, outputs, size == 32 and not is_gray, assumed)
    if len(names) < 2:
        how_to_fix = "A network with one sigmoid x must return the logits of both classes, [0, x], without the sigmoid"
        raise UsageError(f"a classifier must have two or more outputs, got {len(names)}. {how_to_fix}")
    classifier = replace(make_classifier(model, options, names, size, settings), about=about)
    set_weights(classifier.network)
    classifier.network.eval()
    if (try_preprocessing or settings.constants is None) and loaded is None:
        wanted = "--try-preprocessing" if try_preprocessing else f"--normalize {settings.normalize}"
        raise UsageError(f"{wanted} needs training images: choose them with --data, such as --data cifar10")
    if try_preprocessing and loaded is not None and data is not None:
        return _best(classifier, [loaded, data], given.keys(), ["rgb", "gray" if is_gray else "bgr"])
    if "normalize" not in given and kind == "standard":
        assumed.append(f"mean and std are of pixels from 0 to {settings.white:g}; choose the other with --normalize")
    elif "normalize" not in given and default == "unit":
        assumed.append("the model was trained on pixels from 0 to 1; choose otherwise with --normalize")
    classifier.preprocess.fit(np.zeros((0, 3, size, size), np.uint8) if loaded is None else _known(loaded).images)
    if loaded is not None:
        about |= _measure(classifier, loaded, assumed)
    return classifier


def check_size(size: int) -> None:
    """Check the side of images in pixels: weights files, and so all commands, refuse others."""
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(f"images must have {SMALLEST} to {LARGEST} pixels a side, got {size}")


def _measure(classifier: Classifier, data: Data, assumed: list[str]) -> dict[str, Any]:
    """Return the accuracy on some images of a data set with the network's classes, and note if it is near chance."""
    images = data.test if len(data.test) else data.train
    if data.classes != classifier.classes or images.images.shape[2:] != (classifier.size, classifier.size):
        facts = f"{len(data.classes)} classes, the network {len(classifier.classes)} outputs"
        assumed.append(f"no accuracy was measured: {data.name} has {facts}, or its names or image size are others")
        return {}
    chosen = _some(images, classifier.size)
    accuracy = evaluate(classifier, chosen).accuracy
    if accuracy < NEAR_CHANCE / len(data.classes):
        reasons = "the network, the order of the classes or the preprocessing is another (see --try-preprocessing)"
        assumed.append(f"the weights belong to this network, but their accuracy is near chance: perhaps {reasons}")
    return {"checked": {"data": data.name, "images": len(chosen), "accuracy": accuracy}}


def _some(images: Dataset, size: int) -> Dataset:
    """Return a random part of many images, always the same; it is smaller for large images."""
    most = max(FEWEST_TRIED, TRIED_IMAGES * 32**2 // size**2)
    return images.select(np.sort(np.random.default_rng(0).permutation(len(images))[:most]))


def _known(data: Data) -> Dataset:
    return data.train if len(data.train) else data.test


def _best(
    classifier: Classifier, data: Sequence[Data | str], given: AbstractSet[str], orders: Sequence[Channels]
) -> Classifier:
    """Return the classifier with the preprocessing that is most accurate; `about["tried"]` lists all that were tried.

    Training images decide, so that the test set stays untouched, unless there are none. Settings that are `given` stay.
    `data` is the data set as loaded, and as the user named it, from which it is loaded again.
    """
    tried: list[tuple[float, float, Classifier]] = []
    images: Dataset | None = None
    ways: list[Resize] = [classifier.resize] if "resize" in given else ["crop", "stretch"]
    for resize, source in zip(ways, data, strict=False):
        settings, before = replace(classifier.preprocess.settings, resize=resize), images
        resized = replace(classifier, preprocess=Preprocess(settings, classifier.size))
        images = _known(evaluation_data(resized, source, quiet=True))
        if before is not None and np.array_equal(images.images, before.images):
            break  # the pictures are square
        chosen = _some(images, classifier.size)
        usual = _usual(images, settings, given, orders)
        with task(f"trying preprocessing with {resize}", len(usual)) as progress:
            for each in usual:
                one = replace(classifier, preprocess=Preprocess(each, classifier.size))
                one.preprocess.fit(images.images)
                measured = evaluate(one, chosen)
                tried.append((-measured.accuracy, float(np.nan_to_num(measured.loss, nan=1e300)), one))
                progress.advance(1)
    tried.sort(key=lambda row: row[:2])
    rows = [{"preprocessing": str(one.preprocess.settings), "accuracy": -a, "loss": loss} for a, loss, one in tried]
    best = f"{rows[0]['preprocessing']}, the best of {len(rows)} on {len(chosen):,} images"
    classifier.about["assumed"].append(f"the preprocessing is {best}")
    return replace(tried[0][2], about={**classifier.about, "tried": rows})


def _usual(
    images: Dataset, given: Preprocessing, keys: AbstractSet[str], orders: Sequence[Channels]
) -> list[Preprocessing]:
    """Return the usual preprocessings, with the settings in `keys` as `given`."""
    fitted = Preprocess("standard", images.images.shape[3])
    fitted.fit(images.images)
    mean, std = fitted.mean.double(), fitted.deviation.double()
    overall = (round(float(mean.mean()), 4),)
    spread = (max(round(float(((std**2 + mean**2).mean() - mean.mean() ** 2).sqrt()), 4), 1e-4),)
    each = tuple(mean.round(decimals=4).tolist())
    kinds: list[tuple[Normalization, tuple[float, ...], tuple[float, ...]]]
    kinds = [("unit", (), ()), ("symmetric", (), ()), ("raw", (), ()), ("standard", (), ()), ("unit", overall, spread)]
    kinds += [("unit", each, ()), ("unit", *IMAGENET), ("unit", *KUANGLIU), ("raw", CAFFE, ())]
    if is_given := bool({"normalize", "mean", "std"} & keys):
        kinds = [(given.normalize, given.mean, given.std)]
    return [
        Preprocessing(kind, means[::step], stds[::step], channels, given.resize)
        for channels in ([given.channels] if "channels" in keys else orders)
        for step in [-1 if channels == "bgr" and not is_given else 1]
        for kind, means, stds in kinds
    ]


def _class_names(classes: Any, data: Data | None, count: int, guess: bool, assumed: list[str]) -> tuple[str, ...]:
    """Return the class names; if the user gave none, add the assumption about them to `assumed`."""
    if classes is not None:
        is_file = isinstance(classes, Path) or str(classes).endswith(".txt")
        if is_file and not os.path.isfile(classes):
            raise UsageError(f"--classes: there is no file {str(classes)!r}")
        classes = _read_names(str(classes)) if isinstance(classes, str | Path) else classes
        names = tuple(map(str, classes))
        count = count or len(names)
        if len(names) != count or len(set(names)) < count or not all(name and name.isprintable() for name in names):
            raise UsageError(f"--classes must be {count} different names, got {', '.join(names)!r}")
        return names
    if data is not None and len(data.classes) == count:
        assumed.append(f"the classes are those of {data.name}, in its order; name others with --classes")
        return data.classes
    if count == len(CIFAR10.classes) and guess:
        assumed.append(
            f"the ten classes are a guess, CIFAR-10's ({', '.join(CIFAR10.classes)}); name others with --classes"
        )
        return CIFAR10.classes
    assumed.append(f"the classes are called class0 to class{count - 1}; name them with --classes")
    return tuple(f"class{number}" for number in range(count))


def _read_names(text: str) -> list[str]:
    """Return the names in `a,b,c`, or on the lines of a text file, where Teachable Machine numbers them: `0 cat`."""
    if not os.path.isfile(text):
        return [name.strip() for name in text.split(",")]
    lines = Path(text).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    is_numbered = all(re.match(rf"{number}[\s:,]+\S", name) for number, name in enumerate(names))
    return [re.split(r"[\s:,]+", name, maxsplit=1)[1] for name in names] if is_numbered else names
