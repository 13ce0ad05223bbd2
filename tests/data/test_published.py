"""Published data sets in their published formats, written here byte for byte, and what is known of them."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cifarlab import Data, UsageError, evaluate, load_data, recipe, train
from cifarlab.data.catalogue import DESCRIPTIONS
from cifarlab.data.digits import DIGITS
from cifarlab.data.published import data_sets
from cifarlab.data.published.cache import find_cached, get, load
from cifarlab.data.published.data_sets import PUBLISHED
from cifarlab.data.published.decoding import superclass_labels
from cifarlab.data.published.description import PublishedData, digest_of
from cifarlab.errors import CifarlabError
from conftest import Cli, answer
from local_host import Answer, LocalHost

Parts = dict[str, tuple[np.ndarray, np.ndarray]]  # images [n, c, h, w] and labels by part
Files = dict[str, bytes]
NO_PYARROW = importlib.util.find_spec("pyarrow") is None


def random_parts(data: PublishedData, train: int = 7, test: int = 5) -> Parts:
    """Return random images and labels for a data set; labels are those of its classes in turn."""
    generator = np.random.default_rng(len(data.name))
    counts = {"train": train, "test": test} if data.train else {"test": test}
    return {
        part: (
            generator.integers(0, 256, (count, *data.shape), dtype=np.uint8),
            (np.arange(count) * 37 + 3) % len(data.classes),
        )
        for part, count in counts.items()
    }


def idx_files(data: PublishedData, parts: Parts) -> Files:
    files = {}
    for part, (images, labels) in parts.items():
        name = "t10k" if part == "test" else "train"
        header = struct.pack(">IIII", 0x803, *images.shape[:1], *images.shape[2:])
        files[f"{name}-images-idx3-ubyte"] = header + images.tobytes()
        files[f"{name}-labels-idx1-ubyte"] = struct.pack(">II", 0x801, len(labels)) + bytes(labels.tolist())
    return files


def gz_files(data: PublishedData, parts: Parts) -> Files:
    return {f"{name}.gz": gzip.compress(content) for name, content in idx_files(data, parts).items()}


def cifar_binary(data: PublishedData, parts: Parts) -> Files:
    coarse = superclass_labels(data)
    return {
        f"{part}.bin": b"".join(
            bytes([coarse[label], label]) + image.tobytes() for image, label in zip(images, labels, strict=True)
        )
        for part, (images, labels) in parts.items()
    }


def cifar_python(data: PublishedData, parts: Parts) -> Files:
    coarse = superclass_labels(data)
    return {
        part: pickle.dumps(
            {
                b"data": images.reshape(len(images), -1),
                b"fine_labels": labels.tolist(),
                b"coarse_labels": [coarse[label] for label in labels],
            },
            protocol=2,
        )
        for part, (images, labels) in parts.items()
    }


def parquet(data: PublishedData, parts: Parts) -> Files:
    import pyarrow
    from pyarrow.parquet import write_table

    files = {}
    for part, (images, labels) in parts.items():
        pictures = []
        for image in images:
            Image.fromarray(image.transpose(1, 2, 0)).save(png := io.BytesIO(), "PNG")
            pictures.append({"bytes": png.getvalue(), "path": None})
        columns = {"img": pictures, "fine_label": labels, "coarse_label": np.array(superclass_labels(data))[labels]}
        write_table(pyarrow.table(columns), file := io.BytesIO())
        files[f"{part}-00000-of-00001.parquet"] = file.getvalue()
    return files


def mat(data: PublishedData, parts: Parts) -> Files:
    files = {}
    for part, (images, labels) in parts.items():
        matlab_labels = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        file: Any = io.BytesIO()  # scipy's types know only paths
        savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": matlab_labels}, do_compression=True)
        files[f"{part}_32x32.mat"] = file.getvalue()
    return files


def stl_binary(data: PublishedData, parts: Parts) -> Files:
    files = {"unlabeled_X.bin": bytes(1000), "class_names.txt": b"airplane\n", "fold_indices.txt": b"0 1\n"}
    for part, (images, labels) in parts.items():
        columns = [image[channel, :, x].tobytes() for image in images for channel in range(3) for x in range(96)]
        files[f"{part}_X.bin"] = b"".join(columns)
        files[f"{part}_y.bin"] = bytes((labels + 1).tolist())
    return files


def npy(data: PublishedData, parts: Parts) -> Files:
    images, labels = parts["test"]
    np.save(pixels := io.BytesIO(), images.transpose(0, 2, 3, 1))
    np.save(numbers := io.BytesIO(), labels.astype(np.int32))
    return {"cifar10.1_v6_data.npy": pixels.getvalue(), "cifar10.1_v6_labels.npy": numbers.getvalue()}


WRITERS: dict[str, tuple[Callable[[PublishedData, Parts], Files], ...]] = {
    "cifar100": (cifar_binary, cifar_python, parquet),
    "cifar10.1": (npy,),
    "mnist": (gz_files, idx_files),
    "fashion-mnist": (gz_files, idx_files),
    "kmnist": (gz_files,),
    "svhn": (mat,),
    "stl10": (stl_binary,),
}
VERSIONS = [(name, number) for name, writers in WRITERS.items() for number in range(len(writers))]


def publish(name: str, parts: Parts | None = None, version: int = 0) -> tuple[PublishedData, Parts, Files]:
    """Return a small data set that is published in one of its formats, with its checksums, images and files."""
    data = PUBLISHED[name]
    parts = parts or random_parts(data)
    files = WRITERS[name][version](data, parts)
    digests = {file: digest_of(files[file], digest) for file, digest in data.digests.items()}
    pieces = tuple(replace(piece, images=len(parts[piece.name][0])) for piece in data.pieces)
    if data.label_bytes == 2:
        records = cifar_binary(data, parts)
    else:
        records = {
            f"{part}.bin": np.column_stack([labels.astype(np.uint8), images.reshape(len(images), -1)]).tobytes()
            for part, (images, labels) in parts.items()
        }
    pieces = tuple(
        replace(piece, digest=piece.digest and digest_of(records[f"{piece.name}.bin"], piece.digest))
        for piece in pieces
    )
    return replace(data, pieces=pieces, digests=digests), parts, files


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, files: Mapping[str, bytes], folder: str) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def assert_loads(data: PublishedData, parts: Parts) -> Data:
    """Check that the cache has these images and labels."""
    loaded = load(data, quiet=True)
    for part, dataset in (("train", loaded.train), ("test", loaded.test)):
        images, labels = parts.get(part, (np.zeros((0, *data.shape), np.uint8), np.zeros(0, np.int64)))
        assert np.array_equal(dataset.images, images) and np.array_equal(dataset.labels, labels)
        assert dataset.classes == data.classes
    return loaded


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache."""
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    yield tmp_path / "home"


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_every_data_set_is_read_in_its_published_formats(name: str, version: int, tmp_path: Path, home: Path) -> None:
    if WRITERS[name][version] is parquet and NO_PYARROW:
        pytest.skip("pyarrow is not installed")
    data, parts, files = publish(name, version=version)
    folder = write(tmp_path / "published", files)
    assert get(data, [str(folder)], quiet=True).path == home / f"{name}.bin"
    first = assert_loads(data, parts)
    archive = write_tar(tmp_path / "published.tar.gz", files, "folder")
    assert get(data, [str(archive)], force=True, quiet=True).source == str(archive)
    assert assert_loads(data, parts).sha256 == first.sha256
    resized = load(data, 16, quiet=True)
    assert resized.test.images.shape == (len(parts["test"][1]), data.shape[0], 16, 16)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_not_the_published_one_is_refused(name: str, tmp_path: Path, home: Path) -> None:
    data, _, files = publish(name)
    for file in {file for names in data.formats[0].files.values() for file in names}:
        for changed in (files[file][:-1] + bytes([files[file][-1] ^ 1]), files[file][: len(files[file]) // 2], b""):
            write(folder := tmp_path / str(len(list(tmp_path.iterdir()))), files | {file: changed})
            with pytest.raises(CifarlabError) as raised:
                get(data, [str(folder)], quiet=True)
            assert f"cannot get {data.title} ({folder}: " in str(raised.value) and "\n" not in str(raised.value)
        files_but_one = {other: content for other, content in files.items() if other != file}
        with pytest.raises(CifarlabError, match=f"does not contain {data.title}, such as the files"):
            get(data, [str(write(tmp_path / f"without {file}", files_but_one))], quiet=True)
    assert not find_cached(data)


@pytest.mark.parametrize("name", WRITERS)
def test_damage_in_the_cache_is_noticed_by_the_next_load(name: str, tmp_path: Path, home: Path) -> None:
    data, _, files = publish(name)
    cached = get(data, [str(write(tmp_path / "published", files))], quiet=True)
    content = bytearray(cached.path.read_bytes())
    content[-1] ^= 1
    cached.path.write_bytes(content)
    with pytest.raises(CifarlabError, match=rf"is damaged \(test\): get it again with cifarlab data get {name} "):
        load(data, quiet=True)


def test_files_are_fetched_one_by_one_and_not_again(home: Path) -> None:
    data, parts, files = publish("kmnist")
    with LocalHost(files, Answer(), Answer(), Answer(status=503), Answer()) as host:
        official = replace(data.sources[0], urls=tuple(host.url + name for name in files))
        data = replace(data, sources=(official,))
        with pytest.raises(CifarlabError, match="the host answers 503"):
            get(data, quiet=True)
        assert get(data, quiet=True).source == "official" and len(host.ranges) == 5  # two, the failure, the other two
        assert_loads(data, parts)
        assert get(data, [host.url], force=True, quiet=True).source == host.url  # a folder with the official names
    assert sorted(path.name for path in home.iterdir()) == [".kmnist.lock", "kmnist.bin", "kmnist.json"]


def test_an_archive_of_debian_is_a_source(tmp_path: Path, home: Path) -> None:
    data, parts, files = publish("fashion-mnist")
    inner = write_tar(tmp_path / "data.tar.gz", files, "./usr/share/datasets/fashion-mnist").read_bytes()
    package = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.gz", inner)):
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        package += content + b"\n" * (len(content) % 2)
    (tmp_path / "a.deb").write_bytes(package)
    get(data, [str(tmp_path / "a.deb")], quiet=True)
    assert_loads(data, parts)
    for cut in (70, len(package) // 2):
        (tmp_path / "a.deb").write_bytes(package[:cut])
        with pytest.raises(CifarlabError, match=r"a\.deb is not a complete tar archive"):
            get(data, [str(tmp_path / "a.deb")], force=True, quiet=True)


def test_a_cache_without_checksums_of_its_own_needs_its_json_file(tmp_path: Path, home: Path) -> None:
    data, parts, files = publish("svhn")
    stick = tmp_path / "stick"
    get(data, [str(write(tmp_path / "published", files))], folder=stick, quiet=True)
    assert not find_cached(data)
    for source in (stick, stick / "svhn.bin"):
        get(data, [str(source)], force=True, quiet=True)
        assert_loads(data, parts)
    (stick / "svhn.json").unlink()
    with pytest.raises(CifarlabError, match=r"cannot be checked without svhn\.json beside it"):
        get(data, [str(stick)], force=True, quiet=True)
    (home / "svhn.json").unlink()
    assert not find_cached(data)


def test_a_source_whose_library_is_missing_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    data, _, files = publish("cifar100")
    needy = replace(data.sources[1], needs="a_library_that_is_not_installed")
    folder = write(tmp_path / "published", files)
    get(replace(data, sources=(data.sources[0], needy)), ["hub", str(folder)])
    log = capsys.readouterr().err
    assert "hub: skipped, because it needs a_library_that_is_not_installed: pip install 'cifarlab[hf]'" in log


@pytest.mark.parametrize("data", [*PUBLISHED.values(), DIGITS], ids=lambda data: data.name)
def test_what_is_known_of_a_data_set_fits_together(data: PublishedData) -> None:
    assert len(set(data.classes)) == len(data.classes) and data.shape[1] == data.shape[2]
    assert data.licence and data.citation and data.about.endswith(".") and data.page.startswith("http")
    assert [piece.is_test for piece in data.pieces] == sorted(piece.is_test for piece in data.pieces)
    for kind in data.formats:
        assert kind.files.keys() == {piece.name for piece in data.pieces}
        for piece in data.pieces:  # whatever arrives is compared with a checksum
            assert piece.digest or set(kind.files[piece.name]) <= data.digests.keys()
    assert all(source.bytes < data.largest_archive for source in data.sources)


def test_the_superclasses_of_cifar100_are_the_official_ones() -> None:
    # of the classes in alphabetical order, as the official files number them
    numbers = """
        4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13
        14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19
        18 1 2 15 6 0 17 8 14 13
    """
    data, coarse = PUBLISHED["cifar100"], PUBLISHED["cifar100:coarse"]
    assert superclass_labels(data) == list(map(int, numbers.split()))
    assert coarse.classes == tuple(sorted(coarse.classes)) and set(data.superclasses.values()) == set(coarse.classes)
    assert len(data.classes) == 100 and len(coarse.classes) == 20 and coarse.cache_name == data.cache_name


def test_classes_and_superclasses_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    data, parts, files = publish("cifar100")
    coarse = replace(PUBLISHED["cifar100:coarse"], pieces=data.pieces)
    get(coarse, [str(write(tmp_path / "published", files))], quiet=True)
    fine = assert_loads(data, parts)
    loaded = load(coarse, quiet=True)
    assert loaded.sha256 != fine.sha256 and loaded.path == fine.path
    expected = [data.superclasses[data.classes[label]] for label in parts["train"][1]]
    assert [loaded.classes[label] for label in loaded.train.labels] == expected


def test_coarse_accuracy_counts_superclasses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, home: Path
) -> None:
    data, _, files = publish("cifar100", random_parts(PUBLISHED["cifar100"], 300, 100))
    monkeypatch.setitem(PUBLISHED, "cifar100", data)
    get(data, [str(write(tmp_path / "published", files))], quiet=True)
    lenet = recipe("lenet5", dataset="cifar100", drop=data.classes[15:], epochs=2, batch_size=4)
    run = train(lenet, runs=tmp_path / "runs", name="fine", quiet=True)
    assert run.predictions is not None
    logits, labels = run.predictions
    groups = np.array([data.superclasses[name] for name in data.classes[:15]])
    right = float((groups[labels] == groups[logits.argmax(axis=1)]).mean())
    assert 0 < len(set(groups)) < 15 and run.record.results is not None
    assert run.record.results.test_coarse_accuracy == right
    assert answer(cli("evaluate", "fine", "--json"))["coarse_accuracy"] == right
    assert f" (superclass: {right:.2%}) on 15 test images" in cli("evaluate", "fine").stdout
    assert "with the right superclass" in (run.path / "report.html").read_text()
    assert evaluate(run, load_data("cifar100", quiet=True)).coarse_accuracy == right


def test_a_test_set_is_evaluated_on_but_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, home: Path
) -> None:
    for command in ("train lenet5 --data cifar10.1", "train lenet5 --dry-run --data cifar10.1"):
        refused = cli(*command.split(), status=2).stderr
        assert "cifar10.1 is only a test set" in refused and "cifarlab evaluate TARGET --data cifar10.1" in refused
    with pytest.raises(UsageError, match="only a test set"):
        load_data("cifar10.1")
    data, parts, files = publish("cifar10.1", random_parts(PUBLISHED["cifar10.1"], test=20))
    monkeypatch.setitem(PUBLISHED, "cifar10.1", data)
    get(data, [str(write(tmp_path / "published", files))], quiet=True)
    evaluated = answer(cli("evaluate", "pretrained:lenet5-3x3", "--data", "cifar10.1", "--json"))
    assert evaluated["images"] == 20 and evaluated["coarse_accuracy"] is None
    facts = answer(cli("data", "info", "cifar10.1", "--json"))
    assert (facts["train"], facts["test"], facts["size"]) == (0, 20, 32)
    assert facts["mean"] == pytest.approx((parts["test"][0] / 255).mean(axis=(0, 2, 3)).tolist())
    assert cli("data", "show", "cifar10.1").stdout.startswith("samples.png: 10 images")


def test_gray_images_keep_one_channel_and_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, home: Path
) -> None:
    data, _, files = publish("mnist", random_parts(PUBLISHED["mnist"], 100, 30))
    monkeypatch.setitem(PUBLISHED, "mnist", data)
    get(data, [str(write(tmp_path / "published", files))], quiet=True)
    assert load_data("mnist").train.images.shape == (100, 1, 28, 28)
    assert load_data("mnist", size=32).train.images.shape == (100, 1, 32, 32)
    facts = answer(cli("data", "info", "mnist", "--json"))
    assert facts["size"] == 28 and len(facts["mean"]) == 1 and facts["licence"] == data.licence
    for words in (("mnist",), ("--data", "mnist")):
        planned = answer(cli("train", *words, "--dry-run", "--json"))
        assert (planned["recipe"], planned["dataset"]) == ("mnist", "mnist")
    chosen = cli("train", "--data", "mnist", "--dry-run").stderr
    assert "the recipe 'mnist', made for this data set, is chosen; name another" in chosen
    planned = answer(cli("train", "lenet5", "--data", "mnist", "--dry-run", "--json"))
    assert (planned["recipe"], planned["train"]) == ("lenet5", 90)


