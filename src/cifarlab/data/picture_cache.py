"""Cache of decoded images of the user's files, so that a second command need not read them again.

An entry is named after all that decides its pixels: paths, sizes and times of the files, side, resizing and decoder.
"""

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL

from cifarlab import files
from cifarlab.data import image_files
from cifarlab.data.dataset import stacked
from cifarlab.errors import CifarlabError

LARGEST = 2 * 10**9  # bytes of all entries; those used longest ago are deleted
SLOW = 1.0  # seconds of reading from which on it is worth an entry
SETTLED = 2 * 10**9  # nanoseconds since a file's last change; it could change again in the same tick of the clock


def entry_of(sources: Sequence[Path | bytes], *settings: object) -> Path | None:
    """Return the file for the decoded images of these sources, or None if one of them has just changed."""
    decoder = Path(image_files.__file__).read_bytes()
    digest, newest = hashlib.sha256(repr((PIL.__version__, decoder, settings)).encode()), 0
    for source in sources:
        facts = source if isinstance(source, bytes) else b""
        if isinstance(source, Path):
            with contextlib.suppress(OSError, ValueError):  # a file that cannot be read has no image in the entry
                status = os.stat(source)
                times = (status.st_mtime_ns, status.st_ctime_ns)
                newest = max(newest, *times)
                facts = repr((os.path.abspath(source), status.st_size, status.st_ino, times)).encode()
        digest.update(hashlib.sha256(facts).digest())
    settled = newest < time.time_ns() - SETTLED
    return files.cache_folder() / "pictures" / f"{digest.hexdigest()}.npz" if settled else None


def load(entry: Path) -> dict[int, np.ndarray]:
    """Return the images in an entry by the numbers of their sources; none if it is missing or damaged."""
    with contextlib.suppress(Exception):  # damage raises errors of many kinds; a zip archive has checksums
        with np.load(io.BytesIO(files.read_regular(entry)), allow_pickle=False) as arrays:
            images = dict(zip(arrays["numbers"].tolist(), arrays["images"], strict=True))
        os.utime(entry)
        return images
    return {}


def store(entry: Path, images: Mapping[int, np.ndarray]) -> None:
    """Write an entry if the disk allows it, and delete those used longest ago."""
    content = io.BytesIO()
    np.savez(content, numbers=np.array(list(images)), images=stacked(list(images.values())))
    with contextlib.suppress(CifarlabError, OSError):
        files.make_folder(entry.parent)
        files.write_bytes(entry, content.getvalue())
        total = 0
        for path in sorted(entry.parent.glob("*.npz"), key=lambda path: -path.stat().st_mtime):
            total += path.stat().st_size
            if total > LARGEST:
                path.unlink()
