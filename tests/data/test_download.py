"""Downloads from a real host on this computer that cuts, stalls, crawls or answers nonsense; and npm's answers."""

from __future__ import annotations

import gzip
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from cifarlab.data import download
from cifarlab.errors import CifarlabError
from local_host import Answer, LocalHost

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file.tar"


def fetch(url: str, target: Path, most_bytes: int = 2**30) -> bool:
    return download.fetch(url, target, most_bytes=most_bytes, quiet=True)


def fails(url: str, target: Path, most_bytes: int = 2**30) -> str:
    """Return the error's text, which must be one line."""
    with pytest.raises(CifarlabError) as raised:
        fetch(url, target, most_bytes)
    assert not target.exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def leave_part(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part_of(target).write_bytes(content)


def assert_whole(target: Path, content: bytes = CONTENT) -> None:
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [target.name]  # no part is left


def assert_start_kept(target: Path, most: int) -> int:
    """Check that the bytes received, except at most one chunk, are kept for the next download; return their number."""
    kept = part_of(target).read_bytes()
    assert most - download.CHUNK < len(kept) <= most
    assert kept == CONTENT[: len(kept)]
    return len(kept)


def test_missing_certificates_are_no_fault_of_the_disk(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "none.pem")
    assert fails("https://127.0.0.1:1/file", target).startswith("Could not find a suitable TLS CA certificate bundle")


def test_a_file_arrives_whole_and_leaves_no_part(target: Path) -> None:
    with LocalHost(CONTENT) as host:
        assert fetch(host.url, target) is False
        assert host.ranges == [None]
    assert_whole(target)


def test_a_download_continues_an_earlier_one(target: Path) -> None:
    leave_part(target, CONTENT[:123_456])
    with LocalHost(CONTENT) as host:
        assert fetch(host.url, target) is True
        assert host.ranges == ["bytes=123456-"]
    assert_whole(target)


def test_a_host_that_ignores_the_range_sends_it_all(target: Path) -> None:
    leave_part(target, b"something else" * 1000)
    with LocalHost(CONTENT, Answer(ranges=False)) as host:
        assert fetch(host.url, target) is False  # no byte is from an earlier download
        assert host.ranges == ["bytes=14000-"]
    assert_whole(target)


def test_after_a_cut_the_rest_is_requested(target: Path) -> None:
    with LocalHost(CONTENT, Answer(cut=150_000), Answer()) as host:
        assert fetch(host.url, target) is False
        first, second = host.ranges
    assert first is None and second is not None
    assert 150_000 - download.CHUNK < int(second.removeprefix("bytes=").removesuffix("-")) <= 150_000
    assert_whole(target)


def test_a_host_that_always_cuts_is_given_up_and_the_next_download_continues(target: Path) -> None:
    with LocalHost(CONTENT, Answer(cut=50_000)) as host:
        assert "cut" in fails(host.url, target)
        assert len(host.ranges) == download.TRIES
    kept = assert_start_kept(target, download.TRIES * 50_000 - (download.TRIES - 1) * (50_000 % download.CHUNK))
    with LocalHost(CONTENT) as host:
        assert fetch(host.url, target) is True
        assert host.ranges == [f"bytes={kept}-"]
    assert_whole(target)


def test_a_host_that_sends_nothing_is_not_asked_twice(target: Path) -> None:
    leave_part(target, CONTENT[:1000])
    with LocalHost(CONTENT, Answer(cut=0)) as host:
        assert "cut" in fails(host.url, target)
        assert len(host.ranges) == 1
    assert part_of(target).read_bytes() == CONTENT[:1000]


def test_after_a_stall_the_rest_is_requested(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 1.0)
    with LocalHost(CONTENT, Answer(stall=200_000), Answer()) as host:
        began = time.monotonic()
        fetch(host.url, target)
        assert 1 <= time.monotonic() - began < 3
        assert len(host.ranges) == 2 and host.ranges[1] is not None
    assert_whole(target)


@pytest.mark.parametrize("silent", [False, True])  # in the middle of the file, or before the first byte
def test_a_host_that_stalls_is_given_up_and_the_text_says_so(
    target: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 1.0)
    leave_part(target, CONTENT[:100_000])
    with LocalHost(CONTENT, Answer(silent=silent, stall=100)) as host:
        assert fails(host.url, target) == "stalled for 1 s"
    assert part_of(target).read_bytes() == CONTENT[:100_000]


def test_a_download_is_watched_and_can_be_ended_and_continued(target: Path) -> None:
    counts = list[int]()

    def watch(count: int) -> None:
        counts.append(count)
        if sum(counts) > 100_000:
            raise CifarlabError("enough")

    with LocalHost(CONTENT) as host:
        with pytest.raises(CifarlabError, match="enough"):
            download.fetch(host.url, target, most_bytes=2**30, watch=watch, quiet=True)
        assert part_of(target).read_bytes() == CONTENT[: sum(counts)]
        assert fetch(host.url, target) is True
        assert host.ranges == [None, f"bytes={sum(counts)}-"]
    assert_whole(target)


@pytest.mark.parametrize("status", [404, 503])
def test_an_http_error_is_reported_with_its_status_and_keeps_the_part(target: Path, status: int) -> None:
    leave_part(target, CONTENT[:1000])
    with LocalHost(CONTENT, Answer(status=status)) as host:
        assert f"the host answers {status} " in fails(host.url, target)
        assert len(host.ranges) == 1
    assert part_of(target).read_bytes() == CONTENT[:1000]


def test_a_page_in_place_of_the_file_is_delivered_as_it_is(target: Path) -> None:
    page = b"<html>Please sign in.</html>"  # `cifar10` checks the content
    with LocalHost(page, Answer(headers={"Content-Type": "text/html"})) as host:
        fetch(host.url, target)
    assert_whole(target, page)


@pytest.mark.parametrize("length", [300_000, 300_001, 1_000_000])
def test_a_part_as_long_as_the_file_or_longer_is_thrown_away(target: Path, length: int) -> None:
    leave_part(target, bytes(length))
    with LocalHost(CONTENT) as host:
        assert fetch(host.url, target) is False
        assert host.ranges == [f"bytes={length}-", None]
    assert_whole(target)


def test_a_host_that_knows_no_range_at_all_ends_the_try(target: Path) -> None:
    with LocalHost(CONTENT, Answer(status=416)) as host:
        assert "the host answers 416 " in fails(host.url, target)
        assert len(host.ranges) == 1


@pytest.mark.parametrize("length", ["", "many", "-5"])
def test_a_host_need_not_say_how_long_the_file_is(target: Path, length: str) -> None:
    with LocalHost(CONTENT, Answer(headers={"Content-Length": length})) as host:
        fetch(host.url, target)
    assert_whole(target)


def test_a_file_that_the_host_compresses_arrives_as_it_was(target: Path) -> None:
    compressed = Answer(headers={"Content-Encoding": "gzip"})
    with LocalHost(gzip.compress(CONTENT), compressed) as host:
        fetch(host.url, target)
    assert_whole(target)
    target.unlink()
    leave_part(target, CONTENT[:1000])  # these are not the first bytes that are sent
    with LocalHost(gzip.compress(CONTENT), compressed) as host:
        assert fetch(host.url, target) is False
        assert host.ranges == ["bytes=1000-", None]
    assert_whole(target)


def test_a_refused_connection_is_reported_in_few_words(target: Path) -> None:
    with socket.socket() as taken:  # bound but not listening, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        text = fails(f"http://127.0.0.1:{taken.getsockname()[1]}/a/rather/long/path/{'x' * 100}.tar.gz", target)
    assert "refused" in text and len(text) < 120


def test_a_proxy_that_does_not_answer_is_reported_in_few_words(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with LocalHost(b"", Answer(status=500)) as proxy:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url.rpartition("/")[0])
        text = fails("https://example.com/file.tar", target)
    assert text.startswith("Tunnel connection failed: 501")


def test_a_host_that_does_not_exist(target: Path) -> None:
    assert fails("http://nowhere.invalid/file.tar", target) == "the host's name cannot be resolved (no network?)"


@pytest.mark.parametrize("url", ["http://a..b/x", "http://127.0.0.1:99999/x", "http:///x", "http://[::1/x"])
def test_an_invalid_address_is_refused(target: Path, url: str) -> None:
    assert fails(url, target)


def test_a_disk_that_cannot_be_written_to_is_named(target: Path) -> None:
    part_of(target).mkdir(parents=True)
    with LocalHost(CONTENT, Answer(ranges=False)) as host:
        assert fails(host.url, target).startswith(f"cannot write {part_of(target)}: ")
    part_of(target).rmdir()
    target.parent.rmdir()
    target.parent.write_text("a file where the folder should be")
    with pytest.raises(CifarlabError, match="cannot make the folder"):
        fetch("http://127.0.0.1/", target)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/b.tar.gz", "b.tar.gz"),
        ("https://host/a/b.tar?token=x/y#z", "b.tar"),
        ("https://host:80/", "archive"),
    ],
)
def test_the_file_name_is_the_end_of_the_address(url: str, name: str) -> None:
    assert download.file_name(url) == name


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a fake npm, found before the real one; each test writes its content."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def does(npm: Path, *lines: str) -> None:
    npm.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    npm.chmod(0o755)