def only(monkeypatch: pytest.MonkeyPatch, *sets: PublishedData) -> None:
    """Make these the only published data sets that commands know."""
    for data in sets:
        monkeypatch.setitem(PUBLISHED, data.name, data)
    monkeypatch.setattr(data_sets, "PUBLISHED", {data.name: data for data in sets})


def test_all_data_sets_fill_a_folder_for_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, home: Path
) -> None:
    (mnist, parts, files), (kmnist, _, other) = publish("mnist"), publish("kmnist")
    with LocalHost(files) as host, LocalHost(other, Answer(status=404)) as gone:
        mnist = replace(mnist, sources=(replace(mnist.sources[0], urls=tuple(host.url + name for name in files)),))
        kmnist = replace(kmnist, sources=(replace(kmnist.sources[0], urls=tuple(gone.url + name for name in other)),))
        only(monkeypatch, kmnist, mnist)
        got = cli("data", "get", "all", "--to", "stick", status=1)
        assert got.stdout == f"MNIST (from: official) is at {Path('stick/mnist.bin')}\n"
        assert "cannot get Kuzushiji-MNIST: official: the host answers 404 " in got.stderr
        assert got.stderr.splitlines()[-1].startswith("error: missing: kmnist. ")
        listed = answer(cli("data", "get", "all", "--to", "stick", "--json", status=1))
        assert [found["name"] for found in listed["found"]] == ["mnist"] and listed["missing"].keys() == {"kmnist"}
        assert len(host.ranges) == 4  # and not again
    assert cli("data", "info", "mnist", CIFARLAB_HOME=str(tmp_path / "stick")).stdout.startswith("name       mnist")
    assert not find_cached(mnist)
    cli("data", "get", "mnist", "--source", tmp_path / "stick")
    assert_loads(mnist, parts)
    again = cli("data", "get", "mnist", "--source", tmp_path / "stick").stderr
    assert "MNIST is there already; --force gets it from --source" in again
    wrong = cli("data", "get", "mnist", "--source", "nowhere", status=2).stderr
    assert "should be official" in wrong and wrong.count("\n") == 1
    copied = answer(cli("data", "get", "mnist", "--to", "second", "--json"))  # no host is left
    assert copied["source"] == str(tmp_path / "stick")
    assert json.loads((tmp_path / "second" / "mnist.json").read_text())["digests"].keys() == {"train", "test"}


