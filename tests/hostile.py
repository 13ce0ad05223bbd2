"""Malicious files, one function per kind; each yields names, contents, and the functions that read them."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet
import torch
from PIL import Image

from cifarlab import api, recipes
from cifarlab.data import image_files
from cifarlab.data.catalogue import load_data
from cifarlab.data.published import cache
from cifarlab.data.published.data_sets import CIFAR10
from cifarlab.inference import targets
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.weights_file import load_weights, save_weights
from cifarlab.runs.folder import RunFolder

Reader = Callable[[Path], object]
Case = tuple[str, bytes, Reader]
"""Name and content of a file, and the function that reads it."""
BOMB = 3 * 2**30  # bytes to which one archive pretends to unpack


class Evil:
    """Creates a file when an unpickler runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/cifarlab-was-here",)


def read_image(path: Path) -> object:
    return image_files.read_image(path, 32)


def read_upload(path: Path) -> object:
    return image_files.read_image(path.read_bytes(), 32)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *more: bytes, data: bytes = b"") -> bytes:
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = _png_chunk(b"IDAT", zlib.compress(data or bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body + _png_chunk(b"IEND", b"")


def pictures() -> Iterator[Case]:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        content = file.getvalue()
        for part in (0.02, 0.3, 0.7):
            yield f"cut-{part}.{kind.lower()}", content[: int(len(content) * part)], read_image
        yield f"upload-cut.{kind.lower()}", content[: len(content) // 3], read_upload
        if kind not in ("WEBP", "BMP"):  # where zeros are black pixels
            yield f"zeroed.{kind.lower()}", content[:40] + bytes(len(content) - 40), read_image
    others = {
        "empty.png": b"",
        "text.jpg": b"this is no picture",
        "page.png": b"<html><script>alert(1)</script></html>",
        "archive.png": b"PK\x05\x06" + bytes(18),
        "program.gif": b"\x7fELF" + bytes(1000),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) (r) file\nshowpage\n",
        "vector.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "none.png": _png(0, 0),
        "bomb.png": _png(50_000, 50_000),
        "wide.png": _png(2**31 - 1, 1),
        "bomb.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\x00\x00" + bytes(6) + b"," + bytes(20),
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "bomb.pcx": b"\x0a\x05\x01\x08" + struct.pack("<HHHH", 0, 0, 65_534, 65_534) + bytes(116),
        "bomb.ppm": b"P6 60000 60000 255\n" + bytes(100),
        "bomb.jpg": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xdc\xff\xdc\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01" + bytes(99),
        "comment.png": _png(8, 8, _png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000), 1))),
        "profile.png": _png(8, 8, _png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(20_000_000), 1))),
        "short.png": _png(500, 500, data=bytes(99)),
        "crc.png": _png(8, 8, data=bytes(200))[:-30] + bytes(30),
    }
    others["scans.jpg"] = _repeated_scan(900)
    for name, content in others.items():
        yield name, content, read_image
        yield f"upload-{name}", content, read_upload


def _repeated_scan(times: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000), (120, 3, 77)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    first, second = (match.start() for match in itertools.islice(re.finditer(b"\xff\xda", content), 2, 4))
    return content[:first] + content[first:second] * times + content[second:]


def read_onnx(path: Path) -> object:
    return targets.load(path)


