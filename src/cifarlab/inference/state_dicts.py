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
from cifarlab.inference.importing import check_size, complete
from cifarlab.inference.weight_matching import match_layers
from cifarlab.inference.weights_file import check_finite, without_wrappers
from cifarlab.models import build_model, resolve_model_name
from cifarlab.models.own_networks import keep_source, source_file
from cifarlab.models.registry import source_sha256

# under which training programs keep a network's weights
KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
MOST_NAMED = 4  # weights of each kind in an error
SHAPE = "of another shape"
FAR = 100.0  # scale of random inputs for which logits leave [0, 1]


def import_state_dict(path: str | Path, model: str, *, size: int | None = None, **choices: Any) -> Classifier:
    """Load the weights in a PyTorch or safetensors file into a network: `FILE.py:NAME`, or a registered name.

    The file holds a state dictionary, alone or under a name in `KEYS`. No code in it is run. `size` is the side of the
    images in pixels, by default 32; the choices are `classes`, `data`, `normalize` and so on, as for `import_keras`.

    Raises:
        UsageError: the file holds no weights, or not those of the network; the text names them.
    """
    path, model = Path(files.with_home(path)), resolve_model_name(model)
    check_size(size or 32)
    in_channels = 1 if choices.get("channels") == "mono" else 3
    problem = f"{path} does not fit {model}"
    origins = {"origins": {"model": sha256}} if (sha256 := source_sha256(model)) else {}
    assumed: list[str] = []
    weights = _read(path, assumed)
    about = {"imported": path.name, "assumed": assumed, **origins}
    if source_file(model):
        outputs = _find_outputs(model, weights, size, in_channels) if choices.get("classes") is None else 0
    else:
        network = build_model(model, size=size or 32, in_channels=in_channels)
        match = match_layers(network, weights, problem, is_ordered=path.suffix != ".safetensors")
        weights, outputs = match.weights, match.outputs
        about["matched"] = match.layers
        if match.unused:
            assumed.append(f"{len(match.unused)} other tensors of the file are not needed, such as {match.unused[0]}")
        if not match.is_unique:
            assumed.append("layers of equal shapes are in the order of the file; measure the accuracy with --data")

    def fill(network: nn.Module) -> None:
        _fill(network, weights, problem)
        side, generator = size or 32, torch.Generator().manual_seed(0)
        with torch.no_grad():
            logits = network.eval()(FAR * torch.randn(4, in_channels, side, side, generator=generator))
        if logits.min() >= 0 and 0 < logits.max() <= 1:
            assumed.append("outputs are logits, but these look like probabilities: remove the last softmax or sigmoid")

    classifier = complete(model, {}, fill, outputs, size or 32, False, "unit", about, **choices)
    keep_source(model)  # the user names it here, so that the weights may run it
    return classifier


def _find_outputs(model: str, weights: dict[str, Tensor], size: int | None, in_channels: int) -> int:
    """Return the length of a weight in a file that, as the number of outputs, makes the network's shapes fit best."""
    lengths = dict.fromkeys(len(value) for value in reversed(weights.values()) if value.dim())
    faults: dict[int, int] = {}
    for outputs in lengths:
        try:
            network = build_model(model, classes=outputs, size=size or 32, in_channels=in_channels)
        except UsageError as error:
            failure = error
            continue
        faults[outputs] = sum(map(len, _mismatches(network, without_wrappers(weights, network)).values()))
        if not faults[outputs]:
            break
    if lengths and not faults and size is None and " got [" in str(failure):  # a layer of another size
        raise UsageError(f"{failure}. If the images do not have 32 pixels a side, give their --size.") from failure
    return min(faults, key=lambda outputs: faults[outputs], default=next(iter(lengths), 0))