def test_the_list_says_what_is_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli) -> None:
    data, _, files = publish("svhn")
    monkeypatch.setitem(DESCRIPTIONS, "svhn", data)
    get(data, [str(write(tmp_path / "published", files))], quiet=True)
    rows = {row["name"]: row for row in answer(cli("data", "list", "--json"))}
    assert list(rows) == [*PUBLISHED, "digits"]
    assert {name for name, row in rows.items() if row["cached"]} == {"svhn", "digits"}
    assert (rows["stl10"]["size"], rows["mnist"]["channels"], len(rows["cifar100"]["classes"])) == (96, 1, 100)
    lines = cli("data", "list").stdout.splitlines()
    assert len(lines) == 1 + len(rows) + 1 and "32x32x3" in lines[1]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("data get mnis", "unknown published data set 'mnis': did you mean 'mnist'?"),
        ("data get digits", "digits come with scikit-learn"),
        ("data get folder:photos", "unknown published data set 'folder:photos'"),
        ("data get mnist --source nowhere", "--source 'nowhere': should be official, npm, a URL, or an existing file"),
        ("data get kmnist --source npm", "--source 'npm': should be official, a URL, or an existing file"),
        ("data info fashion", "unknown data set 'fashion': did you mean 'fashion-mnist'?"),
        ("data info mnist --drop eleven", "unknown class 'eleven'"),
        ("data show svhn --merge 4=for", "unknown class 'for'"),
        ("train lenet5 --data mnist --drop 11 --dry-run", "unknown class '11'"),
        ("evaluate pretrained:mnist --data fashion-mnist", "classes that the network lacks: T-shirt/top, Trouser"),
    ],
)
def test_wrong_usage_is_one_line(command: str, text: str, cli: Cli, home: Path) -> None:
    assert text in cli(*command.split(), status=2).stderr
    assert not home.exists()
