"""Networks by name: a decorator to register one, and the way to build it."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cifarlab.errors import UsageError, one_line, unknown

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_registered: dict[str, Callable[..., nn.Module]] = {}
_GIVEN = ("classes", "num_classes", "size")  # what a builder gets from the data, as far as it asks for it


def register(builder: Builder) -> Builder:
    """Makes a function or class a network by its own name, `_` written as `-`.

    It is called with `classes` (how many outputs) and `size` (side of the images in pixels), as far as it has
    parameters of these names; its other parameters are options and need defaults. One without is not listed, because
    only a file knows its value. What it returns takes float images [b, 3, size, size] and gives logits [b, classes].
    """
    name = builder.__name__.replace("_", "-")
    if name in _registered and _registered[name].__module__ != builder.__module__:
        raise ValueError(f"there is already a network {name!r}, in {_registered[name].__module__}")
    _registered[name] = builder
    return builder


def model_names() -> list[str]:
    """The names of the registered networks that can be built by their names alone, in order."""
    return sorted(name for name, builder in _registered.items() if not _needed(builder))


def _needed(builder: Callable[..., nn.Module]) -> list[str]:
    """The options without defaults."""
    parameters = inspect.signature(builder).parameters.values()
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [each.name for each in named if each.name not in _GIVEN and each.default is each.empty]


def resolve_model_name(model: str | Callable[..., nn.Module]) -> str:
    """The name under which `build_model` finds a network again, in another process too where that can be.

    Args:
        model: a name; or a function or class that makes a network, which is registered where it is not yet. One that
            stands at the top of a file gets `FILE.py:NAME`; one typed into a notebook is known to this process alone.
    """
    if isinstance(model, str):
        if not is_from_file(model):
            return model
        file, _, name = model.rpartition(":")
        return f"{Path(file).resolve()}:{name}"
    for name, builder in _registered.items():
        if builder is model:
            return name
    if not hasattr(model, "__name__"):
        raise UsageError(f"model should be a name, a class or a function, got {type(model).__name__}")
    origin: str | None = getattr(sys.modules.get(model.__module__), "__file__", None)
    own = f"{Path(origin).resolve()}:{model.__name__}" if origin else model.__name__
    _registered[own] = model  # found here before its file would be run a second time
    return own


def is_from_file(name: str) -> bool:
    """Whether `name` means a network from the user's file, `FILE.py:NAME`."""
    return ".py:" in name


def build_model(name: str, *, classes: int = 10, size: int = 32, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A network with fresh weights, drawn from PyTorch's global generator.

    Args:
        name: a registered name, or `FILE.py:NAME` for a function or class in the user's own file, which is run.
        classes: number of outputs.
        size: side of the images in pixels.
        options: the network's own options by name.

    Raises:
        UsageError: the name or an option is unknown, the file does not load, or the network does not fit the images.
    """
    builder = _registered.get(name) or (_from_file(name) if is_from_file(name) else None)
    if builder is None and name.endswith(".py"):
        raise UsageError(f"model {name!r}: say which network of that file, {name}:NAME")
    if builder is None:
        raise unknown("model", name, model_names())
    parameters = inspect.signature(builder).parameters
    own_options = [key for key in parameters if key not in _GIVEN]
    options = dict(options or {})
    for key in options:
        if key not in own_options:
            raise unknown(f"option of {name}", key, own_options)
    given = {"classes": classes, "num_classes": classes, "size": size}
    arguments = {key: value for key, value in given.items() if key in parameters} | options
    try:
        with contextlib.redirect_stdout(sys.stderr):
            network = builder(**arguments)
            _try(network, classes, size)
    except UsageError as error:
        hint = "" if {"classes", "num_classes"} & arguments.keys() else "; it does not take `classes`, their number"
        raise UsageError(f"{name}: {error}{hint if is_from_file(name) else ''}") from error
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        told = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"{name} does not work on {size}x{size} images: {told}") from error
    return network


def try_step(network: nn.Module, images: int, size: int) -> None:
    """Takes a network once forward and back in training mode; it is of no use afterwards.

    Args:
        network: to be tried.
        images: size of the batch.
        size: side of the images in pixels.

    Raises:
        UsageError: it does not train; batch normalisation, for one, needs more than one image.
    """
    try:
        _forward(network.train(), torch.rand(images, 3, size, size)).sum().backward()
    except UsageError as error:
        raise UsageError(f"the network does not train on batches of {images}: {error}") from error
    except Exception as error:  # the user's own code can raise anything
        told = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"the network does not train on batches of {images}: {told}") from error


def _try(network: object, classes: int, size: int) -> None:
    if not isinstance(network, nn.Module):
        raise UsageError(f"should make a torch.nn.Module, made {type(network).__name__}")
    if not list(network.parameters()):
        raise UsageError("has no weights to train")
    with torch.random.fork_rng(), torch.no_grad():
        was_training = network.training
        logits = _forward(network.eval(), torch.zeros(2, 3, size, size))
        network.train(was_training)
    got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if got != [2, classes]:
        raise UsageError(f"gives {got} for 2 images of {size}x{size}, should give logits [2, {classes}]")


def _forward(network: nn.Module, images: torch.Tensor) -> Any:
    """What a network makes of images; an error names the layer that it happened in, and what that layer got."""
    names = {layer: name for name, layer in network.named_modules() if not list(layer.children())}
    inside: list[tuple[nn.Module, list[int]]] = []

    def enter(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        inside.append((layer, list(getattr(inputs[0], "shape", [])) if inputs else []))

    handles = [layer.register_forward_pre_hook(enter) for layer in names]
    handles += [layer.register_forward_hook(lambda *_: inside.pop() and None) for layer in names]
    try:
        return network(images)
    except Exception as error:
        if not inside or isinstance(error, UsageError):
            raise
        layer, shape = inside[-1]
        place = f"layer {names[layer]!r}" if names[layer] else "the network itself"
        told = f"{place}, {one_line(layer)}, got {shape}: {type(error).__name__}: {one_line(error)}"
        raise UsageError(told) from error
    finally:
        for handle in handles:
            handle.remove()


def _from_file(name: str) -> Callable[..., nn.Module]:
    file, _, attribute = name.rpartition(":")
    path = Path(file).resolve()
    spec = importlib.util.spec_from_file_location(f"_own_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"there is no network file {file!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look for it there
    sys.path.insert(0, str(path.parent))  # as Python does for a file that it runs
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise UsageError(f"{file} does not load: {type(error).__name__}: {one_line(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    builder = getattr(module, attribute, None)
    if not callable(builder):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"network in {file}", attribute, defined)
    found: Callable[..., nn.Module] = builder  # what it makes is checked where it is called
    return found
