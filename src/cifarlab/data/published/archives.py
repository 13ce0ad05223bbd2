"""Find the files of a published data set in folders and archives, check them, and decode them into records.

Nothing is written to the disk and no code in an archive is run: members are chosen by name, read up to a limit, and
decoded in memory. `decoding` has the formats.
"""

import io
import tarfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from cifarlab.data.published.description import PublishedData, digest_of
from cifarlab.errors import CifarlabError, one_line

AR_MAGIC = b"!<arch>\n"  # of a Debian package, an `ar` archive of two tar archives
AR_HEADER_BYTES = 60  # name in the first 16, size as text in the ten before the last two


def read(path: Path, data: PublishedData) -> dict[str, bytes]:
    """Return the records of each piece of a data set in a folder or an archive."""
    return read_files([path], data, path.absolute().name)


def read_files(paths: Iterable[Path], data: PublishedData, place: str) -> dict[str, bytes]:
    """Return the records of each piece of a data set in files, archives and folders together; `place` is for errors.

    Raises:
        CifarlabError: a file is missing or damaged, or not the published one.
    """
    wanted = {name for kind in data.formats for names in kind.files.values() for name in names}
    members = {name: content for path in paths for name, content in _members(path, wanted, data)}
    fitting = (kind for kind in data.formats if members.keys() >= {n for names in kind.files.values() for n in names})
    if (found := next(fitting, None)) is None:
        usual = sorted({name for names in data.formats[0].files.values() for name in names})
        raise CifarlabError(f"{place} does not contain {data.title}, such as the files {', '.join(usual)}")
    records = {}
    for piece in data.pieces:
        names = found.files[piece.name]
        for name in names:
            digest = data.digests.get(name, "")
            if digest and digest_of(members[name], digest) != digest:
                raise CifarlabError(f"{name} is not the published one ({_kind(digest)} differs)")
        try:
            content = found.decode(data, piece, [members[name] for name in names])
        except CifarlabError:
            raise
        except Exception as error:  # forged or damaged content can raise any error
            raise CifarlabError(f"{names[0]} cannot be decoded ({one_line(error)})") from error
        if piece.digest and digest_of(content, piece.digest) != piece.digest:
            raise CifarlabError(f"{piece.name} is not the official one ({_kind(piece.digest)} differs)")
        records[piece.name] = content
    return records


def _kind(digest: str) -> str:
    return {"md5": "MD5", "sha256": "SHA-256"}[digest.partition(":")[0]]


def _members(path: Path, wanted: Collection[str], data: PublishedData) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files at a path: in a folder at its top, one level below, and in the archives in it."""
    if path.is_dir():
        archives = {url.partition("?")[0].rpartition("/")[2] for source in data.sources for url in source.urls}
        for file in [*path.glob("*"), *path.glob("*/*")]:
            if file.name in {*wanted, *archives} - {""} and file.is_file():
                yield from _members(file, wanted, data)
    elif path.name in wanted:
        if path.stat().st_size <= data.largest_file:
            yield path.name, path.read_bytes()
    else:
        try:
            yield from _archive_members(path, wanted, data)
        except Exception as error:  # every compression raises its own errors for damaged bytes
            reason = one_line(str(error).partition("\n")[0]).rstrip(":")  # tarfile adds a line for each compression
            raise CifarlabError(f"{path.name} is not a complete tar archive ({reason})") from error


def _archive_members(path: Path, wanted: Collection[str], data: PublishedData) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        inner: io.BufferedIOBase = _data_of_debian_package(file) if file.read(len(AR_MAGIC)) == AR_MAGIC else file
        inner.seek(0)
        with tarfile.open(fileobj=inner) as archive:
            for member in archive:
                if member.offset_data + member.size > data.largest_archive:
                    raise ValueError(f"unpacks to far more than {data.title}")
                name = member.name.rpartition("/")[2]
                if name in wanted and member.isfile() and member.size <= data.largest_file:
                    content = archive.extractfile(member)
                    assert content is not None  # true of every regular file
                    yield name, content.read()


def _data_of_debian_package(file: io.BufferedIOBase) -> io.BufferedIOBase:
    """Return the tar archive in a Debian package, whose first bytes have been read, that holds its files."""
    while header := file.read(AR_HEADER_BYTES):
        name, size = header[:16].strip().decode(), int(header[48:58])
        if name.startswith("data.tar"):
            return io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("a Debian package without files")
