"""Write files so that they appear complete or not at all, and check the paths that users name."""

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from cifarlab.errors import CifarlabError, UsageError

LONGEST_WRITE = 60.0  # seconds; an older temporary file was left by a process that was killed
_TEMPORARY = re.compile(r"\.\d+-\d+\..+")


def write_bytes(
    path: Path, content: bytes | Iterable[bytes], *, durable: bool = True, older: Path | None = None
) -> None:
    """Write a temporary file next to `path`, then rename it to `path` in one step; raise CifarlabError if that fails.

    The file is flushed to the disk before it is renamed, and its folder afterwards. A reader, a kill or a power cut
    therefore finds the old file or the new one, never a part. The content must be bytes, in pieces if it is too large
    to hold twice, because libraries that write files themselves turn a full disk into errors of many kinds.

    `durable=False` does not flush, for files that are written every second. The replaced file is moved to `older`.
    """
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # does not follow a symbolic link of that name
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
    """Delete the temporary files that killed processes left in a folder and its subfolders."""
    for path in folder.rglob(".*"):
        with contextlib.suppress(OSError):
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > LONGEST_WRITE:
                path.unlink()


def open_regular(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=open_regular)`; raise OSError for a symbolic link, FIFO, device or folder."""
    if os.path.islink(path):  # O_NOFOLLOW says this too, but as "Too many levels of symbolic links"
        raise OSError(f"{path} is a symbolic link")
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file; raise OSError if it is anything else."""
    with open(path, "rb", opener=open_regular) as file:
        return file.read()


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, in the way and with the errors of `write_bytes`."""
    write_bytes(path, text.encode())


def check_new(path: Path, *, force: bool, ending: str = "") -> None:
    """Check that the file that a user named with `--out` can be written, and overwrites another only by `force`."""
    if not path.name.endswith(ending):
        raise UsageError(f"--out {str(path)!r}: should end in {ending}")
    if not path.parent.is_dir():
        raise UsageError(f"--out {str(path)!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise UsageError(f"--out {str(path)!r}: is a folder")
    if path.exists() and not force:
        raise UsageError(f"--out {str(path)!r}: the file exists; replace it with --force")


def make_folder(path: Path) -> None:
    """Create the folder `path` and its parents; raise CifarlabError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CifarlabError(f"cannot make the folder {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its journal keeps the rename
        return
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder; the file itself is safe
        os.fsync(descriptor)
    os.close(descriptor)
