"""Files: formats are identified by their first bytes, errors say how to go on, and writing keeps what is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import cifarlab
from cifarlab import Run, UsageError, files, import_keras
from cifarlab.data.catalogue import absolute
from cifarlab.data.image_files import read_image
from cifarlab.files import other_format, with_home
from cifarlab.runs.listing import runs_folder
from conftest import Cli, make_images


def write_pytorch(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def write_onnx(path: Path, **producer: str) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["x"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [value]), **producer), path)


def write_zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "{}")


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a.pth": (write_pytorch, "a PyTorch file. Load its weights into a network"),
    "script.pt": (lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path), "a PyTorch file"),
    "a.bin": (write_onnx, "an ONNX file"),
    "b.bin": (lambda path: write_onnx(path, producer_name="other"), "an ONNX file"),
    "a.tflite": (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3\0"), "a TensorFlow Lite file. Import the Keras file"),
    "a.pb": (lambda path: path.write_bytes(b"\x08\x01\x12\x05"), "a SavedModel. In TensorFlow, save it with"),
    "a.st": (lambda path: save_file({"x": np.zeros(3)}, path), "a safetensors file"),
    "a.json": (lambda path: path.write_text(json.dumps({"class_name": "Model"})), "an architecture without weights"),
    "a.jpg": (lambda path: Image.new("RGB", (9, 9)).save(path), "an image"),
    "lfs.h5": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_files_of_other_programs_are_named_wherever_a_network_is_expected(name: str, tmp_path: Path) -> None:
    write, text = WRITERS[name]
    write(tmp_path / name)
    path = next(tmp_path.iterdir())
    with pytest.raises(UsageError) as imported:
        import_keras(path)
    with pytest.raises(UsageError) as loaded:
        cifarlab.load(path)
    with pytest.raises(UsageError) as started:
        cifarlab.train(cifarlab.recipe("lenet5", start_from=str(path)), runs=tmp_path, quiet=True)
    assert all(text in str(each.value) for each in (imported, loaded, started)), (imported, loaded, started)
    assert list(tmp_path.iterdir()) == [path]


def test_references_of_git_lfs_and_archives_are_named_as_data_and_pictures(tmp_path: Path) -> None:
    names = ("a.npz", "a.csv", "hf/train.parquet", "idx/train-images-idx3-ubyte", "pets/cat/a.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    for name in (f"npz:{tmp_path}/a.npz", f"csv:{tmp_path}/a.csv", f"hf:{tmp_path}/hf", f"folder:{tmp_path}/idx"):
        with pytest.raises(
            UsageError, match=r"a reference to a file in Git LFS. Get the file itself with: git lfs pull"
        ):
            cifarlab.load_data(name, quiet=True)
    with pytest.raises(UsageError, match=r"a.png: a reference to a file in Git LFS. .*git lfs pull"):
        read_image(tmp_path / "pets" / "cat" / "a.png", 32)
    write_zip(tmp_path / "a.zip", "pets/1.png")
    for name in (f"folder:{tmp_path}/a.zip", f"{tmp_path}/a.zip"):
        with pytest.raises(UsageError, match=r"a zip archive. Unpack it"):
            cifarlab.load_data(name)


def test_files_with_the_ending_of_another_format_are_named(tmp_path: Path) -> None:
    for ending in ("safetensors", "onnx"):
        path = tmp_path / f"w.{ending}"
        write_pytorch(path)
        with pytest.raises(UsageError, match=r"is not an? (safetensors|ONNX) file: a PyTorch file"):
            cifarlab.load(path)


def test_keras_files_are_to_be_imported_first(tmp_path: Path) -> None:
    h5py.File(tmp_path / "m.h5", "w").close()
    write_zip(tmp_path / "m.keras", "metadata.json")
    for name, kind in (("m.h5", r"Keras \(HDF5\) file"), ("m.keras", r"\.keras archive of Keras")):
        with pytest.raises(UsageError, match=rf"is a {kind}\. Convert it with: cifarlab import {tmp_path}/{name}"):
            cifarlab.load(tmp_path / name)


def test_folders_texts_and_missing_files_have_no_format_but_a_saved_model_has(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cats and dogs")
    write_zip(tmp_path / "a.zip", "pets/data.txt")
    assert other_format(tmp_path / "a.zip").startswith("a zip archive. Unpack it")
    assert [other_format(path) for path in (tmp_path, tmp_path / "a.txt", tmp_path / "none")] == ["", "", ""]
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\x05")
    assert other_format(tmp_path).startswith("a SavedModel")


def test_permissions_of_a_replaced_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    files.write_text(path, "new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o600


def test_a_temporary_file_of_a_killed_process_goes_with_the_next_write(tmp_path: Path) -> None:
    for name in (".123-456.a.txt", ".124-456.a.txt", ".123-456.b.txt"):
        (tmp_path / name).write_text("half")
    for name in (".123-456.a.txt", ".123-456.b.txt"):
        os.utime(tmp_path / name, (0, 0))
    files.write_text(tmp_path / "a.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".123-456.b.txt", ".124-456.a.txt", "a.txt"]


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(UsageError, match="is a device or a pipe, not a file"):
        files.check_new(tmp_path / "a.toml", force=True)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied_run: Run, cli: Cli) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for word in ("~", "~/a", "folder:~/a", "--out=~/a", "--data=folder:~", "dataset=npz:~/a", "model=~/net.py:net"):
        assert with_home(word) == word.replace("~", str(tmp_path))
    for word in ("a~", "a/~/b", "~user/a", "http://a/~b", "-~", ""):
        assert with_home(word) == word
    make_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    shutil.copytree(copied_run.path, tmp_path / "runs" / "a")
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    assert cifarlab.load_data("folder:~/pets", quiet=True).classes == ("cat", "dog")
    assert absolute("folder:~/pets") == f"folder:{tmp_path}/pets"
    monkeypatch.setenv("CIFARLAB_RUNS", "~/runs")
    assert runs_folder() == runs_folder("~/runs") == tmp_path / "runs"
    accuracy = copied_run.results["test_accuracy"]
    for target in ("a", "~/runs/a", Path("~/runs/a/best.safetensors")):
        assert cifarlab.load(target).about["test_accuracy"] == accuracy
    (tmp_path / "mine.toml").write_text('model = "lenet5"\n')
    assert cifarlab.recipe("~/mine.toml").model == "lenet5"
    assert cifarlab.predict("a", "~/pets/cat/0.png")[0].image == str(tmp_path / "pets" / "cat" / "0.png")
    cifarlab.export("a", "~/a.safetensors", format="safetensors")
    cli("export", "~/runs/a", "--format", "safetensors", "--out=~/b.safetensors")
    assert (tmp_path / "a.safetensors").exists() and (tmp_path / "b.safetensors").exists()
    assert not list((tmp_path / "current").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["random", "types", "torch"])
def test_modules_in_the_current_folder_are_not_imported(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise SystemExit('imported')")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "board.py").write_text(
        "import sys\nfrom cifarlab.board.predictor import _new_executor\nfrom cifarlab.cli import main\n"
        "if __name__ == '__main__':\n"
        "    sys.argv = ['cifarlab', 'recipes', '--json']\n"
        "    try:\n        main()\n"
        "    except SystemExit as ended:\n"
        "        with _new_executor() as executor: sys.exit(ended.code + executor.submit(int).result())\n"
    )
    for words in (["-m", "cifarlab", "models", "--json"], [str(tmp_path / "scripts" / "board.py")]):
        if module != "types" or words[0] != "-m":  # which Python imports before the package
            ended = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
            assert (ended.returncode, ended.stderr) == (0, "")