def _read(path: Path, assumed: list[str]) -> dict[str, Tensor]:
    """Return the weights in a file by name, and note if it holds those of several networks of the same kind."""
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    try:
        if files.is_cut_zip(path):
            raise ValueError("it is incomplete or damaged")
        if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # PyTorch never compresses, but would unpack any amount
                if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it is compressed")
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except Exception as error:  # damaged files raise errors of many kinds
        code = "holds more than tensors. Where it was made: torch.save(model.state_dict(), 'weights.pth')"
        reason = code if isinstance(error, pickle.UnpicklingError) else one_line(error)[:300]
        other = files.other_format(path, "PyTorch") or ("" if files.format_of(path)[0] else "not a PyTorch file")
        raise UsageError(f"{path}: {other or reason}") from error
    keys: list[str] = []
    while key := next((key for key in KEYS if isinstance(content, Mapping) and _holds(content.get(key))), ""):
        alike = [str(name) for name, value in content.items() if name != key and _names(value) == _names(content[key])]
        if alike:
            assumed.append(f"the weights under {key!r} were taken; those under {one_line(', '.join(alike))} were not")
        content = content[key]
        keys.append(f"['{key}']")
    if isinstance(content, _Unknown):
        line = f"torch.save(torch.load('{path.name}', weights_only=False){''.join(keys)}.state_dict(), 'weights.pth')"
        code = f"holds a whole network of the class {type(content).__name__}, whose code is not run"
        raise UsageError(f"{path}: {code}. Save its weights where it was made: {one_line(line)}")
    items = content.items() if isinstance(content, Mapping) else ()
    weights = {str(name): value for name, value in items if isinstance(value, Tensor)}
    for name, value in weights.items():
        is_dense = value.layout == torch.strided and not (value.is_quantized or value.is_meta or value.is_complex())
        if not is_dense or value.numel() > path.stat().st_size:  # a view can repeat one number any number of times
            kind = f"{value.dtype}, {value.layout}, {value.device}, shape {list(value.shape)}"
            raise UsageError(f"{path}: {name} must be a dense tensor of real numbers, all in the file, got {kind}")
    if weights:
        return weights
    others = ", ".join(str(key) for key, value in items if isinstance(value, Mapping))
    hint = f". Save one of {one_line(others)[:200]} as a file of its own." if others else ""
    raise UsageError(f"{path}: holds no tensors by name, as model.state_dict() gives them{hint}")


class _Unknown:
    """Stands for an object of a class that is no tensor, such as the arguments of a training. It ignores everything."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _load_tensors(path: Path) -> Any:
    """Return the content of a file of `torch.save`; other objects than tensors become an `_Unknown`, so no code is run.

    PyTorch refuses the modules that give a file control over the machine, such as `os`, also then.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    harmless: list[Any] = [(type(name, (_Unknown,), {}), name) for name in names]
    with torch.serialization.safe_globals(harmless):
        return torch.load(path, map_location="cpu", weights_only=True)


def _holds(value: Any) -> bool:
    """Return whether a value may hold the weights of a network."""
    return isinstance(value, Mapping | _Unknown)


def _names(value: Any) -> set[Any]:
    return set(value) if isinstance(value, Mapping) else set()


def _fill(network: nn.Module, weights: dict[str, Tensor], problem: str) -> None:
    """Copy weights into a network; an error begins with `problem` and names those that do not fit."""
    weights = without_wrappers(weights, network)
    if faults := _mismatches(network, weights):
        more = {kind: ", …" * (len(names) > MOST_NAMED) for kind, names in faults.items()}
        some = [f"{kind}: {', '.join(names[:MOST_NAMED])}{more[kind]}" for kind, names in faults.items()]
        hint = ". If only the number of outputs differs, name as many classes with --classes" if SHAPE in faults else ""
        raise UsageError(f"{problem}: {'; '.join(some)}{hint}")
    check_finite(network, weights, problem)
    network.load_state_dict(weights, strict=False)


def _mismatches(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, list[str]]:
    """Return the names of the weights that do not fit a network, by the kind of problem."""
    own = network.state_dict()
    both = {name: (list(own[name].shape), list(value.shape)) for name, value in weights.items() if name in own}
    faults = {  # PyTorch before 0.4.1 did not count batches
        "missing": [name for name in own if name not in weights and not name.endswith("num_batches_tracked")],
        "not of the network": [name for name in weights if name not in own],
        SHAPE: [f"{name} {file} instead of {needed}" for name, (needed, file) in both.items() if needed != file],
    }
    return {kind: names for kind, names in faults.items() if names}
