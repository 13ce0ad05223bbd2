"""`identify`: every kind of file and folder is named, with what made it and the command that takes it."""

from __future__ import annotations

import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow
import pytest
import scipy.io
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import save_file
from torch import nn

from cifarlab import Run, UsageError, export, identify, load
from cifarlab.data.image_files import FORMATS
from cifarlab.inference import weights
from cifarlab.recipes.loading import find
from conftest import answer, make_images, run_cifarlab
from test_files import write_onnx, write_pytorch, write_zip

KERAS = Path(__file__).parent / "keras" / "files"
LOADING = "Load its weights into a network with: cifarlab import"
PREDICT = "Use it with: cifarlab predict FILE YOUR_PICTURE.jpg"


class Net(torch.nn.Linear):
    """A network that is pickled whole."""


def write_keras(version: str, member: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(KERAS / f"{version}.zip") as archive:
            path.write_bytes(archive.read(member))

    return write


def write_idx(path: Path) -> None:
    path.write_bytes(struct.pack(">4I", 0x803, 2, 28, 28) + bytes(2 * 28 * 28))


def write_svhn(path: Path) -> None:
    path.mkdir()
    for part in ("train", "test"):
        (path / f"{part}_32x32.mat").touch()


def write_archive(path: Path) -> None:
    write_idx(path.with_name("labels"))
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        archive.add(path.with_name("labels"))


def write_sparse(batches: int) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.touch()
        os.truncate(path, batches * 30_730_000)

    return write


def write_run(path: Path) -> None:
    (path / "a" / "run.json").parent.mkdir(parents=True)
    (path / "a" / "run.json").write_text("{}")


def write_damaged_run(path: Path) -> None:
    write_run(path.with_name("x"))
    (path.with_name("x") / "a").rename(path)


def write_study(path: Path) -> None:
    write_run(path)
    (path / "study.toml").touch()


KINDS: dict[str, tuple[Callable[[Path], object], str, str, str, str]] = {  # kind, maker, details, use
    "1.h5": (write_keras("keras-1.2.2-theano", "flat.h5"), "a Keras (HDF5) file", "Keras 1.2.2", "", "cifarlab import"),
    "2.h5": (write_keras("keras-2.3.1-theano", "flat.h5"), "a Keras (HDF5) file", "Keras 2.3.1", "", "cifarlab import"),
    "3.h5": (write_keras("keras-3.15.1-tensorflow", "graph.h5"), "a Keras (HDF5)", "Keras 3.15.1", "", "import FILE"),
    "a.keras": (
        write_keras("keras-3.15.1-tensorflow", "flat.keras"),
        "a .keras archive of Keras",
        "Keras 3.15.1",
        "",
        "Convert it with: cifarlab import FILE",
    ),
    "w.h5": (
        write_keras("keras-3.15.1-tensorflow", "graph.weights.h5"),
        "weights of Keras",
        "Keras 3",
        "",
        "cifarlab import FILE --architecture MODEL.json",
    ),
    "a.json": (
        write_keras("keras-2.3.1-theano", "graph.json"),
        "an architecture without weights",
        "Keras 2.3.1",
        "",
        "--architecture FILE",
    ),
    "b.json": (lambda path: path.write_text('{"a": 1}'), "a JSON file", "", "", ""),
    "a.pth": (write_pytorch, "a PyTorch file", "PyTorch 1.6 or later", "1 tensors", LOADING),
    "whole.pt": (
        lambda path: torch.save(Net(2, 2), path),
        "a PyTorch file",
        "PyTorch 1.6 or later",
        "a network of the class test_formats Net",
        "torch.save(model.state_dict(), 'weights.pth')",
    ),
    "old.pt": (
        lambda path: torch.save({}, path, _use_new_zipfile_serialization=False),
        "a PyTorch file",
        "PyTorch before 1.6",
        "",
        LOADING,
    ),
    "script.pt": (
        lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
        "a PyTorch file",
        "PyTorch 1.6 or later",
        "TorchScript",
        "torch.save(model.state_dict(), 'weights.pth')",
    ),
    "a.onnx": (
        lambda path: write_onnx(path, producer_name="pytorch", producer_version="2.4"),
        "an ONNX file",
        "pytorch 2.4",
        f"ONNX IR version {onnx.IR_VERSION}",
        "Import the Keras file that it was made from",
    ),
    "a.tflite": (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3"), "a TensorFlow Lite file", "", "", "cifarlab import"),
    "a.st": (lambda path: save_file({"x": np.zeros(3)}, path), "a safetensors file", "", "1 tensors without", ""),
    "a.npz": (lambda path: np.savez(path, x=[1], y=[2]), "a NumPy archive", "", "x.npy, y.npy", "--data npz:FILE"),
    "a.npy": (lambda path: np.save(path, [1]), "a NumPy array", "", "", "--data npz:FILE.npz"),
    "a.mat": (lambda path: scipy.io.savemat(path, {"X": [1]}), "a MATLAB file", "", "", "numpy.savez"),
    "a.pkl": (lambda path: path.write_bytes(pickle.dumps(1)), "a Python pickle", "", "", "It is not opened"),
    "idx3-ubyte": (write_idx, "an IDX file (as of MNIST)", "", "2 x 28 x 28", "--data folder:FOLDER"),
    "a.parquet": (
        lambda path: parquet.write_table(pyarrow.table({"label": [1]}), path),
        "a Parquet or Arrow file",
        "",
        "",
        "--data hf:FOLDER",
    ),
    "a.zip": (lambda path: write_zip(path, "pets/1.png"), "a zip archive", "", "pets/1.png", "Unpack it"),
    "a.tar": (write_archive, "an archive", "", "", "Unpack it"),
    "a.tar.gz": (write_archive, "an archive", "", "", "Unpack it"),
    "lfs.h5": (lambda path: path.write_text("version https://git-lfs"), "a reference to a file in", "", "", "lfs pull"),
    "lfs.csv": (
        lambda path: path.write_text("version https://git-lfs"),
        "a reference to a file in",
        "",
        "",
        "lfs pull",
    ),
    "a.heic": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic"), "an HEIC image", "", "", "Save it as JPEG or PNG"),
    "cache.bin": (write_sparse(6), "binary CIFAR-10", "", "", "cifarlab data get cifar10 --source FILE"),
    "test_batch.bin": (write_sparse(1), "binary CIFAR-10", "", "", "cifarlab data get --source FOLDER"),
    "cifar/data_batch_1.bin": (write_sparse(1), "binary CIFAR-10", "", "", "cifarlab data get --source FOLDER"),
    "a.csv": (
        lambda path: path.write_text('"path","label"\na.png,cat\nb.png,dog\n'),
        "a data set",
        "",
        "2 images of 2 classes",
        "cifarlab train --data csv:FILE",
    ),
    "b.csv": (lambda path: path.write_text("id\n1\n"), "a table", "", "should have the columns", ""),
    "r.toml": (
        lambda path: path.write_text(find("lenet5").read_text()),
        "a recipe",
        "",
        "lenet5 on cifar10, 20 epochs",
        "Train it with: cifarlab train FILE",
    ),
    "s.toml": (
        lambda path: path.write_text('recipe = "lenet5"\n[vary]\nseed = "0:3"\n'),
        "a study",
        "",
        "3 runs, which vary seed",
        "cifarlab study FILE",
    ),
    "x.toml": (lambda path: path.write_text("a = 1"), "a TOML file", "", "the key 'model' is missing", ""),
    "net.py": (
        lambda path: path.write_text('"""Doc."""\nraise SystemExit\ndef net(): ...\n'),
        "a Python file",
        "",
        "net",
        "cifarlab train --model FILE:NAME",
    ),
    "a.txt": (lambda path: path.write_text("cats"), "an unknown format", "", "", ""),
    "pipe": (lambda path: os.mkfifo(path), "a pipe or a device", "", "", ""),
    "damaged.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "a Keras (HDF5) file", "", "damaged", ""),
    "damaged.safetensors": (lambda path: path.write_bytes(b"\x09" + bytes(7) + b"{x"), "a safetensors", "", "x", ""),
    "run": (write_damaged_run, "a damaged run", "", "the key 'recipe' is missing", ""),
    "runs": (write_run, "a folder of runs", "cifarlab", "1 runs", "cifarlab compare FILE"),
    "study": (write_study, "a study", "cifarlab", "1 runs", "cifarlab compare FILE"),
    "pets": (
        lambda path: make_images(path, {"cat": 2, "dog": 1}),
        "a data set",
        "",
        "3 images of 2 classes",
        "cifarlab train --data folder:FILE",
    ),
    "one": (
        lambda path: make_images(path, {"cat": 2}),
        "a data set",
        "",
        "2 images of 1 classes",
        "needs at least two",
    ),
    "svhn": (
        write_svhn,
        "a data set",
        "",
        "files as of MNIST or SVHN",
        "cifarlab train --data folder:FILE",
    ),
    "photos": (
        lambda path: make_images(path.parent, {path.name: 2}),
        "a folder of images",
        "",
        "2 images without classes",
        "cifarlab predict TARGET FILE",
    ),
    "empty": (lambda path: path.mkdir(), "a folder", "", "", ""),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_identified(name: str, tmp_path: Path) -> None:
    write, *expected = KINDS[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    found = identify(path)
    use = found.use.replace(str(path), "FILE").replace(str(path.parent), "FOLDER")
    for value, text in zip((found.kind, found.made_by, found.details, use), expected, strict=True):
        assert text in value and (text or not value or name in ("empty", "damaged.safetensors")), found


def test_images_of_every_format_are_identified(tmp_path: Path) -> None:
    for format in FORMATS:
        path = tmp_path / f"picture.{format}"
        Image.new("RGB", (9, 7)).save(path, format)
        assert identify(path).kind == "an image" and identify(path).details.startswith(f"{format}, 9 x 7 pixels, ")


def test_what_cifarlab_wrote_is_identified(trained_run: Run, tmp_path: Path) -> None:
    found = identify(trained_run.path)
    assert (found.kind, found.details) == ("a run", "finished, lenet5 on digits, 2 of 2 epochs")
    assert found.use == f"Measure it with: cifarlab evaluate {trained_run.path}"
    for path in (weights.path_of("keras4"), export(trained_run, tmp_path / "a b.onnx").path):
        found = identify(path)
        assert found.made_by == "cifarlab" and found.use.startswith("Use it with: cifarlab predict ")
    assert f"'{path}'" in found.use
    for ending in ("onnx", "bin", "ONNX"):
        renamed = path.rename(path.with_suffix(f".{ending}"))
        assert ("Rename it, so that its name ends in .onnx" in identify(renamed).use) == (ending == "bin")
        path = renamed
    assert load(path).model == "onnx"  # also `.ONNX`
    assert identify(trained_run.path / "checkpoint.pt").use == f"Go on with: cifarlab resume {trained_run.path}"


def test_networks_that_torch_saved_whole_are_named(tmp_path: Path) -> None:
    for network, name in ((nn.Linear(3, 2), "linear Linear"), (nn.Sequential(nn.ReLU()), "container Sequential")):
        torch.save(network, tmp_path / "network.pth")
        assert identify(tmp_path / "network.pth").details.endswith(f"of the class torch.nn.modules.{name}")


def test_a_file_is_not_what_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "junk.toml").write_bytes(bytes(range(256)))
    found = identify(tmp_path / "junk.toml")
    assert found.kind == "an unknown format" and found.details.startswith("not a TOML file")
    (tmp_path / "predicted.csv").write_text("image,label,probability,cat,dog\na.png,cat,0.9,0.9,0.1\n")
    found = identify(tmp_path / "predicted.csv")
    assert (found.kind, found.made_by, found.use) == ("a table of predictions", "cifarlab", "")


def test_the_command_prints_a_line_and_a_command_for_each(tmp_path: Path) -> None:
    write_idx(tmp_path / "a")
    (tmp_path / "r.toml").write_text(find("lenet5").read_text())
    printed = run_cifarlab(tmp_path, "identify", "a", "r.toml").stdout.splitlines()
    assert printed[0] == "a: an IDX file (as of MNIST), 2 x 28 x 28"
    assert printed[3] == "    Train it with: cifarlab train r.toml"
    assert [set(row) for row in answer(run_cifarlab(tmp_path, "identify", "a", "--json"))] == [
        {"path", "kind", "made_by", "details", "use"}
    ]
    both = run_cifarlab(tmp_path, "identify", "none", "a", status=2)
    assert "there is no file 'none'" in both.stderr and "a: an IDX file" in both.stdout
    with pytest.raises(UsageError, match="there is no file"):
        identify("none")
