"""The cache of decoded pictures: quick, never wrong when a picture changes, safe against damage, and bounded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarlab import Data, load_data
from cifarlab.data import image_files, picture_cache
from cifarlab.data.own import loading
from conftest import make_images

Reads = list[str]  # names of the pictures that were decoded


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Cache however quick reading is and however new the files are, in a folder of the test's own."""
    names, read_image = list[str](), image_files.read_image

    def read(source: Path, *arguments: object) -> np.ndarray:
        names.append(source.name)
        image: np.ndarray = read_image(source, *arguments)  # type: ignore[arg-type]
        return image

    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(picture_cache, "SLOW", 0.0)
    monkeypatch.setattr(picture_cache, "SETTLED", -(10**18))
    monkeypatch.setattr(loading, "read_image", read)
    make_images(tmp_path / "pets", {"cat": 6, "dog": 6})
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"no picture")
    return names


def pets(folder: Path, size: int = 32) -> Data:
    return load_data(f"folder:{folder / 'pets'}", size=size, quiet=True)


def test_pictures_are_decoded_once(reads: Reads, tmp_path: Path) -> None:
    first = pets(tmp_path)
    assert len(reads) == 13 and len(first.skipped) == 1
    reads.clear()
    second = pets(tmp_path)
    assert reads == ["broken.png"]  # so that it is reported again
    assert (second.sha256, second.skipped, second.train.names) == (first.sha256, first.skipped, first.train.names)
    assert pets(tmp_path, size=24).train.images.shape[2:] == (24, 24) and len(reads) == 14


def test_changed_pictures_are_decoded_again(reads: Reads, tmp_path: Path) -> None:
    first, picture = pets(tmp_path), tmp_path / "pets" / "cat" / "0.png"
    before = picture.stat()
    content = picture.read_bytes()
    Image.new("RGB", (40, 30), "red").save(picture)
    picture.write_bytes(picture.read_bytes().ljust(len(content), b"\0"))  # of the same size
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))  # and time
    changed = pets(tmp_path)
    assert len(reads) == 26 and changed.sha256 != first.sha256
    picture.write_bytes(content)
    assert pets(tmp_path).sha256 == first.sha256
    (tmp_path / "pets" / "dog" / "1.png").rename(tmp_path / "pets" / "cat" / "1-dog.png")
    assert pets(tmp_path).sha256 != first.sha256


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_damaged_entries_are_replaced(reads: Reads, tmp_path: Path, damage: bytes | None) -> None:
    first = pets(tmp_path)
    (entry,) = (tmp_path / "home" / "pictures").iterdir()
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(bytes(content) if damage is None else damage)
    reads.clear()
    assert pets(tmp_path).sha256 == first.sha256 and len(reads) == 13
    reads.clear()
    assert pets(tmp_path).sha256 == first.sha256 and len(reads) == 1


def test_entries_are_bounded_and_need_not_be_writable(
    reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pets(tmp_path)
    (entry,) = (tmp_path / "home" / "pictures").iterdir()
    monkeypatch.setattr(picture_cache, "LARGEST", 2 * entry.stat().st_size)
    for size in (16, 20, 24, 28, 40):
        pets(tmp_path, size=size)
    entries = list((tmp_path / "home" / "pictures").iterdir())
    assert sum(path.stat().st_size for path in entries) <= picture_cache.LARGEST and entry not in entries
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "home").write_text("a file")
    assert pets(tmp_path).sha256 == first.sha256


def test_pictures_that_have_just_changed_are_not_cached(
    reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_cache, "SETTLED", 2 * 10**9)
    pets(tmp_path)
    assert not (tmp_path / "home" / "pictures").exists()
