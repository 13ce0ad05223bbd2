"""Networks by name: `register` adds one, `build_model` builds it and checks that it fits the images."""

import ast
import contextlib
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cifarlab.errors import UsageError, describe_error, one_line, unknown
from cifarlab.models.own_networks import given_sums, load_builder, source_file, source_sum

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_builders: dict[str, Callable[..., nn.Module]] = {}
# Parameters that follow the data and its preprocessing.
_SET_BY_DATA = ("classes", "num_classes", "size", "in_channels")


def register(builder: Builder) -> Builder:
    """Register a function or class as a network under its own name, with `-` for `_`.

    Args:
        builder: is called with `classes` (number of outputs), `size` (side of the images in pixels) and `in_channels`
            (3, or 1 for gray images; unless its default is another number) if it has parameters of these names. Its
            other parameters are options. A network with an option that has no default is not listed by `model_names`.
            The network takes float images [b, in_channels, size, size] and returns logits [b, classes].

    Raises:
        ValueError: another file or function has registered this name.
        UsageError: this is neither a function nor a class.
    """
    name = _name_of(builder).replace("_", "-")
    before = _builders.get(name, builder)
    if before.__module__ != builder.__module__ or (before is not builder and "<locals>" in builder.__qualname__):
        raise ValueError(f"network {name!r} is already registered by {before.__module__}")
    _builders[name] = builder
    if before is not builder or not hasattr(sys.modules.get(builder.__module__), "__file__"):
        given_sums[name] = source_sha256(name)
    return builder


def model_names() -> list[str]:
    """Return the sorted names of the registered networks that need no option."""
    return sorted(name for name, builder in _builders.items() if not _has_required_option(builder))


def _has_required_option(builder: Callable[..., nn.Module]) -> bool:
    parameters = inspect.signature(builder).parameters
    return any(
        parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for name, parameter in parameters.items()
        if name not in _from_data(parameters)
    )


