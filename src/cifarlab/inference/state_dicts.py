"""Load a PyTorch state dictionary into a network of the user's own file, or a registered one."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cifarlab import files
from cifarlab.errors import UsageError, one_line
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.importing import complete
from cifarlab.inference.weights_file import without_wrappers
from cifarlab.models import resolve_model_name
from cifarlab.models.own_networks import keep_source
from cifarlab.models.registry import source_sha256

KEYS = ("state_dict", "model_state_dict", "model")  # under which training programs keep a network's weights
MOST_NAMED = 4  # weights of each kind in an error


def import_state_dict(path: str | Path, model: str, *, size: int | None = None, **choices: Any) -> Classifier:
    """Load the weights in a PyTorch or safetensors file into a network: `FILE.py:NAME`, or a registered name.

    The file holds a state dictionary, alone or under a name in `KEYS`. No code in it is run. `size` is the side of the
    images in pixels, by default 32; the choices are `classes`, `data`, `normalize` and so on, as for `import_keras`.

    Raises:
        UsageError: the file holds no weights, or not those of the network; the text names them.
    """
    path, model = Path(files.with_home(path)), resolve_model_name(model)
    weights = _read(path)
    last = next((len(value) for value in reversed(weights.values()) if value.dim()), 0)  # outputs of the last layer
    outputs = last if choices.get("classes") is None else 0
    origins = {"origins": {"model": sha256}} if (sha256 := source_sha256(model)) else {}
    about = {"imported": path.name, "assumed": [], **origins}

    def fill(network: nn.Module) -> None:
        _fill(network, weights, f"{path} does not fit {model}")

    classifier = complete(model, {}, fill, outputs, size or 32, False, "unit", about, **choices)
    keep_source(model)  # the user names it here, so that the weights may run it
    return classifier


def _read(path: Path) -> dict[str, Tensor]:
    """Return the weights in a file by name."""
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    try:
        if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # PyTorch never compresses, but would unpack any amount
                if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it is compressed")
        is_tensors = path.suffix == ".safetensors"
        content: Any = load_file(path) if is_tensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise errors of many kinds
        code = "holds more than tensors. Where it was made: torch.save(model.state_dict(), 'weights.pth')"
        reason = code if isinstance(error, pickle.UnpicklingError) else one_line(error)[:300]
        other = files.other_format(path, "PyTorch") or ("" if files.format_of(path)[0] else "not a PyTorch file")
        raise UsageError(f"{path}: {other or reason}") from error
    for key in KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    items = content.items() if isinstance(content, Mapping) else ()
    if weights := {str(name): value for name, value in items if isinstance(value, Tensor)}:
        return weights
    raise UsageError(f"{path}: holds no tensors by name, as model.state_dict() gives them")


def _fill(network: nn.Module, weights: dict[str, Tensor], problem: str) -> None:
    """Copy weights into a network; an error begins with `problem` and names those that do not fit."""
    own, weights = network.state_dict(), without_wrappers(weights, network)
    both = {name: (list(own[name].shape), list(value.shape)) for name, value in weights.items() if name in own}
    faults = {  # PyTorch before 0.4.1 did not count batches
        "missing": [name for name in own if name not in weights and not name.endswith("num_batches_tracked")],
        "not of the network": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} {file} instead of {needed}" for name, (needed, file) in both.items() if needed != file
        ],
    }
    if any(faults.values()):
        some = [
            f"{kind}: {', '.join(names[:MOST_NAMED])}{', …' * (len(names) > MOST_NAMED)}"
            for kind, names in faults.items()
            if names
        ]
        raise UsageError(f"{problem}: {'; '.join(some)}")
    network.load_state_dict(weights, strict=False)