def weights() -> Iterator[Case]:
    file = Path("good.safetensors")
    save_weights(make_classifier("lenet5", {}, tuple("abc"), 32, "unit"), file)
    good = file.read_bytes()
    file.unlink()
    length = struct.unpack("<Q", good[:8])[0]
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]

    def with_header(changed: dict[str, Any]) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + body

    def with_metadata(**changes: str) -> bytes:
        metadata = {key: value for key, value in header["__metadata__"].items() if key != "sha256"}
        return with_header({**header, "__metadata__": {**metadata, **changes}})

    first = next(name for name in header if name != "__metadata__")
    for name, content in {
        "empty": b"",
        "noise": bytes(range(256)) * 50,
        "pickle": pickle.dumps(Evil()),
        "cut": good[:-100],
        "longer": good + b"more",
        "endless header": struct.pack("<Q", 2**63) + good[8:],
        "large header": struct.pack("<Q", 99_000_000) + good[8:],
        "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "type": with_header({**header, first: {**header[first], "dtype": "OBJECT"}}),
        "shape": with_header({**header, first: {**header[first], "shape": [2**40, 2**40]}}),
        "offsets": with_header({**header, first: {**header[first], "data_offsets": [0, 2**40]}}),
        "backwards": with_header({**header, first: {**header[first], "data_offsets": [8, 0]}}),
        "other names": with_header({**header, "network.0.evil": header[first]}),
        "no metadata": with_header({key: value for key, value in header.items() if key != "__metadata__"}),
        "format": with_metadata(format="other"),
        "a file's network": with_metadata(model="net.py:Net"),
        "a module": with_metadata(model="os.py:system"),
        "unknown network": with_metadata(model="../../etc/passwd"),
        "huge images": with_metadata(model="keras4", size="100000"),
        "large images": with_metadata(model="keras4", size="512"),
        "no size": with_metadata(size="-1"),
        "words for a size": with_metadata(size="many"),
        "whitening": with_metadata(normalize="zca", size="256"),
        "unknown normalisation": with_metadata(normalize="none"),
        "many classes": with_metadata(classes=json.dumps([str(number) for number in range(300_000)])),
        "no classes": with_metadata(classes="[]"),
        "classes of another kind": with_metadata(classes="{}"),
        "deep options": with_metadata(model_options="[" * 100_000),
        "unknown options": with_metadata(model_options='{"__class__": 1}'),
        "about": with_metadata(about="nothing"),
        "flipped": good[:-500] + bytes([good[-500] ^ 1]) + good[-499:],
    }.items():
        yield f"{name}.safetensors", content, load_weights
    yield "noise.onnx", bytes(range(256)) * 50, read_onnx
    yield "empty.onnx", b"", read_onnx
    yield "foreign.onnx", _onnx([], {}), read_onnx
    yield "no size.onnx", _onnx([], {"format": "cifarlab-onnx-1", "classes": "[]"}), read_onnx
    outside = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    described = {"format": "cifarlab-onnx-1", "classes": '["a", "b"]', "size": "32", "about": "{}"}
    yield "outside.onnx", _onnx([outside], described), read_onnx
    huge = onnx.TensorProto(name="w", data_type=1, dims=[2**31, 2**31])
    yield "huge.onnx", _onnx([huge], described), read_onnx
    helper: Any = onnx.helper
    shape = onnx.numpy_helper.from_array(np.array([3_000_000_000]), "w")
    constant = helper.make_node("ConstantOfShape", ["w"], ["y"])
    yield "constant.onnx", _onnx([shape], described, constant), read_onnx
    condition = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("on", 9), ("off", 9))]
    body = helper.make_graph([helper.make_node("Identity", ["on"], ["off"])], "b", condition[:2], condition[2:])
    endless = helper.make_node("Loop", ["w", ""], [], body=body)
    yield "loop.onnx", _onnx([onnx.numpy_helper.from_array(np.array(2**62), "w")], described, endless), read_onnx
    yield "size.onnx", _onnx([], {**described, "size": "99999999"}), read_onnx


def _onnx(tensors: list[Any], metadata: dict[str, str], node: Any = None) -> bytes:
    helper: Any = onnx.helper
    images = helper.make_tensor_value_info("images", 2, [None, 32, 32, 3])
    output = helper.make_tensor_value_info("y", 1, [None])
    node = node or helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "g", [images], [output], initializer=tensors)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString()
    return content


def read_checkpoint(path: Path) -> object:
    (path.parent / "run").mkdir()
    path.rename(path.parent / "run" / "checkpoint.pt")
    return RunFolder(path.parent / "run").read_checkpoint()


def checkpoints() -> Iterator[Case]:
    file = io.BytesIO()
    torch.save({"network": {"a": torch.zeros(1_000)}}, file)
    good = file.getvalue()
    circle: list[Any] = []
    circle.append(circle)
    evil = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(evil, "w") as new:
        for part in old.infolist():
            is_code = part.filename.endswith("data.pkl")
            new.writestr(part.filename, pickle.dumps(Evil(), 2) if is_code else old.read(part))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new, new.open("archive/data.pkl", "w") as part_file:
        for _ in range(50):
            part_file.write(bytes(10**6))
    for name, content in {
        "empty.pt": b"",
        "noise.pt": bytes(range(256)) * 50,
        "cut.pt": good[:-300],
        "flipped.pt": good[:3000] + bytes([good[3000] ^ 8]) + good[3001:],
        "code.pt": evil.getvalue(),
        "old.pt": pickle.dumps(Evil(), 2),
        "bomb.pt": bomb.getvalue(),
        "a tar.pt": _tar({"data.pkl": b"x"}),
        "strides.pt": _saved({"confusions": torch.zeros(1).expand(10**9)}),
        "circle.pt": _saved({"list": circle, "strides": {"a": [(torch.zeros(1).expand(2**40),)]}}),
    }.items():
        yield name, content, read_checkpoint


