"""Write files so that they appear complete or not at all, check the paths that users name, and identify formats."""

import contextlib
import os
import re
import shlex
import stat
import threading
import time
import zipfile
from collections.abc import Iterable
from glob import escape
from pathlib import Path

import platformdirs

from cifarlab.errors import CifarlabError, UsageError, one_line, readable

LONGEST_WRITE = 60.0  # seconds; an older temporary file was left by a process that was killed
_BEFORE_HOME = re.compile(r"((?:--[\w-]+=)?(?:[\w.]+=)?(?:\w+:)?)~(?=[/\\]|$)")
_TEMPORARY = re.compile(r"\.\d+-\d+\..+")

_PYTORCH = "Load its weights into a network with: cifarlab import {file} --model NAME, or FILE.py:NAME"
_ARRAYS = "Read images and labels in Python, write them with numpy.savez, and train on that file: --data npz:FILE.npz"
_UNPACK = "Unpack it. Folders of images are data sets: cifarlab train --data folder:FOLDER"
_ZIP = rb"PK\x03\x04.{26}"  # up to the name of the first file in the archive
_FORMATS: tuple[tuple[bytes, str, str], ...] = (  # pattern of the first bytes, format, how a user gets on
    (rb"MATLAB [57]", "a MATLAB file", _ARRAYS),
    (rb"\x89HDF", "a Keras (HDF5) file", "Convert it with: cifarlab import {file}"),
    (_ZIP + rb"(config|metadata)\.json", "a .keras archive of Keras", "Convert it with: cifarlab import {file}"),
    (_ZIP + rb"[^/]+/(data\.pkl|data/[0-9]|byteorder|version|constants)", "a PyTorch file", _PYTORCH),
    (rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9", "a PyTorch file", _PYTORCH),  # before 1.6
    (rb"\x80[\x02-\x05]", "a Python pickle", "It is not opened, because a pickle can run code."),
    (_ZIP + rb"[^/\x00]{1,99}\.npy", "a NumPy archive", "Train on it with: cifarlab train --data npz:{file}"),
    (rb"\x93NUMPY", "a NumPy array", _ARRAYS),
    (rb"PK[\x03\x05]", "a zip archive", _UNPACK),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|.{257}ustar", "an archive", _UNPACK),
    (rb"PAR1|ARROW1", "a Parquet or Arrow file", "Train on its folder with: cifarlab train --data hf:{folder}"),
    (rb"\x00\x00\x08[\x01-\x04]", "an IDX file (as of MNIST)", "Train with: cifarlab train --data folder:{folder}"),
    (rb".{4}TFL3", "a TensorFlow Lite file", "Import the Keras file that it was converted from, with cifarlab import."),
    (rb"\x08\x01\x12", "a SavedModel", "In TensorFlow, save it with model.save('x.h5') for cifarlab import."),
    (rb"\x08[\x02-\x20][\x12\x1a\x22\x28\x32\x3a\x42]", "an ONNX file", "Import the Keras file that it was made from."),
    (rb".{4}\x00{4}\{", "a safetensors file", "Commands take it as it is if cifarlab wrote it and its name ends so."),
    (rb".{4}ftyp(hei|hev|mif1)", "an HEIC image", "Save it as JPEG or PNG: Pillow does not read HEIC."),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP", "an image", "Classify it with: cifarlab predict TARGET {file}"),
    (
        rb'(\xef\xbb\xbf)?\s*("\{|\{\s*\\?").*class_name',
        "an architecture without weights",
        "Import the weights, with --architecture {file}.",
    ),
    (rb'(\xef\xbb\xbf)?\s*\{\s*"', "a JSON file", ""),
    (rb"version https://git-lfs", "a reference to a file in Git LFS", "Get the file itself with: git lfs pull"),
)


def format_of(source: Path | bytes) -> tuple[str, str]:
    """Return the format of a file by its first bytes, and how a user gets on with it; both are empty if unknown."""
    if isinstance(source, Path):
        path = source / "saved_model.pb" if source.is_dir() else source
        try:
            with open(path if path.is_file() else os.devnull, "rb") as file:  # a pipe could wait for ever
                head = file.read(512)
        except OSError:
            head = b""
    else:
        head = source
    known = ((name, advice) for pattern, name, advice in _FORMATS if re.match(pattern, head, re.DOTALL))
    name, advice = next(known, ("", ""))
    return name, with_path(advice, source if isinstance(source, Path) else Path("FILE"))


def is_cut_zip(path: Path) -> bool:
    """Return True if a file begins as a zip archive, such as those of PyTorch, but is incomplete or damaged."""
    with path.open("rb") as file:
        return file.read(2) == b"PK" and not zipfile.is_zipfile(path)


def with_path(advice: str, path: Path) -> str:
    """Return a sentence with the path for `{file}`, and its parent for `{folder}`, quoted for a shell."""
    return advice.replace("{file}", shlex.quote(str(path))).replace("{folder}", shlex.quote(str(path.parent)))


def other_format(source: Path | bytes, expected: str = "none") -> str:
    """Return a file's format by its first bytes and what to do; empty if unknown or if its name contains `expected`."""
    name, advice = format_of(source)
    return f"{name}. {advice}".strip() if name and expected not in name else ""


def why_unreadable(path: Path, error: Exception) -> str:
    """Return that a file is only a reference to the real one, which Git LFS keeps, or else the error's text."""
    return other if "Git LFS" in (other := other_format(path)) else one_line(error)[:200]


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
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
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
        if durable:
            sweep(path.parent.glob(f".*.{escape(path.name)}"))


def sweep(paths: Iterable[Path]) -> None:
    """Delete those of some paths that are temporary files of killed processes."""
    for path in paths:
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
    write_bytes(path, text.encode(errors="replace"))


def with_home(path: Path | str) -> str:
    """Return a path that a user gives, or a word such as `--out=~/a` or `folder:~/a`, with the home folder for `~`."""
    start = _BEFORE_HOME.match(text := str(path))
    return f"{start[1]}{os.path.expanduser('~')}{text[start.end() :]}" if start else text


def check_new(path: Path, *, force: bool, ending: str = "", option: str = "--out") -> None:
    """Check that the file that a user named with an option can be written, and overwrites another only by `force`."""
    place = f"{option} {str(path)!r}"
    if not path.name.endswith(ending):
        raise UsageError(f"{place}: should end in {ending}")
    if not path.parent.is_dir():
        raise UsageError(f"{place}: there is no folder {str(path.parent)!r}")
    if path.exists() and not path.is_file():
        raise UsageError(f"{place}: is a {'folder' if path.is_dir() else 'device or a pipe, not a file'}")
    if path.exists() and not force:
        raise UsageError(f"{place}: the file exists; replace it with --force")


def check_encoding(path: Path | str) -> None:
    """Check that an absolute path can be written into records, which are UTF-8."""
    if str(path) != readable(path):
        raise UsageError(f"the path {readable(path)} has a name that is not UTF-8. Rename that folder.")


def cache_folder() -> Path:
    """Return the folder for downloads: `CIFARLAB_HOME`, or else the platform's cache folder."""
    home = os.environ.get("CIFARLAB_HOME")
    try:
        return Path(with_home(home)) if home else platformdirs.user_cache_path("cifarlab", appauthor=False)
    except RuntimeError as error:
        raise UsageError("you have no home folder. Set CIFARLAB_HOME to a folder for downloads.") from error


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
