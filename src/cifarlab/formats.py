"""Identify files and folders: format, the program that wrote them, and the command that takes them.

Nothing in a file is run or unpickled, and PyTorch is not imported. `files` has the first bytes of each format.
"""

import ast
import contextlib
import json
import mimetypes
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cifarlab import files
from cifarlab.data.image_files import FORMATS
from cifarlab.data.own.array_files import array_files
from cifarlab.data.own.loading import list_files
from cifarlab.data.published.data_sets import CIFAR10, PUBLISHED
from cifarlab.errors import UsageError, one_line
from cifarlab.experiments.study.definition import define, read_definition
from cifarlab.keras.file import MAX_JSON, identify_keras
from cifarlab.recipes import load
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import is_group, is_run, is_study, list_runs, read_row

TAIL = 2**20  # bytes; the metadata of an ONNX file are at its end
TEXTS = {".toml": "a TOML file", ".py": "a Python file", ".csv": "a table"}  # by ending: they may begin with anything
SAVE_WEIGHTS = "Save its weights where it was made: torch.save(model.state_dict(), 'weights.pth'), for cifarlab import."
PREDICTED = "image,label,probability,"  # the columns with which the table of `predict --out` begins
Facts = dict[str, str]  # values of `Identified` by name


@dataclass(frozen=True)
class Identified:
    """A file or folder, and how a user gets on with it. Texts are empty where nothing is known."""

    path: str
    kind: str  # such as `an ONNX file`
    made_by: str = ""  # program and version
    details: str = ""
    use: str = ""  # one sentence, with the command where there is one


def identify(path: Path | str) -> Identified:
    """Return the kind of a file or folder, also if it is damaged or unknown; raise UsageError if there is none."""
    if not (path := Path(path)).exists():
        raise UsageError(f"there is no file {str(path)!r}")
    kind, use = files.format_of(path)
    unknown = "a folder" if path.is_dir() else TEXTS.get(path.suffix, "an unknown format")
    facts = {"kind": kind or unknown, "use": use}
    try:
        if path.is_dir():
            facts |= {} if kind else _folder(path)
        elif not path.is_file():
            facts["kind"] = "a pipe or a device"
        elif kind and (path.suffix not in TEXTS or "Git LFS" in kind):
            facts |= _READERS[kind](path) if kind in _READERS else {}
        else:
            facts |= _by_name(path)
    except Exception as error:  # damaged files raise errors of many kinds
        facts |= {"details": one_line(error)[:300].removeprefix(f"{path}: "), "use": ""}
        facts |= {"kind": "an unknown format"} if facts["details"].startswith("not a ") else {}
    return Identified(str(path), **facts | {"use": files.with_path(facts["use"], path)})


def _keras(path: Path) -> Facts:
    version, has_architecture = identify_keras(path)
    weights = {"kind": "weights of Keras", "use": "Convert them with: cifarlab import {file} --architecture MODEL.json"}
    return {"made_by": f"Keras {version}"} | ({} if has_architecture else weights)


def _pytorch(path: Path) -> Facts:
    if not zipfile.is_zipfile(path):
        if files.is_cut_zip(path):
            raise ValueError("it is incomplete or damaged")
        return {"made_by": "PyTorch before 1.6"}
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        with archive.open(next(name for name in names if name.endswith("/data.pkl"))) as file:
            operations = list(pickletools.genops(file.read(MAX_JSON)))  # names what the pickle needs, and runs nothing
    needs = [str(argument) for operation, argument, _ in operations if operation.name == "GLOBAL"]
    layers = [name for name in needs if name.startswith("torch.nn.modules.")]
    plain = ("torch.", "torch ", "collections ", "__builtin__ ", "builtins ")
    classes = [name for name in needs if not name.startswith(plain)] or layers
    tensors = sum("/data/" in name for name in names)
    script, network = any("/code/" in name for name in names), " ".join(classes[:1])
    content = "TorchScript" if script else f"a network of the class {network}" if classes else f"{tensors:,} tensors"
    is_checkpoint = path.name == "checkpoint.pt" and is_run(path.parent)
    use = "Go on with: cifarlab resume {folder}" if is_checkpoint else SAVE_WEIGHTS if script or classes else ""
    return {"made_by": "PyTorch 1.6 or later", "details": content} | ({"use": use} if use else {})


def _safetensors(path: Path) -> Facts:
    with path.open("rb") as file:
        tensors = json.loads(file.read(min(struct.unpack("<Q", file.read(8))[0], MAX_JSON)))
    about = tensors.pop("__metadata__", {})
    if not about.get("format", "").startswith("cifarlab"):
        return {"details": f"{len(tensors):,} tensors without their network", "use": ""}
    details = f"{about['model']}, {len(json.loads(about['classes']))} classes, images of {about['size']} pixels"
    return {"made_by": "cifarlab", "details": details, "use": _use_of_ours(path, ".safetensors")}


def _use_of_ours(path: Path, ending: str) -> str:
    first = "" if path.suffix.lower() == ending else f"Rename it, so that its name ends in {ending}. "
    return f"{first}Use it with: cifarlab predict {{file}} YOUR_PICTURE.jpg"


def _onnx(path: Path) -> Facts:
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - TAIL))
        if b"cifarlab-onnx" in file.read():
            return {"made_by": "cifarlab", "use": _use_of_ours(path, ".onnx")}
    made_by, start = "", 2
    while head[start] in (0x12, 0x1A):  # name and version of the producer
        end = start + 2 + head[start + 1]
        made_by, start = f"{made_by} {head[start + 2 : end].decode()}", end
    return {"made_by": made_by.strip(), "details": f"ONNX IR version {head[1]}"}


