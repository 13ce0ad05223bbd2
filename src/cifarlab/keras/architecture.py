"""Read a model's configuration, of any version of Keras, as a flat graph of layers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cifarlab.errors import UsageError, one_line
from cifarlab.keras.layer_readers import HOW_TO_FIX, Origin, ReadLayer, check_is_keras, read_layer

MODELS = ("Sequential", "Functional", "Model")
MAX_LAYERS = 5_000
MAX_VISITS = 10 * MAX_LAYERS
MAX_DEPTH = 10  # levels of models in models
MAX_NAME_LENGTH = 80  # letters of a name in an error
_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")  # operations of keras.ops that equal a layer
_OPERATORS = ("__operators__.add", "math.add")  # tf.keras's names for `x + y`

Call = tuple[str, int]
"""The name of a layer and the number of its call."""


@dataclass
class Layer:
    """A layer of the file, or a model that is used as a layer."""

    name: str
    class_name: str
    content: ReadLayer | None = None
    """The layer's settings and arrays; None for models and inputs."""
    number: int = -1
    """Number of the layer in the graph, if it has content."""
    is_trainable: bool = True
    layers: "list[Layer]" = field(default_factory=list)
    """Layers of a model."""
    calls: dict[Call, list[Call]] = field(default_factory=dict)
    """The inputs of each call of each layer of a functional model."""
    entry: Call = ("", 0)
    exit: Call = ("", 0)

    @property
    def label(self) -> str:
        """The layer's name and class, for errors."""
        return f"the layer {_shortened(self.name)} ({one_line(self.class_name)[:MAX_NAME_LENGTH]})"

    def with_content(self) -> "Iterator[tuple[Layer, ReadLayer]]":
        """Yield the layer, or the layers of a model, that have content, in order."""
        if self.content is not None:
            yield self, self.content
        for layer in self.layers:
            yield from layer.with_content()


@dataclass
class Graph:
    """A model without models inside: layers, and the nodes that call them."""

    layers: list[tuple[str, ReadLayer]] = field(default_factory=list)
    """Name and content of each layer."""
    nodes: list[list[int]] = field(default_factory=list)
    """For each call: the layer's number, then the numbers of its input values. Value 0 is the model's input; node k
    computes value k + 1."""
    output: int = 0
    """Number of the value that the model returns."""
    remarks: list[str] = field(default_factory=list)
    """Remarks for the user."""
    visits: int = 0
    """Calls of layers and models so far, while the nodes are made."""

    def add_layer(self, name: str, content: ReadLayer) -> int:
        """Add a layer and return its number."""
        if len(self.layers) >= MAX_LAYERS:
            raise UsageError(f"the model has more than {MAX_LAYERS:,} layers")
        self.layers.append((name, content))
        if content.remark:
            self.remarks.append(content.remark)
        return len(self.layers) - 1

    def add_node(self, layer: int, inputs: list[int]) -> int:
        """Add a call of a layer and return the number of its value."""
        if len(self.nodes) >= MAX_LAYERS:
            raise UsageError(f"the model has more than {MAX_LAYERS:,} steps")
        self.nodes.append([layer, *inputs])
        return len(self.nodes)


def read_model(entry: Any, origin: Origin) -> tuple[Layer, Graph]:
    """Read a model from the file's object with `class_name` and `config`.

    Returns:
        The layers as the file has them, and the graph of the whole model.

    Raises:
        UsageError: the model, a layer or a setting is not supported.
    """
    graph = Graph()
    model = _read_entry(entry, origin, graph, 0)
    if model.content is not None:
        raise UsageError(f"the file holds a single layer, {model.class_name}, and no model")
    graph.output = _add_calls(model, [0], graph)
    return model, graph


