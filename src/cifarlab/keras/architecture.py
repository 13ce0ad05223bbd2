"""A model's configuration, of any version of Keras, as a plain list of layers and of what feeds what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cifarlab.errors import UsageError, one_line
from cifarlab.keras.layer_readers import BEYOND, Dialect, Leaf, check_origin, read_layer

MODELS = ("Sequential", "Functional", "Model")
MOST_LAYERS = 5_000
MOST_VISITS = 10 * MOST_LAYERS
DEEPEST = 10  # models in models
LONGEST_NAME = 80  # letters of it that are shown
_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")  # of keras.ops, where they are as the layers
_OPERATORS = ("__operators__.add", "math.add")  # how tf.keras writes `x + y`

Source = tuple[str, int]
"""A layer's name and the number of its call."""


@dataclass
class Layer:
    """A layer of the file, or a model used as one."""

    name: str
    class_name: str
    leaf: Leaf | None = None
    number: int = -1
    """Of a leaf, in the description."""
    is_trainable: bool = True
    layers: list[Layer] = field(default_factory=list)
    """Of a model."""
    calls: dict[Source, list[Source]] = field(default_factory=dict)
    """Of a functional model: what each call of each layer takes."""
    entry: Source = ("", 0)
    exit: Source = ("", 0)

    @property
    def where(self) -> str:
        """The layer as an error names it."""
        return f"the layer {_shown(self.name)} ({one_line(self.class_name)[:LONGEST_NAME]})"

    def leaves(self) -> Iterator[Layer]:
        """The layers in it that are not models, in order."""
        if self.leaf is not None:
            yield self
        for layer in self.layers:
            yield from layer.leaves()


@dataclass
class Description:
    """The network: what can be written as JSON and built again."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    """Each with `name`, `kind` and `settings`."""
    nodes: list[list[int]] = field(default_factory=list)
    """The number of a layer, then those of the values that it takes. Value 0 is the input; node k makes value k + 1."""
    output: int = 0
    """The number of the value that the model gives."""
    remarks: list[str] = field(default_factory=list)
    visits: int = 0
    """Of layers and models, while the nodes are made."""

    def add_layer(self, name: str, leaf: Leaf) -> int:
        """Its number."""
        if len(self.layers) >= MOST_LAYERS:
            raise UsageError(f"the model has more than {MOST_LAYERS:,} layers")
        self.layers.append({"name": name, "kind": leaf.kind, "settings": leaf.settings})
        if leaf.remark:
            self.remarks.append(leaf.remark)
        return len(self.layers) - 1

    def add_node(self, layer: int, inputs: list[int]) -> int:
        """The number of the value that it makes."""
        if len(self.nodes) >= MOST_LAYERS:
            raise UsageError(f"the model has more than {MOST_LAYERS:,} steps")
        self.nodes.append([layer, *inputs])
        return len(self.nodes)


def read_model(entry: Any, dialect: Dialect) -> tuple[Layer, Description]:
    """Reads a model's configuration.

    Args:
        entry: the object with `class_name` and `config`.
        dialect: how to read it.

    Returns:
        The layers as the file has them, and the description of the network.

    Raises:
        UsageError: it holds what cannot be read.
    """
    description = Description()
    model = _layer(entry, dialect, description, 0)
    if model.leaf is not None:
        raise UsageError(f"describes no model but a single layer, {model.class_name}")
    description.output = _wire(model, [0], description)
    return model, description


def _layer(entry: Any, dialect: Dialect, description: Description, depth: int) -> Layer:
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise UsageError("a layer in the file has no class name")
    class_name, config = str(entry["class_name"]), entry.get("config")
    settings = config if isinstance(config, dict) else {}
    name = str(entry.get("name") or settings.get("name") or class_name.lower())
    where = Layer(name, class_name).where
    check_origin(entry, where)
    if ".ops" in str(entry.get("module")) and class_name not in _OPERATIONS:
        raise UsageError(f"{where} is an operation that is no layer, and cifarlab reads layers: {BEYOND}")
    if depth > DEEPEST:
        raise UsageError(f"{where}: models lie in models more than {DEEPEST} deep")
    if class_name in MODELS:
        return _model(name, class_name, config, dialect, description, depth)
    trainable = settings.get("trainable", True) is not False
    if class_name == "InputLayer":
        return Layer(name, class_name)
    if class_name == "TFOpLambda" and settings.get("function") in _OPERATORS:
        class_name, config = "Add", {}
    leaf = read_layer(class_name, config, dialect, where)
    layer = Layer(name, class_name, leaf, description.add_layer(name, leaf), trainable)
    if leaf.activation is not None:
        description.add_layer(f"{name}: activation", leaf.activation)  # its number is the next
    return layer


def _model(name: str, class_name: str, config: Any, dialect: Dialect, description: Description, depth: int) -> Layer:
    settings = config if isinstance(config, dict) else {}
    model = Layer(name, class_name, is_trainable=settings.get("trainable", True) is not False)
    entries = settings.get("layers") if settings else config  # Sequential was just a list before 2.2.3
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{model.where} has no layers")
    model.layers = [_layer(entry, dialect, description, depth + 1) for entry in entries]
    if class_name == "Sequential":
        return model
    if len({layer.name for layer in model.layers}) < len(model.layers):
        raise UsageError(f"{model.where}: two of its layers have the same name")
    model.entry = _only(settings.get("input_layers"), model.where, "input")
    model.exit = _only(settings.get("output_layers"), model.where, "output")
    _read_calls(model, entries)
    return model


def _read_calls(model: Layer, entries: list[dict[str, Any]]) -> None:
    found: dict[str, list[list[Source]]] = {}
    for layer, entry in zip(model.layers, entries, strict=True):
        calls = entry.get("inbound_nodes") or []
        if not isinstance(calls, list):
            raise UsageError(f"{layer.where}: its inbound_nodes are not a list")
        found[layer.name] = [_sources(call, layer.where) for call in calls]
    used = {source for calls in found.values() for sources in calls for source in sources} | {model.exit}
    for layer in model.layers:
        calls = found[layer.name]
        # A model in a model has made a call already when it was built, and some versions of Keras count that.
        first = int(layer.class_name in MODELS and (layer.name, len(calls)) in used)
        for number, sources in enumerate(calls, first):
            model.calls[layer.name, number] = sources


def _only(ends: Any, where: str, kind: str) -> Source:
    """The one input or output of a model: [name, call, tensor], in a list of its own or not."""
    while isinstance(ends, list) and len(ends) == 1:
        ends = ends[0]
    if isinstance(ends, list) and len(ends) == 3 and isinstance(ends[0], str):
        return _source(ends, where)
    raise UsageError(f"{where} should have one {kind}: cifarlab reads models from one image to one answer")


def _source(value: Any, where: str) -> Source:
    """A layer's result as files refer to it: [name, call, tensor, …]."""
    if isinstance(value, list) and len(value) >= 3:
        name, call, tensor = value[:3]
        if isinstance(name, str) and type(call) is int and type(tensor) is int and tensor == 0:
            return name, call
    raise UsageError(f"{where} takes something that is no layer's result")


