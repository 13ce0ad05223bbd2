"""Checks of a data set before anything is trained on it."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlab import load_data
from cifarlab.data.quality.checks import check_data_set
from conftest import Cli, answer, make_images


def findings(name: str) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for finding in check_data_set(name, quiet=True):
        kinds[finding.kind].append(finding.text)
    return kinds


def test_every_kind_of_fault_in_a_folder_is_found(tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    make_images(train, {"cat": 60, "dog": 12, "Dogs": 3}, (40, 40))
    make_images(test, {"dog": 2, "cat": 2}, (50, 50))
    (train / "cat" / "0.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 7), (1, 2, 3)).save(train / "cat" / "1.png")
    shutil.copy(train / "cat" / "2.png", train / "cat" / "3.png")
    shutil.copy(train / "cat" / "4.png", train / "dog" / "4.png")
    shutil.copy(train / "dog" / "5.png", test / "dog" / "1.png")
    kinds = findings(f"folder:{tmp_path}")
    expected = ("unreadable", "tiny", "blank", "duplicate", "contradiction", "leak", "few", "unbalanced", "names")
    assert {kind: len(texts) for kind, texts in kinds.items()} == dict.fromkeys(expected, 1)
    assert "0.png: not an image" in kinds["unreadable"][0] and "1.png: only 9x7 pixels" in kinds["tiny"][0]
    assert "4.png (cat)" in kinds["contradiction"][0] and "4.png (dog)" in kinds["contradiction"][0]
    assert kinds["names"] == ["classes 'dog' and 'Dogs' may be one class"]
    assert kinds["few"] == ["class 'Dogs' has 3 readable training images, fewer than 10"]


def test_a_clean_data_set_has_no_findings(cli: Cli, tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"cat": 20, "dog": 15})
    assert "tiny" in findings(f"folder:{tmp_path / 'pets'}")  # because the images have 40x30 pixels
    assert cli("data", "check", f"folder:{tmp_path / 'pets'}", "--size", 24).stdout == "nothing found\n"
    assert answer(cli("data", "check", "digits", "--json"))["findings"] == []


def test_arrays_are_checked_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    pixels[7] = pixels[6]
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=np.arange(40) % 2, x_test=pixels[:2], y_test=[0, 1])
    kinds = findings(f"npz:{tmp_path / 'a.npz'}")
    assert kinds["contradiction"] == ["one image, two classes: train image 6 (0) = train image 7 (1)"]
    assert kinds["leak"][0] == "one image in two parts: train image 0 (0) = test image 0 (0)"


def test_classes_without_a_readable_image_are_reported(tmp_path: Path) -> None:
    make_images(tmp_path / "folder", {"ant": 12, "bee": 12})
    (tmp_path / "folder" / "cat").mkdir()
    assert "class 'cat' has 0 readable training images" in "; ".join(findings(f"folder:{tmp_path / 'folder'}")["few"])
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    np.savez(tmp_path / "gap.npz", x_train=images, y_train=np.repeat([0, 2], 20))
    assert "class '1' has 0 readable training images" in "; ".join(findings(f"npz:{tmp_path / 'gap.npz'}")["few"])


def test_classes_that_look_like_parts_or_hold_only_folders_are_reported(tmp_path: Path) -> None:
    make_images(tmp_path / "first half", {"cat": 12, "dog": 12})
    make_images(tmp_path / "second half", {"cat": 12, "dog": 12})
    make_images(tmp_path, {"validation": 12})
    kinds = findings(f"folder:{tmp_path}")
    assert [text for text in kinds["parts"] if "'validation' has the name of a part" in text]
    assert [text for text in kinds["parts"] if "'first half' holds only folders, perhaps the classes: cat, dog" in text]


def test_folders_that_do_not_fit_together_are_a_finding(cli: Cli, tmp_path: Path) -> None:
    make_images(tmp_path / "pets" / "train", {"cat": 12, "dog": 12})
    make_images(tmp_path / "pets" / "test", {"cat": 2, "dgo": 2})
    ended = cli("data", "check", "folder:pets")
    assert "parts: pets/test: unknown class folder 'dgo': did you mean 'dog'?" in ended.stdout
    assert "(the classes are the folders in pets/train)\n1 findings\n" in ended.stdout
    make_images(tmp_path / "pets" / "Training", {"cat": 2, "dog": 2})
    assert "are both folders of the part train" in cli("data", "check", "folder:pets").stdout
    cli("data", "check", "folder:none", status=2)


def test_findings_count_the_images_that_are_left_for_training(tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"ant": 50, "bee": 10, "cat": 12})
    make_images(tmp_path / "one", {"caf\u00e9": 12, "cafe\u0301": 12})
    kinds = findings(f"folder:{tmp_path / 'pets'}")
    assert kinds["few"] == ["class 'bee' has 8 readable training images, fewer than 10"]  # a fifth is tested on
    assert kinds["unbalanced"][0].startswith("unequal classes (ant 40, cat 10, bee 8)")  # a fifth of the largest
    assert findings(f"folder:{tmp_path / 'one'}")["parts"][0].startswith("training needs at least two classes, got caf")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/pets/caf\xe9")).mkdir()
    shutil.copy(tmp_path / "pets/ant/0.png", next(tmp_path.glob("pets/caf*")))
    assert "parts" not in findings(f"folder:{tmp_path / 'pets'}")


def test_pictures_beside_the_folders_of_classes_are_named(cli: Cli, tmp_path: Path) -> None:
    make_images(tmp_path / "pets", {"cat": 12, "dog": 12})
    shutil.copy(tmp_path / "pets" / "cat" / "1.png", tmp_path / "pets" / "loose.png")
    for command in ("check", "info"):
        ended = cli("data", command, "folder:pets")
        assert "pets: 1 files beside the folders are not used, such as loose.png" in ended.stderr
    assert load_data(f"folder:{tmp_path / 'pets'}", quiet=True).skipped == ()