def _read_entry(entry: Any, origin: Origin, graph: Graph, depth: int) -> Layer:
    """Read a layer or a model, which lies in `depth` other models, and add its layers to the graph."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise UsageError("a layer in the file has no class name")
    class_name, config = str(entry["class_name"]), entry.get("config")
    settings = _dict(config)
    name = str(entry.get("name") or settings.get("name") or class_name.lower())
    layer = Layer(name, class_name, is_trainable=settings.get("trainable", True) is not False)
    check_is_keras(entry, layer.label)
    if ".ops" in str(entry.get("module")) and class_name not in _OPERATIONS:
        raise UsageError(f"{layer.label} is an operation outside any layer, which is not supported: {HOW_TO_FIX}")
    if depth > MAX_DEPTH:
        raise UsageError(f"{layer.label}: models are nested more than {MAX_DEPTH} deep")
    if class_name in MODELS:
        _read_layers(layer, config, origin, graph, depth)
    elif class_name != "InputLayer":
        if class_name == "TFOpLambda" and settings.get("function") in _OPERATORS:
            class_name, config = "Add", {}
        layer.content = read_layer(class_name, config, origin, layer.label)
        layer.number = graph.add_layer(name, layer.content)
        if layer.content.activation is not None:
            graph.add_layer(f"{name}: activation", layer.content.activation)  # gets the next number
    return layer


def _read_layers(model: Layer, config: Any, origin: Origin, graph: Graph, depth: int) -> None:
    """Read the layers of a model, and the calls of a functional one."""
    settings = _dict(config)
    entries = settings.get("layers") if settings else config  # before 2.2.3, Sequential was a plain list
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{model.label} has no layers")
    model.layers = [_read_entry(entry, origin, graph, depth + 1) for entry in entries]
    if model.class_name == "Sequential":
        return
    if len({layer.name for layer in model.layers}) < len(model.layers):
        raise UsageError(f"{model.label}: two of its layers have the same name")
    model.entry = _only_end(settings.get("input_layers"), model.label, "input")
    model.exit = _only_end(settings.get("output_layers"), model.label, "output")
    _read_calls(model, entries)


def _read_calls(model: Layer, entries: list[dict[str, Any]]) -> None:
    """Read the calls of a functional model's layers into `model.calls`."""
    inputs_by_layer: dict[str, list[list[Call]]] = {}
    for layer, entry in zip(model.layers, entries, strict=True):
        nodes = entry.get("inbound_nodes") or []
        if not isinstance(nodes, list):
            raise UsageError(f"{layer.label}: its inbound_nodes are not a list")
        inputs_by_layer[layer.name] = [_read_inputs(node, layer.label) for node in nodes]
    used = {call for inputs in inputs_by_layer.values() for calls in inputs for call in calls} | {model.exit}
    for layer in model.layers:
        inputs = inputs_by_layer[layer.name]
        # Building a model inside a model already calls it once, and some versions of Keras count that call.
        first = int(layer.class_name in MODELS and (layer.name, len(inputs)) in used)
        for number, calls in enumerate(inputs, first):
            model.calls[layer.name, number] = calls


def _only_end(ends: Any, label: str, kind: str) -> Call:
    """Return the only input or output of a model: [name, call, tensor], nested in lists or not."""
    while isinstance(ends, list) and len(ends) == 1:
        ends = ends[0]
    if isinstance(ends, list) and len(ends) == 3 and isinstance(ends[0], str):
        return _read_call(ends, label)
    raise UsageError(f"{label} must have exactly one {kind}")


def _read_call(value: Any, label: str) -> Call:
    """Return the call that a file refers to as [name, call, tensor, …]."""
    if isinstance(value, list) and len(value) >= 3:
        name, call, tensor = value[:3]
        if isinstance(name, str) and type(call) is int and type(tensor) is int and tensor == 0:
            return name, call
    raise UsageError(f"{label} takes an input that is not the result of a layer")


def _read_inputs(node: Any, label: str) -> list[Call]:
    """Return the inputs of one call of a layer."""
    if isinstance(node, dict):  # Keras 3
        calls = list(_calls_in([node.get("args"), node.get("kwargs")], label))
    else:
        references = node if isinstance(node, list) else []
        calls = []
        for reference in [references] if isinstance(next(iter(references), None), str) else references:
            calls.append(_read_call(reference, label))
            for arguments in map(_dict, reference[3:]):  # inputs by name: y=["conv2d_1", 0, 0]
                calls += [_read_call(value, label) for value in arguments.values() if isinstance(value, list)]
                constants = {name: value for name, value in arguments.items() if not isinstance(value, list)}
                list(_calls_in(constants, label))  # refuses arguments that have an effect
    if not calls:
        raise UsageError(f"{label} takes no input")
    return calls