def _saved(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _tar(members: dict[str, bytes], **settings: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in settings.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def read_archive(path: Path) -> object:
    os.environ["CIFARLAB_HOME"] = str(path.parent / "home")
    return cache.get(CIFAR10, [str(path)], quiet=True)


BATCHES = tuple(piece.name for piece in CIFAR10.pieces)


def tars() -> Iterator[Case]:
    names = [f"{name}.bin" for name in BATCHES]
    inside = dict.fromkeys(names, b"x")
    python = {name: pickle.dumps(Evil(), 2) for name in BATCHES}
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as packed:
        member = tarfile.TarInfo("large")
        member.size = BOMB
        packed.write(member.tobuf())
        for _ in range(100):
            packed.write(bytes(10**6))
    for name, content in {
        "empty.tar": b"",
        "noise.tar": bytes(range(256)) * 50,
        "upwards.tar": _tar({f"../../{name}": b"x" for name in names}),
        "absolute.tar": _tar({f"/etc/{name}": b"x" for name in names}),
        "links.tar": _tar(inside, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "hard links.tar": _tar(inside, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        "devices.tar": _tar(inside, type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        "pipes.tar": _tar(inside, type=tarfile.FIFOTYPE),
        "short.tar": _tar(inside)[:-2_000],
        "code.tar": _tar(python),
        "code.tar.gz": gzip.compress(_tar(python)),
        "bomb.tar.gz": bomb.getvalue(),
        "cut.tar.gz": gzip.compress(_tar(inside))[:-20],
        "pictures.tar": _tar(
            {f"{name}.png": _png(60_000, 60_000) for name in BATCHES}
            | {"train_lables.json": b"[" * 10_000, "test_lables.json": b"[]"}
        ),
    }.items():
        yield name, content, read_archive


def read_folder(path: Path) -> object:
    return load_data(f"npz:{path}", quiet=True)


def read_table(path: Path) -> object:
    return load_data(f"csv:{path}", quiet=True)


def read_parquet(path: Path) -> object:
    (path.parent / "set").mkdir()
    path.rename(path.parent / "set" / path.name)
    return load_data(f"hf:{path.parent / 'set'}", quiet=True)


def arrays() -> Iterator[Case]:
    def packed(**members: Any) -> bytes:
        file = io.BytesIO()
        np.savez_compressed(file, **members)
        return file.getvalue()

    good = packed(x_train=np.zeros((20, 8, 8, 3), np.uint8), y_train=np.arange(20) % 2)
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
        new.open("x_train.npy", "w", force_zip64=True) as part,
    ):
        np.lib.format.write_array_header_1_0(
            part, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 32, 32, 3)}
        )
        for _ in range(600):
            part.write(bytes(10**6))
    promised = io.BytesIO()
    with zipfile.ZipFile(promised, "w") as new, new.open("x_train.npy", "w") as part:
        np.lib.format.write_array_header_1_0(part, {"descr": "|u1", "fortran_order": False, "shape": (2**50,)})
    forged = packed(x_train=np.zeros(9), y_train=np.zeros(9))
    header = forged.index(b"PK\x01\x02")  # of the central directory: flags at 8, compression at 10
    for name, content in {
        "compression.npz": forged[: header + 10] + b"\x60\x00" + forged[header + 12 :],
        "password.npz": forged[: header + 8] + b"\x01\x00" + forged[header + 10 :],
        "lzma.npz": forged[: header + 10] + b"\x0e\x00" + forged[header + 12 :],
        "empty.npz": b"",
        "noise.npz": bytes(range(256)) * 50,
        "cut.npz": good[:-200],
        "code.npz": packed(x_train=np.array([Evil()], dtype=object), y_train=np.zeros(1, int)),
        "bomb.npz": bomb.getvalue(),
        "promised.npz": promised.getvalue(),
        "upwards.npz": packed(**{"../x_train": np.zeros(3)}),
        "wrong shapes.npz": packed(x_train=np.zeros((2, 3, 5, 7, 9), np.uint8), y_train=np.zeros(2, int)),
        "negative.npz": packed(x_train=np.zeros((2, 8, 8), np.uint8), y_train=np.array([-1, 0])),
        "huge label.npz": packed(x_train=np.zeros((2, 8, 8), np.uint8), y_train=np.array([0, 2**40])),
    }.items():
        yield name, content, read_folder
    matrices = np.zeros((3_000, 300, 300), np.uint8)
    yield "confusion.npz", packed(confusion=matrices, predicted=matrices), read_matrices
    yield "predictions.npz", packed(logits=matrices, labels=matrices[0]), read_matrices


def read_matrices(path: Path) -> object:
    recipe, environment = {"model": "lenet5", "dataset": "digits"}, {"device": "cpu", "deterministic": False}
    record = {
        "schema": 1,
        "recipe": recipe,
        "data": {"name": "digits", "sha256": "", "classes": ["a", "b"], "train": 1, "validation": 1, "test": 1},
        "seed": 0,
        "protocol": "",
        "environment": environment,
    }
    (path.parent / "run.json").write_text(json.dumps(record))
    run = RunFolder(path.parent)
    return run.confusion if path.name == "confusion.npz" else run.predictions


def tables() -> Iterator[Case]:
    for name, text in {
        "empty.csv": b"",
        "binary.csv": bytes(range(256)) * 50,
        "wide.csv": b"path,label," + b"x," * 100_000 + b"\n",
        "long.csv": b"path,label\n" + b"a" * 300_000 + b",b\n",
        "open.csv": b'path,label\n"' + b"a\n" * 100_000,
        "nul.csv": b"path,label\na\0b,c\nd,e\n",
        "devices.csv": b"path,label\n/dev/zero,a\n/dev/urandom,b\n",
        "upwards.csv": b"path,label\n../../../../etc/passwd,a\n../../../../etc/hosts,b\n",
        "letters.csv": b"path,label\n1.png," + b"x" * 10_000 + b"\n2.png,\x1b[31m<script>\n",
    }.items():
        yield name, text, read_table
    images = pyarrow.DictionaryArray.from_arrays(np.zeros(2_000_000, np.int32), [bytes(4_400)])
    rows = io.BytesIO()
    table = pyarrow.table({"image": images, "label": np.zeros(2_000_000, np.int8)})
    pyarrow.parquet.write_table(table, rows, store_schema=False)
    for name, text in {
        "rows.parquet": rows.getvalue(),
        "noise.parquet": bytes(99),
        "cut.parquet": b"PAR1" + bytes(50) + b"PAR1",
        "a.arrow": b"ARROW1",
    }.items():
        yield name, text, read_parquet


def read_recipe(path: Path) -> object:
    return api.plan(recipes.load(str(path)).changed({"dataset": "digits"}), runs=path.parent)


def texts() -> Iterator[Case]:
    for name, text in {
        "noise": "\0\1\2",
        "unknown key": "epochz = 3",
        "nested": "a = " + "[" * 50_000,
        "tables": ".".join(["[a"] + ["a"] * 20_000) + "]",
        "absurd": "epochs = 1e400",
        "negative": "epochs = -1",
        "endless": "epochs = 1" + "0" * 5_000,
        "no number": "learning_rate = nan",
        "infinite": "learning_rate = inf",
        "word": 'batch_size = "lots"',
        "size": "size = 100000000",
        "model": 'model = "../../etc/passwd"',
        "options": 'model = "lenet5"\n[model_options]\n__init__ = 1',
        "merge": '[merge]\n"' + "x" * 10_000 + '" = "\\u001b[31m"',
        "date": "epochs = 1979-05-27",
        "twice": "epochs = 1\nepochs = 2",
        "large": "# " + "x" * 2_000_000,
    }.items():
        yield f"{name}.toml", text.encode(), read_recipe
    yield "latin.toml", b"description = '\xe9'", read_recipe
    for name, text in {
        "no json": "{",
        "deep": "[" * 100_000,
        "list": "[]",
        "schema": '{"schema": 99}',
        "number": "1e999",
        "recipe": json.dumps({"schema": 1, "recipe": {"model": 3}}),
        "empty": json.dumps({"schema": 1}),
    }.items():
        yield f"{name}.json", text.encode(), read_run


def read_run(path: Path) -> object:
    (path.parent / "a").mkdir()
    path.rename(path.parent / "a" / "run.json")
    return RunFolder(path.parent / "a").recipe


def cases() -> list[Case]:
    """Return all cases."""
    kinds = (pictures, weights, checkpoints, tars, arrays, tables, texts)
    return [case for kind in kinds for case in kind()]
