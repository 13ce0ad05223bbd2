"""A classifier: a network together with its preprocessing, its class names and the origin of its weights.

Evaluation, prediction and every report use this one value, so that images always reach the network as in training and
its outputs are always read in the right order. See `weights_file` for its file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cifarlab.inference.preprocessing import Preprocess
from cifarlab.models import build_model, resolve_model_name
from cifarlab.recipes import Normalization, Preprocessing, Resize


@dataclass(frozen=True)
class Classifier:
    """A network with the meaning of its inputs and outputs."""

    network: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]  # in the order of the logits
    size: int  # side of the images in pixels
    model: str  # name of the network, or `FILE.py:NAME`
    model_options: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the weights: recipe, seed, data set and its SHA-256, protocol, accuracy."""

    @property
    def device(self) -> torch.device:
        return self.preprocess.mean.device

    @property
    def in_channels(self) -> int:
        """Channels that the network sees, 3 or 1; `preprocess` converts images of the other number."""
        return self.preprocess.settings.in_channels

    @property
    def resize(self) -> Resize:
        """How pictures become square; the rest of the preprocessing is in `preprocess`."""
        return self.preprocess.settings.resize

    @property
    def tta(self) -> bool:
        """True if the stated accuracy was measured with test-time augmentation, which is then the default."""
        return bool(self.about.get("tta", False))

    @property
    def temperature(self) -> float:
        """Divisor of the logits that calibrates the probabilities, fitted on the validation images; 1 by default."""
        return float(self.about.get("temperature", 1.0))

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights and the preprocessing."""
        state = {**self.network.state_dict(prefix="network."), **self.preprocess.state_dict(prefix="preprocess.")}
        return sha256_of_tensors({name: value.cpu().contiguous() for name, value in state.items()}, {})

    def logits(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Return the logits of images on the network's device, in the network's current mode (training or not)."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Set the network to evaluation mode, and afterwards to the mode that it was in."""
        was_training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(was_training)


def make_classifier(
    model: str, options: Mapping[str, Any], classes: tuple[str, ...], size: int, settings: Preprocessing | Normalization
) -> Classifier:
    """Return a classifier with fresh weights and preprocessing that is not fitted; errors as `models.build_model`."""
    name, preprocess = resolve_model_name(model), Preprocess(settings, size)
    in_channels = preprocess.settings.in_channels
    network = build_model(name, classes=len(classes), size=size, in_channels=in_channels, options=options)
    return Classifier(network, preprocess, classes, size, name, dict(options))


def to_device(classifier: Classifier, device: torch.device) -> None:
    """Move the weights to a device, those of convolutions in channels-last memory format."""
    classifier.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's overloads
    classifier.preprocess.to(device)


def sha256_of_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of named tensors on the CPU and of metadata; safetensors itself has no checksum."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