def _calls_in(value: Any, label: str, argument: str = "") -> Iterator[Call]:
    """Yield the calls among the arguments of a layer; refuse other arguments that have an effect."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield _read_call(_dict(value.get("config")).get("keras_history"), label)
    elif isinstance(value, list):
        for element in value:
            yield from _calls_in(element, label, argument)
    elif isinstance(value, dict):
        for name, element in value.items():
            yield from _calls_in(element, label, name)
    elif value and argument == "training":
        raise UsageError(f"{label} is called with training=True, so it gives another result every time")
    elif value is not None and not (value is False and argument == "training"):
        raise UsageError(f"{label} is called with a number or a word besides the results of layers: {HOW_TO_FIX}")


def _add_calls(layer: Layer, inputs: list[int], graph: Graph) -> int:
    """Add the nodes of one call of a layer or model, and return the number of its value."""
    graph.visits += 1
    if graph.visits > MAX_VISITS:
        raise UsageError("the models inside the model call each other too often")
    if layer.content is not None:
        result = graph.add_node(layer.number, inputs)
        return result if layer.content.activation is None else graph.add_node(layer.number + 1, [result])
    if len(inputs) != 1:
        raise UsageError(f"{layer.label} must have exactly one input, got {len(inputs)}")
    if layer.class_name == "InputLayer":
        return inputs[0]
    if layer.class_name == "Sequential":
        for part in layer.layers:
            inputs = [_add_calls(part, inputs, graph)]
        return inputs[0]
    return _add_functional(layer, inputs[0], graph)


def _add_functional(model: Layer, input_number: int, graph: Graph) -> int:
    """Add the nodes of one call of a functional model, given its input's number; return its output's number."""
    layers_by_name = {layer.name: layer for layer in model.layers}
    numbers = {model.entry: input_number}  # numbers of the values that calls return
    waiting = dict(model.calls)
    while waiting:
        waiting_before = len(waiting)
        # Calls are usually listed after their inputs, so one pass is usually enough.
        for (layer_name, call_number), inputs in list(waiting.items()):
            if all(source in numbers for source in inputs):
                value = _add_calls(layers_by_name[layer_name], [numbers[source] for source in inputs], graph)
                numbers[layer_name, call_number] = value
                del waiting[layer_name, call_number]
        if len(waiting) == waiting_before:
            layer_name, _ = next(iter(waiting))
            raise UsageError(f"{model.label}: no path leads from its input to {_shortened(layer_name)}")
    if model.exit not in numbers:
        raise UsageError(f"{model.label}: no path leads to its output {_shortened(model.exit[0])}")
    return numbers[model.exit]


def input_shape(entry: Any) -> list[int | None] | None:
    """Return the shape of a model's input without the batch; None for axes of any length or an unknown shape."""
    for _ in range(MAX_DEPTH):
        config = _dict(entry).get("config")
        settings = _dict(config)
        shapes = [settings.get(name) for name in ("batch_shape", "batch_input_shape", "build_input_shape")]
        for shape in (*shapes, _dict(_dict(entry).get("build_config")).get("input_shape")):
            if isinstance(shape, list) and 1 < len(shape) < 8 and all(map(_is_length, shape[1:])):
                return shape[1:]
        layers = settings.get("layers") if settings else config
        if not isinstance(layers, list) or not layers:
            return None
        first = settings.get("input_layers")
        while isinstance(first, list) and first:  # [name, 0, 0], nested in a list or not
            first = first[0]
        entry = next((layer for layer in layers if first and _dict(layer).get("name") == first), layers[0])
    return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_length(value: Any) -> bool:
    return value is None or (type(value) is int and 0 < value < 2**24)


def _shortened(name: str) -> str:
    return repr(one_line(name)[:MAX_NAME_LENGTH])
