"""Match the layers in a file, whose names other code has chosen, with the layers of a registered network.

A layer is a module's own tensors. Two layers fit if their tensors have the same names and shapes. Many layers have the
same shapes, so the order decides too. A registered network has its layers in the order of the forward pass, and in each
block the shortcut last. In a file, the shortcut may come first, and safetensors files are sorted by name. So the order
is searched for: the layers of a module stay together, and numbers in names rise.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cifarlab.data.own.image_list import natural_order
from cifarlab.errors import UsageError
from cifarlab.inference.weights_file import WRAPPERS

PARTS = ("weight", "bias", "running_mean", "running_var")  # tensors of one layer
COUNTER = "num_batches_tracked"  # evaluation does not need it, and PyTorch before 0.4.1 did not count
SHORTCUT = re.compile("shortcut|downsample|skip|identity", re.IGNORECASE)
MOST_STEPS = 200_000  # of a search; an ordinary file needs fewer than 2,000
MOST_LEVELS = 20  # of a layer's name

Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each tensor of a layer
Kind = tuple[Shapes, bool]  # the shapes, and whether the layer is known to be a shortcut
Queues = tuple[tuple[tuple[int, Any], ...], ...]  # for each word in names, position and content of what it numbers


@dataclass(frozen=True)
class _Module:
    """A module of the file whose layers are being placed."""

    left: Queues
    start: int  # place of its first layer in the network
    outer: "_Module | None" = None


@dataclass(frozen=True)
class Match:
    """The weights of a file under a network's names."""

    weights: dict[str, Tensor]
    layers: dict[str, str]  # name in the file for each layer of the network
    outputs: int  # number of classes
    unused: list[str]  # names of tensors beside the network
    is_unique: bool  # False if only the order of the file tells layers of equal shapes apart


def match_layers(network: nn.Module, weights: Mapping[str, Tensor], problem: str, *, is_ordered: bool) -> Match:
    """Return the weights of a file under the names of a registered network.

    Args:
        network: the network, whose last layer may have another number of outputs than the one in the file.
        weights: the tensors by their names in the file.
        problem: the beginning of each error.
        is_ordered: False if the file does not keep the order of the layers.

    Raises:
        UsageError: the layers do not fit, or they fit in several orders and the file does not keep theirs.
    """
    state = network.state_dict()
    own = _layers(state)
    faults: list[tuple[int, str]] = []
    for part in _parts(dict(weights)):
        found = _layers(part)
        if not is_ordered:
            found = {name: found[name] for name in sorted(found, key=natural_order)}
        furthest: list[str] = []
        orders = iter([list(own)]) if _have_equal_names(own, found) else _orders(own, found, furthest)
        if (order := next(orders, None)) is None:
            faults.append(_fault(own, found, furthest))
            continue
        if not (is_unique := next(orders, None) is None) and not is_ordered:
            how_to_fix = "Import a file of torch.save(model.state_dict(), 'weights.pth'), which keeps the order"
            raise UsageError(f"{problem}: its layers fit in several orders. {how_to_fix}.")
        layers = dict(zip(own, order, strict=True))
        names = {_join(layer, key): _join(layers[layer], key) for layer, shapes in own.items() for key, _ in shapes}
        taken = {key: _reshaped(part[name], state[key]) for key, name in names.items()}
        used = {id(part[name]) for name in names.values()}
        if _appends(taken):
            raise UsageError(f"{problem}: its DenseNet puts the new maps of a layer last, and this network first")
        unused = [name for name, value in weights.items() if id(value) not in used and not name.endswith(COUNTER)]
        return Match(taken, layers, len(taken[list(names)[-1]]), unused, is_unique)
    raise UsageError(f"{problem}: {min(faults)[1]}")


def _appends(weights: Mapping[str, Tensor]) -> bool:
    """Return whether a DenseNet puts new maps last, because the statistics of the old maps stay where they were."""
    means = [value for name, value in weights.items() if name.endswith("path.0.running_mean")]
    grown = [(old, new) for old, new in itertools.pairwise(means) if len(new) > len(old)]
    last = sum(torch.allclose(new[: len(old)], old, rtol=0.01, atol=1e-4) for old, new in grown)
    first = sum(torch.allclose(new[-len(old) :], old, rtol=0.01, atol=1e-4) for old, new in grown)
    return last > first


def _join(*words: str) -> str:
    return ".".join(filter(None, words))


