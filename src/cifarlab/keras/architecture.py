"""Read a model's configuration, of any version of Keras, as a flat graph of layers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cifarlab.errors import UsageError
from cifarlab.keras.layer_readers import HOW_TO_FIX, Call, Layer, Origin, check_is_keras, read_layer, shortened

MODELS = ("Sequential", "Functional", "Model")
MAX_LAYERS = 5_000
MAX_VISITS = 10 * MAX_LAYERS
MAX_DEPTH = 10  # levels of models in models
_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")  # operations of keras.ops that equal a layer
_OPERATORS = ("__operators__.add", "math.add")  # tf.keras's names for `x + y`


@dataclass
class Graph:
    """A model without models inside: layers, and the nodes that call them.

    A node holds the numbers of a layer and of its inputs. Value 0 is the model's input; node k computes value k + 1.
    """

    layers: list[Layer] = field(default_factory=list)
    nodes: list[list[int]] = field(default_factory=list)
    output: int = 0  # number of the value that the model returns
    remarks: list[str] = field(default_factory=list)  # for the user
    visits: int = 0  # calls of layers and models so far, while the nodes are made

    def add_layer(self, layer: Layer) -> None:
        """Add a layer, and the activation that follows it."""
        if len(self.layers) >= MAX_LAYERS:
            raise UsageError(f"the model has more than {MAX_LAYERS:,} layers")
        layer.number = len(self.layers)
        self.layers.append(layer)
        self.remarks += [layer.remark] if layer.remark else []
        if layer.activation is not None:
            self.add_layer(layer.activation)

    def add_node(self, layer: Layer, inputs: list[int]) -> int:
        """Add a call of a layer, and of the activation that follows it; return the number of its value."""
        if len(self.nodes) >= MAX_LAYERS:
            raise UsageError(f"the model has more than {MAX_LAYERS:,} steps")
        self.nodes.append([layer.number, *inputs])
        value = len(self.nodes)
        return value if layer.activation is None else self.add_node(layer.activation, [value])


def read_model(entry: Any, origin: Origin) -> tuple[Layer, Graph]:
    """Read the object with `class_name` and `config` in a file; return its layers, and the graph of the whole model."""
    graph = Graph()
    model = _read_entry(entry, origin, graph, 0)
    if model.kind:
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
    check_is_keras(entry, str(layer))
    if ".ops" in str(entry.get("module")) and class_name not in _OPERATIONS:
        raise UsageError(f"{layer} is an operation outside any layer, which is not supported: {HOW_TO_FIX}")
    if depth > MAX_DEPTH:
        raise UsageError(f"{layer}: models are nested more than {MAX_DEPTH} deep")
    if class_name in MODELS:
        entries = settings.get("layers") if settings else config  # before 2.2.3, Sequential was a plain list
        if not isinstance(entries, list) or not entries:
            raise UsageError(f"{layer} has no layers")
        layer.layers = [_read_entry(part, origin, graph, depth + 1) for part in entries]
        if class_name != "Sequential":
            layer.entry = _only_end(settings.get("input_layers"), layer, "input")
            layer.exit = _only_end(settings.get("output_layers"), layer, "output")
            _read_calls(layer, entries)
    elif class_name != "InputLayer":
        if class_name == "TFOpLambda" and settings.get("function") in _OPERATORS:
            layer.class_name, config = "Add", {}
        read_layer(layer, config, origin)
        graph.add_layer(layer)
    return layer


def _read_calls(model: Layer, entries: list[dict[str, Any]]) -> None:
    """Read the calls of a functional model's layers into `model.calls`."""
    inputs_by_layer: dict[str, list[list[Call]]] = {}
    for layer, entry in zip(model.layers, entries, strict=True):
        nodes = entry.get("inbound_nodes") or []
        if not isinstance(nodes, list):
            raise UsageError(f"{layer}: its inbound_nodes are not a list")
        if layer.name in inputs_by_layer:
            raise UsageError(f"{model}: two of its layers have the same name")
        inputs_by_layer[layer.name] = [_read_inputs(node, layer) for node in nodes]
    used = {call for inputs in inputs_by_layer.values() for calls in inputs for call in calls} | {model.exit}
    for layer in model.layers:
        inputs = inputs_by_layer[layer.name]
        # Building a model inside a model already calls it once, and some versions of Keras count that call.
        first = int(layer.class_name in MODELS and (layer.name, len(inputs)) in used)
        model.calls |= {(layer.name, number): calls for number, calls in enumerate(inputs, first)}


