"""Make a classifier of a Keras file, with logits before the last softmax.

`cifarlab.keras.file` reads the file and `cifarlab.models.keras_graph` computes. `cifarlab.inference.importing` decides
what a Keras file leaves open.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cifarlab import files
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.importing import complete
from cifarlab.keras.file import KerasFile, read_keras_file
from cifarlab.models.keras_graph import Architecture, KerasGraph, LayerDescription, Node, image_layout

MODEL = "keras-graph"  # registered name of the network, which weights files hold
_KEEPS_VALUES = (  # layers that change no value of a trained network, only shapes
    *("Identity", "Flatten", "Reshape", "Permute", "Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
)


def import_keras(
    path: str | Path,
    *,
    architecture: str | Path | None = None,
    size: int | None = None,
    backend: str | None = None,
    **choices: Any,
) -> Classifier:
    """Import the classifier in a Keras file, without Keras: `.h5` and `.hdf5` of Keras 1.2 to 3 and tf.keras, `.keras`.

    Args:
        path: the file.
        architecture: file with the JSON of `model.to_json()`, for a file that holds weights only.
        classes: class names in the order of the outputs, or a text file with a name on each line; by default CIFAR-10's
            for ten outputs and colour images of 32x32 pixels, else `class0`, ….
        normalize: scaling of pixels with which the network was trained: `unit` ([0, 1], the default), `symmetric`
            ([-1, 1]), `raw` ([0, 255], the default if the model begins with scaling), `standard` or `zca`.
        data: data set, or its name, on whose training images `standard` and `zca` are fitted. It names the classes.
        size: side of the images in pixels, if the model takes images of any size.
        backend: backend on which the model was trained, if the file does not say; `theano` mirrors kernels.
        mean, std, channels, resize: preprocessing as in a recipe.
        try_preprocessing: measure all usual preprocessings on `data`, list them in `about["tried"]`, and take the best.

    Returns:
        A classifier on the CPU, ready to predict. `about["assumed"]` lists what was assumed.

    Raises:
        UsageError: the file is damaged, or a layer is not supported; the text names the layer.
    """
    path = Path(files.with_home(path))
    file = read_keras_file(path, None if architecture is None else Path(files.with_home(architecture)), backend)
    assumed = list(file.graph.remarks)
    try:
        graph = _make_architecture(file, size)
        with torch.device("meta"):  # checks that layers and arrays fit, before anything takes memory
            planned = KerasGraph(graph)
            planned.set_weights(file.arrays)
        graph, outputs = _end_in_logits(graph, planned.shapes, assumed)
        layout = image_layout(graph.input_shape)
        if size not in (None, layout.size):
            raise UsageError(f"the model takes images of {layout.size} pixels a side: leave out --size, got {size}")
        if layout.channels == 1 and choices.get("channels") not in ("gray", "mono"):
            assumed.append("the single channel is the mean of red, green and blue")
        elif len(graph.input_shape) == 1:
            assumed.append("the flat input is read row by row, with red, green and blue of each pixel side by side")
        kinds = (graph.layers[node.layer].kind for node in graph.nodes)
        scales = next((kind for kind in kinds if kind not in _KEEPS_VALUES), "") in ("Rescaling", "Normalization")
        return complete(
            MODEL,
            {"architecture": graph.to_json()},
            lambda network: network.set_weights(file.arrays),
            outputs,
            layout.size,
            layout.channels == 1,
            "raw" if scales else "unit",
            {"imported": path.name, "keras": file.version, "backend": file.backend, "assumed": assumed},
            **choices,
        )
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _make_architecture(file: KerasFile, size: int | None) -> Architecture:
    shape = file.input_shape
    if shape is None:
        raise UsageError("the file has no input shape: build the model with an input_shape and save it again")
    if None in shape and size is None:
        raise UsageError("the model takes images of any size: choose the side in pixels with --size")
    layers = tuple(LayerDescription(layer.name, layer.kind, layer.settings) for layer in file.graph.layers)
    nodes = tuple(Node(layer, tuple(inputs)) for layer, *inputs in file.graph.nodes)
    return Architecture(tuple(length or size or 0 for length in shape), layers, nodes, file.graph.output)


def _end_in_logits(
    graph: Architecture, shapes: Sequence[tuple[int, ...]], assumed: list[str]
) -> tuple[Architecture, int]:
    """Return the network without its last softmax or sigmoid, and the number of classes."""
    shape, end = shapes[graph.output], graph.output
    if sum(length > 1 for length in shape) > 1:
        raise UsageError(f"the model must return one value for each class, but returns values of shape {list(shape)}")
    outputs = math.prod(shape)
    while end and graph.layer_of(end).kind in _KEEPS_VALUES:
        end = graph.nodes[end - 1].inputs[0]
    last = graph.layer_of(end) if end else LayerDescription("", "", {})
    logits = LayerDescription("logits", "Identity", {})
    if _is_softmax_over_classes(last, shapes[end], outputs):
        if outputs == 1:
            raise UsageError("the model ends in a softmax over a single output, which is always 1")
        graph = graph.with_layer(end, logits)
    elif last.settings.get("function") == "sigmoid" and outputs == 1:
        graph = graph.with_layer(end, logits)
        assumed.append("the single sigmoid is the probability of the second class")
    elif last.settings.get("function") == "sigmoid":
        graph = graph.with_layer(end, LayerDescription("logits", "Activation", {"function": "log_sigmoid"}))
        assumed.append("the model ends in sigmoids; each is divided by their sum to give a probability")
    elif outputs > 1 and _is_mean_of_softmaxes(graph, shapes, outputs):
        graph = graph.with_last_layer(LayerDescription("classes", "Activation", {"function": "log"}))
    elif last.settings.get("function") != "log_softmax":
        assumed.append("the model does not end in a softmax; its outputs are taken for logits")
    if len(shape) != 1:
        graph = graph.with_last_layer(LayerDescription("classes", "Flatten", {"moves_channels": False}))
    if outputs == 1:
        graph = graph.with_last_layer(LayerDescription("classes", "TwoClasses", {}))
    return graph, max(2, outputs)


def _is_softmax_over_classes(layer: LayerDescription, shape: Sequence[int], outputs: int) -> bool:
    axis = layer.settings.get("axis", -1)
    is_softmax = layer.kind == "Softmax" or layer.settings.get("function") == "softmax"
    return is_softmax and isinstance(axis, int) and shape[axis - (axis > 0)] == outputs


def _is_mean_of_softmaxes(graph: Architecture, shapes: Sequence[tuple[int, ...]], outputs: int) -> bool:
    """Return True if the outputs are averages of softmaxes, of several branches or positions, so probabilities."""
    waiting, visited = {graph.output}, set[int]()
    while waiting:
        value = waiting.pop()
        visited.add(value)
        layer = graph.layer_of(value) if value else LayerDescription("", "", {})
        if not _is_softmax_over_classes(layer, shapes[value], outputs):
            if layer.kind not in (*_KEEPS_VALUES, "Average", "GlobalAveragePooling2D"):
                return False
            waiting |= {*graph.nodes[value - 1].inputs} - visited
    return True
