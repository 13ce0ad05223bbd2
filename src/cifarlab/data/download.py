"""Download one file so that a cut connection, a stalled host or a slow host costs little."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from cifarlab import files
from cifarlab.errors import CifarlabError, one_line, shorten
from cifarlab.progress import task

CONNECT_SECONDS = 10.0
STALL_SECONDS = 20.0  # without any byte
TRIES = 4  # per source; each one continues where the last one was cut
CHUNK = 16 * 1024  # bytes; speed is measured, and data before a cut is kept, in whole chunks
REGISTRY_SECONDS = 15.0  # for an answer of npm or apt-get


def fetch(
    url: str, target: Path, *, most_bytes: int, watch: Callable[[int], None] = lambda count: None, quiet: bool = False
) -> bool:
    """Download `url` to `target`, and return True if a part of the file came from an earlier download.

    If the download fails, the bytes received are kept in `target.part` for the next one. `watch` gets the length of
    each chunk that arrives, and may raise an error to end the download. More than `most_bytes` are an error.
    """
    files.make_folder(target.parent)
    part = part_of(target)
    from_earlier = _size(part)  # bytes
    reason = ""
    for _ in range(TRIES):
        before = _size(part)
        try:
            from_earlier = min(from_earlier, _transfer(url, part, most_bytes, watch, quiet))
            part.replace(target)
            return from_earlier > 0
        except requests.HTTPError as error:
            raise CifarlabError(f"the host answers {one_line(error)}") from error
        except requests.RequestException as error:
            reason = _reason(error)
            if _size(part) <= before:  # nothing was received: another try would not help
                break
        except OSError as error:
            raise CifarlabError(f"cannot write {part}: {error.strerror}" if error.errno else str(error)) from error
        except ValueError as error:  # some invalid addresses reach the libraries below requests
            raise CifarlabError(f"{url} cannot be fetched ({one_line(error)})") from error
    raise (CifarlabError if _size(part) else Unreachable)(reason)


def address(url: str) -> str:
    """Return the address for `npm:PACKAGE` or `debian:PACKAGE` in the registry that this machine uses; else `url`."""
    scheme, _, package = url.partition(":")
    return {"npm": npm_url, "debian": debian_url}[scheme](package) if scheme in ("npm", "debian") else url


def npm_url(package: str) -> str:
    """Return the address of an npm package's archive, in the registry that npm is configured for."""
    answer = _ask("npm", ["view", package, "dist.tarball", "--json", "--fetch-retries=0"])
    try:
        if not isinstance(found := json.loads(answer), str):
            raise ValueError(f"{found!r} is not an address")
        return found
    except ValueError as error:
        raise CifarlabError(f"npm fails: {one_line(error)}") from error


def debian_url(package: str) -> str:
    """Return the address of a Debian package, in the archive that apt-get is configured for."""
    answer = _ask("apt-get", ["download", "--print-uris", package])  # a line: 'ADDRESS' FILE BYTES CHECKSUM
    if not (found := re.match(r"'(https?://[^']+)' ", answer)):
        raise CifarlabError(f"apt-get fails: {shorten(one_line(answer), 60)!r} has no address")
    return found[1]


def _ask(program: str, arguments: list[str]) -> str:
    """Return what a program of a package registry prints."""
    if (path := shutil.which(program)) is None:
        raise Unreachable(f"{program} is not installed")
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:  # a hanging npm may keep pipes open
        try:
            ended = subprocess.run([path, *arguments], stdout=answer, stderr=errors, timeout=REGISTRY_SECONDS)
            printed, text = [(file.seek(0), file.read().decode(errors="replace"))[1] for file in (answer, errors)]
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{program} gives no answer within {REGISTRY_SECONDS:.0f} s") from error
        except OSError as error:
            raise CifarlabError(f"{program} fails: {one_line(error)}") from error
    if ended.returncode:
        lines = [line for line in text.splitlines() if line and not line.lower().startswith(("npm warn", "w:"))]
        kind = Unreachable if re.search("ENOTFOUND|EAI_|ECONN|ENET|TIMEDOUT", text) else CifarlabError
        raise kind(f"{program} fails: {lines[0] if lines else 'no answer'}")
    return printed


def part_of(target: Path) -> Path:
    """Return the file that keeps the bytes of `target` received so far."""
    return target.with_name(f"{target.name}.part")


def file_name(url: str) -> str:
    """Return the file name at the end of a URL's path, or `archive` if the path ends in a slash."""
    return url.partition("?")[0].rpartition("/")[2] or "archive"


def _transfer(url: str, part: Path, most_bytes: int, watch: Callable[[int], None], quiet: bool) -> int:
    """Complete the file `part`, and return how many of its bytes an earlier try received."""
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
        encoded = "Content-Encoding" in response.headers  # although not asked for; sizes are then not the file's
        if start and (response.status_code == 416 or (response.status_code == 206 and encoded)):
            part.unlink()  # the part is as long as the file or longer, or cannot be continued: start over
            return _transfer(url, part, most_bytes, watch, quiet)
        response.raise_for_status()
        if response.status_code != 206:  # the host sends the whole file
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() and not encoded else None
        progress = task(str(urlsplit(url).hostname), total, quiet=quiet, already_done=start)
        with part.open("ab" if start else "wb") as file, progress as shown:
            began, received = time.monotonic(), 0
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                received += len(chunk)
                if start + received > most_bytes:
                    break
                seconds = max(time.monotonic() - began, 1e-3)
                shown.advance(len(chunk), partial("{:.1f} MB/s".format, received / 1e6 / seconds))
                watch(len(chunk))
    if _size(part) > most_bytes:
        part.unlink()
        raise CifarlabError(f"the host sends more than {most_bytes:,} bytes, far more than the file has")
    if total is not None and _size(part) < total:
        raise requests.ConnectionError(f"cut after {_size(part):,} of {total:,} bytes")
    return start


class Unreachable(CifarlabError):
    """Raised when nothing answers, as without a network."""


def _reason(error: requests.RequestException) -> str:
    """Return the cause of a failed download in a few words."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:.0f} s"
    cause = error.args[0] if error.args else error
    for name in ("reason", "original_error"):  # requests' own text begins with the whole address
        cause = getattr(cause, name, cause)
    text = one_line(cause)
    text = text.partition("): ")[2] or text
    if isinstance(error, requests.Timeout) or "Read timed out" in text:
        return f"stalled for {STALL_SECONDS:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if "resolve" in text or "Name or service not known" in text:
        return "the host's name cannot be resolved (no network?)"
    return shorten(text, 120)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