def _only_end(ends: Any, model: Layer, kind: str) -> Call:
    """Return the only input or output of a model: [name, call, tensor], nested in lists or not."""
    while isinstance(ends, list) and len(ends) == 1:
        ends = ends[0]
    if isinstance(ends, list) and len(ends) == 3 and isinstance(ends[0], str):
        return _read_call(ends, model)
    raise UsageError(f"{model} must have exactly one {kind}")


def _read_call(value: Any, layer: Layer) -> Call:
    """Return the call that a file refers to as [name, call, tensor, …]."""
    match value:
        case [str() as name, int() as number, 0, *_] if type(number) is int:
            return name, number
    raise UsageError(f"{layer} takes an input that is not the result of a layer")


def _read_inputs(node: Any, layer: Layer) -> list[Call]:
    """Return the inputs of one call of a layer."""
    calls: list[Call] = []
    if isinstance(node, dict):  # Keras 3
        calls += _calls_in([node.get("args"), node.get("kwargs")], layer)
    elif isinstance(node, list):
        for reference in [node] if node and isinstance(node[0], str) else node:
            calls.append(_read_call(reference, layer))
            for arguments in map(_dict, reference[3:]):  # inputs by name: y=["conv2d_1", 0, 0]
                for name, value in arguments.items():
                    calls += [_read_call(value, layer)] if isinstance(value, list) else _calls_in(value, layer, name)
    if not calls:
        raise UsageError(f"{layer} takes no input")
    return calls


def _calls_in(value: Any, layer: Layer, argument: str = "") -> Iterator[Call]:
    """Yield the calls among the arguments of a layer; refuse other arguments that have an effect."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield _read_call(_dict(value.get("config")).get("keras_history"), layer)
    elif isinstance(value, list):
        for element in value:
            yield from _calls_in(element, layer, argument)
    elif isinstance(value, dict):
        for name, element in value.items():
            yield from _calls_in(element, layer, name)
    elif value and argument == "training":
        raise UsageError(f"{layer} is called with training=True, so it gives another result every time")
    elif value is not None and not (value is False and argument == "training"):
        raise UsageError(f"{layer} is called with a number or a word besides the results of layers: {HOW_TO_FIX}")


def _add_calls(layer: Layer, inputs: list[int], graph: Graph) -> int:
    """Add the nodes of one call of a layer or model, and return the number of its value."""
    graph.visits += 1
    if graph.visits > MAX_VISITS:
        raise UsageError("the models inside the model call each other too often")
    if layer.kind:
        return graph.add_node(layer, inputs)
    if len(inputs) != 1:
        raise UsageError(f"{layer} must have exactly one input, got {len(inputs)}")
    if layer.class_name in ("Functional", "Model"):
        return _add_functional(layer, inputs[0], graph)
    for part in layer.layers:  # of a Sequential; an InputLayer has none
        inputs = [_add_calls(part, inputs, graph)]
    return inputs[0]


def _add_functional(model: Layer, input_number: int, graph: Graph) -> int:
    """Add the nodes of one call of a functional model, given its input's number; return its output's number."""
    layers_by_name = {layer.name: layer for layer in model.layers}
    numbers = {model.entry: input_number}  # numbers of the values that calls return
    waiting = dict(model.calls)
    while waiting:
        waiting_before = len(waiting)
        # Calls are usually listed after their inputs, so one pass is usually enough.
        for call, sources in list(waiting.items()):
            if all(source in numbers for source in sources):
                numbers[call] = _add_calls(layers_by_name[call[0]], [numbers[source] for source in sources], graph)
                del waiting[call]
        if len(waiting) == waiting_before:
            raise UsageError(f"{model}: no path leads from its input to {shortened(next(iter(waiting))[0])}")
    if model.exit not in numbers:
        raise UsageError(f"{model}: no path leads to its output {shortened(model.exit[0])}")
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


def _is_length(value: Any) -> bool:
    return value is None or (type(value) is int and 0 < value < 2**24)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