def _from_data(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return those of a network's parameters that are no options, but follow the data and its preprocessing.

    An `in_channels` whose default is neither 1 nor 3 means something else.
    """
    known, names = (1, 3, inspect.Parameter.empty), [name for name in _SET_BY_DATA if name in parameters]
    return [name for name in names if name != "in_channels" or parameters[name].default in known]


def all_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's options with the defaults of those that are left out, as far as the network is registered."""
    parameters = inspect.signature(_builders[name]).parameters if name in _builders else {}
    defaults = {key: each.default for key, each in parameters.items() if key not in _from_data(parameters)}
    return {key: value for key, value in defaults.items() if isinstance(value, bool | int | float | str)} | {**options}


def resolve_model_name(model: str | Callable[..., nn.Module]) -> str:
    """Return the name under which `build_model` finds a network, in another process too where possible.

    A function or class that is not registered yet is registered: as `FILE.py:NAME` if it stands in a file, or under its
    own name, for this process only, if it was typed into a notebook.

    Raises:
        UsageError: this is no network's name, function or class, or one that no later process could load.
    """
    if isinstance(model, str):
        file = source_file(model)
        return f"{file.resolve()}:{model.rpartition(':')[2]}" if file else model
    for name, builder in _builders.items():
        if builder is model:
            return name
    name, module = _name_of(model), sys.modules.get(model.__module__)
    file_path: str | None = getattr(module, "__file__", None)
    if getattr(module, name, None) is not model or (file_path and name in _only_in_scripts(Path(file_path))):
        how_to_fix = "Define it at the top level of a file, not in a function or below `if __name__ == ...`"
        raise UsageError(f"model {model.__qualname__!r} could not be loaded again. {how_to_fix}, and keep its name.")
    name = f"{Path(file_path).resolve()}:{name}" if file_path else name
    before, earlier_sum = _builders.get(name, model), given_sums.get(name)
    if file_path and _code_of(before) != _code_of(model) and source_sha256(name) == earlier_sum:
        raise UsageError(f"{name} is defined twice, so that one could not be loaded again. Give each its own name.")
    _builders[name] = model  # so that build_model does not run the file a second time
    given_sums[name] = source_sha256(name)
    return name


def _name_of(builder: Any) -> str:
    if not callable(builder) or not hasattr(builder, "__name__"):
        raise UsageError(f"model must be a name, a class or a function, got {type(builder).__name__}")
    return str(builder.__name__)


def _only_in_scripts(file: Path) -> set[str]:
    """Return the functions and classes below `if __name__ == "__main__":`, which loading the file does not define."""
    lines = ast.parse(file.read_bytes()).body if file.is_file() else []
    guarded = [line for line in lines if isinstance(line, ast.If) and "__name__" in ast.unparse(line.test)]
    return {getattr(line, "name", "") for block in guarded for line in block.body}


def _code_of(builder: Any) -> list[Any]:
    """Return the code of a function, or of a class's methods; the same code loaded again is equal."""
    functions = vars(builder).values() if isinstance(builder, type) else [builder]
    return [function.__code__ for function in functions if inspect.isfunction(function)]


def source_sha256(name: str) -> str:
    """Return the SHA-256 of a network's code in the user's files or notebook; empty if it has none."""
    if file := source_file(name):
        return source_sum(file)
    builder = _builders.get(name)
    is_ours = builder is None or builder.__module__.startswith("cifarlab.")
    source = "" if is_ours else _typed_source(builder)
    return hashlib.sha256(source.encode()).hexdigest() if source else ""


def network_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's layers and the shapes of its state, which also depend on more than its source.

    A function may use variables outside of it.
    """
    shapes = [f"{key} {list(value.shape)}" for key, value in network.state_dict().items() if hasattr(value, "shape")]
    layers = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(network))
    return hashlib.sha256("\n".join([layers, *shapes]).encode()).hexdigest()


def _typed_source(builder: Any) -> str:
    """Return the source of a function or class; in a notebook, Python finds only that of a class's methods."""
    try:
        return inspect.getsource(builder)
    except (OSError, TypeError):
        return "".join(_typed_source(method) for method in vars(builder).values() if inspect.isfunction(method))


def source_of(name: str) -> str:
    """Return the file of a registered network as the user's own file, from which `FILE.py:NAME` loads it."""
    if name not in model_names():
        raise unknown("model", name, model_names())
    lines = inspect.getsource(sys.modules[_builders[name].__module__]).splitlines()
    kept = [line for line in lines if line != "@register" and not line.endswith(" import register")]
    return "\n".join([f"# Train it with: cifarlab train --model FILE.py:{_builders[name].__name__}", *kept])


def build_model(
    name: str, *, classes: int = 10, size: int = 32, in_channels: int = 3, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a network with fresh weights from PyTorch's global generator, and check the shape of its logits.

    Args:
        name: a registered name, or `FILE.py:NAME` for a function or class in the user's own file, which is run.
        classes: number of outputs.
        size: side of the images in pixels.
        in_channels: channels of the images: 3, or 1 for gray ones.
        options: the network's own options by name.

    Raises:
        UsageError: the name or an option is unknown, the file does not load, or the network does not fit the images.
    """
    if classes < 1:
        raise UsageError(f"classes should be at least 1, got {classes}")
    if in_channels not in (1, 3):
        raise UsageError(f"the number of channels (in_channels) should be 1 or 3, got {in_channels}")
    builder = _find_builder(name)
    parameters = inspect.signature(builder).parameters
    options = dict(options or {})
    values = {"classes": classes, "num_classes": classes, "size": size, "in_channels": in_channels}
    if "in_channels" in options:  # an option of the user's own network, as in version 0.2
        del values["in_channels"]
    from_data = {key: values[key] for key in _from_data(parameters) if key in values}
    allowed_options = [key for key in parameters if key not in from_data]
    for key in options:
        if not allowed_options:
            raise UsageError(
                f"{name} has no options, got {key!r}. Print its source to change it: cifarlab model {name}"
            )
        if key not in allowed_options:
            raise unknown(f"option of {name}", key, allowed_options)
    arguments = from_data | options
    fault = "cannot be built"
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            network = builder(**arguments)
            fault = f"fails in its forward pass on images of {size}x{size}"
            has_classes = "classes" in arguments or "num_classes" in arguments
            hint = ". Add a parameter `classes` for the number of outputs."
            _check_logits(network, classes, size, in_channels, "" if has_classes or not source_file(name) else hint)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        raise UsageError(f"{name} {fault}: {describe_error(error)}") from error
    return network


def _find_builder(name: str) -> Callable[..., nn.Module]:
    if name in _builders:
        return _builders[name]
    if file := source_file(name):
        return load_builder(name, file)
    if name.endswith(".py"):
        raise UsageError(f"model {name!r} is a file with no network named: write {name}:NAME")
    raise unknown("model", name, model_names())


def _check_logits(network: object, classes: int, size: int, in_channels: int, hint: str) -> None:
    """Check that a network is a module with weights and returns logits [2, classes] for two images."""
    if not isinstance(network, nn.Module):
        raise UsageError(f"must return a torch.nn.Module, returned {type(network).__name__}")
    if not list(network.parameters()):
        raise UsageError("the network has no weights to train")
    was_training = network.training
    network.eval()
    with torch.random.fork_rng(), torch.no_grad():
        try:
            with _naming_layer(network):
                logits = network(torch.zeros(2, in_channels, size, size))
        except Exception as error:  # the user's own code can raise anything
            if not (advice := _channels_advice(network, size, in_channels)):
                raise
            text = str(error) if isinstance(error, UsageError) else describe_error(error)
            raise UsageError(f"{text}. {advice}") from error
    network.train(was_training)
    result = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if result != [2, classes]:
        hint *= len(result) == 2  # not the name of a type, nor the shape of maps
        raise UsageError(f"for 2 images of {size}x{size} it must return logits [2, {classes}], returned {result}{hint}")


def _channels_advice(network: nn.Module, size: int, in_channels: int) -> str:
    """Return how a network gets images that it takes, if it takes the other number of channels; else nothing."""
    other, order = ("one channel", "mono") if in_channels == 3 else ("three channels", "rgb")
    with contextlib.suppress(Exception):  # the user's own code can raise anything
        network(torch.zeros(2, 4 - in_channels, size, size))
        return f'It takes images of {other}: set channels to "{order}".'
    return ""


def try_step(network: nn.Module, images: int, size: int, in_channels: int = 3) -> bool:
    """Run a network forward and backward on one batch in training mode, which changes its state.

    Return True if it gives probabilities, as after a softmax, and not logits. A `UsageError` says why it does not
    train; batch normalisation, for example, needs more than one image.
    """
    try:
        with _naming_layer(network):
            logits = network.train()(torch.rand(images, in_channels, size, size))
        logits.sum().backward()
    except Exception as error:  # the user's own code can raise anything
        raise UsageError(
            f"the network does not train on batches of {images} at {size}x{size} pixels: {describe_error(error)}"
        ) from error
    return logits.shape[1] > 1 and bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.tensor(1.0))


@contextlib.contextmanager
def _naming_layer(network: nn.Module) -> Iterator[None]:
    """Turn an error inside a layer into a `UsageError` with the layer's name and the shape of its input."""
    names = {layer: name for name, layer in network.named_modules() if not list(layer.children())}
    running: list[tuple[nn.Module, list[int]]] = []  # layers that have begun and not ended, with their input's shape

    def enter(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        running.append((layer, list(getattr(inputs[0], "shape", [])) if inputs else []))

    def leave(*_: Any) -> None:
        running.pop()

    hooks = [layer.register_forward_pre_hook(enter) for layer in names]
    hooks += [layer.register_forward_hook(leave) for layer in names]
    try:
        yield
    except Exception as error:
        if not running or isinstance(error, UsageError):
            raise
        layer, shape = running[-1]
        place = f"layer {names[layer]!r}" if names[layer] else "the network itself"
        raise UsageError(f"{place}, {one_line(layer)}, got {shape}: {describe_error(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
