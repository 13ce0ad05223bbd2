"""Your own images: folders, tables, Hugging Face's files, arrays."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import ipc, parquet
from scipy.io import savemat

import cifarlab
from cifarlab import Data, load_data
from cifarlab.data.catalogue import absolute
from cifarlab.data.dataset import join, relabel, split
from cifarlab.data.image_files import HEIC_ADVICE, read_image
from cifarlab.data.own import array_files
from cifarlab.errors import UsageError
from cifarlab.limited import reading
from conftest import make_images


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(file, "PNG")
    return file.getvalue()


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2), ("val", 3)):
        make_images(tmp_path / part, {"10": count, "2": count, "cat": count})
    data = load_data(f"folder:{tmp_path}", size=24)
    assert data.classes == ("2", "10", "cat")  # in natural order
    assert (len(data.train), len(data.test)) == (18, 6)
    assert data.validation is not None and len(data.validation) == 9
    assert data.train.images.shape == (18, 3, 24, 24)
    green = data.train.images[data.train.labels == 0].mean((0, 2, 3))  # "2" was made second
    assert green.argmax() == 1


def test_a_single_folder_is_split_with_a_seed_and_damaged_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path, {"ant": 20, "bee": 20})
    (tmp_path / "ant" / "broken.png").write_bytes((tmp_path / "ant" / "0.png").read_bytes()[:60])
    (tmp_path / "bee" / "notes.txt").write_text("not a picture")
    (tmp_path / "bee" / ".hidden").write_text("ignored")
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (32, 8)
    assert np.bincount(data.test.labels).tolist() == [4, 4]
    assert len(data.skipped) == 2
    progress = capsys.readouterr().err
    assert "broken.png" in progress and "notes.txt" in progress and "2 of 42 files skipped" in progress
    assert data.sha256 == load_data(f"folder:{tmp_path}", quiet=True).sha256


def test_files_that_are_skipped_are_said_once_for_each_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path, {"ant": 5, "bee": 5})
    for name in (*(f"{number}.txt" for number in range(5)), "Thumbs.db", "desktop.ini"):
        (tmp_path / "bee" / name).write_text("not a picture")
    (tmp_path / "ant" / "phone.heic").write_bytes(b"\0\0\0\x24ftypmif1\0\0\0\0mif1heicmiaf" + bytes(99))
    data = load_data(f"folder:{tmp_path}")
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    bee = tmp_path / "bee"
    assert lines[0].endswith("phone.heic: " + HEIC_ADVICE)
    assert lines[1] == f"skipped: {bee}/0.txt, {bee}/1.txt, {bee}/2.txt and 2 more: not an image in a known format"
    assert lines[2:] == ["6 of 16 files skipped"] and len(data.skipped) == 6
    for name in ("x.png", "y.png"):
        (tmp_path / "ant" / name).symlink_to("nowhere")
    load_data(f"folder:{tmp_path}")
    assert f"skipped: {tmp_path}/ant/x.png, {tmp_path}/ant/y.png: there is no image\n" in capsys.readouterr().err


def test_odd_cells_in_a_table_are_the_users_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path, {"cat": 5, "dog": 5})
    rows = [f"{label}/{number}.png,{label}" for label in ("cat", "dog") for number in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows, "a\0b.png,cat", "x" * 5000 + ",dog"]))
    data = load_data(f"csv:{tmp_path / 'list.csv'}")
    assert "ab.png: damaged image (embedded null byte)" in data.skipped[0] and "File name too long" in data.skipped[1]
    capsys.readouterr()
    digits = "9" * 5000
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows, f"cat/0.png,{digits}"]))
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 8, 8), np.uint8), y_train=["cat", digits])
    for name in ("csv:list.csv", "npz:a.npz"):
        with pytest.raises(UsageError, match="a class name should have at most 100 printable letters, got '9999"):
            load_data(name.replace(":", f":{tmp_path}/"), quiet=True)


def test_every_image_knows_its_file(tmp_path: Path) -> None:
    make_images(tmp_path, {"ant": 10, "bee": 10, "cat": 10})
    (tmp_path / "ant" / "0.png").write_bytes(b"damaged")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(tmp_path.glob("*/[3-9].png"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    for name in (f"folder:{tmp_path}", f"csv:{tmp_path}/list.csv"):
        data = relabel(load_data(name, quiet=True), drop=["bee"])
        whole = join(*split(data.train, 0.3, 0), data.test)
        assert len(whole.names) == len(whole) == len(set(whole.names))
        for image, label, file in zip(whole.images, whole.labels, whole.names, strict=True):
            assert (read_image(tmp_path / file, 32) == image).all() and whole.classes[label] in file


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        load_data(f"folder:{tmp_path / 'none'}")
    with pytest.raises(UsageError, match="a folder of images per class, at least two, got 0"):
        load_data(f"folder:{tmp_path}")
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(UsageError, match="no readable image in 'a'"):
        load_data(f"folder:{tmp_path}")
    make_images(tmp_path / "more" / "train", {"cat": 3, "dog": 3})
    make_images(tmp_path / "more" / "test", {"cat": 3, "dgo": 3})
    with pytest.raises(UsageError, match="unknown class folder 'dgo': did you mean 'dog'"):
        load_data(f"folder:{tmp_path / 'more'}")


def test_a_table_of_files_and_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "photos", {"cat": 6, "dog": 6})
    (tmp_path / "photos" / "cat" / "0.png").write_bytes(b"no picture")
    rows = [
        f"photos/{name}/{number}.png,{name},{'test' if number > 3 else ''}"
        for name in ("dog", "cat")
        for number in range(6)
    ]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(rows), encoding="utf-8-sig")
    data = load_data(f"csv:{tmp_path / 'list.csv'}")
    assert data.classes == ("cat", "dog") and (len(data.train), len(data.test)) == (7, 4)
    assert list(data.train.labels) == [1] * 4 + [0] * 3
    assert "0.png: not an image" in data.skipped[0] and "1 of 12 files skipped" in capsys.readouterr().err


def test_unusable_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    for text, message in (
        (
            "photo,animal,colour\na.png,cat,red\n",
            "should have the columns path and label .*, got photo, animal, colour",
        ),
        ("path,animal,colour\na.png,cat,red\n", "should have the columns path and label .*, got path, animal, colour"),
        (
            ",".join(["label", *(f"pixel{n}" for n in range(192))]) + "\n",
            "a square number of pixels .*, got label, pixel0",
        ),
        ("", "should have the columns path and label"),
        ("path,label\n\n", "has no rows below its column names"),
        ("path,label\na.png,\n", "line 2: label is empty"),
        ('path,label,note\n\n\na.png,cat,"two\nlines"\n\nb.png,,\n', "line 7: label is empty"),
        ("path,label,Label\na.png,cat,dog\n", "two columns are called 'Label'"),
        ("file,split,label,SPLIT\na.png,train,dog,test\n", "two columns are called 'SPLIT'"),
        (",".join(["label", "7", *map(str, range(63))]) + "\n", "two columns are called '7'"),
        ("path,label,split\na.png,cat,tset\n", "line 2: unknown split 'tset': did you mean 'test'"),
        ("path,label\na.png,cat\nb.png,dog\n", "no image of the part train can be read"),
        ("path,label,split\na.png,cat,\nb.png,dog,\nc.png,cow,test\n", "c.png: unknown class 'cow'"),
        ("a\x00b,label\n", "should have the columns path and label"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            load_data(f"csv:{path}", quiet=True)
    path.write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(UsageError, match="not a table in UTF-8 "):
        load_data(f"csv:{path}", quiet=True)
    with pytest.raises(UsageError, match="there is no file"):
        load_data(f"csv:{tmp_path / 'none.csv'}", quiet=True)


def test_tables_name_their_columns_in_many_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "train", {"": 8}, (32, 32))
    make_images(tmp_path / "test", {"": 8}, (32, 32))  # of the same names
    breeds = ["pug", "pug ", "husky", "husky"] * 2
    for text, note in (
        (
            "id,breed\n" + "".join(f"{n},{name}\n" for n, name in enumerate(breeds)),
            "files in the column 'id', labels in",
        ),
        ("Width;ClassId;Path\n" + "".join(f"32;{name};train\\{n}.png\n" for n, name in enumerate(breeds)), "'ClassId'"),
        (
            " label , file \n" + "".join(f"{name},./train/{n}\n" for n, name in enumerate(breeds)),
            "column 'file', labels",
        ),
        ("file_name\tanimal\tsplit\n" + "".join(f"{n}\t{name}\ttrain\n" for n, name in enumerate(breeds)), "'animal'"),
    ):
        (tmp_path / "list.csv").write_text(text)
        data = load_data(f"csv:{tmp_path / 'list.csv'}")
        said = capsys.readouterr().err
        assert data.classes == ("husky", "pug") and len(data.train) + len(data.test) == 8
        assert note in said and "2 labels have spaces around them" in said and not data.skipped
        assert {Path(name).parent.name for name in data.train.names} == {"train"}
    (tmp_path / "list.csv").write_text("id,breed,split\n0,pug,val\n")
    with pytest.raises(UsageError, match=r"'0' may be .*0\.png or .*0\.png"):
        load_data(f"csv:{tmp_path / 'list.csv'}", quiet=True)


@pytest.mark.parametrize("white", [255, 1.0])
def test_pixels_in_columns(tmp_path: Path, digits: Data, white: float) -> None:
    gray = digits.train.images[:40, 0, ::4, ::4]
    rows = [
        ",".join([*(f"{value / 255 * white:.6g}" for value in image.ravel()), digits.classes[label]])
        for image, label in zip(gray, digits.train.labels, strict=False)
    ]
    header = ",".join([*(f"Pixel{number}" for number in range(64)), "Label"])
    (tmp_path / "digits.csv").write_text("\n".join([header, *rows]))
    data = load_data(f"csv:{tmp_path / 'digits.csv'}", size=8, quiet=True)
    assert data.classes == tuple("0123456789")
    assert sorted(data.train.names + data.test.names)[0].endswith("digits.csv, line 10")
    line = int(data.train.names[0].rpartition(" ")[2])
    assert (
        np.array_equal(data.train.images[0, 0], gray[line - 2])
        and data.train.labels[0] == digits.train.labels[line - 2]
    )
    rows[3] = rows[3].replace(",", ",x", 1)
    (tmp_path / "digits.csv").write_text("\n".join([header, *rows]))
    with pytest.raises(UsageError, match="line 5: a pixel should be a number from 0 to 255"):
        load_data(f"csv:{tmp_path / 'digits.csv'}", size=8, quiet=True)


@pytest.mark.parametrize("form", ["pixel{0}", "{1}x{2}", "pixel_{1}_{2}", "Pixel {0}"])
def test_columns_of_pixels_are_in_the_order_of_their_numbers(tmp_path: Path, form: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 144), dtype=np.uint8)
    names = [form.format(number, *divmod(number, 12)) for number in range(144)]
    order = np.argsort(names)  # pixel0, pixel1, pixel10, …
    rows = [[f"{number % 2}", *map(str, row[order])] for number, row in enumerate(pixels)]
    table = [["label", *(names[number] for number in order)], *rows]
    (tmp_path / "a.csv").write_text("\n".join(map(",".join, table)))
    data = load_data(f"csv:{tmp_path / 'a.csv'}", size=12, quiet=True)
    assert np.array_equal(data.train.images[0, 0].ravel(), pixels[int(data.train.names[0].rpartition(" ")[2]) - 2])


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">3sB{array.ndim}I", b"\0\0\x08", array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_the_files_of_mnist(tmp_path: Path, digits: Data) -> None:
    gray, labels = digits.train.images[:60, 0, ::4, ::4], digits.train.labels.astype(np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", gray[:50])
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", gray[:1])  # unpacked is preferred
    write_idx(tmp_path / "train-labels.idx1-ubyte", labels[:50])
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", gray[50:])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels[50:60])
    data = load_data(f"folder:{tmp_path}", size=8, quiet=True)
    assert (len(data.train), len(data.test), data.classes) == (50, 10, tuple("0123456789"))
    assert np.array_equal(data.test.images, gray[50:, None]) and np.array_equal(data.test.labels, labels[50:60])
    assert data.test.names[3] == f"{tmp_path}, test image 3"
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UsageError, match=r"as many labels for the part test, got \[10, 8, 8\] and \[0\]"):
        load_data(f"folder:{tmp_path}", quiet=True)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12))
    with pytest.raises(UsageError, match="not an IDX file as of MNIST"):
        load_data(f"folder:{tmp_path}", quiet=True)


def test_files_of_arrays_that_are_not_used_are_said(
    tmp_path: Path, digits: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    gray, labels = digits.train.images[:20, 0, ::4, ::4], digits.train.labels[:20].astype(np.uint8)
    (tmp_path / "raw").mkdir()
    for name in ("train", "b-train", "test"):
        write_idx(tmp_path / "raw" / f"{name}-images-idx3-ubyte", gray)
        write_idx(tmp_path / "raw" / f"{name}-labels-idx1-ubyte.gz", labels)
    write_idx(tmp_path / "raw" / "train-images-idx3-ubyte.gz", gray)
    savemat(tmp_path / "raw" / "extra_32x32.mat", {})
    load_data(f"folder:{tmp_path / 'raw'}", size=8)
    unused = "extra_32x32.mat, train-images-idx3-ubyte, train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz"
    assert f"images in arrays, of train, test; not used: {unused}\n" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"deeper, in folder:{tmp_path / 'raw'}$"):
        load_data(f"folder:{tmp_path}")
    make_images(tmp_path / "raw", {"cat": 3, "dog": 3})
    load_data(f"folder:{tmp_path / 'raw'}")
    assert "raw: 8 files beside the folders are not used, such as b-train-images" in capsys.readouterr().err


def test_the_files_of_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30) % 10 + 1
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]})
    data = load_data(f"folder:{tmp_path}", quiet=True)
    assert data.classes == tuple("0123456789") and data.train.labels[9] == 0 and data.train.labels[0] == 1
    assert np.array_equal(data.test.images, images.transpose(0, 3, 1, 2))
    path = tmp_path / "test_32x32.mat"
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert load_data(f"folder:{tmp_path}", quiet=True).sha256 == data.sha256
    path.unlink()
    savemat(path, {"X": np.zeros((4, 4, 3, 9), object), "y": labels})  # cells
    for content in (path.read_bytes(), b"MATLAB"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"not a file as of SVHN, with X \[h, w, 3, n\] and y \("):
            load_data(f"folder:{tmp_path}", quiet=True)
    monkeypatch.setattr(reading, "LIBRARY_MEMORY", 0)
    monkeypatch.setattr(array_files, "LARGEST_FILE", 10**6)
    path.unlink()
    with pytest.raises(UsageError, match=r"train_32x32.mat: not a file as of SVHN"):  # by the limit on memory
        load_data(f"folder:{tmp_path}", quiet=True)


@pytest.mark.parametrize("kind", ["csv", "npz", "folder", "hf"])
def test_pipes_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"there is no f.* it is a pipe or a device"):
        load_data(f"{kind}:{tmp_path / 'pipe'}", quiet=True)


def hub_table(count: int) -> pyarrow.Table:
    """Return a table as on the hub: bytes and paths of images, class numbers, and class names in the metadata."""
    labels = [number % 2 for number in range(count)]
    images = [{"bytes": png((255 * label, 0, 9)), "path": None} for label in labels]
    features = {"image": {"_type": "Image"}, "label": {"names": ["night", "day"], "_type": "ClassLabel"}}
    table = pyarrow.table(
        {
            "image": pyarrow.array(images, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})),
            "label": labels,
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_a_data_set_of_hugging_face(tmp_path: Path) -> None:
    for part, count in (("train", 8), ("test", 4)):
        (tmp_path / "hub" / "data").mkdir(parents=True, exist_ok=True)
        parquet.write_table(hub_table(count), tmp_path / "hub" / "data" / f"{part}-00000-of-00001.parquet")
        folder = tmp_path / "saved" / part
        folder.mkdir(parents=True)
        with ipc.new_stream(folder / "data-00000-of-00001.arrow", hub_table(count).schema) as file:
            file.write_table(hub_table(count))
    hub, saved = (load_data(f"hf:{tmp_path / name}", quiet=True) for name in ("hub", "saved"))
    assert hub.classes == ("night", "day") and (len(hub.train), len(hub.test)) == (8, 4)
    assert list(hub.train.labels) == [0, 1] * 4  # in the order of the metadata, not of the alphabet
    assert hub.train.images[1, 0].min() == 255 and hub.train.images[0, 0].max() == 0
    assert hub.sha256 == saved.sha256
    table = hub_table(8)
    images = pyarrow.array([row["bytes"] for row in table["image"].to_pylist()], pyarrow.large_binary())  # as of Polars
    with ipc.new_file(tmp_path / "saved" / "train" / "data-00000-of-00001.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=3)
    parquet.write_table(
        table.set_column(0, "image", images), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"
    )
    assert hub.sha256 == load_data(f"hf:{tmp_path / 'saved'}").sha256 == load_data(f"hf:{tmp_path / 'hub'}").sha256


def test_unusable_hugging_face_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no Parquet and no Arrow file"):
        load_data(f"hf:{tmp_path}", quiet=True)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UsageError, match="not a Parquet or Arrow file"):
        load_data(f"hf:{tmp_path}", quiet=True)
    parquet.write_table(pyarrow.table({"text": ["a"], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=r"should have one column of images and one called label, got text \(string\)"):
        load_data(f"hf:{tmp_path}", quiet=True)


@pytest.mark.parametrize("label", [None, -1, 2])
def test_an_image_without_a_class_is_reported(tmp_path: Path, label: int | None) -> None:
    table = hub_table(4)
    wrong = table.set_column(1, "label", pyarrow.array([0, 1, label, 1]))
    parquet.write_table(wrong, tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=f"train.parquet, row 2: the label {label} is not a class"):
        load_data(f"hf:{tmp_path}", quiet=True)


def test_two_classes_of_the_same_name_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=np.arange(8) % 3, classes=np.array(["a", "b", "a"]))
    with pytest.raises(UsageError, match="two classes have the same name"):
        load_data(f"npz:{tmp_path / 'a.npz'}", quiet=True)


def test_photos_of_every_format_and_size_train_and_a_broken_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    kinds = (
        ("JPEG", "RGB"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("WEBP", "RGB"),
        ("BMP", "L"),
        ("TIFF", "I;16"),
        ("PNG", "1"),
    )
    for label, name in enumerate(("dark", "middling", "bright")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(21):
            ending, mode = kinds[number % len(kinds)]
            height, width = draw.integers(20, 300, 2)
            pixels = draw.integers(80 * label, 80 * label + 60, (height, width), dtype=np.uint8)
            image = Image.fromarray(pixels)
            if mode == "I;16":
                image = Image.fromarray(pixels.astype(np.uint16) * 257)
            elif mode != "L":
                image = image.convert(mode)
            image.save(tmp_path / "photos" / name / f"{number}.{ending.lower()}", ending)
    broken = tmp_path / "photos" / "dark" / "0.jpeg"
    broken.write_bytes(broken.read_bytes()[:200])
    name = f"folder:{tmp_path / 'photos'}"
    run = cifarlab.train(cifarlab.recipe("lenet5", dataset=name, epochs=4, batch_size=8), runs=tmp_path, name="a")
    progress = capsys.readouterr().err
    assert "photos/dark/0.jpeg: damaged image" in progress and "1 of 63 files skipped" in progress
    assert run.evaluate().accuracy > 0.5
    answers = run.predict([tmp_path / "photos" / "bright" / "1.png", tmp_path / "photos" / "dark" / "2.gif"])
    assert [answer.label for answer in answers] == ["bright", "dark"]
    with pytest.raises(UsageError, match=r"dark/0\.jpeg: damaged image"):
        run.predict([broken])


@pytest.mark.parametrize("names", [("Training_Set", "TESTING", "Dev"), ("train", "eval", "valid")])
def test_the_names_of_parts_are_the_same_for_every_kind_of_data(tmp_path: Path, names: tuple[str, str, str]) -> None:
    arrays: dict[str, Any] = {}
    rows, pixels = ["path,label,split"], np.zeros((4, 8, 8, 3), np.uint8)
    (tmp_path / "hub").mkdir()
    for name in names:
        make_images(tmp_path / "folder" / name, {"cat": 2, "dog": 2})
        rows += [f"folder/{name}/{label}/{number}.png,{label},{name}" for label in ("cat", "dog") for number in (0, 1)]
        parquet.write_table(hub_table(4), tmp_path / "hub" / f"{name}-00000-of-00001.parquet")
        arrays |= {f"x_{name}": pixels, f"y_{name}": [0, 1, 0, 1]}
    (tmp_path / "list.csv").write_text("\n".join(rows))
    np.savez(tmp_path / "a.npz", **arrays)
    for kind in ("folder:folder", "csv:list.csv", "hf:hub", "npz:a.npz"):
        data = load_data(kind.replace(":", f":{tmp_path}/"), quiet=True)
        assert data.validation is not None, kind
        assert (len(data.train), len(data.validation), len(data.test)) == (4, 4, 4), kind


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_images(tmp_path, {"bus": 5, "car": 5, "train": 5})
    assert load_data(f"folder:{tmp_path}", quiet=True).classes == ("bus", "car", "train")


def test_folders_that_are_not_used_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "train", {"cat": 5, "dog": 5})
    make_images(tmp_path, {"annotations": 1, "test": 2})  # a test folder without classes
    (tmp_path / "train" / "fox").symlink_to(tmp_path / "lost")
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("cat", "dog") and len(data.skipped) == 3
    said = capsys.readouterr().err
    assert all(f"{tmp_path / name}" in said for name in ("annotations", "test", "train/fox"))
    make_images(tmp_path / "training", {"cat": 5, "dog": 5})
    with pytest.raises(UsageError, match="train and training are both folders of the part train"):
        load_data(f"folder:{tmp_path}")


def test_run_folders_are_never_data(tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    before = load_data(f"folder:{tmp_path / 'pets'}", quiet=True)
    for run in ("runs/first", "runs/study/member", "cat/runs/second", "third"):
        make_images(tmp_path / "pets" / run, {"figures": 1})
        (tmp_path / "pets" / run / "run.json").write_text("{}")
    (tmp_path / "pets" / "runs" / "study" / "study.toml").write_text("")
    after = load_data(f"folder:{tmp_path / 'pets'}", quiet=True)
    assert after.classes == before.classes and after.sha256 == before.sha256


@pytest.mark.parametrize("kind", ["folder", "csv", "hf", "npz"])
def test_a_name_without_a_path_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=f"{kind}: names no path after the colon"):
        load_data(absolute(f"{kind}:"))


def test_links_are_followed_once_and_folders_of_archives_are_left_out(tmp_path: Path) -> None:
    make_images(tmp_path / "elsewhere", {"more": 6, "fox": 4})
    make_images(tmp_path / "pets", {"cat": 6, "dog": 5, "__MACOSX": 1, "cat/__MACOSX": 1})
    (tmp_path / "pets" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "pets" / "cat" / "round").symlink_to(tmp_path / "pets" / "cat")
    (tmp_path / "pets" / "cat" / "lost.png").symlink_to(tmp_path / "lost.png")
    (tmp_path / "pets" / "fox").symlink_to(tmp_path / "elsewhere" / "fox")
    data = load_data(f"folder:{tmp_path / 'pets'}", quiet=True)
    assert data.classes == ("cat", "dog", "fox")
    assert (np.bincount(data.train.labels) + np.bincount(data.test.labels)).tolist() == [12, 5, 4]
    assert len(data.skipped) == 1 and "lost.png" in data.skipped[0]


def test_links_to_folders_that_contain_them_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "pets", {"cat": 5, "dog": 5, "cafe\u0301": 5, "caf\u00e9": 5})
    for link in ("cat/up", "loop", "dog/down"):
        (tmp_path / "pets" / link).symlink_to(tmp_path if "down" in link else tmp_path / "pets")
    data = load_data(f"folder:{tmp_path / 'pets'}")
    assert len(data.classes) == 3 and len(data.train) + len(data.test) == 20
    assert sorted(Path(reason.partition(":")[0]).name for reason in data.skipped) == ["down", "loop", "up"]
    assert "pets: the folders called 'caf\u00e9', spelt in different bytes, are one class" in capsys.readouterr().err


def test_names_in_another_encoding_or_normal_form(tmp_path: Path, trained_run: cifarlab.Run) -> None:
    make_images(tmp_path / "train", {"cafe\u0301": 4, "tea": 4})  # the letter e with an accent of its own
    make_images(tmp_path / "test", {"caf\u00e9": 2, "tea": 2})
    latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/train/tea/caf\xe9"))
    latin.mkdir()
    shutil.copy(tmp_path / "train" / "tea" / "0.png", latin / latin.name)
    (latin / f"{latin.name}.png").write_bytes(b"damaged")
    data = load_data(f"folder:{tmp_path}", quiet=True)
    assert (len(data.train), len(data.test)) == (9, 4)
    assert data.skipped[0].encode() and "caf\\udce9.png: not an image" in data.skipped[0]
    with pytest.raises(UsageError, match=r"caf.udce9 has a name that is not UTF-8. Rename that folder"):
        absolute(f"folder:{latin}")
    predictions = trained_run.predict([latin / latin.name])
    assert predictions[0].image.encode().endswith(rb"caf\udce9")


def test_a_data_set_for_tests_alone_cannot_be_trained_on(tmp_path: Path) -> None:
    make_images(tmp_path / "test", {"cat": 3})
    with pytest.raises(UsageError, match="should have training images of at least two classes, got 0"):
        load_data(f"folder:{tmp_path}", quiet=True)
    assert len(load_data(f"folder:{tmp_path}", quiet=True, test_only=True).test) == 3
    with pytest.raises(UsageError, match="at least two classes, got 1"):
        load_data(f"folder:{tmp_path / 'test'}", quiet=True)


def test_gray_files_keep_one_channel_unless_others_have_colours(tmp_path: Path) -> None:
    for number in range(12):
        for label in ("cat", "dog"):
            (tmp_path / label).mkdir(exist_ok=True)
            noise = np.random.default_rng([number, len(label)]).integers(0, 256, (9, 9), dtype=np.uint8)
            Image.fromarray(noise + (label == "dog")).save(tmp_path / label / f"{number}.png")
    gray = load_data(f"folder:{tmp_path}", size=8, quiet=True)
    assert gray.train.images.shape[1:] == gray.test.images.shape[1:] == (1, 8, 8)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "dog" / "red.png")
    mixed = load_data(f"folder:{tmp_path}", size=8, quiet=True)
    assert mixed.train.images.shape[1:] == mixed.test.images.shape[1:] == (3, 8, 8)
    whole = join(mixed.train, mixed.test)
    coloured = [name for name, image in zip(whole.names, whole.images, strict=True) if (image != image[:1]).any()]
    assert [Path(name).name for name in coloured] == ["red.png"]