def _layers(weights: Mapping[str, Tensor]) -> dict[str, Shapes]:
    """Return the layers by name. A tensor with an unusual name, such as a class token, is a layer of its own."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in weights.items():
        layer, _, key = name.rpartition(".")
        if key == COUNTER:
            continue
        layer, key = (layer, key) if key in PARTS else (name, "")
        layers.setdefault(layer, {})[key] = tuple(value.shape)
    return {layer: tuple(sorted(shapes.items())) for layer, shapes in layers.items()}


def _reshaped(value: Tensor, like: Tensor) -> Tensor:
    """Return a tensor in the shape of another, but for its length, which is the number of outputs in the last layer."""
    return value.reshape(-1, *like.shape[1:]) if like.ndim else value.reshape(())


def _parts(weights: dict[str, Tensor], levels: int = MOST_LEVELS) -> Iterator[dict[str, Tensor]]:
    """Return all weights, then those of each module that may wrap the network, up to so many levels deep."""
    yield weights
    for prefix in [f"{word}." for word in WRAPPERS] if levels else []:
        if part := {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}:
            yield from _parts(part, levels - 1)


def _have_equal_names(own: Mapping[str, Shapes], found: Mapping[str, Shapes]) -> bool:
    """Return whether the file has the names and shapes of the network, as a file that the network itself made."""
    last = list(own)[-1]
    is_equal = {name: found.get(name) == shapes for name, shapes in own.items()}
    is_equal[last] = last in found and _is_output(own[last], found[last])
    return len(own) == len(found) and all(is_equal.values())


def _kinds(own: Mapping[str, Shapes], found: Mapping[str, Shapes]) -> tuple[list[Kind], dict[str, Kind]]:
    """Return the kinds of the network's layers, in order, and of the file's layers, by name."""
    is_shortcut = [{name: bool(SHORTCUT.search(name)) for name in layers} for layers in (own, found)]
    if sum(is_shortcut[0].values()) != sum(is_shortcut[1].values()):  # the file has other words for shortcuts
        is_shortcut = [dict.fromkeys(layers, False) for layers in (own, found)]
    kinds = [
        {name: (shapes, marks[name]) for name, shapes in layers.items()}
        for layers, marks in zip((own, found), is_shortcut, strict=True)
    ]
    return list(kinds[0].values()), kinds[1]


def _is_output(own: Shapes, found: Shapes) -> bool:
    """Return whether two layers are equal but for the number of outputs; one may be written as a 1x1 convolution."""
    sizes = [{key: [length for length in shape[1:] if length > 1] for key, shape in layer} for layer in (own, found)]
    return sizes[0] == sizes[1] and all(shape for _, shape in found)


def _orders(own: Mapping[str, Shapes], found: Mapping[str, Shapes], furthest: list[str]) -> Iterator[list[str]]:
    """Return the names of the file's layers in each order that fits; the first is nearest to the order of the file.

    `furthest` becomes the longest list of names that fits the network's first layers.
    """
    expected, kinds = _kinds(own, found)
    layers, last = list(own), len(own) - 1
    blocks = _blocks(layers)
    steps, order = 0, list[str]()
    choices = [_choices(_Module(_queues([(name.split(".", MOST_LEVELS), name) for name in found]), 0), 0)]
    while choices and len(own) == len(found):
        for name, module in choices[-1]:
            steps += 1
            if steps > MOST_STEPS:
                return
            place = len(order)
            is_equal = kinds[name] == expected[place]
            if not is_equal and not (place == last and _is_output(own[layers[last]], found[name])):
                continue
            order.append(name)
            rest: _Module | None = module
            while rest and not rest.left and not _crosses(rest.start, len(order), blocks):
                rest = rest.outer
            if rest and not rest.left:  # a module of the file would hold parts of two blocks
                order.pop()
                continue
            if len(order) > len(furthest):
                furthest[:] = order
            if rest:
                choices.append(_choices(rest, len(order)))
                break
            yield order.copy()
            order.pop()
        else:
            choices.pop()
            del order[max(0, len(choices) - 1) :]


def _crosses(start: int, end: int, blocks: set[tuple[int, int]]) -> bool:
    """Return whether a module at places `start` to `end` overlaps with a block that is neither inside nor around it."""
    return any(start < first < end < after or first < start < after < end for first, after in blocks)


def _blocks(names: list[str]) -> set[tuple[int, int]]:
    """Return the first place of each module, and the place after its last, in a list of layers."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        words = name.split(".")
        for length in range(1, len(words)):
            places.setdefault(".".join(words[:length]), []).append(place)
    return {(inside[0], inside[-1] + 1) for inside in places.values() if len(inside) > 1}


