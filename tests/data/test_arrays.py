"""Arrays, tensors and NumPy files as data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlab import Data, load_data
from cifarlab.data.arrays import in_memory
from cifarlab.errors import UsageError


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, allow_pickle=True, **arrays)
    return f"npz:{path}"


def test_npz_in_every_layout(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 20, 20, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    path = tmp_path / "a.npz"
    last = load_data(save(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels), size=20)
    first = load_data(save(path, x_train=pixels.transpose(0, 3, 1, 2), y_train=labels[:, None]), size=20)
    gray = load_data(save(path, x_train=pixels[..., 0], y_train=labels, classes=np.array(list("wxyz"))), size=20)
    assert np.array_equal(last.train.images, pixels.transpose(0, 3, 1, 2))
    assert (len(first.train), len(first.test)) == (32, 8)
    assert gray.classes == tuple("wxyz") and np.isin(gray.train.images, pixels[..., 0]).all()
    assert gray.train.images.shape[1:] == gray.test.images.shape[1:] == (1, 20, 20)


def test_unusable_npz_files_are_refused(tmp_path: Path) -> None:
    pixels, labels, path = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2, tmp_path / "a.npz"
    for arrays, text in (
        ({"pictures": pixels}, "has no array 'x_train'"),
        ({"x": pixels}, "has x but no y"),
        ({"train_images": pixels}, "has train_images but no y_train"),
        ({"x_train": pixels - 0.5, "y_train": labels}, r"x_train should be images .* from 0 to 255, got float64 \[6,"),
        ({"x_train": pixels, "y_train": np.ones((6, 2))}, r"y_train should be 6 integers .* got \[6, 2\] of float64"),
        (
            {"x_train": pixels, "y_train": labels / 1},
            r"y_train should be 6 integers from 0 or class names, got \[6\] of float64",
        ),
        ({"x_train": pixels, "y_train": labels[:4]}, r"y_train should be 6 integers from 0 or class names, got \[4\]"),
        ({"x_train": pixels, "y_train": labels, "classes": np.array(["a", "b", "c"]), "x_test": pixels}, "y_test"),
        ({"x_train": pixels, "y_train": labels * 0}, "of at least two classes, got 1"),
        ({"x_train": pixels, "y_train": np.array([print] * 6)}, "not an .npz file of plain arrays"),
    ):
        with pytest.raises(UsageError, match=text):
            load_data(save(path, **arrays))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"not an \.npz file of plain"):
        load_data(f"npz:{path}")
    np.savez_compressed(path, x_train=pixels, y_train=labels)
    content = bytearray(path.read_bytes())
    start = 30 + sum(int.from_bytes(content[place : place + 2], "little") for place in (26, 28))
    content[start] = 0xFF  # no deflate block begins with this byte
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"not an \.npz file of plain"):
        load_data(f"npz:{path}")
    np.save(tmp_path / "b.npy", labels)
    with pytest.raises(UsageError, match=r"not an \.npz file of plain"):
        load_data(f"npz:{tmp_path / 'b.npy'}")


def test_arrays_tensors_and_lists_are_one_data_set() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    expected = in_memory((pixels, labels), 20)
    assert (expected.name, expected.classes, len(expected.train)) == ("arrays", tuple("0123"), 32)
    for images, numbers in (
        (pixels / np.float32(255), labels[:, None].astype(np.uint8)),  # as Keras's examples give them
        (pixels.astype(np.float64), np.eye(4)[labels]),
        (pixels.astype(np.int64), labels.tolist()),
        (torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 255).requires_grad_(), torch.from_numpy(labels).int()),
        (list(pixels), tuple(labels)),
        (pixels, labels.astype("S1")),  # class names
        (pixels, labels.astype(str).astype(object)),  # as those of pandas
        (pixels, labels.astype(object)),
        ([Image.fromarray(image) for image in pixels], labels),
    ):
        for given in ((images, numbers), [images, numbers], {"x_train": images, "y_train": numbers}):
            assert in_memory(given, 20).sha256 == expected.sha256
    gray = in_memory((pixels[:3, ..., 0], labels[:3]), 20, classes=tuple("0123"))
    assert len(gray.test) == 3
    half = torch.from_numpy(pixels / 255).bfloat16()
    for images in (half, list(half), list(half.requires_grad_())):
        assert in_memory((images, labels), 20).sha256 == in_memory((half.detach().float(), labels), 20).sha256
    see_through = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=3)
    assert in_memory((see_through, labels), 20).sha256 == expected.sha256
    mixed = [Image.fromarray(image).resize((20 + number % 2, 20)) for number, image in enumerate(pixels)]
    assert in_memory((mixed, labels), 20, classes=tuple("0123")).test.images.shape == (40, 3, 20, 20)
    both = in_memory(((pixels[:30], labels[:30]), (pixels[30:], labels[30:])), 20)
    assert (len(both.train), len(both.test)) == (30, 10)
    evaluated = in_memory((pixels, labels), 20, classes=tuple("abcde"))
    assert (len(evaluated.test), evaluated.classes) == (40, tuple("abcde"))
    from_one = in_memory((pixels[:2], [1, 3]), 20, classes=tuple("1234"))
    assert from_one.test.labels.tolist() == [0, 2]
    named = Data("mine", expected.train, expected.test)
    assert in_memory(named, 20).sha256 == expected.sha256


def test_arrays_that_are_no_data_set_are_refused() -> None:
    pixels, labels = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2
    for given, text in (
        ("digits", r"should be \(images, labels\) or named arrays, has no array 'x_train'"),
        ((pixels, labels, labels), "has no array 'x_train'"),
        ((pixels, labels * 2 - 1), "y_train should be 6 integers from 0 to 1 or class names, got -1"),
        (((pixels, list("ababab")), (pixels, list("abcabc"))), "y_test should be 6 integers .* or class names, got c"),
        (((pixels, labels), (pixels, labels + 1)), "y_test should be 6 integers from 0 to 1 or class names, got 2"),
        (((pixels, labels), (pixels, list("ababab"))), "y_test should be 6 integers from 0 to 1 or class names, got a"),
        ((pixels, np.array(["a", None, "b"] * 2)), r"6 integers from 0 or class names, got \[6\] of object"),
        ((pixels.reshape(6, -1), labels), r"x_train should be images .*, got uint8 \[6, 192\]"),
        ((pixels + np.int64(300), labels), r"x_train should be images .*from 0 to 255"),
        ((np.full((6, 8, 8), np.nan), labels), "from nan to nan"),
    ):
        with pytest.raises(UsageError, match=text):
            in_memory(given, 8)


def test_npz_labels_from_one_and_of_text(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    labels, path = np.arange(12) % 3, tmp_path / "a.npz"
    words = np.array(["b", "a", "c"])
    for y, names, classes in (
        (labels + 1, None, ("1", "2", "3")),
        (labels + 1, words, ("b", "a", "c")),
        (labels, words.astype("S"), ("b", "a", "c")),
        (words[labels], None, ("a", "b", "c")),
        (words.astype("S")[labels], words, ("b", "a", "c")),
    ):
        arrays = {"X_train": pixels, "Y_train": y, "x_test": pixels[:1], "y_test": y[:1]}
        data = load_data(save(path, **arrays, **({} if names is None else {"classes": names})), size=8, quiet=True)
        assert data.classes == classes
        assert data.test.labels.tolist() == data.train.labels[:1].tolist()
        assert sorted(np.bincount(data.train.labels).tolist()) == [4, 4, 4]
    for y in (words[labels][:0], np.array([])):
        with pytest.raises(UsageError, match=r"y_train should be 12 integers from 0 or class names, got \[0\] of"):
            load_data(save(path, x_train=pixels, y_train=y), quiet=True)
    with pytest.raises(UsageError, match=r"y_test should be .* got fox"):
        arrays = {"x_train": pixels, "y_train": words[labels], "x_test": pixels[:1], "y_test": np.array(["fox"])}
        load_data(save(path, **arrays, classes=words), quiet=True)
    data = load_data(save(path, x_train=pixels, y_train=labels, notes=labels), quiet=True)
    assert data.skipped == (f"{path}: the array notes is not used",)


def test_classes_without_a_training_image_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((20, 8, 8), np.uint8), y_train=np.arange(20) % 2 + 5)
    load_data(f"npz:{tmp_path / 'a.npz'}")
    assert capsys.readouterr().err == f"{tmp_path}/a.npz: classes without a training image: 0, 1, 2, 3, 4\n"


def test_the_keys_of_medmnist_and_of_plain_arrays(tmp_path: Path) -> None:
    pixels, labels = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8), np.arange(12)[:, None] % 3
    parts = {"train": slice(0, 6), "val": slice(6, 9), "test": slice(9, 12)}
    arrays = {f"{part}_images": pixels[chosen] for part, chosen in parts.items()}
    arrays |= {f"{part}_labels": labels[chosen] for part, chosen in parts.items()}
    data = load_data(save(tmp_path / "pathmnist.npz", **arrays), quiet=True)
    assert data.validation is not None and not data.skipped
    assert [len(part) for part in (data.train, data.validation, data.test)] == [6, 3, 3]
    assert data.test.labels.tolist() == labels[9:, 0].tolist()
    for images, targets in (("images", "labels"), ("X", "y")):
        plain = load_data(save(tmp_path / "plain.npz", **{images: pixels, targets: labels}), quiet=True)
        assert len(plain.train) + len(plain.test) == 12 and not plain.skipped


def test_hand_made_data_is_checked_at_the_door(digits: Data) -> None:
    def made(validation: bool = False, **changes: Any) -> Data:
        part = digits.test.select(np.arange(20))
        for name, value in changes.items():
            object.__setattr__(part, name, value)  # the types are checked where a test makes a data set
        return (
            Data("mine", digits.train, digits.test, validation=part) if validation else Data("mine", part, digits.test)
        )

    images, labels = digits.test.images[:20], digits.test.labels[:20]
    as_lists = made(images=torch.from_numpy(images), labels=labels[:, None].astype(np.int32), classes=list(range(10)))
    read = in_memory(as_lists, 32)
    assert read.train.labels.dtype == np.int64 and np.array_equal(read.train.labels, labels)
    assert np.array_equal(read.train.images, images) and len(read.sha256) == 64 and read.classes == digits.classes
    assert in_memory(digits, 32).sha256 == digits.sha256
    assert in_memory(made(names=[f"{number}.png" for number in range(20)]), 32).train.names[19] == "19.png"
    for part in (None, (images, labels)):
        no_test = Data("mine", digits.train, digits.test)
        object.__setattr__(no_test, "test", part)
        with pytest.raises(UsageError, match=r"mine: test should be a Dataset, got (NoneType|tuple)"):
            in_memory(no_test, 32)
    for changes, message in (
        (
            {"images": images / 255},
            r"mine: train.images should be uint8 \[n, 1 or 3, size, size\], .* got float64 \[20, 1, 32,",
        ),
        ({"images": images.transpose(0, 2, 3, 1)}, r"got uint8 \[20, 32, 32, 1\]. Pass \(images, labels\) instead"),
        ({"images": images[..., :28]}, r"got uint8 \[20, 1, 32, 28\]"),
        ({"images": images[0]}, r"got uint8 \[1, 32, 32\]"),
        ({"labels": labels + 5}, r"train.labels should be 20 integers from 0 to 9, got int64 \[20\] up to 14"),
        ({"labels": labels - 1}, "up to 8"),
        ({"labels": labels[:-1]}, r"got int64 \[19\]"),
        ({"labels": labels * 1.0}, r"got float64 \[20\]"),
        ({"classes": ("a", "a")}, "two classes have the same name"),
        ({"classes": None}, "should have at least two classes, got 0"),
        ({"names": ("a", "b")}, "train.names should be the names of all 20 images or of none, got 2"),
        ({"validation": True, "labels": labels + 5}, "mine: validation.labels should be"),
        (
            {"validation": True, "images": images[..., :28, :28]},
            "validation.images should be .* the same in all parts",
        ),
        ({"validation": True, "classes": digits.classes[::-1]}, "should be those of train, 0, 1, .* got others"),
    ):
        with pytest.raises(UsageError, match=message):
            in_memory(made(**changes), 32)


def test_gray_parts_get_the_channels_of_parts_in_colour() -> None:
    pixels, labels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8), np.arange(20) % 2
    data = in_memory({"x_train": pixels, "y_train": labels, "x_test": pixels[..., None], "y_test": labels}, 8)
    assert data.train.images.shape == data.test.images.shape == (20, 1, 8, 8)
    mixed = in_memory(((pixels, labels), (np.stack([pixels] * 3, axis=3), labels)), 8)
    assert np.array_equal(mixed.train.images, mixed.test.images) and mixed.train.images.shape == (20, 3, 8, 8)
    assert mixed.sha256 == data.sha256
