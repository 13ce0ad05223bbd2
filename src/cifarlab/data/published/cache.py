"""Get a published data set from a host, a package registry, a mirror or a local copy, cache it, and load it.

The cache is one file of records, which is mapped into memory, and a JSON file with its source and its SHA-256 sums. The
sums are those that are known of the data set, or those of the content when it was decoded from the published files.
"""

import contextlib
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import filelock
import numpy as np

from cifarlab import files
from cifarlab.data import download
from cifarlab.data.dataset import Data, Dataset
from cifarlab.data.image_files import from_array
from cifarlab.data.published import archives
from cifarlab.data.published.description import PublishedData, Source, digest_of
from cifarlab.data.published.racing import PACE, AllFailed, Pace, Watch, deliver_fastest
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.recipes import Resize


@dataclass(frozen=True)
class Cached:
    """The cache file of a data set, the source that it was filled from, and the digest of each piece."""

    path: Path
    source: str
    digests: Mapping[str, str]


def load(data: PublishedData, size: int | None = None, *, quiet: bool = False, resize: Resize = "crop") -> Data:
    """Return a data set with images of `size` pixels a side, by default its own; download it first if necessary.

    Its bytes are compared with the checksums, which takes a fifth of a second for CIFAR-10.
    """
    cached = get(data, quiet=quiet)
    verify(data, cached)
    records = np.memmap(cached.path, dtype=np.uint8, mode="r", shape=(data.train + data.test, data.record_bytes))
    images = records[:, data.label_bytes :].reshape(-1, *data.shape)
    if size not in (None, data.size):
        images = from_array(images, size, resize)
    labels = records[:, data.label].astype(np.int64)
    train, test = (
        Dataset(images[part], labels[part], data.classes, superclasses=data.superclasses)
        for part in (slice(data.train), slice(data.train, None))
    )
    sums = [cached.digests[piece.name].removeprefix("sha256:") for piece in data.pieces]
    sha256 = hashlib.sha256("".join([*sums, data.name.partition(":")[2]]).encode()).hexdigest()  # of the checksums
    return Data(data.name, train, test, sha256, cached.source, str(cached.path))


def get(
    data: PublishedData,
    sources: Sequence[str] = (),
    *,
    folder: Path | None = None,
    force: bool = False,
    quiet: bool = False,
    pace: Pace = PACE,
) -> Cached:
    """Return the cache file of a data set; fill it first if it is missing or not complete, or if `force` is set.

    An old file stays until the new one is complete.

    Args:
        data: the data set.
        sources: names of the data set's sources, such as `official`; URLs of an archive or, with a slash at the end, of
            a folder with the official files; local archives, folders and cache files. By default all of its sources.
        folder: the folder to fill, by default that of `files.cache_folder`. Another one is filled from that, if it can.
        force: fill the cache again.
        quiet: show no progress.
        pace: how long each source is tried.
    """
    chosen = [_source(data, name) for name in sources] or list(data.sources)
    if not force and (cached := find_cached(data, folder)):
        return cached
    path = cache_path(data, folder)
    files.make_folder(path.parent)
    lock_file = path.parent / f".{data.cache_name}.lock"
    try:
        lock = filelock.FileLock(lock_file).acquire()
    except OSError as error:
        raise CifarlabError(f"cannot write {lock_file}: {error.strerror or error}") from error
    downloads = path.parent / "downloads" / data.cache_name
    with lock:
        if not force and (cached := find_cached(data, folder)):  # another process has filled it while this one waited
            return cached
        try:
            if folder and not (sources or force) and (own := find_cached(data)):
                source, records = own.source, _read_cache(data, own.path)
            else:
                deliver = partial(_deliver, data, downloads, quiet)
                source, records = deliver_fastest(data.title, chosen, deliver, pace, quiet)
        except AllFailed as error:
            _delete_empty(downloads)
            raise CifarlabError(_advice(data, path, error)) from error
        sums = {name: digest_of(content) for name, content in records.items()}
        files.write_bytes(path, (records[piece.name] for piece in data.pieces))
        files.write_text(_record_path(path), json.dumps({"source": source, "digests": sums}))
        shutil.rmtree(downloads, ignore_errors=True)  # also what slower sources have sent
        _delete_empty(downloads)
    return Cached(path, source, sums)


def find_cached(data: PublishedData, folder: Path | None = None) -> Cached | None:
    """Return the cache file if it is complete. Its size tells, because it is put in place whole and checked."""
    path = cache_path(data, folder)
    if not path.is_file() or path.stat().st_size != (data.train + data.test) * data.record_bytes:
        return None
    known = {piece.name: piece.digest for piece in data.pieces if piece.digest.startswith("sha256:")}
    source, recorded = _read_record(path)
    known = recorded | known
    return Cached(path, source, known) if known.keys() >= {piece.name for piece in data.pieces} else None


