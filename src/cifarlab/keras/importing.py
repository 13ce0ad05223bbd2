"""A Keras file to a classifier: logits for the last softmax, class names, and how pixels are scaled.

`kerasfile` reads the file and `models.kerasgraph` computes; what a Keras file leaves open is decided here, and told in
the classifier's `about["assumed"]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from cifarlab.data.catalogue import load_data
from cifarlab.data.cifar10 import CLASSES
from cifarlab.data.dataset import Data
from cifarlab.errors import UsageError, unknown
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.keras import file
from cifarlab.models import keras_graph
from cifarlab.recipes import Normalization

MODEL = "keras-graph"
NORMALIZE = get_args(Normalization)
_FITTED = ("standard", "zca")
_SCALES = ("Rescaling", "Normalization")
_PASSIVE = ("Identity", "Flatten", "Reshape", "Permute", "Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise")


def import_keras(
    path: str | Path,
    *,
    architecture: str | Path | None = None,
    classes: Sequence[str] | None = None,
    normalize: str | None = None,
    data: Data | str | None = None,
    size: int | None = None,
    backend: str | None = None,
) -> Classifier:
    """The classifier in a Keras file, without Keras: `.h5` and `.hdf5` of Keras 1.2 to 3 and tf.keras, `.keras`.

    Args:
        path: the file.
        architecture: the JSON of `model.to_json()`, for a file that holds weights alone.
        classes: their names in the order of the outputs; by default CIFAR-10's for ten outputs, else `class0`, ….
        normalize: how the network was fed: `unit` (pixels to [0, 1], the default), `symmetric` ([-1, 1]), `raw` (0 to
            255, the default where the model begins by scaling), `standard` or `zca`.
        data: for `standard` and `zca`: whose training images they are fitted on, a data set or its name.
        size: side of the images in pixels, where the model takes any.
        backend: what the model was trained on, where the file does not say; `theano` mirrors kernels.

    Returns:
        A classifier on the CPU, ready to predict. `about["assumed"]` lists what the file does not say.

    Raises:
        UsageError: the file is damaged, or holds what cannot be read: the text names the layer.
    """
    path = Path(path)
    found = file.read(path, None if architecture is None else Path(architecture), backend)
    try:
        assumed = list(found.description.remarks)
        described = _architecture(found, size)
        shapes = _checked(described, found.arrays)
        outputs = _end_in_logits(described, shapes, assumed)
        side, channels, _ = keras_graph.image_layout(described["input"])
        if channels == 1:
            assumed.append("its one channel is the mean of red, green and blue")
        elif len(described["input"]) == 1:
            assumed.append("its flat input is read row by row, with red, green and blue of each pixel side by side")
        names = _class_names(classes, outputs, assumed)
        kind = _normalize(normalize, described, assumed)
        classifier = make_classifier(MODEL, {"architecture": json.dumps(described)}, names, side, kind)
        network = classifier.network
        assert isinstance(network, keras_graph.KerasGraph)
        network.set_weights(found.arrays)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    classifier.preprocess.fit(_images_to_fit(kind, data, side))
    network.eval()
    about = {"imported": path.name, "keras": found.version, "backend": found.backend, "assumed": assumed}
    return Classifier(network, classifier.preprocess, names, side, classifier.model, classifier.model_options, about)


def _architecture(found: file.KerasFile, size: int | None) -> dict[str, Any]:
    """What `KerasGraph` takes."""
    shape = found.shape
    if shape is None:
        raise UsageError("does not say the shape of its input: build the model with an input_shape and save it again")
    if None in shape and size is None:
        raise UsageError("takes images of any size: say which with --size")
    description = found.description
    return {
        "input": [size if length is None else length for length in shape],
        "layers": description.layers,
        "nodes": description.nodes,
        "output": description.output,
    }


def _checked(described: dict[str, Any], arrays: dict[int, list[np.ndarray]]) -> list[tuple[int, ...]]:
    """The shapes of all values. Tells before any memory is taken that layers or arrays do not fit."""
    with torch.device("meta"):
        network = keras_graph.KerasGraph(described)
        network.set_weights(arrays)
    return network.shapes


def _end_in_logits(described: dict[str, Any], shapes: Sequence[Sequence[int]], assumed: list[str]) -> int:
    """Takes the last softmax or sigmoid off, in place, and gives the number of outputs."""
    layers, nodes, end = described["layers"], described["nodes"], described["output"]
    if sum(length > 1 for length in shapes[end]) > 1:
        raise UsageError(f"gives values of the shape {list(shapes[end])} for an image, should give one for each class")
    outputs, has_one_axis = int(np.prod(shapes[end])), len(shapes[end]) == 1
    while end and layers[nodes[end - 1][0]]["kind"] in _PASSIVE:
        end = nodes[end - 1][1]
    last: dict[str, Any] = layers[nodes[end - 1][0]] if end else {"kind": "", "settings": {}}
    function = "softmax" if last["kind"] == "Softmax" else last["settings"].get("function", "none")
    if function == "softmax" and _covers(last, shapes[end], outputs):
        _replace(described, end, "Identity")
        if outputs == 1:
            raise UsageError("ends in a softmax over a single output, which is always 1")
    elif function == "sigmoid":
        _replace(described, end, *(("Identity",) if outputs == 1 else ("Activation", {"function": "log_sigmoid"})))
        if outputs == 1:
            assumed.append("its one sigmoid is the probability of the second class")
        else:
            assumed.append("it ends in sigmoids: each is divided by their sum, to be a probability")
    elif outputs > 1 and _is_mean_of_softmaxes(described, shapes, outputs):
        _append(described, "Activation", {"function": "log"})
    elif function != "log_softmax":
        assumed.append("it does not end in a softmax: what it gives is taken for logits")
    if not has_one_axis:
        _append(described, "Flatten", {"moves_channels": False})
    if outputs == 1:
        _append(described, "TwoClasses")
    return max(2, outputs)


def _covers(layer: dict[str, Any], shape: Sequence[int], outputs: int) -> bool:
    """Whether a softmax is over all classes."""
    axis = layer["settings"].get("axis", -1)
    return isinstance(axis, int) and shape[axis - (axis > 0)] == outputs


def _is_mean_of_softmaxes(described: dict[str, Any], shapes: Sequence[Sequence[int]], outputs: int) -> bool:
    """Whether what a network gives are probabilities already: those of several parts or places, averaged."""
    layers, nodes = described["layers"], described["nodes"]
    waiting, seen = [described["output"]], set()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        if not value:
            return False
        layer, inputs = layers[nodes[value - 1][0]], nodes[value - 1][1:]
        is_softmax = layer["kind"] == "Softmax" or layer["settings"].get("function") == "softmax"
        if is_softmax and _covers(layer, shapes[value], outputs):
            continue
        if layer["kind"] not in (*_PASSIVE, "Average", "GlobalAveragePooling2D"):
            return False
        waiting += inputs
    return True


def _replace(described: dict[str, Any], value: int, kind: str, settings: dict[str, Any] | None = None) -> None:
    """Another layer for the one that makes a value; it may have other uses, and stays."""
    described["layers"].append({"name": "logits", "kind": kind, "settings": settings or {}})
    described["nodes"][value - 1][0] = len(described["layers"]) - 1


def _append(described: dict[str, Any], kind: str, settings: dict[str, Any] | None = None) -> None:
    described["layers"].append({"name": "classes", "kind": kind, "settings": settings or {}})
    described["nodes"].append([len(described["layers"]) - 1, described["output"]])
    described["output"] = len(described["nodes"])


def _class_names(classes: Sequence[str] | None, outputs: int, assumed: list[str]) -> tuple[str, ...]:
    if classes is not None:
        if len(classes) != outputs or len(set(classes)) < outputs or not all(classes):
            raise UsageError(f"--classes should be {outputs} different names, got {', '.join(classes)!r}")
        return tuple(classes)
    if outputs == len(CLASSES):
        assumed.append(f"its classes are CIFAR-10's ({', '.join(CLASSES)}); others with --classes")
        return CLASSES
    assumed.append(f"its classes are called class0 to class{outputs - 1}; name them with --classes")
    return tuple(f"class{number}" for number in range(outputs))


def _normalize(normalize: str | None, described: dict[str, Any], assumed: list[str]) -> str:
    if normalize is not None:
        if normalize not in NORMALIZE:
            raise unknown("--normalize", normalize, NORMALIZE)
        return normalize
    kinds = [described["layers"][node[0]]["kind"] for node in described["nodes"]]
    if next((kind for kind in kinds if kind not in _PASSIVE), "") in _SCALES:
        return "raw"
    assumed.append("it was fed pixels from 0 to 1; otherwise with --normalize")
    return "unit"


def _images_to_fit(kind: str, data: Data | str | None, size: int) -> np.ndarray:
    if kind not in _FITTED:
        return np.zeros((0, 3, size, size), np.uint8)
    if data is None:
        raise UsageError(f"--normalize {kind} is fitted on training images: say which with --data, such as cifar10")
    loaded = data if isinstance(data, Data) else load_data(data, size=size)
    return loaded.train.images
