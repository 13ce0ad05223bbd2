"""A network with its class names and preprocessing: what a weights file holds.

`evaluate`, `predict` and every report use this one value, so that none of them can feed a network differently or read
its outputs in another order than it was trained with.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cifarlab import files
from cifarlab.data.dataset import sample
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.models import build_model, is_from_file, resolve_model_name
from cifarlab.progress import notice
from cifarlab.recipes import LARGEST, SMALLEST, Normalization

FORMAT = "cifarlab-1"
CHECKSUM = "sha256"  # the metadata's key for what `_sha256` gives
SPARE = 10_000_000  # numbers that a network may want at once besides its weights
ZCA_EPSILON = 0.01  # added to the variances, of data contrast-normalised to a deviation of 1
FITTED_AT_ONCE = 5_000  # images; a copy of all of them would be for nothing
ZCA_IMAGES = 50_000  # at most so many are looked at
_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before a weight's name


class Preprocess(nn.Module):
    """From image bytes to the numbers that a network sees. Fitted on the training images, kept with the weights."""

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    matrix: Tensor

    def __init__(self, kind: str, size: int) -> None:
        """Makes one that is not fitted yet.

        Args:
            kind: a value of `recipes.Recipe.normalize`.
            size: side of the images in pixels.
        """
        super().__init__()
        self.kind = kind
        values = 3 * size * size if kind == "zca" else 0
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("deviation", torch.ones(3))
        self.register_buffer("centre", torch.zeros(values))
        self.register_buffer("matrix", torch.zeros(values, values))

    def fit(self, images: UInt8[np.ndarray, "n 3 h w"]) -> None:
        """Learns what it needs from the training images."""
        if self.kind == "symmetric":
            self._set(mean=torch.full((3,), 0.5), deviation=torch.full((3,), 0.5))
        elif self.kind == "raw":
            self._set(deviation=torch.full((3,), 1 / 255))
        elif self.kind == "standard":
            # By way of counts of the 256 values, because a float copy of a data set is four times its size.
            counts = np.zeros((3, 256))
            for start in range(0, len(images), FITTED_AT_ONCE):
                some = torch.from_numpy(np.array(images[start : start + FITTED_AT_ONCE]))
                counts += np.stack([torch.bincount(part.flatten(), minlength=256).numpy() for part in some.unbind(1)])
            values = np.arange(256) / 255
            share = counts / counts.sum(axis=1, keepdims=True)
            mean = share @ values
            deviation = np.sqrt(np.maximum(share @ values**2 - mean**2, 1e-12))
            self._set(mean=torch.from_numpy(mean).float(), deviation=torch.from_numpy(deviation).float())
        elif self.kind == "zca":
            flat = _contrast_normalized(torch.from_numpy(np.array(sample(images, ZCA_IMAGES))).float().flatten(1))
            centre = flat.mean(0)
            flat -= centre
            values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
            self._set(centre=centre, matrix=vectors / (values.clamp(min=0) + ZCA_EPSILON).sqrt() @ vectors.T)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The network's input; unless whitened, in the memory order of `images`."""
        if (
            self.kind == "zca"
        ):  # global contrast normalisation, then whitening (Goodfellow et al. 2013; Krizhevsky 2009)
            flat = _contrast_normalized(images.float().flatten(1))
            return ((flat - self.centre) @ self.matrix).view(images.shape)
        scale = 1 / (255 * self.deviation)
        return images * scale.view(1, 3, 1, 1) - (self.mean / self.deviation).view(1, 3, 1, 1)

    def _set(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.get_buffer(name).copy_(value)


def _contrast_normalized(flat: Float[Tensor, "b values"]) -> Float[Tensor, "b values"]:
    centred = flat - flat.mean(dim=1, keepdim=True)
    return centred / centred.std(dim=1, keepdim=True).clamp(min=1e-3)


@dataclass(frozen=True)
class Classifier:
    """A network that knows what its inputs and outputs mean."""

    network: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    size: int
    """Side of the images in pixels."""
    model: str
    """The network's name, or `FILE.py:NAME`."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from: recipe, seed, data set and its SHA-256, protocol, accuracy."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.preprocess.mean.device

    @property
    def tta(self) -> bool:
        """Whether its figures are those of test-time augmentation, so that this is how it is to be used."""
        return bool(self.about.get("tta", False))

    @property
    def temperature(self) -> float:
        """What logits are divided by, so that probabilities mean what they say; fitted on validation images."""
        return float(self.about.get("temperature", 1.0))

    @property
    def sha256(self) -> str:
        """Of weights and preprocessing."""
        state = {**self.network.state_dict(prefix="network."), **self.preprocess.state_dict(prefix="preprocess.")}
        return _sha256({name: value.cpu().contiguous() for name, value in state.items()}, {})

    def logits(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """What the network says of images on its device; its mode (training or not) is the caller's."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits


def make_classifier(
    model: str, options: Mapping[str, Any], classes: tuple[str, ...], size: int, normalize: str
) -> Classifier:
    """A classifier with fresh weights and unfitted preprocessing. Raises as `build_model` does."""
    name = resolve_model_name(model)
    network = build_model(name, classes=len(classes), size=size, options=options)
    return Classifier(network, Preprocess(normalize, size), classes, size, name, dict(options))


def to_device(classifier: Classifier, device: torch.device) -> None:
    """Moves the weights to a device, those of convolutions with channels last."""
    classifier.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's overloads
    classifier.preprocess.to(device)


def save_weights(
    classifier: Classifier, path: Path, about: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Writes weights, preprocessing, class names and origin as one safetensors file, whole or not at all.

    Args:
        classifier: on any device.
        path: of the file.
        about: where the weights come from; the classifier's own by default.
        dtype: of the network's weights in the file. They are float32 again when they are loaded.
    """
    metadata = {
        "format": FORMAT,
        "model": classifier.model,
        "model_options": json.dumps(dict(classifier.model_options)),
        "classes": json.dumps(classifier.classes),
        "size": str(classifier.size),
        "normalize": classifier.preprocess.kind,
        "about": json.dumps(dict(about if about is not None else classifier.about)),
    }
    weights = classifier.network.state_dict()
    tensors = {f"network.{k}": v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    tensors |= {f"preprocess.{name}": value for name, value in classifier.preprocess.state_dict().items()}
    # Copies, because the format refuses weights that two layers share.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    files.write_bytes(path, safetensors.torch.save(copies, metadata | {CHECKSUM: _sha256(copies, metadata)}))


def load_weights(path: Path) -> Classifier:
    """The classifier in a weights file, on the CPU and ready to predict.

    A network of the user's own is built by running the file that it came from, where that still exists.

    Raises:
        UsageError: not a weights file of this package, or it does not fit its network.
        CifarlabError: the file cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise UsageError(f"there is no weights file {str(path)!r}") from error
    except OSError as error:
        raise CifarlabError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path}: not a safetensors file ({one_line(error)})") from error
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path}: holds weights but not what cifarlab needs to use them (format {FORMAT!r})")
    if CHECKSUM in metadata and metadata.pop(CHECKSUM) != _sha256(tensors, metadata):
        raise UsageError(f"{path}: is not what was written (SHA-256 differs): damaged, or changed by another program")
    if is_from_file(metadata.get("model", "")) and not Path(metadata["model"]).is_absolute():
        raise UsageError(f"{path}: names a network in {metadata['model']!r}, without saying where that file is")
    try:
        most = sum(value.numel() for value in tensors.values()) + SPARE
        with torch.random.fork_rng(devices=[]), _NothingLarger(most):
            classifier = _built(metadata, tensors)  # its random weights, replaced at once, are no one's business
        about = json.loads(metadata["about"])
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise UsageError(f"{path}: does not fit its network: {one_line(error)[:400]}") from error
    classifier.network.eval()
    if is_from_file(classifier.model) and about.get("origins", {}).get("model") not in (
        None,
        sha256_of_file(classifier.model),
    ):
        notice(
            f"note: {classifier.model.rpartition(':')[0]} has changed since {path} was trained: its answers may differ"
        )
    return replace(classifier, about=about)