def cache_path(data: PublishedData, folder: Path | None = None) -> Path:
    """Return the path of a data set's cache file."""
    return (folder or files.cache_folder()) / f"{data.cache_name}.bin"


def verify(data: PublishedData, cached: Cached) -> None:
    """Compare the whole cache file with its checksums."""
    again = f"get it again with cifarlab data get {data.cache_name} --force"
    with cached.path.open("rb") as file:
        for piece in data.pieces:
            digest = cached.digests[piece.name]
            if digest_of(file.read(piece.images * data.record_bytes), digest) != digest:
                raise CifarlabError(f"{cached.path} is damaged ({piece.name}): {again}")


def _source(data: PublishedData, name: str) -> Source:
    """Return the source that a user names."""
    if known := next((source for source in data.sources if source.name == name), None):
        return known
    if name.startswith(("http://", "https://")):
        official = data.sources[0]
        names = [download.file_name(url) for url in official.urls]
        urls = tuple(name + file for file in names) if name.endswith("/") else (name,)
        return Source(name, urls, official.bytes)
    if not Path(name).exists():
        words = ", ".join(source.name for source in data.sources)
        raise UsageError(f"--source {name!r}: should be {words}, a URL, or an existing file or folder")
    return Source(name, (), 0)


def _deliver(data: PublishedData, folder: Path, quiet: bool, source: Source, watch: Watch) -> dict[str, bytes]:
    """Return the records of a data set from one source, downloading into `folder`."""
    if source.needs and importlib.util.find_spec(source.needs) is None:
        raise download.Unreachable(f"skipped, because it needs {source.needs}: pip install 'cifarlab[hf]'")
    if not source.urls:
        return _read_local(data, Path(source.name))
    addresses = [download.address(url) for url in source.urls]
    targets = [folder / download.file_name(address) for address in addresses]
    have = [path for target in targets for path in (target, download.part_of(target)) if path.exists()]
    watch.left -= sum(path.stat().st_size for path in have)
    is_from_earlier = any(target.exists() for target in targets)
    for address, target in zip(addresses, targets, strict=True):
        if not target.exists():
            is_from_earlier |= download.fetch(
                address, target, most_bytes=data.largest_archive, watch=watch, quiet=quiet
            )
    try:
        return archives.read_files(targets, data, targets[0].name)
    except CifarlabError:
        for target in targets:
            target.unlink()
        if not is_from_earlier:
            raise
    # A part that an earlier download left may be of another file.
    return _deliver(data, folder, quiet, source, watch)


def _read_local(data: PublishedData, path: Path) -> dict[str, bytes]:
    """Return the records in a local archive, in a folder, or in the cache of another machine."""
    try:
        for file in (path, path / f"{data.cache_name}.bin"):
            if file.is_file() and file.stat().st_size == (data.train + data.test) * data.record_bytes:
                return _read_cache(data, file)
        return archives.read(path, data)
    except OSError as error:
        raise CifarlabError(f"cannot be read ({error.strerror or error})") from error


def _read_cache(data: PublishedData, path: Path) -> dict[str, bytes]:
    records, (_, digests) = {}, _read_record(path)
    with path.open("rb") as file:
        for piece in data.pieces:
            records[piece.name] = file.read(piece.images * data.record_bytes)
            if not (digest := piece.digest or digests.get(piece.name, "")):
                raise CifarlabError(f"{path} cannot be checked without {_record_path(path).name} beside it")
            if digest_of(records[piece.name], digest) != digest:
                raise CifarlabError(f"{piece.name} is not the official one (checksum differs)")
    return records


def _delete_empty(downloads: Path) -> None:
    """Delete the folder of a data set's downloads, and that of all downloads, if nothing is in them."""
    with contextlib.suppress(OSError):
        if downloads.exists():
            downloads.rmdir()
        downloads.parent.rmdir()


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_record(path: Path) -> tuple[str, dict[str, str]]:
    """Return the source and the digests in the JSON file beside a cache file, or `unknown` and none."""
    source, digests = "unknown", dict[str, str]()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record = json.loads(_record_path(path).read_text())
        source = one_line(record["source"])
        recorded = {str(name): str(digest) for name, digest in record["digests"].items()}
        digests = {name: digest for name, digest in recorded.items() if digest.startswith("sha256:")}
    return source, digests


def _advice(data: PublishedData, path: Path, error: AllFailed) -> str:
    command = f"cifarlab data get {data.cache_name}"
    cannot = f"cannot get {data.title}{', because there seems to be no network' if error.offline else ''}"
    official = ", ".join(download.file_name(url) for url in data.sources[0].urls)
    return (
        f"{cannot} ({error}). Three ways to get it: with a network, {command}; from a mirror, {command} --source URL; "
        f"from a copy of {official}, of its folder or of {path} on another machine, {command} --source PATH"
    )