def _image(path: Path) -> Facts:
    with Image.open(path, formats=FORMATS) as image:
        details = f"{image.format}, {image.width} x {image.height} pixels, {image.mode}"
    return {"kind": "an image", "details": details, "use": "Classify it with: cifarlab predict TARGET {file}"}


def _zip(path: Path) -> Facts:
    with zipfile.ZipFile(path) as archive:
        return {"details": f"{len(archive.namelist()):,} files, such as {', '.join(archive.namelist()[:4])}"}


def _idx(path: Path) -> Facts:
    with path.open("rb") as file:
        axes = file.read(4)[3]
        return {"details": " x ".join(f"{length:,}" for length in struct.unpack(f">{axes}I", file.read(4 * axes)))}


def _json(path: Path) -> Facts:
    document = json.loads(path.read_bytes()[: MAX_JSON + 1])
    document = json.loads(document) if isinstance(document, str) else document
    is_keras = "class_name" in document
    return (
        {"made_by": f"Keras {document.get('keras_version', '1')}"} if is_keras else {"kind": "a JSON file", "use": ""}
    )


def _by_name(path: Path) -> Facts:
    """Identify a file whose format has no typical first bytes."""
    length = path.stat().st_size
    if length == CIFAR10.pieces[0].images * CIFAR10.record_bytes:
        return {"kind": "binary CIFAR-10", "use": "Put it into the cache with: cifarlab data get --source {folder}"}
    for data in PUBLISHED.values():
        named = data is CIFAR10 or data.name == path.stem  # files of several data sets have the same length
        if named and length == (data.train + data.test) * data.record_bytes:
            command = f"cifarlab data get {data.name} --source {{file}}"
            return {"kind": f"binary {data.title}", "use": f"Put it into the cache with: {command}"}
    if path.suffix == ".toml" and (values := read_definition(path).vary):
        details = f"{len(define(str(path)).runs)} runs, which vary {', '.join(values)}"
        return {"kind": "a study", "details": details, "use": "Run it with: cifarlab study {file}"}
    if path.suffix == ".toml":
        details = f"{(recipe := load(str(path))).model} on {recipe.dataset}, {recipe.epochs} epochs"
        return {"kind": "a recipe", "details": details, "use": "Train it with: cifarlab train {file}"}
    if path.suffix == ".py":
        nodes = ast.parse(path.read_bytes()).body
        names = ", ".join(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef))
        return {"details": names, "use": "Train with: cifarlab train --model {file}:NAME"}
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            if file.readline().startswith(PREDICTED):
                return {"kind": "a table of predictions", "made_by": "cifarlab"}
        return _data_set(path, "csv")
    with contextlib.suppress(UnidentifiedImageError):
        return _image(path)
    return {}


def _folder(path: Path) -> Facts:
    if is_run(path):
        if (row := read_row(RunFolder(path))).status == "damaged":
            return {"kind": "a damaged run", "details": row.reason}
        details = f"{row.status}, {row.recipe} on {row.dataset}, {row.epochs_done} of {row.epochs} epochs {row.reason}"
        use = "Measure it with: cifarlab evaluate" if row.status == "finished" else "Go on with: cifarlab resume"
        return {"kind": "a run", "made_by": "cifarlab", "details": details.strip(), "use": use + " {file}"}
    if runs := list_runs(path, nested=True):
        kind = "a study" if is_study(path) else "a tuning" if is_group(path) else "a folder of runs"
        details, use = f"{len(runs)} runs", "Compare them with: cifarlab compare {file}"
        return {"kind": kind, "made_by": "cifarlab", "details": details, "use": use}
    if any(path.glob(f"{CIFAR10.pieces[0].name}*")):
        return {"kind": "CIFAR-10", "use": "Put it into the cache with: cifarlab data get --source {file}"}
    if {*path.rglob("*.parquet"), *path.rglob("*.arrow")}:
        return _data_set(path, "hf")
    if images := sum((mimetypes.guess_type(file)[0] or "").startswith("image/") for file in path.iterdir()):
        use = "Classify them with: cifarlab predict TARGET {file}"
        return {"kind": "a folder of images", "details": f"{images:,} images without classes", "use": use}
    if len(array_files(path)[0]) > 1:
        use = "Train on it with: cifarlab train --data folder:{file}"
        return {"kind": "a data set", "details": "files as of MNIST or SVHN", "use": use}
    return _data_set(path, "folder")


def _data_set(path: Path, kind: str) -> Facts:
    images, classes = list_files(f"{kind}:{path}")
    if kind == "folder" and not any(
        (mimetypes.guess_type(image.name)[0] or "").startswith("image/") for image in images
    ):
        return {}
    details = f"{len(images):,} images of {len(classes)} classes"
    train = f"Train on it with: cifarlab train --data {kind}:{{file}}"
    use = train if len(classes) > 1 else "Training needs at least two classes."
    return {"kind": "a data set", "details": details, "use": use}


_READERS: dict[str, Callable[[Path], Facts]] = {
    "a Keras (HDF5) file": _keras,
    "a .keras archive of Keras": _keras,
    "a PyTorch file": _pytorch,
    "a safetensors file": _safetensors,
    "an ONNX file": _onnx,
    "an image": _image,
    "a NumPy archive": _zip,
    "a zip archive": _zip,
    "an IDX file (as of MNIST)": _idx,
    "an architecture without weights": _json,
}
