"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from cifarlab.errors import CifarlabError, UsageError

SECONDS_OF_A_WRITE = 60.0  # more than any takes
_TEMPORARY = re.compile(r"\.\d+-\d+\..+")


def write_bytes(
    path: Path, content: bytes | Iterable[bytes], *, durable: bool = True, older: Path | None = None
) -> None:
    """Writes `content` to `path` through a temporary file beside it, which is then put in place in one step.

    The file is flushed to the disk before it is renamed and its folder after, so that a reader, a kill or a power cut
    finds the old file or the new one, never a part. Everything is made into bytes before it comes here, because the
    libraries that write files by themselves turn a full disk into errors of many kinds.

    Args:
        path: where the file shall be; its folder must exist.
        content: the bytes, or an iterable of pieces of them for what is too large to hold twice.
        durable: flush to the disk; not worth its time for what is written anew every second.
        older: where the file that is replaced shall go, if it is to be kept.

    Raises:
        CifarlabError: the file could not be written (no space, no permission); an older file is untouched.
    """
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.{path.name}")
    try:
        with temporary.open("wb") as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if older is not None and path.exists():
            path.replace(older)
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise CifarlabError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what `write_bytes` could not finish under a folder because its process was killed a while ago."""
    for path in folder.rglob(".*"):
        with contextlib.suppress(OSError):
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > SECONDS_OF_A_WRITE:
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8, whole or not at all; raises as `write_bytes` does."""
    write_bytes(path, text.encode())


def check_new(path: Path, *, force: bool, ending: str = "") -> None:
    """Checks that a file that the user named can be written there.

    Raises:
        UsageError: its name has not the `ending` that others know it by, its folder does not exist, it is a folder
            itself, or there is such a file and no `force`.
    """
    if not path.name.endswith(ending):
        raise UsageError(f"--out {str(path)!r}: should end in {ending}")
    if not path.parent.is_dir():
        raise UsageError(f"--out {str(path)!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise UsageError(f"--out {str(path)!r}: is a folder")
    if path.exists() and not force:
        raise UsageError(f"--out {str(path)!r}: there is already such a file; replace it with --force")


def make_folder(path: Path) -> None:
    """Makes the folder `path` and those above it.

    Raises:
        CifarlabError: it cannot be made (read-only disk, no permission, a file of that name).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CifarlabError(f"cannot make the folder {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; there the journal keeps the rename
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot; the file itself is safe
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