def _sources(call: Any, where: str) -> list[Source]:
    """What one call of a layer takes."""
    if isinstance(call, dict):  # Keras 3
        found = list(_tensors([call.get("args"), call.get("kwargs")], where))
    else:
        sources = call if isinstance(call, list) else []
        found = []
        for source in [sources] if isinstance(next(iter(sources), None), str) else sources:
            found.append(_source(source, where))
            for others in source[3:]:  # by name: y=["conv2d_1", 0, 0]
                is_plain = {key: isinstance(value, list) for key, value in _object(others).items()}
                found += [_source(others[key], where) for key, is_source in is_plain.items() if is_source]
                list(_tensors({key: others[key] for key, is_source in is_plain.items() if not is_source}, where))
    if not found:
        raise UsageError(f"{where} takes nothing")
    return found


def _tensors(value: Any, where: str, key: str = "") -> Iterator[Source]:
    """The results of layers among the arguments of a call; others are refused unless they change nothing."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        config = value.get("config")
        history = config.get("keras_history") if isinstance(config, dict) else None
        yield _source(history, where)
    elif isinstance(value, list):
        for each in value:
            yield from _tensors(each, where, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _tensors(each, where, name)
    elif value and key == "training":
        raise UsageError(f"{where} is called with training=True, so that it gives another result every time")
    elif value is not None and not (value is False and key == "training"):
        raise UsageError(f"{where} is called with a number or a word besides the results of layers: {BEYOND}")


def _wire(layer: Layer, inputs: list[int], description: Description) -> int:
    """Adds the steps of one call of a layer, and gives the number of its result."""
    description.visits += 1
    if description.visits > MOST_VISITS:
        raise UsageError("the model's models call each other too often")
    if layer.leaf is not None:
        result = description.add_node(layer.number, inputs)
        return result if layer.leaf.activation is None else description.add_node(layer.number + 1, [result])
    if len(inputs) != 1:
        raise UsageError(f"{layer.where} takes {len(inputs)} values: cifarlab reads models that take one")
    if layer.class_name == "InputLayer":
        return inputs[0]
    if layer.class_name == "Sequential":
        for each in layer.layers:
            inputs = [_wire(each, inputs, description)]
        return inputs[0]
    return _wire_graph(layer, inputs[0], description)


def _wire_graph(model: Layer, value: int, description: Description) -> int:
    by_name = {layer.name: layer for layer in model.layers}
    results = {model.entry: value}
    waiting = dict(model.calls)
    while waiting:
        before = len(waiting)
        for call, sources in list(waiting.items()):  # mostly in order
            if all(source in results for source in sources):
                results[call] = _wire(by_name[call[0]], [results[source] for source in sources], description)
                del waiting[call]
        if len(waiting) == before:
            raise UsageError(f"{model.where}: nothing leads from its input to {_shown(next(iter(waiting))[0])}")
    if model.exit not in results:
        raise UsageError(f"{model.where}: nothing leads to its output {_shown(model.exit[0])}")
    return results[model.exit]


def input_shape(entry: Any) -> list[int | None] | None:
    """The shape of a model's input without the batch, as far as the file says; None where an axis may have any length.

    Args:
        entry: the object with `class_name` and `config`.
    """
    for _ in range(DEEPEST):
        config = _object(entry).get("config")
        settings = _object(config)
        shapes = [settings.get(name) for name in ("batch_shape", "batch_input_shape", "build_input_shape")]
        for shape in (*shapes, _object(_object(entry).get("build_config")).get("input_shape")):
            if isinstance(shape, list) and 1 < len(shape) < 8 and all(_is_length(each) for each in shape[1:]):
                return shape[1:]
        layers = settings.get("layers") if settings else config
        if not isinstance(layers, list) or not layers:
            return None
        first = settings.get("input_layers")
        while isinstance(first, list) and first:  # [name, 0, 0], in a list of its own or not
            first = first[0]
        entry = next((each for each in layers if first and _object(each).get("name") == first), layers[0])
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_length(value: Any) -> bool:
    return value is None or (type(value) is int and 0 < value < 2**24)


def _shown(name: str) -> str:
    return repr(one_line(name)[:LONGEST_NAME])
