"""Fetching one file over the network so that a cut, a stall or a slow host costs little."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from cifarlab import files
from cifarlab.errors import CifarlabError, one_line, shorten
from cifarlab.progress import Task, task

CONNECT_SECONDS = 10.0
STALL_SECONDS = 20.0  # without one byte
SLOW_RATE = 100_000  # bytes per second; slower than this over SLOW_SECONDS, and another source is tried first
SLOW_SECONDS = 30.0
TRIES = 4  # at one source; each goes on where the last one was cut
CHUNK = 16 * 1024  # bytes; slowness is noticed, and what came before a cut is kept, by whole chunks
NPM_SECONDS = 60.0


def fetch(url: str, target: Path, *, patient: bool, quiet: bool = False) -> bool:
    """Downloads `url` to `target`, going on with what an earlier try left in `target.part`.

    Args:
        url: http or https.
        target: where the file appears once it is whole.
        patient: stay with a slow host; otherwise less than `SLOW_RATE` gives it up.
        quiet: show no progress.

    Returns:
        True if part of the file came from an earlier try.

    Raises:
        CifarlabError: it could not be had; what came is kept for the next try.
    """
    files.make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    old = _size(part)
    reason = ""
    for _ in range(TRIES):
        before = _size(part)
        try:
            old = min(old, _transfer(url, part, patient, quiet))
            part.replace(target)
            return old > 0
        except requests.HTTPError as error:
            raise CifarlabError(f"the host answers {one_line(error)}") from error
        except requests.RequestException as error:
            reason = _reason(error)
            if _size(part) <= before:  # nothing came: trying again would not help
                break
        except OSError as error:
            raise CifarlabError(f"cannot write {part}: {error.strerror or error}") from error
        except ValueError as error:  # some addresses that are none reach the libraries below requests
            raise CifarlabError(f"{url} cannot be fetched ({one_line(error)})") from error
    raise CifarlabError(reason)


def npm_url(package: str) -> str:
    """The address of an npm package's archive at the registry that npm is set up for.

    Raises:
        CifarlabError: npm is not installed or does not answer.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise CifarlabError("npm is not installed")
    command = [npm, "view", package, "dist.tarball", "--json"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=NPM_SECONDS, check=True)
        address = json.loads(answer.stdout)
        if not isinstance(address, str):
            raise ValueError(f"{address!r} is no address")
        return address
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line and not line.lower().startswith("npm warn")]
        raise CifarlabError(f"npm fails: {lines[0] if lines else 'no answer'}") from error
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        raise CifarlabError(f"npm fails: {one_line(error)}") from error


def file_name(url: str) -> str:
    """The last part of a URL's path, as a file name.

    Raises:
        CifarlabError: it is not a URL.
    """
    try:
        return Path(urlsplit(url).path).name or "archive"
    except ValueError as error:
        raise CifarlabError(f"not a URL ({one_line(error)})") from error


def _transfer(url: str, part: Path, patient: bool, quiet: bool) -> int:
    """Completes `part`; returns how many of its bytes were there before."""
    have = _size(part)
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
        encoded = "Content-Encoding" in response.headers  # unasked; then sizes and ranges are not the file's
        if have and (response.status_code == 416 or (response.status_code == 206 and encoded)):
            part.unlink()  # it is as long as the file or longer, or cannot be gone on with: start over
            return _transfer(url, part, patient, quiet)
        response.raise_for_status()
        if response.status_code != 206:  # the host sends all of it
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() and not encoded else None
        host = urlsplit(url).hostname
        with part.open("ab" if have else "wb") as file, task(f"{host}", total, quiet=quiet, already_done=have) as shown:
            _copy(response, file.write, patient, shown)
    if total is not None and _size(part) < total:
        raise requests.ConnectionError(f"cut after {_size(part):,} of {total:,} bytes")
    return have


def _copy(response: requests.Response, write: Callable[[bytes], object], patient: bool, shown: Task) -> None:
    window_began, window_bytes = time.monotonic(), 0
    began, received = window_began, 0
    for chunk in response.iter_content(CHUNK):
        write(chunk)
        received += len(chunk)
        window_bytes += len(chunk)
        now = time.monotonic()
        shown.advance(len(chunk), partial("{:.1f} MB/s".format, received / 1e6 / max(now - began, 1e-3)))
        if now - window_began >= SLOW_SECONDS:
            if not patient and window_bytes / (now - window_began) < SLOW_RATE:
                raise TooSlow(f"only {window_bytes / (now - window_began) / 1000:.0f} kB/s")
            window_began, window_bytes = now, 0


class TooSlow(CifarlabError):
    """The host delivers, but so slowly that another source is worth a try."""


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:.0f} s"
    cause = error.args[0] if error.args else error
    text = one_line(getattr(cause, "reason", cause))  # requests' own text begins with the whole address
    text = text.partition("): ")[2] or text
    if isinstance(error, requests.Timeout) or "Read timed out" in text:
        return f"stalled for {STALL_SECONDS:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if "resolve" in text or "Name or service not known" in text:
        return "the host's name is not known here (no network?)"
    return shorten(text, 120)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
