"""Write and read weights files: safetensors files that hold a whole classifier.

The tensors are the network's weights and the fitted preprocessing. The metadata hold the network's name and options,
the class names, the image size, the origin of the weights and a checksum of everything.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import AfterValidator, BaseModel, Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cifarlab import files
from cifarlab.errors import CifarlabError, UntrustedFile, UsageError, one_line, validated
from cifarlab.inference.classifier import Classifier, make_classifier, sha256_of_tensors
from cifarlab.models.own_networks import as_trained, source_file
from cifarlab.recipes import LARGEST, SMALLEST, Preprocessing
from cifarlab.runs.record import TrainedOn

FORMAT = "cifarlab-1"
CHECKSUM = "sha256"  # metadata key of the checksum, `sha256_of_tensors` of all tensors and the other metadata
SPARE = 10_000_000  # numbers that a network may allocate at once beyond the size of its weights file
# Modules that hold a network: of DistributedDataParallel, torch.compile, Lightning and other code.
WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "backbone", "encoder")


def save_weights(
    classifier: Classifier, path: Path, about: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write a classifier as one safetensors file, which is replaced if it exists; arguments as for `to_bytes`."""
    files.write_bytes(path, to_bytes(classifier, about, dtype))


def to_bytes(
    classifier: Classifier, about: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> bytes:
    """Return the weights file of a classifier on any device.

    `about` is the origin of the weights, by default `classifier.about`. The network's weights are stored as `dtype`;
    loading converts them back to float32.
    """
    metadata = {
        "format": FORMAT,
        "model": classifier.model,
        "model_options": json.dumps(dict(classifier.model_options)),
        "classes": json.dumps(classifier.classes),
        "size": str(classifier.size),
        "normalize": classifier.preprocess.settings.normalize,
        "preprocessing": json.dumps(asdict(classifier.preprocess.settings)),
        "about": json.dumps(dict(about if about is not None else classifier.about)),
    }
    weights = classifier.network.state_dict()
    tensors = {f"network.{k}": v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    tensors |= {f"preprocess.{name}": value for name, value in classifier.preprocess.state_dict().items()}
    for name, value in tensors.items():  # copies, because safetensors refuses weights that two layers share
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    checksum = {CHECKSUM: sha256_of_tensors(tensors, metadata)}
    return safetensors.torch.save(tensors, metadata | checksum)


def load_weights(path: Path) -> Classifier:
    """Return the classifier in a weights file, on the CPU and in evaluation mode.

    A network from the user's own file is built by running that file, or a copy of it, see `own_networks.as_trained`.
    """
    try:
        # safetensors says of a file without permission that it does not exist, and waits for a pipe.
        open(path.resolve(), "rb", opener=files.open_regular).close()
        with safetensors.safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise UsageError(f"there is no weights file {str(path)!r}") from error
    except OSError as error:
        raise CifarlabError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        reason = files.other_format(path, "safetensors") or f"it is damaged or incomplete ({one_line(error)})"
        raise UsageError(f"{path} is not a safetensors file: {reason}") from error
    if metadata.get("format") != FORMAT:
        how_to_fix = "Load them into their network with cifarlab import --model."
        raise UsageError(f"{path} holds weights, but not the metadata that cifarlab needs. {how_to_fix}")
    if CHECKSUM in metadata and metadata.pop(CHECKSUM) != sha256_of_tensors(tensors, metadata):
        raise UsageError(f"{path} is damaged, or another program has changed it: its SHA-256 differs")
    if (source := source_file(metadata.get("model", ""))) and not source.is_absolute():
        raise UsageError(f"{path} needs the network {metadata['model']!r}, but does not give that file's folder")
    try:
        classes, size, about = read_metadata(metadata, "its metadata are damaged")
        metadata["model"] = as_trained(metadata["model"], about.get("origins", {}).get("model", ""), path.parent)
        limit = sum(value.numel() for value in tensors.values()) + SPARE
        # The random weights are replaced at once, so they must not advance the global generator.
        with torch.random.fork_rng(devices=[]), _AllocationLimit(limit):
            classifier = _build(metadata, tensors, classes, size)
    except UntrustedFile as error:
        raise UntrustedFile(f"{path}: {error}", error.file) from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (AttributeError, KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise UsageError(f"{path} does not fit its network: {one_line(error)[:400]}") from error
    classifier.network.eval()
    return replace(classifier, about=about)


class _AllocationLimit(TorchFunctionMode):
    """Refuse tensors larger than a weights file can need, since a forged file may name a network of any size."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
            shape = arguments[0] if arguments and not isinstance(arguments[0], int) else arguments
            if math.prod(length for length in shape if isinstance(length, int)) > self.limit:
                raise ValueError(f"the network allocates {list(shape)} numbers, far more than the file holds")
        return function(*arguments, **(keywords or {}))


class _About(TrainedOn, frozen=True, extra="allow"):
    """Those parts of the origin of weights that commands compute with."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    tta: bool = False
    origins: dict[str, str] = Field(default_factory=dict)


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError(f"class names must be printable, got {one_line(name)!r}")
    return name


class _Metadata(BaseModel, frozen=True):
    """The metadata that weights files and ONNX files have in common."""

    classes: tuple[Annotated[str, AfterValidator(_printable)], ...]
    size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)]  # pixels
    about: _About


def read_metadata(metadata: Mapping[str, str], place: str) -> tuple[tuple[str, ...], int, dict[str, Any]]:
    """Return the class names, the image size and the origin of the weights; an error begins with `place`."""
    about: dict[str, Any] = json.loads(metadata["about"])
    fields = {"classes": json.loads(metadata["classes"]), "size": metadata["size"], "about": about}
    checked = validated(_Metadata, fields, place)
    return checked.classes, checked.size, about


def _build(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor], classes: tuple[str, ...], size: int
) -> Classifier:
    """Build the classifier that the metadata describe, and load its weights."""
    # Version 0.2 wrote `normalize` alone.
    settings = json.loads(metadata.get("preprocessing", "{}")) | {"normalize": metadata["normalize"]}
    preprocessing = validated(Preprocessing, settings, "preprocessing")
    options = json.loads(metadata["model_options"])
    classifier = make_classifier(metadata["model"], options, classes, size, preprocessing)
    weights = without_wrappers(_select_by_prefix(tensors, "network."), classifier.network)
    preprocess = _select_by_prefix(tensors, "preprocess.")
    check_finite(classifier.network, weights, "the network")
    check_finite(classifier.preprocess, preprocess, "the preprocessing")
    classifier.network.load_state_dict(weights)
    classifier.preprocess.load_state_dict(preprocess)
    return classifier


def check_finite(module: nn.Module, weights: Mapping[str, Tensor], place: str) -> None:
    """Refuse weights that no training leaves: numbers that the module's type cannot hold, and negative variances.

    NaN and infinity are allowed where a new module has them itself, as in a mask.
    """
    for name, fresh in module.state_dict().items():
        if name in weights and fresh.isfinite().all() and not weights[name].to(fresh.dtype).isfinite().all():
            raise UsageError(f"{place}: {name} holds NaN or infinite numbers, as after a training that diverged")
        if name in weights and name.endswith("running_var") and (weights[name] < 0).any():
            raise UsageError(f"{place}: {name} holds negative variances, so the file is damaged")


def without_wrappers(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return weights without the prefixes that wrappers of their network have given to all names."""
    own = network.state_dict()

    def wraps(prefix: str) -> bool:
        is_own = all(name.startswith(prefix) for name in own)  # the network has a module of that name itself
        return all(name.startswith(prefix * (1 + is_own)) for name in weights)

    while weights and weights.keys() != own.keys():
        prefix = next((prefix for word in WRAPPERS if wraps(prefix := f"{word}.")), "")
        if not prefix:
            break
        weights = _select_by_prefix(weights, prefix)
    return weights


def _select_by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, and cut the prefix off."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