def npm_fails() -> str:
    with pytest.raises(CifarlabError) as raised:
        download.npm_url("a-package@1.0.0")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_npm_gives_the_address_of_a_package(npm: Path) -> None:
    does(npm, f'echo "$@" > {npm.parent}/asked', "echo npm warn of something >&2", "echo '\"https://host/a.tgz\"'")
    assert download.npm_url("a-package@1.0.0") == "https://host/a.tgz"
    assert (npm.parent / "asked").read_text() == "view a-package@1.0.0 dist.tarball --json --fetch-retries=0\n"


def test_npm_fails_with_its_first_error(npm: Path) -> None:
    does(npm, "echo npm warn Unknown config >&2", "echo npm error code E404 >&2", "echo npm error gone >&2", "exit 1")
    assert npm_fails() == "npm fails: npm error code E404"
    does(npm, "exit 3")
    assert npm_fails() == "npm fails: no answer"


def test_npm_answers_nonsense(npm: Path) -> None:
    for answer in ("", "not JSON", "[1]", "{}", "null"):
        does(npm, f"echo '{answer}'")
        assert npm_fails().startswith("npm fails: ")
    does(npm, r"printf '\377'")
    assert npm_fails().startswith("npm fails: ")


def test_npm_never_answers(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "REGISTRY_SECONDS", 0.3)
    for line in ("exec sleep 20", "sleep 5", "echo npm error code ENOTFOUND >&2; exit 1"):
        does(npm, line)
        started = time.monotonic()
        with pytest.raises(download.Unreachable, match=r"npm gives no answer within 0 s|npm error code ENOTFOUND"):
            download.npm_url("a-package@1.0.0")
        assert time.monotonic() - started < 4


def test_apt_get_gives_the_address_of_a_package(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = npm.with_name("apt-get")
    does(apt, f'echo "$@" > {npm.parent}/asked', "echo \"'http://host/a_1.0_all.deb' a_1.0_all.deb 9 SHA256:12\"")
    assert download.address("debian:a") == "http://host/a_1.0_all.deb"
    assert (npm.parent / "asked").read_text() == "download --print-uris a\n"
    does(apt, "echo E: Unable to locate package a >&2", "exit 100")
    with pytest.raises(CifarlabError, match="apt-get fails: E: Unable to locate package a"):
        download.debian_url("a")
    does(apt, "echo nothing")
    with pytest.raises(CifarlabError, match="apt-get fails: 'nothing' has no address"):
        download.debian_url("a")


def test_npm_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert npm_fails() == "npm is not installed"


def test_an_endless_download_ends_and_leaves_nothing(target: Path) -> None:
    with LocalHost(CONTENT) as host:
        assert "far more than the file has" in fails(host.url, target, len(CONTENT) // 2)
    assert list(target.parent.iterdir()) == []