def sha256_of_file(model: str) -> str:
    """Of the file that a network of the user's own stands in, `FILE.py:NAME`."""
    return hashlib.sha256(Path(model.rpartition(":")[0]).read_bytes()).hexdigest()


class _NothingLarger(TorchFunctionMode):
    """Refuses tensors of more numbers than a weights file can need: a forged one may name a network of any size."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """Looks at what makes tensors, and lets everything else be done."""
        if function in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
            shape = arguments[0] if arguments and not isinstance(arguments[0], int) else arguments
            if math.prod(length for length in shape if isinstance(length, int)) > self.most:
                raise ValueError(f"it wants {list(shape)} numbers at once, and the file is small")
        return function(*arguments, **(named or {}))


def _built(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Classifier:
    if metadata["normalize"] not in get_args(Normalization):
        raise ValueError(f"there is no normalisation {metadata['normalize'][:40]!r}")
    size = int(metadata["size"])
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"images of {size} pixels")
    classifier = make_classifier(
        metadata["model"],
        json.loads(metadata["model_options"]),
        tuple(json.loads(metadata["classes"])),
        size,
        metadata["normalize"],
    )
    expected = classifier.network.state_dict().keys()
    classifier.network.load_state_dict(_unwrapped(_part(tensors, "network."), set(expected)))
    classifier.preprocess.load_state_dict(_part(tensors, "preprocess."))
    return classifier


def _sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of everything that a weights file holds, since safetensors would not notice a bit that changed."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _unwrapped(tensors: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Takes off what wrappers put before every name, where the network's own names are others."""
    for wrapper in _WRAPPERS:
        if tensors.keys() != expected and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors
