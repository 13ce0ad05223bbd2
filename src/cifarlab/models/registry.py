"""Networks by name: `register` adds one, `build_model` builds it and checks that it fits the images."""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cifarlab import files
from cifarlab.data.cifar10 import cache_folder
from cifarlab.errors import CifarlabError, UsageError, one_line, unknown
from cifarlab.progress import notice

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_builders: dict[str, Callable[..., nn.Module]] = {}
_loading: list[Path] = []  # files that are being run to load their networks
_SET_BY_DATA = ("classes", "num_classes", "size")  # parameters that take their value from the data set


class StartedWhileLoading(UsageError):
    """A training was started by a file that is run only to load its network."""


def register(builder: Builder) -> Builder:
    """Register a function or class as a network under its own name, with `-` for `_`.

    Args:
        builder: is called with `classes` (number of outputs) and `size` (side of the images in pixels) if it has
            parameters of these names. Its other parameters are options. A network with an option that has no default
            is not listed by `model_names`. The network takes float images [b, 3, size, size] and returns logits
            [b, classes].

    Raises:
        ValueError: another file has registered this name.
    """
    name = builder.__name__.replace("_", "-")
    if name in _builders and _builders[name].__module__ != builder.__module__:
        raise ValueError(f"network {name!r} is already registered by {_builders[name].__module__}")
    _builders[name] = builder
    return builder


def model_names() -> list[str]:
    """Return the sorted names of the registered networks that need no option."""
    return sorted(name for name, builder in _builders.items() if not _has_required_option(builder))


def _has_required_option(builder: Callable[..., nn.Module]) -> bool:
    return any(
        parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for name, parameter in inspect.signature(builder).parameters.items()
        if name not in _SET_BY_DATA
    )


def resolve_model_name(model: str | Callable[..., nn.Module]) -> str:
    """Return the name under which `build_model` finds a network, in another process too where possible.

    A function or class that is not registered yet is registered: as `FILE.py:NAME` if it stands in a file, or under its
    own name, for this process only, if it was typed into a notebook.
    """
    if isinstance(model, str):
        file = source_file(model)
        return f"{file.resolve()}:{model.rpartition(':')[2]}" if file else model
    for name, builder in _builders.items():
        if builder is model:
            return name
    if not hasattr(model, "__name__"):
        raise UsageError(f"model must be a name, a class or a function, got {type(model).__name__}")
    file_path: str | None = getattr(sys.modules.get(model.__module__), "__file__", None)
    name = f"{Path(file_path).resolve()}:{model.__name__}" if file_path else model.__name__
    _builders[name] = model  # so that build_model does not run the file a second time
    return name


def source_file(name: str) -> Path | None:
    """Return the file of a network in the user's own file, `FILE.py:NAME`, or None for a registered name."""
    return Path(name.rpartition(":")[0]) if ".py:" in name else None


def keep_source(name: str, copy: Path) -> None:
    """Copy the file of a user's own network to `copy`, and to the cache for `as_trained`."""
    if (file := source_file(name)) and file.is_file():
        files.write_bytes(copy, file.read_bytes())
        with contextlib.suppress(CifarlabError):  # a training does not need the copy in the cache
            files.make_folder(folder := cache_folder() / "networks")
            files.write_bytes(folder / f"{sha256_of(file)}.py", file.read_bytes())


def as_trained(name: str, sha256: str) -> str:
    """Return the name of a user's own network with this checksum: of the copy in the cache if its file has changed."""
    file, copy = source_file(name), cache_folder() / "networks" / f"{sha256}.py"
    if not file or not sha256 or sha256_of(file) == sha256:
        return name
    if sha256_of(copy) == sha256:
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))  # the copy imports what the file imported
        return f"{copy}:{name.rpartition(':')[2]}"
    if file.is_file():
        notice(f"note: {file} has changed since this network was trained, so that predictions may differ.")
    return name


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file; empty if there is no such file."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def refuse_while_loading() -> None:
    """Raise StartedWhileLoading if the caller, which would train, was called by a file that is being loaded."""
    if _loading:
        how_to_fix = 'Put what trains below `if __name__ == "__main__":`.'
        raise StartedWhileLoading(f"{_loading[-1]} trains wherever its network is loaded. {how_to_fix}")


def source_sha256(name: str) -> str:
    """Return the SHA-256 of a network's code in the user's file or notebook; empty if it has none."""
    if file := source_file(name):
        return sha256_of(file)
    builder = _builders.get(name)
    is_ours = builder is None or builder.__module__.startswith("cifarlab.")
    source = "" if is_ours else _typed_source(builder)
    return hashlib.sha256(source.encode()).hexdigest() if source else ""


def _typed_source(builder: Any) -> str:
    """Return the source of a function or class; in a notebook, Python finds only that of a class's methods."""
    try:
        return inspect.getsource(builder)
    except (OSError, TypeError):
        return "".join(_typed_source(method) for method in vars(builder).values() if inspect.isfunction(method))


def build_model(name: str, *, classes: int = 10, size: int = 32, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with fresh weights from PyTorch's global generator, and check the shape of its logits.

    Args:
        name: a registered name, or `FILE.py:NAME` for a function or class in the user's own file, which is run.
        classes: number of outputs.
        size: side of the images in pixels.
        options: the network's own options by name.

    Raises:
        UsageError: the name or an option is unknown, the file does not load, or the network does not fit the images.
    """
    builder = _find_builder(name)
    parameters = inspect.signature(builder).parameters
    allowed_options = [key for key in parameters if key not in _SET_BY_DATA]
    options = dict(options or {})
    for key in options:
        if key not in allowed_options:
            raise unknown(f"option of {name}", key, allowed_options)
    set_by_data = zip(_SET_BY_DATA, (classes, classes, size), strict=True)
    arguments = {key: value for key, value in set_by_data if key in parameters} | options
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            network = builder(**arguments)
            _check_logits(network, classes, size)
    except UsageError as error:
        has_classes = "classes" in arguments or "num_classes" in arguments
        hint = "" if has_classes or not source_file(name) else ". Add a parameter `classes` for the number of outputs."
        raise UsageError(f"{name}: {error}{hint}") from error
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        raise UsageError(f"{name} does not work on {size}x{size} images: {describe_error(error)}") from error
    return network


def _find_builder(name: str) -> Callable[..., nn.Module]:
    if name in _builders:
        return _builders[name]
    if file := source_file(name):
        return _load_builder(name, file)
    if name.endswith(".py"):
        raise UsageError(f"model {name!r} is a file with no network named: write {name}:NAME")
    raise unknown("model", name, model_names())


def _load_builder(name: str, file: Path) -> Callable[..., nn.Module]:
    """Run the user's file, up to its first training, and return the function or class that `FILE.py:NAME` names."""
    path, attribute = file.resolve(), name.rpartition(":")[2]
    spec = importlib.util.spec_from_file_location(f"_own_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"model {name!r}: the file {str(file)!r} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look for their module there
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    if path in _loading:
        refuse_while_loading()
    _loading.append(path)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            spec.loader.exec_module(module)
    except StartedWhileLoading as error:
        if attribute not in vars(module):
            raise
        notice(f"note: {error}")
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise UsageError(f"{file} does not load: {describe_error(error)}") from error
    finally:
        _loading.remove(path)
        sys.path.remove(str(path.parent))
    builder: Callable[..., nn.Module] | None = getattr(module, attribute, None)
    if not callable(builder):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"network in {file}", attribute, names)
    return builder


def _check_logits(network: object, classes: int, size: int) -> None:
    """Check that a network is a module with weights and returns logits [2, classes] for two images."""
    if not isinstance(network, nn.Module):
        raise UsageError(f"must return a torch.nn.Module, returned {type(network).__name__}")
    if not list(network.parameters()):
        raise UsageError("the network has no weights to train")
    was_training = network.training
    with torch.random.fork_rng(), torch.no_grad(), _naming_layer(network):
        logits = network.eval()(torch.zeros(2, 3, size, size))
    network.train(was_training)
    result = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if result != [2, classes]:
        raise UsageError(f"for 2 images of {size}x{size} it must return logits [2, {classes}], returned {result}")


def try_step(network: nn.Module, images: int, size: int) -> None:
    """Run a network forward and backward on one batch in training mode, which changes its state.

    A `UsageError` says why it does not train; batch normalisation, for example, needs more than one image.
    """
    try:
        with _naming_layer(network):
            logits = network.train()(torch.rand(images, 3, size, size))
        logits.sum().backward()
    except Exception as error:  # the user's own code can raise anything
        raise UsageError(f"the network does not train on batches of {images}: {describe_error(error)}") from error


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


def describe_error(error: BaseException) -> str:
    """Return an error's text on one line, with its type if it is not an error of this package."""
    return str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {one_line(error)[:400]}"