def _queues(names: list[tuple[list[str], str]]) -> Queues:
    """Return the content of a module, from the words of each layer's name inside it and its whole name."""
    inside: dict[str, list[tuple[list[str], str]]] = {}
    for words, name in names:
        inside.setdefault(words[0] if words else "", []).append((words[1:], name))
    queues: dict[str, list[tuple[list[int], tuple[int, Any]]]] = {}
    for position, (word, content) in enumerate(inside.items()):
        numbers = list(map(int, re.findall("[0-9]+", word)))
        child = (position, _queues(content) if word else content[0][1])
        queues.setdefault(re.sub("[0-9]+", "#", word), []).append((numbers, child))
    return tuple(tuple(child for _, child in sorted(queue, key=lambda pair: pair[0])) for queue in queues.values())


def _choices(module: _Module, place: int) -> Iterator[tuple[str, _Module]]:
    """Return each layer of a module that may come next, at a place in the network, with the module after it."""
    for queue in sorted(module.left, key=lambda queue: queue[0][0]):
        content = queue[0][1]
        left = tuple(other for other in (queue[1:], *module.left) if other and other is not queue)
        rest = _Module(left, module.start, module.outer)
        if isinstance(content, str):
            yield content, rest
        else:
            yield from _choices(_Module(content, place, rest), place)


def _fault(own: Mapping[str, Shapes], found: Mapping[str, Shapes], furthest: list[str]) -> tuple[int, str]:
    """Return the number of layers that do not fit, and a text that names the first of them."""
    *names, last = own
    output = next((name for name in reversed(list(found)) if _is_output(own[last], found[name])), "")
    expected = {name: own[name] for name in names} | {last: found[output] if output else own[last]}
    missing, unknown = _without(expected, found), _without(found, expected)
    texts = [hint] if (hint := _hint(own, found, has_output=bool(output))) else []
    if missing:
        lacking = f"{len(missing)} of the network's {len(own)} layers are not in the file"
        texts.append(f"{lacking}, first {_text(own, missing[0])}")
    if unknown:
        strange = f"{len(unknown)} of the file's {len(found)} layers are not in the network"
        texts.append(f"{strange}, first {_text(found, unknown[0])}")
    if not missing and not unknown:
        after = f"{len(furthest)} of {len(own)} fit, the last is {furthest[-1]}" if furthest else "none fits"
        expected_next = _text(own, list(own)[len(furthest)])
        texts.append(f"all shapes fit, but not in this order: {after}, and {expected_next} does not follow")
    return len(missing) + len(unknown), "; ".join(texts)


def _hint(own: Mapping[str, Shapes], found: Mapping[str, Shapes], *, has_output: bool) -> str:
    """Return the most common reasons for weights not to fit: other channels, a larger first kernel, no output layer."""
    kernel, its_kernel = _first_kernel(own), _first_kernel(found)
    if kernel and its_kernel and kernel[0] == its_kernel[0]:
        if {kernel[1], its_kernel[1]} == {1, 3}:
            return "it takes one channel: --channels mono" if its_kernel[1] == 1 else "it takes three channels, not one"
        if kernel[2:] != its_kernel[2:]:
            return f"its first kernels have {its_kernel[2]}x{its_kernel[3]} pixels, as in networks for large images"
    return "" if has_output else "it has no output layer of these features, so that it names no classes"


def _first_kernel(layers: Mapping[str, Shapes]) -> tuple[int, ...]:
    """Return the shape of a network's first convolution; empty if it has none."""
    return next((shape for layer in layers.values() for _, shape in layer if len(shape) == 4), ())


def _without(layers: Mapping[str, Shapes], others: Mapping[str, Shapes]) -> list[str]:
    """Return the names of the layers that have no counterpart of the same shapes among others."""
    spare, names = Counter(others.values()), []
    for name, shapes in layers.items():
        if spare[shapes]:
            spare[shapes] -= 1
        else:
            names.append(name)
    return names


def _text(layers: Mapping[str, Shapes], name: str) -> str:
    shapes = ", ".join(" ".join(filter(None, (key, str(list(shape))))) for key, shape in layers[name])
    return f"{name!r} ({shapes})"
